"""What checkpoints leave of a job's time: the interval between two of them, and the share that is work kept."""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.core.checks import positive_quantity
from mlsysim.core.units import Quantity
from mlsysim.physics.operations.reliability import daly_interval_s, renewal_goodput
from mlsysim.solvers.result import Result

_LONGEST = 500.0  # mean times between failures: exp() of more says nothing


@dataclass(frozen=True, kw_only=True)
class KeptTimeResult(Result):
    """An answer about a job that writes checkpoints.

    Attributes:
        checkpoint_interval: work between two checkpoints: as given, else what loses least (Daly's higher order); None where
            too little is known to say.
        goodput: share of the time that is work kept: exact, for failures that come at random (Daly's renewal).
    """

    checkpoint_interval: Quantity | None = None
    goodput: float | None = None


def checkpoint_interval_s(stated: Quantity | str | None, stall_s: float, mtbf_s: float | None) -> float | None:
    """Work between two checkpoints, in seconds: what is stated, else what loses least; None where neither is known.

    Raises:
        InputError: the interval is no positive time.

    Example:
        >>> checkpoint_interval_s("10 minute", 30.0, None), round(checkpoint_interval_s(None, 30.0, 10800.0))
        (600.0, 785)
    """
    if stated is not None:
        return positive_quantity("checkpoint_interval", stated, "second")
    return None if mtbf_s is None else float(daly_interval_s(stall_s, mtbf_s))


def kept_share(interval_s: float, stall_s: float, restart_s: float, mtbf_s: float) -> float:
    """Share of the time that is work kept; 0 where failures come too often for any.

    Example:
        >>> round(kept_share(3600.0, 60.0, 600.0, 3 * 3600.0), 3), kept_share(3600.0, 60.0, 600.0, 1.0)
        (0.782, 0.0)
    """
    if (interval_s + stall_s + restart_s) / mtbf_s > _LONGEST:
        return 0.0
    return float(renewal_goodput(interval_s, stall_s, restart_s, mtbf_s))
