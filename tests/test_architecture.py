"""The house as ARCHITECTURE.md draws it: which room may import which, and what a room looks like."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict

import pytest
from repository import ROOT, nodes_of, tree_of

from mlsysim.calibration.device_entries import device_entries
from mlsysim.hardware.registry import Hardware

PACKAGE = ROOT / "mlsysim"
LONGEST_MODULE = 400
MOST_MODULES = 20  # of a folder, beside its __init__.py
LAZY = "facade"  # what `import mlsysim` or `from mlsysim import Hardware` reaches

FACTS = ("hardware", "models", "systems", "infra")
BELOW_LOWERING = ("physics", "calibration", *FACTS, "core")
BELOW_TABLES = ("solvers", "lowering", *BELOW_LOWERING)
BELOW_FITTING = ("validation", "tables", *BELOW_TABLES)
# A room to the rooms that it may import, beside itself. A sub-room may import itself and what is named here; a name covers all
# that is below it ("physics" means every sub-room of physics).
ARROWS = {
    "core": (),
    "hardware": ("core",),
    "models": ("core", "physics.layer"),  # parameters are counted from the products of a layer
    "systems": ("core", "hardware"),  # a node has an accelerator
    "infra": ("core",),
    "physics": (),
    "physics.kernels": ("physics.",),
    "physics.layer": ("physics.", "physics.kernels"),
    "physics.training": ("physics.", "physics.kernels", "physics.layer"),
    "physics.serving": ("physics.", "physics.kernels", "physics.layer"),
    "physics.queues": ("physics.",),
    "physics.operations": ("physics.",),
    "calibration": ("core", "physics", "hardware"),  # a coefficient is one of the physics, of a device
    "lowering": BELOW_LOWERING,
    "solvers": BELOW_LOWERING,
    "solvers.training": ("solvers.", "lowering", *BELOW_LOWERING),
    "solvers.serving": ("solvers.", "lowering", *BELOW_LOWERING),
    "solvers.operations": ("solvers.", "lowering", *BELOW_LOWERING),
    "solvers.analysis": ("solvers", "lowering", *BELOW_LOWERING),  # it asks the others
    "scenarios": BELOW_TABLES,
    "tables": BELOW_TABLES,
    "plots": BELOW_TABLES,
    "validation.anchors": ("tables", LAZY, *BELOW_TABLES),  # the facade has only rooms below it
    "validation.report": ("validation.anchors", "plots", "calibration", "core"),
    "validation.kernels": ("validation.anchors", "validation.report", *BELOW_LOWERING),
    "validation.suite": ("validation.anchors", "validation.report", "validation.kernels", "core"),
    "validation": ("validation", "core"),
    "fitting": BELOW_FITTING,
    "launch": ("tables", *BELOW_TABLES),
    "cli": ("fitting", "scenarios", "launch", "plots", LAZY, *BELOW_FITTING),
    "anchors": ("validation", "fitting"),
}


def room_of(parts):
    """The room, or the sub-room, of a module below the package by the parts of its name."""
    sub = ".".join(parts[:2])
    return sub if sub in ARROWS else parts[0]


def may_import(room, other):
    """Whether an arrow goes from ``room`` to ``other``; a name with a dot at its end leaves out the sub-rooms."""
    if other == room:
        return True
    return any(other == name.rstrip(".") or other.startswith(f"{name}.") for name in ARROWS[room])


def inside(path):
    """The parts of a module's name below the package."""
    return path.relative_to(PACKAGE).with_suffix("").parts


SOURCES = sorted(PACKAGE.rglob("*.py"))


@functools.cache
def in_rooms():
    """The modules of each room of the package."""
    rooms = defaultdict(list)
    for path in SOURCES:
        if path.parent != PACKAGE:
            rooms[room_of(inside(path))].append(path)
    return rooms


def modules(room):
    return sorted((ROOT / "anchors").rglob("*.py")) if room == "anchors" else in_rooms()[room]


def imported_modules(nodes, package):
    """Absolute dotted names of all that the ``nodes`` of a tree import, wherever the statement stands."""
    for node in nodes:
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


def rooms_of(nodes, package):
    """The rooms and sub-rooms of ours that the ``nodes`` of a tree import."""
    rooms = set()
    for name in imported_modules(nodes, package):
        parts = name.split(".")
        if parts[0] in ("anchors", "tests"):
            rooms.add(parts[0])
        elif parts[0] == "mlsysim":
            rooms.add(room_of(parts[1:]) if len(parts) > 1 and (PACKAGE / parts[1]).is_dir() else LAZY)
    return rooms


@functools.cache
def is_file(path):
    return path.is_file()


def imports_of(path):
    """The modules of the package that the one at ``path`` imports, wherever and for whatever the statement stands."""
    package = path.relative_to(ROOT).parent.parts
    for name in imported_modules(nodes_of(path), package):
        parts = name.split(".")
        while parts and parts[0] == "mlsysim":
            for file in (ROOT.joinpath(*parts).with_suffix(".py"), ROOT.joinpath(*parts) / "__init__.py"):
                if is_file(file) and file != path:
                    yield file
                    parts = []
                    break
            else:
                parts = parts[:-1]


@pytest.mark.parametrize("room", ARROWS)
def test_arrows_point_one_way(room):
    strays = {}
    for path in modules(room):
        imported = rooms_of(nodes_of(path), path.relative_to(ROOT).parent.parts)
        strays[str(path.relative_to(ROOT))] = sorted(other for other in imported if not may_import(room, other))
    assert {name: found for name, found in strays.items() if found} == {}, f"{room} may import {sorted(ARROWS[room])}"


