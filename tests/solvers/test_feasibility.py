"""One rule for memory and one for number formats: what fits, and what has a kernel, whichever solver is asked."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsysim import (
    BatchingOptimizer,
    ContinuousBatchingModel,
    DistributedModel,
    Fleet,
    Hardware,
    Models,
    ServingModel,
    Systems,
)
from mlsysim.calibration.engines import engine, engine_names
from mlsysim.core.errors import InputError
from mlsysim.core.precision import BYTES_PER_ELEMENT

LLAMA8, QWEN72, H100 = Models.Language.Llama3_8B, Models.get("qwen1p5_72b"), Hardware.Cloud.H100
DEVICES = [Hardware.get(name) for name in ("t4", "a100_sxm_80gb", "h100_sxm", "h200_sxm", "b200_sxm", "rtx_4090")]
LOAD = {"seq_len": 2048, "output_len": 128}


def serve(workload=LLAMA8, hardware=H100, **changes):
    return ServingModel().solve(workload, hardware, **{**LOAD, **changes})


@given(
    stack=st.sampled_from([None, *(name for name in engine_names() if not engine(name).has.torus)]),
    device=st.sampled_from(DEVICES),
    schedule=st.sampled_from(["static", "continuous", "offline"]),
    precision=st.sampled_from(["fp16", "fp8", "awq"]),
    seq_len=st.integers(1, 200_000),
    batch_size=st.integers(1, 3000),
)
def test_a_deployment_is_feasible_if_and_only_if_what_is_asked_fits(stack, device, schedule, precision, seq_len, batch_size):
    """A fixed batch fits whole; requests in flight, and those of an offline run, wait for a place: one must fit."""
    asked = {"stack": stack, "schedule": schedule, "precision": precision, "seq_len": seq_len, "batch_size": batch_size}
    try:
        run = serve(hardware=device, **asked)
    except InputError as error:
        assert error.argument in ("precision", "accelerator")  # noqa: PT017
        return
    needed = batch_size if schedule == "static" else 1
    assert run.feasible == (needed <= run.max_batch)
    assert run.feasible or re.search(r"\d+(\.\d)? GiB|sequences together at most, of \d+", run.reason)


def test_an_engine_fills_its_own_share_of_the_memory():
    """Two H800 hold 72.3 GB of Qwen1.5-72B each; of 80 GiB the runtime leaves 84.3 GB: 4 sequences of 2.85 GB a device.

    vLLM takes 0.9 of that, less its workspace: 1.7 GB are left, for none.
    """
    h800 = Systems.Nodes.DGX_H100.model_copy(update={"accelerator": Hardware.get("h800_sxm")})
    bound, served = (serve(QWEN72, h800, tp_size=2, precision="bf16", stack=stack) for stack in (None, "vllm-2024"))
    assert (bound.feasible, bound.max_batch) == (True, 4)
    assert (served.feasible, served.max_batch) == (False, 0)
    assert served.memory_per_accelerator.m_as("GB") == pytest.approx(72.3 + 2.85, abs=0.1)


def test_16_gb_of_weights_do_not_fit_a_card_of_16_gb():
    run = serve(hardware=Hardware.get("t4"), stack="vllm-2024", output_len=2)
    assert not run.feasible
    assert run.max_batch == 0
    assert "needs 15.2 GiB (weights 15 GiB, KV cache 0.3 GiB); it has 16 GiB" in run.reason


@pytest.mark.parametrize("ask", [BatchingOptimizer, ContinuousBatchingModel])
def test_solvers_of_batches_say_the_same_of_one_memory(ask):
    alone = serve(QWEN72, stack="vllm-2025", schedule="continuous")
    blocks = {"page_size": 1} if ask is ContinuousBatchingModel else {}
    run = ask().solve(QWEN72, H100, stack="vllm-2025", **LOAD, **blocks)
    assert (run.feasible, run.max_batch, run.reason) == (False, 0, alone.reason)


def test_an_engine_for_one_sequence_decodes_no_more():
    run = serve(stack="gpt-fast", batch_size=3)
    assert not run.feasible
    assert run.max_batch == 1
    assert run.reason == "gpt-fast decodes 1 sequences together at most, of 3"
    assert serve(stack="gpt-fast", batch_size=3, schedule="continuous").feasible


@pytest.mark.parametrize("stack", engine_names())
def test_no_kernel_no_answer_and_nothing_faster_than_the_peak(stack):
    """64-bit products have no kernel anywhere, 32-bit ones only the vendor's: 4-bit weights are unpacked to 16 bits."""
    has, answered = engine(stack).has, 0
    for precision, width in BYTES_PER_ELEMENT.items():
        try:
            run = serve(stack=stack, precision=precision, batch_size=8)
        except InputError as error:
            assert width > (2 if has.own_products or has.torus else 4) or "TPU" in str(error), precision  # noqa: PT017
            assert error.argument == "precision"  # noqa: PT017
            assert f"precision = '{precision}': expected one of" in str(error)  # noqa: PT017
        else:
            assert 0 < run.prefill_mfu <= 1, precision
            answered += 1
    assert answered or has.torus


@pytest.mark.parametrize("name", ["v100_sxm2_16gb", "a100_sxm_80gb", "rtx_4090"])
@pytest.mark.parametrize("stack", ["tensorrt-llm-1.2", "llama.cpp-vulkan"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "awq"])
def test_an_engine_that_is_faster_than_others_stays_below_the_peak(name, stack, precision):
    if stack == "llama.cpp-vulkan" and precision == "fp32":
        return
    asked = {"precision": precision, "batch_size": 64, "seq_len": 4096}
    assert serve(hardware=Hardware.get(name), stack=stack, **asked).prefill_mfu <= 1


def test_a_message_has_the_format_that_the_caller_named():
    fleet = Fleet(name="f", node=Systems.Nodes.DGX_H100, count=1)
    for ask, named in (
        (lambda: serve(precision="fp32", hardware=Hardware.get("tpu_v4")), "fp32"),
        (lambda: DistributedModel().solve(LLAMA8, fleet, batch_size=8, stack="megatron-core", precision="int8"), "int8"),
        (lambda: DistributedModel().solve(LLAMA8, fleet, batch_size=8, stack="megatron-core", precision="fp64"), "fp64"),
    ):
        with pytest.raises(InputError, match=f"^precision = '{named}': ") as caught:
            ask()
        assert caught.value.argument == "precision"
        assert caught.value.value == named
