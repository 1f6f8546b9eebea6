"""Objectives that a search of plans makes least: time, or what the accelerators cost over it."""

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
MOST_TOKENS = 10**18
HIGHER_IS_BETTER = ("mfu", "tokens_per_dollar", "tokens_per_joule")


@dataclass(frozen=True, slots=True)
class WholeTraining:
    """A training from its first step to its last: its tokens, and what failures cost it.

    Attributes:
        tokens: of all steps.
        mtbf_s: mean time between failures of one accelerator with its share of the node.
        checkpoint_s: time to write a checkpoint.
        restart_s: time of a restart.
    """

    tokens: float
    mtbf_s: float
    checkpoint_s: float
    restart_s: float

    def duration_s(self, step_s: Num, step_tokens: float, accelerators: Num) -> Num:
        """All steps, and the time that failures take."""
        working_s = step_s * (self.tokens / step_tokens)
        return working_s / goodput(self.checkpoint_s, self.restart_s, self.mtbf_s / accelerators)


@dataclass(frozen=True, slots=True)
class Objective:
    """An objective, checked; what the caller gave is in SI units.

    Attributes:
        name: one of ``OBJECTIVES``.
        step_tokens: tokens of a step.
        peak_step_s: model FLOP of a step over the peak of one accelerator: MFU is this / (accelerators x step).
        rate: USD or watts of one accelerator, by the second.
        training: what time_to_train is the time of.
    """

    name: str
    step_tokens: float
    peak_step_s: float
    rate: float = 0.0
    training: WholeTraining | None = None

    def cost(self, step_s: Num, accelerators: Num) -> Num:
        """What the search makes least."""
        if self.name == "step_time":
            return step_s
        if self.training is not None:
            return self.training.duration_s(step_s, self.step_tokens, accelerators)
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
    if chosen == "tokens_per_dollar":
        rate = positive_quantity("accelerator_price", given["accelerator_price"], "USD/second")
        return Objective(chosen, step_tokens, peak_step_s, rate)
    if chosen == "tokens_per_joule":
        return Objective(chosen, step_tokens, peak_step_s, _power_W(fleet, given["accelerator_power"]))
    return Objective(chosen, step_tokens, peak_step_s, training=_training(given) if chosen == "time_to_train" else None)


def token_count(name: str, value: object) -> float:
    """Tokens that a caller gave as a whole number, or as a quantity such as "15e12 count".

    Raises:
        InputError: it is neither.

    Example:
        >>> token_count("tokens", 10**12) == token_count("tokens", "1 Tcount")
        True
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return float(whole_number(name, value, maximum=MOST_TOKENS))
    return positive_quantity(name, value, "count")


def _training(stated: dict[str, Any]) -> WholeTraining:
    return WholeTraining(
        token_count("train_tokens", stated["train_tokens"]),
        *(positive_quantity(name, stated[name], "second") for name in ("accelerator_mtbf", "checkpoint_time", "restart_time")),
    )


def _power_W(fleet: Fleet, power: Quantity | str | None) -> float:
    """Watts of one accelerator with its share of the node: as given, else the node's maximum, else its TDP."""
    if power is not None:
        return positive_quantity("accelerator_power", power, "watt")
    if fleet.node.max_power is not None:
        return float(fleet.node.max_power.m_as("watt")) / fleet.node.accelerators_per_node
    if fleet.node.accelerator.tdp is None:
        raise InputError("accelerator_power", None, f"a power: {fleet.node.accelerator.name} lists no TDP")
    return float(fleet.node.accelerator.tdp.m_as("watt"))
