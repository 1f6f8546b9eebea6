"""All commands of ``mlsysim`` as one typer application: a file a command, listed here."""

from __future__ import annotations

import functools
from typing import Annotated, Any

import typer

from mlsysim import __version__
from mlsysim.cli import anchor, calibrate, predict
from mlsysim.cli.exits import HOLDS, MEANINGS


def run(words: list[str]) -> int:
    """Runs the application.

    Args:
        words: the command and its arguments.

    Returns:
        The exit code.

    Raises:
        MLSysError: what a command was given is wrong, or cannot run.
    """
    try:
        _command()(args=words, prog_name="mlsysim")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else HOLDS
    return HOLDS


@functools.cache
def _command() -> Any:
    """The application with all commands; made once a process, for typer changes what it is made of."""
    app = typer.Typer(help=f"First-principles performance models of ML systems. {MEANINGS}", add_completion=False)
    app.callback(invoke_without_command=True)(_version)
    anchors = typer.Typer(help="Your own measurements as tests of pytest.")
    anchors.command("new")(anchor.new)
    app.add_typer(anchors, name="anchor")
    app.command("calibrate")(calibrate.calibrate)
    # Its arguments are read, and its help is written, where typer is missing too.
    passed_on = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command("predict", context_settings=passed_on)(_predict)
    return typer.main.get_command(app)


def _version(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False
) -> None:
    if version:
        typer.echo(f"mlsysim {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _predict(context: typer.Context) -> None:
    """Predict every row of a table of training or serving runs."""
    predict.main(context.args)
