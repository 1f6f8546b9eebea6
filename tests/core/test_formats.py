"""Number formats: which bytes, which arithmetic and which kernel a deployment has, on every basis."""

from __future__ import annotations

import pytest

from mlsysim import Hardware, Models, ServingModel
from mlsysim.calibration.gemm import WEIGHT_ONLY, gemm_kernel
from mlsysim.core.errors import UnknownNameError
from mlsysim.core.precision import BYTES_PER_ELEMENT, number_format, precision_name
from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.serving_kernels import KernelFormats, coefficients_used, serving_kernels
from mlsysim.models.types import MixtureOfExperts, TransformerWorkload

A100, H100, B200 = (Hardware.get(name) for name in ("A100", "H100", "B200"))
LLAMA = Models.Language.Llama3_8B
# A small decoder whose experts alone are published in four bits.
MIXED = TransformerWorkload.of_architecture(
    name="mixed",
    layers=24,
    hidden_dim=2880,
    heads=64,
    kv_heads=8,
    head_dim=64,
    ffn_hidden=2880,
    ffn_matrices=3,
    vocab_size=201088,
    expert_format="mxfp4",
    moe=MixtureOfExperts(experts=32, experts_per_token=4, ffn_hidden=2880),
)


def serve(model=LLAMA, hardware=A100, **arguments):
    return ServingModel().solve(model, hardware, **{"input_len": 512, "output_len": 64, **arguments})


def ms(quantity):
    return quantity.m_as("ms")


@pytest.mark.parametrize(
    ("spelling", "bits"),
    [
        ("AWQ", 4.15625),  # 16 bits of scale and 4 of zero point for 128
        ("GPTQ-Int4", 4.15625),
        ("NVFP4", 4.5),  # 8 bits for 16
        ("MXFP4", 4.25),  # 8 bits for 32
        ("MXFP8", 8.25),
        ("W4A16", 4.125),  # 16 bits for 128
        ("Q4_K_M", 4.8944),
        ("gguf-file-Q5_K_M", 5.7036),
        ("kv-fp8", 8.0),
    ],
)
def test_bytes_count_scales(spelling, bits):
    assert 8 * BYTES_PER_ELEMENT[precision_name("precision", spelling)] == pytest.approx(bits)


@pytest.mark.parametrize(
    ("name", "device", "rate", "kind"),
    [
        ("awq", A100, "fp16", "int4_wo"),
        ("awq", B200, "fp16", "int4_wo"),
        ("fp8", A100, "fp16", "int8_wo"),
        ("fp8", H100, "fp8", "fp8"),
        ("nvfp4", H100, "fp16", "int4_wo"),
        ("nvfp4", B200, "fp4", "nvfp4"),
        ("mxfp4", H100, "fp16", "int4_wo"),
        ("mxfp4", B200, "fp8", "fp8_block"),
        ("int8", A100, "int8", "sq"),
        ("int8_wo", A100, "fp16", "int8_wo"),
    ],
)
def test_a_format_is_multiplied_where_it_is_native_and_unpacked_elsewhere(name, device, rate, kind):
    assert number_format(name).arithmetic_on(device.compute.precision_flops) == rate
    bound = serve(hardware=device, precision=name, input_len=8192, batch_size=8)
    plain = serve(hardware=device, precision=rate, input_len=8192, batch_size=8)
    assert bound.prefill_mfu == pytest.approx(plain.prefill_mfu, rel=0.01)
    setting = Deployment.of(LLAMA, device, input_len=512, precision=name, stack="vllm-2025")
    assert any(f".{kind}.efficiency" in used for used in coefficients_used(setting))


@pytest.mark.parametrize("dtype", WEIGHT_ONLY)
def test_unpacking_costs_the_share_that_was_measured(dtype):
    measured, plain = gemm_kernel("a100_sxm", dtype), gemm_kernel("a100_sxm")
    hopper, hopper16 = gemm_kernel("h100_sxm", dtype), gemm_kernel("h100_sxm")
    assert hopper.efficiency / hopper16.efficiency == pytest.approx(measured.efficiency / plain.efficiency)
    assert hopper.shallow_tiles
    assert not hopper16.shallow_tiles


@pytest.mark.parametrize("stack", ["vllm-2025", "gpt-fast", None])
def test_four_bits_decode_faster_than_eight_and_these_than_sixteen(stack):
    steps = [ms(serve(precision=name, stack=stack).tpot) for name in ("int4", "int8_wo", "fp16")]
    assert steps[0] < 0.8 * steps[1] < 0.8 * steps[2]
    prompts = [ms(serve(precision=name, stack=stack, input_len=4096).ttft) for name in ("int4", "fp16")]
    assert prompts[0] > 0.99 * prompts[1]


def test_a_model_answers_in_the_formats_that_it_is_published_in():
    asked = {"precision": None, "stack": "vllm-2025", "hardware": H100}
    own, named, wide = (serve(MIXED, **asked | {"precision": name}) for name in (None, "mxfp4", "fp16"))
    assert own.tpot == named.tpot
    assert ms(own.tpot) < 0.9 * ms(wide.tpot)
    routed = 24 * 32 * 3 * 2880**2
    expected_B = 2 * (MIXED.parameter_count - routed) + 4.25 / 8 * routed
    assert own.weights.m_as("byte") == pytest.approx(expected_B)
    kernels = serving_kernels(H100, KernelFormats.of(Deployment.of(MIXED, H100, input_len=1)))
    assert (kernels.weight_B, kernels.experts.weight_B) == (2.0, 0.53125)
    assert "in 16 bits (mxfp4 experts) on" in str(own)
    assert Deployment.of(Models.Language.DeepSeek_V3, H100, input_len=1).weights == "fp8_block"


def test_files_of_an_engine_may_keep_fewer_bits_beside_experts():
    """ggml-org/gpt-oss-20b-GGUF: 12.1 GB."""
    model, card = Models.get("gpt-oss-20b"), Hardware.get("rtx_4090")
    assert serve(model, card, stack="llama.cpp-2025").weights.m_as("GB") == pytest.approx(12.1, rel=0.01)
    assert serve(model, card, stack="vllm-2025").weights.m_as("GB") == pytest.approx(13.8, rel=0.01)


@pytest.mark.parametrize(("name", "gibibytes"), [("gpt-oss-120b", 60.8), ("gpt-oss-20b", 12.8)])
def test_checkpoints_of_experts_in_four_bits(name, gibibytes):
    """OpenAI, gpt-oss model card, table 1: sizes of the checkpoints (recalled)."""
    assert serve(Models.get(name), B200).weights.m_as("byte") / 2**30 == pytest.approx(gibibytes, rel=0.005)


def test_weights_without_arithmetic_leave_the_cache_at_sixteen_bits():
    caches = [Deployment.of(LLAMA, H100, input_len=1, precision=name).cache for name in ("awq", "fp8", "nvfp4", "mxfp4")]
    assert caches == ["fp16", "fp8", "fp16", "fp16"]


@pytest.mark.parametrize(("chip", "asked", "arithmetic"), [(H100, "fp8_block", "fp8"), (A100, "fp8", "fp16")])
def test_a_format_without_a_rate_is_told_with_what_it_is_multiplied_in(chip, asked, arithmetic):
    with pytest.raises(UnknownNameError, match=f"has no such rate; it lists .*; {asked} is multiplied in {arithmetic} there$"):
        chip.rate_flops_per_s(asked)
