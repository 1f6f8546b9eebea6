"""Reading anchor files. Whatever is wrong is a ``DataError`` that names the file and the case."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlsysim.core.csv_file import FileState, opened_table, state_of, table_lines
from mlsysim.core.errors import DataError, UnknownNameError
from mlsysim.core.spec import spec_in, spec_of
from mlsysim.core.toml import merged, only_keys, table_of, tables_of, toml_file
from mlsysim.validation.anchors import inputs
from mlsysim.validation.anchors.anchor import Anchor, stem
from mlsysim.validation.anchors.record_keys import USER_SUFFIX
from mlsysim.validation.anchors.schema import INHERITED, Case, Gate, Source

GATE_FILE = "family.toml"
# The folder of kernel measurements: tables, which name no solver and so are no cases (``validation/kernels`` judges them).
KERNEL_TABLES = "kernels"


def anchor_files(root: Path) -> list[Path]:
    """The repository's anchor files under ``root``: one folder a family."""
    files = sorted(root.glob("*/*.toml"))
    return [path for path in files if path.name != GATE_FILE and path.parent.name != KERNEL_TABLES]


class Loaded(NamedTuple):
    """The anchors of files, without those of files that are malformed; and what is wrong with these."""

    anchors: list[Anchor]
    malformed: list[DataError]


def load_all(paths: Iterable[Path]) -> list[Anchor]:
    """Every anchor of ``paths``.

    Raises:
        DataError: a file is malformed.
    """
    loaded = load_sound(paths)
    if loaded.malformed:
        raise loaded.malformed[0]
    return loaded.anchors


def load_sound(paths: Iterable[Path]) -> Loaded:
    """Every anchor of those of ``paths`` that are sound; ids must differ across files, and ``corrects`` must name one."""
    anchors: dict[str, Anchor] = {}
    malformed: list[DataError] = []
    for path in paths:
        try:
            solvable = [anchor for anchor in load(path) if _can_be_solved(anchor.source)]
            for anchor in solvable:
                if anchor.id in anchors:
                    raise anchor.error(f"its id {anchor.id!r} is also in {anchors[anchor.id].path}")
        except DataError as error:
            malformed.append(error)
        else:
            anchors |= {anchor.id: anchor for anchor in solvable}
    if not malformed:  # else the case may stand in a file that was left out
        wrong = {
            anchor.path: anchor for anchor in anchors.values() if anchor.case.corrects and anchor.case.corrects not in anchors
        }
        malformed = [one.error(UnknownNameError.among("corrects", one.case.corrects, anchors)) for one in wrong.values()]
        anchors = {id: anchor for id, anchor in anchors.items() if anchor.path not in wrong}
    return Loaded(list(anchors.values()), malformed)


def not_installed(root: Path) -> dict[str, str]:
    """The libraries that sources under ``root`` need and that are not installed, by the solvers of these sources."""
    lacking: dict[str, str] = {}
    for path in anchor_files(root):
        with contextlib.suppress(DataError):  # what is malformed is told where it is loaded
            lacking |= {one.source.solver: one.source.requires for one in load(path) if not _can_be_solved(one.source)}
    return lacking


def _can_be_solved(source: Source) -> bool:
    """Whether the library is installed that a source's solver needs, if any."""
    return not source.requires or importlib.util.find_spec(source.requires) is not None


def load(path: Path) -> tuple[Anchor, ...]:
    """The anchors of one file, checked; read once a process unless the file, or its table, changes."""
    place = path.absolute()
    known = _READ.get(place)
    if known is None or any(state_of(file) != state for file, state in known[0].items()):
        known = _READ[place] = _read(place.resolve())
    return known[1]


# What a user's own file need not say.
_OF_A_USER = {"url": "unpublished", "locator": "own measurement", "tolerance_reason": "the user's own"}
# The anchors of each file, beside what the files that they come from were when they were read.
_READ: dict[Path, tuple[dict[Path, FileState], tuple[Anchor, ...]]] = {}


def _read(path: Path) -> tuple[dict[Path, FileState], tuple[Anchor, ...]]:
    document, files, in_table = _document(path)
    head = document["source"]
    if path.name.endswith(USER_SUFFIX):
        head = {**_OF_A_USER, **head}
    source = spec_of(Source, head, f"{path}: [source]")
    family = source.family or (stem(path) if path.name.endswith(USER_SUFFIX) else path.parent.name)
    inherited = {name: head[name] for name in INHERITED if name in head}
    common = {**inherited, **table_of(document.get("defaults", {}), f"{path}: [defaults]")}
    anchors: dict[str, Anchor] = {}
    siblings: list[Anchor] = []
    for position, table in enumerate(document["case"], start=1):
        place = f"{path}: " + (f"case {table['id']!r}" if "id" in table else f"case number {position}")
        fields = merged(common, table)
        if source.year is not None and isinstance(fields.get("run"), dict):
            fields["run"] = {"year": str(source.year), **fields["run"]}  # a framework's stack depends on it
        case = spec_of(Case, fields, place)
        if case.id in anchors:
            raise DataError(f"{place}: this id stands twice in the file")
        written_in = files[-1] if position > len(document["case"]) - in_table else path
        anchors[case.id] = Anchor(path, family, source, case, siblings, written_in)
        siblings.append(anchors[case.id])
        inputs.call_of(anchors[case.id])  # builds and checks the inputs, so that a wrong one stops the collection
    return {file: state_of(file) for file in files}, tuple(anchors.values())


