"""Words of a shell script, with what plain variables and arrays stand for put in; nothing is ever run."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from mlsysim.core.errors import InputError

# Around the name of what could not be resolved.
MARK = "\0"
_LONGEST_VALUE = 20_000
MOST_WORDS = 20_000
_MOST_EXPANDED = 2_000_000  # characters of all variables put in
_DEEPEST = 20
_NAME = re.compile(r"[A-Za-z_]\w*")
_DEFAULT = re.compile(r"([A-Za-z_]\w*|\d)(:?[-=])(.*)", re.DOTALL)
_ELEMENTS = re.compile(r"([A-Za-z_]\w*)\[([@*])\]")
_PLAIN = re.compile(r"[^\s;&|()<>'\"\\$`]+")
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


@dataclass(frozen=True)
class Command:
    """A command of a script: its words, the variables set before it, and its line."""

    words: tuple[str, ...]
    environment: dict[str, str]
    line: int


@dataclass
class Script:
    """What a script says.

    Attributes:
        commands: in the order of its lines, those of all branches.
        variables: texts, and lists of words for arrays, as they stand at the end.
        documents: texts that the script writes to files (``cat > extra.yaml <<EOF``), by the file's name.
        branches: lines at which it branches or repeats, of which every side is read.
        expanded: characters that variables have put in so far.
    """

    commands: list[Command] = field(default_factory=list)
    variables: dict[str, str | list[str]] = field(default_factory=dict)
    documents: dict[str, str] = field(default_factory=dict)
    branches: list[int] = field(default_factory=list)
    expanded: int = 0


class WordReader:
    """Reads words of a text at ``at``, with what variables stand for put in."""

    def __init__(self, text: str, name: str, script: Script, depth: int = 0) -> None:
        self.text, self.name, self.out, self.depth = text, name, script, depth
        self.at = self._counted = 0
        self._lines = 1

    def line(self) -> int:
        """The number of the line that is read."""
        if self.at < self._counted:
            return self.text.count("\n", 0, self.at) + 1
        self._lines += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._lines

    def error(self, value: str, expected: str) -> InputError:
        """An error about ``value`` on this line."""
        return InputError(f"{self.name}, line {self.line()}", value, expected)

    def word(self, split: bool = True) -> list[str]:
        """Reads one word: none or several where a variable has none or several."""
        fields: list[str] = []
        current: str | None = None
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in " \t\n;&|()<>":
                break
            if char == "'":
                end = self._closing("'")
                current = (current or "") + self.text[self.at + 1 : end]
                self.at = end + 1
            elif char == '"':
                pieces = self._quoted()
                current = (current or "") + pieces[0]
                for piece in pieces[1:]:
                    fields.append(current)
                    current = piece
            elif self.text.startswith("\\\n", self.at):
                self.at += 2
            elif char == "\\" and self.at + 1 < len(self.text):
                current = (current or "") + self.text[self.at + 1]
                self.at += 2
            elif char in "$`":
                value = self._expanded()
                texts = [value] if isinstance(value, str) else value
                self._spend(sum(len(one) for one in texts))
                for number, one in enumerate(texts):
                    parts = one.split() if split else [one]
                    starts_apart = number > 0 or (split and one[:1].isspace())
                    for place, part in enumerate(parts):
                        if current is not None and (place > 0 or starts_apart):
                            fields.append(current)
                            current = None
                        current = (current or "") + part
                    if parts and split and one[-1:].isspace() and current is not None:
                        fields.append(current)
                        current = None
            else:
                plain = _PLAIN.match(self.text, self.at)
                told = plain[0] if plain else char
                current = (current or "") + told
                self.at += len(told)
            self.checked(current or "")
        return fields if current is None else [*fields, current]

    def _quoted(self) -> list[str]:
        """The pieces of a text in double quotes: several where it has all elements of an array."""
        start, self.at = self.at, self.at + 1
        pieces = [""]
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == '"':
                self.at += 1
                return pieces
            if char == "\\" and self.at + 1 < len(self.text):
                escaped = self.text[self.at + 1]
                pieces[-1] += "" if escaped == "\n" else escaped if escaped in '"\\$`' else "\\" + escaped
                self.at += 2
            elif char in "$`":
                value = self._expanded()
                self._spend(len(value) if isinstance(value, str) else sum(map(len, value)))
                if isinstance(value, str):
                    pieces[-1] += value
                elif value:
                    pieces[-1] += value[0]
                    pieces += value[1:]
            else:
                plain = _PLAIN.match(self.text, self.at)
                told = plain[0] if plain else char
                pieces[-1] += told
                self.at += len(told)
            self.checked(pieces[-1])
        self.at = start
        raise self.error('"', 'a closing "')

    def _closing(self, quote: str) -> int:
        end = self.text.find(quote, self.at + 1)
        if end < 0:
            raise self.error(quote, f"a closing {quote}")
        return end

    def _expanded(self) -> str | list[str]:
        """What stands for the text that begins with a dollar or a backtick."""
        start = self.at
        if self.text[start] == "`":
            self.at = self._closing("`") + 1
            return f"{MARK}`...`{MARK}"
        if self.text.startswith("$((", start):
            end = self.text.find("))", start)
            if end < 0:
                raise self.error("$((", "closing ))")
            self.at = end + 2
            value = self._arithmetic(self.text[start + 3 : end])
            return f"{MARK}$((...)){MARK}" if value is None else str(value)
        if self.text.startswith("$(", start):
            self.at = self._balanced(start + 1, "(", ")")
            return f"{MARK}$(...){MARK}"
        if self.text.startswith("${", start):
            self.at = self._balanced(start + 1, "{", "}")
            return self._parameter(self.text[start + 2 : self.at - 1])
        named = _NAME.match(self.text, start + 1)
        if named is None:
            self.at = min(len(self.text), start + 2)
            special = self.text[start + 1 : start + 2]
            return f"{MARK}${special}{MARK}" if special and special in "0123456789@#*?!$" else "$" + special
        self.at = named.end()
        return self._variable(named[0])

    def _balanced(self, start: int, opening: str, closing: str) -> int:
        depth = 0
        for place in range(start, len(self.text)):
            depth += (self.text[place] == opening) - (self.text[place] == closing)
            if not depth:
                return place + 1
        raise self.error("$" + opening, f"a closing {closing}")

    def _variable(self, name: str) -> str | list[str]:
        value = self.out.variables.get(name)
        if value is None:
            return f"{MARK}${name}{MARK}"
        return value if isinstance(value, str) else value[0] if value else ""

    def _parameter(self, inside: str) -> str | list[str]:
        """What ``${...}`` stands for: a variable, all of an array, or a default where it is unset."""
        if _NAME.fullmatch(inside):
            return self._variable(inside)
        elements = _ELEMENTS.fullmatch(inside)
        if elements:
            value = self.out.variables.get(elements[1])
            if value is None:
                return f"{MARK}${{{inside}}}{MARK}"
            items = value if isinstance(value, list) else [value]
            return items if elements[2] == "@" else " ".join(items)
        default = _DEFAULT.fullmatch(inside)
        if default is None:
            return f"{MARK}${{{inside[:40]}}}{MARK}"
        value = self.out.variables.get(default[1])
        if value is not None and (value or default[2][0] != ":"):
            return self._variable(default[1])
        if self.depth >= _DEEPEST:
            raise self.error(inside[:40], f"defaults within each other at most {_DEEPEST} deep")
        quoted = default[3].strip("\"'").replace('"', '\\"')
        told = " ".join(WordReader(f'"{quoted}"', self.name, self.out, self.depth + 1)._quoted())
        if default[2].endswith("="):
            self.out.variables[default[1]] = told
        return told

    def _arithmetic(self, text: str) -> int | None:
        """The value of whole numbers and variables added, subtracted, multiplied and divided; None for anything else."""
        plain = re.sub(r"\$\{?(\w+)\}?", r"\1", text).strip()
        if len(plain) > 200:
            return None
        try:
            return self._whole(ast.parse(plain, mode="eval").body)
        except (SyntaxError, ValueError, RecursionError, ZeroDivisionError, MemoryError):
            return None

    def _whole(self, node: ast.AST) -> int:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, ast.Name):
            return int(str(self._variable(node.id))[:20])
        if isinstance(node, ast.BinOp):
            compute = _OPERATORS.get(type(node.op))
            if compute is not None:
                value = compute(self._whole(node.left), self._whole(node.right))
                if abs(value) < 10**15:
                    return value
        raise ValueError("no plain arithmetic")

    def _spend(self, characters: int) -> None:
        self.out.expanded += characters
        if self.out.expanded > _MOST_EXPANDED:
            raise self.error("$", f"variables of at most {_MOST_EXPANDED} characters in all")

    def checked(self, value: str) -> str:
        """``value``, where it is no longer than any that is meant."""
        if len(value) > _LONGEST_VALUE:
            raise self.error(value[:20], f"a value of at most {_LONGEST_VALUE} characters")
        return value