@pytest.mark.parametrize(
    ("room", "other", "allowed"),
    [
        ("physics.layer", "physics.kernels", True),
        ("physics.layer", "physics", True),
        ("physics.layer", "physics.training", False),
        ("physics", "physics.kernels", False),
        ("calibration", "physics.serving", True),
        ("solvers.serving", "solvers.training", False),
        ("fitting", "validation.report", True),
        ("validation.anchors", "fitting", False),
    ],
)
def test_the_reader_of_arrows_decides(room, other, allowed):
    assert may_import(room, other) is allowed


def test_no_circle_of_imports():
    below = {path: set(imports_of(path)) for path in SOURCES if path.parent != PACKAGE}
    while free := {path for path, others in below.items() if not others & below.keys()}:
        below = {path: others for path, others in below.items() if path not in free}
    assert not below, f"a circle runs through some of {sorted(str(path.relative_to(PACKAGE)) for path in below)}"


@pytest.mark.parametrize(
    ("source", "rooms"),
    [
        ("import mlsysim.core.units", {"core"}),
        ("from mlsysim.physics.layer import work", {"physics.layer"}),
        ("from mlsysim.physics.numeric import Num", {"physics"}),
        ("from mlsysim import physics, Hardware", {"physics", LAZY}),
        ("import mlsysim as m", {LAZY}),
        ("from . import result", {"solvers"}),
        ("from .result import Result", {"solvers"}),
        ("from ..physics.plan import Plan", {"physics"}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mlsysim.infra.types import Grid", {"infra"}),
        ("def lazy():\n    from mlsysim.validation import report", {"validation.report"}),
        ("import importlib\nimportlib.import_module('mlsysim.hardware.types')", {"hardware"}),
        ("import anchors.test_anchors", {"anchors"}),
        ("import numpy as np", set()),
    ],
)
def test_the_reader_of_arrows_sees(source, rooms):
    assert rooms_of(ast.walk(ast.parse(source)), ("mlsysim", "solvers")) == rooms


def test_every_room_has_an_arrow():
    rooms = {room_of(inside(path)) for path in SOURCES if path.parent != PACKAGE}
    assert rooms == set(ARROWS) - {"anchors"}
    assert {path.name for path in PACKAGE.glob("*.py")} <= {"__init__.py", "__main__.py"}


def test_a_module_can_be_held_in_a_head():
    assert [path for path in SOURCES if len(path.read_text(encoding="utf-8").splitlines()) > LONGEST_MODULE] == []
    vague = {"util", "utils", "helper", "helpers", "misc", "common"}
    assert [path for path in SOURCES if path.stem.strip("_") in vague] == [], "say what it does"
    assert [path for path in SOURCES if not ast.get_docstring(tree_of(path))] == [], "say what the module is for"


def test_a_folder_can_be_held_in_a_head():
    counts = Counter(path.parent for path in SOURCES if path.name != "__init__.py")
    assert {folder: count for folder, count in counts.items() if count > MOST_MODULES} == {}


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


FACT_FILES = sorted(path for room in (*FACTS, "calibration") for path in (PACKAGE / room).rglob("*.toml"))


@pytest.mark.parametrize("path", FACT_FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_fact_names_its_source(path):
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    shared = tables.pop("defaults", {}).get("source", "")
    assert tables, "an empty file states nothing"
    assert list(without_source(path.name, tables, shared)) == []


def test_the_reader_of_sources_sees():
    tables = tomllib.loads('[a]\nsource = "s"\n[a.b]\nx = 1\n[c]\n[c.d]\nx = 1\n[e]\nx = 1\nsource = " "')
    assert list(without_source("f", tables)) == ["f.c.d", "f.e"]


@pytest.mark.parametrize("room", [*FACTS, "calibration"])
def test_facts_are_data(room):
    assert list((PACKAGE / room).rglob("*.toml")), f"{room} holds facts: they belong into TOML"


def test_an_import_of_the_package_is_light():
    """What every start of pytest imports of it, the plugin, is held in test_plugin.py."""
    code = "import sys, mlsysim; print(*sorted({'numpy', 'pint', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == ""


def test_physics_knows_numbers_only():
    for path in sorted((PACKAGE / "physics").rglob("*.py")):
        names = {name.split(".")[0] for name in imported_modules(nodes_of(path), ())}
        assert not names & {"pint", "pydantic"}, path


# The library behind these starts threads, which on systems as small as a solve's wait for each other longer than they compute.
THREADED = frozenset(("linalg", "dot", "inner", "vdot", "matmul", "tensordot", "polyfit", "cov", "corrcoef"))


@pytest.mark.parametrize("room", ["physics", "lowering", "solvers", "tables"])
def test_a_solve_starts_no_threads(room):
    for path in sorted((PACKAGE / room).rglob("*.py")):
        for node in nodes_of(path):
            numpy_name = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np"
            assert not (numpy_name and node.attr in THREADED), f"{path}:{node.lineno}: np.{node.attr}"
            assert not isinstance(node, ast.MatMult), f"{path}: a product of matrices: sum the products of their elements"


def strings_of(path):
    """The strings of a module's code, without its docstrings."""
    nodes = nodes_of(path)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    texts = {id(node.body[0].value) for node in nodes if isinstance(node, documented) and ast.get_docstring(node)}
    constants = (node for node in nodes if isinstance(node, ast.Constant) and id(node) not in texts)
    return [node.value for node in constants if isinstance(node.value, str)]


def test_code_names_no_accelerator():
    names = {*device_entries("training"), *(chip.name for chip in Hardware), *Hardware.names()}
    found = {str(path.relative_to(PACKAGE)): names & set(strings_of(path)) for path in SOURCES}
    assert {file: sorted(strays) for file, strays in found.items() if strays} == {}
