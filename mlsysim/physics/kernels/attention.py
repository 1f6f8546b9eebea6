"""Time of one layer's attention kernel: prefill and training (compute) and decode (reading keys and values).

All times are seconds of one kernel call on one device; every argument of the work may be an array. The structure is
physics; the coefficients (``PrefillKernel``, ``DecodeKernel``) belong to a device and come from measured kernels.

Sources: Dao, "FlashAttention-2", 2023, arXiv:2307.08691 (the fused kernel, its tiles, 2.5 times the arithmetic backwards);
Shah et al., "FlashAttention-3", 2024, arXiv:2407.08608 (exponentials overlap with matrix products, at a lower rate);
DeepSeek-AI, FlashMLA, 2025 (decode attention over compressed keys and values).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mlsysim.physics.numeric import Num, ceil, maximum, minimum, somewhere, sqrt, where

# Queries that one thread block works on: while it loops over keys, no other block can help it.
QUERY_TILE = 128.0
# Five matrix products backwards for two forward (Dao 2023, section 4.1).
BACKWARD_FLOPS = 2.5


@dataclass(frozen=True, slots=True)
class AttentionDevice:
    """Figures of a device's datasheet that attention depends on.

    Attributes:
        peak_flops_per_s: dense matrix rate at the number format of keys and values.
        bandwidth_Bps: memory bandwidth.
        multiprocessors: units that thread blocks are spread over.
        l2_B: last-level cache.
        array: rows of a systolic array, which a head fills in whole passes: one of 192 takes two of 128 (1: no such array).
    """

    peak_flops_per_s: Num
    bandwidth_Bps: Num
    multiprocessors: Num
    l2_B: Num
    array: Num


@dataclass(frozen=True, slots=True)
class AttentionHeads:
    """Heads of one layer on one rank, and the keys that they see.

    Attributes:
        heads: query heads.
        kv_heads: heads of keys and values.
        head_dim: width of a head.
        kv_B: bytes of an element of the cache.
        window: keys that a query of a sliding-window layer sees; 0 is all.
        absorbed_dim: elements of the one cached vector that all query heads of latent attention multiply with, mean over scores
            and output; 0: ordinary attention.
        calls: kernels that a query goes through, each with some of the keys: what it costs beyond its scores, it costs in each.
    """

    heads: Num
    kv_heads: Num
    head_dim: Num
    kv_B: Num
    window: Num
    absorbed_dim: Num
    calls: Num


@dataclass(frozen=True, slots=True)
class SharedAttention:
    """Constants of all devices' attention kernels; a device's coefficients are fitted with these in place.

    Attributes:
        streaming: share of the memory bandwidth that activations reach on their way in and out.
        largest_group: with more query heads a key-value head than this no grouped kernel is chosen, and each query head
            reads for itself.
        ramp_B: reads of this size see half of a decode kernel's ramp.
        window_streams: a window of this many sequences times heads costs half of its extra.
        latent_share: share of the peak that decode kernels of latent attention reach where arithmetic limits them.
    """

    streaming: float
    largest_group: float
    ramp_B: float
    window_streams: float
    latent_share: float


@dataclass(frozen=True, slots=True)
class PrefillKernel:
    """Fitted coefficients of a device's prefill kernel at one number format.

    Attributes:
        floor_s: launches, host and the cache update of an empty call.
        matmul_efficiency: share of the peak that the matrix products reach when nothing else limits.
        exponentials_per_s: softmax rate of one multiprocessor, scores a second.
        tile_keys: keys' worth of time that each query costs beyond its scores (masked half tiles, prologue, epilogue).
        window_tile_keys: such keys' worth of time with a sliding window, where that is more.
        shared: what it has in common with all others.
    """

    floor_s: float
    matmul_efficiency: Num
    exponentials_per_s: Num
    tile_keys: float
    window_tile_keys: float
    shared: SharedAttention

    def at_rate(self, rate: Num) -> PrefillKernel:
        """The kernel that computes at ``rate`` times this one's rates."""
        return replace(self, matmul_efficiency=self.matmul_efficiency * rate, exponentials_per_s=self.exponentials_per_s * rate)


