"""Checkpoints: their bytes, how long storage takes to write them, and how long the job stops."""

from __future__ import annotations

from mlsysim.physics.numeric import Num, minimum


def checkpoint_B(parameters: Num, weight_B: Num, master_B: Num, moments: Num, moment_B: Num) -> Num:
    """Bytes of a checkpoint: weights, their copy in full precision, and what the optimizer keeps.

    Example:
        >>> round(checkpoint_B(8.03e9, 2, 4, 2, 4) / 2**30, 1)
        104.7
    """
    return parameters * (weight_B + master_B + moments * moment_B)


def write_s(size_B: Num, storage_Bps: Num, writers: Num, writer_Bps: Num) -> Num:
    """Seconds until storage holds a checkpoint: what it takes in, or what its writers send, if that is less.

    Example:
        >>> write_s(1200e9, 20e9, 16, 1e9), write_s(1200e9, 20e9, 64, 1e9)
        (75.0, 60.0)
    """
    return size_B / minimum(storage_Bps, writers * writer_Bps)


def stalled_share(interval_s: Num, stall_s: Num) -> Num:
    """Share of the time that checkpoints stop the job: w / (t + w).

    Example:
        >>> stalled_share(57.0, 3.0)
        0.05
    """
    return stall_s / (interval_s + stall_s)
