"""Time of NCCL's collectives: which protocol NCCL takes, and how long that protocol needs.

NCCL has several protocols and takes the one that its own tuning table predicts to be fastest. The table is public and is
not exact, so that the measured time jumps where NCCL switches: a smooth or optimal choice cannot follow it. Here the
*choice* repeats the table (``Tuner``: published constants), the *time* has coefficients of the device.

Sizes are bytes of the full tensor per rank (before a reduce-scatter, after an all-gather). S = size, n = ranks,
k = (n-1) steps, twice that for an all-reduce, W = k S/n bytes over the wire. Valid for one NVLink domain or one PCIe box,
2-8 measured ranks, 512 B to 512 MiB; several domains: ``hierarchical_all_reduce_s``.
Source: NVIDIA NCCL, src/graph/tuning.cc (v2.30).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlsysim.physics.numeric import Num, Truth, in_norm, maximum, minimum, once_for_floats, somewhere, sqrt, where

KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")

# How the protocols work.
_LINE128_STEP = 1.9 / 0.6  # a step of LL128 over one of LL, tuning.cc
_LINE128_SHARE = 0.92  # 120 of 128 bytes are data, tuning.cc
_EXCHANGE_LL_B = 16384.0  # up to this size a send to one peer uses LL (NCCL_P2P_LL_THRESHOLD)
_EXCHANGE_STEPS = 2.0  # send and credit


@dataclass(frozen=True, slots=True)
class SharedCollectives:
    """Constants of all devices' collectives; a device's coefficients are fitted with these in place.

    Attributes:
        rails: network cards of a domain that rings and trees use.
        ll_share: share of the bandwidth that LL reaches: half of its bytes are flags.
        ll_spread: a step slows by this much once a rank's part leaves the first channel ...
        ll_channel_B: ... of this size.
        copy: the copy inside the device runs at this many times the wire's rate.
        overlap: steps hide behind the wire: norm of the two, between a sum (1) and a maximum (infinity).
        switch_steps: steps of Simple that a reduction in the switch takes.
        switch_share: share of the bandwidth that a reduction in the switch reaches.
        exchange_step_s: time of a step of an all-to-all.
        exchange_ll_Bps: bandwidth of one channel of LL in an all-to-all.
    """

    rails: float
    ll_share: float
    ll_spread: float
    ll_channel_B: float
    copy: float
    overlap: float
    switch_steps: float
    switch_share: float
    exchange_step_s: float
    exchange_ll_Bps: float


@dataclass(frozen=True)
class Tuner:
    """NCCL's own belief about an interconnect, by which it chooses a protocol: latency = base + steps x step.

    ``ll128_base_s`` is infinite where LL128 is off, ``switch_share`` 0 where the switch cannot reduce.
    """

    ll_base_s: float
    ll_step_s: float
    ll128_base_s: float
    ll128_step_s: float
    simple_base_s: float
    simple_step_s: float
    switch_s: float
    ll_Bps: float
    ll128_Bps: float
    link_Bps: float
    switch_share: float

    @property
    def meshed(self) -> bool:
        """True over NVLink, where each card reads all others' memory: LL128 is on there alone."""
        return self.ll128_base_s < math.inf

    def __hash__(self) -> int:
        # Two of eleven numbers tell devices apart.
        return hash((self.link_Bps, self.switch_share))


@dataclass(frozen=True)
class CollectiveCoefficients:
    """Six coefficients of a device (NVLink five: a pair sees the same bandwidth), and its tuner."""

    launch_s: float
    ll_step_s: float
    simple_step_s: float
    bandwidth_Bps: float
    pair_bandwidth_Bps: float
    fill_s: float
    tuner: Tuner
    shared: SharedCollectives

    def __hash__(self) -> int:
        # Three of thirty numbers tell devices and engines apart.
        return hash((self.launch_s, self.bandwidth_Bps, self.pair_bandwidth_Bps))

    def on_link(self, speedup: Num) -> CollectiveCoefficients:
        """Give the coefficients on a link of ``speedup`` times the bandwidth: the same shares of it, which NCCL believes in."""
        believed: dict[str, Any] = {name: getattr(self.tuner, name) * speedup for name in ("ll_Bps", "ll128_Bps", "link_Bps")}
        rates: dict[str, Any] = {name: getattr(self, name) * speedup for name in ("bandwidth_Bps", "pair_bandwidth_Bps")}
        return replace(self, **rates, tuner=replace(self.tuner, **believed))


