"""Options of a command line, read by a table of what they are called and what their values are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlsysim.core.checks import real_number, whole_number
from mlsysim.core.errors import InputError
from mlsysim.launch.documents import json_table
from mlsysim.launch.shell import resolved
from mlsysim.launch.shell_words import MARK

_SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
_DEFAULT = ("auto", "-1", "none", "null", "")


@dataclass(frozen=True, kw_only=True)
class LaunchNotes:
    """What is to be told of a launch file, or of a command line, beside what it states.

    Attributes:
        assumed: what it leaves open or what is simplified, each with what stands for it.
        ignored: options that change no answer.
        unknown: options that nobody described here: read them before the answer is believed.
    """

    assumed: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(kw_only=True)
class NotesTaken:
    """What ``LaunchNotes`` will tell, as it is collected."""

    assumed: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


@dataclass
class Stated(NotesTaken):
    """What a command line or a file states.

    Attributes:
        values: by our name of the option.
        others: words that belong to no option.
    """

    values: dict[str, Any] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)

    def get(self, name: str, default: Any = None) -> Any:
        """The value of an option by our name, or the default where the line leaves it out."""
        return self.values.get(name, default)


def read_options(words: Sequence[str], table: Mapping[str, Any]) -> Stated:
    """The options among the words of a command, by the table that ``serve_options.toml`` has of its engine.

    Raises:
        InputError: an option has no value, or one that it does not take.

    Example:
        >>> table = {"read": {"tp": {"names": ["--tp"], "kind": "whole"}}, "ignored": {"values": ["--port"]}}
        >>> stated = read_options(["model", "--tp=2", "--port", "80", "--new", "x"], table)
        >>> stated.values, stated.others, stated.ignored, stated.unknown
        ({'tp': 2}, ['model'], ['--port 80'], ['--new x'])
    """
    known = {name: (field_name, entry) for field_name, entry in table["read"].items() for name in entry["names"]}
    noted: Mapping[str, Any] = table.get("assumed", {})
    values, switches = table.get("ignored", {}).get("values", ()), table.get("ignored", {}).get("switches", ())
    stated = Stated()
    nested: dict[str, dict[str, Any]] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        if not _is_option(word):
            stated.others.append(word)
            continue
        name, _, given = word.partition("=")
        name, value = _dashed(name), given if "=" in word else None
        positive = name.replace("--no-", "--", 1)
        if name in known or (positive in known and known[positive][1]["kind"] == "switch"):
            field_name, entry = known.get(name) or known[positive]
            if entry["kind"] == "switch":
                stated.values[field_name] = (name in known) == _switched(name, value)
            else:
                stated.values[field_name] = option_value(name, entry["kind"], _taken(name, value, left, entry["kind"]))
        elif name in noted:
            told = "" if noted[name]["kind"] == "switch" else f" {_taken(name, value, left, noted[name]['kind'])}"
            stated.assumed.append(f"{name}{told[:80]}: {noted[name]['note']}")
        elif name in values:
            stated.ignored.append(f"{name} {_taken(name, value, left, 'text')}")
        elif name in switches or positive in switches:
            stated.ignored.append(name)
        elif "." in name and name.split(".")[0] in known:
            nested.setdefault(name.split(".")[0], {})[name.split(".", 1)[1].replace("-", "_")] = _taken(
                name, value, left, "text"
            )
        else:
            told = value if value is not None else left.pop(0) if left and not _is_option(left[0]) else ""
            stated.unknown.append(f"{name} {told}".strip()[:200].replace(MARK, ""))
    for name, inside in nested.items():
        field_name = known[name][0]
        stated.values[field_name] = stated.values.get(field_name, {}) | {key: _typed(one) for key, one in inside.items()}
    return stated


def read_keys(document: Mapping[str, Any], table: Mapping[str, Any], name: str) -> Stated:
    """The options that a file states by keys, those of inner tables with dots; an entry's ``key`` is what files call it.

    Raises:
        InputError: a value is none that the option takes.

    Example:
        >>> table = {"read": {"cache": {"names": [], "kind": "text", "key": "kv.dtype"}}}
        >>> stated = read_keys({"kv": {"dtype": "fp8", "new": 1}}, table, "x.yaml")
        >>> stated.values, stated.unknown
        ({'cache': 'fp8'}, ['kv.new'])
    """
    known = {entry["key"]: (field_name, entry) for field_name, entry in table["read"].items() if "key" in entry}
    noted = {entry["key"]: entry for entry in table.get("assumed", {}).values() if "key" in entry}
    ignored = table.get("ignored", {}).get("keys", ())
    stated = Stated()
    flat: list[tuple[str, Any]] = [(str(key), value) for key, value in document.items()]
    while flat:
        key, value = flat.pop(0)
        if key in known:
            field_name, entry = known[key]
            if value is not None:
                stated.values[field_name] = keyed_value(f"{name}: {key}", entry["kind"], value)
        elif key in noted:
            stated.assumed.append(f"{key} = {json.dumps(value, default=str)[:80]}: {noted[key]['note']}")
        elif key in ignored:
            stated.ignored.append(key)
        elif isinstance(value, Mapping) and value and key.count(".") < 4:
            flat += [(f"{key}.{inside}", one) for inside, one in value.items()]
        else:
            stated.unknown.append(key[:200])
    return stated


def option_value(name: str, kind: str, text: str) -> Any:
    """The value that an option's text says, of a kind that ``serve_options.toml`` lists; None where it says the default.

    Raises:
        InputError: it is no such value.

    Example:
        >>> option_value("--n", "tokens", "8k"), option_value("--n", "tokens", "8K"), option_value("--n", "tokens", "auto")
        (8000, 8192, None)
    """
    if kind == "word":  # as it stands: the caller knows what to make of a part that comes from elsewhere
        return text
    text = resolved(name, text).strip()
    if kind == "json":
        return json_table(text, name)
    if kind in ("whole", "count", "tokens"):
        if kind == "tokens" and text.lower() in _DEFAULT:
            return None
        times = _SUFFIXES.get(text[-1:], 1) if kind == "tokens" else 1
        plain = text[:-1] if times > 1 else text
        if not plain.isascii() or not plain.replace(".", "", 1).isdigit() or len(plain) > 18 or (times == 1 and "." in plain):
            raise InputError(name, text, "a whole number")
        number = int(float(plain) * times) if times > 1 else int(plain)
        return whole_number(name, number, 0 if kind == "whole" else 1)
    if kind in ("share", "real"):
        return keyed_value(name, kind, _typed(text))
    return text


def keyed_value(name: str, kind: str, value: object) -> Any:
    """The value of an option that a file states, checked to be of its kind.

    Raises:
        InputError: it is of another kind.

    Example:
        >>> keyed_value("x.yaml: stream_interval", "whole", 10)
        10
    """
    if kind in ("whole", "count", "tokens"):
        return whole_number(name, value, 0 if kind == "whole" else 1)
    if kind == "share":
        return real_number(name, value, 0.0, 1.0)
    if kind == "real":
        return real_number(name, value, 0.0)
    if kind == "switch" and not isinstance(value, bool):
        raise InputError(name, value, "true or false")
    if kind == "text" and not isinstance(value, str):
        raise InputError(name, value, "a text")
    return value


def _is_option(word: str) -> bool:
    return word.startswith("-") and len(word) > 1 and not word[1:].replace(".", "", 1).isdigit()


def _dashed(name: str) -> str:
    return name.replace("_", "-").replace(MARK, "")


def _taken(name: str, value: str | None, left: list[str], kind: str) -> str:
    """The option's value: what stands behind its sign, else the next word, or all of a list."""
    if value is not None:
        return value
    if not left or _is_option(left[0]):
        if kind == "optional":
            return ""
        raise InputError(name, None, "a value after it")
    told = left.pop(0)
    while kind == "list" and left and not _is_option(left[0]):
        told += f" {left.pop(0)}"
    return told.replace(MARK, "") if kind == "list" else told


def _switched(name: str, value: str | None) -> bool:
    if value is None or value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise InputError(name, value, "no value, true or false")


def _typed(text: str) -> Any:
    """A text as the number or the truth value that it says."""
    try:
        return json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return text
