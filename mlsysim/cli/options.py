"""Options of commands, from the arguments that solvers share: each has its meaning once, in ``lowering/options.py``."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

from mlsysim.core.errors import InputError
from mlsysim.core.options import options as documented

# What people call an argument where it is more than its name without the unit of its count.
_CALLED = {
    "seq_len": "seq",
    "microbatch_count": "micro-batches",
    "virtual_stages": "vpp",
    "zero_stage": "zero",
    "page_size": "page-size",
    "shard_size": "shard-size",
    "harness_name": "harness",
}
# Arguments of solvers that commands take in a way of their own, for errors that name them.
_TAKEN = {
    "workload": "MODEL",
    "hardware": "--on",
    "fleet": "--on",
    "basis": "--bound",
    "batch_size": "--batch",
    "request_rate": "--rate",
    "prices": "--price",
    "precisions": "--precision",
    "tp_sizes": "--tp",
    "pp_sizes": "--pp",
    "input_len": "--prompt",
    "output_len": "--output",
    "max_ttft": "--ttft",
    "max_itl": "--itl",
    "max_latency": "--latency",
    "top_k": "--top",
    "margin": "--margin",
    "max_memory": "--max-memory",
    "fixed": "fixed dimensions",
    "target": "--export",
    "accelerators": "--on",
}
# How the meaning begins of an argument that only repeats another: its option would be the other's.
_OTHER_NAME = "another name of "
_MARKUP = re.compile(r"``([^`]*)``")


def flag_of(argument: str) -> str:
    """The option by which a command takes an argument of a solver.

    Example:
        >>> flag_of("tp_size"), flag_of("input_len"), flag_of("max_num_seqs"), flag_of("max_ttft")
        ('--tp', '--prompt', '--max-num-seqs', '--ttft')
    """
    called = _CALLED.get(argument) or argument.removesuffix("_size")
    return _TAKEN.get(argument) or f"--{called.replace('_', '-')}"


def taking(
    kind: Any, *, without: Collection[str] = (), first: Sequence[str] = (), called: Mapping[str, str] | None = None
) -> Callable[..., Any]:
    """Decorate a command's function so that it takes the arguments of solvers as options, in ``**options``.

    What a line does not give is None, and is left to the solver.

    Args:
        kind: the ``TypedDict`` of the arguments.
        without: arguments that the function takes itself, or that nobody types.
        first: arguments that most lines have: help shows them before the others.
        called: options of another name than ``flag_of`` gives, by their arguments.
    """

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function, eval_str=True)
        parameters = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        named = {name: option.meaning for name, option in documented(kind).items() if name not in without}
        known = {name: meaning for name, meaning in named.items() if not meaning.startswith(_OTHER_NAME)}
        flags = {name: (called or {}).get(name) or flag_of(name) for name in (*first, *known)}
        hints = get_type_hints(kind)

        def _option(name: str, flag: str) -> Any:
            panel = None if name in first else "More"
            return typer.Option(*_declared(flag, hints[name]), help=_help(known[name], flags), rich_help_panel=panel)

        added = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[_typed(hints[name]) | None, _option(name, flag)],
            )
            for name, flag in flags.items()
        ]

        def command(**arguments: Any) -> Any:
            with in_flags(flags):
                return function(**{name: value for name, value in arguments.items() if name not in flags or value is not None})

        keywords = [*(one.replace(kind=one.KEYWORD_ONLY) for one in parameters), *added]
        command.__signature__ = signature.replace(parameters=keywords)  # type: ignore[attr-defined]
        command.__doc__, command.__name__ = function.__doc__, function.__name__
        return command

    return decorated


def _typed(hint: Any) -> Any:
    """The type of what is typed: a number where an argument takes one, else text."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((kind for kind in (int, float, bool) if kind in kinds), str)


def _declared(flag: str, hint: Any) -> list[str]:
    return [f"{flag}/--no-{flag.removeprefix('--')}"] if _typed(hint) is bool else [flag]


def _help(meaning: str, flags: Mapping[str, str]) -> str:
    """The meaning of an argument as a sentence; arguments that it names become options."""
    plain = _MARKUP.sub(lambda match: {**_TAKEN, **flags}.get(match[1], match[1]), meaning)
    begins = plain.split(maxsplit=1)[0]
    return f"{plain[:1].upper() if begins.isalpha() else plain[:1]}{plain[1:]}."


@contextmanager
def in_flags(flags: Mapping[str, str]) -> Iterator[None]:
    """Let errors that are raised meanwhile name options as a command has them."""
    try:
        yield
    except InputError as error:
        told, flags = str(error), {**{name: flag_of(name) for name in _CALLED}, **_TAKEN, **flags}
        if error.argument in flags and told.startswith(f"{error.argument} = "):
            told = flags[error.argument] + told[len(error.argument) :]
        told = told.replace(" = None: expected ", " is missing: ")
        names = "|".join(sorted((name for name in flags if "_" in name), key=len, reverse=True))
        error.args = (re.sub(rf"\b({names})\b", lambda match: flags[match[1]], told),)
        raise
