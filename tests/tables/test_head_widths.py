"""Rows that state the width of a head where heads together are not as wide as the hidden size: Qwen3, Mistral Nemo, Gemma."""

from __future__ import annotations

import pytest

from mlsysim import Models
from mlsysim.tables.predict import predict_table
from mlsysim.tables.serving import serving_question
from mlsysim.tables.training import question

TRAINED = {
    **{"accelerator": "H100", "n_accel": "64", "tp": "8", "seq_len": "4096", "global_batch_seqs": "128", "micro_batch": "1"},
    **{"framework": "Megatron-Core", "year": "2025", "precision": "bf16", "metric": "step_time_s"},
}
SERVED = {
    **{"accelerator": "H200", "n_accel": "8", "tp": "8", "weight_precision": "bf16", "kv_precision": "bf16"},
    **{"input_len": "1024", "output_len": "256", "batch_or_concurrency": "64", "engine": "vLLM", "mode": "closed-loop"},
    "metric": "itl_ms",
}
KINDS = pytest.mark.parametrize("asked", [TRAINED, SERVED], ids=["training", "serving"])


def sizes_of(model):
    """The columns of a row that describes a registered model under a name that nobody knows."""
    return {
        **{"model": "in-house", "params_b": f"{model.parameter_count / 1e9:.4f}", "layers": model.layers},
        **{"hidden": model.hidden_dim, "heads": model.heads, "kv_heads": model.kv_head_count, "head_dim": model.head_width},
        **{"ffn_hidden": model.ffn_width, "vocab": model.vocab_size},
    }


@KINDS
@pytest.mark.parametrize("name", ["Qwen3-32B", "Qwen3-4B", "Mistral-Nemo-12B"])
def test_a_row_with_a_models_sizes_is_that_model(name, asked):
    model = Models.Language.get(name)
    assert model.heads * model.head_width != model.hidden_dim
    named, stated = predict_table([{**asked, "model": name}, asked | sizes_of(model)])
    assert stated["predicted"] == pytest.approx(named["predicted"], rel=1e-3)


@KINDS
def test_wider_heads_cost_more_where_nothing_else_says_how_wide_they_are(asked):
    sizes = {name: value for name, value in sizes_of(Models.Language.get("Mistral-Nemo-12B")).items() if name != "params_b"}
    times = [predict_table([asked | sizes | {"head_dim": width}])[0]["predicted"] for width in (128, 160, 256, "")]
    assert times[0] < times[1] < times[2]
    assert times[3] == times[1], "without a width that of the hidden size, 5,120 over 32 heads"


@KINDS
@pytest.mark.parametrize("name", ["Qwen3-32B", "Qwen3-30B-A3B"])
def test_a_width_that_contradicts_the_model_is_not_set_aside(name, asked):
    model = Models.Language.get(name)
    (refused,) = predict_table([{**asked, "model": name, "head_dim": "64"}])
    assert refused["reason"].startswith("head_dim = '64': expected the 128 of")
    ask = question if asked is TRAINED else serving_question
    moe = {} if model.moe is None else {"experts": model.moe.experts, "experts_topk": model.moe.experts_per_token}
    moe |= {} if model.moe is None else {"ffn_hidden": model.moe.ffn_hidden}
    own = {**sizes_of(model), **moe, "model": name, "params_b": "", "head_dim": 64}
    cells = {column: str(value) for column, value in (asked | own).items()}
    assert ask(cells).workload.head_width == 64


def test_layers_and_heads_that_are_left_out_follow_from_the_width():
    cells = {column: str(value) for column, value in (TRAINED | sizes_of(Models.Language.get("Qwen3-32B"))).items()}
    layers = question(cells | {"layers": "", "kv_heads": "64"}).workload.layers
    narrow = question(cells | {"layers": "", "kv_heads": "64", "head_dim": "80"}).workload.layers
    assert layers < narrow
    assert question(cells | {"heads": "", "kv_heads": "", "params_b": "", "hidden": "6144"}).workload.heads == 6144 // 128
