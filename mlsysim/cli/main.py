"""The command line: ``mlsysim predict TABLE.csv``, also ``python -m mlsysim``."""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from mlsysim import __version__

_PREDICT = """\
Adds a prediction to every row of a table of training or of serving runs and
writes it as CSV: all columns in order, then

  predicted   in the row's own metric and unit ("fits" or "OOM" for a table of
              layouts); empty where it cannot be told
  feasible    whether the plan fits the memory
  basis       calibrated (measured kernels and a software stack) or bound
              (physics and datasheets only)
  stack_used  the software stack; "generic" for a framework that is not known
  reason      why there is no prediction, or why the plan does not fit

Columns are those of the published measurement tables: accelerator, n_accel,
layers, hidden, heads, ffn_hidden, vocab, seq_len, global_batch_seqs,
micro_batch, tp, pp, vpp, sharding, recompute, precision, framework, metric, ...
Of serving: accelerator, engine, mode, input_len, output_len,
batch_or_concurrency, weight_precision, kv_precision, tp, pp, metric, ...
There itl_ms is the mean time between tokens; tpot_ms is the same, or, where
the column tpot_excludes_first_token says "no", a request's time over its
tokens; offload is "weights", "kv" or "weights+kv" in the host's memory.
A model that the registry knows by its name needs no layers, hidden and heads.
The columns value, notes and outcome are never read.
"""


class _TableError(Exception):
    """The table cannot be read; the message fits on one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code: 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(prog="mlsysim", description="First-principles performance models of ML systems.")
    parser.add_argument("--version", action="version", version=f"mlsysim {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    predict = commands.add_parser(
        "predict",
        help="predict every row of a table of training or serving runs",
        description=_PREDICT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    predict.add_argument("table", metavar="TABLE.csv", help="the table; - reads it from stdin")
    predict.add_argument("-o", "--output", metavar="OUT.csv", help="where to write the table (default: stdout)")
    given = parser.parse_args(arguments)
    try:
        _predict(given.table, given.output)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (_TableError, OSError) as error:
        print(f"mlsysim predict: {error}", file=sys.stderr)
        return 2
    return 0


def _predict(table: str, output: str | None) -> None:
    from mlsysim.core.errors import InputError
    from mlsysim.tables.predict import ADDED_COLUMNS, predict_table, table_kind

    columns, rows = _read(table)
    try:
        table_kind(columns)
        predictions = predict_table(rows)
    except InputError as error:
        raise _TableError(f"{table}: {error}") from None
    header = [*columns, *(column for column in ADDED_COLUMNS if column not in columns)]
    if output is None:
        _write(sys.stdout, header, predictions)
        sys.stdout.flush()
        return
    with Path(output).open("w", encoding="utf-8", newline="") as file:
        _write(file, header, predictions)
    told = sum(row["predicted"] != "" for row in predictions)
    print(f"{output}: {told} of {len(predictions)} rows predicted", file=sys.stderr)


def _read(table: str) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a CSV file."""
    try:
        if table == "-":
            lines = list(csv.reader(sys.stdin))
        else:
            with Path(table).open(encoding="utf-8-sig", newline="") as file:
                lines = list(csv.reader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _TableError(f"{table}: no CSV in UTF-8: {error}") from None
    lines = [line for line in lines if line]
    if not lines:
        raise _TableError(f"{table}: empty: expected a line of column names")
    columns = lines[0]
    if len(set(columns)) < len(columns):
        raise _TableError(f"{table}: a column name is there twice")
    for number, line in enumerate(lines[1:], start=1):
        if len(line) != len(columns):
            raise _TableError(f"{table}: row {number} has {len(line)} cells, the table {len(columns)} columns")
    return columns, [dict(zip(columns, line, strict=True)) for line in lines[1:]]


def _write(file: TextIO, header: list[str], rows: list[dict[str, Any]]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_shown(row[column]) for column in header] for row in rows)


def _shown(value: Any) -> str:
    """Numbers with six significant digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
