"""The measured kernel tables beside what the fitted coefficients predict of them: one object a family, device and format."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlsysim.calibration import attention, collectives, gemm, siblings
from mlsysim.core.errors import DataError
from mlsysim.core.toml import reading, table_of, toml_file
from mlsysim.hardware.registry import Hardware
from mlsysim.physics.kernels.collectives import KINDS
from mlsysim.validation.kernels.errors import Times
from mlsysim.validation.kernels.predictions import (
    PREDICTORS,
    PRODUCT_TABLES,
    device_times,
    fabric_times,
    gemm_times,
    table_times,
)
from mlsysim.validation.kernels.tables import KernelTable


@dataclass(frozen=True)
class MeasuredTable:
    """Rows that one set of coefficients predicts.

    Attributes:
        id: unique, as in ``gemm-h100_sxm-bfloat16``.
        select: columns and their values, where only some rows of the file are meant.
        predict: seconds of rows, from the coefficients that the package has.
        coefficients: names of the fitted ones.
        residuals: what the fit has written of a role, in percent.
    """

    id: str
    family: str
    path: Path
    select: Mapping[str, str]
    predict: Callable[[KernelTable], Times]
    coefficients: tuple[str, ...]
    residuals: Callable[[str], Mapping[str, float]]

    def rows(self, role: str) -> KernelTable:
        """The measured rows of ``role``."""
        return KernelTable.read(self.path, role).where(**self.select)


# The tables of one file, made when asked for: a malformed file leaves out its own.
_File = Callable[[], Iterator[MeasuredTable]]


def measured_tables(directory: Path) -> tuple[list[MeasuredTable], list[DataError]]:
    """All sound tables of a folder such as ``anchors/kernels``, and what is wrong with the files of others."""
    tables: list[MeasuredTable] = []
    malformed: list[DataError] = []
    for family in (_gemm, _peaks, _attention, _collectives, _multinode):
        try:
            files = list(family(directory))
        except DataError as error:
            malformed.append(error)
            continue
        for file in files:
            try:
                tables += file()
            except DataError as error:
                malformed.append(error)
    told = {str(error): error for error in malformed}  # families share heads
    return tables, list(told.values())


def _gemm(directory: Path) -> Iterator[_File]:
    for file in PRODUCT_TABLES:
        for device, head, place in _devices(directory / f"{file}.toml"):
            yield functools.partial(_gemm_tables, file, directory / f"{file}_{device}.csv", device, head, place)


def _gemm_tables(file: str, path: Path, device: str, head: Mapping[str, Any], place: str) -> Iterator[MeasuredTable]:
    with reading(place):
        node, dtypes = Hardware[head["hardware"]], list(head["dtypes"])
        KernelTable.read(path).require("m", "n", "k").refuse_others("dtype", dtypes)
        for dtype in dtypes:
            yield MeasuredTable(
                id=f"gemm-{device}-{dtype}",
                family=PRODUCT_TABLES[file],
                path=path,
                select={"dtype": dtype},
                predict=functools.partial(gemm_times, kernel=gemm.gemm_kernel(device, dtype), node=node, dtype=dtype),
                coefficients=gemm.fitted_names(device, dtype),
                residuals=functools.partial(gemm.residuals, device, dtype),
            )


def _peaks(directory: Path) -> Iterator[_File]:
    path = directory / "matmul_peak.csv"
    if path.is_file():
        yield functools.partial(_peak_table, path)


def _peak_table(path: Path) -> Iterator[MeasuredTable]:
    with reading(str(path)):
        kinds = dict.fromkeys((row["device"], row["dtype"]) for row in KernelTable.read(path).require("m", "n", "k").rows)
        yield MeasuredTable(
            id="gemm-peaks",
            family="kernels: peak rates",
            path=path,
            select={},
            predict=table_times,
            coefficients=tuple(dict.fromkeys(name for device, dtype in kinds for name in gemm.fitted_names(device, dtype))),
            residuals=siblings.written_residuals,
        )


def _attention(directory: Path) -> Iterator[_File]:
    for phase in PREDICTORS:
        for device, head, place in _devices(directory / "attention.toml"):
            path = directory / f"attention_{phase}_{device}.csv"
            yield functools.partial(_attention_table, path, phase, device, head, place)


def _attention_table(path: Path, phase: str, device: str, head: Mapping[str, Any], place: str) -> Iterator[MeasuredTable]:
    length = "seq_len" if phase == "prefill" else "context"
    KernelTable.read(path).require("batch_size", length, "heads", "kv_heads", "head_dim", "kv_cache_dtype", "window_size")
    with reading(place):
        yield MeasuredTable(
            id=f"attention-{phase}-{device}",
            family=f"kernels: attention {phase}",
            path=path,
            select={},
            predict=functools.partial(PREDICTORS[phase](head), attention.fitted_values(phase, device)),
            coefficients=attention.fitted_names(phase, device),
            residuals=functools.partial(attention.residuals, phase, device),
        )


def _collectives(directory: Path) -> Iterator[_File]:
    for device, interconnect in collectives.measured_devices().items():
        yield functools.partial(_collective_table, directory / f"collectives_{device}.csv", device, interconnect)


def _collective_table(path: Path, device: str, interconnect: str) -> Iterator[MeasuredTable]:
    KernelTable.read(path).require("size_B", "ranks", "dtype").refuse_others("kind", KINDS)
    yield MeasuredTable(
        id=f"collectives-{device}",
        family=f"collectives: {interconnect.rstrip('0123456789')}",
        path=path,
        select={},
        predict=functools.partial(device_times, device=collectives.collective_coefficients(device)),
        coefficients=collectives.fitted_names("device", device),
        residuals=functools.partial(collectives.residuals, "device", device),
    )


def _multinode(directory: Path) -> Iterator[_File]:
    yield functools.partial(_fabric_tables, directory / "collectives_multinode.csv")


def _fabric_tables(path: Path) -> Iterator[MeasuredTable]:
    rows = KernelTable.read(path).require("size_B", "domains", "ranks_per_domain", "nic_Bps").rows
    with reading(str(path)):
        for fabric in sorted({row["fabric"] for row in rows}):
            names = sorted({row["device"] for row in rows if row["fabric"] == fabric})
            devices = {name: collectives.collective_coefficients(name) for name in names}
            inside = (part for name in names for part in collectives.fitted_names("device", name))
            yield MeasuredTable(
                id=f"collectives-multinode-{fabric}",
                family="collectives: multi-node",
                path=path,
                select={"fabric": fabric},
                predict=functools.partial(fabric_times, devices=devices, fabric=collectives.fabric_coefficients(fabric)),
                coefficients=(*collectives.fitted_names("fabric", fabric), *inside),
                residuals=functools.partial(collectives.residuals, "fabric", fabric),
            )


def _devices(path: Path) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The devices that a head names, with what it says of each and its place in the file."""
    devices = table_of(toml_file(path).get("device"), f"{path}: [device]")
    for device, head in devices.items():
        place = f"{path}: [device.{device}]"
        yield device, table_of(head, place), place
