"""Fixtures of the tests of commands."""

from __future__ import annotations

import importlib

import pytest


@pytest.fixture
def typer():
    pytest.importorskip("typer", reason="commands need typer: pip install 'mlsysim-anchors[cli]'")
    for name in ("mlsysim.cli.app", "typer.rich_utils"):  # what a pytest within a test imports first, that one forgets again
        importlib.import_module(name)
