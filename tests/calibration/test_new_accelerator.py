"""An accelerator that nobody has measured: an entry in the registry, one among the devices, and everything answers for it."""

from __future__ import annotations

import json
import os
import tomllib

import pytest
from forked import forked
from repository import ROOT

import mlsysim
from mlsysim import Hardware, Models, Systems
from mlsysim.calibration import devices, siblings
from mlsysim.systems import fleets
from mlsysim.systems.fleets import usual_fleet, usual_node
from mlsysim.systems.types import Fleet, Node
from mlsysim.tables.predict import predict_table

H100 = Hardware.Cloud.H100
NAME = "Twin of the H100"


@pytest.fixture(scope="module")
def twin():
    """A copy of the H100 under another name, which is ``like`` it."""
    entry, written = H100.model_copy(update={"name": NAME}), siblings._entries()

    class Registry:
        def __getitem__(self, name):
            return entry if name == "twin" else Hardware[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(siblings, "_entries", lambda: written | {"twin": {"hardware": "twin", "like": "h100_sxm"}})
        patch.setattr(siblings, "Hardware", Registry())
        devices._devices.cache_clear()
        yield entry
    devices._devices.cache_clear()


def fleet_of(accelerator):
    node = Systems.Nodes.DGX_H100
    return Fleet(
        name="fleet",
        node=Node(name="node", accelerator=accelerator, accelerators_per_node=8, intra_node_bw=node.intra_node_bw),
        count=8,
        fabric=Systems.Fabrics.InfiniBand_NDR,
    )


def same(solve, twin):
    """The answer for the twin, which is that for the H100; but nothing of the twin was measured, and its answer says so."""
    answer, known = solve(twin), solve(H100)
    assert answer.feasible
    assert (answer.basis, known.basis) == ("transferred", "calibrated")
    assert answer.interval.low <= known.interval.low < known.interval.high <= answer.interval.high
    assert "accelerator" in answer.scope
    assert answer.breakdown == known.breakdown
    return answer


@pytest.mark.parametrize("stack", ["megatron-core", "pytorch-fsdp"])
def test_training(twin, stack):
    same(
        lambda chip: mlsysim.DistributedModel().solve(
            Models.Language.Llama3_8B, fleet_of(chip), batch_size=64, seq_len=4096, stack=stack
        ),
        twin,
    )


def test_search(twin):
    found = [
        mlsysim.ParallelismOptimizer().solve(Models.Language.Llama3_8B, fleet_of(chip), batch_size=64, stack="megatron-core")
        for chip in (twin, H100)
    ]
    assert found[0].best_config == found[1].best_config


@pytest.mark.parametrize("engine", ["vllm-2025", "tensorrt-llm-1.0"])
def test_serving(twin, engine):
    same(
        lambda chip: mlsysim.ServingModel().solve(
            Models.Language.Llama3_8B, chip, batch_size=8, seq_len=1024, output_len=128, stack=engine
        ),
        twin,
    )


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        (Models.Vision.ResNet50, {"batch_size": 256, "is_training": True, "stack": "nvidia-mxnet"}),
        (Models.Language.BERT_Large, {"batch_size": 64, "is_training": True, "stack": "nvidia-mlperf-bert", "seq_len": 512}),
        (Models.Vision.ResNet50, {"batch_size": 256, "precision": "int8", "stack": "tensorrt-mlperf"}),
        (Models.Language.BERT_Large, {"batch_size": 64, "precision": "int8", "stack": "tensorrt-mlperf", "seq_len": 384}),
    ],
    ids=["resnet-training", "bert-training", "resnet-inference", "bert-inference"],
)
def test_resnet_and_bert(twin, model, arguments):
    same(lambda chip: mlsysim.SingleNodeModel().solve(model, chip, **arguments), twin)


# Rows that leave out whatever can be left out: the node and the network of several are those that the accelerator usually has.
TRAINED = {
    **{"model": "Llama-3-8B", "n_accel": "64", "seq_len": "8192", "global_batch_seqs": "128", "micro_batch": "1"},
    **{"framework": "Megatron-Core", "metric": "step_time_s"},
}
TABLES = [
    [TRAINED, TRAINED | {"framework": "PyTorch FSDP", "n_accel": "512", "global_batch_seqs": "512"}],
    [
        {
            **{"model": "Llama-3.1-70B", "n_accel": "8", "tp": "8", "engine": engine, "mode": mode, "weight_precision": "fp8"},
            **{"input_len": "1024", "output_len": "256", "batch_or_concurrency": "32", "metric": "itl_ms"},
        }
        for engine in ("vLLM", "TensorRT-LLM 1.0")
        for mode in ("closed-loop", "offline")
    ],
    [
        {"benchmark": name, "n_accel": "64", "global_batch_seqs": "4096", "metric": "samples_per_s", "round": "v4.0"}
        for name in ("resnet", "bert")
    ],
    [
        {"benchmark": name, "scenario": "Offline", "round": "v4.0", "n_accel": "8", "precision": "int8"}
        for name in ("resnet50", "bert-99", "bert-99.9")
    ],
]


