"""The base of every pydantic type of the package, ``Spec``: frozen, strict about names, with errors of our own hierarchy."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from mlsysim.core.errors import DataError, InputError, MLSysError, UnknownArgumentError
from mlsysim.core.toml import only_keys, table_of, toml_file

S = TypeVar("S", bound="Spec")


class Spec(BaseModel):
    """A frozen, validated record. Unknown fields are errors that name the nearest field.

    Example:
        >>> class Point(Spec):
        ...     x: int
        >>> Point(x=1).model_copy(update={"x": 2}).x
        2
        >>> Point(y=1)
        Traceback (most recent call last):
        mlsysim.core.errors.UnknownArgumentError: Point() takes no argument 'y'; it takes x
    """

    # defer_build: a schema is built when its type is first used, which keeps import fast.
    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, defer_build=True, ser_json_inf_nan="constants"
    )

    def __init__(self, /, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise _translated(error, type(self)) from None

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Build the record from a mapping, as pydantic does, with errors of ours."""
        return _or_ours(cls, lambda: super(Spec, cls).model_validate(obj, **options))

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """Build the record from JSON, as pydantic does, with errors of ours."""
        return _or_ours(cls, lambda: super(Spec, cls).model_validate_json(json_data, **options))

    def __str__(self) -> str:
        """What is known, a field a line; ``repr`` has all of it, on one."""
        return described(self)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy the record with ``update``, validated again, so that no derived value outlives the fields it came from."""
        fields = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**{**fields, **(update or {})})


# Columns of a record that is printed.
_WIDTH = 100


def described(record: Spec) -> str:
    """A record as people read it: its kind and name, then what is known of it, a field a line; records within it in a line.

    Example:
        >>> class Point(Spec):
        ...     name: str
        ...     x: int
        ...     y: int | None = None
        >>> print(Point(name="here", x=1))
        Point: here
          x  1
    """
    told = {name: _told(getattr(record, name)) for name in type(record).model_fields if name != "name"}
    told = {name.replace("_", " "): text for name, text in told.items() if text}
    width = max(map(len, told), default=0)
    named = getattr(record, "name", "")
    title = f"{type(record).__name__}: {named}" if named else type(record).__name__
    lines = (
        textwrap.fill(text, _WIDTH, initial_indent=f"  {name:<{width}}  ", subsequent_indent=" " * (width + 4))
        for name, text in told.items()
    )
    return "\n".join([title, *lines])


def _told(value: Any) -> str:
    """A field's value in a line; "" of what is not known, or is nothing."""
    if isinstance(value, Spec):
        named = next((name for name in ("name", "source") if name in type(value).model_fields), None)
        if named is not None:
            return str(getattr(value, named))
        parts = ((name, _told(getattr(value, name))) for name in type(value).model_fields)
        return ", ".join(f"{name.replace('_', ' ')} {text}" for name, text in parts if text)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_told(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_told, value))
    if value is None or (isinstance(value, (bool, int, float)) and not value):
        return ""
    return f"{value.magnitude:,.6g} {value.units:~}".replace(" / ", "/") if hasattr(value, "magnitude") else str(value)


def _or_ours(model: type[S], build: Callable[[], S]) -> S:
    try:
        return build()
    except ValidationError as error:
        raise _translated(error, model) from None


def spec_of(kind: type[S], value: object, place: str) -> S:
    """The record that a table of a data file describes.

    Raises:
        DataError: it is no table, or its fields are not those of the record.

    Example:
        >>> class Point(Spec):
        ...     x: int
        >>> spec_of(Point, {"y": 1}, "points.toml: [a]")
        Traceback (most recent call last):
        mlsysim.core.errors.DataError: points.toml: [a]: Point() takes no argument 'y'; it takes x
    """
    try:
        return kind(**table_of(value, place))
    except DataError:
        raise
    except MLSysError as error:
        raise DataError(f"{place}: {error}") from None


def spec_in(path: Path, kind: type[S], table: str = "") -> S | None:
    """The record that a TOML file is, or has as its one ``table``; None where there is no such file.

    Raises:
        DataError: the file is malformed.
    """
    if not path.exists():
        return None
    document = toml_file(path)
    if not table:
        return spec_of(kind, document, str(path))
    only_keys(document, (table,), str(path))
    return spec_of(kind, document.get(table), f"{path}: [{table}]")


def _translated(error: ValidationError, model: type[Spec]) -> MLSysError:
    """Turn a pydantic error's most telling problem into an error of ours: a misspelt field explains a missing one."""
    problems = error.errors(include_url=False)
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return UnknownArgumentError.of(model.__name__, where, model.model_fields)
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        if not where or cause.argument == where:
            return cause
        inner = "" if cause.argument in ("value", "quantity") else "." + cause.argument.split(".", 1)[-1]
        return type(cause)(f"{model.__name__}.{where}{inner}", cause.value, cause.expected, cause.suggestion)
    expected = "a value: this field is required" if first["type"] == "missing" else _plain(first["msg"])
    value = None if first["type"] == "missing" else first["input"]
    return InputError(f"{model.__name__}.{where}" if where else model.__name__, value, expected)


def _plain(message: str) -> str:
    for lead in ("Input should be ", "Value error, "):
        message = message.removeprefix(lead)
    return message
