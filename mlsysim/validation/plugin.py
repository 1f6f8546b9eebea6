"""The pytest plugin. It imports nothing heavy: every pytest run of every user who has mlsysim installed loads it.

``pytest anchors/`` runs the repository's anchors, ``pytest my_cluster.anchor.toml`` or ``pytest --anchors=PATH`` a user's own.
"""

from __future__ import annotations

import importlib.util
import json
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

import pytest

from mlsysim.validation.anchors import record_keys as keys

if TYPE_CHECKING:
    from mlsysim.core.errors import DataError
    from mlsysim.validation.report.findings import Findings

_USER_FILES = pytest.StashKey[frozenset[Path]]()
# What is wrong with malformed files, by the message, and the first module that asked for one.
_MALFORMED = pytest.StashKey[dict[str, tuple[pytest.Collector, "DataError"]]]()

# Under which names tests leave what reports are made from.
_RECORDED = {
    "rows": keys.ROW,
    "kernels": keys.KERNELS,
    "targets": keys.TARGET,
    "moves": keys.MOVE,
    "searches": keys.SEARCH,
    "solves": keys.SOLVE,
    "left_out": keys.LEFT_OUT,
    "serving_left_out": keys.SERVING_LEFT_OUT,
    "recalled": keys.RECALLED,
}
# Whether a report could not be written at the end.
_LOST = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The plugin's options, in one group."""
    group = parser.getgroup("mlsysim anchors")
    options = {
        "--anchors": (
            "PATH",
            f"also check this *{keys.USER_SUFFIX} file, or all in this directory, or this table of runs (*{keys.TABLE_SUFFIX})",
        ),
        "--anchor-report": (
            "FILE",
            f"write the anchors' report to FILE, in the format of its ending: {' '.join(keys.REPORT_FORMATS)}",
        ),
        "--accuracy-report": (
            "FILE",
            "write how far off the predictions are, beside a naive baseline and the aims, to FILE.md",
        ),
        "--estimator": ("NAME", "predict the same cases with this estimator too: module:object, or one that is registered"),
    }
    for name, (metavar, meaning) in options.items():
        group.addoption(name, action="append", default=[], metavar=metavar, help=f"{meaning} (repeatable)")
    group.addoption(
        "--anchors-summary",
        choices=keys.SUMMARIES,
        default=keys.SUMMARIES[0],
        help="what is printed of all anchors: a table of families and a verdict, or every table (default: %(default)s)",
    )
    parser.addini("mlsysim_solve_budget_ms", "limit of a solve where its solver has none of its own, in ms", default="3.0")
    parser.addini("mlsysim_search_budget_ms", "time of a search beside its plans (lowering, ranking), in ms", default="60")


def pytest_configure(config: pytest.Config) -> None:
    """Adds the files of ``--anchors`` to what is collected; refuses what cannot be written."""
    files = frozenset(path for given in config.getoption("--anchors") for path in _user_files(given))
    config.stash[_USER_FILES], config.stash[_MALFORMED] = files, {}
    for name in config.getoption("--estimator"):
        _ask(name)
    named = {_resolved(argument) for argument in config.args}
    config.args += [str(path) for path in sorted(files) if path not in named]
    for option, endings in (("--anchor-report", keys.REPORT_FORMATS), ("--accuracy-report", (".md",))):
        for name in config.getoption(option):
            reason = _unwritable(Path(name), endings)
            if reason:
                raise pytest.UsageError(f"{option}={name}: {reason}")


# What formats need that the package does not: a library, and what to say without it.
_NEEDED = {
    ".png": ("matplotlib", "a picture needs matplotlib"),
    ".html": ("vl_convert", "a page with plots needs vl-convert-python"),
}


def _ask(name: str) -> None:
    """Adds an estimator to those of this run; refuses what is none."""
    from mlsysim.core.errors import InputError
    from mlsysim.validation.anchors import estimators

    try:
        estimators.ASKED[name] = estimators.estimator(name)
    except InputError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_unconfigure(config: pytest.Config) -> None:
    """Forgets the run's estimators: another run of the same process may ask for others."""
    asked = config.getoption("--estimator")
    if asked:
        from mlsysim.validation.anchors import estimators

        for name in asked:
            estimators.ASKED.pop(name, None)


