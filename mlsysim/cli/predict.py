"""The command ``mlsysim predict TABLE.csv``, which needs nothing more than the package."""

from __future__ import annotations

import argparse
import csv
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import islice
from pathlib import Path
from typing import IO, Any, TextIO

from mlsysim.core.checks import looked_up
from mlsysim.core.csv_file import opened_table, table_lines
from mlsysim.core.errors import DataError, InconsistentError, InputError, MLSysError
from mlsysim.core.toml import file_text

_EXAMPLE = ".example.csv"
_DATA = resources.files("mlsysim.cli") / "data"


def main(arguments: Sequence[str]) -> None:
    """Runs the command.

    Raises:
        DataError: the table is none.
    """
    told = file_text(_DATA / "predict.txt", "mlsysim/cli/data/predict.txt")
    parser = argparse.ArgumentParser(
        prog="mlsysim predict", description=told, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = examples()
    parser.add_argument("table", metavar="TABLE.csv", nargs="?", help="the table; - reads it from stdin")
    parser.add_argument("-o", "--output", metavar="OUT.csv", help="where to write the table (default: stdout)")
    parser.add_argument("--example", metavar="KIND", help=f"print a table to start from: {', '.join(kinds)}")
    parser.add_argument("--json", action="store_true", help="write one document for programs")
    parser.add_argument("--markdown", action="store_true", help="write a table in Markdown")
    options = parser.parse_args(arguments)
    if options.example is not None:
        _example(looked_up("--example", options.example, kinds), options.output)
    elif options.table is None:
        raise MLSysError(f"TABLE.csv is missing: a table, or --example {next(iter(kinds))} for one to start from")
    elif options.json and options.markdown:
        raise InconsistentError("--json", True, "one of --json and --markdown")
    else:
        _predict(options.table, options.output, _as_json if options.json else _as_markdown if options.markdown else _write)


def examples() -> dict[str, Traversable]:
    """Tables to start from, by the kind of their runs."""
    files_by_kind = {file.name.removesuffix(_EXAMPLE): file for file in _DATA.iterdir() if file.name.endswith(_EXAMPLE)}
    first = [kind for kind in ("training", "serving", "open-loop") if kind in files_by_kind]
    return {kind: files_by_kind[kind] for kind in (*first, *sorted(files_by_kind.keys() - set(first)))}


def _example(table: Traversable, output: str | None) -> None:
    """Write a table to start from; a file that is there already is somebody's own."""
    text = file_text(table, f"mlsysim/cli/data/{table.name}")
    if output is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    if Path(output).exists():
        raise InputError("output", output, "a file that is not there yet")
    Path(output).write_text(text, encoding="utf-8")
    print(f"written: {output}; put your runs in place of its rows, then: mlsysim predict {output}", file=sys.stderr)


def _predict(table: str, output: str | None, write: Callable[[TextIO, list[str], Iterable[dict[str, Any]]], int]) -> None:
    """Reads, solves and writes the table in blocks, so that its length does not matter; a malformed one is refused first."""
    from mlsysim.tables.columns import renamed
    from mlsysim.tables.operations.energy import further_columns
    from mlsysim.tables.predict import ADDED_COLUMNS, predicted_rows, table_kind

    with _opened(table, output) as file:
        _, columns = next(lines := table_lines(file, table))
        count = sum(1 for _ in lines)
        try:
            table_kind(columns)
        except InputError as error:
            raise DataError(f"{table}: {error}") from None
        for name, meant in renamed(columns).items():
            print(f"{table}: the column {name!r} is not read; call it {meant!r}", file=sys.stderr)
        rows = islice(table_lines(file, table), 1, None)
        predictions = predicted_rows(dict(zip(columns, line, strict=True)) for _, line in rows)
        added = (*further_columns(columns), *ADDED_COLUMNS)
        header = [*columns, *(column for column in added if column not in columns)]
        if output is None:
            write(sys.stdout, header, predictions)
            sys.stdout.flush()
            return
        with Path(output).open("w", encoding="utf-8", newline="") as written:
            told = write(written, header, predictions)
    print(f"{output}: {told} of {count} rows predicted", file=sys.stderr)


def _opened(table: str, output: str | None) -> AbstractContextManager[TextIO]:
    """The table's text, to be read twice: what comes from a pipe, or is written over, is copied to a temporary file."""
    if table == "-":
        return _copied(sys.stdin.buffer)
    path = Path(table)
    if path.is_fifo() or (output is not None and Path(output).exists() and path.samefile(output)):
        with path.open("rb") as file:
            return _copied(file)
    return opened_table(path, table)


def _copied(file: IO[bytes]) -> TextIO:
    copy = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
    shutil.copyfileobj(file, copy)
    return io.TextIOWrapper(copy, encoding="utf-8-sig", newline="")


def _write(file: TextIO, header: list[str], rows: Iterable[dict[str, Any]]) -> int:
    """Writes the table; how many of its rows have a prediction."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    told = 0
    for row in rows:
        writer.writerow([_shown(row[column]) for column in header])
        told += row["predicted"] != ""
    return told


def _shown(value: Any) -> str:
    """Numbers with six significant digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _as_json(file: TextIO, header: list[str], rows: Iterable[dict[str, Any]]) -> int:
    """Writes the rows as one document; how many of them have a prediction."""
    written = [{column: row[column] for column in header} for row in rows]
    file.write(json.dumps({"command": "predict", "rows": written}, indent=2, allow_nan=False) + "\n")
    return sum(row["predicted"] != "" for row in written)


def _as_markdown(file: TextIO, header: list[str], rows: Iterable[dict[str, Any]]) -> int:
    """Writes the table in Markdown; how many of its rows have a prediction."""
    file.write(f"| {' | '.join(header)} |\n|{' --- |' * len(header)}\n")
    told = 0
    for row in rows:
        cells = (_shown(row[column]).replace("|", "\\|").replace("\n", " ") for column in header)
        file.write(f"| {' | '.join(cells)} |\n")
        told += row["predicted"] != ""
    return told