def with_two_entries(folder):
    """The rows of ``TABLES`` and a search of both accelerators, of which the second is known by an entry of each kind alone."""
    described = tomllib.loads((ROOT / "mlsysim" / "hardware" / "data" / "cloud.toml").read_text("utf-8"))["h100_sxm"]
    described |= {"symbol": "Twin", "name": NAME, "aliases": []}
    (folder / "twin.toml").write_text(toml_text({"twin": described}), encoding="utf-8")
    Hardware.load(folder / "twin.toml")
    written = siblings._entries()
    siblings._entries = lambda: written | {"twin": {"hardware": "twin", "like": "h100_sxm"}}
    for rows in TABLES:
        both = [predict_table([row | {"accelerator": name} for row in rows]) for name in ("H100", NAME)]
        for known, new in zip(*both, strict=True):
            print(known["predicted"], new["predicted"], known["reason"] or "-", new["reason"] or "-", sep="|")
    for name in ("H100", NAME):
        found = mlsysim.ParallelismOptimizer().solve(Models.Language.Llama3_8B, Fleet.of(name, 64), batch_size=64)
        print(found.best_config, found.step_time, found.basis, sep="|")


def toml_text(tables):
    lines = [
        f"[{name}]\n" + "".join(f"{key} = {value_text(value)}\n" for key, value in table.items())
        for name, table in tables.items()
    ]
    return "\n".join(lines)


def value_text(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {value_text(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the entries are added in a fork of this process")
def test_two_entries_are_all_that_tables_and_searches_need(tmp_path):
    done = forked(lambda: with_two_entries(tmp_path), tmp_path)
    assert done.code == 0, done.stderr
    *rows, known, new = [line.split("|") for line in done.stdout.splitlines()]
    assert len(rows) == sum(map(len, TABLES))
    for first, second, *reasons in rows:
        assert float(first) == pytest.approx(float(second), rel=1e-9), reasons
        assert reasons == ["-", "-"]
    assert known[:2] == new[:2]


def test_an_accelerator_of_a_known_socket_sits_where_others_of_it_do():
    twins = {name: Hardware[name].model_copy(update={"name": "twin"}) for name in ("h100_sxm", "b300_sxm", "gb200", "l40s")}
    twins["own"] = twins["h100_sxm"].model_copy(update={"vendor": ""})
    fleets = {name: usual_fleet(twin, 144) for name, twin in twins.items()}
    assert {name: fleet.inter_bandwidth_Bps / 1e9 for name, fleet in fleets.items()} == pytest.approx(
        {"h100_sxm": 50, "b300_sxm": 100, "gb200": 50, "l40s": 12.5 / 8, "own": 25}
    )
    assert fleets["gb200"].node.accelerators_per_node == 72
    # One between two that are known: the nearer in rate, bandwidth and memory.
    faster = twins["b300_sxm"].model_copy(
        update={"compute": Hardware["b200_sxm"].compute, "memory": Hardware["b200_sxm"].memory}
    )
    assert usual_node(faster).name.startswith("DGX B200")


def test_an_accelerator_of_no_known_socket_is_not_like_another_of_none(monkeypatch):
    one, other = (Hardware["h100_sxm"].model_copy(update={"vendor": "", "name": name}) for name in ("one", "other"))
    monkeypatch.setattr(fleets, "_seats", lambda: {"one": one})
    assert fleets._seated(other) == ""


def test_a_sibling_of_another_vendor_lends_kernels_and_no_software():
    assert list(siblings.line_of("mi300x")) == ["mi300x"]
    with pytest.raises(mlsysim.InputError, match="calibrated kernels"):
        mlsysim.SingleNodeModel().solve(
            Models.Vision.ResNet50, Hardware["mi300x"], batch_size=256, is_training=True, stack="nvidia-mxnet"
        )
