"""What commands tell: one document, as text for a person, as JSON for a program or as Markdown for a page."""

from __future__ import annotations

import inspect
import io
import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from mlsysim.core.errors import InconsistentError

AsJson = Annotated[bool, typer.Option("--json", help="One document for programs.", rich_help_panel="Output")]
AsMarkdown = Annotated[bool, typer.Option("--markdown", help="Tables in Markdown.", rich_help_panel="Output")]


def exporting(what: str) -> Any:
    """The option that prints what won alone, as others read it."""
    return typer.Option("--export", help=f"Print the best {what}.", rich_help_panel="Output")


# Columns of text where no terminal says how many it has, and seconds after which it says that it is at work.
WIDTH, PATIENCE_S = 100, 1.0


@dataclass(frozen=True)
class Facts:
    """Names and what is so of each, one below the other."""

    rows: Sequence[tuple[str, str]]
    title: str = ""


@dataclass(frozen=True)
class Table:
    """A table of text; columns of ``numbers`` stand at the right and are never broken."""

    header: Sequence[str]
    body: Sequence[Sequence[str]]
    title: str = ""
    numbers: Sequence[str] = ()


@dataclass(frozen=True)
class Notes:
    """Lines of which each is a sentence."""

    lines: Sequence[str]
    title: str = ""


@dataclass(frozen=True)
class Code:
    """A file's text, as it is; ``language`` is what Markdown colours it by."""

    text: str
    language: str
    title: str = ""


@dataclass(frozen=True)
class Document:
    """What a command tells.

    Attributes:
        title: the question in a few words; empty where the answer is a file's text.
        blocks: the answer for a person.
        data: the same for a program: plain values by name.
    """

    title: str
    blocks: Sequence[Facts | Table | Notes | Code]
    data: Mapping[str, Any]


def with_output(command: Callable[..., int], like: Callable[..., Any], **further: Any) -> Callable[..., int]:
    """Give a command the signature of a function, and the options of the output.

    Args:
        command: takes what the function does, and ``as_json`` and ``as_markdown``.
        like: the function.
        **further: options of the output that this command has besides; left out they are None.
    """
    signature = inspect.signature(like, eval_str=True)
    kinds = [
        ("as_json", AsJson, False),
        ("as_markdown", AsMarkdown, False),
        *((name, kind, None) for name, kind in further.items()),
    ]
    output = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, kind, default in kinds
    ]
    parameters = [one.replace(kind=one.KEYWORD_ONLY) for one in signature.parameters.values()]
    command.__signature__ = signature.replace(parameters=[*parameters, *output], return_annotation=int)  # type: ignore[attr-defined]
    command.__doc__, command.__name__ = like.__doc__, like.__name__
    return command


def tell(document: Document, *, as_json: bool, as_markdown: bool) -> None:
    """Write a document to stdout.

    Raises:
        InconsistentError: both are asked for.
    """
    if as_json and as_markdown:
        raise InconsistentError("--json", True, "one of --json and --markdown")
    if as_json:
        print(json.dumps(document.data, indent=2, allow_nan=False))
    elif as_markdown:
        print("\n\n".join(_markdown(document)))
    else:
        _text(document)


def _markdown(document: Document) -> Iterator[str]:
    if document.title:
        yield f"# {document.title}"
    for block in document.blocks:
        if block.title:
            yield f"## {block.title}"
        if isinstance(block, Notes):
            yield "\n".join(f"- {line}" for line in block.lines)
        elif isinstance(block, Code):
            yield f"```{block.language}\n{block.text}```"
        elif isinstance(block, Facts):
            yield "\n".join(f"- **{name}**: {told}" for name, told in block.rows)
        else:
            rules = ["---:" if name in block.numbers else "---" for name in block.header]
            yield "\n".join(
                "| " + " | ".join(_cell(cell) for cell in line) + " |" for line in (block.header, rules, *block.body)
            )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _text(document: Document) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    terminal = Console(highlight=False)
    console = terminal if terminal.is_terminal else Console(file=io.StringIO(), highlight=False, width=WIDTH)
    if document.title:
        console.print(Text(document.title, style="bold"))
    for block in document.blocks:
        if isinstance(block, Code):
            console.out(block.text, end="", highlight=False)
            continue
        console.print()
        if block.title:
            console.print(Text(block.title, style="bold"))
        if isinstance(block, Table):
            grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
            for name in block.header:
                number = name in block.numbers
                grid.add_column(Text(name), justify="right" if number else "left", no_wrap=number, overflow="fold")
            for line in block.body:
                grid.add_row(*map(Text, line))
        else:
            grid = Grid.grid(padding=(0, 2))
            grid.add_column(no_wrap=True)
            grid.add_column(overflow="fold")
            rows = block.rows if isinstance(block, Facts) else [("-", line) for line in block.lines]
            for name, told in rows:
                grid.add_row(f"  {name}", Text(told, style="bold red" if told.startswith("INFEASIBLE") else ""))
        console.print(grid)
    if isinstance(console.file, io.StringIO):
        print("\n".join(line.rstrip() for line in console.file.getvalue().splitlines()))


@contextmanager
def at_work(what: str) -> Iterator[None]:
    """Say on a terminal's stderr what takes longer than a second, while it does."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    status = Console(stderr=True).status(what)
    timer = threading.Timer(PATIENCE_S, status.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        status.stop()
