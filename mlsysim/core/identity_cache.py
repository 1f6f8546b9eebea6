"""Cache results per object. Keyed by identity, because hashing a frozen model costs more than most lookups."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, ParamSpec, Protocol, TypeVar, cast

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class _Cached(Protocol[P, R_co]):
    """A function that runs once for the same objects, whose results are in ``answers``."""

    # Each result beside its arguments: it holds their objects, so that no other can come to have the id of one.
    answers: dict[tuple[Hashable, ...], tuple[Any, Any]]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


def identity_cache(most: int = 4096, objects: int = 1) -> Callable[[Callable[P, R_co]], _Cached[P, R_co]]:
    """Decorate a function so that it runs once for the same objects and equal further arguments (hashable).

    Two equal objects are cached apart. Beyond ``most`` results all are forgotten.

    Args:
        most: results that are kept.
        objects: how many of the first arguments, given by position, are told apart by identity.

    Example:
        >>> @identity_cache()
        ... def length(items: list) -> int:
        ...     print("counted")
        ...     return len(items)
        >>> letters = ["a", "b"]
        >>> length(letters), length(letters)
        counted
        (2, 2)
    """

    def decorated(function: Callable[P, R_co]) -> _Cached[P, R_co]:
        answers: dict[tuple[Hashable, ...], tuple[Any, R_co]] = {}

        @functools.wraps(function)
        def asked_once(*args: P.args, **kwargs: P.kwargs) -> R_co:
            key = (*map(id, args[:objects]), *args[objects:], *kwargs.items())
            result = answers.get(key)
            if result is None:
                if len(answers) >= most:
                    answers.clear()
                result = answers[key] = args, function(*args, **kwargs)
            return result[1]

        cached = cast("_Cached[P, R_co]", asked_once)
        cached.answers = answers
        return cached

    return decorated
