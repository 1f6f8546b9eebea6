"""A shell script as the commands that it would run: plain assignments and arrays are resolved, and nothing is ever run.

What a script takes from elsewhere (``$(...)``, an unset variable) is marked in the words; ``resolved`` refuses such a word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mlsysim.core.errors import InputError
from mlsysim.launch.shell_words import MARK, MOST_WORDS, Command, Script, WordReader

_ASSIGNED = re.compile(r"([A-Za-z_]\w*)(\+?)=")
_REDIRECTED = re.compile(r"\d?[<>]+&?[ \t]*")
_HEREDOC = re.compile(r"<<-?\s*(['\"]?)(\w+)\1")
_DECLARING = frozenset(("export", "declare", "local", "readonly", "typeset", "set"))
# Words of the shell's own before a command; branches among them.
_KEYWORDS = frozenset(("then", "do", "else", "fi", "done", "esac", "{", "}", "time", "exec", "sudo", "nohup"))
_BRANCHES = frozenset(("if", "elif", "for", "while", "until", "case"))


def read_script(text: str, name: str, variables: Mapping[str, str] | None = None) -> Script:
    r"""The commands of a shell script or of one pasted command line, with ``variables`` set before it begins.

    Raises:
        InputError: a quote or a bracket is never closed, or a value grows beyond any that is meant.

    Example:
        >>> script = 'GPUS=8\nARGS=(--bf16 --lr 3e-4)\ntorchrun -n ${GPUS:-4} train.py "${ARGS[@]}"'
        >>> read_script(script, "run.sh").commands[0].words
        ('torchrun', '-n', '8', 'train.py', '--bf16', '--lr', '3e-4')
        >>> read_script('echo "a', "run.sh")
        Traceback (most recent call last):
        mlsysim.core.errors.InputError: run.sh, line 1 = '"': expected a closing "
    """
    return _Reader(text.replace("\r\n", "\n"), name, Script(variables=dict(variables or {}))).script()


def resolved(argument: str, word: str) -> str:
    """``word``, where the script says all of it.

    Raises:
        InputError: part of it comes from elsewhere.

    Example:
        >>> resolved("--tp", read_script("vllm serve m --tp $TP", "line").commands[0].words[-1])
        Traceback (most recent call last):
        mlsysim.core.errors.InputError: --tp = '$TP': expected a value: the text does not say what $TP is
    """
    if MARK in word:
        missing = word.split(MARK)[1]
        raise InputError(argument, word.replace(MARK, ""), f"a value: the text does not say what {missing} is")
    return word


class _Reader(WordReader):
    """Reads a script once from its beginning to its end."""

    def __init__(self, text: str, name: str, script: Script) -> None:
        super().__init__(text, name, script)
        self.pending: list[tuple[str, str]] = []  # here-documents that begin after this line: delimiter and file

    def script(self) -> Script:
        """All commands of the text."""
        while self.at < len(self.text):
            self._command()
        return self.out

    def _command(self) -> None:
        """Reads one simple command up to its end; what follows is the next."""
        line = self.line()
        words: list[str] = []
        environment: dict[str, str] = {}
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in " \t":
                self.at += 1
            elif self.text.startswith("\\\n", self.at):
                self.at += 2
            elif char == "#":
                self._skip_line()
            elif char in "\n;&|()":
                self._end(char)
                break
            elif not words and (assigned := _ASSIGNED.match(self.text, self.at)):
                self._assign(assigned, environment)
            elif char in "<>" or (char.isdigit() and self.text[self.at + 1 : self.at + 2] in ("<", ">")):
                self._redirect()
            else:
                fields = self.word()
                if not words and fields and fields[0] in _BRANCHES:
                    self.out.branches.append(line)
                    fields = []
                if words or not fields or (fields[0] not in _KEYWORDS and fields[0] not in _DECLARING):
                    words += fields
                if len(words) > MOST_WORDS:
                    raise self.error(words[0], f"a command of at most {MOST_WORDS} words")
        if words:
            self.out.commands.append(Command(tuple(words), environment, line))
        elif environment:
            self.out.variables |= environment

    def _end(self, char: str) -> None:
        self.at += 1
        if char != "\n":
            return
        for delimiter, file in self.pending:
            end = re.compile(rf"^\t*{re.escape(delimiter)}[ \t]*$", re.MULTILINE).search(self.text, self.at)
            if end is None:
                raise self.error(delimiter, f"a line {delimiter} at the end of the document")
            self.out.documents[file] = self.text[self.at : end.start()]
            self.at = end.end()
        self.pending = []

    def _redirect(self) -> None:
        """Skips a redirection; of a here-document the text is kept under the file that the line writes to."""
        heredoc = _HEREDOC.match(self.text, self.at)
        if heredoc:
            end = self.text.find("\n", self.at)
            line = self.text[self.text.rfind("\n", 0, self.at) + 1 : len(self.text) if end < 0 else end]
            target = re.search(r"(?<![<>])>>?\s*([^\s<>|&;]+)", line) or re.search(r"\btee\s+([^\s<>|&;-]+)", line)
            self.pending.append((heredoc[2], target[1].strip("'\"") if target else ""))
            self.at = heredoc.end()
            return
        match = _REDIRECTED.match(self.text, self.at)
        self.at = match.end() if match else self.at + 1
        if self.at < len(self.text) and self.text[self.at] not in "\n;&|()<> \t":
            self.word()

    def _skip_line(self) -> None:
        end = self.text.find("\n", self.at)
        self.at = len(self.text) if end < 0 else end

    def _assign(self, assigned: re.Match[str], environment: dict[str, str]) -> None:
        name, adds = assigned[1], bool(assigned[2])
        self.at = assigned.end()
        before = self.out.variables.get(name, "")
        if self.text.startswith("(", self.at):
            items = self._array()
            held = before if isinstance(before, list) else [before] if before else []
            self.out.variables[name] = held + items if adds else items
            return
        fields = self.word(split=False) if self.at < len(self.text) and self.text[self.at] not in " \t\n;&|()" else [""]
        value = (before if isinstance(before, str) else " ".join(before)) * adds + " ".join(fields)
        environment[name] = self.checked(value)

    def _array(self) -> list[str]:
        self.at += 1
        items: list[str] = []
        while self.at < len(self.text) and self.text[self.at] != ")":
            if self.text[self.at] in " \t\n":
                self.at += 1
            elif self.text.startswith("\\\n", self.at):
                self.at += 2
            elif self.text[self.at] == "#":
                self._skip_line()
            elif self.text[self.at] in ";&|(<>":
                raise self.error(self.text[self.at], "words of an array and a closing )")
            else:
                items += self.word()
            if len(items) > MOST_WORDS:
                raise self.error(items[0], f"an array of at most {MOST_WORDS} words")
        if self.at >= len(self.text):
            raise self.error("(", "a closing )")
        self.at += 1
        return items
