"""Which model with experts a table's row means, and how a row's parallelism and adapters are read."""

import pytest

from mlsysim.core.errors import InputError
from mlsysim.tables.experts import expert_workload
from mlsysim.tables.names import refuse_unmodelled
from mlsysim.tables.predict import predict_table
from mlsysim.tables.training import question

DEEPSEEK = {
    "model": "DeepSeekV3 (w/o MTP)",
    "params_b": "671",
    "active_params_b": "37",
    "layers": "61",
    "hidden": "7168",
    "heads": "128",
    "kv_heads": "128",
    "ffn_hidden": "2048",
    "vocab": "129280",
    "experts": "256",
    "experts_topk": "8",
    "seq_len": "4096",
    "accelerator": "GB200-NVL72",
    "n_accel": "256",
    "precision": "BF16",
    "global_batch_seqs": "4096",
    "micro_batch": "1",
    "tp": "1",
    "pp": "4",
    "vpp": "4",
    "ep": "64",
    "framework": "Megatron-Bridge",
    "metric": "tokens_per_s_per_accel",
}
MIXTRAL = (32, 4096, 32, 8, 14336, 32000, 8, 2)


@pytest.mark.parametrize("name", ["DeepSeekV3", "DeepSeek-V3 671B", "deepseek_v3 (tokendrop)", "DeepSeek-R1"])
def test_known_models_come_from_the_registry_whatever_their_spelling(name):
    model = question(DEEPSEEK | {"model": name}).workload
    assert model.mla is not None
    assert (model.moe.first_dense_layers, model.moe.shared_experts) == (3, 1)


def test_a_name_that_does_not_agree_with_its_cells_is_not_believed():
    model = expert_workload("DeepSeekV3", *MIXTRAL, 46.7, 12.9)
    assert model.mla is None
    assert model.parameter_count == pytest.approx(46.7e9, rel=0.01)


@pytest.mark.parametrize(("billions", "active"), [(46.7, 12.9), (46.7, 0.0), (0.0, 12.9), (0.0, 0.0)])
def test_unknown_models_are_inferred_from_their_counts(billions, active):
    model = expert_workload("in-house", *MIXTRAL, billions, active)
    assert (model.ffn_matrices, model.moe.shared_experts) == (3, 0)


def test_shared_experts_are_found_in_the_active_parameters():
    cells = (28, 3584, 28, 4, 2560, 151936, 64, 8)
    assert expert_workload("in-house", *cells, 57.4, 14.2).moe.shared_experts == 8
    assert expert_workload("in-house", *cells, 51.2, 8.1).moe.shared_experts == 0


def test_counts_that_no_architecture_has_are_refused():
    with pytest.raises(InputError, match=r"params_b = '300': .*8 experts of width 14336"):
        expert_workload("in-house", *MIXTRAL, 300.0, 12.9)


@pytest.mark.parametrize(
    "name", ["Nemotron_3_Nano", "Nemotron-3 Super", "Nemotron-H 56B", "DeepSeekV4 Flash", "Qwen3-Next-80B"]
)
def test_layers_that_are_not_modelled_are_refused_with_the_reason(name):
    with pytest.raises(InputError, match=r"model = .*(Mamba|sparse attention|linear attention)"):
        question(DEEPSEEK | {"model": name})


def test_a_dense_model_of_a_family_is_not_refused():
    refuse_unmodelled("Nemotron-340B")
    refuse_unmodelled("Nemotron-4 15B")


def test_parallelism_of_a_row_is_asked_for():
    asked = question(DEEPSEEK | {"cp": "2", "ep": "32"})
    assert asked.arguments["cp_size"] == 2
    assert asked.arguments["ep_size"] == 32
    assert asked.arguments["expert_tp_size"] == 1
    assert asked.arguments["microbatch_count"] == 4096 // 32


@pytest.mark.parametrize(
    ("cells", "rank", "targets"),
    [
        ({"model": "Llama-2-70B LoRA r16 (MLPerf)"}, 16, "attention"),
        ({"model": "LLAMA2-70B LoRA"}, 16, "linear_qkv"),
        ({"variant": "lora rank 32"}, 32, "linear_qkv"),
        ({"lora_rank": "8", "lora_targets": "All"}, 8, "all"),
        (
            {"model": "LLAMA2-70B LoRA", "framework": "torchtune", "pp": "1", "ep": ""},
            16,
            "q_proj,v_proj,output_proj,gate_proj,up_proj,down_proj",
        ),
        ({"model": "LLAMA2-70B LoRA", "framework": "NeMo AutoModel (PyTorch FSDP2)", "pp": "1"}, 16, None),
        ({"model": "LLAMA3_70B SFT"}, 0, None),
    ],
)
def test_adapters_are_read_from_a_column_the_name_or_the_variant(cells, rank, targets):
    row = {name: cell for name, cell in DEEPSEEK.items() if "expert" not in name and name not in ("ep", "active_params_b")}
    row |= {"model": "LLAMA", "params_b": "70.55", "layers": "80", "hidden": "8192", "heads": "64", "kv_heads": "8"}
    row |= {"ffn_hidden": "28672", "vocab": "128256"} | cells
    arguments = question(row).arguments
    assert (arguments.get("lora_rank", 0), arguments.get("lora_targets")) == (rank, targets)


