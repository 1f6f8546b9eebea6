"""Convolutional networks and BERT, layer by layer, on one accelerator and on a fleet of them."""

from __future__ import annotations

import csv
import tomllib
import zlib
from dataclasses import replace

import numpy as np
import pytest
from repository import ANCHOR_TREE

from mlsysim import Fleet, Hardware, Models, SingleNodeModel, Systems
from mlsysim.calibration.store import tables
from mlsysim.core.errors import MLSysError
from mlsysim.lowering.convolutions import convolutions
from mlsysim.physics.kernels.convolution import convolution_macs, convolution_parameters, convolution_passes
from mlsysim.physics.kernels.gemm import GemmKernel, SharedGemm
from mlsysim.physics.kernels.passes import ReplicaDevice, SharedDataParallel
from mlsysim.physics.training.data_parallel import ReplicaCoefficients, ReplicaPlan, replica_step

TABLES = sorted([*(ANCHOR_TREE / "cnn").glob("*.csv"), *(ANCHOR_TREE / "bert").glob("*.csv")])
KERNEL = GemmKernel(0.9, 180.0, 2.6, 0.8, 3e-6, SharedGemm(2.5, 2.5e-7, 12.0, 256.0))
DEVICE = ReplicaDevice(KERNEL, 312e12, 2.0, 2.0, 2.0, 1.9e12, 108.0, 40 * 2.0**20, 0.8, SharedDataParallel(5.0, 20e-6, 0.6))
RESNET = Models.Vision.ResNet50
BERT = Models.Language.BERT_Large
MXNET = {"is_training": True, "stack": "nvidia-mxnet"}


@pytest.mark.parametrize("workload", [RESNET, Models.Vision.ResNet101, Models.Vision.ResNet152], ids=lambda model: model.name)
def test_the_layers_add_up_to_the_network(workload):
    network = convolutions(workload.name)
    assert 2 * convolution_macs(network) == pytest.approx(workload.inference_flops.m_as("flop"), rel=0.005)
    assert convolution_parameters(network) == pytest.approx(workload.parameters.m_as("count"), rel=1e-4)


def passes_s(batch=256.0, moved=1.0, transposed=0.0, **faster):
    passes = convolution_passes(convolutions(RESNET.name), batch, replace(DEVICE, **faster), moved, transposed)
    return float(passes.forward_s + passes.backward_s)


def test_time_is_linear_in_a_large_batch():
    assert passes_s(1024.0) / passes_s(512.0) == pytest.approx(2, rel=0.02)
    assert passes_s(2.0) / passes_s(1.0) < 1.8


def test_time_falls_with_bandwidth_and_peak_and_grows_with_what_is_moved():
    assert passes_s(memory_Bps=2.2e12) < passes_s()
    assert passes_s(peak_flops_per_s=400e12) < passes_s()
    assert passes_s(moved=1.5) > passes_s()
    assert passes_s(transposed=1.0) > passes_s()


def test_arrays_and_numbers_agree():
    batches = np.array([16.0, 64.0, 256.0])
    together = convolution_passes(convolutions(RESNET.name), batches, DEVICE)
    assert together.backward_s == pytest.approx(
        [convolution_passes(convolutions(RESNET.name), b, DEVICE).backward_s for b in batches]
    )


def test_no_pass_beats_the_roofline():
    flops = 3 * 2 * convolution_macs(convolutions(RESNET.name)) * 256
    assert passes_s() > 0.95 * flops / DEVICE.peak_flops_per_s


def test_a_step_hides_no_more_than_there_is():
    plan = ReplicaPlan(16.0, 8.0, 1.0, 0.0, 100e6, 1e9, 300e9, 25e9, 1.0)
    passes = convolution_passes(convolutions(RESNET.name), 64.0, DEVICE)
    shown = replica_step(passes, plan, DEVICE, ReplicaCoefficients(dp_hidden=0.0))
    hidden = replica_step(passes, plan, DEVICE, ReplicaCoefficients(dp_hidden=1.0))
    assert shown.dp_exposed_s > hidden.dp_exposed_s >= 0
    assert shown.total_s - hidden.total_s == pytest.approx(shown.dp_exposed_s - hidden.dp_exposed_s)
    alone = replica_step(passes, replace(plan, replicas=1.0, per_node=1.0), DEVICE, ReplicaCoefficients())
    assert alone.dp_exposed_s == 0


