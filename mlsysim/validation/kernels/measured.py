"""The measured kernel tables beside what the fitted coefficients predict of them: one object a family, device and format."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlsysim.calibration import attention, collectives, gemm, siblings
from mlsysim.core.toml import toml_file
from mlsysim.hardware.registry import Hardware
from mlsysim.validation.kernels.errors import Times
from mlsysim.validation.kernels.predictions import PREDICTORS, device_times, fabric_times, gemm_times, table_times
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


def measured_tables(directory: Path) -> list[MeasuredTable]:
    """All tables of a folder such as ``anchors/kernels``, in the order of its heads."""
    return [*_gemm(directory), *_peaks(directory), *_attention(directory), *_collectives(directory), *_multinode(directory)]


def _gemm(directory: Path) -> Iterator[MeasuredTable]:
    for device, head in _devices(directory / "gemm.toml"):
        node = Hardware[head["hardware"]]
        for dtype in head["dtypes"]:
            yield MeasuredTable(
                id=f"gemm-{device}-{dtype}",
                family="kernels: gemm",
                path=directory / f"gemm_{device}.csv",
                select={"dtype": dtype},
                predict=functools.partial(gemm_times, kernel=gemm.gemm_kernel(device, dtype), node=node, dtype=dtype),
                coefficients=gemm.fitted_names(device, dtype),
                residuals=functools.partial(gemm.residuals, device, dtype),
            )


def _peaks(directory: Path) -> Iterator[MeasuredTable]:
    path = directory / "matmul_peak.csv"
    if path.is_file():
        kinds = dict.fromkeys((row["device"], row["dtype"]) for row in KernelTable.read(path).rows)
        yield MeasuredTable(
            id="gemm-peaks",
            family="kernels: peak rates",
            path=path,
            select={},
            predict=table_times,
            coefficients=tuple(dict.fromkeys(name for device, dtype in kinds for name in gemm.fitted_names(device, dtype))),
            residuals=siblings.written_residuals,
        )


def _attention(directory: Path) -> Iterator[MeasuredTable]:
    for phase, predictor in PREDICTORS.items():
        for device, head in _devices(directory / "attention.toml"):
            yield MeasuredTable(
                id=f"attention-{phase}-{device}",
                family=f"kernels: attention {phase}",
                path=directory / f"attention_{phase}_{device}.csv",
                select={},
                predict=functools.partial(predictor(head), attention.fitted_values(phase, device)),
                coefficients=attention.fitted_names(phase, device),
                residuals=functools.partial(attention.residuals, phase, device),
            )


def _collectives(directory: Path) -> Iterator[MeasuredTable]:
    for device, interconnect in collectives.measured_devices().items():
        yield MeasuredTable(
            id=f"collectives-{device}",
            family=f"collectives: {interconnect.rstrip('0123456789')}",
            path=directory / f"collectives_{device}.csv",
            select={},
            predict=functools.partial(device_times, device=collectives.collective_coefficients(device)),
            coefficients=collectives.fitted_names("device", device),
            residuals=functools.partial(collectives.residuals, "device", device),
        )


def _multinode(directory: Path) -> Iterator[MeasuredTable]:
    path = directory / "collectives_multinode.csv"
    rows = KernelTable.read(path).rows
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


def _devices(head: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from toml_file(head)["device"].items()
