"""Hugging Face configurations as models: sizes by hand, refusals by the layer's name, and never a traceback."""

from __future__ import annotations

import contextlib
import csv
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_values import with_wrong_value
from repository import TESTS

from mlsysim import Models, model_from_config
from mlsysim.core.errors import InputError, NotModelledError, UnknownNameError
from mlsysim.launch import read_config
from mlsysim.physics.layer.attention import cached_elements

DATA = TESTS / "data" / "hf_configs"
with (DATA / "expected.csv").open(encoding="utf-8") as lines:
    EXPECTED = {row["file"]: row for row in csv.DictReader(lines)}
ACCEPTED = [name for name, row in EXPECTED.items() if row["outcome"].startswith("accept")]
REFUSED = {"Qwen3-Next": "linear attention", "Nemotron-3": "Mamba-2"}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "torch_dtype": "bfloat16",
}
SLIDING, FULL = "sliding_attention", "full_attention"


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_configuration_is_what_its_sizes_count(name):
    model, row = model_from_config(DATA / name), EXPECTED[name]
    assert model.computed_parameters / 1e9 == pytest.approx(float(row["params_b"]), rel=4e-4)
    if row["active_params_b"]:
        assert model.active_parameters / 1e9 == pytest.approx(float(row["active_params_b"]), rel=2e-3)
    assert model.layers * cached_elements(model.layer_shape) == float(row["kv_elements_per_token_all_layers"])


def test_each_of_them_is_an_entry_of_the_registry():
    assert [name for name in ACCEPTED if not read_config(DATA / name).registered] == []


@pytest.mark.parametrize(
    ("file", "weights", "experts"),
    [
        ("Qwen--Qwen3-32B-FP8", "fp8_block", ""),
        ("Qwen--Qwen2.5-72B-Instruct-AWQ", "awq", ""),
        ("deepseek-ai--DeepSeek-V3", "fp8_block", ""),
        ("moonshotai--Kimi-K2.5", "", "int4"),
        ("openai--gpt-oss-120b", "", "mxfp4"),
        ("Qwen--Qwen3-0.6B", "", ""),
    ],
)
def test_the_format_of_the_weights_is_that_of_the_file(file, weights, experts):
    model = model_from_config(DATA / f"{file}.json")
    assert (model.weight_format, model.expert_format) == (weights, experts)


@pytest.mark.parametrize("name", [name for name in EXPECTED if name not in ACCEPTED])
def test_layers_that_are_not_modelled_are_refused_by_name(name):
    kind = next(kind for part, kind in REFUSED.items() if part in name)
    with pytest.raises(NotModelledError, match=kind):
        model_from_config(DATA / name)


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({}, {"sliding_window": None, "kv_heads": 8, "tied_embeddings": False}),
        ({"num_key_value_heads": None}, {"kv_heads": 32}),
        ({"model_type": "mistral"}, {"sliding_window": 4096}),
        ({"model_type": "mistral", "sliding_window": None}, {"sliding_window": None}),
        ({"model_type": "gemma2"}, {"sliding_window": 4096, "full_attention_every": 2, "tied_embeddings": True}),
        ({"model_type": "qwen2", "sliding_window": 4096}, {"sliding_window": None, "qkv_bias": True}),
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 16},
         {"sliding_window": 4096, "full_attention_every": 2}),
        ({"model_type": "falcon", "intermediate_size": None}, {"kv_heads": 1, "ffn_hidden": 16384, "ffn_matrices": 2}),
        ({"model_type": "granitemoehybrid", "layer_types": ["attention"] * 32, "num_local_experts": 0,
          "shared_intermediate_size": 8192}, {"moe": None, "ffn_hidden": 8192}),
        ({"model_type": "opt", "ffn_dim": 16384, "max_position_embeddings": 2048}, {"positions": 2050, "ffn_matrices": 2}),
        ({"model_type": "olmo3", "sliding_window": 1024, "layer_types": [SLIDING, SLIDING, SLIDING, FULL] * 8},
         {"sliding_window": 1024, "full_attention_every": 4}),
    ],
)  # fmt: skip
def test_what_a_class_has_where_a_key_is_absent(change, fields):
    model = model_from_config(LLAMA | {"vocab_size": 1000} | change, name="mine")
    assert {name: getattr(model, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("change", "experts"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, (8, 2, 14336, 0, 0, 1)),
        ({"model_type": "llama4_text", "num_local_experts": 128, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
          "interleave_moe_layer_step": 2}, (128, 1, 8192, 8192, 0, 2)),
        ({"model_type": "glm4_moe", "n_routed_experts": 160, "num_experts_per_tok": 8, "moe_intermediate_size": 1536,
          "first_k_dense_replace": 3}, (160, 8, 1536, 1536, 3, 1)),
        ({"model_type": "qwen2_moe", "num_experts": 60, "moe_intermediate_size": 1408}, (60, 4, 1408, 5632, 0, 1)),
        ({"model_type": "qwen3_moe", "num_experts": 128, "moe_intermediate_size": 768, "moe_layer_freq": [0] * 4 + [1] * 28},
         (128, 8, 768, 0, 4, 1)),
    ],
)  # fmt: skip
def test_experts_are_counted_as_the_class_has_them(change, experts):
    moe = model_from_config(LLAMA | change, name="mine").moe
    found = (moe.experts, moe.experts_per_token, moe.ffn_hidden, moe.shared_width, moe.first_dense_layers, moe.every)
    assert found == experts


