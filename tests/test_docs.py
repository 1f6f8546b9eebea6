"""Every snippet of README.md and of the site runs; theory has every module of the physics, the reference every solver."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import re
import shlex
import sys

import pytest
from repository import ROOT

import mlsysim

pytestmark = pytest.mark.usefixtures("asked_once")
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
# Modules of numbers and arrays, without a formula.
PLAIN = {"numeric", "distinct", "records"}
# Options of pytest itself, and of plugins that are not ours.
THEIRS = {"--snapshot-update", "--pyargs", "--dist"}
_spec = importlib.util.spec_from_file_location("snippets", DOCS / "snippets.py")
assert _spec is not None
assert _spec.loader is not None
snippets = importlib.util.module_from_spec(_spec)
sys.modules["snippets"] = snippets
_spec.loader.exec_module(snippets)


def name_of(path):
    return str(path.relative_to(ROOT))


RUN = [path for path in PAGES if any(one.runs for one in snippets.snippets(path.read_text("utf-8")))]


@contextlib.contextmanager
def registries_as_before():
    """What a page adds to a registry goes when its snippets have run."""
    stores = [vars(room._store) for room in (mlsysim.Hardware, mlsysim.Models, mlsysim.Systems, mlsysim.Infra)]
    kept = [{name: copy.copy(value) for name, value in store.items()} for store in stores]
    try:
        yield
    finally:
        for store, before in zip(stores, kept, strict=True):
            store.update(before)


@pytest.mark.parametrize("path", RUN, ids=name_of)
def test_snippets_run(path):
    text = path.read_text("utf-8")
    for module, what in (("matplotlib", "plots."), ("typer", "```console"), ("scipy", "mlsysim calibrate")):
        if what in text:
            pytest.importorskip(module, reason=f"snippets of {path.name} need {module}")
    with registries_as_before(), snippets.session() as folder:
        told = [words for _, words in snippets.printed(text, folder)]
        assert any(told)
        for picture in re.findall(r"\]\((\w[\w-]*\.svg)\)", text):
            assert (folder / picture).is_file()
    assert "My chip" not in mlsysim.Hardware, "tests that follow know what is shipped alone"


def test_a_snippet_that_does_not_run_is_told(tmp_path):
    with pytest.raises(snippets.SnippetError, match="ZeroDivisionError"):
        list(snippets.printed("```python\n1 / 0\n```", tmp_path))
    with pytest.raises(snippets.SnippetError, match="gave 2"):
        list(snippets.printed("```console\n$ mlsysim predict nothing.csv\n```", tmp_path))


def test_blocks_share_names_and_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = [
        '```text title="a.txt"\nword\n```',
        "```python\nfrom pathlib import Path\n\nx = Path('a.txt').read_text()\n```",
        "```python\nprint(x * 2)\n```",
        "```text\nis not run\n```",
    ]
    assert [words for _, words in snippets.printed("\n".join(blocks), tmp_path)] == ["", "word\nword\n\n"]


def shell_lines():
    blocks = [one for path in PAGES for one in snippets.snippets(path.read_text("utf-8")) if one.language == "bash"]
    lines = [part.split("#")[0] for block in blocks for line in block.text.splitlines() for part in line.split("&&")]
    return sorted({line.strip() for line in lines if line.strip()})


def test_commands_of_shells_have_the_options_that_they_are_given():
    """Commands that install, or take minutes, are not run; what they are given must exist."""
    package = ROOT / "mlsysim"
    plugin = (package / "validation" / "plugin.py").read_text("utf-8")
    fitting = "".join((package / "fitting" / name).read_text("utf-8") for name in ("__main__.py", "refresh.py"))
    environments = set(re.findall(r"\[testenv:(\w+)\]", (ROOT / "tox.ini").read_text("utf-8")))
    for line in shell_lines():
        words = shlex.split(line)
        program = words[0].removeprefix(".venv/bin/")
        options = [word.split("=")[0] for word in words[1:] if word.startswith("--")]
        if program == "pytest":
            assert [one for one in options if one not in THEIRS and f'"{one}"' not in plugin] == [], line
        elif words[:3] == ["python", "-m", "mlsysim.fitting"]:
            assert [one for one in options if f'"{one}"' not in fitting] == [], line
        elif program == "tox":
            assert words[1:] == [] or set(words[2].split(",")) <= environments, line
        else:
            assert program in ("pip", "python3"), line


def test_theory_has_every_module_of_the_physics():
    text = "\n".join(snippets.expanded(path.read_text("utf-8")) for path in (DOCS / "theory").glob("*.md"))
    told = re.findall(r"^::: mlsysim\.physics\.([\w.]+)$", text, re.MULTILINE)
    physics = ROOT / "mlsysim" / "physics"
    modules = {".".join(path.relative_to(physics).with_suffix("").parts) for path in physics.rglob("*.py")}
    assert len(set(told)) == len(told)
    assert set(told) == {name for name in modules if name not in PLAIN and not name.endswith("__init__")}


def test_the_reference_has_every_solver_and_plot():
    text = "\n".join(snippets.expanded(path.read_text("utf-8")) for path in (DOCS / "reference").glob("*.md"))
    told = {name.rpartition(".")[2] for name in re.findall(r"^::: (mlsysim\S+)$", text, re.MULTILINE)}
    solvers = {name for name in mlsysim.__all__ if hasattr(getattr(mlsysim, name), "solve")}
    assert solvers <= told
    assert set(mlsysim.plots.__all__) <= told


def test_the_site_lists_every_page():
    listed = set(re.findall(r"(\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE))
    assert listed == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
