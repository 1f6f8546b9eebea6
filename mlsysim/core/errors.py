"""The one error hierarchy. A message names the argument, its value, what is accepted and, for a near miss, the likely name.

``MLSysError``
    ``InputError`` (also ``ValueError``): the caller's input is wrong.
        ``UnitError``: not a quantity, or of the wrong dimension.
        ``UnknownNameError`` (also ``AttributeError``): no such registry entry, precision, choice, ...
        ``UnknownArgumentError`` (also ``TypeError``): no such keyword.
        ``MissingArgumentError`` (also ``TypeError``): a needed argument was left out.
        ``InconsistentError``: values that contradict each other.
        ``NotModelledError``: it is understood, and it is of a kind that no solver computes.
    ``DataError``: a data file (registry, anchor) is malformed.
        ``MissingEntryError``: it names what should stand in another file and does not.
    ``InfeasibleError``: a number was required of a plan that cannot run.
    ``MissingExtraError`` (also ``ImportError``): a library that the package can do without is not installed.
    ``UnsoundError``: an answer came out that cannot be, such as a time that is no number.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable
from typing import Any


class MLSysError(Exception):
    """Base of every error that mlsysim raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross process borders (pytest-xdist, worker pools), and their constructors take other arguments than args.
        return _rebuilt, (type(self), self.args, self.__dict__)


class InputError(MLSysError, ValueError):
    """An argument of the caller is wrong.

    Attributes:
        argument: name of the offending argument or field.
        value: the value that was given.

    Example:
        >>> print(InputError("batch_size", 0, "a whole number >= 1"))
        batch_size = 0: expected a whole number >= 1
    """

    def __init__(self, argument: str, value: object, expected: str, suggestion: str | None = None) -> None:
        self.argument = argument
        self.value = value
        self.expected = expected
        self.suggestion = suggestion
        hint = f"; did you mean {suggestion!r}?" if suggestion else ""
        super().__init__(f"{argument} = {_shown(value)}: expected {expected}{hint}")

    def __str__(self) -> str:
        return str(self.args[0])


class UnitError(InputError):
    """A value is not a quantity, or has another dimension than the argument needs."""


class UnknownNameError(InputError, AttributeError):
    """A name is in no registry or list of choices; carries the nearest known names.

    Example:
        >>> print(UnknownNameError.among("precision", "fp61", ["fp16", "fp32"]))
        precision = 'fp61': expected one of fp16, fp32; did you mean 'fp16'?
    """

    def __init__(self, argument: str, value: object, expected: str, suggestion: str | None = None) -> None:
        super().__init__(argument, value, expected, suggestion)
        # Python would add a guess of its own to an AttributeError that says nothing of its object.
        self.obj = ()

    @classmethod
    def among(cls, argument: str, value: object, known: Iterable[str], shown: int = 20) -> UnknownNameError:
        """The error for ``value`` not in ``known``: a short list stands in the message, of a long one the three nearest."""
        names = list(known)
        near = nearest_names(value, names)
        if len(names) > shown:
            error = cls(argument, value, f"one of {len(names)} names", near[0] if near else None)
            error.args = (f"{argument} = {_shown(value)}: expected one of {len(names)} names{or_nearest(value, names)}",)
            return error
        return cls(
            argument, value, f"one of {', '.join(names)}" if names else "nothing: no name is known", next(iter(near), None)
        )


class UnknownArgumentError(InputError, TypeError):
    """A keyword that the function does not take.

    Example:
        >>> print(UnknownArgumentError.of("SingleNodeModel.solve", "batchsize", ["batch_size", "precision"]))
        SingleNodeModel.solve() takes no argument 'batchsize'; it takes batch_size, precision; did you mean 'batch_size'?
    """

    @classmethod
    def of(cls, function: str, name: str, known: Iterable[str]) -> UnknownArgumentError:
        """The error for keyword ``name`` of ``function``."""
        names = list(known)
        error = cls(name, None, f"one of {', '.join(names)}", nearest(name, names))
        hint = f"; did you mean {error.suggestion!r}?" if error.suggestion else ""
        error.args = (f"{function}() takes no argument {name!r}; it takes {', '.join(names)}{hint}",)
        return error


class MissingArgumentError(InputError, TypeError):
    """An argument that is needed was left out."""


class InconsistentError(InputError):
    """Two values of the input contradict each other; the message has both numbers."""


