"""Cells of tables: text to numbers and flags. What is wrong with one is told with its column and its value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from mlsysim.calibration.own import is_own
from mlsysim.core.errors import InputError

Cells = Mapping[str, str]
# A float holds every whole number up to here.
_MOST = 2**53
# A whole number in groups of three digits; a number that may have a fraction is never read so, for the comma may begin it.
_GROUPED = re.compile(r"[1-9]\d{0,2}(,\d{3})+")
_FLAGS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


def cell_text(cells: Cells, column: str) -> str:
    """Returns a cell in lower case; empty where the row has none.

    Example:
        >>> cell_text({"mode": " Static "}, "mode"), cell_text({}, "mode")
        ('static', '')
    """
    return (cells.get(column) or "").strip().lower()


def software_cell(cells: Cells, column: str) -> str:
    """Returns what a cell says of a framework or an engine: in lower case, unless it is the path of a user's own file.

    Example:
        >>> software_cell({"engine": "vLLM 0.12"}, "engine"), software_cell({"engine": " runs/Mine.toml"}, "engine")
        ('vllm 0.12', 'runs/Mine.toml')
    """
    written = (cells.get(column) or "").strip()
    return written if is_own(written) else written.lower()


def number_cell(cells: Cells, column: str, default: float | None = None) -> float:
    """Returns a cell as a finite number above 0; ``default`` where it is empty.

    Raises:
        InputError: the cell is empty or no such number; the error has its column and its value.

    Example:
        >>> number_cell({"params_b": "6.7"}, "params_b")
        6.7
        >>> number_cell({"params_b": "many"}, "params_b")
        Traceback (most recent call last):
        mlsysim.core.errors.InputError: params_b = 'many': expected a number > 0
    """
    return _number(cells, column, default, "a number > 0", lambda number: 0 < number < math.inf)


def whole_cell(cells: Cells, column: str, default: int | None = None, least: int = 1) -> int:
    """Returns a cell as a whole number >= ``least``, ``default`` where it is empty; tables write "8.0" and "1,024" too.

    Raises:
        InputError: the cell is empty or no such number; the error has its column and its value.

    Example:
        >>> whole_cell({"tp": "8.0"}, "tp"), whole_cell({"input_len": "131,072"}, "input_len")
        (8, 131072)
        >>> whole_cell({"tp": "2.5"}, "tp")
        Traceback (most recent call last):
        mlsysim.core.errors.InputError: tp = '2.5': expected a whole number >= 1
    """
    expected = f"a whole number >= {least}"
    if _GROUPED.fullmatch(cell_text(cells, column)):
        cells = {column: cell_text(cells, column).replace(",", "")}
    return int(_number(cells, column, default, expected, lambda number: number.is_integer() and least <= number <= _MOST))


def _number(cells: Cells, column: str, default: float | None, expected: str, taken: Callable[[float], bool]) -> float:
    text = cell_text(cells, column)
    if not text and default is not None:
        return default
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not taken(number):
        raise InputError(column, text, expected if text else "a number: the row leaves it out")
    return number


def flag_cell(cells: Cells, column: str, default: bool) -> bool:
    """Returns a cell that says yes or no; ``default`` where it is empty.

    Raises:
        InputError: the cell says something else.

    Example:
        >>> flag_cell({"flash_attention": "No"}, "flash_attention", True)
        False
    """
    text = cell_text(cells, column)
    if text and text not in _FLAGS:
        raise InputError(column, text, "yes or no")
    return _FLAGS[text] if text else default
