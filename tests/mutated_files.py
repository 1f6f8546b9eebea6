"""Data files with one random error each, and what the package makes of them: an answer, or one line that names the file.

``python tests/mutated_files.py --count 3000`` tries that many, of all kinds, and lists those that end in a raw exception, a
figure that is no number, more than five seconds or a message that names no file. Equal seeds give equal files.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import math
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from repository import ANCHOR_TREE, ROOT, TESTS
from wrong_text import changed

import mlsysim
from mlsysim.calibration import evidence
from mlsysim.cli.main import main as command
from mlsysim.core import registry, toml
from mlsysim.core.errors import DataError, InputError, MLSysError
from mlsysim.scenarios.files import scenarios_in
from mlsysim.scenarios.scorecard import scorecard
from mlsysim.tables.predict import predict_table, table_kind
from mlsysim.validation.anchors import layouts, loading, times
from mlsysim.validation.anchors.comparison import compare
from mlsysim.validation.kernels import checks
from mlsysim.validation.report import targets

PACKAGE = ROOT / "mlsysim"
LIMIT_S = 5
ROWS = 5  # of a table, or cases: an error in one of many is found like that in one of a few
SOURCES = sorted(path for path in ANCHOR_TREE.glob("*/*.toml") if path.parent.name != "kernels" and path.name != "family.toml")
REGISTRIES = {"hardware": mlsysim.Hardware, "models": mlsysim.Models, "systems": mlsysim.Systems, "infra": mlsysim.Infra}
METRICS = {"training": "step_time_s", "serving": "itl_ms"}


@dataclass(frozen=True)
class Mutant:
    """One file with an error.

    Attributes:
        kind: which reader is asked, a key of ``KINDS``.
        path: of the file that was changed.
        content: its new content.
        seed: of the further choices.
    """

    kind: str
    path: Path
    content: bytes
    seed: str


def mutant(seed: int, number: int, kinds: tuple[str, ...]) -> Mutant:
    """The file of this number, of one of the kinds."""
    chance = random.Random(f"{seed}-{number}")
    kind = kinds[number % len(kinds)]
    path = chance.choice(KINDS[kind].files)
    text = KINDS[kind].text(path, chance)
    return Mutant(kind, path, changed(text, kind == "table" or path.suffix == ".csv", chance), f"{seed}-{number}")


def _plain(path: Path, chance: random.Random) -> str:
    return path.read_text("utf-8")


def _rows(path: Path, chance: random.Random) -> str:
    """A few rows of a table."""
    header, *rows = path.read_text("utf-8").splitlines(keepends=True)
    return header + "".join(chance.sample(rows, min(ROWS, len(rows))))


def _cases(path: Path, chance: random.Random) -> str:
    """A few cases of an anchor file, or of its table."""
    if path.suffix == ".csv":
        return _rows(path, chance)
    head, *cases = path.read_text("utf-8").split("[[case]]")
    return "[[case]]".join([head, *chance.sample(cases, min(ROWS, len(cases)))])


def _anchors(one: Mutant, folder: Path) -> None:
    """An anchor file and its table, one of them changed: read, and its first cases solved."""
    chance, path = random.Random(one.seed), folder / one.path.name
    path.write_bytes(one.content)
    if path.suffix == ".csv":
        shutil.copy(one.path.with_suffix(".toml"), folder)
    elif one.path.with_suffix(".csv").exists():
        path.with_suffix(".csv").write_text(_rows(one.path.with_suffix(".csv"), chance), "utf-8")
    for anchor in loading.load_all([path.with_suffix(".toml")])[:2]:
        _finite(compare(anchor).as_row())


def _tree(one: Mutant, folder: Path) -> None:
    """A file of the whole tree: gates, aims, limits of time."""
    path = folder / one.path.name
    path.write_bytes(one.content)
    if path.name == loading.GATE_FILE:
        loading.load_gate(folder)
    targets.checks(folder)
    targets.held_out_groups(folder)
    layouts.checks(folder)
    times.times(folder)


def _kernels(one: Mutant, folder: Path) -> None:
    """A table of kernel times, a head or the gates: read and judged."""
    for path in (ANCHOR_TREE / "kernels").iterdir():
        (folder / path.name).symlink_to(path)
    (folder / one.path.name).unlink()
    (folder / one.path.name).write_bytes(one.content)
    found = checks._read.__wrapped__(folder)
    for part in found.parts:
        if part.table.path.name == one.path.name and len(part.rows):
            _finite(part.as_row())
    if found.malformed:
        raise found.malformed[0]


def _run_rows(path: Path) -> list[dict[str, str]]:
    """A table of runs as people publish it, from a source's own."""
    given = tomllib.loads(path.read_text("utf-8")).get("defaults", {}).get("run", {})
    with path.with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        rows = [{key[4:]: cell for key, cell in row.items() if key.startswith("run.") and cell} for row in csv.DictReader(file)]
    columns = dict.fromkeys(key for row in rows for key in row)
    metric = METRICS.get(path.parent.name, "samples_per_s")
    return [{**dict.fromkeys(columns, ""), **given, **row, "metric": metric} for row in rows]


