"""Scenarios in TOML files: one, or several that share what stands at the top."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlsysim.core.errors import DataError, InputError, UnknownNameError
from mlsysim.core.toml import file_text, merged, parsed_toml
from mlsysim.scenarios.scenario import KEYS, Scenario

# Tables that stand beside the scenario's own keys, each a further question that differs in what it states.
QUESTION = "question"


def load_config(path: str | Path) -> Scenario:
    r"""Read a scenario from a TOML file, and check it by asking its solver once.

    Returns:
        The scenario; of a file with several, the first.

    Raises:
        DataError: the file cannot be read.
        InputError: something in it is wrong; the message has the file and the line.

    Example:
        >>> import tempfile
        >>> text = 'model = "Llama-3-8B"\non = "H100"\nlimits = ["itl < 20 ms"]\n[serve]\ninput_len = 512\noutput_len = 64'
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "scenario.toml")
        ...     _ = file.write_text(text, encoding="utf-8")
        ...     load_config(file).scorecard().holds
        True
    """
    return scenarios_in(path)[0]


def scenarios_in(path: str | Path) -> tuple[Scenario, ...]:
    """Read every scenario of a TOML file: its own, or one for each ``[[question]]``, which states what differs.

    Raises:
        DataError: the file cannot be read.
        InputError: something in it is wrong; the message has the file and the line.
    """
    if not isinstance(path, (str, Path)):
        raise InputError("path", type(path).__name__, "the path of a TOML file")
    file = Path(path)
    text = file_text(file, str(file))
    document = parsed_toml(text, str(file))
    questions = document.pop(QUESTION, None)
    if questions is None:
        return (_scenario(document, str(file), text, 0),)
    if not isinstance(questions, list) or not questions or not all(isinstance(one, dict) for one in questions):
        raise DataError(f"{file}: {QUESTION}: expected tables [[{QUESTION}]]")
    starts = [number for number, line in enumerate(text.splitlines()) if line.strip() == f"[[{QUESTION}]]"]
    starts += [0] * (len(questions) - len(starts))
    return tuple(
        _scenario(_asked(document, one), str(file), text, start) for one, start in zip(questions, starts, strict=False)
    )


def _scenario(table: Mapping[str, Any], file: str, text: str, start: int) -> Scenario:
    try:
        for key in table:
            if key not in KEYS:
                raise UnknownNameError.among("key", key, (*KEYS, QUESTION))
        for key in ("model", "on"):
            if key not in table:
                raise InputError(key, None, "a name: it is missing")
        scenario = Scenario(**table)
        known = scenario.figures if scenario.answer.feasible else None
        for limit in scenario.limits if known is not None else ():
            limit.known_among(sorted(known or ()))
            limit.in_unit_of((known or {})[limit.name].value)
    except InputError as error:
        line = _line(text, error, start)
        error.args = (f"{file}:{line}: {error}" if line else f"{file}: {error}",)
        raise
    return scenario


def _line(text: str, error: InputError, start: int) -> int | None:
    """The line in which what is wrong stands: the key that the error names or that is its value, first after ``start``."""
    lines: list[str] = text.splitlines()
    order = [*range(start, len(lines)), *range(start)]
    words: list[str] = [word for word in (error.value, error.argument.rpartition(".")[2]) if isinstance(word, str) and word]
    for word in words:
        key = re.compile(rf"(^|[\s{{,])[\"']?{re.escape(word)}[\"']?\s*=|[\"']{re.escape(word)}[\"'\s<>=]")
        for number in order:
            if key.search(lines[number].partition("#")[0]):
                return int(number) + 1
    return None


def _asked(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` on top, table by table; training in the place of serving, and the other way round."""
    document = merged(base, over)
    for stated, left in (("train", "serve"), ("serve", "train")):
        if stated in over and left not in over:
            document.pop(left, None)
    return document
