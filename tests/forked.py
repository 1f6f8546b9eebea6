"""What must not leave traces in this process runs in a fork of it, which has read the package and its data already."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

# Seconds after which a fork is ended: a lock that another thread held when it began is held in it for ever.
LONGEST_S = 300


class Done(NamedTuple):
    """How a fork ended, and what it wrote."""

    code: int
    stdout: str
    stderr: str


def forked(task: Callable[[], object], folder: Path, stdin: str = "") -> Done:
    """Runs a task in a fork of this process, whose standard input and outputs are files of ``folder``.

    Args:
        task: what runs; its fork ends with 0 where it returns, with the code of a ``SystemExit``, else with 1 and a traceback.
            A signal, such as the alarm after ``LONGEST_S``, ends it with that number below 0.
        folder: where the files are written.
        stdin: what the task reads.
    """
    paths = [folder / name for name in ("stdin", "stdout", "stderr")]
    for path, text in zip(paths, (stdin, "", ""), strict=True):
        path.write_text(text, "utf-8")
    with warnings.catch_warnings():  # threads that other tests have left do nothing that the fork waits for
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LONGEST_S)
            code = _in_the_fork(task, paths)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return Done(os.waitstatus_to_exitcode(status), *(path.read_text("utf-8") for path in paths[1:]))


def _in_the_fork(task: Callable[[], object], paths: list[Path]) -> int:
    for number, path in enumerate(paths):
        os.dup2(os.open(path, os.O_RDWR), number)
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode, encoding="utf-8") for number, mode in enumerate("rww"))  # noqa: PTH123, SIM115
    code = 0
    try:
        task()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def module(name: str, *arguments: str) -> Callable[[], object]:
    """The task ``python -m NAME ARGUMENTS``."""

    def run() -> None:
        sys.argv = [name, *arguments]
        runpy.run_module(name, run_name="__main__", alter_sys=True)

    return run


def anew(code: str) -> Callable[[], object]:
    """The task of running code that imports the package anew; what the package itself imports of others is there already."""

    def run() -> None:
        without("mlsysim")
        exec(compile(code, "<anew>", "exec"), {"__name__": "__main__"})

    return run


def without(*packages: str) -> None:
    """Forgets what has been imported of some packages."""
    for name in list(sys.modules):
        if name.split(".")[0] in packages:
            del sys.modules[name]