def test_one_accelerator_is_a_fleet_of_one():
    one = SingleNodeModel().solve(RESNET, Hardware.Cloud.A100, batch_size=256, **MXNET)
    node = Systems.Nodes.DGX_A100.model_copy(update={"accelerators_per_node": 1})
    fleet = SingleNodeModel().solve(RESNET, Fleet(name="one", node=node, count=1), batch_size=256, **MXNET)
    assert fleet.latency == one.latency
    assert one.basis == "calibrated"
    assert sum(part.m_as("s") for part in one.breakdown.values()) == pytest.approx(one.latency.m_as("s"))
    assert "stack.nvidia-mxnet.moved" in one.coefficients


def test_padding_costs_only_stacks_that_compute_it():
    given = {"batch_size": 32, "seq_len": 512, "is_training": True, "mean_tokens": 256.0}

    def latency(stack):
        return SingleNodeModel().solve(BERT, Hardware.Cloud.A100, stack=stack, **given).latency.m_as("s")

    full = SingleNodeModel().solve(
        BERT, Hardware.Cloud.A100, stack="nvidia-mlperf-bert", batch_size=32, seq_len=512, is_training=True
    )
    assert latency("nvidia-mlperf-bert") < 0.6 * full.latency.m_as("s")
    assert latency("nvidia-pytorch-bert-2020") > 1.5 * latency("nvidia-pytorch-bert")


def test_a_fleet_is_bound_like_its_accelerators():
    one = SingleNodeModel().solve(RESNET, Hardware.Cloud.H100, batch_size=32, is_training=True)
    eight = SingleNodeModel().solve(
        RESNET, Fleet(name="8", node=Systems.Nodes.DGX_H100, count=1), batch_size=256, is_training=True
    )
    assert eight.throughput.m_as("count/s") == pytest.approx(8 * one.throughput.m_as("count/s"))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"stack": "tinygrad"}, "stack"),
        ({"stack": "nvidia-mxnet", "is_training": False}, "stack"),
        ({"stack": "nvidia-mxnet", "efficiency": 0.4}, "stack"),
        ({"stack": "nvidia-mxnet", "precision": "fp4"}, "precision"),
        ({"stack": "nvidia-mxnet", "microbatch_count": 3}, "batch_size"),
    ],
)
def test_wrong_input_is_named(wrong, named):
    with pytest.raises(MLSysError, match=named):
        SingleNodeModel().solve(RESNET, Hardware.Cloud.H100, **({"batch_size": 256, "is_training": True} | wrong))


def test_what_is_not_calibrated_is_refused():
    with pytest.raises(MLSysError, match="layers are known"):
        SingleNodeModel().solve(Models.Vision.VGG16, Hardware.Cloud.H100, batch_size=8, **MXNET)
    with pytest.raises(MLSysError, match="calibrated kernels"):
        SingleNodeModel().solve(RESNET, Hardware.Cloud.MI300X, batch_size=8, **MXNET)


def test_at_most_six_coefficients_a_stack():
    assert all(len(entry.get("fit", ())) <= 6 for entry in tables("data_parallel.toml")["stack"].values())


@pytest.mark.parametrize("table", TABLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_role_of_a_run_is_the_hash_of_its_cells(table):
    given = tomllib.loads(table.with_suffix(".toml").read_text("utf-8"))["defaults"]
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        own = {name.removeprefix("run."): cell for name, cell in row.items() if name.startswith("run.") and cell}
        cells = given["run"] | own
        key = "|".join(cells[name] for name in sorted(cells) if name not in ("metric", "year"))
        assert row["role"] == ("validation" if zlib.crc32(key.encode()) % 5 > 1 else "calibration"), row["id"]
    assert sum(row["role"] == "validation" for row in rows) >= len(rows) / 2
