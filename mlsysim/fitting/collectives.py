"""Fit of the collectives: ``python -m mlsysim.fitting.kernels`` re-fits all devices and writes ``collectives.toml``.

Only rows with the role calibration are fitted; the validation rows give the second set of error statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlsysim.calibration.collectives import tuner
from mlsysim.calibration.shared_kernels import shared_collectives
from mlsysim.fitting.bounded import Coefficient, fit
from mlsysim.fitting.toml_text import toml_value
from mlsysim.physics.kernels.collectives import (
    CollectiveCoefficients,
    FabricCoefficients,
)
from mlsysim.validation.kernels.errors import ErrorStatistics, Times
from mlsysim.validation.kernels.predictions import INTERCONNECT, device_times, fabric_times
from mlsysim.validation.kernels.tables import CALIBRATION, VALIDATION, KernelTable

MIB = 2.0**20
KERNEL_SOURCE = "NVIDIA aiconfigurator silicon database (Apache-2.0); anchors/kernels/collectives.toml"
# What a fabric's rows leave open is held. efa_v2: they end at 64 MiB, the share of line rate is that of the older EFA.
# ib_ndr: they begin at 512 MiB, the latency of a level is NCCL's own (tuning.cc: network, tree, Simple).
HELD: dict[str, dict[str, float | str]] = {"efa_v2": {"efficiency": "efa_v1"}, "ib_ndr": {"level_s": 14e-6}}
FABRIC_SOURCE = "one source a row in anchors/kernels/collectives_multinode.csv"


def _statistics(predict: Callable[[KernelTable], Times], path: Path, role: str, **values: str) -> dict[str, Any]:
    table = KernelTable.read(path, role).where(**values)
    predicted, measured, size_B = predict(table), table.numbers("measured_s"), table.numbers("size_B")
    parts = {"all": size_B > 0, "from_1_MiB": size_B >= MIB, "below_1_MiB": size_B < MIB}
    return {name: asdict(ErrorStatistics.of(predicted[rows], measured[rows])) for name, rows in parts.items() if rows.any()}


def _fit_device(directory: Path, device: str) -> tuple[CollectiveCoefficients, dict[str, Any]]:
    path = directory / f"collectives_{device}.csv"
    table = KernelTable.read(path, CALIBRATION)
    interconnect = INTERCONNECT[device]
    believed = tuner(interconnect)
    link = believed.link_Bps
    coefficients = {
        "launch_s": Coefficient(5e-6, 1e-6, 3e-5, log=True),
        "ll_step_s": Coefficient(1e-6, 1e-7, 5e-6, log=True),
        "simple_step_s": Coefficient(6e-6, 5e-7, 4e-5, log=True),
        "bandwidth_Bps": Coefficient(0.8 * link, 0.2 * link, 1.2 * link),
        "fill_s": Coefficient(1e-5, 1e-7, 2e-4, log=True),
    }
    if interconnect.startswith("pcie"):  # two cards under one switch; more share its uplink or cross the sockets
        coefficients["pair_bandwidth_Bps"] = coefficients["bandwidth_Bps"]

    def built(values: Mapping[str, float]) -> CollectiveCoefficients:
        return CollectiveCoefficients(
            **{"pair_bandwidth_Bps": values["bandwidth_Bps"], **values}, tuner=believed, shared=shared_collectives()
        )

    found = fit(lambda values: device_times(table, built(values)), table.numbers("measured_s"), coefficients)
    result = built({name: coefficients[name].written(value) for name, value in found.values.items()})
    entry = {
        "interconnect": interconnect,
        **{name: value for name, value in asdict(result).items() if name not in ("tuner", "shared")},
        "source": KERNEL_SOURCE,
        "points": len(table),
        "fitted": list(coefficients),
        "at_bound": list(found.at_bound),
        **{role: _statistics(lambda rows: device_times(rows, result), path, role) for role in (CALIBRATION, VALIDATION)},
    }
    return result, entry


def _fit_fabric(
    path: Path, name: str, devices: Mapping[str, CollectiveCoefficients], known: Mapping[str, float]
) -> dict[str, Any]:
    table = KernelTable.read(path, CALIBRATION).where(fabric=name)
    coefficients = {
        "level_s": Coefficient(3e-5, 2e-6, 3e-4, log=True),
        # A domain with more than the eight cards that the formula counts may use some of them.
        "efficiency": Coefficient(0.9, 0.5, 1.5 if table.numbers("ranks_per_domain").max() > 8 else 1.0),
        "fill_s": Coefficient(3e-4, 1e-6, 1e-2, log=True),
    }

    for coefficient in known:
        del coefficients[coefficient]

    def predict(values: Mapping[str, float]) -> Times:
        return fabric_times(table, devices, FabricCoefficients(**values, **known))

    found = fit(predict, table.numbers("measured_s"), coefficients)
    result = FabricCoefficients(**{key: coefficients[key].written(value) for key, value in found.values.items()}, **known)
    return {
        **asdict(result),
        "source": FABRIC_SOURCE,
        "points": len(table),
        "fitted": list(coefficients),
        "held": list(known),
        "at_bound": list(found.at_bound),
        **{
            role: _statistics(lambda rows: fabric_times(rows, devices, result), path, role, fabric=name)
            for role in (CALIBRATION, VALIDATION)
        },
    }


def fit_collectives(directory: Path) -> dict[str, Any]:
    """Fits every device, then every network, from the CSVs in ``directory``; the tables of the TOML."""
    fits = {device: _fit_device(directory, device) for device in INTERCONNECT}
    devices = {device: result for device, (result, _) in fits.items()}
    path = directory / "collectives_multinode.csv"
    fabrics = sorted({row["fabric"] for row in KernelTable.read(path).rows})
    networks: dict[str, dict[str, Any]] = {}
    for name in sorted(fabrics, key=lambda name: (name in HELD, name)):
        held = HELD.get(name, {})
        known = {key: value if isinstance(value, float) else networks[value][key] for key, value in held.items()}
        networks[name] = _fit_fabric(path, name, devices, known)
    return {"device": {device: entry for device, (_, entry) in fits.items()}, "fabric": networks}


def as_toml(found: Mapping[str, Any], before: str) -> str:
    """The text of ``collectives.toml``: what stands in ``before`` ahead of the fitted tables is kept."""
    blocks = [before.split("\n[device]", 1)[0].rstrip("\n")]
    for group, source in (("device", KERNEL_SOURCE), ("fabric", FABRIC_SOURCE)):
        blocks.append(f"[{group}]\nsource = {toml_value(source)}")
        for name, entry in found[group].items():
            blocks.append("\n".join([f"[{group}.{name}]", *(f"{key} = {toml_value(value)}" for key, value in entry.items())]))
    return "\n\n".join(blocks) + "\n"
