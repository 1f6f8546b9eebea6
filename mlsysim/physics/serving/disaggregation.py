"""Prefill and decode on accelerators of their own: the KV cache sent between them, and what a replica that only decodes does.

Sources: Patel et al., "Splitwise", ISCA 2024; Zhong et al., "DistServe", OSDI 2024.
"""

from __future__ import annotations

from mlsysim.physics.numeric import Num, maximum, minimum


def kv_transfer_s(kv_B: Num, senders: Num, receivers: Num, network_Bps: float) -> Num:
    """Seconds to send one sequence's cache from the accelerators that made it to those that read it, at ``network_Bps`` each.

    Example:
        >>> kv_transfer_s(8e9, 4.0, 8.0, 50e9)
        0.04
    """
    return kv_B / (minimum(senders, receivers) * network_Bps)


def decode_pool(batch: Num, output: Num, step_s: Num, transfer_s: Num, groups: Num = 1.0) -> tuple[Num, Num]:
    """Requests a second of a replica that only decodes, and its mean time per output token after the first.

    A place in the batch is taken while its cache arrives, and one cache arrives after another in each of the replica's
    ``groups`` of ranks with sequences of their own.

    Example:
        >>> decode_pool(10.0, 101.0, 0.01, 0.01)
        (9.803921568627452, 0.0101)
    """
    per_s = minimum(batch / (output * step_s + transfer_s), groups / maximum(transfer_s, 1e-12))
    return per_s, step_s + transfer_s / maximum(output - 1, 1.0)
