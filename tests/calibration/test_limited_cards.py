"""Cards that serve with a sibling's kernels: what their power limits leave, and what runs on cores without matrix units."""

import pytest

from mlsysim import Hardware, Models, ServingModel
from mlsysim.calibration.device_entries import SECTIONS, device_entries
from mlsysim.calibration.devices import queried_clock
from mlsysim.calibration.engines import engine, engine_device, engine_names, engine_tables
from mlsysim.calibration.gemm import gemm_kernel
from mlsysim.core.errors import InputError
from mlsysim.lowering.serving_kernels import KernelFormats, serving_kernels

BF16 = KernelFormats("bf16", "bf16", "bf16")
Q4 = KernelFormats("q4_0", "q4_0", "fp16")
LLAMA = Models.get("llama2_7b")


def kernels_of(hardware, stack="vllm-2025", formats=BF16):
    return serving_kernels(hardware, formats, 1e10, has=engine(stack).has)


def first_token_s(hardware, stack, precision):
    asked = {"seq_len": 512, "output_len": 1, "batch_size": 1, "stack": stack, "precision": precision}
    return ServingModel().solve(LLAMA, hardware, **asked).ttft.m_as("s")


def test_every_accelerator_that_an_entry_stands_for_is_in_the_registry():
    named = {
        one
        for section in SECTIONS
        if section != "kernels"
        for entry in device_entries(section).values()
        for one in entry["hardware"]
    }
    assert named <= {one.name for one in Hardware}


def test_a_sibling_s_kernels_sustain_the_clock_that_queries_do_and_small_products_do_not_feel_it():
    nvl = Hardware.get("h100_nvl")
    sibling, clock = gemm_kernel(engine_device(nvl.name).gemm), queried_clock(nvl.name)
    kernel = kernels_of(nvl).gemm
    assert clock < 1
    assert kernel.efficiency == sibling.efficiency
    assert kernel.sustained == pytest.approx(clock * sibling.efficiency)


def test_a_share_that_was_fitted_and_kernels_of_the_card_s_own_have_the_limit_already():
    assert engine_device("A100 PCIe 80GB").kernel_clock == 1.0
    assert queried_clock("A100 PCIe 80GB") < 1
    assert engine_device("L40S").clock == 1.0
    assert queried_clock("L40S") < 1


def test_an_engine_s_own_integer_products_run_at_the_clock_that_is_left():
    for name in ("t4", "l4"):
        hardware = Hardware.get(name)
        assert kernels_of(hardware, "llama.cpp-2025", Q4).own_compute_share == queried_clock(hardware.name) < 1


def test_cores_that_are_slow_in_16_bits_multiply_16_bit_weights_in_32():
    assert kernels_of(Hardware.get("p40"), "llama.cpp-2025").own_peak_flops_per_s == pytest.approx(11.8e12)
    assert first_token_s(Hardware.get("p40"), "llama.cpp-2025", "fp16") > first_token_s(
        Hardware.get("p40"), "llama.cpp-2025", "q4_0"
    )


def test_a_card_without_measured_products_is_refused_by_engines_that_have_none_of_their_own():
    with pytest.raises(InputError, match=r"llama\.cpp"):
        first_token_s(Hardware.get("p40"), "vllm-2025", "fp16")


def test_llama_cpp_on_rocm_is_an_engine_of_its_own_whose_launches_no_graph_gathers():
    assert engine("llama.cpp ROCm").name == engine("llama.cpp HIP").name == "llama.cpp-rocm"
    assert engine("llama.cpp-rocm").coefficients.layer_s == engine("llama.cpp-2024").coefficients.layer_s


def test_peers_are_engines_that_there_are():
    assert {peer for entry in engine_tables().values() for peer in entry.get("peers", ())} <= set(engine_names())
