"""Kernels fitted to their measured tables (``anchors/kernels``): matrix products, published peaks, attention, collectives.

What is fitted of an entry, and what is held, stands in its file. The rows of both roles give the errors that are written beside
the coefficients; those of validation give nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlsysim.calibration.collectives import coefficients_of, collective_coefficients, tuner
from mlsysim.calibration.gemm import FORMATS, shared_parts
from mlsysim.calibration.shared_kernels import shared_constants
from mlsysim.calibration.siblings import is_stated
from mlsysim.core.errors import DataError
from mlsysim.core.toml import toml_file
from mlsysim.fitting.bounded import Coefficient
from mlsysim.fitting.calibration import Calibration, Entry, Key, Place, Runs, ranges
from mlsysim.hardware.registry import Hardware
from mlsysim.hardware.types import HardwareNode
from mlsysim.physics.kernels.collectives import CollectiveCoefficients, FabricCoefficients
from mlsysim.physics.kernels.gemm import GemmKernel, SharedGemm
from mlsysim.validation.anchors.loading import KERNEL_TABLES
from mlsysim.validation.kernels.errors import Times
from mlsysim.validation.kernels.predictions import (
    PREDICTORS,
    PRODUCT_TABLES,
    Predict,
    device_times,
    fabric_times,
    gemm_times,
    peak_times,
)
from mlsysim.validation.kernels.tables import CALIBRATION, VALIDATION, KernelTable

ROLES = (CALIBRATION, VALIDATION)
GEMM = ranges("gemm")
ATTENTION = {phase: ranges("attention", phase) for phase in PREDICTORS}
COLLECTIVES, FABRIC = (ranges("collectives", kind) for kind in ("device", "fabric"))
# The column that says how long a sequence is, and from where on the kernel, not its launch, is measured.
_LENGTH = {"prefill": "seq_len", "decode": "context"}
_LONG = 512
_TRAINING = 1024  # tokens from which on a product is a training or prefill one
_MIB = 2.0**20


def _runs(on: Mapping[str, str], table: KernelTable, predict: Any, **rest: Any) -> Runs:
    return Runs(on, table.numbers("measured_s"), [row.get("source", "") for row in table.rows], predict, **rest)


def _heads(root: Path, file: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The devices whose tables a head in the folder of kernels names.

    Raises:
        DataError: there is no such head.
    """
    path = root / KERNEL_TABLES / file
    if not path.is_file():
        raise DataError(f"{path.parent}: no {file} here; expected the folder anchors/kernels")
    yield from toml_file(path)["device"].items()


def _products(root: Path, role: str) -> list[Runs]:
    """Matrix products: narrow formats follow the 16-bit kernels, with which they share what is the device's."""
    runs = []
    heads = [(file, *each) for file in PRODUCT_TABLES for each in _heads(root, f"{file}.toml")]
    for file, device, head in heads:
        table = KernelTable.read(root / KERNEL_TABLES / f"{file}_{device}.csv", role)
        for dtype in head["dtypes"]:
            rows = table.where(dtype=dtype)
            predict = functools.partial(_product_times, rows, Hardware[head["hardware"]], dtype)
            parts = {"_training": rows.numbers("m") >= _TRAINING}
            narrow = dtype != "bfloat16"
            runs.append(
                _runs(
                    {dtype: device, "bfloat16": device},
                    rows,
                    predict,
                    stage=int(narrow),
                    decides=functools.partial(_is_of, dtype),
                    parts=parts,
                    judges=(dtype,),
                )
            )
    return runs


def _is_of(kind: str, key: Key) -> bool:
    return key.kind == kind


def _product_times(rows: KernelTable, node: HardwareNode, dtype: str, entries: Mapping[str, Entry]) -> Times:
    entry = {**entries[dtype], **{part: entries["bfloat16"][part] for part in shared_parts(dtype)}}
    values = {part: entry[part] for part in (*GEMM, "most_splits", "whole_waves")}
    values["shallow_tiles"] = entry.get("shallow_tiles", False)
    return gemm_times(rows, GemmKernel(**values, shared=shared_constants(SharedGemm)), node, dtype)


def _peaks(root: Path, role: str) -> list[Runs]:
    """Published peak rates, those of accelerators with kernel tables of their own too: they are judged, not fitted."""
    table = KernelTable.read(root / KERNEL_TABLES / "matmul_peak.csv", role)
    runs = []
    for device, dtype in dict.fromkeys((row["device"], row["dtype"]) for row in table.rows):
        rows = table.where(device=device, dtype=dtype)
        on = {dtype: device} if is_stated(device) and device in PEAKS.files[dtype].entries() else {}
        predict = functools.partial(_peak_times, rows, device, dtype)
        runs.append(_runs({**on, "formats": "all"}, rows, predict))
    return runs


