"""What a search of plans makes least: time, or what the accelerators cost over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlsysim.core.checks import one_of, positive_quantity, whole_number
from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.core.units import Quantity, with_unit
from mlsysim.physics.numeric import Num
from mlsysim.physics.operations.reliability import goodput
from mlsysim.systems.types import Fleet

# What each objective needs of the caller.
_NEEDS: dict[str, tuple[str, ...]] = {
    "step_time": (),
    "mfu": (),
    "tokens_per_dollar": ("accelerator_price",),
    "tokens_per_joule": (),
    "time_to_train": ("train_tokens", "accelerator_mtbf", "checkpoint_time", "restart_time"),
}
OBJECTIVES = tuple(_NEEDS)
HIGHER_IS_BETTER = ("mfu", "tokens_per_dollar", "tokens_per_joule")


@dataclass(frozen=True, slots=True)
class Objective:
    """An objective, checked; what the caller gave is in SI units.

    Attributes:
        name: one of ``OBJECTIVES``.
        step_tokens: tokens of a step.
        peak_step_s: model FLOP of a step over the peak of one accelerator: MFU is this / (accelerators x step).
        rate: USD or watts of one accelerator, by the second.
        train_tokens, mtbf_s, checkpoint_s, restart_s: of the whole training; MTBF is that of one accelerator with its share of
            the node.
    """

    name: str
    step_tokens: float
    peak_step_s: float
    rate: float = 0.0
    train_tokens: float = 0.0
    mtbf_s: float = 0.0
    checkpoint_s: float = 0.0
    restart_s: float = 0.0

    def cost(self, step_s: Num, accelerators: Num) -> Num:
        """What the search makes least."""
        if self.name == "step_time":
            return step_s
        if self.name == "time_to_train":
            working_s = step_s * (self.train_tokens / self.step_tokens)
            return working_s / goodput(self.checkpoint_s, self.restart_s, self.mtbf_s / accelerators)
        return step_s * accelerators

    def value(self, step_s: float, accelerators: float) -> float | Quantity:
        """What the caller asked for."""
        cost = float(self.cost(step_s, accelerators))
        if self.name in ("step_time", "time_to_train"):
            return with_unit(cost, "second")
        if self.name == "mfu":
            return self.peak_step_s / cost
        unit = "count/USD" if self.name == "tokens_per_dollar" else "count/joule"
        return with_unit(self.step_tokens / (cost * self.rate), unit)


def check_objective(name: object, fleet: Fleet, *, step_tokens: float, peak_step_s: float, given: dict[str, Any]) -> Objective:
    """The objective, or an ``InputError`` that names what is missing or superfluous."""
    chosen = one_of("objective", name, OBJECTIVES)
    optional = ("accelerator_power",) if chosen == "tokens_per_joule" else ()
    for key, value in given.items():
        if value is None and key in _NEEDS[chosen]:
            raise InputError(key, value, f"a quantity: objective {chosen!r} needs it")
        if value is not None and key not in (*_NEEDS[chosen], *optional):
            raise InconsistentError(key, value, f"nothing beside objective {chosen!r}")
    checked: dict[str, float] = {}
    if chosen == "tokens_per_dollar":
        checked["rate"] = positive_quantity("accelerator_price", given["accelerator_price"], "USD/second")
    if chosen == "tokens_per_joule":
        checked["rate"] = _power_W(fleet, given["accelerator_power"])
    if chosen == "time_to_train":
        tokens = given["train_tokens"]
        is_count = isinstance(tokens, int) and not isinstance(tokens, bool)
        checked = {
            "train_tokens": float(whole_number("train_tokens", tokens))
            if is_count
            else positive_quantity("train_tokens", tokens, "count"),
            "mtbf_s": positive_quantity("accelerator_mtbf", given["accelerator_mtbf"], "second"),
            "checkpoint_s": positive_quantity("checkpoint_time", given["checkpoint_time"], "second"),
            "restart_s": positive_quantity("restart_time", given["restart_time"], "second"),
        }
    return Objective(chosen, step_tokens, peak_step_s, **checked)


def _power_W(fleet: Fleet, given: Quantity | str | None) -> float:
    """Watts of one accelerator with its share of the node: as given, else the node's maximum, else its TDP."""
    if given is not None:
        return positive_quantity("accelerator_power", given, "watt")
    if fleet.node.max_power is not None:
        return float(fleet.node.max_power.m_as("watt")) / fleet.node.accelerators_per_node
    if fleet.node.accelerator.tdp is None:
        raise InputError("accelerator_power", None, f"a power: {fleet.node.accelerator.name} lists no TDP")
    return float(fleet.node.accelerator.tdp.m_as("watt"))
