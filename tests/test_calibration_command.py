"""``python -m mlsysim.fitting.kernels``: what it prints and writes, and that it changes nothing on the data that we carry."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from mlsysim.fitting import (
    attention as fit_attention,
)
from mlsysim.fitting import (
    collectives as fit_collectives,
)
from mlsysim.fitting import (
    gemm as fit_gemm,
)
from mlsysim.fitting import kernels as command
from mlsysim.fitting import (
    peaks as fit_peaks,
)
from mlsysim.fitting.bounded import Coefficient

KERNELS = Path(__file__).parents[1] / "anchors" / "kernels"
FILES = ("gemm.toml", "peaks.toml", "attention.toml", "collectives.toml")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run into an empty folder; its status, and the folder."""
    pytest.importorskip("scipy")
    folder = tmp_path_factory.mktemp("calibration")
    return command.main([str(KERNELS), "--into", str(folder)]), folder


def same(found, written, abs_error=0.0):
    """Equal but for the last digits of numbers; errors in percent have two decimals."""
    if isinstance(written, dict):
        abs_error = 0.02 if "median" in written else 0.0
        return set(found) == set(written) and all(same(found[name], written[name], abs_error) for name in written)
    if isinstance(written, float):
        return found == pytest.approx(written, rel=2e-3, abs=abs_error)
    return found == written


@pytest.mark.parametrize("name", FILES)
def test_a_second_run_finds_what_is_written(run, name):
    status, folder = run
    assert status == 0
    again, written = (tomllib.loads((place / name).read_text("utf-8")) for place in (folder, command.DATA))
    assert same(again, written)


def test_it_prints_a_line_a_table_and_what_changed(tmp_path, capsys, monkeypatch):
    fits = {fit_gemm: "fit_gemm", fit_peaks: "fit_peaks", fit_attention: "fit_attention", fit_collectives: "fit_collectives"}
    for (module, function), name in zip(fits.items(), FILES, strict=True):
        stored = tomllib.loads((command.DATA / name).read_text("utf-8"))
        groups = {
            group: {name: entry for name, entry in tables.items() if isinstance(entry, dict)}
            for group, tables in stored.items()
            if group not in ("defaults", "interconnect")
        }
        monkeypatch.setattr(module, function, lambda directory, groups=groups: groups)
    assert command.main([str(KERNELS), "--into", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 31 + 14 + 14 + 8 + 4 + 1
    assert lines[0].split() == ["table", "points", "calibration", "validation", "at", "its", "bound"]
    assert any(line.split() == ["gemm", "b200_sxm", "fp8", "28", "2.99", "%", "4.70", "%", "prologue_k"] for line in lines)
    assert lines[-1] == "changed: gemm.toml, peaks.toml, attention.toml, collectives.toml"
    for name in FILES:
        assert (tmp_path / name).read_text("utf-8") == (command.DATA / name).read_text("utf-8")
    assert command.main([str(KERNELS), "--into", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("\nnothing changed\n")


def test_a_folder_without_tables_is_named(tmp_path, capsys):
    assert command.main([str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize(("value", "written"), [(1.9e-13, 0.0), (1.23456, 1.235), (0.0, 0.0)])
def test_what_changes_with_the_version_of_scipy_is_not_written(value, written):
    assert Coefficient(120.0, 0.0, 2000.0).written(value) == written


def test_a_small_number_whose_bound_is_not_zero_stays():
    assert Coefficient(1e-6, 1e-9, 1.0, log=True).written(2.00004e-9) == 2e-9
