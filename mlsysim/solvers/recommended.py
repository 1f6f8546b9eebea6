"""The stack or the engine of an answer that recommends something: the caller's, or the best supported of the accelerator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mlsysim.calibration.best_supported import ENGINE, STACK, most_supported
from mlsysim.core.checks import one_of
from mlsysim.core.errors import InconsistentError
from mlsysim.hardware.types import HardwareNode
from mlsysim.models.types import TransformerWorkload
from mlsysim.systems.types import Fleet, Node, accelerator_of

# What a caller can ask for in place of the best-supported stack.
BASES = ("bound",)
# Options of training that only an answer without a stack has.
_WITHOUT_STACK = ("overlap_comm", "overlap_efficiency")


class Recommended(NamedTuple):
    """The stack that an answer takes, and what its card says of it; None where it takes the caller's, or is a bound."""

    stack: str | None
    notes: tuple[str, ...]

    def added_to(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The caller's options, with the stack where one was chosen for them."""
        return dict(options) if self.stack is None else {**options, "stack": self.stack}


NOTHING_CHOSEN = Recommended(None, ())


def recommended_engine(workload: object, hardware: object, options: Mapping[str, Any], basis: str | None) -> Recommended:
    """The engine that an answer takes, the best supported, where the caller's options have neither a stack nor an efficiency.

    Raises:
        InputError: ``basis`` is no such word, or stands beside a stack or an efficiency.
    """
    if _settled(options, basis):
        return NOTHING_CHOSEN
    if not isinstance(workload, TransformerWorkload) or not isinstance(hardware, HardwareNode | Node | Fleet):
        return NOTHING_CHOSEN  # the solver says what is wrong with them
    return _taken(ENGINE, accelerator_of(hardware), workload)


def recommended_stack(workload: object, fleet: object, options: Mapping[str, Any], basis: str | None) -> Recommended:
    """The training stack that an answer takes, the best supported, where the caller's options settle neither basis nor overlap.

    Raises:
        InputError: ``basis`` is no such word, or stands beside a stack or an efficiency.
    """
    if _settled(options, basis) or any(options.get(name) not in (None, True) for name in _WITHOUT_STACK):
        return NOTHING_CHOSEN
    if not isinstance(workload, TransformerWorkload) or not isinstance(fleet, Fleet):
        return NOTHING_CHOSEN
    return _taken(STACK, fleet.node.accelerator, workload)


def _settled(options: Mapping[str, Any], basis: str | None) -> bool:
    """Whether the caller has said what the answer rests on."""
    if basis is not None:
        one_of("basis", basis, BASES)
        for name in ("stack", "efficiency"):
            if options.get(name) is not None:
                raise InconsistentError("basis", basis, f"nothing beside {name}: it says what the answer rests on")
    return basis is not None or options.get("stack") is not None or options.get("efficiency") is not None


def _taken(what: str, device: HardwareNode, workload: TransformerWorkload) -> Recommended:
    best = most_supported(what, device.name, workload.kind)
    if best is None:
        return Recommended(None, (f"no {what} is taken, for nothing like {device.name} was measured: these are bounds",))
    return Recommended(
        best.name, (f'{what} {best.name}, the best supported here by {best.evidence}; basis="bound" is the speed of light',)
    )
