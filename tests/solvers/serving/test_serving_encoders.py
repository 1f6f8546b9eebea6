"""Calibrated encoders: padding, stored scores, 8-bit modes, and what of a pass the last-level cache holds."""

from dataclasses import replace

import pytest

from mlsysim import Hardware, Models, ServingModel
from mlsysim.calibration.engines import engine
from mlsysim.core.errors import InconsistentError
from mlsysim.lowering.serving_kernels import KernelFormats, engine_kernels, serving_kernels
from mlsysim.lowering.work import served_shape
from mlsysim.physics.kernels.gemm import gemm_s
from mlsysim.physics.serving.activations import elementwise_layer_s
from mlsysim.physics.serving.deployment import ServedModel, Shards
from mlsysim.physics.serving.layer_time import all_reduce_s

BERT, STACK = Models.get("bert_base"), "fastertransformer-bert"
A100, T4, V100 = (Hardware.get(name) for name in ("a100_sxm_80gb", "t4", "v100_sxm2_16gb"))
FP16, INT8 = KernelFormats("fp16", "fp16", "fp16"), KernelFormats("int8", "int8", "fp16")


def latency_s(hardware=A100, **given):
    asked = {"seq_len": 128, "batch_size": 8, "precision": "fp16", "stack": STACK, **given}
    return ServingModel().solve(BERT, hardware, **asked).request_latency.m_as("s")


def kernels(accelerator=A100, formats=FP16):
    return serving_kernels(accelerator, formats, has=engine(STACK).has)


def test_fused_attention_computes_no_padding_and_stored_scores_are_padded():
    assert latency_s(padded_len=256) == latency_s()
    assert latency_s(V100, padded_len=256) > latency_s(V100)


def test_the_longest_prompt_is_not_shorter_than_the_mean():
    with pytest.raises(InconsistentError, match=r"padded_len = 64.*seq_len = 128"):
        latency_s(padded_len=64)


@pytest.mark.parametrize(
    ("accelerator", "formats", "fused"),
    [(A100, FP16, True), (T4, INT8, True), (V100, FP16, False), (A100, KernelFormats("tf32", "fp32", "fp32"), False)],
)
def test_which_attention_is_fused(accelerator, formats, fused):
    assert engine_kernels(engine(STACK), accelerator, formats, causal=False).flash_prefill is fused


def test_sequences_beyond_the_fused_kernel_store_their_scores():
    """From 384 to 385 tokens the work grows by 0.3 %, the time by the scores."""
    assert latency_s(seq_len=385) > 1.1 * latency_s(seq_len=384)
    assert latency_s(seq_len=384) < 1.1 * latency_s(seq_len=380)


def test_eight_bits_move_less_where_the_mode_keeps_them():
    wide, narrow = kernels(), kernels(formats=INT8)
    kept = serving_kernels(A100, INT8, has=engine("fastertransformer-bert-int8v1").has)
    assert (wide.output_B, narrow.output_B, kept.output_B) == (2.0, 1.0, 4.0)
    assert latency_s(batch_size=64, seq_len=384, precision="int8") < latency_s(batch_size=64, seq_len=384)


def test_a_power_limit_holds_back_full_products_only():
    limited = replace(kernels(T4).gemm, sustained=0.2)
    free = replace(limited, sustained=1.0)

    def time_s(kernel, tokens):
        return gemm_s(tokens, 768.0, 3072.0, 2.0, 2.0, 2.0, kernel, 65e12, 320e9, 40.0, 4e6)

    assert time_s(limited, 8.0) == pytest.approx(time_s(free, 8.0), rel=0.02)
    assert time_s(limited, 8192.0) > 1.5 * time_s(free, 8192.0)


def test_passes_over_what_the_cache_holds_are_faster():
    shape, shards, found = served_shape(BERT), Shards(1.0, 1.0, 8.0, 1.0), engine(STACK)

    def per_token_s(tokens, device):
        return elementwise_layer_s(ServedModel(shape, shards, device, found.coefficients, found.has), tokens) / tokens

    cached = kernels()
    uncached = replace(cached, cache_B=0.0)
    assert per_token_s(1024.0, cached) < 0.7 * per_token_s(1024.0, uncached)
    assert per_token_s(1e6, cached) == pytest.approx(per_token_s(1e6, uncached), rel=0.02)
    assert per_token_s(1024.0, uncached) == pytest.approx(per_token_s(1e6, uncached))


def test_an_all_reduce_among_nodes_waits_for_the_slower_link_not_for_both():
    coefficients, has = engine("fastertransformer").coefficients, engine("fastertransformer").has

    def time_s(size_B, tp, nic_Bps):
        device = replace(kernels(), nic_Bps=nic_Bps)
        model = ServedModel(served_shape(BERT), Shards(tp, 1.0, 8.0, tp), device, coefficients, has)
        return all_reduce_s(model, size_B, tp)

    inside_s, slow_s = time_s(1e9, 8.0, 1e9), time_s(1e9, 16.0, 1e9)
    assert slow_s == pytest.approx(2 * 1e9 / 8e9, rel=0.01)
    assert time_s(1e9, 16.0, 1e12) == pytest.approx(inside_s, rel=0.2)