def load_gate(folder: Path) -> Gate | None:
    """The gate of the family in ``folder``, if it has one.

    Raises:
        DataError: its file is malformed.
    """
    return spec_in(folder / GATE_FILE, Gate, "gate")


def _document(path: Path) -> tuple[dict[str, Any], list[Path], int]:
    """The document in a file, its table's cases after its own; the files it was read from; how many cases are the table's."""
    document, files, in_table = toml_file(path, near=_case_near), [path], 0
    only_keys(document, ("source", "defaults", "case"), str(path))
    head = table_of(document.get("source"), f"{path}: [source]")
    cases = tables_of(document, "case", str(path))
    table = head.pop("table", None)
    if table is not None:
        files.append(_table_file(path, table))
        rows = _csv_cases(files[-1])
        cases, in_table = [*cases, *rows], len(rows)
    if not cases:
        raise DataError(f"{path}: expected at least one [[case]]")
    return {**document, "case": cases}, files, in_table


def _table_file(path: Path, name: object) -> Path:
    """The file of the table that a source names: beside the source's own file or below it, wherever links lead."""
    refused = DataError(
        f"{path}: [source]: table = {str(name)[:80]!r}: expected the name of a CSV file beside or below this file"
    )
    if not isinstance(name, str):
        raise refused
    try:
        file = (path.parent / name).resolve()
        below = path.parent.resolve() in file.parents
    except (OSError, ValueError):  # a name that no file can have
        raise refused from None
    if not below:
        raise refused
    if not file.exists():
        raise DataError(f"{path}: [source]: table = {name!r}: No such file")
    return file


def written(path: Path) -> dict[str, Any]:
    """What a TOML file says, parsed once a process unless the file changes; empty without the file. Not to be changed."""
    return _parsed(path, state_of(path)) if path.exists() else {}


@functools.lru_cache(maxsize=16)
def _parsed(path: Path, state: FileState) -> dict[str, Any]:
    return toml_file(path)


def _case_near(text: str, line: int) -> str:
    """The id of the case in whose lines something lies, as a message begins; empty where it lies in none."""
    before = text.splitlines()[:line]
    start = max((number for number, line in enumerate(before) if line.strip() == "[[case]]"), default=None)
    ids = re.findall(r'^id\s*=\s*"([^"]*)"', "\n".join(before[start:]), re.MULTILINE) if start is not None else []
    return f"case {ids[-1]!r}: " if ids else ""


def _csv_cases(path: Path) -> list[dict[str, Any]]:
    """Cases from a table: a dotted column such as ``solve.tp_size`` is a key of a table, an empty cell is absent."""
    with opened_table(path, str(path)) as file:
        lines = table_lines(file, str(path))
        columns = [tuple(column.split(".")) for column in next(lines)[1]]
        for number, (*tables, name) in enumerate(columns):
            if any(other[: len(tables) + 1] == (*tables, name) for other in columns[:number] + columns[number + 1 :]):
                raise DataError(f"{path}: column {'.'.join((*tables, name))!r} is a cell and a table at once")
        return [_csv_case(columns, line) for _, line in lines]


def _csv_case(columns: Sequence[tuple[str, ...]], line: Sequence[str]) -> dict[str, Any]:
    case: dict[str, Any] = {}
    for (*tables, name), cell in zip(columns, line, strict=True):
        if cell:
            target = case
            for table in tables:
                target = target.setdefault(table, {})
            target[name] = cell if tables == ["run"] else _cell(cell)  # a run's cells are read as the table's own
    return case


_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


@functools.lru_cache(maxsize=2**14)
def _cell(text: str) -> Any:
    """A cell as TOML would read it; what TOML does not know is text.

    Example:
        >>> _cell("12"), _cell("1.5e3"), _cell("A100 80GB"), _cell("true"), _cell("[1, 2]"), _cell("007")
        (12, 1500.0, 'A100 80GB', True, [1, 2], '007')
    """
    # TOML's parser takes 0.1 ms a cell: plain numbers need none.
    try:
        if _NUMBER.fullmatch(text):
            return float(text) if set(text) & set(".eE") else int(text)
        return tomllib.loads(f"cell = {text}")["cell"]
    except (ValueError, RecursionError):
        return text