@dataclass(frozen=True)
class FabricCoefficients:
    """Three coefficients of a network.

    They are the time of a level of the tree, the share of eight cards' line rate (above one: more cards than eight), and
    the longest pipeline fill of a level.
    """

    level_s: float
    efficiency: float
    fill_s: float


def _in_switch(n: Num, allowed: Truth, tuner: Tuner) -> Truth:
    """True where NCCL lets the switch reduce: where that moves more than a ring, so not below about six ranks."""
    return allowed & (tuner.switch_share * (n - 1) / n > n / (2 * (n - 1)))


def _switch_Bps(n: Num, bandwidth_Bps: Num, c: CollectiveCoefficients) -> Num:
    return c.shared.switch_share * c.tuner.switch_share * bandwidth_Bps * (n - 1) / n


@dataclass(frozen=True, slots=True)
class _Protocol:
    """A way to run a collective, and what NCCL believes of it: seconds without bytes, and bytes a second.

    ``seconds`` gives what it takes of bytes over the wire, ranks, steps, bandwidth and the device's coefficients.
    """

    fixed_s: Num
    believed_Bps: Num
    seconds: Callable[[Num, Num, Num, Num, CollectiveCoefficients], Num]

    def overtakes_at_B(self, slower: _Protocol) -> Num:
        """Bytes over the wire from which NCCL believes this protocol to be faster than another of a lower rate."""
        return maximum(self.fixed_s - slower.fixed_s, 0.0) / (1 / slower.believed_Bps - 1 / self.believed_Bps)


def _ll_s(W: Num, n: Num, k: Num, B: Num, c: CollectiveCoefficients) -> Num:
    part_B = W / k
    spread = 1 + c.shared.ll_spread * part_B / (part_B + c.shared.ll_channel_B)
    handled_B = W + part_B  # a rank also writes its own part
    return (c.launch_s + k * c.ll_step_s) * spread + handled_B / (c.shared.ll_share * B)


def _pipelined_s(steps_s: Num, wire_share: float, W: Num, k: Num, B: Num, c: CollectiveCoefficients) -> Num:
    wire_s = (W + W / k / c.shared.copy) / B / wire_share
    return c.launch_s + in_norm(steps_s, wire_s, c.shared.overlap) + sqrt(c.fill_s * W / B)


def _ll128_s(W: Num, n: Num, k: Num, B: Num, c: CollectiveCoefficients) -> Num:
    return _pipelined_s(k * (c.ll_step_s * _LINE128_STEP), _LINE128_SHARE, W, k, B, c)


def _simple_s(W: Num, n: Num, k: Num, B: Num, c: CollectiveCoefficients) -> Num:
    return _pipelined_s(k * c.simple_step_s, 1.0, W, k, B, c)


def _switch_s(W: Num, n: Num, k: Num, B: Num, c: CollectiveCoefficients) -> Num:
    reduce_s = W * n / k / _switch_Bps(n, B, c)
    steps_s = c.shared.switch_steps * c.simple_step_s
    return c.launch_s + in_norm(steps_s, reduce_s, c.shared.overlap) + sqrt(c.fill_s * reduce_s)


@dataclass(frozen=True, slots=True)
class _Window:
    """A protocol's seconds, the bytes over the wire between which NCCL takes it, and whether there are any."""

    seconds: Callable[[Num, Num, Num, Num, CollectiveCoefficients], Num]
    first_B: Num
    last_B: Num
    used: Truth


