"""The command ``mlsysim anchor new``: a file of one's own measurements to fill in."""

from __future__ import annotations

from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from mlsysim.cli.output import AsJson, AsMarkdown, Code, Document, tell
from mlsysim.core.errors import InputError
from mlsysim.core.toml import file_text
from mlsysim.validation.anchors.record_keys import USER_SUFFIX


class Kind(StrEnum):
    """What was measured."""

    TRAINING = "training"
    SERVING = "serving"


def new(
    kind: Annotated[Kind, typer.Argument(help="What was measured.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help=f"A new file, *{USER_SUFFIX}.")] = None,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
) -> None:
    """Print a commented file of anchors: replace its figures by yours, then run pytest on it."""
    text = template(kind)
    if output is None:
        block = Code(text, "toml")
        tell(Document("", [block], {"command": "anchor new", "text": text}), as_json=as_json, as_markdown=as_markdown)
        return
    if not output.name.endswith(USER_SUFFIX):
        raise InputError("output", str(output), f"a name that ends in {USER_SUFFIX}, by which pytest knows the file")
    if output.exists():
        raise InputError("output", str(output), "a file that is not there yet")
    output.write_text(text, encoding="utf-8")
    typer.echo(f"written: {output}; fill it in, then: pytest {output}", err=True)


def template(kind: str) -> str:
    """The commented file of anchors of a kind, which runs as it is."""
    name = f"{kind}{USER_SUFFIX}"
    return file_text(resources.files("mlsysim.cli") / "data" / name, f"mlsysim/cli/data/{name}")
