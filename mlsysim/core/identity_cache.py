"""Cache results per object. Keyed by identity, because hashing a frozen model costs more than most lookups."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Concatenate, ParamSpec, TypeVar

S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")


def identity_cache(most: int = 4096) -> Callable[[Callable[Concatenate[S, P], R]], Callable[Concatenate[S, P], R]]:
    """Decorate a function so that it runs once for one object and equal further arguments (hashable).

    Two equal objects are cached apart. Beyond ``most`` results all are forgotten.

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

    def decorated(function: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
        # Each result holds its object, so that no other can come to have its id.
        cached: dict[tuple[Hashable, ...], tuple[S, R]] = {}

        @functools.wraps(function)
        def asked_once(subject: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
            key = (id(subject), *args, *kwargs.items())
            result = cached.get(key)
            if result is None:
                if len(cached) >= most:
                    cached.clear()
                result = cached[key] = subject, function(subject, *args, **kwargs)
            return result[1]

        return asked_once

    return decorated
