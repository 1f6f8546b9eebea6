"""The tests' own plugins: pytester runs the anchor plugin in a pytest of its own."""

import gc

pytest_plugins = ["pytester"]


def pytest_collection_finish() -> None:
    """What was collected, ten thousand tests, lives to the end: no full garbage collection need walk it again."""
    gc.collect()
    gc.freeze()
