"""What activities draw on an accelerator, over its TDP: fitted where its power was measured, else pooled (``devices/``)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlsysim.calibration.device_entries import DEVICES, device_entries
from mlsysim.calibration.store import coefficients, fitted_of
from mlsysim.core.identity_cache import identity_cache
from mlsysim.core.toml import reads
from mlsysim.core.units import in_unit
from mlsysim.hardware.types import HardwareNode
from mlsysim.physics.operations.power import Activity, PowerCoefficients, capped_share, demand_share

SECTION = "power"
TRAINED = "trained"
# The entry whose coefficients accelerators have that were never measured.
POOLED = "pooled"


@dataclass(frozen=True, slots=True)
class PowerDevice:
    """An accelerator's power.

    Attributes:
        name: the entry.
        coefficients: what activities draw, over TDP.
        measured: whether its own power was measured.
        runs: the measured runs that it was fitted to.
        median: the middle of their |predicted / measured - 1|.
        p90: what nine in ten measurements are expected to stay within.
    """

    name: str
    coefficients: PowerCoefficients
    measured: bool
    runs: int
    median: float
    p90: float

    @property
    def log_width(self) -> float:
        """Half the 90 % interval's width, as a natural logarithm."""
        return math.log1p(self.p90)

    @property
    def scope(self) -> str:
        """The measurements that the interval rests on, in words."""
        return self.name if self.measured else "no measurement of this accelerator's power: stated"


@reads("calibration", DEVICES)
def power_device(hardware_name: str) -> PowerDevice:
    """The power of an accelerator by its registry name; of one that was not measured, that of all that were, and wider.

    Example:
        >>> own, other = power_device("H100 SXM5 80GB"), power_device("A100 SXM4 80GB")
        >>> own.measured, other.measured, other.name, other.p90
        (True, False, 'pooled', 0.25)
    """
    entries = device_entries(SECTION)
    name = next((name for name, entry in entries.items() if hardware_name in entry["hardware"]), POOLED)
    entry = entries[name]
    errors = entry["calibration"]
    stated = entry.get("interval")
    return PowerDevice(
        name=name,
        coefficients=coefficients(PowerCoefficients, {"cache": entry["memory"], **entry}),
        measured=name != POOLED,
        runs=int(errors["points"]),
        median=float(errors["median"]) / 100,
        p90=float(errors["p90"]) / 100 if stated is None else float(stated),
    )


def power_names(hardware_name: str) -> tuple[str, ...]:
    """Names of the fitted coefficients behind an accelerator's power.

    Example:
        >>> power_names("TPU v4")[0]
        'power.pooled.active'
    """
    return fitted_of(device_entries(SECTION), power_device(hardware_name).name, SECTION)


@dataclass(frozen=True, slots=True)
class AcceleratorPower:
    """The power of an accelerator under full load, in W, and what activities draw of it."""

    tdp_W: float
    coefficients: PowerCoefficients

    def drawn_W(self, activity: Activity, limit_W: float | None = None) -> float:
        """What the activity draws, under a lower power limit where one is set."""
        limit = 1.0 if limit_W is None else limit_W / self.tdp_W
        return self.tdp_W * float(capped_share(demand_share(activity, self.coefficients), limit))


@dataclass(frozen=True, slots=True)
class AcceleratorLoad:
    """What a run asks of its accelerators.

    Attributes:
        activity: what each of them does.
        accelerator: its power under full load.
        accelerators: how many there are.
        accelerator_s: seconds of all of them for a unit of work.
        unit: the unit of the energy for that work: "joule" for a step, "joule/count" for a token.
    """

    activity: Activity
    accelerator: AcceleratorPower
    accelerators: float
    accelerator_s: float
    unit: str

    @classmethod
    def of(
        cls, accelerator: HardwareNode, activity: Activity | None, accelerators: float, accelerator_s: float, unit: str
    ) -> AcceleratorLoad | None:
        """The load of a run; None where its activity or the accelerator's TDP is not known."""
        known = None if activity is None else accelerator_power(accelerator)
        if known is None or activity is None:
            return None
        return cls(activity, known, accelerators, accelerator_s, unit)


@identity_cache()
def accelerator_power(accelerator: HardwareNode) -> AcceleratorPower | None:
    """The power of an accelerator; None where its TDP is not known.

    Example:
        >>> from mlsysim.hardware.registry import Hardware
        >>> accelerator_power(Hardware.Cloud.H100).tdp_W
        700.0
    """
    if accelerator.tdp is None:
        return None
    return AcceleratorPower(in_unit(accelerator.tdp, "watt"), power_device(accelerator.name).coefficients)


@dataclass(frozen=True, slots=True)
class TrainedPower:
    """Mean power of a chip in training runs of which nothing else is known.

    Attributes:
        watts: of one chip, with its share of the host where hosts are asked for.
        spread: what nine in ten measurements are expected to stay within, as a fraction.
        measured: whether it is that of other runs on the chip, or a share of its TDP.
    """

    watts: float
    spread: float
    measured: bool

    @property
    def scope(self) -> str:
        """What it rests on, in words."""
        return "other runs on the chip" if self.measured else "no measurement of this chip's runs: a share of its TDP"


@reads("calibration", DEVICES)
def trained_watts(hardware_name: str) -> float | None:
    """The mean power that meters read of training runs on a chip, host included; None where none was published.

    Example:
        >>> trained_watts("TPU v3 (per chip)") > 250, trained_watts("H100 SXM5 80GB")
        (True, None)
    """
    for entry in device_entries(TRAINED).values():
        if hardware_name in entry["hardware"]:
            return float(entry["watts"])
    return None


def trained_power(accelerator: HardwareNode, host_share: float) -> TrainedPower | None:
    """The mean power of a chip in a training run; None where nothing is known of it.

    ``host_share`` is the power of a node beside its accelerators over their TDP, 0 where hosts are not counted.

    Example:
        >>> from mlsysim.hardware.registry import Hardware
        >>> trained_power(Hardware.Cloud.H100, 0.0).watts, trained_power(Hardware.Cloud.TPUv3, 0.44).measured
        (525.0, True)
    """
    stated = device_entries(TRAINED)[POOLED]
    known = trained_watts(accelerator.name) if host_share else None
    if known is not None:
        return TrainedPower(known, float(stated["interval"]), measured=True)
    if accelerator.tdp is None:
        return None
    watts = (float(stated["share"]) + host_share) * in_unit(accelerator.tdp, "watt")
    return TrainedPower(watts, float(stated["interval"]), measured=False)
