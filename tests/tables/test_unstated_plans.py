"""What a table of runs leaves out is what the framework's authors do; and what stacks keep and launch beyond the layers."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from repository import ANCHOR_TREE

from mlsysim.calibration.shared import fitted_names
from mlsysim.calibration.stacks import stack, stack_names
from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.fitting.memory import refit_memory
from mlsysim.lowering.training_kernels import kernel_device, setting_shape, stack_overlap, stack_step
from mlsysim.models.registry import Models
from mlsysim.solvers.training.distributed import DistributedModel
from mlsysim.systems.registry import Systems
from mlsysim.systems.types import Fleet
from mlsysim.tables.assumed import assumed_of
from mlsysim.tables.predict import predict_table
from mlsysim.tables.training import noted_cells, question
from mlsysim.tables.training_steps import prepared

RUN = {
    "model": "GPT", "params_b": "18.4", "layers": "40", "hidden": "6144", "heads": "48", "seq_len": "2048",
    "accelerator": "A100-SXM-80GB", "n_accel": "256", "global_batch_seqs": "1024", "tp": "8", "pp": "1", "precision": "fp16",
    "sharding": "none", "recompute": "full", "flash_attention": "no", "framework": "Megatron-LM", "year": "2021",
    "metric": "step_time_s",
}  # fmt: skip
NEMO = RUN | {
    "accelerator": "H100-SXM-80GB", "framework": "NVIDIA NeMo Framework Release 24.09", "precision": "fp8", "tp": "4",
    "pp": "4", "micro_batch": "1", "recompute": "none", "flash_attention": "yes",
}  # fmt: skip


def step_s(cells):
    asked = question(cells)
    return DistributedModel().solve(asked.workload, asked.fleet, **asked.arguments).step_latency_total.m_as("second")


def test_a_micro_batch_left_out_is_the_fastest_that_fits():
    tuned = step_s(RUN)
    stated = [step_s(RUN | {"micro_batch": str(size)}) for size in (1, 2, 4, 8, 16, 32)]
    assert tuned == pytest.approx(min(stated))
    assert question(RUN | {"framework": "Megatron-DeepSpeed"}).arguments["microbatch_count"] == 32, "others: one sequence"


def test_virtual_stages_left_out_are_one_layer_a_chunk_in_nemo():
    assert question(NEMO).arguments["virtual_stages"] == 10
    assert question(NEMO | {"vpp": "2"}).arguments["virtual_stages"] == 2
    assert question(NEMO | {"layers": "41", "params_b": ""}).arguments["virtual_stages"] == 1, "uneven stages do not interleave"
    assert question(NEMO | {"framework": "Megatron-LM/Core r0.8"}).arguments["virtual_stages"] == 1


PLAIN = {
    "model": "LLaMA-7B", "seq_len": "2048", "accelerator": "A100-SXM-80GB", "n_accel": "64", "global_batch_seqs": "1024",
    "framework": "mine", "precision": "bf16", "metric": "step_time_s",
}  # fmt: skip


@pytest.mark.parametrize(
    ("framework", "zero_stage"), [("mine", 1), ("PyTorch FSDP (mine)", 3), ("mine with ZeRO-2", 2), ("llm-foundry", 3)]
)
def test_sharding_left_out_is_what_the_framework_s_name_says(framework, zero_stage):
    assert question(PLAIN | {"framework": framework}).arguments["zero_stage"] == zero_stage


def test_interleaving_without_a_number_of_chunks_is_two_in_torchtitan():
    plan = PLAIN | {"framework": "torchtitan", "pp": "4", "variant": "interleaved 1F1B"}
    assert question(plan).arguments["virtual_stages"] == 2
    assert question(plan | {"variant": "1F1B"}).arguments["virtual_stages"] == 1
    assert question(plan | {"framework": "mine"}).arguments["virtual_stages"] == 1


def test_a_plan_left_out_has_the_least_tensor_ranks_that_share_the_batch():
    few = PLAIN | {"global_batch_seqs": "16"}
    assert question(few).arguments["tp_size"] == 4, "16 data-parallel ranks of 64"
    assert assumed_of("DistributedModel", few, question(few).fleet, question(few).arguments)["tp"] == "4"
    assert question(PLAIN).arguments["tp_size"] == 1
    with pytest.raises(InputError, match="global_batch_seqs"):
        question(few | {"tp": "1"})


def test_a_rounded_batch_is_the_nearest_that_its_ranks_share():
    asked = question(PLAIN | {"global_batch_seqs": "1000"})
    assert asked.arguments["batch_size"] == 1024
    told = assumed_of("DistributedModel", PLAIN | {"global_batch_seqs": "1000"}, asked.fleet, asked.arguments)
    assert told["global_batch_seqs"] == "1024"
    assert "global_batch_seqs" not in assumed_of("DistributedModel", PLAIN, asked.fleet, asked.arguments)
    with pytest.raises(InputError, match="global_batch_seqs"):
        question(PLAIN | {"global_batch_seqs": "100", "tp": "1"})


def test_a_size_in_a_name_is_of_no_model_that_has_another():
    assert question(PLAIN | {"model": "GPT-2 124M"}).workload.parameter_count < 0.17e9, "not GPT-2's 1.5e9"
    with pytest.raises(InputError, match="layers"):
        question(PLAIN | {"model": "GPT-2 350M"})


def test_gathered_weights_take_the_fastest_micro_batch_that_fits():
    fsdp = PLAIN | {"framework": "PyTorch FSDP", "recompute": "full"}
    assert question(fsdp).arguments["microbatch_count"] == 1, "16 sequences a rank in one"
    assert question(fsdp | {"micro_batch": "2"}).arguments["microbatch_count"] == 8


BRIDGE = {
    "model": "Qwen3-30B-A3B", "seq_len": "4096", "accelerator": "GB200-NVL72", "n_accel": "8", "precision": "MXFP8", "ep": "8",
    "global_batch_seqs": "512", "micro_batch": "4", "framework": "Megatron-Bridge", "metric": "step_time_s",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "stack_used"),
    [
        ({}, "megatron-core"),
        ({"release": "26.04"}, "megatron-core"),
        ({"release": "26.06"}, "megatron-core-graphs"),
        ({"framework": "Megatron-Bridge 26.06"}, "megatron-core-graphs"),
        ({"release": "26.06", "precision": "bf16"}, "megatron-core"),
        ({"release": "26.06", "accelerator": "B200"}, "megatron-core"),
        ({"release": "26.08", "accelerator": "B200"}, "megatron-core-graphs"),
        ({"release": "26.08", "accelerator": "H100"}, "megatron-core"),
        ({"release": "26.08", "model": "Kimi-K2"}, "megatron-core"),
        ({"model": "Llama-3-70B", "sharding": "zero3", "ep": "1"}, "megatron-core-offload"),
        (
            {"model": "Llama-3-70B", "sharding": "zero3", "ep": "1", "framework": "NeMo 2.0/Megatron-Core"},
            "megatron-core-offload",
        ),
        ({"framework": "NeMo/Megatron-Core", "accelerator": "B200"}, "megatron-core"),
        ({"framework": "Megatron-LM", "year": "2025"}, "megatron-lm-2024"),
        ({"framework": "Megatron-LM", "year": "2022"}, "megatron-2022"),
        ({"framework": "NeMo/Megatron-Core", "accelerator": "H100", "precision": "fp8"}, "megatron-core-2024"),
        ({"framework": "torchtitan", "precision": "fp8 rowwise"}, "torchtitan-rowwise"),
        ({"framework": "torchtitan", "precision": "fp8 tensorwise"}, "torchtitan-tensorwise"),
        ({"framework": "Megatron-DeepSpeed (ATorch DS 3D)", "precision": "bf16"}, "atorch-3d"),
        ({"framework": "torchtitan", "pp": "4", "ep": "1"}, "torchtitan-pipelined"),
        ({"framework": "DeepSpeed", "sharding": "zero2"}, "megatron-deepspeed"),
        ({"framework": "DeepSpeed ZeRO-3"}, "deepspeed-zero3"),
        ({"framework": "mine", "accelerator": "TPU v5p", "precision": "bf16", "ep": "1"}, "pathways-2022"),
        ({"framework": "mine"}, "generic"),
    ],
    ids=str,
)
def test_a_recipe_of_a_release_says_the_stack(changed, stack_used):
    assert question(BRIDGE | changed).arguments["stack"] == stack_used


def test_of_notes_a_release_is_read_and_nothing_else():
    told, silent, column = predict_table(
        [
            BRIDGE | {"notes": "release 26.06; 9e9 tokens/s"},
            BRIDGE | {"notes": "9e9"},
            BRIDGE | {"release": "26.06", "notes": "9"},
        ]
    )
    assert told["stack_used"] == column["stack_used"] == "megatron-core-graphs"
    assert (silent["stack_used"], told["predicted"]) == ("megatron-core", column["predicted"])


def test_notes_may_say_how_many_places_an_expert_has():
    run = RUN | {"model": "Mixtral-8x7B", "params_b": "46.7", "layers": "32", "hidden": "4096", "heads": "32", "kv_heads": "8"}
    run |= {"ffn_hidden": "14336", "experts": "8", "experts_topk": "2", "accelerator": "TPU-v5p", "framework": "MaxText"}
    run |= {
        "tp": "1",
        "global_batch_seqs": "2048",
        "micro_batch": "8",
        "precision": "bf16",
        "flash_attention": "yes",
        "year": "2025",
    }
    noted, column, none = predict_table([run | {"notes": "capacity 1.25"}, run | {"capacity_factor": "1.25"}, run])
    assert noted["predicted"] == column["predicted"] != none["predicted"]
    assert question(run | {"capacity_factor": "1.25"}).arguments["capacity_factor"] == 1.25


def test_maxtext_gives_each_accelerator_24576_tokens():
    """Of 2,048 tokens 12 sequences an accelerator; two that share a layer have 24; no gradients are accumulated."""
    run = {name: cell for name, cell in RUN.items() if name not in ("global_batch_seqs", "micro_batch", "pp", "vpp", "dp")}
    for tp in (1, 2):
        cells = {"accelerator": "TPU-v5p", "framework": "MaxText", "seq_len": "2048", "n_accel": "64", "tp": str(tp)}
        asked = question(run | cells).arguments
        assert (asked["batch_size"], asked["microbatch_count"]) == (12 * 64, 1)


def test_maxtext_trains_no_layer_that_predicts_further_tokens():
    run = RUN | {"model": "DeepSeek-V3", "params_b": "671", "layers": "61", "hidden": "7168", "heads": "128", "tp": "1"}
    run |= {"experts": "256", "experts_topk": "8", "precision": "bf16", "flash_attention": "yes", "year": "2025"}
    assert question(run | {"accelerator": "H100", "framework": "Megatron-Core"}).workload.prediction_layers == 1
    assert question(run | {"accelerator": "TPU-v5p", "framework": "MaxText"}).workload.prediction_layers == 0


def test_sends_between_chunks_run_beside_another_chunk():
    found, others = stack("megatron-core"), stack("aleph-alpha-scaling")
    plan = prepared(question(NEMO)).plan
    assert stack_overlap(found.coefficients, plan).pp == found.coefficients.interleaved_sends_hidden > 0
    assert stack_overlap(found.coefficients, replace(plan, virtual_stages=1.0)).pp == 0
    single = stack_overlap(others.coefficients, replace(plan, virtual_stages=1.0)).pp
    assert single == others.coefficients.pp_hidden


def test_a_group_that_holds_optimizer_states_is_a_cell():
    run = RUN | {"framework": "InternEvo", "sharding": "zero1", "tp": "1"}
    assert question(run | {"zero_group": "8"}).arguments["shard_size"] == 8
    assert question(run | {"zero_group": "all"}).arguments["shard_size"] is None
    assert step_s(run | {"zero_group": "8"}) < step_s(run | {"zero_group": "all"})


def test_what_stands_for_a_batch_a_format_and_a_kernel():
    several = question(RUN | {"global_batch_seqs": "", "framework": "Megatron-DeepSpeed"}).arguments
    assert (several["batch_size"] * several["seq_len"], several["microbatch_count"]) == (4 * 2**20, 64), "four million tokens"
    submitted = RUN | {"model": "GPT-3 175B (MLPerf)", "precision": "", "accelerator": "H100", "params_b": "", "tp": "8"}
    assert question(submitted).arguments["precision"] == "fp8"
    assert question(submitted | {"accelerator": "A100"}).arguments["precision"] == "bf16"
    assert question(RUN | {"precision": "", "flash_attention": "", "accelerator": "V100"}).arguments["attention"] == "unfused"
    assert question(RUN | {"flash_attention": "", "framework": "NeMo-Megatron 22.03"}).arguments["attention"] == "fused-softmax"


def test_a_model_of_which_a_row_has_the_size_alone():
    sized = RUN | {"model": "GPT", "params_b": "6.7", "layers": "", "hidden": "", "heads": "", "tp": "1"}
    model = question(sized).workload
    assert (model.hidden_dim, model.heads, model.layers) == (4096, 32, 32)
    with pytest.raises(InputError, match="hidden = '': expected a number"):
        question(sized | {"model": "BERT"})


MAXTEXT = {
    "model": "in-house", "params_b": "46.7", "active_params_b": "12.9", "layers": "32", "hidden": "4096", "heads": "32",
    "kv_heads": "8", "ffn_hidden": "14336", "vocab": "32000", "experts": "8", "experts_topk": "2", "seq_len": "4096",
    "accelerator": "TPU-v5p", "n_accel": "256", "framework": "MaxText (JAX)", "year": "2025", "metric": "step_time_s",
}  # fmt: skip


def test_ranks_of_experts_that_a_row_leaves_out_are_the_fastest():
    steps = {size: step_s(MAXTEXT | {"ep": str(size)}) for size in (1, 2, 4, 8)}
    asked = question(MAXTEXT)
    fastest = asked.arguments["ep_size"]
    assert steps[fastest] == min(steps.values()) < steps[1]
    assert assumed_of("DistributedModel", MAXTEXT, asked.fleet, asked.arguments)["ep"] == str(fastest)
    assert "ep" not in assumed_of("DistributedModel", MAXTEXT | {"ep": "2"}, asked.fleet, asked.arguments)


def test_pipelines_of_maxtext_run_a_layer_a_chunk():
    piped = MAXTEXT | {"pp": "4", "n_accel": "1024", "micro_batch": "4", "global_batch_seqs": "4096"}
    assert question(piped).arguments["virtual_stages"] == 8
    assert question(piped | {"vpp": "1"}).arguments["virtual_stages"] == 1


def test_notes_say_how_wide_heads_are_and_how_many_tokens_an_accelerator_has():
    assert noted_cells("head_dim 256; 8k tokens per device") == {"head_dim": "256", "accelerator_ktokens": "8"}
    asked = question(MAXTEXT | {"accelerator_ktokens": "8"})
    assert asked.arguments["batch_size"] == 256 * 8192 // 4096
    # Queries and outputs of 32 heads of 256, keys and values of 8: twice as wide as 4,096 / 32.
    wide = question(MAXTEXT | {"head_dim": "256"}).workload
    assert (wide.layer_shape.head_dim, question(MAXTEXT).workload.layer_shape.head_dim) == (256, 128)


def test_embedding_and_head_may_stand_for_layers():
    fleet = Fleet(name="fleet", node=Systems.Nodes.DGX_H100, count=128)
    asked = {"batch_size": 128, "seq_len": 8192, "tp_size": 8, "pp_size": 16, "microbatch_count": 16, "recompute": "full"}
    asked |= {"stack": "megatron-core"}
    step = DistributedModel().solve(Models.Language.Llama3_405B, fleet, virtual_stages=8, **asked)
    assert step.plan["virtual_stages"] == 8
    with pytest.raises(InconsistentError, match="1 to 8 for 126 layers"):
        DistributedModel().solve(Models.Language.Llama3_405B, fleet, virtual_stages=9, **asked)


def test_eight_bit_products_keep_less():
    bf16, fp8 = (stack("megatron-core").memory_terms("flash", precision) for precision in ("bf16", "fp8"))
    assert (bf16.input_B, fp8.input_B) == (2, 1)
    assert stack("megatron-2022").memory_terms("flash", "fp8").input_B == 2


@pytest.mark.parametrize("name", stack_names())
def test_the_hosts_time_of_a_step_adds_to_it(name):
    asked = question(RUN | {"micro_batch": "1"})
    run = prepared(asked)
    accelerator, found = asked.fleet.node.accelerator, stack(name)
    shape = setting_shape(replace(run.setting, seq_len=2048, attention="unfused"), found)
    device = kernel_device(accelerator, "bf16", found)

    def total(added_s):
        coefficients = replace(found.coefficients, host_step_s=found.coefficients.host_step_s + added_s)
        stepped = replace(found, coefficients=coefficients)
        return stack_step(run.work, shape, run.plan, run.setting.machine(), device, stepped).total_s

    assert total(0.1) == pytest.approx(total(0.0) + 0.1)


def test_heads_that_are_no_multiple_of_eight_wide_are_slower():
    def seconds(hidden):
        return step_s(RUN | {"hidden": str(hidden), "heads": "80", "params_b": "", "micro_batch": "4"})

    assert seconds(7600) > seconds(7680)  # 95 and 96 wide


def test_what_measured_steps_decided_is_counted():
    assert "shared.launch_head" in fitted_names()
    assert "shared.unfused_forward_B" not in fitted_names()


@pytest.fixture
def some_layouts(tmp_path, change_rows):
    folder = tmp_path / "anchors" / "memory"
    shutil.copytree(ANCHOR_TREE / "memory", folder)
    table = folder / "hagemann2023_fit.csv"

    def exchange(role):
        change_rows(table, role, lambda row: row | {"outcome": {"fits": "OOM", "OOM": "fits"}[row["outcome"]]})

    return tmp_path / "anchors", exchange


def test_the_fit_of_memory_reads_no_validation_row(some_layouts):
    root, exchange = some_layouts
    before = refit_memory(root)
    assert not before.moved
    exchange("validation")
    assert refit_memory(root) == before
    exchange("calibration")
    assert refit_memory(root).moved


def test_gradients_of_a_row_are_those_that_it_states_and_else_what_stands_for_them_is_told():
    run = {
        "model": "Llama-3-70B", "accelerator": "H100", "n_accel": "128", "framework": "Megatron-Core", "tp": "4", "pp": "4",
        "global_batch_seqs": "128", "micro_batch": "1", "seq_len": "8192", "metric": "step_time_s",
    }  # fmt: skip
    asked = question(run)
    assert assumed_of("DistributedModel", run, asked.fleet, asked.arguments)["gradient_precision"] == "bf16"
    # What the framework itself does unless it is told otherwise is what the solver takes.
    accumulated = question(run | {"gradient_precision": "fp32"})
    by_framework = asked.arguments | {"gradient_precision": None}
    expected = DistributedModel().solve(asked.workload, asked.fleet, **by_framework).step_latency_total
    assert step_s(run | {"gradient_precision": "fp32"}) == expected.m_as("second") > step_s(run)
    told = assumed_of("DistributedModel", run | {"gradient_precision": "fp32"}, accumulated.fleet, accumulated.arguments)
    assert "gradient_precision" not in told
    assert step_s(run | {"gradient_precision": "float32"}) == expected.m_as("second")
    with pytest.raises(InputError, match=r"gradient_precision.*fp33.*bf16"):
        step_s(run | {"gradient_precision": "fp33"})