@dataclass(frozen=True, slots=True)
class DecodeKernel:
    """Fitted coefficients of a device's decode kernel.

    Attributes:
        floor_s: launch and synchronisation of an empty call.
        bandwidth_efficiency: share of the memory bandwidth that reading keys and values reaches.
        ramp_s: extra time once the reads no longer come from cache (page look-ups, second pass over split sequences).
        block_s: time of one thread block with next to nothing to read.
        scalar_elements_per_s: elements a multiprocessor multiplies a second where no grouped (matrix) kernel is chosen.
        window_s: extra time of a sliding window over 16-bit keys at a large batch (an unspecialised kernel).
        l2_share: share of the last-level cache in which keys and values stay between steps.
        shared: what it has in common with all others.
    """

    floor_s: float
    bandwidth_efficiency: float
    ramp_s: float
    block_s: float
    scalar_elements_per_s: float
    window_s: float
    l2_share: float
    shared: SharedAttention


def attended_keys(seq_len: Num, window: Num = 0.0) -> Num:
    """Mean number of keys that a causal query sees: r (1 - r/2s), r = min(s, window); window 0 is none.

    Example:
        >>> attended_keys(4096.0), attended_keys(4096.0, 1024.0)
        (2048.0, 896.0)
    """
    reach = where(window > 0, minimum(seq_len, window), seq_len)
    return reach * (1 - reach / (2 * seq_len))


def prefill_attention_s(kernel: PrefillKernel, device: AttentionDevice, batch: Num, seq_len: Num, shape: AttentionHeads) -> Num:
    """Seconds of causal attention of ``batch`` prompts of ``seq_len`` tokens, rotary embedding and cache update included.

    t = t0 + activations/(streaming BW) + sqrt(all^2 + longest^2); with c the time of one score on the whole device,
    c^2 = (4 d / (P e))^2 + (1 / (SM x))^2, all = b h s (keys + k0) c and longest = SM tile (s + k0) c, the one block that
    sees every key: few sequences leave multiprocessors idle behind it.

    ``kv_B`` is bytes of an element of the cache (0.5-2) and picks the number format of the peak: measured times of 16-bit
    queries on an 8-bit cache are those of 8-bit attention (within 4 % in the median on Hopper and Blackwell). Valid for
    s >= 1 on devices with a fused kernel; below 512 tokens the floor dominates and one row in ten errs by more than
    20-45 %.

    Example:
        >>> kernel = PrefillKernel(15e-6, 0.7, 2e10, 500.0, 1000.0, SharedAttention(0.8, 32.0, 2.0**24, 16.0, 0.6))
        >>> device = AttentionDevice(989e12, 3.35e12, 132.0, 50.0 * 2**20, 1.0)
        >>> heads = AttentionHeads(32.0, 8.0, 128.0, 2.0, 0.0, 0.0, 1.0)
        >>> round(1e3 * prefill_attention_s(kernel, device, 1.0, 8192.0, heads), 2)
        1.1
    """
    moved_B = batch * seq_len * shape.head_dim * (4 * shape.heads + 2 * (2 + shape.kv_B) * shape.kv_heads)
    scores_s = _scores_s(kernel, device, batch, seq_len, shape)
    return kernel.floor_s + moved_B / (kernel.shared.streaming * device.bandwidth_Bps) + scores_s


def _scores_s(kernel: PrefillKernel, device: AttentionDevice, batch: Num, seq_len: Num, shape: AttentionHeads) -> Num:
    heads, head_dim, window = shape.heads, shape.head_dim, shape.window
    windowed = (window > 0) & (window < seq_len)
    tile_keys = where(windowed, max(kernel.tile_keys, kernel.window_tile_keys), kernel.tile_keys)
    reach = where(windowed, window, seq_len)
    matmul_s = 4 * _filled(head_dim, device.array) / (device.peak_flops_per_s * kernel.matmul_efficiency)
    softmax_s = 1 / (device.multiprocessors * kernel.exponentials_per_s)
    score_s = sqrt(matmul_s**2 + softmax_s**2)
    all_scores = batch * heads * seq_len * (attended_keys(seq_len, window) + shape.calls * tile_keys)
    longest_block = device.multiprocessors * minimum(seq_len, QUERY_TILE) * (reach + tile_keys)
    return score_s * sqrt(all_scores**2 + longest_block**2)


def _filled(head_dim: Num, array: Num) -> Num:
    """Elements of a head with those that it leaves idle in a systolic array."""
    return maximum(head_dim, array * ceil(head_dim / array)) if somewhere(array > 1) else head_dim


