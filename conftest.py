"""The tests' own plugins: pytester runs the anchor plugin in a pytest of its own."""

import gc
import importlib.util
import linecache
import sys

import pytest

# A tenth of a run's time went into garbage collections, which found next to nothing: anchors and tests live to the end.
gc.set_threshold(100_000, 20, 100)
pytest_plugins = ["pytester"]
# Modules of commands need typer, and plots matplotlib; without it their doctests are left out.
COMMANDS = [f"mlsysim/cli/{name}.py" for name in ("app", "anchor", "calibrate")]
collect_ignore = [] if importlib.util.find_spec("typer") else COMMANDS
if not importlib.util.find_spec("matplotlib"):
    collect_ignore = [*collect_ignore, "mlsysim/plots"]


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was collected, ten thousand tests, lives to the end: no garbage collection need walk it.

    Where no test uses hypothesis, its plugin goes: at the end of a run it would import all of the package to say nothing.
    """
    gc.freeze()
    # hypothesis and the signatures of ours have been read from the sources: each doctest would look whether these have changed.
    linecache.clearcache()
    plugins = session.config.pluginmanager
    if "hypothesis" not in sys.modules and plugins.has_plugin("hypothesispytest"):
        plugins.unregister(name="hypothesispytest")
