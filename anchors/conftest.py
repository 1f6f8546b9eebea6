"""What a run of the anchors prints besides their report: no header, and no second table of times; and how it ends."""

import gc
from pathlib import Path

import pytest

_HERE = str(Path(__file__).parent)
_ALONE = pytest.StashKey[bool]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Quietens what is wider than a page; -v brings all of it back."""
    if config.get_verbosity() <= 0:
        config.option.no_header = True
        config.option.benchmark_quiet = True


def pytest_collection_finish(session: pytest.Session) -> None:
    """Notes whether anchors are all that runs."""
    session.config.stash[_ALONE] = all(str(item.path).startswith(_HERE) for item in session.items)


@pytest.hookimpl(tryfirst=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """What cases leave behind lives to the end: the collections there would walk millions of objects and free none.

    Where other tests ran too, what these have left open is looked for.
    """
    if config.stash.get(_ALONE, False):
        gc.freeze()
