"""Context parallelism: ranks share each sequence, and pass its keys and values around a ring.

Each rank holds 1/cp of the tokens, in two pieces from both ends of the sequence so that all have the same causal work
(zigzag). Keys and values of one rank travel to the next while it works on those that it has; or all ranks gather them before
they begin, which sends the same bytes beside nothing and leaves no partial outputs.

Sources: Liu et al. 2023, arXiv:2310.01889 (ring attention); NVIDIA TransformerEngine 2.1.0, transformer_engine/pytorch/
attention.py: AttnFuncWithCPAndKVP2P (what is copied and added).
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


def ring_passes_memory_B(queries: Num, keys_values: Num, cp: Num, merged_B: Num, *, backward: bool) -> Num:
    """Bytes that a ring moves through a rank's memory beside attention, of one layer and micro-batch.

    They are those of the last rank, which has all its queries in each of the ``cp`` steps and, after the first, half of the
    keys. Forward it packs keys and values (r2 w2) and copies each half that it takes (r2 w2); its output begins as zeros (w2),
    to which the first partial one is added (r2 r2 w2). Backward it copies the halves again; gradients of queries are copied
    (r2 w2) and then added up (r2 r2 w2), as are, half by half, those of keys and values, the last of them whole.

    Args:
        queries: elements of one rank's queries, and of its output.
        keys_values: elements of one rank's keys and values.
        cp: ranks of the ring; one moves nothing.
        merged_B: bytes an element of the output for each further partial one.
        backward: which of the two passes.

    Example:
        >>> [ring_passes_memory_B(1e6, 1e5, 2.0, 6.0, backward=backward) for backward in (False, True)]
        [14600000.0, 11000000.0]
        >>> ring_passes_memory_B(1e6, 1e5, 1.0, 6.0, backward=True)
        0.0
    """
    forward_B = queries * (8.0 + merged_B * (cp - 1)) + keys_values * (4.0 + 2.0 * (cp - 1))
    backward_B = queries * (4.0 + 6.0 * (cp - 1)) + keys_values * (5.0 * cp)
    return where(cp > 1, backward_B if backward else forward_B, 0.0)