@pytest.mark.parametrize(
    ("table", "weights"),
    [
        ({"quant_method": "gptq", "bits": 8}, "gptq_int8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "nf4"),
        ({"bits": 4, "group_size": 64}, "mlx_4bit"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": {
            "weights": {"num_bits": 8, "type": "int"}, "input_activations": {"num_bits": 8}}}}, "int8"),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": {
            "weights": {"num_bits": 8, "type": "float"}, "input_activations": None}}}, "fp8_wo"),
    ],
)  # fmt: skip
def test_a_way_to_quantise_is_a_number_format(table, weights):
    assert model_from_config(LLAMA | {"quantization_config": table}).weight_format == weights


def test_the_cache_that_a_checkpoint_states():
    scheme = {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": {"type": "float", "num_bits": 8}}
    assert read_config(LLAMA | {"quantization_config": scheme}).kv_precision == "fp8"


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"model_type": "brand_new"}, UnknownNameError, "model_type"),
        ({"layer_types": [FULL] * 31 + ["mamba"]}, NotModelledError, "Mamba (layer 31)"),
        ({"model_type": "granitemoehybrid", "layer_types": ["attention", "mamba"] * 16}, NotModelledError, "Mamba (layer 1)"),
        ({"model_type": "granitemoehybrid"}, NotModelledError, "Mamba-2 layers"),
        ({"hidden_size": 0}, InputError, "hidden_size"),
        ({"hidden_size": 10**30}, InputError, "hidden_size"),
        ({"num_hidden_layers": 2.5}, InputError, "num_hidden_layers"),
        ({"hidden_size": 10**8, "num_hidden_layers": 9000}, InputError, "no such model can be meant"),
        ({"vocab_size": None}, InputError, "vocab_size"),
        ({"tie_word_embeddings": "yes"}, InputError, "tie_word_embeddings"),
        ({"quantization_config": {"quant_method": "exl2"}}, NotModelledError, "exl2"),
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}}, NotModelledError, "MIXED"),
    ],
)
def test_what_cannot_be_read_is_named(change, error, said):
    with pytest.raises(error) as caught:
        model_from_config(LLAMA | change)
    assert said in str(caught.value)


def test_a_cut_file_is_told_by_line_and_column(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA, indent=1)[:60])
    with pytest.raises(InputError, match=r"config\.json, line 4, column \d+"):
        model_from_config(tmp_path)


def test_a_folder_and_what_modelopt_wrote_beside_it(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    assert model_from_config(tmp_path).weight_format == "fp8"
    assert model_from_config(json.dumps(LLAMA)).name == Models.get("llama3_8b").name


FILES = [json.loads((DATA / name).read_text("utf-8")) for name in EXPECTED]
# What UTF-8 can encode: hypothesis finds it out by trying all of them, unless it is told.
ENCODED = st.characters(exclude_categories=("Cs",))
ODD = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(ENCODED, max_size=5)),
    st.sampled_from([[], {}, [1], {"a": 1}, [[]], "8", -1, 0, 10**400]),
)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(FILES), st.randoms(use_true_random=False), ODD)
def test_a_wrong_value_anywhere_is_no_traceback(document, chance, value):
    """A value is replaced by another anywhere in a configuration."""
    copy = with_wrong_value(document, chance, value)
    with contextlib.suppress(InputError):
        assert model_from_config(copy).parameter_count > 0


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(FILES), st.integers(0, 600), st.integers(0, 3), st.characters())
def test_a_cut_or_changed_text_is_no_traceback(document, place, gone, added):
    text = json.dumps(document)
    text = text[:place] + added + text[place + gone :]
    with contextlib.suppress(InputError):
        model_from_config(text)