def test_what_is_dropped_is_another_stack():
    assert question(DEEPSEEK).arguments["stack"] == "megatron-core"
    assert question(DEEPSEEK | {"model": "DeepSeekV3 (tokendrop)"}).arguments["stack"] == "megatron-core-tokendrop"


@pytest.mark.parametrize("cell", ["experts_topk", "layers"])
def test_rows_that_leave_out_what_is_needed_say_so(cell):
    (told,) = predict_table([DEEPSEEK | {cell: ""}])
    assert told["predicted"] == ""
    assert cell in told["reason"]


def test_ranks_that_do_not_hold_the_experts_are_said():
    (told,) = predict_table([DEEPSEEK | {"pp": "8", "ep": "64"}])
    assert "ep_size = 64" in told["reason"]


def test_a_width_that_is_left_out_is_solved_from_the_parameters():
    layers, hidden, heads, kv_heads, _, vocab, experts, per_token = MIXTRAL
    model = expert_workload("in-house", layers, hidden, heads, kv_heads, 0, vocab, experts, per_token, 46.7, 12.9)
    assert model.moe.ffn_hidden == pytest.approx(14336, rel=0.01)


def test_layers_that_predict_further_tokens_are_counted_unless_the_name_says_without():
    with_them, without = (question(DEEPSEEK | {"model": name}) for name in ("DeepSeekV3", "DeepSeekV3 (w/o MTP)"))
    figures = predict_table(
        [DEEPSEEK | {"model": name, "metric": "tflops_per_accel"} for name in ("DeepSeekV3", "DeepSeekV3 (w/o MTP)")]
    )
    rates = predict_table([DEEPSEEK | {"model": name} for name in ("DeepSeekV3", "DeepSeekV3 (w/o MTP)")])
    assert with_them.workload.prediction_layers == 1
    assert without.workload.prediction_layers == 0
    # Megatron-Bridge prints 4256 tokens/s and 1106 TFLOP/s (259.8 GFLOP a token) with them, 249.7 without.
    for figure, rate, published in zip(figures, rates, (259.8, 249.7), strict=True):
        assert 1e3 * figure["predicted"] / rate["predicted"] == pytest.approx(published, rel=0.01)


GPT_OSS = DEEPSEEK | {
    "model": "GPT OSS 120B",
    "params_b": "116.8",
    "active_params_b": "5.1",
    "layers": "36",
    "hidden": "2880",
    "heads": "64",
    "kv_heads": "8",
    "ffn_hidden": "2880",
    "vocab": "201088",
    "experts": "128",
    "experts_topk": "4",
    "n_accel": "64",
    "global_batch_seqs": "1280",
    "pp": "1",
    "vpp": "1",
}


def test_tensor_parallel_ranks_of_maxtext_share_each_expert():
    row = DEEPSEEK | {"model": "DeepSeek3-671B", "accelerator": "TPU-v5p", "tp": "4", "pp": "1", "ep": "1", "vpp": "1"}
    assert question(row | {"framework": "MaxText (JAX)"}).arguments["expert_tp_size"] == 4
    assert question(DEEPSEEK | {"tp": "4"}).arguments["expert_tp_size"] == 1


def counted_gflops(row):
    rate, flops = predict_table([row, row | {"metric": "tflops_per_accel"}])
    return 1e3 * flops["predicted"] / rate["predicted"]


@pytest.mark.parametrize(
    ("release", "matrices", "keys"),
    [
        # All 36 layers see the causal half of 4,096 keys, and two of an expert's three matrices count.
        ("26.04", 2, 36 * 4096 / 2),
        # 18 layers see their window of 128 alone.
        ("26.06", 3, 18 * 4096 / 2 + 18 * (128 - 128 * 127 / 2 / 4096)),
    ],
)
def test_what_a_gate_and_a_window_count_hangs_on_the_release(release, matrices, keys):
    layer = 2880 * (2 * 64 * 64 + 2 * 8 * 64 + 4 * matrices * 2880 + 128)
    flops = 6 * (36 * layer + 201088 * 2880) + 3 * 4 * 64 * 64 * keys
    assert counted_gflops(GPT_OSS | {"release": release}) == pytest.approx(flops / 1e9, rel=0.005)


def test_automodel_counts_half_of_the_scores_of_models_that_came_after_llama_3():
    row = DEEPSEEK | {"framework": "NeMo AutoModel (PyTorch FSDP2)", "accelerator": "H100-SXM-80GB"}
    # NVIDIA-NeMo/Automodel, docs/performance-summary.mdx: 216 TFLOP/s at 865 tokens/s, without layers that predict further.
    assert question(row | {"model": "DeepSeek V3 671B"}).workload.prediction_layers == 0
    assert counted_gflops(row | {"model": "DeepSeek V3 671B"}) == pytest.approx(216e3 / 865, rel=0.01)
