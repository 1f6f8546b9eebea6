"""What checkpoints hold of each parameter, as ``data/checkpoints.toml`` states it."""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.core.checks import one_of
from mlsysim.core.toml import packaged_toml, reads

FILE = "checkpoints.toml"
MASTER_B = 4.0  # a copy of the weights in full precision


@dataclass(frozen=True, slots=True)
class CheckpointContents:
    """Bytes of a parameter in a checkpoint.

    Attributes:
        weight_B: of its weight; 0 where it is that of the training's number format.
        master_B: of the copy beside weights of 16 bits.
        moments: what the optimizer keeps.
        moment_B: the bytes of one.
    """

    weight_B: float
    master_B: float
    moments: float
    moment_B: float


@reads("calibration", FILE)
def _ways() -> dict[str, str]:
    """The way of writing of each name that has one: its own, or that of a stack."""
    entries = packaged_toml("calibration", FILE)["stack"]
    return {called: way for way, entry in entries.items() for called in (way, *entry["stacks"])}


@reads("calibration", FILE)
def _optimizers() -> list[str]:
    return list(packaged_toml("calibration", FILE)["optimizer"])


def checkpoint_contents(stack: str, optimizer: str) -> CheckpointContents:
    """What a stack writes with an optimizer.

    Args:
        stack: a training stack, or "master-weights", "weights-in-32-bits" or "no-master-weights".
        optimizer: "adam", "adam-8bit", "momentum" or "none".

    Raises:
        UnknownNameError: no such stack or optimizer.

    Example:
        >>> checkpoint_contents("megatron-core", "adam")
        CheckpointContents(weight_B=0.0, master_B=4.0, moments=2.0, moment_B=4.0)
    """
    ways = _ways()
    return _contents(ways[one_of("stack", stack, ways)], one_of("optimizer", optimizer, _optimizers()))


@reads("calibration", FILE)
def _contents(way: str, optimizer: str) -> CheckpointContents:
    file = packaged_toml("calibration", FILE)
    written, kept = file["stack"][way], file["optimizer"][optimizer]
    return CheckpointContents(
        weight_B=float(written.get("weight_B", 0.0)),
        # Weights alone have no copy beside them: it is the optimizer's.
        master_B=MASTER_B if written["master"] and kept["moments"] else 0.0,
        moments=float(kept["moments"]),
        moment_B=float(kept["moment_B"]),
    )