def _peak_times(rows: KernelTable, device: str, dtype: str, entries: Mapping[str, Entry]) -> Times:
    entry = entries.get(dtype, {})
    return peak_times(rows, device, dtype, {part: entry[part] for part in entry.get("fitted", ())})


def _attention(root: Path, role: str) -> list[Runs]:
    runs = []
    for phase, predictor in PREDICTORS.items():
        for device, head in _heads(root, "attention.toml"):
            rows = KernelTable.read(root / KERNEL_TABLES / f"attention_{phase}_{device}.csv", role)
            predict = functools.partial(_attention_times, rows, predictor(head), phase)
            parts = {"_long": rows.numbers(_LENGTH[phase]) >= _LONG}
            runs.append(_runs({phase: device}, rows, predict, parts=parts))
    return runs


def _attention_times(rows: KernelTable, predict: Predict, phase: str, entries: Mapping[str, Entry]) -> Times:
    return predict({part: entries[phase][part] for part in ATTENTION[phase]}, rows)


def _collectives(root: Path, role: str) -> list[Runs]:
    """Collectives of devices, then of the networks between them; a network like another after that."""
    folder, runs = root / KERNEL_TABLES, []
    for device in COLLECTIVE.files["device"].entries():
        rows = KernelTable.read(folder / f"collectives_{device}.csv", role)
        runs.append(_runs({"device": device}, rows, functools.partial(_device_times, rows), parts=_sizes(rows)))
    table, fabrics = KernelTable.read(folder / "collectives_multinode.csv", role), COLLECTIVE.files["fabric"].entries()
    for fabric in dict.fromkeys(row["fabric"] for row in table.rows):
        rows = table.where(fabric=fabric)
        devices = {name: collective_coefficients(name) for name in {row["device"] for row in rows.rows}}
        predict = functools.partial(_fabric_times, rows, devices)
        stage = 2 if "like" in fabrics[fabric] else 1
        runs.append(_runs({"fabric": fabric}, rows, predict, stage=stage, parts=_sizes(rows)))
    return runs


def _sizes(rows: KernelTable) -> dict[str, Any]:
    large = rows.numbers("size_B") >= _MIB
    return {"_from_1_MiB": large, "_below_1_MiB": ~large}


def _device_times(rows: KernelTable, entries: Mapping[str, Entry]) -> Times:
    return device_times(rows, coefficients_of(entries["device"]))


def _fabric_times(rows: KernelTable, devices: Mapping[str, CollectiveCoefficients], entries: Mapping[str, Entry]) -> Times:
    return fabric_times(rows, devices, FabricCoefficients(**{part: entries["fabric"][part] for part in FABRIC}))


def _collective_range(key: Key, entry: Entry) -> Coefficient:
    """The range of a coefficient of a device's links, beside what NCCL believes of them, or of a network."""
    if key.kind == "fabric":
        known = FABRIC[key.part]
        return Coefficient(known.start, known.low, entry.get(f"{key.part}_high", known.high), known.log)
    if key.part in COLLECTIVES:
        return COLLECTIVES[key.part]
    link_Bps = tuner(entry["interconnect"]).link_Bps
    return Coefficient(0.8 * link_Bps, 0.2 * link_Bps, 1.2 * link_Bps)


def _unheld(kind: str, entry: Entry) -> list[str]:
    held = {text.partition(":")[0] for text in entry["held"]}
    return [part for part in ATTENTION[kind] if part not in held]


def _fitted(kind: str, entry: Entry) -> list[str]:
    return list(entry.get("fitted", ()))


def _of_products(key: Key, _: Entry) -> Coefficient:
    """The range of what is fitted to published peaks: that of the coefficient of measured products."""
    return ranges("gemm", key.kind)[key.part]


PRODUCTS = Calibration(
    name="gemm",
    files={dtype: Place("gemm.toml", within=(dtype,)) for dtype in FORMATS},
    gathered=_products,
    fits=_fitted,
    # The best tile changes with the coefficients, so that a search can end in a dip.
    starts=({"efficiency": 0.4},),
    written_roles=ROLES,
)
PEAKS = Calibration(
    name="peaks",
    files={kind: Place("peaks.toml", within=(kind,)) for kind in (*FORMATS, "formats")},
    ranged=_of_products,
    gathered=_peaks,
    fits=_fitted,
    written_roles=ROLES,
)
ATTENTIONS = Calibration(
    name="attention",
    files={phase: Place("attention.toml", around=(phase,)) for phase in ATTENTION},
    gathered=_attention,
    fits=_unheld,
    digits=5,
    written_roles=ROLES,
)
COLLECTIVE = Calibration(
    name="collectives",
    files={kind: Place("collectives.toml", around=(kind,)) for kind in ("device", "fabric")},
    ranged=_collective_range,
    gathered=_collectives,
    fits=_fitted,
    written_roles=ROLES,
)
