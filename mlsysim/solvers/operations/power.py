"""Power and energy of a training or serving run, from what its accelerators do: ``PowerModel``."""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.calibration.operations.power import AcceleratorLoad
from mlsysim.core.checks import instance, one_of, positive_quantity, real_number, strict_keywords, whole_number
from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.core.units import Quantity, magnitude, with_unit, with_units
from mlsysim.physics.operations.power import limited_clock, slowed_time
from mlsysim.solvers.result import Result
from mlsysim.systems.fleets import COOLING, host_share

_MOST_PUE = 10.0


@dataclass(frozen=True, kw_only=True)
class PowerResult(Result):
    """Power of a run, from one accelerator to the building.

    Attributes:
        power: of one accelerator, mean over the run.
        node_power: of a node: its accelerators and its host.
        system_power: of all nodes' equipment, and of the switches that are stated.
        facility_power: at the building's meter.
        clock: the clock under the power limit over that without.
        slowdown: the run's time under the power limit over that without.
        energy: of all accelerators for a step, or for an output token.
        facility_energy: the same at the building's meter, hosts included.
        of: the solver of the run.
    """

    HEADLINE = ("power", "node_power", "system_power", "facility_power", "energy", "facility_energy", "clock", "slowdown")
    INTERVAL_OF = "power"

    power: Quantity
    node_power: Quantity
    system_power: Quantity
    facility_power: Quantity
    clock: float
    slowdown: float
    energy: Quantity
    facility_energy: Quantity
    of: str

    @property
    def measured_as(self) -> str:
        """The solver whose measured runs tell how far off the run's time may be."""
        return self.of


class PowerModel:
    """Power of accelerators from their activity, of nodes with hosts, and of the building; and what a power limit does.

    An accelerator draws its idle power, and what its memory traffic and its arithmetic add, up to its TDP or a lower limit: the
    clock then falls with the cube root of the power, and with it all kernels that do not wait for memory.
    """

    @strict_keywords
    def solve(
        self,
        run: Result,
        *,
        power_limit: Quantity | str | None = None,
        host_power: Quantity | str | None = None,
        network_power: Quantity | str | None = None,
        accelerators_per_node: int = 8,
        cooling: str = "air",
        pue: float = 1.0,
    ) -> PowerResult:
        """The power of ``run``.

        Args:
            run: a result of training or serving on a stack, an engine or a caller's efficiency.
            power_limit: of one accelerator, at most its TDP.
            host_power: of a node beside its accelerators. By default a share of their TDP, by the cooling.
            network_power: of the switches, a node's share. None are counted by default.
            accelerators_per_node: that share a host.
            cooling: "air" or "immersion" (no fans).
            pue: power usage effectiveness: what the building's meter reads over what its computers take.

        Raises:
            InputError: a run without known power, a limit out of range.

        Example:
            >>> from mlsysim import Hardware, Models, ServingModel
            >>> load = dict(input_len=1024, output_len=256, batch_size=64, stack="vllm-2025")
            >>> run = ServingModel().solve(Models.Language.Llama3_8B, Hardware.Cloud.H100, **load)
            >>> free, limited = PowerModel().solve(run), PowerModel().solve(run, power_limit="400 W")
            >>> free.slowdown, 1 < limited.slowdown < 1.3, limited.power.m_as("W") < 400, limited.energy < free.energy
            (1.0, True, True, True)
        """
        load = instance("run", run, Result, "a result of training or serving").load
        if load is None:
            expected = "a result with a stack, an engine or an efficiency, on an accelerator whose TDP is known"
            raise InputError("run", run.subject, expected)
        limit_W = None if power_limit is None else _limit_W(power_limit, load)
        per_node = whole_number("accelerators_per_node", accelerators_per_node)
        share = host_share(one_of("cooling", cooling, COOLING))
        building = real_number("pue", pue, 1.0, _MOST_PUE)
        host_W = share * per_node * load.accelerator.tdp_W
        if host_power is not None:
            host_W = positive_quantity("host_power", host_power, "watt")
        clock, slowdown, watts = under_limit(load, limit_W)
        network_W = 0.0 if network_power is None else positive_quantity("network_power", network_power, "watt") / per_node
        each_W = watts + host_W / per_node
        equipment_W = each_W + network_W
        each_s = load.accelerator_s * slowdown
        parts = {
            "accelerator": watts,
            "host": host_W / per_node,
            "network": network_W,
            "building": (building - 1) * equipment_W,
        }
        return PowerResult(
            solver="PowerModel",
            subject=run.subject,
            binding="power limit" if clock < 1 else max(parts, key=lambda part: parts[part]),
            breakdown=with_units(parts, "watt"),
            diagnostics=_notes(host_power, cooling),
            load=load,
            power=with_unit(watts, "watt"),
            node_power=with_unit(per_node * each_W, "watt"),
            system_power=with_unit(load.accelerators * equipment_W, "watt"),
            facility_power=with_unit(load.accelerators * equipment_W * building, "watt"),
            clock=clock,
            slowdown=slowdown,
            energy=with_unit(watts * each_s, load.unit),
            facility_energy=with_unit(equipment_W * building * each_s, load.unit),
            of=run.solver,
            **run.taken("basis", "reason", "coefficients", "facts"),
        )


def under_limit(load: AcceleratorLoad, limit_W: float | None) -> tuple[float, float, float]:
    """The clock under a power limit over that without, how much longer the run takes, and what an accelerator draws in W."""
    accelerator = load.accelerator
    if limit_W is None:
        return 1.0, 1.0, accelerator.drawn_W(load.activity)
    idle_W = accelerator.coefficients.idle * accelerator.tdp_W
    free_W, drawn_W = accelerator.drawn_W(load.activity), accelerator.drawn_W(load.activity, limit_W)
    clock = float(limited_clock(free_W, limit_W, idle_W))
    return clock, float(slowed_time(load.activity, clock)), drawn_W


def _limit_W(power_limit: object, load: AcceleratorLoad) -> float:
    """The power limit in W.

    Raises:
        InputError: at most what the accelerator draws while it waits, or above its TDP.
    """
    limit_W, accelerator = magnitude("power_limit", power_limit, "watt"), load.accelerator
    idle_W = accelerator.coefficients.idle * accelerator.tdp_W
    if not idle_W < limit_W <= accelerator.tdp_W:
        expected = f"above the {idle_W:.0f} W that it draws while it waits, at most its TDP of {accelerator.tdp_W:.0f} W"
        raise InconsistentError("power_limit", power_limit, expected)
    return limit_W


def _notes(host_power: object, cooling: str) -> tuple[str, ...]:
    if host_power is not None:
        return ()
    return (f"the host's power is not stated: that of nodes cooled by {cooling}, as a share of the accelerators' TDP",)