@once_for_floats
def _windows(t: Tuner, n: Num, k: Num, switch: Truth) -> tuple[_Window, ...]:
    """The protocols that NCCL takes at any size."""
    protocols = [
        _Protocol(base_s + step_s * k, believed_Bps, seconds)
        for base_s, step_s, believed_Bps, seconds in (
            (t.ll_base_s, t.ll_step_s, t.ll_Bps, _ll_s),
            (t.ll128_base_s, t.ll128_step_s, t.ll128_Bps, _ll128_s),
            (t.simple_base_s, t.simple_step_s, t.link_Bps, _simple_s),
        )
        if base_s < math.inf
    ]
    if t.switch_share > 0 and somewhere(switch):
        believed_Bps = t.switch_share * t.link_Bps * (n - 1) / n * k / n
        protocols.append(_Protocol(where(switch, t.switch_s, math.inf), where(switch, believed_Bps, math.inf), _switch_s))
    windows = []
    for number, protocol in enumerate(protocols):
        first_B: Num = 0.0
        last_B: Num = math.inf
        for slower in protocols[:number]:
            first_B = maximum(first_B, protocol.overtakes_at_B(slower))
        for faster in protocols[number + 1 :]:
            last_B = minimum(last_B, faster.overtakes_at_B(protocol))
        if somewhere(first_B < last_B):
            windows.append(_Window(protocol.seconds, first_B, last_B, first_B < last_B))
    return tuple(windows)


def _ring_s(S: Num, n: Num, k: Num, B: Num, c: CollectiveCoefficients, switch: Truth) -> Num:
    """Seconds of a ring collective (or, with ``switch``, an all-reduce in the switch) by the protocol that NCCL takes.

    NCCL may stay too long with a protocol of low latency; a message that still takes it is at most as slow as the first that
    the next protocol carries, so that no larger message is faster.
    """
    W = k * S / n
    least_s: Num = math.inf
    for window in _windows(c.tuner, n, k, switch):
        seconds = window.seconds(where(window.used, maximum(W, window.first_B), W), n, k, B, c)
        least_s = minimum(least_s, where(window.used & (window.last_B >= W), seconds, math.inf))
    return least_s


def _exchange_s(S: Num, n: Num, B: Num, c: CollectiveCoefficients) -> Num:
    """Seconds of an all-to-all: every rank sends S/n to every other at once, so that the latency does not grow with n."""
    shared = c.shared

    def ll_s(part_B: Num) -> Num:
        return (
            c.launch_s
            + _EXCHANGE_STEPS * c.ll_step_s
            + part_B / shared.exchange_ll_Bps
            + (n - 1) * part_B / (shared.ll_share * B)
        )

    def simple_s(part_B: Num) -> Num:
        wire_s = ((n - 1) * part_B + part_B / shared.copy) / B
        return c.launch_s + in_norm(shared.exchange_step_s, wire_s, shared.overlap) + sqrt(c.fill_s * (n - 1) * part_B / B)

    part_B = S / n
    longer_s = simple_s(maximum(part_B, _EXCHANGE_LL_B))
    return where(part_B <= _EXCHANGE_LL_B, minimum(ll_s(part_B), longer_s), longer_s)


def collective_s(kind: str, size_B: Num, ranks: Num, device: CollectiveCoefficients, switch_reduces: Truth = True) -> Num:
    """Seconds of one collective among ``ranks`` GPUs of one node or NVLink domain; arguments broadcast.

    LL: (T0 + k a)(1 + spread) + (W + S/n) / (0.56 B). Simple and LL128: T0 + |k h, w| + sqrt(tau W/B), with
    w = (W + S/n / 2.5) / B and |x, y| their norm of order 4. An all-reduce in the switch (NVLS) moves about S instead of W.

    Args:
        kind: one of ``KINDS``.
        size_B: bytes of the full tensor per rank.
        ranks: GPUs; one rank needs no time.
        device: coefficients.
        switch_reduces: False for types that the switch cannot add (int8) and for a build without NVLS.

    Example:
        >>> tuner = Tuner(6.6e-6, 6e-7, 1.4e-5, 1.9e-6, 8.4e-6, 3.4e-6, 2.5e-5, 141e9, 341e9, 370.8e9, 0.85)
        >>> shared = SharedCollectives(8.0, 0.56, 0.2, 4096.0, 2.5, 4.0, 4.5, 0.92, 6e-6, 6.5e9)
        >>> h100 = CollectiveCoefficients(4.6e-6, 8e-7, 6.8e-6, 390e9, 390e9, 13e-6, tuner, shared)
        >>> [round(collective_s(kind, 2.0**29, 8, h100) * 1e6) for kind in ("all_reduce", "all_gather")]
        [2178, 1403]
    """
    if kind not in KINDS:
        raise ValueError(f"kind = {kind!r}: expected one of {', '.join(KINDS)}")
    n = maximum(ranks, 2.0)
    B = where(n <= 2, device.pair_bandwidth_Bps, device.bandwidth_Bps)
    if kind == "all_to_all":
        time_s = _exchange_s(size_B, n, B, device)
    else:
        reduces = kind == "all_reduce"
        steps = (2 if reduces else 1) * (n - 1)
        time_s = _ring_s(size_B, n, steps, B, device, _in_switch(n, reduces & switch_reduces, device.tuner))
    return where(ranks > 1, time_s, 0.0 * time_s)


