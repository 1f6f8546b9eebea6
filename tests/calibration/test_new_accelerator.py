"""An accelerator that nobody has measured: an entry in the registry, one among the devices, and everything answers for it."""

from __future__ import annotations

import pytest

import mlsysim
from mlsysim import Hardware, Models, Systems
from mlsysim.calibration import devices, siblings
from mlsysim.systems.types import Fleet, Node

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


def test_a_sibling_of_another_vendor_lends_kernels_and_no_software():
    assert list(siblings.line_of("mi300x")) == ["mi300x"]
    with pytest.raises(mlsysim.InputError, match="calibrated kernels"):
        mlsysim.SingleNodeModel().solve(
            Models.Vision.ResNet50, Hardware["mi300x"], batch_size=256, is_training=True, stack="nvidia-mxnet"
        )
