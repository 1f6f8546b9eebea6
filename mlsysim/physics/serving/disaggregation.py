"""Prefill and decode on accelerators of their own: the prefill pool that a load needs, and the KV cache sent between them.

Sources: Patel et al., "Splitwise", ISCA 2024; Zhong et al., "DistServe", OSDI 2024 (first tokens wait as in M/D/1).
"""

from __future__ import annotations

from mlsysim.physics.numeric import Num, ceil, maximum, minimum

# The highest busy share planned for: beyond it a queue grows faster than any mean says.
MOST_BUSY = 0.95


def prefill_pool(rate_per_s: Num, prefill_s: Num, transfer_s: Num, max_ttft_s: float) -> tuple[Num, Num]:
    """Replicas that prefill ``rate_per_s`` requests within ``max_ttft_s``, and the time to first token that they reach.

    M/D/1 at a busy share u waits u / (2 (1 - u)) prefills: the limit leaves u = 2 s / (p + 2 s) for a slack s of the limit over
    one prefill p. Each replica also sends one cache after another. Where p alone is over the limit, no number is enough: the
    time that a free replica takes is returned, for the caller to compare.

    Example:
        >>> prefill_pool(10.0, 0.1, 0.01, 0.15)
        (2.0, 0.15000000000000002)
        >>> prefill_pool(10.0, 0.1, 0.01, 0.11)[0]
        6.0
    """
    slack_s = maximum(max_ttft_s - prefill_s, 0.01 * prefill_s) if max_ttft_s != float("inf") else 1e9 * prefill_s
    most_busy = minimum(2 * slack_s / (prefill_s + 2 * slack_s), MOST_BUSY)
    replicas = maximum(ceil(rate_per_s * prefill_s / most_busy * (1 - _ROUNDING)), ceil(rate_per_s * transfer_s))
    busy_share = rate_per_s * prefill_s / replicas
    return replicas, prefill_s + busy_share / (2 * (1 - busy_share)) * prefill_s


# So that a load that a number of replicas meets exactly is not given one more by the last bit of a division.
_ROUNDING = 1e-9


def kv_transfer_s(kv_B: Num, senders: Num, receivers: Num, network_Bps: float) -> Num:
    """Seconds to send one sequence's cache from the accelerators that made it to those that read it, at ``network_Bps`` each.

    Example:
        >>> kv_transfer_s(8e9, 4.0, 8.0, 50e9)
        0.04
    """
    return kv_B / (minimum(senders, receivers) * network_Bps)


def decode_pool(batch: Num, output: Num, step_s: Num, transfer_s: Num) -> tuple[Num, Num]:
    """Requests a second of a replica that only decodes, and its mean time per output token after the first.

    A place in the batch is taken while its cache arrives, and one cache arrives after another.

    Example:
        >>> decode_pool(10.0, 101.0, 0.01, 0.01)
        (9.803921568627452, 0.0101)
    """
    per_s = minimum(batch / (output * step_s + transfer_s), 1 / maximum(transfer_s, 1e-12))
    return per_s, step_s + transfer_s / maximum(output - 1, 1.0)
