"""The command line: ``mlsysim COMMAND ...``, also ``python -m mlsysim COMMAND ...``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from mlsysim import __version__
from mlsysim.cli.commands import ALONE, COMMANDS
from mlsysim.cli.exits import BAD_INPUT, FAULT, HOLDS, INFEASIBLE, INTERRUPTED
from mlsysim.core.errors import InfeasibleError, MLSysError

# Commands that the ``cli`` extra brings, by their first word.
WITH_TYPER = tuple(dict.fromkeys(command.name.split()[0] for command in COMMANDS if command.name != ALONE))
# The variable of the environment by which an error that nobody foresaw shows where it arose.
TRACEBACK = "MLSYSIM_TRACEBACK"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        The exit code: 0 where all holds, 1 where an assertion fails, 2 for bad input, which is told in one line, 3 for
        what cannot run; 70 for a fault of mlsysim itself.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(words)
        sys.stdout.flush()  # else the end of the process finds out that nobody reads
        return code
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return HOLDS
    except KeyboardInterrupt:
        return INTERRUPTED
    except InfeasibleError as error:
        return _told(words, error, INFEASIBLE)
    except MLSysError as error:
        return _told(words, error, BAD_INPUT)
    except OSError as error:
        return _told(words, f"{error.filename}: {error.strerror}" if error.filename else error, BAD_INPUT)
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        return _told(words, f"{type(error).__name__}: {error}: a fault of mlsysim itself; {TRACEBACK}=1 shows where", FAULT)


def _told(words: Sequence[str], error: object, code: int) -> int:
    told = words[0] if words and not words[0].startswith("-") else ""
    print(f"mlsysim {told}".rstrip() + f": {error}", file=sys.stderr)
    return code


def _run(words: list[str]) -> int:
    try:
        importlib.import_module("typer")
        importlib.import_module("rich")
    except ImportError:
        return _without_typer(words)
    from mlsysim.cli.app import run

    return run(words)


def _without_typer(words: list[str]) -> int:
    """Runs what needs no extra."""
    parser = argparse.ArgumentParser(prog="mlsysim", description="First-principles performance models of ML systems.")
    parser.add_argument("--version", action="version", version=f"mlsysim {__version__}")
    parser.add_argument(
        "command", choices=("predict", *WITH_TYPER), metavar="predict", help="predict every row of a table of runs"
    )
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    if words[:1] != ["predict"]:
        parser.parse_args(words)
        raise MLSysError("it needs typer: pip install 'mlsysim-anchors[cli]'")
    from mlsysim.cli import predict

    predict.main(words[1:])
    return HOLDS
