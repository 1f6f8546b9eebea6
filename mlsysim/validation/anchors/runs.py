"""A user's own table of runs, predicted: each row beside what was measured, without a file of anchors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlsysim.core.csv_file import opened_table, table_lines
from mlsysim.core.errors import DataError, InputError
from mlsysim.tables.predict import predict_table


def predicted_runs(path: Path) -> list[dict[str, Any]]:
    """The rows of a table of runs with their predictions, each with an ``id``: its own, or its line in the file.

    It has the columns that ``mlsysim predict`` knows; ``value`` is what was measured.

    Raises:
        DataError: the file is no such table.
    """
    with opened_table(path, str(path)) as file:
        lines = table_lines(file, str(path))
        columns = next(lines)[1]
        rows = [{**dict(zip(columns, cells, strict=True)), "line": str(number)} for number, cells in lines]
    if "value" not in columns:
        raise DataError(f"{path}: no column 'value': expected what was measured of each run")
    try:
        predictions = predict_table([{name: cell for name, cell in row.items() if name != "line"} for row in rows])
    except InputError as error:
        raise DataError(f"{path}: {error}") from None
    return [{**answer, "id": row.get("id") or f"line {row['line']}"} for row, answer in zip(rows, predictions, strict=True)]
