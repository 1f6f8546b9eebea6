"""The house as ARCHITECTURE.md draws it: which room may import which, and what a room looks like."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mlsysim"
LONGEST_MODULE = 400
LAZY = "facade"  # what `import mlsysim` or `from mlsysim import Hardware` reaches

FACTS = {"hardware", "models", "systems", "infra", "calibration"}
# An arrow: a room to the rooms it may import. Below the solvers each knows itself and core; physics not even that.
ARROWS = {
    "core": {"core"},
    "physics": {"physics"},
    "calibration": {"calibration", "core", "physics", "hardware"},  # a fit runs the physics that it fits, on devices
    "hardware": {"hardware", "core"},
    "models": {"models", "core"},
    "systems": {"systems", "core", "hardware"},  # a node has an accelerator
    "infra": {"infra", "core"},
    "solvers": {"solvers", "physics", "core"} | FACTS,
    "validation": {"validation", "solvers", "physics", "core", LAZY} | FACTS,  # the facade has only rooms below it
    "anchors": {"validation"},
}


def modules(room):
    folder = ROOT / "anchors" if room == "anchors" else PACKAGE / room
    return sorted(folder.rglob("*.py"))


MODULES = [pytest.param(room, path, id=str(path.relative_to(ROOT))) for room in ARROWS for path in modules(room)]
SOURCES = [pytest.param(path, id=str(path.relative_to(ROOT))) for path in sorted(PACKAGE.rglob("*.py"))]


def imported_modules(tree, package):
    """Absolute dotted names of all that ``tree`` imports, wherever the statement stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package[: len(package) - node.level + 1]
                base = ".".join((*parents, base)).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and getattr(node.func, "attr", "") == "import_module":
            assert isinstance(node.args[0], ast.Constant), "an import by a computed name is no arrow that can be read"
            yield node.args[0].value


def rooms_of(source, package):
    """The rooms of ours that ``source`` imports."""
    rooms = set()
    for name in imported_modules(ast.parse(source), package):
        parts = name.split(".")
        if parts[0] in ("anchors", "tests"):
            rooms.add(parts[0])
        elif parts[0] == "mlsysim":
            rooms.add(parts[1] if len(parts) > 1 and (PACKAGE / parts[1]).is_dir() else LAZY)
    return rooms


@pytest.mark.parametrize(("room", "path"), MODULES)
def test_arrows_point_one_way(room, path):
    package = path.relative_to(ROOT).parent.parts
    strays = rooms_of(path.read_text(encoding="utf-8"), package) - ARROWS[room]
    assert not strays, f"{path.relative_to(ROOT)} imports {sorted(strays)}; {room} may import {sorted(ARROWS[room])}"


@pytest.mark.parametrize(
    ("source", "rooms"),
    [
        ("import mlsysim.core.units", {"core"}),
        ("from mlsysim import physics, Hardware", {"physics", LAZY}),
        ("import mlsysim as m", {LAZY}),
        ("from . import lowering", {"solvers"}),
        ("from .lowering import training_work", {"solvers"}),
        ("from ..physics.plan import Plan", {"physics"}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mlsysim.infra.types import Grid", {"infra"}),
        ("def lazy():\n    from mlsysim.validation import report", {"validation"}),
        ("import importlib\nimportlib.import_module('mlsysim.hardware.types')", {"hardware"}),
        ("import anchors.test_anchors", {"anchors"}),
        ("import numpy as np", set()),
    ],
)
def test_the_reader_of_arrows_sees(source, rooms):
    assert rooms_of(source, ("mlsysim", "solvers")) == rooms


def test_every_room_has_an_arrow():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(ARROWS) - {"anchors"}
    assert {path.name for path in PACKAGE.glob("*.py")} <= {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("path", SOURCES)
def test_a_module_can_be_held_in_a_head(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= LONGEST_MODULE
    assert path.stem.strip("_") not in {"util", "utils", "helper", "helpers", "misc", "common"}, "say what it does"
    assert ast.get_docstring(ast.parse(source)), "say what the module is for"


def test_the_package_is_typed():
    assert (PACKAGE / "py.typed").is_file()


def without_source(name, table, inherited=""):
    """Names of the tables that state a value and have no source, of their own or of the table around them."""
    source = str(table.get("source", inherited)).strip()
    if not source and any(not isinstance(value, dict) for value in table.values()):
        yield name
    for key, value in table.items():
        if isinstance(value, dict):
            yield from without_source(f"{name}.{key}", value, source)


FACT_FILES = sorted(path for room in FACTS for path in (PACKAGE / room).rglob("*.toml"))


@pytest.mark.parametrize("path", FACT_FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_fact_names_its_source(path):
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    shared = tables.pop("defaults", {}).get("source", "")
    assert tables, "an empty file states nothing"
    assert list(without_source(path.name, tables, shared)) == []


def test_the_reader_of_sources_sees():
    tables = tomllib.loads('[a]\nsource = "s"\n[a.b]\nx = 1\n[c]\n[c.d]\nx = 1\n[e]\nx = 1\nsource = " "')
    assert list(without_source("f", tables)) == ["f.c.d", "f.e"]


@pytest.mark.parametrize("room", sorted(FACTS))
def test_facts_are_data(room):
    assert list((PACKAGE / room).rglob("*.toml")), f"{room} holds facts: they belong into TOML"


@pytest.mark.parametrize("module", ["mlsysim", "mlsysim.validation.plugin"])
def test_what_every_pytest_start_imports_is_light(module):
    code = f"import sys, {module}; print(*sorted({{'numpy', 'pint', 'pydantic'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("path", modules("physics"), ids=lambda path: path.name)
def test_physics_knows_numbers_only(path):
    names = {name.split(".")[0] for name in imported_modules(ast.parse(path.read_text(encoding="utf-8")), ())}
    assert not names & {"pint", "pydantic"}
