"""What a wheel brings: the anchors with their snapshots, licences, and a refusal beside another package of the same name."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from repository import ROOT

import mlsysim
from mlsysim.validation.anchors.anchor import is_installed, snapshot_path
from mlsysim.validation.anchors.record_keys import PACKAGE


def test_two_distributions_of_one_package_are_refused(tmp_path):
    (tmp_path / "mlsysim").mkdir()
    (tmp_path / "mlsysim-9.0.dist-info").mkdir()
    shutil.copy(Path(mlsysim.__file__), tmp_path / "mlsysim")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import mlsysim"
    command = [sys.executable, "-S", "-c", code, str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "ImportError: mlsysim-9.0 and mlsysim-anchors both bring the package mlsysim" in done.stderr
    assert "pip uninstall mlsysim mlsysim-anchors" in done.stderr


def test_the_wheel_has_the_anchors_and_their_snapshots():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"] == {
        "anchors": PACKAGE,
        "snapshots": f"{PACKAGE}/snapshots",
    }
    assert set(project["project"]["license-files"]) == {"LICENSE", "NOTICE"}
    assert all((ROOT / name).is_file() for name in ("LICENSE", "NOTICE"))
    assert project["project"]["entry-points"]["pytest11"] == {"mlsysim-anchors": "mlsysim.validation.plugin"}


def test_snapshots_lie_beside_a_checkout_and_inside_an_installed_copy(tmp_path):
    checkout, installed = tmp_path / "anchors", tmp_path / "site-packages" / PACKAGE
    (installed / "snapshots").mkdir(parents=True)
    assert snapshot_path(checkout / "training" / "x.toml") == tmp_path / "snapshots" / "training" / "x.json"
    assert snapshot_path(installed / "training" / "x.toml") == installed / "snapshots" / "training" / "x.json"
    assert is_installed(installed)
    assert not is_installed(checkout)
