"""The one reader of TOML files: those that the package carries, and those of users.

What is wrong with a file is one line, which names the file, the place in it and the reason.
"""

from __future__ import annotations

import functools
import math
import pickle
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from mlsysim.core.errors import DataError, MLSysError, either, nearest, or_nearest

P = ParamSpec("P")
R = TypeVar("R")
_NAMES_FILE = re.compile(r".*?\.(toml|csv|json): ")
_LONGEST_INTEGER = re.compile(r"\d(?:_?\d){4300}")


class _Readable(Protocol):
    """A path, or a file inside a package."""

    def is_dir(self) -> bool: ...
    def read_bytes(self) -> bytes: ...


def packaged_toml(room: str, file: str) -> dict[str, Any]:
    """The document ``data/file`` of a room of the package, a copy for each caller; parsed once a process unless it changes.

    Raises:
        DataError: the file cannot be read, or has a figure that is no number (nan).

    Example:
        >>> sorted(packaged_toml("models", "diffusion.toml"))[:1]
        ['sd15_unet']
    """
    name = f"mlsysim/{room}/data/{file}"
    document: dict[str, Any] = pickle.loads(_parsed(file_text(resources.files(f"mlsysim.{room}") / "data" / file, name), name))
    return document


def packaged_folder(room: str, folder: str) -> list[str]:
    """The names of the TOML files in a folder of a room's data, as ``packaged_toml`` takes them, in alphabetical order.

    Example:
        >>> packaged_folder("calibration", "devices/")[0]
        'devices/ada.toml'
    """
    names = (file.name for file in (resources.files(f"mlsysim.{room}") / "data" / folder.rstrip("/")).iterdir())
    return sorted(f"{folder}{name}" for name in names if name.endswith(".toml"))


@functools.lru_cache(maxsize=64)
def _parsed(text: str, name: str) -> bytes:
    """The parsed text, pickled: a copy takes a tenth of a parse, and fits ask for their files again and again."""
    return pickle.dumps(_placed(parsed_toml(text, name), name, ""))


class _Table(dict[str, Any]):
    """A table of a file of the package: a key that is missing is told by the file and by where the table stands in it."""

    place: str

    def __missing__(self, key: str) -> Any:
        near = or_nearest(key, self) if nearest(key, self) else ": it has to have one"
        raise DataError(f"{self.place}: no key {key!r}{near}")


def _placed(value: Any, name: str, place: str) -> Any:
    """A part of a document, in which tables know where they stand.

    Raises:
        DataError: a figure is not a number.
    """
    if isinstance(value, dict):
        table = _Table((key, _placed(inner, name, f"{place}.{key}" if place else key)) for key, inner in value.items())
        table.place = f"{name}: [{place}]" if place else name
        return table
    if isinstance(value, list):
        return [_placed(inner, name, f"{place}.{number}") for number, inner in enumerate(value)]
    if isinstance(value, float) and math.isnan(value):
        raise DataError(f"{name}: {place} = nan: expected a number")
    return value


def reads(room: str, file: str, kept: bool = True) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorates a function that reads entries of a file of the package.

    What it stumbles over is told by the file and by what it was asked for; so is a result whose figures are no numbers.

    Args:
        room: the package's room.
        file: the name of the file among the room's data, or of a folder of them, with a slash at its end.
        kept: the function is asked once for equal arguments, all hashable; else anew each time, of rows of a table.

    Raises:
        DataError: the file has something that the function cannot take.

    Example:
        >>> @reads("models", "tiny.toml")
        ... def width(name: str) -> float:
        ...     return float({"narrow": "half"}[name])
        >>> width("narrow")
        Traceback (most recent call last):
        mlsysim.core.errors.DataError: mlsysim/models/data/tiny.toml: narrow: could not convert string to float: 'half'
    """

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def told(*args: P.args, **kwargs: P.kwargs) -> R:
            asked = ", ".join(arg for arg in args if isinstance(arg, str))
            place = f"mlsysim/{room}/data/{_listed(room, file)}: {asked or function.__name__.strip('_')}"
            try:
                result = function(*args, **kwargs)
            except MLSysError:  # a name that the caller asks for, or what is told already
                raise
            except Exception:
                with reading(place):
                    raise
            _check_numbers(result, place)
            return result

        return cast("Callable[P, R]", functools.cache(told)) if kept else told

    return decorated


def _listed(room: str, file: str) -> str:
    """A file's name; of a folder, with the first and the last of its files."""
    if not file.endswith("/"):
        return file
    first, *_, last = (name.removeprefix(file) for name in packaged_folder(room, file))
    return f"{file} ({first} to {last})"


def _check_numbers(result: object, place: str) -> None:
    """Refuses a record whose figures are something else."""
    for part in fields(result) if is_dataclass(result) else ():
        value = getattr(result, part.name)
        if part.type in ("float", "int") and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise DataError(f"{place}: {part.name} = {_short(value)}: expected a number")
        _check_numbers(value, place)


