"""Accelerators without kernel tables: what is stated of them, how tables spell them, and that a step follows the datasheet."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from repository import KERNELS

import mlsysim
from mlsysim.calibration import gemm
from mlsysim.calibration import siblings as stated
from mlsysim.calibration.collectives import collective_coefficients
from mlsysim.calibration.device_entries import device_entries
from mlsysim.calibration.devices import measured_device
from mlsysim.calibration.stacks import fitted_names, stack
from mlsysim.core.errors import InputError, MLSysError
from mlsysim.core.toml import packaged_toml
from mlsysim.core.units import with_unit
from mlsysim.hardware.registry import Hardware
from mlsysim.lowering.training_kernels import kernel_device, setting_shape, stack_step
from mlsysim.models.registry import Models
from mlsysim.physics.training.memory import MemoryTerms
from mlsysim.systems.fleets import usual_fleet
from mlsysim.tables.predict import predict_table
from mlsysim.tables.training import question
from mlsysim.tables.training_steps import prepared
from mlsysim.validation.kernels.predictions import peak_times
from mlsysim.validation.kernels.tables import CALIBRATION, VALIDATION, KernelTable

SPELT = packaged_toml("hardware", "names.toml")["spellings"].values()
SITTING = set(packaged_toml("systems", "fleets.toml")["node"]) - {"source"}
RUN = {
    "model": "GPT 1.7B",
    "params_b": "1.7",
    "layers": "24",
    "hidden": "2304",
    "heads": "24",
    "seq_len": "2048",
    "n_accel": "8",
    "global_batch_seqs": "64",
    "micro_batch": "2",
    "recompute": "full",
    "sharding": "zero1",
    "framework": "Megatron-LM",
    "year": "2021",
    "metric": "step_time_s",
}


def seconds(**cells: str) -> float:
    """The predicted step of ``RUN`` with other cells."""
    (row,) = predict_table([RUN | cells])
    assert row["reason"] == "" or row["feasible"] is False, row["reason"]
    return float(row["predicted"])


@pytest.mark.parametrize("device", stated.stated_devices())
def test_every_stated_device_says_where_it_comes_from_and_predicts(device):
    entry = stated.hardware(device)
    assert measured_device(entry.name) == device
    precision = "bf16" if "bf16" in entry.compute.precision_flops else "fp16"
    assert seconds(accelerator=entry.name, precision=precision) > 0
    assert fitted_names("megatron-2021", device, "bfloat16")


def test_each_statement_has_a_source():
    for name, entry in device_entries("kernels").items():
        assert entry.get("source"), name
        figures = {"gemm", "attention", "matrix_units", "array", "torus_axes", "collectives"} & set(entry)
        if figures - {"collectives"} or entry.get("collectives", {"link": "host"}) != {"link": "host"}:
            assert entry.get("evidence") in ("seen", "recalled"), name


@pytest.mark.parametrize("entry", sorted({*SPELT, *SITTING}))
def test_every_accelerator_of_the_table_predicts_or_says_why(entry):
    (row,) = predict_table([RUN | {"accelerator": entry, "precision": "fp16"}])
    assert row["predicted"] != "" or row["reason"]


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("H100-SXM-80GB (GCP A3)", "h100_sxm"),
        ("NVIDIA H100-SXM-80GB", "h100_sxm"),
        ("nvidia h100 80gb hbm3", "h100_sxm"),
        ("NVIDIA H100-PCIe-80GB", "h100_pcie"),
        ("NVIDIA Blackwell GPU (B200-SXM-180GB)", "b200_sxm"),
        ("NVIDIA Blackwell GPU (GB200)", "gb200"),
        ("TPU-v5p", "tpu_v5p"),
        ("tpu v5e-256", "tpu_v5e"),
        ("TPU-trillium", "tpu_v6e"),
        ("TPU7x-Ironwood (chip = 2 cores)", "tpu_v7"),
        ("MI250X GCD", "mi250x_gcd"),
        ("MI250X (per GCD)", "mi250x_gcd"),
        ("AMD Instinct MI325X 256GB HBM3e", "mi325x"),
        ("V100-SXM3-32GB (DGX-2H)", "v100_sxm3_32gb"),
        ("Nvidia Tesla V100", "v100_sxm2_32gb"),
        ("A100 - PCIe - 80 GB", "a100_pcie_80gb"),
        ("NVIDIA A100-SXM4-40GB (400W)", "a100_sxm_40gb"),
        ("a100 40gb", "a100_sxm_40gb"),
        ("A800-SXM4-80GB", "a800_sxm_80gb"),
        ("Habana Gaudi2", "gaudi2"),
        ("NVIDIA L40S", "l40s"),
    ],
)
def test_published_spellings_are_read(text, entry):
    assert Hardware.id_of(text) == entry
    assert Hardware.id_of(text.upper()) == entry


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("H100S", "did you mean"),
        ("GH200 480GB", "did you mean 'GH200', 'GH200_144GB' or"),
        ("A100 20GB", "did you mean 'A100_40GB', 'A100' or 'A100_PCIe_40GB'"),
        ("L4 48GB", "L4 has 26 GB"),
        ("", "it has"),
        ("(400W)", "has no"),
    ],
)
def test_an_unknown_spelling_says_why(text, part):
    with pytest.raises(InputError, match=part):
        Hardware.get(text)


def test_every_registry_name_is_its_own_spelling():
    for group in (Hardware.Cloud, Hardware.Workstation):
        for entry, names in group.spellings().items():
            assert {Hardware.id_of(name) for name in names} == {entry}


def step_s(entry: str, *, peak: float = 1.0, memory: float = 1.0, link: float = 1.0) -> float:
    """The step of ``RUN`` in four-way tensor parallelism on ``entry`` with scaled datasheet rates."""
    node = Hardware[entry]
    flops = {name: float(rate.m_as("flop/second")) * peak for name, rate in node.compute.precision_flops.items()}
    rates = {name: with_unit(rate, "flop/second") for name, rate in flops.items()}
    fields = {
        "compute": node.compute.model_copy(update={"precision_flops": rates}),
        "memory": node.memory.model_copy(update={"bandwidth": node.memory.bandwidth * memory}),
    }
    device = kernel_device(
        type(node)(**{name: fields.get(name, getattr(node, name)) for name in type(node).model_fields}),
        "fp16",
        stack("generic"),
    )
    links = replace(device.collectives, bandwidth_Bps=device.collectives.bandwidth_Bps * link)
    asked = question(RUN | {"accelerator": entry, "precision": "fp16", "tp": "4"})
    run = prepared(asked)
    found = stack("megatron-2021")
    shape = setting_shape(run.setting, found)
    step = stack_step(run.work, shape, run.plan, run.setting.machine(), replace(device, collectives=links), found)
    return float(np.asarray(step.total_s))


@settings(deadline=None)  # the first call reads the registries
@given(st.sampled_from(["v100_sxm2_32gb", "tpu_v5p", "mi300x", "gaudi2", "l40s"]), st.floats(1.01, 4.0))
def test_a_better_datasheet_is_never_slower(entry, times):
    base = step_s(entry)
    assert step_s(entry, peak=times) < base
    assert step_s(entry, memory=times) < base
    assert step_s(entry, link=times) <= base


def test_a_sibling_passes_on_shares_not_rates():
    a100, a800 = collective_coefficients("a100_sxm"), collective_coefficients("a800_sxm")
    assert a800.bandwidth_Bps / a100.bandwidth_Bps == pytest.approx(200 / 300)
    assert gemm.gemm_kernel("a800_sxm") == gemm.gemm_kernel("a100_sxm")


def test_a_format_that_no_sibling_has_is_refused():
    (row,) = predict_table([RUN | {"accelerator": "A800-SXM4-80GB", "precision": "fp8"}])
    assert row["predicted"] == ""
    assert "fp8" in row["reason"]


def test_published_peaks_are_met():
    """Fitted rows within what one coefficient a device can do; the rest as their method lets them."""
    for role, limit in ((CALIBRATION, 0.06), (VALIDATION, 0.12)):
        rows = KernelTable.read(KERNELS / "matmul_peak.csv", role)
        errors = []
        for device, dtype in dict.fromkeys((row["device"], row["dtype"]) for row in rows.rows):
            chosen = rows.where(device=device, dtype=dtype)
            errors += list(np.abs(peak_times(chosen, device, dtype, {}) / chosen.numbers("measured_s") - 1))
        assert np.median(errors) < limit


def test_peaks_are_fitted_to_calibration_rows():
    with (KERNELS / "matmul_peak.csv").open(encoding="utf-8", newline="") as file:
        fitted = {(row["device"], row["dtype"]) for row in csv.DictReader(file) if row["role"] == CALIBRATION}
    for device, dtype in fitted:
        assert stated.fitted_peak(device, dtype)["fitted"], device


def test_hybrid_sharding_reduces_between_replicas_and_keeps_the_shards_of_a_slice():
    run = {
        **{
            "model": "16B",
            "params_b": "16",
            "layers": "32",
            "hidden": "4096",
            "heads": "64",
            "ffn_hidden": "28672",
            "vocab": "32000",
        },
        **{
            "framework": "MaxText (JAX)",
            "year": "2023",
            "sharding": "zero3",
            "accelerator": "TPU-v5e",
            "accel_per_node": "256",
        },
        **{"micro_batch": "6", "precision": "bf16"},
    }
    one, four = (seconds(**run, n_accel=str(256 * n), global_batch_seqs=str(1536 * n)) for n in (1, 4))
    assert one < four < 1.1 * one


def test_what_waits_on_the_host_is_not_on_the_accelerator():
    assert MemoryTerms().offloaded == 0.0
    run = {
        **{"model": "Llama3.1-8B", "params_b": "8.03", "layers": "32", "hidden": "4096", "heads": "32", "kv_heads": "8"},
        **{"ffn_hidden": "14336", "vocab": "128256", "seq_len": "8192", "accelerator": "TPU-v6e", "n_accel": "256"},
        **{"accel_per_node": "256", "global_batch_seqs": "1024", "micro_batch": "4", "sharding": "zero3", "precision": "bf16"},
        **{"recompute": "selective", "framework": "MaxText (JAX)", "metric": "step_time_s"},
    }
    later, earlier = (predict_table([run | {"year": year}])[0] for year in ("2025", "2024"))
    assert later["feasible"]
    assert not earlier["feasible"]


def test_a_micro_batch_by_accelerator_is_that_of_the_whole_tensor_parallel_group():
    cells = RUN | {
        "framework": "MaxText (JAX)",
        "accelerator": "TPU-v5p",
        "tp": "4",
        "micro_batch": "2",
        "global_batch_seqs": "16",
    }
    assert question(cells).arguments["microbatch_count"] == 1
    with pytest.raises(MLSysError, match="multiple of dp"):
        question(cells | {"global_batch_seqs": "15"})
    stages = cells | {"pp": "2", "global_batch_seqs": "32"}
    assert [question(stages | {"micro_batch": each}).arguments["microbatch_count"] for each in ("4", "")] == [2, 2]


def test_a_device_without_links_has_its_siblings():
    assert Hardware["jetson_thor_t5000"].interconnect_bw is Hardware["jetson_thor_t5000"].host_link_bw is None
    assert collective_coefficients("jetson_thor") == collective_coefficients("rtx_pro_6000_server")


@pytest.mark.parametrize(
    "name", ["Arc Pro B60", "Strix Halo", "Jetson AGX Orin 64GB", "DGX Spark", "Trainium2", "Gaudi 3", "TPU v7", "MI355X"]
)
def test_what_was_never_measured_serves_and_trains_on_a_sibling(name):
    chip = Hardware[name]
    served = mlsysim.ServingModel().solve(Models.Language.Llama3_8B, chip, stack="vllm-2025", input_len=512)
    trained = mlsysim.DistributedModel().solve(
        Models.Language.GPT2, usual_fleet(chip, 1), batch_size=8, seq_len=1024, stack="megatron-core"
    )
    assert served.basis == ("calibrated" if name == "DGX Spark" else "transferred")
    assert trained.basis == ("calibrated" if name == "TPU v7" else "transferred")