def hierarchical_all_reduce_s(
    size_B: Num, domains: Num, ranks_per_domain: Num, nic_Bps: Num, device: CollectiveCoefficients, fabric: FabricCoefficients
) -> Num:
    """Seconds of an all-reduce over ``domains`` NVLink domains of ``ranks_per_domain`` GPUs each.

    Within a domain the data are reduced (in the switch or by a ring), between domains a double binary tree runs over the
    domain's network cards, both pipelined:
    t = T0 + 2 (n-1) a + 2 d level + w + d F sqrt(w) / (sqrt(w) + sqrt(F)), depth d = ceil(log2 N),
    w = |S/B_domain, f S/(8 e nic)|.
    A tree sends every byte once between two domains, up and down (f = 2) among more. A domain of more than eight cards
    uses about eight, whatever it has: 1,440 GB200 (72 cards a domain) move 424 GB/s a domain.
    Measured: 16-64 GPUs of 8 a domain, 72-1,440 of 72 a domain, 8 B to 8 GiB.

    Args:
        size_B: bytes of the tensor per rank.
        domains: NVLink domains (nodes, or racks of an NVL72), 2 or more.
        ranks_per_domain: GPUs in each.
        nic_Bps: line rate of the network per GPU, one direction.
        device: coefficients of the GPU.
        fabric: coefficients of the network.

    Example:
        >>> tuner = Tuner(6.6e-6, 6e-7, 1.4e-5, 1.9e-6, 8.4e-6, 3.4e-6, 2.5e-5, 141e9, 341e9, 370.8e9, 0.85)
        >>> shared = SharedCollectives(8.0, 0.56, 0.2, 4096.0, 2.5, 4.0, 4.5, 0.92, 6e-6, 6.5e9)
        >>> h100 = CollectiveCoefficients(4.6e-6, 8e-7, 6.8e-6, 390e9, 390e9, 13e-6, tuner, shared)
        >>> t = hierarchical_all_reduce_s(2.0**33, 8, 8, 50e9, h100, FabricCoefficients(2e-5, 1.0, 2e-4))
        >>> round(t * 1e3, 1)
        46.8
    """
    g = maximum(ranks_per_domain, 2.0)
    n = domains * ranks_per_domain
    ring_Bps = device.bandwidth_Bps * g / (2 * (g - 1))
    switch_Bps = maximum(_switch_Bps(g, device.bandwidth_Bps, device), 1.0)
    domain_Bps = where(_in_switch(g, g > 0, device.tuner), switch_Bps, ring_Bps)
    domain_s = where(ranks_per_domain > 1, size_B / domain_Bps, 0.0)
    cards = minimum(ranks_per_domain, device.shared.rails)
    rails = minimum(cards * fabric.efficiency, ranks_per_domain)  # never more cards than there are
    rails_Bps = rails * nic_Bps
    tree_s = where(domains > 2, 2.0, 1.0) * size_B / rails_Bps
    wire_s = in_norm(domain_s, tree_s, device.shared.overlap)
    levels = np.ceil(np.log2(domains)) if isinstance(domains, np.ndarray) else float(math.ceil(math.log2(domains)))
    latency_s = device.launch_s + 2 * (n - 1) * device.ll_step_s + 2 * levels * fabric.level_s
    root = sqrt(wire_s)
    filling_s = levels * fabric.fill_s * root / (root + math.sqrt(fabric.fill_s) + 1e-30)  # 0 bytes and no fill: 0, not 0/0
    return latency_s + wire_s + filling_s
