"""Context parallelism: ranks share each sequence, and pass its keys and values around a ring.

Each rank holds 1/cp of the tokens, in two pieces from both ends of the sequence so that all have the same causal work
(zigzag). Keys and values of one rank travel to the next while it works on those that it has; or all ranks gather them before
they begin, which sends the same bytes beside nothing and leaves no partial outputs.

Sources: Liu et al. 2023, arXiv:2310.01889 (ring attention); NVIDIA TransformerEngine, attention with context parallelism.
"""

from __future__ import annotations

from mlsysim.physics.layer.work import FULL
from mlsysim.physics.numeric import Num, where


def ring_passes_B(chunk_B: Num, cp: Num, recompute: Num) -> Num:
    """Bytes that one rank sends around the ring for one layer and micro-batch.

    Forward, cp - 1 times the keys and values of a rank; backward they travel again, and their gradients with them.

    Args:
        chunk_B: keys and values of one rank's tokens.
        cp: ranks of the ring; one sends nothing.
        recompute: full recomputation runs the forward ring twice.

    Example:
        >>> ring_passes_B(1e6, 4.0, 0), ring_passes_B(1e6, 1.0, 0)
        (9000000.0, 0.0)
    """
    forwards = where(recompute == FULL, 2.0, 1.0)
    return (forwards + 2.0) * (cp - 1) * chunk_B


def merged_output_B(output_elements: Num, cp: Num, merged_B: Num) -> Num:
    """Bytes that merging the partial outputs of a ring's steps moves, forward.

    Args:
        output_elements: elements of one rank's output.
        cp: ranks of the ring.
        merged_B: bytes an element each time that a partial output is merged into the rest.

    Example:
        >>> merged_output_B(1e6, 2.0, 8.0), merged_output_B(1e6, 1.0, 8.0)
        (8000000.0, 0.0)
    """
    return merged_B * (cp - 1) * output_elements