def toml_file(path: Path, name: str = "", near: Callable[[str, int], str] | None = None) -> dict[str, Any]:
    """The document at ``path``.

    Args:
        path: of the file.
        name: what messages call the file; its path if empty.
        near: what stands at a line of the text, from the text and the number of that line: messages name it too.

    Raises:
        DataError: the file cannot be read, or is no TOML.
    """
    called = name or str(path)
    return parsed_toml(file_text(path, called), called, near)


def parsed_toml(text: str, name: str, near: Callable[[str, int], str] | None = None) -> dict[str, Any]:
    """The document that a TOML file called ``name`` says; ``near`` as ``toml_file`` takes it.

    Raises:
        DataError: the text is no TOML.

    Example:
        >>> parsed_toml("a = 1", "x.toml")
        {'a': 1}
        >>> parsed_toml("a = !", "x.toml")
        Traceback (most recent call last):
        mlsysim.core.errors.DataError: x.toml: cannot be read: Invalid value (at line 1, column 5)
    """
    lines = text.split("\n")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        told = re.search(r"at line (\d+)", str(error))
        line, reason = int(told[1]) if told else len(lines), str(error)
    except RecursionError:
        line = 1 + max(range(len(lines)), key=lambda number: lines[number].count("[") + lines[number].count("{"))
        reason = f"brackets are nested too deeply (at line {line})"
    except ValueError:  # the one that Python has for a number, beside those of the parser
        line = next((number for number, one in enumerate(lines, start=1) if _LONGEST_INTEGER.search(one)), len(lines))
        reason = f"an integer has more than 4300 digits (at line {line})"
    raise DataError(f"{name}: {near(text, line) if near is not None else ''}cannot be read: {reason}")


def file_text(path: _Readable, name: str) -> str:
    """The text of a file in UTF-8, without the mark that some editors put at its beginning; lines end as TOML has them.

    Raises:
        DataError: there is no such file, it may not be read, or it is not in UTF-8.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        if isinstance(path, Path) and path.exists() and not path.is_file():
            raise OSError(0, "it is no ordinary file")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError.unread(name, error) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name}: line {line}: cannot be read: byte 0x{content[error.start]:02x} is not UTF-8") from None


def table_of(value: object, place: str) -> dict[str, Any]:
    """``value``, if it is a table.

    Raises:
        DataError: it is something else.

    Example:
        >>> table_of(3, "x.toml: [defaults]")
        Traceback (most recent call last):
        mlsysim.core.errors.DataError: x.toml: [defaults]: expected a table, got 3
    """
    if not isinstance(value, dict):
        raise DataError(f"{place}: expected a table, got {_short(value)}")
    return value


def tables_of(document: dict[str, Any], key: str, place: str) -> list[dict[str, Any]]:
    """The tables ``[[key]]`` of a document; none where it has no such key.

    Raises:
        DataError: the key holds something else than tables.

    Example:
        >>> tables_of({"case": [{"id": "a"}]}, "case", "x.toml")
        [{'id': 'a'}]
        >>> tables_of({"case": [1]}, "case", "x.toml")
        Traceback (most recent call last):
        mlsysim.core.errors.DataError: x.toml: [[case]] number 1: expected a table, got 1
    """
    value = document.get(key, [])
    if not isinstance(value, list):
        raise DataError(f"{place}: {key} = {_short(value)}: expected [[{key}]] tables")
    return [table_of(table, f"{place}: [[{key}]] number {number}") for number, table in enumerate(value, start=1)]


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A document with another laid on top of it: tables are merged key by key.

    Example:
        >>> merged({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"y": 4}})
        {'a': {'x': 1, 'y': 4}, 'b': 3}
    """
    document = dict(base)
    for name, value in over.items():
        below = document.get(name)
        document[name] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return document


def only_keys(document: dict[str, Any], known: tuple[str, ...], place: str) -> None:
    """Refuses a key that is none of ``known``.

    Raises:
        DataError: there is one; the message has the nearest known key.

    Example:
        >>> only_keys({"sorce": 1}, ("source", "case"), "x.toml")
        Traceback (most recent call last):
        mlsysim.core.errors.DataError: x.toml: no key 'sorce' here; there are source, case; did you mean 'source'?
    """
    for key in document:
        if key not in known:
            near = nearest(key, known)
            hint = f"; did you mean {either([near])}?" if near else ""
            raise DataError(f"{place}: no key {key!r} here; there are {', '.join(known)}{hint}")


@contextmanager
def reading(place: str) -> Iterator[None]:
    """Tells what a data file has that its reader cannot take by the file and the place in it, whatever raised it.

    Raises:
        DataError: the reader raised an error.

    Example:
        >>> with reading("x.toml: [a]"):
        ...     float({"share": "half"}["share"])
        Traceback (most recent call last):
        mlsysim.core.errors.DataError: x.toml: [a]: could not convert string to float: 'half'
    """
    try:
        yield
    except DataError as error:
        if _NAMES_FILE.match(str(error)):
            raise
        raise DataError(f"{place}: {error}") from None
    except KeyError as error:
        raise DataError(f"{place}: no key {error.args[0]!r}") from None
    except RecursionError:
        raise DataError(f"{place}: what it is like leads back to itself") from None
    except (MLSysError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, re.error) as error:
        raise DataError(f"{place}: {error}") from None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
