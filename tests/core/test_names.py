"""One reader of names, cells and fleets: every spelling means one thing, in every table and for every argument."""

from __future__ import annotations

import csv
import functools
import re

import pytest
from repository import ROOT, TESTS

from mlsysim.calibration.engines import engine, engine_names
from mlsysim.calibration.names import stack_called
from mlsysim.calibration.stacks import stack_names
from mlsysim.core.errors import InputError, UnknownNameError
from mlsysim.core.precision import BYTES_PER_ELEMENT, precision_name
from mlsysim.hardware.registry import Hardware
from mlsysim.infra.registry import Infra
from mlsysim.models.registry import Models
from mlsysim.solvers.serving.serving import ServingModel
from mlsysim.solvers.training.distributed import DistributedModel
from mlsysim.solvers.training.single_node import SingleNodeModel
from mlsysim.systems.fleets import usual_fleet, usual_node, usual_nodes
from mlsysim.systems.registry import Systems
from mlsysim.systems.types import Fleet
from mlsysim.tables.data_parallel import replica_question
from mlsysim.tables.inference import inference_question
from mlsysim.tables.predict import predict_table
from mlsysim.tables.serving import serving_question
from mlsysim.tables.token import token_question
from mlsysim.tables.training import question

TRAINING = {
    "model": "Llama-3.1-8B",
    "n_accel": "1",
    "seq_len": "4096",
    "global_batch_seqs": "1",
    "framework": "Megatron-LM",
    "metric": "step_time_s",
}
SERVING = {
    "model": "Llama-3.1-8B",
    "engine": "vllm",
    "mode": "static",
    "input_len": "512",
    "output_len": "64",
    "batch_or_concurrency": "1",
    "weight_precision": "fp16",
    "metric": "ttft_ms",
}
REPLICA = {"benchmark": "resnet", "n_accel": "1", "global_batch_seqs": "64"}
SUBMITTED = {"benchmark": "resnet50", "scenario": "Offline", "round": "v3.0", "n_accel": "1"}
TOKENS = {"benchmark": "llama2-70b-99", "scenario": "Offline", "round": "v5.1", "n_accel": "1"}
TABLES = {
    "training": lambda name: question(TRAINING | {"accelerator": name}).fleet,
    "serving": lambda name: serving_question(SERVING | {"accelerator": name}).hardware,
    "replicas": lambda name: replica_question(REPLICA | {"accelerator": name}).hardware,
    "inference": lambda name: inference_question(SUBMITTED | {"accelerator": name}).hardware,
    "tokens": lambda name: token_question(TOKENS | {"accelerator": name}).hardware,
}


@functools.cache
def spellings():
    return frozenset(_spellings())


def _spellings():
    for path in sorted((ROOT / "anchors").rglob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                yield from (row[column] for column in ("accelerator", "run.accelerator", "hardware") if row.get(column))


def device_of(hardware):
    return hardware.node.accelerator if isinstance(hardware, Fleet) else hardware


@pytest.mark.parametrize("table", TABLES)
def test_a_spelling_of_the_anchors_is_one_device_in_every_table(table):
    for text in sorted(spellings()):
        device, problem = Hardware.get(text), None
        try:
            assert device_of(TABLES[table](text)) is device, text
        except InputError as error:
            problem = str(error)
        # What is read and has no calibrated kernels for that table is refused by its own name, or as one of another vendor.
        assert problem is None or re.search(rf"{re.escape(device.name)}|NVIDIA", problem), (text, problem)


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("H200 SXM 141GB", "h200_sxm"),
        ("A100-SXM-40GB", "a100_sxm_40gb"),
        ("NVIDIA A100 80GB PCIe", "a100_pcie_80gb"),
        ("NVIDIA H100 80GB HBM3", "h100_sxm"),
        ("GeForce RTX 4060 Ti", "rtx4060ti"),
        ("4090", "rtx4090"),
        ("M3 Max 40\u2011Core GPU 64GB", "apple_m3_max"),
        ("Apple M3 Max 30-core GPU", "apple_m3_max_30"),
        ("TPU v6e Trillium (assumed; README example)", "tpu_v6e"),
    ],
)
def test_published_accelerators(text, entry):
    assert Hardware.id_of(text) == entry


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("Llama-3-70B", "llama3_70b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama3p1_8b"),
        ("meta-llama/Meta-Llama-3-8B", "llama3_8b"),
        ("Qwen/Qwen3-32B-FP8", "qwen3_32b"),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek_v3"),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507-FP8", "qwen3_235b_a22b"),
        ("google/gemma-3-27b-it", "gemma3_27b"),
        ("allenai/OLMo-2-1124-13B-Instruct", "olmo2_13b"),
        ("OPT-13B", "opt_13b"),
        ("facebook/opt-1.3b", "opt_1p3b"),
        ("openai-community/gpt2", "gpt2_small"),
        ("Qwen/Qwen2.5-Coder-7B-Instruct", "qwen2p5_7b"),
    ],
)
def test_published_models(text, entry):
    assert Models.id_of(text) == entry


