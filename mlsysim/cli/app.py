"""The commands as one typer application, of which only what a line asks for is imported."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from mlsysim import __version__
from mlsysim.cli.commands import ALONE, GROUPS, Command, commands_named
from mlsysim.cli.exits import HOLDS, MEANINGS
from mlsysim.core.errors import InputError, MLSysError

# How typer says that a word is no number, in any release.
_NO_NUMBER = re.compile(r"valid (integer|number|float)")


def run(words: list[str]) -> int:
    """Runs the application.

    Returns:
        The exit code.

    Raises:
        MLSysError: what a command was given is wrong, or cannot run.
    """
    try:
        code = application(commands_named(words))(args=words, prog_name="mlsysim", standalone_mode=False)
    except SystemExit as end:  # a shell asked for completions, or argparse has told what is wrong
        code = end.code
    except Exception as error:  # typer has brought its own click since 2026: its errors have no name that is always there
        if not hasattr(error, "format_message"):
            raise
        if (number := _no_number(error, words)) is not None:
            raise number from None
        asked = getattr(getattr(error, "ctx", None), "command_path", "mlsysim")
        raise MLSysError(f"{error.format_message()} ({asked} --help)") from None
    return code if isinstance(code, int) else HOLDS


def application(commands: Sequence[Command]) -> Any:
    """Make the application of these commands."""
    app = typer.Typer(help=f"First-principles performance models of ML systems. {MEANINGS}")
    app.callback(invoke_without_command=True)(_version)
    groups = {name: typer.Typer(help=about) for name, about in GROUPS.items()}
    for name, group in groups.items():
        if any(command.group == name for command in commands):
            app.add_typer(group, name=name)
    for command in commands:
        group = groups.get(command.group, app)
        examples = "\n\n".join(("Examples:", *command.examples))
        if command.name == ALONE:
            # Its arguments are read, and its help is written, where typer is missing too.
            passed_on = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
            group.command(command.name, context_settings=passed_on)(_predict)
            continue
        name = command.name.rpartition(" ")[2]
        group.command(name, epilog=examples, context_settings=command.settings)(command.function())
    return typer.main.get_command(app)


def _no_number(error: Any, words: Sequence[str]) -> InputError | None:
    """The error of an option whose word is no number, with the word: typer's own has it in some releases alone."""
    kind = _NO_NUMBER.search(error.format_message())
    flags = getattr(getattr(error, "param", None), "opts", ())
    for word, following in zip(words, [*words[1:], ""], strict=True):
        flag, equals, value = word.partition("=")
        if kind and flag in flags:
            return InputError(flag, value if equals else following, "a whole number" if kind[1] == "integer" else "a number")
    return None


def _version(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False
) -> None:
    if version:
        typer.echo(f"mlsysim {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _predict(context: typer.Context) -> int:
    """Predict every row of a table of training or serving runs."""
    from mlsysim.cli import predict

    predict.main(context.args)
    return HOLDS
