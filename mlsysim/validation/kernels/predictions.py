"""Predictions of measured kernel tables from the fitted coefficients: seconds of each row, by family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mlsysim.calibration.gemm import FORMATS, gemm_kernel
from mlsysim.calibration.shared_kernels import shared_constants
from mlsysim.calibration.siblings import hardware, matrix_units
from mlsysim.core.units import magnitude
from mlsysim.hardware.types import HardwareNode
from mlsysim.physics.kernels.attention import (
    AttentionDevice,
    AttentionHeads,
    DecodeKernel,
    PrefillKernel,
    SharedAttention,
    decode_attention_s,
    prefill_attention_s,
)
from mlsysim.physics.kernels.collectives import (
    KINDS,
    CollectiveCoefficients,
    FabricCoefficients,
    collective_s,
    hierarchical_all_reduce_s,
)
from mlsysim.physics.kernels.gemm import GemmKernel, gemm_s
from mlsysim.validation.kernels.errors import Times
from mlsysim.validation.kernels.tables import KernelTable

Predict = Callable[[Mapping[str, float], KernelTable], Times]


def gemm_times(rows: KernelTable, kernel: GemmKernel, node: HardwareNode, dtype: str, units: float | None = None) -> Times:
    """Predicted seconds of ``rows``, all of one format, on ``node``; ``units`` work on its tiles (its multiprocessors)."""
    numbers = FORMATS[dtype]
    assert node.compute.multiprocessors is not None
    return np.asarray(
        gemm_s(
            rows.numbers("m"),
            rows.numbers("n"),
            rows.numbers("k"),
            numbers.input_B,
            numbers.weight_B,
            numbers.output_B,
            kernel,
            node.rate_flops_per_s(numbers.precision),
            node.memory_bandwidth_Bps,
            float(node.compute.multiprocessors) if units is None else units,
            node.cache_B,
        )
    )


def peak_times(rows: KernelTable, device: str, dtype: str, coefficients: Mapping[str, float]) -> Times:
    """Predicted seconds of ``rows`` of one device and format, with ``coefficients`` in place of its own.

    The rates of narrow formats are those of products whose operands are narrow already: nothing is quantised.
    """
    kernel = replace(gemm_kernel(device, dtype), quantise_sweeps=0.0, launch_s=gemm_kernel(device).launch_s)
    changed: dict[str, Any] = dict(coefficients)
    kernel = replace(kernel, **changed)
    return gemm_times(rows, kernel, hardware(device), dtype, matrix_units(device))


def table_times(rows: KernelTable) -> Times:
    """Predicted seconds of ``rows`` of any devices and formats, from the coefficients that the package has."""
    times = np.empty(len(rows))
    for device, dtype in dict.fromkeys((row["device"], row["dtype"]) for row in rows.rows):
        chosen = [number for number, row in enumerate(rows.rows) if (row["device"], row["dtype"]) == (device, dtype)]
        times[chosen] = peak_times(KernelTable([rows.rows[number] for number in chosen]), device, dtype, {})
    return times


def prefill_predictor(device: Mapping[str, Any]) -> Predict:
    """Predicted seconds of prefill rows by coefficients, as the TOML names them; ``device`` is the head's entry."""
    known, of_fp8, of_bfloat16 = _device(device), _peak(device, "fp8"), _peak(device, "bfloat16")

    def predict(values: Mapping[str, float], rows: KernelTable) -> Times:
        eight_bit = _kv_B(rows) == 1
        chip = replace(known, peak_flops_per_s=np.where(eight_bit, of_fp8, of_bfloat16))
        kernel = PrefillKernel(
            values["floor_s"],
            np.where(eight_bit, values["efficiency_fp8"], values["efficiency_bfloat16"]),
            values["exponentials_per_s"],
            values["tile_keys"],
            values["window_tile_keys"],
            shared_constants(SharedAttention),
        )
        return np.asarray(prefill_attention_s(kernel, chip, *_work(rows, "seq_len")))

    return predict


def decode_predictor(device: Mapping[str, Any]) -> Predict:
    """Predicted seconds of decode rows by coefficients; ``device`` is the head's entry."""
    chip = _device(device)

    def predict(values: Mapping[str, float], rows: KernelTable) -> Times:
        return np.asarray(
            decode_attention_s(DecodeKernel(**values, shared=shared_constants(SharedAttention)), chip, *_work(rows, "context"))
        )

    return predict


def _kv_B(rows: KernelTable) -> Times:
    return np.array([1.0 if row["kv_cache_dtype"] == "fp8" else 2.0 for row in rows.rows])


def _work(rows: KernelTable, length: str) -> tuple[Times, Times, AttentionHeads]:
    batch, tokens, heads, kv_heads, head_dim = map(rows.numbers, ("batch_size", length, "heads", "kv_heads", "head_dim"))
    return batch, tokens, AttentionHeads(heads, kv_heads, head_dim, _kv_B(rows), rows.numbers("window_size"), 0.0, 1.0)


def _peak(device: Mapping[str, Any], dtype: str) -> float:
    text = device["peak"].get(dtype)
    return magnitude("peak", text, "flop/second") if text else 1.0


def _device(device: Mapping[str, Any]) -> AttentionDevice:
    """The accelerator of a head's entry, at its rate of bfloat16."""
    peak = _peak(device, "bfloat16")
    bandwidth, l2 = magnitude("bandwidth", device["bandwidth"], "byte/second"), magnitude("l2", device["l2"], "byte")
    return AttentionDevice(peak, bandwidth, float(device["multiprocessors"]), l2, 1.0)


def device_times(table: KernelTable, device: CollectiveCoefficients) -> Times:
    """Predicted seconds of the rows of a device's table."""
    kinds, dtypes = (np.array([row[column] for row in table.rows]) for column in ("kind", "dtype"))
    size_B, ranks = table.numbers("size_B"), table.numbers("ranks")
    predicted = np.zeros(len(table))
    for kind in KINDS:
        rows = kinds == kind
        predicted[rows] = collective_s(kind, size_B[rows], ranks[rows], device, dtypes[rows] == "half")
    return predicted


def fabric_times(table: KernelTable, devices: Mapping[str, CollectiveCoefficients], fabric: FabricCoefficients) -> Times:
    """Predicted seconds of the rows of a fabric's table, which may have several devices."""
    names = np.array([row["device"] for row in table.rows])
    size_B, domains, ranks, nic_Bps = (table.numbers(name) for name in ("size_B", "domains", "ranks_per_domain", "nic_Bps"))
    predicted = np.zeros(len(table))
    for name in sorted(set(names)):
        rows = names == name
        predicted[rows] = hierarchical_all_reduce_s(
            size_B[rows], domains[rows], ranks[rows], nic_Bps[rows], devices[name], fabric
        )
    return predicted


# Tables of matrix products (the name of their head) and the family that reports call them.
PRODUCT_TABLES = {"gemm": "kernels: gemm", "gemm_weight_only": "kernels: weight-only products"}
# How coefficients predict a phase of attention.
PREDICTORS = {"prefill": prefill_predictor, "decode": decode_predictor}
