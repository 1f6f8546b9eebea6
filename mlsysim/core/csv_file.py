"""The one reader of tables: lines of a CSV file as cells, checked; a table of any length takes the memory of a line.

What is wrong with a table is one line, which names the file, the line in it and the reason.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from mlsysim.core.errors import DataError

# When a file changed, and its size.
FileState = tuple[int, int]


def state_of(file: Path) -> FileState:
    """Tell a file from what it was before it changed; one that is not there has a state that no file has."""
    try:
        status = file.stat()
    except OSError:
        return 0, -1
    return status.st_mtime_ns, status.st_size


@contextmanager
def opened_table(path: Path, name: str) -> Iterator[TextIO]:
    """Opens a table's text, without the mark that some editors put at its beginning.

    Raises:
        DataError: there is no such file, or it may not be read.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError(0, "it is a folder" if path.is_dir() else "it is no ordinary file")
        file = path.open(encoding="utf-8-sig", newline="")
    except (OSError, ValueError) as error:
        raise DataError.unread(name, error) from None
    with file:
        yield file


def table_lines(file: TextIO, name: str) -> Iterator[tuple[int, list[str]]]:
    r"""Reads a table: its columns, then the cells of each row, as many as there are columns.

    Cells are parted by commas; by semicolons or tabs where the line of column names is, as spreadsheets of some languages
    write it.

    Yields:
        The number of a line and its cells; empty lines are left out.

    Raises:
        DataError: the text is no CSV in UTF-8, a column has the name of another, or a row has a cell too few or
            too many.

    Example:
        >>> import io
        >>> list(table_lines(io.StringIO("id,tp\na,8\n\nb,4\n"), "x.csv"))
        [(1, ['id', 'tp']), (2, ['a', '8']), (4, ['b', '4'])]
        >>> list(table_lines(io.StringIO("id,tp\na,8,1\n"), "x.csv"))
        Traceback (most recent call last):
        mlsysim.core.errors.DataError: x.csv: line 2 ('a') has 3 cells, the table 2 columns
    """
    separator = _separator(file)
    with_nul: list[str] = []  # cells need not be looked through while it is empty

    def texts() -> Iterator[str]:
        for text in file:
            if "\0" in text:
                with_nul.append(text)
            yield text

    reader = csv.reader(texts(), strict=True, delimiter=separator)
    columns: list[str] = []
    try:
        for line in reader:
            if not line or (len(line) == 1 and not line[0].strip()):
                continue
            number = reader.line_num
            if not columns:
                columns = _columns(line, number, name)
            elif len(line) != len(columns):
                cells = f"{len(line)} cell{'s' * (len(line) != 1)}"
                raise DataError(f"{name}: line {number} ({line[0][:40]!r}) has {cells}, the table {len(columns)} columns")
            if with_nul:
                column = next((column for column, cell in zip(columns, line, strict=True) if "\0" in cell), "")
                raise DataError(f"{name}: line {number}, column {column!r}: a NUL character stands in the cell")
            yield number, line
    except csv.Error as error:
        raise DataError(f"{name}: line {reader.line_num}: no CSV: {error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: line {_undecodable(file)}: no CSV in UTF-8: {error.reason}") from None
    if not columns:
        raise DataError(f"{name}: empty: expected a line of column names")


def _separator(file: TextIO) -> str:
    """What parts the cells of the line of column names; the file is at its beginning again."""
    file.seek(0)
    try:
        header = next((line for line in file if line.strip()), "")
    except UnicodeDecodeError:
        header = ""  # told with its line when the lines are read
    file.seek(0)
    return next((mark for mark in ";\t" if mark in header and "," not in header), ",")


def _columns(line: list[str], number: int, name: str) -> list[str]:
    line[:] = [column.strip() for column in line]
    for place, column in enumerate(line):
        if column in line[:place]:
            raise DataError(f"{name}: line {number}: a column name is there twice: {column!r}")
    return line


def _undecodable(file: TextIO) -> int:
    """The first line that is not UTF-8; the text was decoded in blocks, ahead of the lines that were read of it."""
    binary = file.buffer
    binary.seek(0)
    for number, line in enumerate(binary, start=1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            return number
    return 0