@pytest.mark.parametrize(
    "text", ["mistralai/Mistral-7B-Instruct-v0.9", "DeepSeek-R1-Distill-Llama-7B", "Kimi-K9-Thinking", "Llama-2-70B-32K"]
)
def test_a_model_of_another_architecture_is_not_guessed(text):
    with pytest.raises(UnknownNameError):
        Models.get(text)


@pytest.mark.parametrize(
    ("text", "entry"), [("DGX-H100", "dgx_h100"), ("GB200 NVL72", "gb200_nvl72"), ("NVIDIA DGX A100 640GB", "dgx_a100_80")]
)
def test_published_nodes(text, entry):
    assert Systems.id_of(text) == entry


@pytest.mark.parametrize("registry", [Hardware, Models, Systems, Infra], ids=repr)
def test_what_a_registry_prints_it_accepts(registry):
    for entry, names in registry.spellings().items():
        assert {registry.id_of(name) for name in names} == {entry}
    shown = [item.name for item in registry]
    assert len(set(shown)) == len(shown)


def test_what_else_is_printed_is_accepted():
    assert [engine(name).name for name in engine_names()] == list(engine_names())
    assert [stack_called(name) for name in stack_names()] == list(stack_names())
    assert [precision_name("precision", name) for name in BYTES_PER_ELEMENT] == list(BYTES_PER_ELEMENT)


@pytest.mark.parametrize("registry", [Hardware, Models, Systems, Infra], ids=repr)
@pytest.mark.parametrize("text", ["", "zzzz", "x100", "llama", "DGX", "-", "(1)", "Europe"])
def test_an_unknown_name_has_at_most_three_near_ones(registry, text):
    with pytest.raises(UnknownNameError) as caught:
        registry.get(text)
    assert len(re.findall(r"'[^']*'", str(caught.value))) <= 4, "what was asked, and three names"


@pytest.mark.parametrize("wrong", ["vlm", "pytorch-fsdp-pur", "sglangs", "vllm-2026", "megatron"])
def test_a_stack_is_not_guessed(wrong):
    assert stack_called(wrong) is None
    with pytest.raises(UnknownNameError, match=r"stack = .*did you mean|such as"):
        engine(wrong)


def test_a_slice_is_a_slice_everywhere():
    whole, part = Hardware.get("A100-SXM-80GB"), Hardware.get("A100-SXM-80GB (7x1g.10gb MIG)")
    assert part.memory_capacity_B == pytest.approx(whole.memory_capacity_B / 8)
    assert part is Hardware["NVIDIA A100-SXM-80GB (1x1g.10gb MIG)"] or part == Hardware["A100-SXM-80GB (1x1g.10gb MIG)"]
    with pytest.raises(InputError, match="MIG"):
        Hardware.get("A100-SXM-80GB (MIG)")
    with pytest.raises(UnknownNameError, match="cut in slices"):
        Hardware.get("L4 (1x1g.10gb MIG)")


def test_a_card_of_40_gigabytes_has_no_room_for_what_80_hold():
    row = SERVING | {"model": "Llama-2-13B", "input_len": "2048", "output_len": "512", "batch_or_concurrency": "16"}
    small, large = predict_table([row | {"accelerator": f"A100-SXM-{size}GB"} for size in (40, 80)])
    assert (small["feasible"], large["feasible"]) == (False, True)


@pytest.mark.parametrize(
    ("accelerator", "node", "count"), [("GB200-NVL72", "GB200_NVL72", 1), ("H100-SXM-80GB", "DGX_H100", 2)]
)
def test_a_row_and_the_api_are_one_deployment(accelerator, node, count):
    row = SERVING | {"accelerator": accelerator, "model": "Llama-3.1-70B", "tp": "16", "weight_precision": "fp8"}
    (told,) = predict_table([row])
    asked = serving_question(row)
    fleet = Fleet(name="mine", node=Systems.Nodes[node], count=count)
    result = ServingModel().solve(asked.workload, fleet, **asked.arguments)
    assert told["predicted"] == pytest.approx(result.ttft.m_as("ms"), rel=1e-9)


