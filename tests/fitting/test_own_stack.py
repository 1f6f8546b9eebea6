"""A stack and an engine calibrated to a user's runs: what is found, what is not identified, and where the file is used."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from repository import ROOT, TESTS

import mlsysim
from mlsysim.calibration.own import own_stack
from mlsysim.cli.exits import BAD_INPUT, HOLDS
from mlsysim.cli.main import main
from mlsysim.core.errors import DataError
from mlsysim.tables.predict import predict_table
from mlsysim.validation.anchors.comparison import compare
from mlsysim.validation.anchors.loading import load

STACK, ENGINE = (str(TESTS / "fitting" / f"own_{kind}.toml") for kind in ("stack", "engine"))
TRAINING = {
    **{"framework": "Megatron-Core", "year": "2025", "accelerator": "H100-SXM-80GB", "seq_len": "4096"},
    **{"metric": "step_time_s", "recompute": "none", "sharding": "zero1"},
}
# Model, accelerators, TP, PP, global batch.
PLANS = [
    *(
        ("Llama-3.1-8B", 8, 1, 1, 64),
        ("Llama-3.1-8B", 8, 2, 1, 64),
        ("Llama-3.1-8B", 8, 4, 1, 64),
        ("Llama-3.1-8B", 8, 8, 1, 64),
    ),
    *(
        ("Llama-3.1-8B", 8, 8, 1, 16),
        ("Llama-3.1-8B", 64, 1, 1, 64),
        ("Llama-3.1-8B", 64, 2, 2, 128),
        ("Llama-3.1-8B", 32, 4, 1, 64),
    ),
    *(("Llama-3.1-70B", 64, 8, 2, 128), ("Llama-3.1-70B", 64, 4, 4, 64), ("Llama-3.1-70B", 128, 8, 4, 128)),
    ("Llama-3.1-8B", 128, 1, 1, 128),
]
SERVING = {
    **{
        "engine": "vLLM 0.15",
        "year": "2025",
        "accelerator": "H100-SXM-80GB",
        "weight_precision": "fp16",
        "mode": "closed-loop",
    },
    "output_len": "128",
}
# Model, TP, tokens of a prompt, requests in flight, metric.
LOADS = [
    *(("Llama-3.1-8B", 1, 1024, 1, "itl_ms"), ("Llama-3.1-8B", 1, 8192, 1, "ttft_ms"), ("Llama-3.1-8B", 8, 1024, 64, "itl_ms")),
    *(
        ("Llama-3.1-70B", 8, 4096, 32, "itl_ms"),
        ("Llama-3.1-70B", 8, 8192, 1, "ttft_ms"),
        ("Llama-3.1-70B", 4, 8192, 1, "ttft_ms"),
    ),
    *(("Llama-3.1-8B", 1, 1024, 64, "output_tokens_per_s"), ("Llama-3.1-70B", 4, 2048, 1, "itl_ms")),
]


def training_rows(plans=PLANS):
    names = ("model", "n_accel", "tp", "pp", "global_batch_seqs")
    return [
        TRAINING | {"id": f"run{place}"} | dict(zip(names, map(str, plan), strict=True)) for place, plan in enumerate(plans)
    ]


def serving_rows():
    names = ("model", "tp", "input_len", "batch_or_concurrency", "metric")
    return [SERVING | {"id": f"run{place}"} | dict(zip(names, map(str, load), strict=True)) for place, load in enumerate(LOADS)]


def measured(rows, truth):
    """The rows, whose values are what other rows predict."""
    found = [str(row["predicted"]) for row in predict_table(truth)]
    return [row | {"value": value} for row, value in zip(rows, found, strict=True)]


def written(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def slower(rows):
    """The same runs on links and a network of two thirds."""
    thirds = {"intra_bw_GBps": str(450 * 2 / 3), "inter_bw_GBps_per_accel": str(50 * 2 / 3)}
    return [row | thirds for row in rows]


@pytest.fixture
def own():
    pytest.importorskip("scipy", reason="fits need SciPy: pip install 'mlsysim-anchors[fit]'")
    from mlsysim.fitting.own.fit import calibrated
    from mlsysim.fitting.own.runs import read_runs

    return lambda *paths: calibrated(read_runs(paths))


def test_twelve_runs_find_links_that_are_a_third_slower(tmp_path, monkeypatch, own):
    rows = training_rows()
    found = own(written(tmp_path / "runs.csv", measured(rows, slower(rows))))
    placed = {one.part: one for one in found.placed}
    for part in ("link_share", "network_share"):
        assert placed[part].identified
        assert placed[part].value == pytest.approx(placed[part].shipped * 2 / 3, rel=0.1)
    assert placed["compute_share"].value == pytest.approx(1.0, abs=0.01)
    assert not placed["ep_hidden"].identified, "no run has experts"
    shipped, left_out = (sorted(abs(ratio - 1) for ratio in ratios) for ratios in (found.shipped, found.left_out))
    assert left_out[6] < 0.2 * shipped[6]
    assert left_out[-1] < shipped[-1]
    # The file stands for the stack: another run of that cluster is predicted within its interval.
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(found.text(), "utf-8")
    other = training_rows([("Llama-3.1-70B", 256, 8, 4, 256)])
    (truth,) = predict_table(slower(other))
    (mine,) = predict_table([other[0] | {"framework": "mine.toml"}])
    (as_shipped,) = predict_table(other)
    assert mine["low"] < truth["predicted"] < mine["high"] < as_shipped["high"]
    assert abs(mine["predicted"] / truth["predicted"] - 1) < 0.3 * abs(as_shipped["predicted"] / truth["predicted"] - 1)
    assert (mine["basis"], mine["stack_used"]) == ("calibrated", "mine.toml")


def test_runs_are_told_apart_and_a_stack_of_ones_own_is_calibrated_anew(tmp_path, own):
    rows = [row | {"id": "same", "framework": STACK} for row in training_rows(PLANS[:3])]
    found = own(written(tmp_path / "runs.csv", measured(rows, rows)))
    assert [run.id for run in found.runs] == ["same", "same (2)", "same (3)"]
    assert found.like == own_stack(STACK).like
    assert max(abs(found.left_out - 1)) < max(abs(found.shipped - 1)), "they run as that file says"


def test_five_runs_on_one_node_say_nothing_of_the_network(tmp_path, own):
    rows = training_rows(PLANS[:5])
    found = own(written(tmp_path / "runs.csv", measured(rows, slower(rows))))
    left = {one.part: one for one in found.placed if not one.identified}
    assert {"network_share", "dp_hidden", "ep_hidden", "tp_hidden_backward"} <= set(left)
    assert "several" in left["network_share"].placed_by
    assert left["network_share"].value == pytest.approx(left["network_share"].shipped, rel=0.01)
    assert left["network_share"].posterior == pytest.approx(1.0, abs=0.01)


def test_measurements_of_serving_find_the_engine_that_made_them(tmp_path, own):
    rows = serving_rows()
    found = own(written(tmp_path / "runs.csv", measured(rows, [row | {"engine": ENGINE} for row in rows])))
    truth, placed = own_stack(ENGINE).values, {one.part: one for one in found.placed}
    for part, value in truth.items():
        assert placed[part].value == pytest.approx(value, rel=0.05)
    assert not placed["network_share"].identified
    assert max(abs(found.left_out - 1)) < 0.1 < max(abs(found.shipped - 1))
    assert set(found.errors) == {"whole", "first token"}


def test_intervals_are_the_wider_the_fewer_runs_there_are(own):
    from mlsysim.fitting.own.fit import NARROWEST, errors_of

    ratios = [1.05, 0.96, 1.02, 0.95, 1.04] * 8
    widths = [errors_of(ratios[:count]).log_width for count in (3, 5, 10, 40)]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 1.4 * widths[-1]
    assert errors_of([1.0001] * 20).log_width == NARROWEST


def test_a_file_stands_for_a_stack_in_solvers_and_anchors(tmp_path):
    node = mlsysim.Systems.Nodes.DGX_H100
    fleet = mlsysim.Fleet(name="64 H100", node=node, count=8)
    ask = {"batch_size": 64, "seq_len": 4096, "tp_size": 8}
    model = mlsysim.Models.Language.Llama3_70B
    mine, shipped = (mlsysim.DistributedModel().solve(model, fleet, stack=stack, **ask) for stack in (STACK, "megatron-core"))
    assert mine.step_latency_total > 1.02 * shipped.step_latency_total
    assert (mine.basis, mine.interval.runs) == ("calibrated", 12)
    assert mine.interval.high / mine.interval.low < shipped.interval.high / shipped.interval.low
    assert mine.nearest == shipped.nearest
    assert f"stack.{STACK}.link_share" in mine.coefficients
    of_cluster, of_others = (set(a.coefficients) - set(b.coefficients) for a, b in ((mine, shipped), (shipped, mine)))
    assert {name.rpartition(".")[2] for name in of_cluster} == {
        *("compute_share", "dp_hidden", "host_layer_s", "link_share", "network_share"),
    }
    assert of_others == {"shared.host_layer_s", "shared.network_share", "stack.megatron-core.dp_hidden"}, "what its own replace"
    older = mlsysim.Fleet(name="8 A100", node=mlsysim.Systems.Nodes.DGX_A100, count=1)
    elsewhere = mlsysim.DistributedModel().solve(model, older, stack=STACK, **ask)
    assert elsewhere.basis == "transferred"
    assert elsewhere.interval.high / elsewhere.interval.low > mine.interval.high / mine.interval.low
    best = mlsysim.ParallelismOptimizer().solve(model, fleet, batch_size=64, seq_len=4096, stack=STACK)
    assert best.basis == "calibrated"
    text = (ROOT / "mlsysim" / "cli" / "data" / "training.anchor.toml").read_text("utf-8")
    path = tmp_path / "mine.anchor.toml"
    path.write_text(text.replace('stack = "megatron-core-2024"', f'stack = "{STACK}"'), "utf-8")
    assert {compare(anchor).stack for anchor in load(path)} == {STACK}


def test_a_file_stands_for_an_engine():
    ask = {"input_len": 4096, "output_len": 128, "batch_size": 8, "tp_size": 8}
    model, node = mlsysim.Models.Language.Llama3_70B, mlsysim.Systems.Nodes.DGX_H100
    mine, shipped = (mlsysim.ServingModel().solve(model, node, stack=stack, **ask) for stack in (ENGINE, "vllm-2025"))
    assert mine.ttft > 1.1 * shipped.ttft
    assert mine.interval.runs == 8
    assert mine.interval_of("ttft").runs == shipped.interval_of("ttft").runs, "first tokens were not measured"
    asked = {"request_rate": "2 count/s", "input_len": 1000, "output_len": 100, "max_ttft": "2 s"}
    assert mlsysim.CapacityPlanner().solve(model, [node], stack=ENGINE, **asked).feasible


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        (STACK, ("link_share", "lnk_share"), "did you mean 'link_share'"),
        (STACK, ("0.6667", "-1"), "link_share = -1: expected a number"),
        (STACK, ("0.6667", "0"), "link_share = 0: expected a number from 0.01 to 10"),
        (STACK, ("[stack]", "[engine]"), "a serving engine, not a stack"),
        (STACK, ("[errors]", "[error]"), "no key 'error' here"),
        (STACK, ('like = "megatron-core"', ""), "no key 'like'"),
        (STACK, ("0.04", "9"), "log_width = 9"),
        (STACK, ('"megatron-core"', '"megatron-cor"'), r"mine.toml: \[stack\]: like: .*did you mean 'megatron-core'"),
    ],
)
def test_a_file_that_is_none_is_told_in_one_line(tmp_path, file, change, told):
    path = tmp_path / "mine.toml"
    path.write_text(Path(file).read_text("utf-8").replace(*change), "utf-8")
    fleet = mlsysim.Fleet(name="8 H100", node=mlsysim.Systems.Nodes.DGX_H100, count=1)
    with pytest.raises(mlsysim.MLSysError, match=told) as refused:
        mlsysim.DistributedModel().solve(mlsysim.Models.Language.Llama3_8B, fleet, batch_size=8, stack=str(path))
    assert "\n" not in str(refused.value)
    with pytest.raises(DataError, match=r"no\.toml: cannot be read"):
        own_stack("no.toml")


def test_a_file_that_changes_is_read_again(tmp_path):
    path = tmp_path / "mine.toml"
    shutil.copy(STACK, path)
    before = own_stack(str(path))
    assert own_stack(str(path)) is before
    path.write_text(path.read_text("utf-8").replace("0.6667", "0.56667"), "utf-8")
    assert own_stack(str(path)).values["link_share"] == 0.56667


def test_the_command_calibrates_anchors_and_tables(tmp_path, monkeypatch, capsys):
    for needed in ("typer", "scipy"):
        pytest.importorskip(needed)
    monkeypatch.chdir(tmp_path)
    rows = training_rows(PLANS[:3])
    written(Path("runs.csv"), measured(rows, slower(rows)))
    assert main(["anchor", "new", "training", "-o", "mine.anchor.toml"]) == HOLDS
    assert main(["calibrate", "runs.csv", "-o", "my-stack.toml"]) == HOLDS
    told = capsys.readouterr().out
    assert "calibrated without it" in told
    assert "not identified by these runs" in told
    assert own_stack("my-stack.toml").like == "megatron-core"
    for words, reason in (
        (["runs.csv", "-o", "my-stack.txt"], "output = 'my-stack.txt'"),
        (["mine.anchor.toml", "-o", "x.toml"], "2 runs: expected at least 3"),
        (["runs.csv", "mine.anchor.toml", "-o", "x.toml"], "expected those of one stack or engine"),
        (["runs.json", "-o", "x.toml"], "expected a name that ends in .csv or .anchor.toml"),
    ):
        assert main(["calibrate", *words]) == BAD_INPUT
        assert reason in capsys.readouterr().err
    written(Path("runs.csv"), [rows[0] | {"value": "fast"}])
    assert main(["calibrate", "runs.csv", "-o", "x.toml"]) == BAD_INPUT
    assert not Path("x.toml").exists()