def _unwritable(path: Path, endings: tuple[str, ...]) -> str:
    """Why a report cannot be written to ``path``, which is tried before anything runs; "" if it can."""
    if path.suffix not in endings:
        return f"expected a file ending in {', '.join(endings)}"
    library, needed = _NEEDED.get(path.suffix, ("", ""))
    if library and importlib.util.find_spec(library) is None:
        return f"{needed}: pip install 'mlsysim-anchors[plot]'"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.exists()
        path.open("a").close()
        if not there:
            path.unlink(missing_ok=True)  # another worker may have been first
    except OSError as error:
        return f"cannot be written: {error.strerror}"
    return ""


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """A ``*.anchor.toml`` that was asked for by name or by ``--anchors`` is a module of tests; so is a table of runs."""
    if file_path.suffix == keys.TABLE_SUFFIX and file_path.resolve() in parent.config.stash[_USER_FILES]:
        from mlsysim.validation.suite.run_items import RunsFile

        return RunsFile.from_parent(parent, path=file_path)
    if not file_path.name.endswith(keys.USER_SUFFIX):
        return None
    if parent.session.isinitpath(file_path) or file_path.resolve() in parent.config.stash[_USER_FILES]:
        return AnchorModule.from_parent(parent, path=file_path)
    return None


class AnchorModule(pytest.Module):
    """The packaged tests, run on one user's file: real test functions, so that fixtures, ``-k``, ``::`` and xdist work."""

    def _getobj(self) -> Any:
        return importlib.import_module("mlsysim.validation.suite.anchor_tests")

    def collect(self) -> Iterator[pytest.Item | pytest.Collector]:
        """The tests that apply: to some case at all; snapshots only where some are kept, or are asked for."""
        from mlsysim.validation.anchors.anchor import snapshot_path

        kept = snapshot_path(self.path).exists() or getattr(self.config.option, "update_snapshots", False)
        for item in super().collect():
            name = getattr(item, "originalname", "")
            if (kept or name != "test_snapshot") and not _is_empty(item):
                yield item


def _is_empty(item: pytest.Item | pytest.Collector) -> bool:
    """True if the test is for no case of the file: pytest makes it a skip of an empty parameter set."""
    return any("empty parameter set" in str(mark.kwargs.get("reason")) for mark in item.iter_markers("skip"))


_PARAMETRISED = frozenset(
    ("anchor", "cases", "family", "timed", "kernel_table", "kernel_gate", "target", "left_out", "layout", "timed_search")
)


def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> list[pytest.Item] | None:
    """A packaged test that is for each case becomes one light item a case of its module's ``ANCHORS``."""
    if not (isinstance(obj, FunctionType) and obj.__dict__.get("each_case") and isinstance(collector, pytest.Module)):
        return None
    if not collector.funcnamefilter(name):
        return None
    place = collector.path if isinstance(collector, AnchorModule) else getattr(collector.obj, "ANCHORS", None)
    if not isinstance(place, Path):
        return None
    collector.keywords[keys.OF_ANCHORS] = True
    from mlsysim.validation.suite.case_items import case_items

    items, malformed = case_items(collector, name, obj, place)
    _keep(collector, malformed)
    return list(items)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes ``anchor`` runs once a case, with ``cases`` once a source, under its module's ``ANCHORS``."""
    wanted = _PARAMETRISED.intersection(metafunc.fixturenames)
    user_module = metafunc.definition.getparent(AnchorModule)
    place = user_module.path if user_module is not None else getattr(metafunc.module, "ANCHORS", None)
    if not wanted or not isinstance(place, Path):
        return
    from mlsysim.validation.suite import parametrise

    module = metafunc.definition.getparent(pytest.Module)
    assert module is not None
    module.keywords[keys.OF_ANCHORS] = True
    for name in sorted(wanted):
        _keep(module, parametrise.by_name(metafunc, name, place))


def _keep(module: pytest.Collector | None, malformed: list[DataError]) -> None:
    """Keeps what is wrong with files until all tests are collected: many tests of several modules ask for the same files."""
    assert module is not None
    for error in malformed:
        module.config.stash[_MALFORMED].setdefault(str(error), (module, error))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Adds a failing test for each malformed file, whichever tests are selected: the file's own are missing among them."""
    for module, error in config.stash[_MALFORMED].values():
        from mlsysim.validation.suite.case_items import malformed_item

        items.append(malformed_item(module, error))


@pytest.fixture(scope="module")
def anchor_root(request: pytest.FixtureRequest) -> Path:
    """The folder whose anchors the requesting module tests: its ``ANCHORS``."""
    root: Path = request.module.ANCHORS
    return root


