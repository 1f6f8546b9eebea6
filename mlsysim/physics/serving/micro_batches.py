"""The time that the micro-batches of a prompt take through the stages of a pipeline.

Sources: Huang et al., "GPipe", 2019, arXiv:1811.06965 (fill and drain); llama.cpp, pull request 6017, "pipeline parallelism"
(March 2024): the micro-batches of a prompt follow each other through the GPUs, each with buffers of its own, of which there
are four; one thread launches the kernels of all GPUs, micro-batch by micro-batch, and waits where a GPU's queue is full.
"""

from __future__ import annotations

import numpy as np

from mlsysim.physics.numeric import Num, ceil, floor, maximum, somewhere, where


def passes_of_micro_batches(micro_batches: Num, layers: Num, stages: Num, in_flight: float = 0.0, queued: Num = np.inf) -> Num:
    """Time of all micro-batches, in passes of one of them through all layers.

    One follows another as soon as the longest stage is free, ceil((layers + 1)/stages) of the layers: n micro-batches take
    1 + (n - 1) stage. Where only ``in_flight`` can be under way (0: any number), each also waits for the end of the one that
    many before it. Where a stage's queue holds the launches of q = ``queued`` micro-batches, the one thread that launches them
    turns to the next when the last stage's queue has taken all of this one, so that all but q of those launched there have
    run: a micro-batch starts 1 - stage (1 - k + q) after the k-th before it, k = ceil(q).

    Args:
        micro_batches: n, at least 1 (a last, shorter one counts as its part).
        layers: layers of the model; they and the head are dealt out evenly.
        stages: stages of the pipeline.
        in_flight: micro-batches under way at most; 0: no limit.
        queued: micro-batches whose launches a stage's queue holds.

    Example:
        >>> passes_of_micro_batches(16.0, 80.0, 1.0), passes_of_micro_batches(1.0, 80.0, 4.0)
        (16.0, 1.0)
        >>> round(passes_of_micro_batches(16.0, 80.0, 4.0), 2), passes_of_micro_batches(16.0, 80.0, 4.0, 1.0)
        (4.94, 16.0)
        >>> round(passes_of_micro_batches(16.0, 80.0, 4.0, queued=0.9), 2)
        12.46
    """
    stage = where(stages > 1, ceil((layers + 1) / stages) / layers, 1.0)
    earlier = micro_batches - 1
    last = earlier * stage
    if in_flight:
        last = maximum(last, _held(earlier, in_flight, 1.0, stage))
    if somewhere(queued < np.inf):
        held = ceil(queued)
        last = maximum(last, where(stages > 1, _held(earlier, held, 1 - stage * (1 - held + queued), stage), 0.0))
    return 1 + last


def _held(earlier: Num, under_way: Num, wait: Num, stage: Num) -> Num:
    """Start of the micro-batch after ``earlier`` others: every ``under_way``-th waits, the rest follow as fast as they can."""
    rounds = floor(earlier / under_way)
    return rounds * wait + (earlier - rounds * under_way) * stage