def _run_text(path: Path, chance: random.Random) -> str:
    rows = _run_rows(path)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(chance.sample(rows, min(ROWS, len(rows))))
    return text.getvalue()


def _runs() -> list[Path]:
    """The sources whose rows make a table that ``mlsysim predict`` knows."""
    found = []
    for path in SOURCES:
        if path.with_suffix(".csv").exists() and (rows := _run_rows(path)):
            with contextlib.suppress(MLSysError):
                table_kind(rows[0])
                found.append(path)
    return found


def _predict(one: Mutant, folder: Path) -> None:
    """A table for the command."""
    table, written = folder / f"{one.path.stem}.csv", folder / "out.csv"
    table.write_bytes(one.content)
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        code = command(["predict", str(table), "-o", str(written)])
    line = told.getvalue()
    assert line.count("\n") == 1, f"the command says {line!r}"
    if code:
        assert code == 2, f"exit code {code}"
        raise DataError(line)
    with written.open(encoding="utf-8", newline="") as file, _long_cells():
        for row in csv.DictReader(file):
            assert row["predicted"] or row["reason"], "a row without prediction and reason"
            assert row["predicted"] in ("", "fits", "OOM") or math.isfinite(float(row["predicted"])), row["predicted"]


@contextlib.contextmanager
def _long_cells() -> Iterator[None]:
    """Cells of tables may be a megabyte long for as long as it takes: the limit is that of the whole process."""
    before = csv.field_size_limit(2**20)
    try:
        yield
    finally:
        csv.field_size_limit(before)


@contextlib.contextmanager
def _packaged(one: Mutant, folder: Path) -> Iterator[None]:
    """The package with a changed data file."""
    room, _, *inner = one.path.relative_to(PACKAGE).parts
    for path in PACKAGE.glob("*/data"):
        (folder / path.parent.name).mkdir()
        (folder / path.parent.name / "data").symlink_to(path)
    (folder / room / "data").unlink()
    shutil.copytree(PACKAGE / room / "data", folder / room / "data")
    (folder / room / "data").joinpath(*inner).write_bytes(one.content)
    resources = mock.Mock(files=lambda package: folder / package.partition(".")[2])
    with contextlib.ExitStack() as patched:
        for module in (registry, toml, evidence):
            patched.enter_context(mock.patch.object(module, "resources", resources))
        yield


def _registry(one: Mutant, folder: Path) -> None:
    """A file of a registry: all of its changed entries are built, and some names looked up."""
    room = one.path.parents[1].name
    before = tomllib.loads(one.path.read_text("utf-8"))
    with _packaged(one, folder):
        entries = type(REGISTRIES[room])()
        names = entries.names()
        after = toml.toml_file(folder / room / "data" / one.path.name, one.path.name)
        changed = [name for name in after if after[name] != before.get(name)][:4] if one.path.name != "names.toml" else []
        for name in (*changed, *random.Random(one.seed).sample(names, 3), "NVIDIA H100-SXM-80GB", "no such thing"):
            with contextlib.suppress(registry.UnknownNameError):
                entries.get(name)


def _package(one: Mutant, folder: Path) -> None:
    """Any other data file of the package: rows of several kinds are predicted. In a process of its own: it is read once."""
    chance = random.Random(one.seed)
    with _packaged(one, folder):
        for read in (evidence.measured_runs, evidence.left_out, evidence.publications):
            read()
        for path in chance.sample(KINDS["table"].files, 5):
            rows = _run_rows(path)
            for row in predict_table(chance.sample(rows, min(2, len(rows)))):
                _finite(row)
        mlsysim.systems.usual_node(mlsysim.Hardware.Cloud.L40S)


def _own(one: Mutant, folder: Path) -> None:
    """A user's own stack or engine: runs on it are predicted."""
    path = folder / one.path.name
    path.write_bytes(one.content)
    training, serving = (
        {"accelerator": accelerator, "model": "Llama-3.1-8B", "n_accel": "8", "tp": "8"} for accelerator in ("H100", "A100")
    )
    training |= {"framework": str(path), "seq_len": "4096", "global_batch_seqs": "16", "metric": "step_time_s"}
    serving |= {"engine": str(path), "mode": "static", "input_len": "512", "metric": "ttft_ms", "weight_precision": "fp16"}
    is_stack = "stack" in one.path.name
    for row in predict_table([training] if is_stack else [serving]):
        _finite(row)
        if not row["predicted"]:
            raise DataError(row["reason"])


