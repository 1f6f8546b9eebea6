"""How long the micro-batches of a prompt take through the stages of a pipeline.

Sources: Huang et al., "GPipe", 2019, arXiv:1811.06965 (fill and drain); llama.cpp, pull request 6017, "pipeline parallelism" (March
2024): the micro-batches of a prompt follow each other through the GPUs, each with buffers of its own, of which there are four.
"""

from __future__ import annotations

from mlsysim.physics.numeric import Num, ceil, floor, maximum, where


def passes_of_micro_batches(micro_batches: Num, layers: Num, stages: Num, in_flight: float = 0.0) -> Num:
    """Time of all micro-batches, in passes of one of them through all layers.

    One follows another as soon as the longest stage is free: n micro-batches take 1 + (n - 1) x its share of a pass. Where only
    ``in_flight`` can be under way (0: any number), the n-th also waits for the end of the one that many before it.

    Args:
        micro_batches: n, at least 1 (a last, shorter one counts as its part).
        layers: of the model; they and the head are dealt out evenly.
        stages: of the pipeline.
        in_flight: micro-batches under way at most; 0: no limit.

    Example:
        >>> passes_of_micro_batches(16.0, 80.0, 1.0), passes_of_micro_batches(1.0, 80.0, 4.0)
        (16.0, 1.0)
        >>> round(passes_of_micro_batches(16.0, 80.0, 4.0), 2), passes_of_micro_batches(16.0, 80.0, 4.0, 1.0)
        (4.94, 16.0)
    """
    longest = where(stages > 1, ceil((layers + 1) / stages) / layers, 1.0)
    after = micro_batches - 1
    unlimited = after * longest
    if not in_flight:
        return 1 + unlimited
    rounds = floor(after / in_flight)
    return 1 + maximum(unlimited, rounds + (after - rounds * in_flight) * longest)
