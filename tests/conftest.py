"""Fixtures that several test modules share."""

from __future__ import annotations

import contextlib
import csv
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from repository import KERNELS

from mlsysim.fitting import search
from mlsysim.fitting.bounded import Fit
from mlsysim.fitting.own import fit as own_fit
from mlsysim.hardware.registry import Hardware
from mlsysim.solvers.serving.capacity import CapacityPlanner
from mlsysim.systems.types import Fleet, NetworkFabric, Node
from mlsysim.tables.predict import predict_table

# What older versions of pytest say of a plugin that the outer run has imported already.
_IMPORTED = "-W ignore::pytest.PytestAssertRewriteWarning"


def _is_there(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


class _Skipped(pytest.Module):
    def collect(self):
        pytest.skip("its properties need hypothesis: pip install hypothesis", allow_module_level=True)


def pytest_sessionstart():
    """Properties have no deadline: a shared machine stands still now and then, and the solvers' times are judged elsewhere."""
    with contextlib.suppress(ImportError):
        from hypothesis import settings

        settings.register_profile("untimed", deadline=None)
        settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True)
def pytest_collect_file():
    """No tests are looked through for doctests."""
    collectors = yield
    return [one for one in collectors if type(one).__name__ != "DoctestModule"]


def pytest_pycollect_makemodule(module_path, parent):
    """A module that imports hypothesis is skipped where there is none: an error would stop all others."""
    if not _is_there("hypothesis") and "\nfrom hypothesis import" in module_path.read_text(encoding="utf-8"):
        return _Skipped.from_parent(parent, path=module_path)
    return None


@pytest.fixture
def strict():
    """Warnings of an inner run are errors, but for the one that older versions of pytest give for an imported plugin."""
    return ("-W", "error", *_IMPORTED.split())


@pytest.fixture
def make_fleet():
    """Builds a fleet of H100 nodes; keyword arguments replace the parts."""

    def make(count=4, accelerator=None, per_node=8, intra="900 GB/s", inter="50 GB/s", **fabric):
        node = Node(
            name="node",
            accelerator=accelerator or Hardware.Cloud.H100,
            accelerators_per_node=per_node,
            intra_node_bw=intra,
        )
        return Fleet(name="fleet", node=node, count=count, fabric=NetworkFabric(name="net", bandwidth=inter, **fabric))

    return make


@pytest.fixture(scope="session")
def change_rows():
    """Changes the rows of one role in a table: each is given to a function that returns its cells anew."""

    def change(path, role, changed):
        table = Path(path)
        rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
        rows = [changed(row) if row["role"] == role else row for row in rows]
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)

    return change


@pytest.fixture(scope="session")
def other_validation(tmp_path_factory, change_rows):
    """Copies the measured kernel tables of a kind into a tree of their own; their validation rows all say another time."""

    def copied(kind):
        root = tmp_path_factory.mktemp("anchors")
        folder = root / "kernels"
        folder.mkdir()
        for path in KERNELS.glob(f"{kind}*"):
            copy = Path(shutil.copy(path, folder))
            if copy.suffix == ".csv":
                change_rows(copy, "validation", lambda row: row | {"measured_s": "1.0"})
        return root

    return copied


@pytest.fixture(scope="session")
def _answers():
    return {}


@pytest.fixture(scope="module")
def asked_once(_answers):
    """Each fleet for a load is searched, and each table of runs calibrated to, once: commands, pages, scripts ask the same."""

    def kept(solve, asker):
        @functools.wraps(solve)
        def once(*asked, **options):
            question = solve.__qualname__, repr(asked[asker:]), repr(sorted(options.items()))
            if question not in _answers:
                _answers[question] = solve(*asked, **options)
            return _answers[question]

        return once

    with pytest.MonkeyPatch.context() as patch:
        for home, name, asker in ((CapacityPlanner, "solve", 1), (own_fit, "calibrated", 0)):
            patch.setattr(home, name, kept(getattr(home, name), asker))
        yield


@pytest.fixture
def refusal():
    """Why a row of a table has no prediction."""

    def reason(row):
        answer = predict_table([row])[0]
        assert answer["predicted"] == ""
        return answer["reason"]

    return reason


@pytest.fixture
def quick_fit(monkeypatch):
    """A fit of one step, whose every value hangs on every figure that it is given: a real one takes minutes."""

    def fit(predict, measured, coefficients, weights, *_):
        start = {name: coefficient.start for name, coefficient in coefficients.items()}
        off = float(np.mean(weights * np.log(predict(start) / measured)))
        values = {name: value * (1 + 0.1 * np.tanh(off)) for name, value in start.items()}
        return Fit(values, (), abs(off))

    monkeypatch.setattr(search, "fit", fit)


@pytest.fixture(scope="session")
def with_plugins():
    """What is installed and brings plugins: each inner run would read of all that is installed, four times, what it brings."""
    installed = importlib.metadata.distributions()
    return [one for one in installed if any(entry.group == "pytest11" for entry in one.entry_points)]


@pytest.fixture
def few_plugins(pytester, monkeypatch, with_plugins):
    """An inner run loads the plugins that it needs: to look through the files of all that are installed takes longer.

    (pytester itself clears the variables first.)
    """
    needed = ("mlsysim.validation.plugin", "syrupy", "xdist.plugin")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: with_plugins)
    installed = [name for name in needed if importlib.util.find_spec(name.partition(".")[0])]
    monkeypatch.setenv("PYTEST_ADDOPTS", " ".join((_IMPORTED, *(f"-p {name}" for name in installed))))


@pytest.fixture
def timing(few_plugins, monkeypatch):
    """An inner run that times: pytest-benchmark, which asks git three times as it starts, is loaded by no other."""
    if importlib.util.find_spec("pytest_benchmark"):
        monkeypatch.setenv("PYTEST_ADDOPTS", f"{os.environ['PYTEST_ADDOPTS']} -p pytest_benchmark.plugin")


@pytest.fixture(scope="session")
def imported_once():
    """What an inner run imports first, pytester forgets again: the next run would have two copies of each class."""
    for name in (
        "anchors.snapshots",
        "kernels.checks",
        "report.export",
        "report.summary",
        "suite.anchor_tests",
        "suite.case_items",
        "suite.kernel_tests",
    ):
        importlib.import_module(f"mlsysim.validation.{name}")
    importlib.import_module("mlsysim.infra.registry")
    importlib.import_module("mlsysim.fitting.left_out_tests")
    importlib.import_module("mlsysim.validation.suite.suite_tests")
    importlib.import_module("mlsysim.validation.suite.parametrise")