@pytest.fixture(scope="module")
def anchor_rows(anchor_root: Path) -> tuple[dict[str, Any], ...]:
    """What a report says of every case under ``anchor_root``."""
    from mlsysim.validation.suite import evidence

    return evidence.rows(anchor_root)


@pytest.hookimpl(wrapper=True)
def pytest_report_teststatus(report: Any, config: pytest.Config) -> Generator[None, Any, Any]:
    """Thousands of cases that pass, or miss as is known, print nothing; what fails does, and with -v all do."""
    status = yield
    of_anchors = keys.OF_ANCHORS in getattr(report, "keywords", ())
    if of_anchors and status[0] in ("passed", "xfailed") and config.get_verbosity() <= 0:
        return status[0], "", ""
    return status


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> Iterator[None]:
    """The report, if anchors ran, below all others; on the controller when pytest-xdist spreads them."""
    yield
    left = _left_by_tests(terminalreporter)
    runs = _records(left[keys.RUN])
    if runs:
        from mlsysim.validation.report import summary

        terminalreporter.section("runs")
        for line in summary.runs(runs):
            terminalreporter.write_line(line)
    recorded = {name: _records(left[key]) for name, key in _RECORDED.items()}
    rows = recorded["rows"]
    if not rows and not recorded["kernels"]:
        return
    from mlsysim.validation.report import report, summary
    from mlsysim.validation.report.findings import Findings

    failed, deselected = (len(terminalreporter.stats.get(name, ())) for name in ("failed", "deselected"))
    verdict = summary.last_line(rows, failed, deselected)
    findings = Findings(verdict=verdict, **recorded)
    terminalreporter.section("mlsysim anchors")
    full = config.getoption("--anchors-summary") == keys.SUMMARIES[-1]
    for line in report.lines(findings) if full else summary.lines(findings):
        terminalreporter.write_line(line)
    for name in config.getoption("--anchor-report"):
        from mlsysim.validation.report import export

        _write(terminalreporter, name, export.write, findings)
    for name in config.getoption("--accuracy-report"):
        from mlsysim.validation.report import accuracy

        _write(terminalreporter, name, accuracy.write, findings)
    terminalreporter.write_line("")
    terminalreporter.write_line(verdict, bold=True, red=bool(failed), green=not failed)


def _write(terminalreporter: Any, name: str, write: Callable[[Path, Findings], None], findings: Findings) -> None:
    """Writes one report; one that cannot be written takes no other with it, but the run has failed."""
    try:
        write(Path(name), findings)
    except Exception as error:
        terminalreporter.write_line(f"not written: {name}: {error}", red=True)
        terminalreporter.config.stash[_LOST] = True
    else:
        terminalreporter.write_line(f"written: {name}")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """A run whose report was lost has failed."""
    yield
    if session.config.stash.get(_LOST, False) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _left_by_tests(terminalreporter: Any) -> dict[str, list[Any]]:
    """What tests of any outcome have left, by name."""
    left: dict[str, list[Any]] = defaultdict(list)
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, text in getattr(report, "user_properties", ()):
                left[name].append(text)
    return left


def _records(texts: Sequence[str]) -> list[dict[str, Any]]:
    """The records that were left under one name, one an anchor; read at once, for there are thousands."""
    records = {(record["file"], record["id"]): record for record in json.loads(f"[{','.join(texts)}]")}
    return [records[key] for key in sorted(records)]


def _user_files(option: str) -> list[Path]:
    """The anchor files of one ``--anchors``."""
    path = Path(option).resolve()
    if path.is_dir():
        files = sorted(path.rglob(f"*{keys.USER_SUFFIX}"))
        if not files:
            raise pytest.UsageError(f"--anchors={option}: no *{keys.USER_SUFFIX} in this directory")
        return files
    if not path.is_file():
        raise pytest.UsageError(f"--anchors={option}: no such file or directory")
    if not path.name.endswith((keys.USER_SUFFIX, keys.TABLE_SUFFIX)):
        endings = f"{keys.USER_SUFFIX} or {keys.TABLE_SUFFIX}"
        raise pytest.UsageError(f"--anchors={option}: expected a directory or a file ending in {endings}")
    return [path]


def _resolved(argument: str) -> Path:
    return Path(argument.partition("::")[0]).resolve()
