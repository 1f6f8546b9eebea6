"""What follows a change: a new source turns its own snapshot and the pages red alone; refresh writes what is accepted."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import pytest
from repository import ANCHOR_TREE, ROOT

from mlsysim.core.errors import InputError, UnknownNameError
from mlsysim.fitting import evidence, left_out_serving, left_out_training, refresh
from mlsysim.fitting.calibration import Key
from mlsysim.fitting.families import CALIBRATIONS
from mlsysim.fitting.left_out_tests import test_every_source_is_left_out_once as every_source_is_left_out_once
from mlsysim.fitting.toml_text import toml_tables
from mlsysim.fitting.written import Refit
from mlsysim.validation.anchors import loading
from mlsysim.validation.report import picture
from mlsysim.validation.report.left_out import SERVING_FILE, TRAINING_FILE, read

SOURCES = ("internevo", "korthikanti2022")
NEW = "narayanan2021_ptdp"  # a source without calibration rows, of two files
KEY = Key("stack", "a", "step_s")
DRAW = picture.draw
AIM = '[[target]]\nid = "close"\ntitle = "x"\nrows = { family = ["training"] }\nmedian = {limit}\n'


def titled(path, rows):
    """A picture of a title alone, by which a refresh sees whether it is the one of these rows."""
    text = b"Title\0" + picture.title(rows).encode("latin-1")
    path.write_bytes(len(text).to_bytes(4, "big") + b"tEXt" + text)


def alone(patch, data):
    """The stages of a refresh run in this process; nothing is fitted, and what intervals rest on is written to ``data``.

    Pictures are not drawn, which takes longer than all the rest.
    """
    patch.setattr(picture, "draw", titled)
    patch.setattr(evidence, "DATA", data)
    patch.setattr(refresh, "FAMILIES", {})
    patch.setattr(refresh, "STUDIES", {})
    patch.setattr(refresh, "apart", lambda function, *arguments: function(*arguments))


@pytest.fixture(scope="module")
def settled(tmp_path_factory):
    """A tree of two sources as the repository has them, which was refreshed."""
    folder = tmp_path_factory.mktemp("settled")
    for place in ("anchors", "snapshots"):
        (folder / place / "training").mkdir(parents=True)
    for place in ("docs", "data"):
        (folder / place).mkdir()
    for source in SOURCES:
        copy(source, folder)
        shutil.copy(ROOT / "snapshots" / "training" / f"{source}.json", folder / "snapshots" / "training")
    written = read(ANCHOR_TREE, TRAINING_FILE)
    (folder / "anchors" / TRAINING_FILE).write_text(toml_tables({name: written[name] for name in SOURCES}, "Left out."))
    with pytest.MonkeyPatch.context() as patch:
        alone(patch, folder / "data")
        assert refresh.main(["--anchors", str(folder / "anchors")]) == 0
    return folder


@pytest.fixture
def root(tmp_path, monkeypatch, settled):
    """A copy of the settled tree."""
    shutil.copytree(settled, tmp_path, dirs_exist_ok=True)
    alone(monkeypatch, tmp_path / "data")
    return tmp_path / "anchors"


def copy(source, tmp_path):
    for ending in ("toml", "csv"):
        shutil.copy(ANCHOR_TREE / "training" / f"{source}.{ending}", tmp_path / "anchors" / "training")


def test_a_new_source_without_calibration_rows_turns_its_snapshot_and_the_pages_red_alone(root, monkeypatch):
    monkeypatch.setattr(picture, "draw", DRAW)
    assert refresh.write_pages(root) == []
    assert refresh.judge(root) == refresh.Judgement((), {}, {}, ())
    copy(NEW, root.parent)
    judgement = refresh.judge(root)
    assert list(judgement.moved) == [root.parent / "snapshots" / "training" / f"{NEW}.json"]
    assert not judgement.standings
    drawn = [picture.FILE] if find_spec("matplotlib") else []
    assert refresh.write_pages(root) == ["anchors.md", "accuracy.md", *drawn]
    assert refresh.write_pages(root) == []
    every_source_is_left_out_once(root)
    anchors = left_out_training.anchors_of(root)
    for name, entry in read(root, TRAINING_FILE).items():
        assert left_out_training.stale(name, entry, anchors) == ""


def test_no_fit_writes_anything_of_a_run_that_is_not_fitted():
    runs = [one for one in CALIBRATIONS if one.written_roles != ("calibration",)]
    assert {one.name for one in runs} == {"gemm", "peaks", "attention", "collectives"}


def test_a_new_serving_source_leaves_what_was_left_out_as_it_is():
    known = left_out_serving.cases_of(ANCHOR_TREE)
    written = read(ANCHOR_TREE, SERVING_FILE)
    (name,) = (name for name in written if name == "device t4")
    new = [
        replace(case, anchor=replace(case.anchor, source=case.anchor.source.model_copy(update={"key": "new"})))
        for case in known
        if case.device == "t4" and case.anchor.case.role == "validation"
    ]
    assert new
    entry = [written[name]]
    assert left_out_serving.errors(entry, [*known, *new]) == left_out_serving.errors(entry, known)


def test_refresh_shows_what_moved_and_writes_it_once_it_is_accepted(root, capsys):
    copy(NEW, root.parent)
    path = root.parent / "snapshots" / "training" / f"{NEW}.json"
    assert refresh.main(["--anchors", str(root)]) == 1
    assert not path.exists()
    assert f"training/{NEW}.json: 7 of 7 cases" in capsys.readouterr().out
    assert refresh.main(["--anchors", str(root), "--accept"]) == 0
    assert path.exists()
    capsys.readouterr()
    assert refresh.main(["--anchors", str(root)]) == 0
    assert capsys.readouterr().out == "nothing else changed\n"


def families(moves):
    """Families of one value each, which moves in the rounds that are told of them."""
    left = {name: iter(rounds) for name, rounds in moves.items()}

    def fit(name, root):
        return Refit(name, {KEY: (1.0, 2.0)}, [KEY] if next(left[name], False) else [], {})

    return {name: partial(fit, name) for name in moves}


def test_families_are_fitted_in_turn_until_none_moves_any_more(root, monkeypatch):
    monkeypatch.setattr(refresh, "FAMILIES", families({"products": [], "engines": [True, True], "loaded": [True]}))
    begun = []
    fits = list(refresh.fitted_to_rest(["products", "engines", "loaded"], root, begun.append))
    assert begun == [fit.name for fit in fits] == ["products", "engines", "loaded"] * 2 + ["products", "engines"]


def test_fits_that_never_come_to_rest_end_and_are_told(root, monkeypatch, capsys):
    monkeypatch.setattr(refresh, "FAMILIES", families({"products": [], "engines": [True] * 99}))
    assert refresh.main(["--anchors", str(root)]) == 1
    told = capsys.readouterr().out
    assert told.count("fit engines: 1 of 1 values moved") == refresh.ROUNDS
    assert f"fit engines: values still move after {refresh.ROUNDS} rounds" in told


def test_snapshots_of_sources_that_are_gone_are_removed(root):
    for ending in ("toml", "csv"):
        (root / "training" / f"internevo.{ending}").unlink()
    refresh.write_snapshots(root)
    assert [path.stem for path in (root.parent / "snapshots").rglob("*.json")] == ["korthikanti2022"]


def test_nothing_is_accepted_where_an_aim_that_held_is_lost(root, capsys):
    copy(NEW, root.parent)
    (root / "targets.toml").write_text(AIM.replace("{limit}", "0.001"))
    path = root.parent / "snapshots" / "training" / f"{NEW}.json"
    assert refresh.main(["--anchors", str(root), "--accept"]) == 1
    assert not path.exists()
    assert "aim close-median is lost" in capsys.readouterr().out
    refresh.main(["--anchors", str(root), "--accept", "--lose", "close-median"])
    assert path.exists()
    with pytest.raises(UnknownNameError, match="close-median"):
        refresh.main(["--anchors", str(root), "--lose", "close-mean"])


def test_an_aim_that_is_met_though_a_gap_is_known_is_told(root, capsys):
    (root / "targets.toml").write_text(AIM.replace("{limit}", "0.9") + 'known_gaps = { median = "too far" }\n')
    assert refresh.main(["--anchors", str(root)]) == 1
    assert "aim close-median is met: clear its known gap" in capsys.readouterr().out


def test_a_new_miss_needs_a_reason(root, capsys):
    table = root / "training" / "korthikanti2022.csv"
    lines = table.read_text().splitlines()
    value = lines[0].split(",").index("value")
    cells = lines[1].split(",")
    cells[value] = str(3 * float(cells[value]))
    table.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")
    assert refresh.main(["--anchors", str(root), "--accept"]) == 1
    assert "misses: it needs a known_miss" in capsys.readouterr().out
    assert refresh.main(["--anchors", str(root), "--accept", "--reason", "korthikanti2022=a slip"]) == 0
    assert "a slip" in table.read_text()
    for reason, error in (("korthikanti2022", InputError), ("korthikanti=a slip", UnknownNameError)):
        with pytest.raises(error):
            refresh.main(["--anchors", str(root), "--reason", reason])


def test_every_file_of_anchors_has_one_source():
    for path in loading.anchor_files(ANCHOR_TREE):
        assert len({anchor.source.key for anchor in loading.load(path)}) == 1
