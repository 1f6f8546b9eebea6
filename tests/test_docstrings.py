"""Docstrings agree with what they describe: arguments with signatures, attributes with fields; each is read on its own."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import NamedTuple

import pytest
from repository import ROOT, nodes_of

PACKAGE = ROOT / "mlsysim"
# A docstring that begins so leans on its neighbour, or has no subject.
LEANING = re.compile(r"(The same|The above|Of|All of it|All of them|Those|As)\b")
# An entry of a section: one name, or several with commas between, then a colon.
ENTRY = re.compile(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?:")
Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module


class Place(NamedTuple):
    """A docstring, where it stands, and what it describes."""

    where: str
    node: Documented
    doc: str


def entries(doc: str, heading: str) -> list[str] | None:
    """The names that the section under ``heading`` lists; None without the section."""
    lines = doc.splitlines()
    if heading not in lines:
        return None
    section: list[str] = []
    for line in lines[lines.index(heading) + 1 :]:
        if line and not line.startswith(" "):
            break
        section.append(line)
    listed = [line.strip() for line in section if line.startswith("    ") and not line.startswith("     ")]
    found = [(line, ENTRY.match(line)) for line in listed]
    return [name.lstrip("*") for line, match in found for name in (match[1] if match else line).split(", ")]


@cache
def modules() -> dict[str, tuple[ast.AST, ...]]:
    """The nodes of every module's tree, by its path in the package."""
    return {str(path.relative_to(PACKAGE)): nodes_of(path) for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def documented() -> list[Place]:
    """Every docstring of the package, private ones and those of nested functions included."""
    return [
        Place(f"{path}:{getattr(node, 'lineno', 1)} {getattr(node, 'name', '')}".rstrip(), node, doc)
        for path, nodes in modules().items()
        for node in nodes
        if isinstance(node, Documented) and (doc := ast.get_docstring(node))
    ]


@cache
def classes() -> dict[str, list[ast.ClassDef]]:
    """The classes of the package, by name."""
    by_name: dict[str, list[ast.ClassDef]] = {}
    for nodes in modules().values():
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                by_name.setdefault(node.name, []).append(node)
    return by_name


def members(node: ast.ClassDef) -> set[str]:
    """The fields, properties and assigned attributes of a class, inherited ones included."""
    names = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
    for part in ast.walk(node):
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            names.add(part.target.id)
        if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
            names.add(part.attr)
    bases = [parent for base in node.bases if isinstance(base, ast.Name) for parent in classes().get(base.id, ())]
    return names.union(*(members(base) for base in bases))


def argument_faults(place: Place) -> list[str]:
    """The names in which the section "Args" and the signature differ; a function need not have the section."""
    listed = entries(place.doc, "Args:")
    if listed is None or not isinstance(place.node, ast.FunctionDef):
        return []
    arguments = place.node.args
    needed = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    needed = [name for name in needed if name not in ("self", "cls")]
    optional = [one.arg for one in (arguments.vararg, arguments.kwarg) if one]
    unknown = [f"{name} is no argument" for name in listed if name not in (*needed, *optional)]
    return [*unknown, *(f"{name} is left out" for name in needed if name not in listed)]


def test_arguments_are_those_of_the_signature() -> None:
    faults = [f"{place.where}: {fault}" for place in documented() for fault in argument_faults(place)]
    assert not faults, "\n".join(faults)


def test_attributes_are_fields() -> None:
    faults = [
        f"{place.where}: {name} is no attribute"
        for place in documented()
        if isinstance(place.node, ast.ClassDef)
        for name in entries(place.doc, "Attributes:") or ()
        if name not in members(place.node)
    ]
    assert not faults, "\n".join(faults)


def test_every_docstring_is_understood_on_its_own() -> None:
    faults = [f"{place.where}: {place.doc.splitlines()[0]}" for place in documented() if LEANING.match(place.doc)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("signature", "section", "faults"),
    [
        ("a, *, b=1, **more", ["a: one.", "b: other,", "    at length."], []),
        ("self, a, b", ["a, b: both."], []),
        ("a, b", ["a: one.", "c: three."], ["c is no argument", "b is left out"]),
        ("a, **more", ["a: one.", "**less: others."], ["less is no argument"]),
    ],
)
def test_the_check_sees_what_differs(signature: str, section: list[str], faults: list[str]) -> None:
    lines = "\n".join(f"        {line}" for line in section)
    node = ast.parse(f'def f({signature}):\n    """Add.\n\n    Args:\n{lines}\n    """').body[0]
    assert isinstance(node, ast.FunctionDef)
    assert argument_faults(Place("here", node, ast.get_docstring(node) or "")) == faults
