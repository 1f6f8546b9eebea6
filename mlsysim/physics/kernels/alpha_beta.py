"""Time of collectives in the alpha-beta model, and the bandwidth that a group of ranks sees.

``size_B`` is the full tensor per rank (before a reduce-scatter, after an all-gather); ``n`` is the group's ranks;
``bandwidth_Bps`` is per rank, one direction; ``alpha_s`` is the latency of one step of the ring.
Source: Thakur, Rabenseifner, Gropp, "Optimization of Collective Communication Operations in MPICH", 2005.
"""

from __future__ import annotations

from mlsysim.physics.numeric import Num, Truth, maximum, minimum, where


def reduce_scatter_s(size_B: Num, n: Num, bandwidth_Bps: Num, alpha_s: Num = 0.0) -> Num:
    """Seconds of a ring reduce-scatter, or of the all-gather that mirrors it: (n-1)/n S/B + (n-1) alpha.

    Example:
        >>> reduce_scatter_s(800e6, 8, 350e9)
        0.002
    """
    return (n - 1) / n * size_B / bandwidth_Bps + (n - 1) * alpha_s


def all_reduce_s(size_B: Num, n: Num, bandwidth_Bps: Num, alpha_s: Num = 0.0) -> Num:
    """Seconds of a ring all-reduce, a reduce-scatter and an all-gather: 2 (n-1)/n S/B + 2 (n-1) alpha.

    Example:
        >>> all_reduce_s(800e6, 8, 350e9)
        0.004
    """
    return 2 * reduce_scatter_s(size_B, n, bandwidth_Bps, alpha_s)


def distinct_targets(targets: Num, draws: Num) -> Num:
    """Mean number of ``targets`` that at least one of ``draws`` random choices hits: n (1 - (1 - 1/n)^k).

    Example:
        >>> float(distinct_targets(1.0, 8.0)), round(float(distinct_targets(8.0, 8.0)), 2)
        (1.0, 5.25)
    """
    return targets * (1 - (1 - 1 / targets) ** draws)


def all_to_all_s(
    size_B: Num, n: Num, local_n: Num, local_Bps: Num, remote_Bps: Num, oversubscription: Num = 1.0, copies: Num = 1.0
) -> Num:
    """Seconds in which every rank sends ``size_B``, evenly to all ``n`` ranks; ``local_n`` of them share a node.

    The two parts use different links at the same time. What leaves the node crosses the upper tier all at once, so an
    oversubscribed fabric thins it. With ``copies``, each byte goes to that many random ranks, but crosses once to a node and
    once to a rank (DeepSeek-AI 2024, arXiv:2412.19437, section 3.2).

    Example:
        >>> float(all_to_all_s(8e9, n=16, local_n=8, local_Bps=450e9, remote_Bps=50e9))
        0.08
    """
    nodes = n / local_n
    local = size_B * distinct_targets(n, copies) * (local_n - 1) / n / local_Bps
    remote = size_B * distinct_targets(nodes, copies) * (nodes - 1) / nodes * oversubscription / remote_Bps
    return maximum(local, remote)


def ring_bandwidth_Bps(spans_nodes: Truth, ranks_in_node: Num, intra_Bps: Num, inter_Bps: Num) -> Num:
    """Bandwidth of a rank of a ring: the scale-up link's, or across nodes the least of that and its nodes' cards.

    A ring that crosses nodes can run as one ring through every card of the group's ranks in the node, so it sees
    ``inter_Bps`` x ``ranks_in_node``, never more than the scale-up link.

    Example:
        >>> float(ring_bandwidth_Bps(True, 2, 450e9, 50e9))
        100000000000.0
    """
    return where(spans_nodes, minimum(intra_Bps, inter_Bps * ranks_in_node), intra_Bps)
