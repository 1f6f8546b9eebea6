"""The snippets of a page are run, in its order; the site shows what each printed, so that no number on it was typed.

Blocks of Python share their names. In a block ``console``, lines that begin with ``$`` are commands. A block with a title is a
file of that name, which later blocks read. Pictures that a page saves are part of the site.

MkDocs calls ``on_page_markdown`` when it builds the site; the tests run the same snippets, and so does
``python docs/snippets.py PAGE``.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
_PICTURES = (".svg", ".png")


class Snippet(NamedTuple):
    """A fenced block: its language, the file that it is (empty for none), its text, and where it ends in its page."""

    language: str
    title: str
    text: str
    end: int

    @property
    def runs(self) -> bool:
        """Whether it is code that is run, not a file."""
        return not self.title and self.language in ("python", "console")

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a console."""
        return [shlex.split(line[1:]) for line in self.text.splitlines() if line.startswith("$")]


class SnippetError(Exception):
    """A snippet did not run."""


def snippets(page: str) -> list[Snippet]:
    """The fenced blocks of a page."""
    return [Snippet(match[1], match[2] or "", match[3], match.end()) for match in _FENCE.finditer(page)]


@contextlib.contextmanager
def session() -> Iterator[Path]:
    """A folder in which the snippets of a page run, with the repository's examples in it."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "examples").symlink_to(ROOT / "examples")
        with contextlib.chdir(folder):
            yield Path(folder)


def printed(page: str, folder: Path) -> Iterator[tuple[Snippet, str]]:
    """Runs the snippets of a page in a folder that is the current one.

    Args:
        page: its Markdown.
        folder: where files are written.

    Yields:
        Each snippet that is run, and what it printed.

    Raises:
        SnippetError: one does not run.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    for snippet in snippets(page):
        if snippet.title:
            (folder / snippet.title).write_text(snippet.text, "utf-8")
        elif snippet.language == "python":
            yield snippet, _python(snippet.text, names)
        elif snippet.language == "console":
            yield snippet, "".join(_command(words) for words in snippet.commands)


def _python(text: str, names: dict[str, Any]) -> str:
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            exec(compile(text, "<snippet>", "exec"), names)
    except Exception as error:
        raise SnippetError(f"{type(error).__name__}: {error}\n{text}") from error
    return out.getvalue()


def _command(words: list[str]) -> str:
    """What one of our commands prints, in this process, which has read its data already."""
    from mlsysim.cli.main import main

    if words[0] != "mlsysim":
        raise SnippetError(f"{shlex.join(words)} is no command of ours: show it in a block of bash")
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(words[1:])
    if code:
        raise SnippetError(f"{shlex.join(words)} gave {code}:\n{out.getvalue()}")
    return out.getvalue()


def expanded(page: str) -> str:
    """A page with its lists written out: ``::: modules of PACKAGE``, ``::: solvers`` and ``::: solvers by room``.

    Modules that the page names by themselves are left out of the first.

    Example:
        >>> "mlsysim.physics.queues.queueing" in expanded("::: modules of mlsysim.physics.queues")
        True
    """
    named = set(re.findall(r"^::: (mlsysim[\w.]+)$", page, re.MULTILINE))

    def modules(match: re.Match[str]) -> str:
        folder = ROOT.joinpath(*match[1].split("."))
        found = [f"{match[1]}.{path.stem}" for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]
        return "\n\n".join(f"::: {name}" for name in found if name not in named and name.rpartition(".")[2] not in _PLAIN)

    def by_room(_: re.Match[str]) -> str:
        options = "\n    options:\n      show_signature: false\n"
        rooms: dict[str, list[str]] = {"training": [], "serving": [], "operations": []}
        for home, name in _solvers():
            rooms.setdefault(home.split(".")[2], []).append(f"::: {home}.{name}{options}")
        return "\n".join(f"## {room.capitalize()}\n\n" + "\n".join(listed) for room, listed in rooms.items())

    def questions(_: re.Match[str]) -> str:
        import mlsysim

        rows = [f"| [`{name}`][{home}.{name}] | {_first_line(getattr(mlsysim, name))} |" for home, name in _solvers()]
        return "\n".join(["| solver | question |", "|---|---|", *rows])

    page = re.sub(r"^::: modules of ([\w.]+)$", modules, page, flags=re.MULTILINE)
    page = re.sub(r"^::: solvers by room$", by_room, page, flags=re.MULTILINE)
    return re.sub(r"^::: solvers$", questions, page, flags=re.MULTILINE)


# Modules of numbers and arrays, without a formula.
_PLAIN = ("numeric", "distinct", "records")


def _solvers() -> list[tuple[str, str]]:
    """Home and name of each solver."""
    import mlsysim

    found = [getattr(mlsysim, name) for name in mlsysim.__all__ if hasattr(getattr(mlsysim, name), "solve")]
    homes = [(one.__module__, one.__name__) for one in found]
    return sorted(homes)


def _first_line(solver: type) -> str:
    return (solver.__doc__ or "").split("\n\n")[0].replace("\n", " ")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Writes below each snippet of a page what it prints, and adds the pictures that it saves to the site."""
    from mkdocs.structure.files import File

    markdown = expanded(markdown)
    if not any(snippet.runs for snippet in snippets(markdown)):
        return markdown
    parts, end = [], 0
    with session() as folder:
        for snippet, text in printed(markdown, folder):
            parts.append(markdown[end : snippet.end])
            if text.strip():
                parts.append(f'\n\n<div class="printed" markdown="1">\n\n```text\n{text.rstrip()}\n```\n\n</div>\n')
            end = snippet.end
        where = Path(page.file.src_uri).parent
        for picture in sorted(folder.iterdir()):
            if picture.suffix in _PICTURES and not picture.is_symlink():
                files.append(File.generated(config, (where / picture.name).as_posix(), content=picture.read_bytes()))
    return "".join([*parts, markdown[end:]])


if __name__ == "__main__":
    for name in sys.argv[1:]:
        page_text = Path(name).read_text("utf-8")
        with session() as place:
            for _, words_printed in printed(page_text, place):
                print(words_printed)
