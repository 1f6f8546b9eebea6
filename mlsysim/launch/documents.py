"""Texts that people paste or name by a path, JSON, TOML and YAML, as tables; what is wrong with one is told by its place."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mlsysim.core.checks import boolean, whole_number
from mlsysim.core.errors import DataError, InputError
from mlsysim.core.toml import file_text, parsed_toml

# A pasted text has lines or brackets; the path of a file has neither.
_PASTED = re.compile(r"[\n{}\[\]\"]")
_LONGEST_TEXT = 1_000_000
_LONGEST_YAML = 100_000  # its reader takes microseconds for each character
_LONGEST_PATH = 1024
# What a manifest of Kubernetes and a file of Docker Compose have, and no script.
_MANIFEST = re.compile(r"(?:^|[{,-])\s*image:\s", re.MULTILINE)
# Of YAML; a shell's && and a quoted * are none.
_ANCHOR, _REFERENCE = re.compile(r"&[\w-]"), re.compile(r"\*[\w-]")
_NEXT_DOCUMENT = re.compile(r"^---\s*$", re.MULTILINE)
_SHELL = re.compile(r"(?:\S*/)?(?:ba|da|z)?sh")
_RUNS_TEXT = re.compile(r"-\w*c")


class Table(dict[str, Any]):
    """A table of a document, whose values are checked as they are read; messages call it ``name``.

    Example:
        >>> Table({"steps": 1}, "x.toml: training").whole("steps", 8)
        1
    """

    def __init__(self, values: object, name: str) -> None:
        if not isinstance(values, dict):
            raise InputError(name, values, "a table of keys and values")
        super().__init__({str(key): value for key, value in values.items()})
        self.name = name

    def inner(self, key: str) -> Table:
        """The table under ``key``; empty where there is none."""
        value = self.get(key)
        return Table({} if value is None else value, f"{self.name}: {key}")

    def whole(self, key: str, default: int | None = None, minimum: int = 1) -> int:
        """A whole number under ``key``; the default where it is absent."""
        return whole_number(f"{self.name}.{key}", self.get(key, default), minimum)

    def flag(self, key: str) -> bool:
        """A truth value under ``key``; False where it is absent."""
        return boolean(f"{self.name}.{key}", self.get(key, False))

    def text(self, key: str, default: str) -> str:
        """A text under ``key``; the default where it is absent."""
        value = self.get(key, default)
        if not isinstance(value, str):
            raise InputError(f"{self.name}.{key}", value, "a text")
        return value


def text_of(source: str | Path, name: str, line: str = "") -> tuple[str, str]:
    """The text that ``source`` is or names, and what messages call it.

    Args:
        source: the path of a file, or a text pasted in.
        name: what messages call a text that is pasted in.
        line: what they call a line of words that is pasted in, where one may be: a path with blanks is then that of a file
            there is.

    Raises:
        InputError: it is neither, the file cannot be read, or it is longer than any launch file.

    Example:
        >>> text_of('{"a": 1}', "config.json")
        ('{"a": 1}', 'config.json')
        >>> text_of("absent.json", "config.json")
        Traceback (most recent call last):
        mlsysim.core.errors.InputError: config.json = 'absent.json': expected a file that can \
be read (No such file or directory)
    """
    if isinstance(source, str) and line and " " in source.strip() and not is_file(source):
        text, name = source, line
    elif isinstance(source, str) and (len(source) > _LONGEST_PATH or _PASTED.search(source)):
        text = source
    elif isinstance(source, (str, Path)) and str(source):
        try:
            text = file_text(Path(source), "")
        except DataError as error:
            reason = str(error).removeprefix(": ").removeprefix("cannot be read: ")
            raise InputError(name, str(source), f"a file that can be read ({reason})") from None
        name = str(source)
    else:
        raise InputError(name, source, "a path, or the text itself")
    if len(text) > _LONGEST_TEXT:
        raise InputError(name, text[:40], f"a text of at most {_LONGEST_TEXT} characters, not {len(text)}")
    return text, name


def is_file(path: str | Path) -> bool:
    r"""Whether there is an ordinary file at ``path``; a text that can be none has none.

    Example:
        >>> is_file("vllm serve model"), is_file("no\0path")
        (False, False)
    """
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def json_table(text: str, name: str) -> Table:
    """The table that a JSON text says; messages call it ``name``.

    Raises:
        InputError: it is no JSON, or no table; the message has the line and the column.

    Example:
        >>> json_table('{"hidden_size": }', "config.json")
        Traceback (most recent call last):
        mlsysim.core.errors.InputError: config.json, line 1, column 17 = '}': expected JSON: Expecting value
    """
    try:
        value = json.loads(text, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        place = f"{name}, line {error.lineno}, column {error.colno}"
        near = text[error.pos : error.pos + 20].split("\n", maxsplit=1)[0] or "the end of the text"
        raise InputError(place, near, f"JSON: {error.msg}") from None
    except RecursionError:
        raise InputError(name, text[:20], "JSON whose brackets are not nested so deeply") from None
    except ValueError as error:
        reason = "an integer has too many digits" if "digits" in str(error) else str(error)
        raise InputError(name, text[:20], f"JSON: {reason}") from None
    return Table(value, name)


def toml_table(text: str, name: str) -> Table:
    """The table that a TOML text says; messages call it ``name``.

    Raises:
        InputError: it is no TOML; the message has the line and the column.

    Example:
        >>> toml_table("seq_len =", "llama.toml")
        Traceback (most recent call last):
        mlsysim.core.errors.InputError: llama.toml = 'seq_len =': expected TOML: Invalid value (at end of document)
    """
    try:
        return Table(parsed_toml(text, name), name)
    except DataError as error:
        reason = str(error).removeprefix(f"{name}: ").removeprefix("cannot be read: ")
        raise InputError(name, text[:40].strip(), f"TOML: {reason}") from None


def yaml_table(text: str, name: str) -> Table:
    """The table that a YAML text says, read by PyYAML; messages call it ``name``.

    Raises:
        InputError: it is no YAML, or PyYAML is not installed.

    Example:
        >>> import pytest
        >>> _ = pytest.importorskip("yaml")
        >>> yaml_table("tp: 2", "run.yaml")
        {'tp': 2}
        >>> yaml_table("tp: [2", "run.yaml")
        Traceback (most recent call last):
        mlsysim.core.errors.InputError: run.yaml, line 1, column 7 = 'tp: [2': expected YAML: expected ',' \
