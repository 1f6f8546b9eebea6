"""Cache results per object. Keyed by identity, because hashing a frozen model costs more than most lookups."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

S_contra = TypeVar("S_contra", contravariant=True)
P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class _Cached(Protocol[S_contra, P, R_co]):
    """A function whose ``answers`` are kept."""

    # Each result beside its arguments: it holds their objects, so that no other can come to have the id of one.
    answers: dict[tuple[Hashable, ...], tuple[Any, Any]]

    def __call__(self, subject: S_contra, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


def identity_cache(
    most: int = 4096, objects: int = 1
) -> Callable[[Callable[Concatenate[S_contra, P], R_co]], _Cached[S_contra, P, R_co]]:
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
    others = objects - 1

    def decorated(function: Callable[Concatenate[S_contra, P], R_co]) -> _Cached[S_contra, P, R_co]:
        answers: dict[tuple[Hashable, ...], tuple[Any, R_co]] = {}

        @functools.wraps(function)
        def asked_once(subject: S_contra, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
            rest = (*map(id, args[:others]), *args[others:]) if others else args
            key = (id(subject), *rest, *kwargs.items())
            result = answers.get(key)
            if result is None:
                if len(answers) >= most:
                    answers.clear()
                result = answers[key] = (subject, args), function(subject, *args, **kwargs)
            return result[1]

        cached = cast("_Cached[S_contra, P, R_co]", asked_once)
        cached.answers = answers
        return cached

    return decorated