def test_a_format_in_a_models_name_is_that_of_the_weights():
    row = SERVING | {"accelerator": "H200 SXM 141GB", "model": "Qwen/Qwen3-32B-FP8", "weight_precision": ""}
    assert serving_question(row).arguments["precision"] == "fp8_block"
    with pytest.raises(InputError, match="weight_precision"):
        serving_question(row | {"model": "Qwen/Qwen3-32B"})


def test_a_fleet_that_nobody_describes_is_the_usual_one():
    assert usual_node(Hardware.Cloud.H200) is Systems.Nodes.DGX_H200
    h800 = usual_fleet(Hardware.Cloud.H800, 64)
    assert (h800.node.accelerators_per_node, h800.node.intra_bandwidth_Bps) == (8, pytest.approx(200e9))
    assert h800.inter_bandwidth_Bps == pytest.approx(50e9)
    card = usual_node(Hardware.get("A100 PCIe 80GB"))
    assert card.intra_bandwidth_Bps == pytest.approx(31.5e9), "bridges join pairs, the bus joins all"
    pod = usual_fleet(Hardware.Cloud.TPUv5p, 256, per_node=4)
    assert pod.count == 1, "a host is no node of a torus"
    assert usual_fleet(Hardware.Cloud.TPUv5p, 256, per_node=64).count == 4
    own = Hardware.Cloud.H100.model_copy(update={"name": "a copy"})
    assert usual_nodes(own, 16).node.intra_bandwidth_Bps == pytest.approx(450e9)


def test_a_caller_says_otherwise():
    fleet = usual_fleet(Hardware.Cloud.H100, 32, per_node=4, link_Bps=1e11, network_Bps=1e10)
    assert (fleet.count, fleet.node.intra_bandwidth_Bps, fleet.inter_bandwidth_Bps) == (8, 1e11, 1e10)
    with pytest.raises(InputError, match="count"):
        usual_fleet(Hardware.Cloud.H100, 0)


def test_arguments_that_take_names_take_every_spelling():
    model, hardware = Models.get("Qwen/Qwen3-32B"), Hardware.get("H200 SXM 141GB")
    asked = {"input_len": 1024, "tp_size": 2}
    named = ServingModel().solve(model, hardware, stack="vLLM 0.15.0", precision="bfloat16", **asked)
    assert named == ServingModel().solve(model, hardware, stack="vllm-2025", precision="bf16", **asked)
    fleet, run = usual_fleet(Hardware.Cloud.H100, 64), {"batch_size": 64, "tp_size": 8, "seq_len": 4096}
    named_run = DistributedModel().solve(model, fleet, stack="Megatron-Core", precision="bfloat16", **run)
    assert named_run == DistributedModel().solve(model, fleet, stack="megatron-core", precision="bf16", **run)
    asked = {"batch_size": 64, "precision": "bf16"}
    named_pass = SingleNodeModel().solve(Models.get("ResNet-50"), hardware, stack="TensorRT MLPerf", **asked)
    assert named_pass == SingleNodeModel().solve(Models.get("ResNet-50"), hardware, stack="tensorrt-mlperf", **asked)


def test_an_accelerator_alone_sits_in_its_usual_node():
    asked = {"input_len": 512, "stack": "vllm-2025", "tp_size": 16}
    alone = ServingModel().solve(Models.Language.Llama3_70B, Hardware.Cloud.H100, **asked)
    two = Fleet(name="two", node=Systems.Nodes.DGX_H100, count=2)
    assert alone.ttft == ServingModel().solve(Models.Language.Llama3_70B, two, **asked).ttft


def test_every_published_checkpoint_is_an_entry_or_refused_by_the_name_of_its_layers():
    with (TESTS / "data" / "model_ids.csv").open(encoding="utf-8", newline="") as file:
        expected = {row["name"]: row["entry"] for row in csv.DictReader(file)}
    for name, entry in expected.items():
        if entry != "-":
            assert Models.id_of(name) == entry, name
            continue
        with pytest.raises(UnknownNameError, match=r"expected .*(layer|modelled)"):
            Models.get(name)


def test_models_of_the_list_have_the_formats_that_they_are_published_in():
    formats = {name: (Models.get(name).weight_format, Models.get(name).expert_format) for name in OWN_FORMATS}
    assert formats == OWN_FORMATS


OWN_FORMATS = {
    "openai/gpt-oss-120b": ("", "mxfp4"),
    "deepseek-ai/DeepSeek-R1-0528": ("fp8_block", ""),
    "moonshotai/Kimi-K2-Thinking": ("", "int4"),
    "MiniMaxAI/MiniMax-M2.5": ("fp8_block", ""),
    "mistralai/Devstral-2-123B-Instruct-2512": ("fp8", ""),
    "Qwen/Qwen3-32B": ("", ""),
}
