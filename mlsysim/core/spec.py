"""The base of every pydantic type of the package, ``Spec``: frozen, strict about names, with errors of our own hierarchy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from mlsysim.core.errors import DataError, InputError, MLSysError, UnknownArgumentError
from mlsysim.core.toml import table_of

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

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy the record with ``update``, validated again, so that no derived value outlives the fields it came from."""
        fields = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**{**fields, **(update or {})})


def _or_ours(model: type[S], build: Callable[[], S]) -> S:
    try:
        return build()
    except ValidationError as error:
        raise _translated(error, model) from None


def spec_of(kind: type[S], value: object, place: str) -> S:
    """The record that a table of a data file describes.

    Args:
        kind: type of the record.
        value: what stands in the file.
        place: the file and the keys, as messages name them.

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
