"""Time of one matrix product C[m, n] = A[m, k] B[k, n], for training (large m) and decode (m of a few tokens).

The output is cut into tiles, each made by one multiprocessor. Its main loop takes as long as its arithmetic, as its operands
need from the last-level cache, or as its pipeline needs at least, whichever is longest; tiles run in waves. Few tiles leave
multiprocessors idle: the kernel can split k among several, at the price of a reduction. The library takes the fastest of
these (the model: of four tiles, each with and without a split). Meanwhile the memory delivers what no cache holds; compute
and memory overlap, not perfectly. Valid for m, n, k from 1 to 65,536 on NVIDIA A100 to B300, for kernels of up to about 3 ms:
longer ones are up to a tenth slower, for under full load the clock falls within milliseconds.

Sources: tiles, waves, split-k: NVIDIA, "Matrix Multiplication Background User's Guide", 2023; fractional waves: Osama et al.,
"Stream-K", PPoPP 2023, arXiv:2301.03598.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mlsysim.physics.numeric import Num, ceil, least_and_most, maximum, minimum, somewhere, sqrt

Tiles = tuple[tuple[float, float], ...]
TILES: Tiles = ((256.0, 128.0), (128.0, 256.0), (64.0, 128.0), (64.0, 64.0))  # rows of A, columns of B
# Kernels that unpack weights take few rows too: a decode step's do not wait for the arithmetic of 64.
SHALLOW_TILES: Tiles = (*TILES, (32.0, 128.0), (16.0, 128.0))
# Libraries of 2020 to 2022 have TF32 kernels of large tiles alone, which do not split k.
LARGE_TILES: Tiles = (*TILES[:2], (128.0, 128.0))
LEAST_SPLITS = 2.0


@dataclass(frozen=True, slots=True)
class SharedGemm:
    """Constants of all devices' and formats' kernels; a device's coefficients are fitted with these in place.

    Attributes:
        overlap: norm of compute and memory time, between a sum (1) and a maximum (infinity).
        ramp_s: the memory system reaches its rate only with enough requests under way.
        partial_sum_B: bytes of bandwidth that a partial sum of a split costs, four written and read again.
        least_k_per_split: a library splits k no finer.
    """

    overlap: float
    ramp_s: float
    partial_sum_B: float
    least_k_per_split: float


@dataclass(frozen=True, slots=True)
class GemmKernel:
    """Coefficients of a device's kernels at one number format.

    Attributes:
        efficiency: share of the peak in a tile's main loop (clock under load included).
        prologue_k: what a tile costs beside its main loop, in elements of k.
        cache_ratio: rate at which the last-level cache feeds all multiprocessors, over the memory's.
        memory_efficiency: share of the memory bandwidth that a large read reaches.
        launch_s: time of a call until its first and after its last tile; with quantisation, of those kernels too.
        shared: constants of all devices' kernels.
        split_s: what splitting k costs beside the partial sums.
        quantise_sweeps: times the (narrow) activations' bytes that the quantisation before the product moves.
        step_s: least seconds of a tile's main loop for each element of k (latency of its pipeline).
        most_splits: parts that k is split into at most; 1 where the kernels cannot.
        whole_waves: a started wave takes as long as a full one (no persistent kernels).
        sustained: share of the peak that a card's power limit sustains; kernels that leave multiprocessors idle draw less, and
            reach it all the same.
        shallow_tiles: tiles of 16 and 32 rows are there, too (kernels that unpack narrow weights).
        core_flops_per_s: rate of the cores beside the matrix units, where there are kernels that unpack weights and multiply a
            few rows in them; 0 where there are none.
        large_tiles: there are tiles of 128 rows and columns and more, and no others (TF32).
    """

    efficiency: float
    prologue_k: float
    cache_ratio: float
    memory_efficiency: float
    launch_s: float
    shared: SharedGemm
    split_s: float = 0.0
    quantise_sweeps: float = 0.0
    step_s: float = 0.0
    most_splits: float = 32.0
    whole_waves: bool = False
    sustained: float = 1.0
    shallow_tiles: bool = False
    core_flops_per_s: float = 0.0
    large_tiles: bool = False

    def __hash__(self) -> int:
        # Three of twenty numbers tell devices, formats and engines apart.
        return hash((self.efficiency, self.cache_ratio, self.memory_efficiency))


def gemm_s(
    m: Num,
    n: Num,
    k: Num,
    input_B: Num,
    weight_B: Num,
    output_B: Num,
    kernel: GemmKernel,
    peak_flops_per_s: Num,
    bandwidth_Bps: Num,
    multiprocessors: Num,
    cache_B: Num = 0.0,
    groups: Num = 1.0,
) -> Num:
    """Seconds of one call: launch + quantisation + (compute^p + memory^p)^(1/p); shapes broadcast.

    Args:
        m: rows of A: tokens.
        n: columns of B: output features.
        k: the inner dimension.
        input_B: bytes of an element of A.
        weight_B: bytes of an element of B.
        output_B: bytes of an element of C.
        kernel: fitted coefficients.
        peak_flops_per_s: dense peak rate at the kernel's number format.
        bandwidth_Bps: memory bandwidth.
        multiprocessors: units that tiles are spread over.
        cache_B: last-level cache, in which activations wait that the kernel before has written. Weights come from memory.
        groups: products of this shape in one kernel, each with its own weights (the experts of a rank).

    Example:
        >>> h100 = GemmKernel(0.8, 95.0, 5.4, 0.9, 2.4e-6, SharedGemm(2.5, 2.5e-7, 12.0, 256.0), 2.6e-6)
        >>> train = gemm_s(8192.0, 8192.0, 8192.0, 2.0, 2.0, 2.0, h100, 989.4e12, 3.35e12, 132.0, 50.0 * 2**20)
        >>> 0.7 < 2 * 8192**3 / train / 989.4e12 < 0.8
        True
        >>> decode = gemm_s(16.0, 8192.0, 8192.0, 2.0, 2.0, 2.0, h100, 989.4e12, 3.35e12, 132.0, 50.0 * 2**20)
        >>> 0.6 < 2 * 8192**2 / decode / 3.35e12 < 0.8
        True
    """
    inputs_B, weights_B, outputs_B = groups * input_B * m * k, groups * weight_B * n * k, groups * output_B * m * n
    least, most = least_and_most(inputs_B, weights_B, outputs_B, peak_flops_per_s, bandwidth_Bps, multiprocessors, cache_B)
    cached_B = least(inputs_B, most(0.0, cache_B - inputs_B - outputs_B))
    memory_s = _memory_s(inputs_B - cached_B + weights_B + outputs_B, kernel, bandwidth_Bps)
    fastest_s: Callable[..., Num] = _fastest_tiles_s if least is np.minimum else _fastest_tile_s
    compute_s = fastest_s(m, n, k, input_B, weight_B, groups, kernel, peak_flops_per_s, bandwidth_Bps, multiprocessors)
    if kernel.core_flops_per_s:
        # Unpacking a weight costs the cores as much as multiplying it.
        compute_s = least(compute_s, groups * m * n * k * (4 / kernel.core_flops_per_s))
    if kernel.sustained < 1:
        compute_s = most(compute_s, groups * m * n * k * (2 / (peak_flops_per_s * kernel.sustained)))
    norm = kernel.shared.overlap
    overlapped_s = (compute_s**norm + memory_s**norm) ** (1 / norm)
    if not somewhere(kernel.quantise_sweeps):
        return kernel.launch_s + overlapped_s
    return kernel.launch_s + kernel.quantise_sweeps * inputs_B / bandwidth_Bps + overlapped_s


# Rows, columns, and elements of the output.
_Tile = tuple[Num, Num, Num]


def _tiles(sizes: Tiles, *values: Num) -> Sequence[_Tile]:
    """The tiles, for ``values``: one by one, or of short arrays all at once along an axis before theirs.

    Short arrays take as long as the calls that handle them, of which there are then a quarter.
    """
    shapes = {value.shape for value in values if isinstance(value, np.ndarray)}
    shape = shapes.pop() if len(shapes) == 1 else np.broadcast_shapes(*shapes)
    return _tile_arrays(sizes, len(shape) if math.prod(shape) <= _SHORT else 0)


@functools.cache
def _tile_arrays(sizes: Tiles, axes: int) -> Sequence[_Tile]:
    """The tiles along an axis before ``axes`` others; one by one where there are none."""
    if not axes:
        return tuple((rows, columns, rows * columns) for rows, columns in sizes)
    rows, columns = (np.array(edge).reshape(-1, *(1,) * axes) for edge in zip(*sizes, strict=True))
    return ((rows, columns, rows * columns),)


# Beyond this many elements arithmetic takes longer than the calls.
_SHORT = 2048


def _memory_s(moved_B: Num, kernel: GemmKernel, bandwidth_Bps: Num) -> Num:
    """Seconds of traffic, x/efficiency + sqrt(ramp x), x those at full bandwidth: half the rate at 10 MB, most at 1 GB."""
    full_rate_s = moved_B / bandwidth_Bps
    return full_rate_s / kernel.memory_efficiency + sqrt(kernel.shared.ramp_s * full_rate_s)


def _fastest_tiles_s(
    m: Num,
    n: Num,
    k: Num,
    input_B: Num,
    weight_B: Num,
    groups: Num,
    kernel: GemmKernel,
    peak_flops_per_s: Num,
    bandwidth_Bps: Num,
    units: Num,
) -> Num:
    """Seconds of the fastest tile, whole or with k split, of arrays.

    With x tiles for each multiprocessor: max(1, x) tile(k), or with s splits max(1, 2 x) tile(k/s) + reduction, where
    s = max(1/x, 2) fills all multiprocessors, as far as k and the kernel can be split. Of full waves (x >= 1) splits only add
    to the time, unless a started wave takes as long as a full one.
    """
    least, most = np.minimum, np.maximum
    per_flop_s = 2 * units / (peak_flops_per_s * kernel.efficiency)
    per_fed_B_s = units / (kernel.cache_ratio * bandwidth_Bps)
    per_partial_s = units * kernel.shared.partial_sum_B / bandwidth_Bps
    step_s, prologue_k, whole_waves = kernel.step_s, kernel.prologue_k, kernel.whole_waves
    can_split = kernel.most_splits >= LEAST_SPLITS
    most_splits = maximum(LEAST_SPLITS, minimum(kernel.most_splits, k / kernel.shared.least_k_per_split))
    grouped = isinstance(groups, np.ndarray) or groups != 1.0
    tiles = _tiles(_sizes(kernel), m, n, k, per_flop_s, per_fed_B_s, groups)
    best_s: Num | None = None
    for rows, columns, area in tiles:
        # Edges are powers of two, so that a division is exact, and its rounding up too, at an eighth of the price of ``//``.
        count = ceil(m / rows) * ceil(n / columns)
        waves = (groups * count if grouped else count) / units
        arithmetic_s = area * per_flop_s
        pace_s = most(arithmetic_s, (least(m, rows) * input_B + minimum(n, columns) * weight_B) * per_fed_B_s)
        if step_s:
            pace_s = most(pace_s, step_s)
        along_k_s, prologue_s = pace_s * k, arithmetic_s * prologue_k
        started = most(1.0, ceil(waves) if whole_waves else waves)
        whole_s = started * (along_k_s + prologue_s)
        best_s = whole_s if best_s is None else least(best_s, whole_s)
        if can_split and (whole_waves or somewhere(waves < 1.0)):
            filled = most(1.0, LEAST_SPLITS * waves)
            splits = least(filled / waves, most_splits)
            # Each split writes a padded tile of partial sums, so that time never falls when a dimension grows.
            reduce_s = splits * waves * (area * per_partial_s)
            best_s = least(best_s, filled * (along_k_s / splits + prologue_s) + (kernel.split_s + reduce_s))
    assert best_s is not None
    return np.minimum.reduce(best_s, axis=0) if len(tiles) == 1 else best_s


def _fastest_tile_s(
    m: float,
    n: float,
    k: float,
    input_B: float,
    weight_B: float,
    groups: float,
    kernel: GemmKernel,
    peak_flops_per_s: float,
    bandwidth_Bps: float,
    units: float,
) -> float:
    """``_fastest_tiles_s`` of floats, whose comparisons are written out: calls of functions take twice as long."""
    per_flop_s = 2 * units / (peak_flops_per_s * kernel.efficiency)
    per_fed_B_s = units / (kernel.cache_ratio * bandwidth_Bps)
    step_s, prologue_k, whole_waves = kernel.step_s, kernel.prologue_k, kernel.whole_waves
    most_splits = 0.0
    if kernel.most_splits >= LEAST_SPLITS:
        most_splits = max(LEAST_SPLITS, min(kernel.most_splits, k / kernel.shared.least_k_per_split))
    best_s = math.inf
    for rows, columns in _sizes(kernel):
        waves = groups * (math.ceil(m / rows) * math.ceil(n / columns)) / units
        arithmetic_s = rows * columns * per_flop_s
        pace_s = ((m if m <= rows else rows) * input_B + (n if n <= columns else columns) * weight_B) * per_fed_B_s
        pace_s = arithmetic_s if pace_s < arithmetic_s else pace_s
        pace_s = step_s if pace_s < step_s else pace_s
        prologue_s = arithmetic_s * prologue_k
        whole_s = pace_s * k + prologue_s
        if waves > 1.0:
            whole_s *= math.ceil(waves) if whole_waves else waves
        best_s = whole_s if whole_s < best_s else best_s
        if most_splits and (whole_waves or waves < 1.0):
            filled = LEAST_SPLITS * waves if LEAST_SPLITS * waves > 1.0 else 1.0
            splits = filled / waves if filled / waves < most_splits else most_splits
            reduce_s = splits * waves * (rows * columns * (units * kernel.shared.partial_sum_B / bandwidth_Bps))
            split_s = filled * (pace_s * k / splits + prologue_s) + (kernel.split_s + reduce_s)
            best_s = split_s if split_s < best_s else best_s
    return best_s


def _sizes(kernel: GemmKernel) -> Tiles:
    return SHALLOW_TILES if kernel.shallow_tiles else LARGE_TILES if kernel.large_tiles else TILES
