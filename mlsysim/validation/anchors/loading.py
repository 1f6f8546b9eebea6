"""Reading anchor files. Whatever is wrong is a ``DataError`` that names the file and the case."""

from __future__ import annotations

import csv
import functools
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlsysim.core.errors import DataError, MLSysError, UnknownNameError, nearest
from mlsysim.validation.anchors import inputs
from mlsysim.validation.anchors.anchor import Anchor, stem
from mlsysim.validation.anchors.record_keys import USER_SUFFIX
from mlsysim.validation.anchors.schema import INHERITED, Case, Gate, Source

GATE_FILE = "family.toml"
# The folder of kernel measurements: tables, which name no solver and so are no cases (validation/kernels.py judges them).
KERNEL_TABLES = "kernels"


def anchor_files(root: Path) -> list[Path]:
    """The repository's anchor files under ``root``: one folder a family."""
    found = sorted(root.glob("*/*.toml"))
    return [path for path in found if path.name != GATE_FILE and path.parent.name != KERNEL_TABLES]


def load_all(paths: Iterable[Path]) -> list[Anchor]:
    """Every anchor of ``paths``; ids must differ across files, and ``corrects`` must name one of them."""
    anchors: dict[str, Anchor] = {}
    for path in paths:
        for anchor in load(path):
            if anchor.id in anchors:
                raise anchor.error(f"its id {anchor.id!r} is also in {anchors[anchor.id].path}")
            anchors[anchor.id] = anchor
    for anchor in anchors.values():
        if anchor.case.corrects and anchor.case.corrects not in anchors:
            raise anchor.error(UnknownNameError.among("corrects", anchor.case.corrects, anchors))
    return list(anchors.values())


def load(path: Path) -> tuple[Anchor, ...]:
    """The anchors of one file, checked; read once a process unless the file, or its table, changes."""
    place = path.absolute()
    known = _READ.get(place)
    if known is None or any(_state(file) != state for file, state in known[0].items()):
        known = _READ[place] = _read(place.resolve())
    return known[1]


_State = tuple[int, int]
# The anchors of each file, beside what the files that they come from were when they were read.
_READ: dict[Path, tuple[dict[Path, _State], tuple[Anchor, ...]]] = {}


def _state(file: Path) -> _State:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


def _read(path: Path) -> tuple[dict[Path, _State], tuple[Anchor, ...]]:
    document, files = _document(path)
    head = document["source"]
    try:
        source = Source(**head)
    except MLSysError as error:
        raise DataError(f"{path}: [source]: {error}") from None
    family = source.family or (stem(path) if path.name.endswith(USER_SUFFIX) else path.parent.name)
    inherited = {name: head[name] for name in INHERITED if name in head}
    common = {**inherited, **document.get("defaults", {})}
    anchors: dict[str, Anchor] = {}
    siblings: list[Anchor] = []
    for position, table in enumerate(document["case"], start=1):
        label = f"case {table['id']!r}" if "id" in table else f"case number {position}"
        try:
            fields = _merged(common, table)
            if source.year is not None and fields.get("run"):
                fields["run"] = {"year": str(source.year), **fields["run"]}  # a framework's stack depends on it
            case = Case(**fields)
        except MLSysError as error:
            raise DataError(f"{path}: {label}: {error}") from None
        if case.id in anchors:
            raise DataError(f"{path}: {label}: this id stands twice in the file")
        anchors[case.id] = Anchor(path, family, source, case, siblings)
        siblings.append(anchors[case.id])
        inputs.call_of(anchors[case.id])  # builds and checks the inputs, so that a wrong one stops the collection
    return {file: _state(file) for file in files}, tuple(anchors.values())


def load_gate(folder: Path) -> Gate | None:
    """The gate of the family in ``folder``, if it has one."""
    path = folder / GATE_FILE
    if not path.exists():
        return None
    document = _toml(path)
    try:
        return Gate(**document["gate"])
    except (MLSysError, KeyError, TypeError) as error:
        raise DataError(f"{path}: [gate]: {error}") from None


def _document(path: Path) -> tuple[dict[str, Any], list[Path]]:
    """The document in a file, the cases of its table among its own, and the files that it was read from."""
    document, files = _toml(path), [path]
    known = ("source", "defaults", "case")
    for name in document:
        if name not in known:
            near = nearest(name, known)
            hint = f"; did you mean {near!r}?" if near else ""
            raise DataError(f"{path}: no key {name!r} here; there are {', '.join(known)}{hint}")
    if not isinstance(document.get("source"), dict):
        raise DataError(f"{path}: expected a [source] table")
    table = document["source"].pop("table", None)
    if table is not None:
        files.append(path.parent / table)
        document["case"] = [*document.get("case", []), *_csv_cases(files[-1])]
    if not isinstance(document.get("case"), list) or not document["case"]:
        raise DataError(f"{path}: expected at least one [[case]]")
    return document, files


def written(path: Path) -> dict[str, Any]:
    """What a TOML file says, parsed once a process unless the file changes; empty without the file. Not to be changed."""
    return _parsed(path, _state(path)) if path.exists() else {}


@functools.lru_cache(maxsize=16)
def _parsed(path: Path, state: _State) -> dict[str, Any]:
    return _toml(path)


def _toml(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path}: {_case_near(text, str(error))}{error}") from None


def _case_near(text: str, message: str) -> str:
    """The id of the case in whose lines a TOML error lies: the parser knows only the line."""
    at = re.search(r"at line (\d+)", message)
    before = text.splitlines()[: int(at[1])] if at else []
    start = max((number for number, line in enumerate(before) if line.strip() == "[[case]]"), default=None)
    ids = re.findall(r'^id\s*=\s*"([^"]*)"', "\n".join(before[start:]), re.MULTILINE) if start is not None else []
    return f"case {ids[-1]!r}: " if ids else ""


def _csv_cases(path: Path) -> list[dict[str, Any]]:
    """Cases from a table: a dotted column such as ``solve.tp_size`` is a key of a table, an empty cell is absent."""
    if not path.exists():
        raise DataError(f"{path}: no such table")
    with path.open(encoding="utf-8", newline="") as file:
        lines = (line for line in csv.reader(file) if line)
        columns = [tuple(column.split(".")) for column in next(lines, ())]
        return [_csv_case(path, columns, line) for line in lines]


def _csv_case(path: Path, columns: Sequence[tuple[str, ...]], line: Sequence[str]) -> dict[str, Any]:
    if len(line) > len(columns):
        raise DataError(f"{path}: {line[0]!r} has {len(line)} cells, the table {len(columns)} columns")
    case: dict[str, Any] = {}
    for (*tables, name), cell in zip(columns, line, strict=False):
        if cell:
            target = case
            for table in tables:
                target = target.setdefault(table, {})
            target[name] = cell if tables == ["run"] else _cell(cell)  # a run's cells are read as the table's own
    return case


_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


@functools.cache
def _cell(text: str) -> Any:
    """A cell as TOML would read it; what TOML does not know is text.

    Example:
        >>> _cell("12"), _cell("1.5e3"), _cell("A100 80GB"), _cell("true"), _cell("[1, 2]"), _cell("007")
        (12, 1500.0, 'A100 80GB', True, [1, 2], '007')
    """
    # TOML's parser takes 0.1 ms a cell: plain numbers need none.
    if _NUMBER.fullmatch(text):
        return float(text) if set(text) & set(".eE") else int(text)
    try:
        return tomllib.loads(f"cell = {text}")["cell"]
    except tomllib.TOMLDecodeError:
        return text


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` laid on top; tables are merged key by key."""
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
