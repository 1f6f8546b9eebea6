"""Results as tables of pandas, where that is installed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mlsysim.core.errors import MLSysError

if TYPE_CHECKING:
    import pandas as pd


def framed(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of plain values as a table.

    Args:
        rows: as ``Result.to_dict`` has values: a quantity is ``{"value": ..., "unit": ...}``.

    Raises:
        MLSysError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise MLSysError("to_frame needs pandas: pip install pandas") from None
    return pandas.DataFrame([cells(row) for row in rows])


def cells(values: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """A row's cells by the names of their columns: what is within a mapping after its name, a unit in brackets.

    Lists of results and of rows have no place in one row.

    Example:
        >>> cells({"itl": {"value": 0.01, "unit": "second"}, "plan": {"tp": 8}, "diagnostics": ["a", "b"], "ranking": [{}]})
        {'itl [second]': 0.01, 'plan.tp': 8, 'diagnostics': 'a; b'}
    """
    row: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{within}.{key}" if within else key
        if isinstance(value, Mapping) and set(value) == {"value", "unit"}:
            unit = value["unit"]
            row[name if unit in ("", "dimensionless") else f"{name} [{unit}]"] = value["value"]
        elif isinstance(value, Mapping):
            row |= cells(value, name)
        elif not isinstance(value, list):
            row[name] = value
        elif not any(isinstance(one, (Mapping, list)) for one in value):
            row[name] = "; ".join(map(str, value))
    return row