def _scenario(one: Mutant, folder: Path) -> None:
    """A file of scenarios: each is answered, or what is wrong with one is told with the file."""
    path = folder / one.path.name
    path.write_bytes(one.content)
    try:
        for scenario in scenarios_in(path):
            json.loads(scorecard(scenario, with_changes=False).to_json())
    except InputError as error:
        raise DataError(str(error)) from None


@dataclass(frozen=True)
class Kind:
    """Files that one reader takes, their text before the change, and what asks the reader."""

    files: list[Path]
    text: Callable[[Path, random.Random], str]
    ask: Callable[[Mutant, Path], None]


_DATA = sorted(path for ending in ("toml", "csv") for path in PACKAGE.glob(f"*/data/**/*.{ending}"))
_LISTED = [path for path in _DATA if path.parents[1].name in REGISTRIES and path.name not in ("fleets.toml", "adapters.toml")]
_OTHERS = [path for path in _DATA if path not in _LISTED and path.parents[1].name != "core"]
_TABLES = [path.with_suffix(".csv") for path in SOURCES if path.with_suffix(".csv").exists()]
KINDS = {
    "anchors": Kind([*SOURCES, *_TABLES], _cases, _anchors),
    "kernels": Kind(sorted((ANCHOR_TREE / "kernels").iterdir()), _cases, _kernels),
    "table": Kind(_runs(), _run_text, _predict),
    "registry": Kind(_LISTED, _plain, _registry),
    "tree": Kind([*ANCHOR_TREE.glob("*.toml"), *ANCHOR_TREE.glob("*/family.toml")], _plain, _tree),
    "own": Kind([TESTS / "fitting" / f"own_{kind}.toml" for kind in ("stack", "engine")], _plain, _own),
    "scenario": Kind([ROOT / "examples" / "scenario.toml"], _plain, _scenario),
    "package": Kind(_OTHERS, _plain, _package),
}
# Those whose readers keep nothing of a file that has changed since.
HERE = tuple(kind for kind in KINDS if kind != "package")


def _finite(value: object, place: str = "") -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _finite(inner, f"{place}.{key}")
    assert not isinstance(value, float) or math.isfinite(value), f"{place} = {value}"


class _SlowError(Exception):
    """A file that takes longer than the limit."""


def _ring(*_: object) -> None:
    raise _SlowError(f"more than {LIMIT_S} s")


def fault(one: Mutant) -> str:
    """What is wrong with what the package makes of a file; "" if it answers, or says in one line what is wrong with it."""
    # Processor time, so that other processes do not count; and a while on the wall for what waits.
    for bell, timer, seconds in ((signal.SIGPROF, signal.ITIMER_PROF, LIMIT_S), (signal.SIGALRM, signal.ITIMER_REAL, 120)):
        signal.signal(bell, _ring)
        signal.setitimer(timer, seconds)
    try:
        with tempfile.TemporaryDirectory() as folder:
            KINDS[one.kind].ask(one, Path(folder))
    except DataError as error:
        line = str(error).rstrip("\n")
        return "" if re.search(r"\w\.(toml|csv)\b", line) and "\n" not in line else f"no file is named in {line!r}"
    except MLSysError:
        return "" if one.kind == "package" else "an error that names no file"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    return ""


def _fault_apart(one: Mutant) -> str:
    """``fault`` in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, fault(one).encode()[:4000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        text = told.read()
    _, status = os.waitpid(child, 0)
    return text or (f"ended with {status}" if status else "")


def faults(count: int, seed: int, kinds: tuple[str, ...], report: Callable[[Any], None] = print) -> int:
    """How many of ``count`` files are answered wrongly; each is reported."""
    found = 0
    for number in range(count):
        one = mutant(seed, number, kinds)
        wrong = fault(one) if one.kind in HERE else _fault_apart(one)
        if wrong:
            found += 1
            report(f"{number} {one.kind} {one.path.relative_to(ROOT)}: {wrong}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=["package", *HERE])
    asked = parser.parse_args()
    # What is read apart comes first: until then this process has read no data.
    apart = [kind for kind in asked.kinds if kind not in HERE]
    each = asked.count // len(asked.kinds)
    wrong = faults(each * len(apart), asked.seed, tuple(apart)) if apart else 0
    here = tuple(kind for kind in asked.kinds if kind in HERE)
    wrong += faults(asked.count - each * len(apart), asked.seed, here) if here else 0
    print(f"{asked.count} files, {wrong} answered wrongly")
    sys.exit(wrong > 0)