or ']', but got '<stream end>'
    """
    try:
        yaml = importlib.import_module("yaml")
    except ModuleNotFoundError:
        raise InputError(name, "YAML", "the extra yaml: pip install 'mlsysim-anchors[yaml]'") from None
    if len(text) > _LONGEST_YAML:
        raise InputError(name, text[:20], f"YAML of at most {_LONGEST_YAML} characters, not {len(text)}")
    if _ANCHOR.search(text) and _REFERENCE.search(text):  # repeated references grow without end, and no launch file has them
        raise InputError(name, "&", "YAML without anchors and references")
    try:
        document = yaml.safe_load(text)
    except RecursionError:
        raise InputError(name, text[:20], "YAML whose brackets are not nested so deeply") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = name if mark is None else f"{name}, line {mark.line + 1}, column {mark.column + 1}"
        near = "" if mark is None else text.split("\n")[min(mark.line, text.count("\n"))][:40]
        raise InputError(place, near, f"YAML: {error.problem}") from None
    # A date that is none, a key that is a list.
    except (yaml.YAMLError, ValueError, OverflowError, AttributeError, TypeError) as error:
        raise InputError(name, text[:20], f"YAML: {str(error).splitlines()[0]}") from None
    return Table(document, name)


def is_manifest(text: str) -> bool:
    r"""Whether a text is a manifest of Kubernetes or a file of Docker Compose: it names images of containers.

    Example:
        >>> is_manifest("containers:\n- image: vllm/vllm-openai\n"), is_manifest("docker run vllm/vllm-openai")
        (True, False)
    """
    return bool(_MANIFEST.search(text))


def container_commands(text: str, name: str) -> Iterator[tuple[str, int]]:
    r"""The command line of each container of a manifest, as a shell's text, and how many copies of it run.

    An image without a command stands before its arguments. Plain values of its environment are put in.

    Raises:
        InputError: it is no YAML, or a command is none.

    Example:
        >>> import pytest
        >>> _ = pytest.importorskip("yaml")
        >>> pod = 'containers:\n- {name: server, image: "vllm/vllm-openai", args: ["--model", "Qwen/Qwen3-8B"]}'
        >>> list(container_commands(pod, "pod.yaml"))
        [('vllm/vllm-openai --model Qwen/Qwen3-8B', 1)]
    """
    for part in filter(_MANIFEST.search, _NEXT_DOCUMENT.split(text)):
        document = yaml_table(part, name)
        called = ("entrypoint", "command") if "services" in document else ("command", "args")
        for container, copies in _containers(document, document.inner("spec").get("replicas")):
            words = [word for key in called for word in _words(container.get(key), f"{name}: {key}")]
            if container.get(called[0]) is None:
                words.insert(0, str(container["image"]))
            for variable, value in _environment(container, name):
                words = [word.replace(f"$({variable})", value).replace(f"${{{variable}}}", value) for word in words]
            count = 1 if copies is None else whole_number(f"{name}: replicas", copies)
            yield handed_text(words) or shlex.join(words), count


def _containers(value: object, copies: object) -> Iterator[tuple[dict[str, Any], object]]:
    """The tables that name an image, with the copies that they or a table around them state."""
    if isinstance(value, dict):
        deployed = value.get("deploy")
        copies = deployed.get("replicas", copies) if isinstance(deployed, dict) else copies
        if isinstance(value.get("image"), str):
            yield value, copies
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _containers(one, copies)


def _words(value: object, name: str) -> list[str]:
    """The words of a command, which is a list, or the text of a shell."""
    if value is None:
        return []
    if isinstance(value, str):
        try:
            return shlex.split(value)
        except ValueError as error:
            raise InputError(name, value[:40], f"words of a shell ({str(error).lower()})") from None
    if not isinstance(value, list):
        raise InputError(name, value, "a list of words")
    return [str(one) for one in value]


def _environment(container: Mapping[str, Any], name: str) -> Iterator[tuple[str, str]]:
    """The variables whose values a container's table states."""
    stated = container.get("env") or container.get("environment") or []
    if not isinstance(stated, (list, dict)):
        raise InputError(f"{name}: env", stated, "a list or a table of variables")
    if isinstance(stated, dict):
        stated = [{"name": key, "value": value} for key, value in stated.items()]
    for one in stated:
        if isinstance(one, str):
            variable, _, value = one.partition("=")
            yield variable, value
        elif isinstance(one, dict) and {"name", "value"} <= one.keys():
            yield str(one["name"]), str(one["value"])


def handed_text(words: Sequence[str]) -> str:
    """The text that a command hands to a shell, which runs it; empty where there is none.

    Example:
        >>> handed_text(["docker", "run", "--entrypoint", "bash", "image", "-c", "vllm serve m"])
        'vllm serve m'
    """
    shell = next((place for place, word in enumerate(words) if _SHELL.fullmatch(word)), len(words))
    return next(
        (text for option, text in zip(words[shell:], words[shell + 1 :], strict=False) if _RUNS_TEXT.fullmatch(option)), ""
    )


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")