class NotModelledError(InputError):
    """A layer, a format or a feature that is understood and that no solver computes; the message names it.

    Example:
        >>> print(NotModelledError("model_type", "jamba", "a transformer: it has Mamba layers"))
        model_type = 'jamba': expected a transformer: it has Mamba layers
    """


class DataError(MLSysError):
    r"""A data file (registry entry, anchor, table) is malformed; the message names file, place and reason, on one line.

    Example:
        >>> print(DataError("x.toml: [a]: what is wrong\n  on one line"))
        x.toml: [a]: what is wrong on one line
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines()))

    @classmethod
    def unread(cls, name: str, error: Exception) -> DataError:
        """The error for a file that may not be opened or read, by what the system said."""
        return cls(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}")


class MissingEntryError(DataError):
    """A data file names what should stand in another file and does not, or could not be read there."""


class InfeasibleError(MLSysError):
    """A plan that cannot run was asked for a number that only a running plan has."""


class MissingExtraError(MLSysError, ImportError):
    """A question needs a library that is not installed; the message says how to install it.

    Example:
        >>> print(MissingExtraError("ResponsibleEngineeringModel", "dp-accounting", "privacy"))
        ResponsibleEngineeringModel needs dp-accounting: pip install mlsysim-anchors[privacy]
    """

    def __init__(self, wanted_by: str, library: str, extra: str) -> None:
        super().__init__(f"{wanted_by} needs {library}: pip install mlsysim-anchors[{extra}]")


class UnsoundError(MLSysError):
    """A figure of a result is no finite number, is negative, or is faster than the peak.

    Where the size of an argument explains it, ``solve`` raises an ``InputError`` that names the argument instead.
    """


def _rebuilt(kind: type[MLSysError], args: tuple[Any, ...], state: dict[str, Any]) -> MLSysError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def nearest(value: object, known: Iterable[str]) -> str | None:
    """The known name most like ``value`` ignoring case, or None.

    Example:
        >>> nearest("h100", ["A100", "H100"])
        'H100'
    """
    return next(iter(nearest_names(value, known, 1)), None)


def nearest_names(value: object, known: Iterable[str], count: int = 3, least: float = 0.6) -> list[str]:
    """The ``count`` known names most like ``value`` ignoring case and punctuation, the nearest first; none of what is no text.

    They have a likeness of ``least`` at least, where 1 is that of the same name.

    Example:
        >>> nearest_names("h10", ["A100", "H100", "H200", "TPU"], 2, least=0.5)
        ['H100', 'H200']
    """
    return list(_nearest(value, tuple(known), count, least)) if isinstance(value, str) else []


def or_nearest(value: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the three nearest of ``known``.

    Example:
        >>> or_nearest("h10", ["A100", "H100", "H200", "TPU"])
        "; did you mean 'H100', 'H200' or 'A100'?"
        >>> or_nearest("zzz", ["A100", "H100", "H200", "TPU"])
        ", such as 'A100', 'H100' or 'H200'"
    """
    names = list(known)
    near = nearest_names(value, names, least=0.45)
    listed = either(near or names[:3])
    return f"; did you mean {listed}?" if near else f", such as {listed}"


def either(names: Iterable[str]) -> str:
    """Quoted names as a choice.

    Example:
        >>> either(["A100", "H100", "H200"])
        "'A100', 'H100' or 'H200'"
    """
    shown = [repr(name) for name in names]
    return " or ".join(part for part in (", ".join(shown[:-1]), *shown[-1:]) if part)


@functools.lru_cache(maxsize=1024)
def _nearest(value: str, known: tuple[str, ...], count: int, least: float) -> tuple[str, ...]:
    """The nearest name, cached: comparing with hundreds of names takes milliseconds, and a table repeats its wrong ones."""
    by_folded = {_folded(name): name for name in known}
    return tuple(by_folded[name] for name in difflib.get_close_matches(_folded(value), by_folded, n=count, cutoff=least))


@functools.lru_cache(maxsize=4096)
def _folded(name: str) -> str:
    return "".join(ch for ch in name.lower() if ch.isalnum())


def _shown(value: object, limit: int = 80) -> str:
    try:
        text = repr(value) if isinstance(value, (str, bool, int, float, list, tuple, dict, type(None))) else str(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a list within a list within ...
        text = f"{type(value).__name__} that is too long to show"
    if " at 0x" in text:  # Python's own words for an object say nothing but where it lies
        text = type(value).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."