def decode_attention_s(kernel: DecodeKernel, device: AttentionDevice, batch: Num, context: Num, shape: AttentionHeads) -> Num:
    """Seconds of one new token's attention of ``batch`` sequences with ``context`` tokens each (the new one included).

    t = t0 + extra + sqrt(read^2 + blocks^2 + scalar^2): bytes of keys and values over the achieved bandwidth, less what
    the last-level cache keeps; thread blocks (one a sequence and KV head, split along the context where these are few)
    over the multiprocessors; and, with more query heads a KV head than a group, one block a query head whose scalar arithmetic
    reads the same keys again and again from cache. A window's kernel is taken where it is faster than reading all keys. All
    query heads of latent attention share one cached vector, on matrix units: 4 b h keys d / (share P) for the scalar part.

    Example:
        >>> kernel = DecodeKernel(9e-6, 0.9, 5e-6, 1.5e-6, 2.4e10, 0.0, 0.0, SharedAttention(0.8, 32.0, 2.0**24, 16.0, 0.6))
        >>> device = AttentionDevice(989e12, 3.35e12, 132.0, 50.0 * 2**20, 1.0)
        >>> round(1e6 * decode_attention_s(kernel, device, 64.0, 4096.0, AttentionHeads(32.0, 8.0, 128.0, 2.0, 0.0, 0.0, 1.0)))
        370
    """
    windowed = (shape.window > 0) & (shape.window < context)
    keys = where(windowed, shape.window, context)
    read_s = _read_keys_s(kernel, device, batch, keys, shape)
    if not kernel.window_s:
        return read_s
    streams = batch * shape.kv_heads
    window_s = where(windowed & (shape.kv_B > 1), kernel.window_s, 0.0) * streams / (streams + kernel.shared.window_streams)
    return minimum(read_s + window_s, _read_keys_s(kernel, device, batch, context, shape))


def _read_keys_s(kernel: DecodeKernel, device: AttentionDevice, batch: Num, keys: Num, shape: AttentionHeads) -> Num:
    """Seconds of one new token's attention of ``batch`` sequences to ``keys`` keys each."""
    heads, kv_heads, head_dim = shape.heads, shape.kv_heads, shape.head_dim
    ungrouped = (heads > kernel.shared.largest_group * kv_heads) & (shape.absorbed_dim == 0)
    streams = batch * kv_heads
    cached_B = 2 * streams * keys * head_dim * shape.kv_B
    missed_B = cached_B / (1 + (kernel.l2_share * device.l2_B / cached_B) ** 4)
    read_s = missed_B / (kernel.bandwidth_efficiency * device.bandwidth_Bps)
    blocks_s = where(ungrouped, batch * heads, streams) * kernel.block_s / device.multiprocessors
    elements = where(ungrouped, 2 * batch * heads * keys * head_dim, 0.0)
    scalar_s = elements / (device.multiprocessors * kernel.scalar_elements_per_s)
    arithmetic_s = scalar_s
    if somewhere(shape.absorbed_dim):
        latent_s = 4 * batch * heads * keys * shape.absorbed_dim / (device.peak_flops_per_s * kernel.shared.latent_share)
        arithmetic_s = where(shape.absorbed_dim > 0, latent_s, scalar_s)
    ramp_s = kernel.ramp_s * missed_B / (missed_B + kernel.shared.ramp_B)
    return kernel.floor_s + ramp_s + sqrt(read_s**2 + blocks_s**2 + arithmetic_s**2)


def training_attention_s(
    kernel: PrefillKernel,
    device: AttentionDevice,
    batch: Num,
    seq_len: Num,
    shape: AttentionHeads,
    backward_rate: Num,
    generation: Num = 1.0,
) -> tuple[Num, Num]:
    """Forward and backward time of one layer's causal attention in training, launches and activation traffic left out.

    ``generation`` is the speed of the kernel relative to the one that ``kernel`` was fitted to, an input that whoever runs
    the training knows: 1.0 for the vendor's own. Backward is 2.5 times the arithmetic at ``backward_rate`` of the rate.

    Example:
        >>> kernel = PrefillKernel(15e-6, 0.7, 2e10, 500.0, 1000.0, SharedAttention(0.8, 32.0, 2.0**24, 16.0, 0.6))
        >>> device = AttentionDevice(989e12, 3.35e12, 132.0, 50.0 * 2**20, 1.0)
        >>> heads = AttentionHeads(32.0, 32.0, 128.0, 2.0, 0.0, 0.0, 1.0)
        >>> forward, backward = training_attention_s(kernel, device, 1.0, 8192.0, heads, 0.5)
        >>> round(backward / forward, 2)
        5.0
    """
    forward = _scores_s(kernel, device, batch, seq_len, shape) / generation
    return forward, forward * (BACKWARD_FLOPS / backward_rate)
