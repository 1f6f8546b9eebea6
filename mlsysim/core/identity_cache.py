"""Cache results per object. Keyed by identity, because hashing a frozen model costs more than most lookups."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Concatenate, ParamSpec, TypeVar

S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")


def identity_cache(most: int = 4096) -> Callable[[Callable[Concatenate[S, P], R]], Callable[Concatenate[S, P], R]]:
    """Decorator: of the same object and equal further arguments (hashable) the function is asked once.

    Equal objects count as two. Beyond ``most`` answers all are forgotten.

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
        # Each answer holds its object, so that no other can come to have the same id.
        known: dict[tuple[Hashable, ...], tuple[S, R]] = {}

        @functools.wraps(function)
        def asked_once(subject: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
            key = (id(subject), *args, *kwargs.items())
            found = known.get(key)
            if found is None:
                if len(known) >= most:
                    known.clear()
                found = known[key] = subject, function(subject, *args, **kwargs)
            return found[1]

        return asked_once

    return decorated
