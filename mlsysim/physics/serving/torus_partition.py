"""Division of a transformer over a torus: where weights stay, what is sent in each layer, how long that takes.

Notation: E the model's width, F that of the feed-forward block, T tokens of the pass, n chips. Stationary weights are split
along F (one dimension: activations of width E are gathered and their products scattered, however many chips there are) or along
E over X chips and along F over n / X (two dimensions: both widths are sent, in parts, about sqrt(n) times less). With many
tokens it is cheaper to send weights: they are gathered over N chips, among which the tokens are divided.

Sources: Pope et al., "Efficiently Scaling Transformer Inference", 2022, arXiv:2211.05102, section 3 and appendix A (layouts,
their volume); Wang et al., "Overlap Communication with Dependent Computation via Decomposition", ASPLOS 2023 (products that
begin while their operands arrive); Jouppi et al., "TPU v4", ISCA 2023 (rings close in slices of whole cubes).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from mlsysim.physics.numeric import Num, maximum, minimum, where
from mlsysim.physics.records import chosen

_ACTIVATION_B = 2.0
# Mean distance to another chip of a ring, over its number of chips: of a closed ring, of an open line.
_CLOSED_DISTANCE, _OPEN_DISTANCE = 1 / 4, 1 / 3


@dataclass(frozen=True, slots=True)
class Torus:
    """The chips of a torus that share a model.

    Attributes:
        axes: chips along each axis.
        link_Bps: bandwidth of a chip over the links of all its axes, one direction.
        hop_s: time of a step between neighbours.
        launch_s: time to launch a collective.
        closed: both ends of an axis are joined; of an open one a chip at the end receives over one link instead of two.
    """

    axes: tuple[int, ...]
    link_Bps: float
    hop_s: float
    launch_s: float
    closed: bool = True

    @property
    def chips(self) -> int:
        """The number of chips."""
        return math.prod(self.axes)

    def rate_Bps(self, axes: tuple[int, ...]) -> float:
        """Bandwidth of a chip over the links of ``axes`` (places in ``self.axes``), one direction."""
        return self.link_Bps * len(axes) / len(self.axes) * (1.0 if self.closed else 0.5)

    def steps(self, axes: tuple[int, ...]) -> int:
        """Steps of a ring collective over ``axes``, both ways at once where rings are closed."""
        lengths = [self.axes[axis] for axis in axes]
        return sum(length // 2 if self.closed else length - 1 for length in lengths)


@dataclass(frozen=True, slots=True)
class Layout:
    """A layout; ``split``: axes that divide the model's width; ``gathered``: axes over which weights are gathered."""

    name: str
    split: tuple[int, ...]
    gathered: tuple[int, ...]


@functools.lru_cache(maxsize=1024)
def torus_axes(chips: int, dimensions: int) -> tuple[int, ...]:
    """The most even ``dimensions`` factors of ``chips``, ascending: how slices are cut.

    Example:
        >>> torus_axes(64, 3), torus_axes(32, 3), torus_axes(16, 2), torus_axes(8, 1)
        ((4, 4, 4), (2, 4, 4), (4, 4), (8,))
    """
    if dimensions == 1:
        return (chips,)
    factors = [
        tuple(sorted((first, *torus_axes(chips // first, dimensions - 1))))
        for first in range(1, chips + 1)
        if chips % first == 0
    ]
    return min(factors, key=lambda axes: (sum(axes), axes))


def padded_heads(heads: float, chips: int) -> float:
    """Query heads with the empty ones that make them divide evenly, among all chips or the next power of two of heads.

    Pope et al. 2022, section 4: PaLM 540B's 48 heads are padded to 64.

    Example:
        >>> padded_heads(48.0, 64), padded_heads(48.0, 256), padded_heads(48.0, 16), padded_heads(32.0, 8)
        (64.0, 64.0, 48.0, 32.0)
    """
    among = min(chips, 2 ** math.ceil(math.log2(heads)))
    return float(math.ceil(heads / among) * among)


@functools.cache
def layouts(dimensions: int) -> tuple[Layout, ...]:
    """All layouts that are tried, two-dimensional ones first: of equals the first is taken.

    Example:
        >>> [layout.name for layout in layouts(3)][-4:]
        ['1D weight-stationary', 'X weight-gathered', 'XY weight-gathered', 'XYZ weight-gathered']
    """
    axes = tuple(range(dimensions))
    splits = [tuple(axis for axis in axes if mask >> axis & 1) for mask in range(1, 2**dimensions - 1)]
    stationary = [Layout("2D weight-stationary", split, ()) for split in splits]
    gathered = [Layout(f"{'XYZ'[:count]} weight-gathered", (), axes[:count]) for count in range(1, min(dimensions, 3) + 1)]
    return (*stationary, Layout("1D weight-stationary", (), ()), *gathered)


def volume_B(layout: Layout, torus: Torus, tokens: Num, hidden: Num, ffn: Num, weight_B: float) -> Num:
    """Bytes that a chip sends in one feed-forward block (two matrices of E x F), by the analysis that layouts are chosen with.

    Stationary: 2 T (E/X + F X/n), or 2 T E in one dimension; gathered over N: 2 T E/N (nothing where N is n: a chip has all of
    its tokens), and 2 E F N/n of weights. A collective over K chips counts as K/(K - 1) of itself, as in the paper.

    Example:
        >>> cube = Torus((4, 4, 4), 270e9, 1e-6, 1e-6)
        >>> flat, square = Layout("1D", (), ()), Layout("2D", (0,), ())
        >>> [volume_B(layout, cube, 64.0, 18432.0, 73728.0, 1.0) / 64 / 18432 for layout in (flat, square)]
        [4.0, 2.0]
    """
    columns = float(math.prod(torus.axes[axis] for axis in layout.split))
    among = float(math.prod(torus.axes[axis] for axis in layout.gathered))
    if layout.gathered:
        elements = 2 * tokens * hidden / among if among < torus.chips else 0.0 * tokens
        return elements * _ACTIVATION_B + 2 * hidden * ffn * among / torus.chips * weight_B
    ffn_share = ffn * columns / torus.chips if layout.split else 0.0
    return 2 * tokens * (hidden / columns + ffn_share) * _ACTIVATION_B


@dataclass(frozen=True, slots=True)
class Divided:
    """The layout chosen for a pass, and what is sent in it.

    Attributes:
        columns: chips that split the model's width.
        among: chips over which weights are gathered, and among which tokens are divided.
        covered_s: transfers of a layer that run beneath its products: of two that flank a product the longer.
        bare_s: transfers of a layer that nothing covers.
        waits_s: a layer's steps between neighbours and its launches.
        pieces: parts in which a transfer is sent at most, one for each chip that has a part.
    """

    columns: Num
    among: Num
    covered_s: Num
    bare_s: Num
    waits_s: Num
    pieces: Num

    def exposed_s(self, products_s: Num, pieces: Num) -> Num:
        """Seconds of a layer's transfers that no product covers: bare ones, the first piece, and what outlasts the products.

        Example:
            >>> sent = Divided(1.0, 1.0, covered_s=4.0, bare_s=0.5, waits_s=0.0, pieces=4.0)
            >>> sent.exposed_s(10.0, 1.0), sent.exposed_s(10.0, 4.0), sent.exposed_s(1.0, 4.0)
            (4.5, 1.5, 3.5)
        """
        first_s = self.covered_s / pieces
        return self.bare_s + first_s + maximum(self.covered_s - first_s - products_s, 0.0)


def divided(torus: Torus, tokens: Num, hidden: Num, ffn: Num, into: Num, out: Num, blocks: Num, weight_B: float) -> Divided:
    """Choose the layout with the least ``volume_B``, and time what a whole layer sends in it.

    Args:
        torus: the chips.
        tokens: tokens of the pass.
        hidden: the model's width E.
        ffn: the feed-forward block's width F.
        into: outputs of all of a layer's products that read the residual stream.
        out: inputs of all of a layer's products that write it.
        blocks: blocks that read and write it one after the other (1 where attention and feed-forward are parallel).
        weight_B: bytes of an element of the weights.

    Example:
        >>> cube = Torus((4, 4, 4), 270e9, 1e-6, 1e-6)
        >>> palm = dict(hidden=18432.0, ffn=73728.0, into=160256.0, out=86016.0, blocks=1.0)
        >>> few, many = (divided(cube, tokens, weight_B=2.0, **palm) for tokens in (64.0, 512 * 2048.0))
        >>> (few.columns, few.among), (many.columns, many.among)
        ((4.0, 1.0), (1.0, 64.0))
    """
    best: Divided | None = None
    least_B: Num = 0.0
    for layout in layouts(len(torus.axes)):
        sent_B = volume_B(layout, torus, tokens, hidden, ffn, weight_B)
        candidate = _layer(layout, torus, tokens, hidden, into, out, blocks, weight_B)
        if best is None:
            best, least_B = candidate, sent_B
            continue
        less = sent_B < least_B * (1 - _EQUAL)
        best = chosen(less, candidate, best)
        least_B = where(less, sent_B, least_B)
    assert best is not None
    return best


# Volumes whose relative difference is smaller count as equal.
_EQUAL = 1e-9


def _layer(
    layout: Layout, torus: Torus, tokens: Num, hidden: Num, into: Num, out: Num, blocks: Num, weight_B: float
) -> Divided:
    """Time what one layer sends: activations gathered and scattered along both widths, and weights."""
    every = range(len(torus.axes))
    stationary = tuple(axis for axis in every if axis not in (*layout.split, *layout.gathered))
    columns, among, rows = (
        float(math.prod(torus.axes[axis] for axis in axes)) for axes in (layout.split, layout.gathered, stationary)
    )
    chip_tokens = tokens / among
    covered_s: Num = 0.0 * chip_tokens
    bare_s: Num = 0.0 * chip_tokens
    waits_s: Num = 0.0 * chip_tokens
    # Each: bytes that a chip would hold without the division, the axes, collectives of that kind.
    moves = (
        (chip_tokens * hidden / columns * _ACTIVATION_B * blocks, stationary, 2 * blocks),
        (chip_tokens * (into + out) / rows * _ACTIVATION_B / 2, layout.split, 2.0),
        (hidden * (into + out) * among / torus.chips * weight_B / 2, layout.gathered, 2.0),
    )
    for size_B, axes, times in moves:
        group = math.prod(torus.axes[axis] for axis in axes)
        if group > 1:
            sent_s = 2 * size_B * (1 - 1 / group) / torus.rate_Bps(axes)
            bare_s = bare_s + minimum(covered_s, sent_s)
            covered_s = maximum(covered_s, sent_s)
            waits_s = waits_s + times * (torus.launch_s + torus.hop_s * torus.steps(axes))
    return Divided(columns, among, covered_s, bare_s, waits_s, among if layout.gathered else max(rows, columns))


def exchange_s(torus: Torus, tokens: Num, width: Num) -> Num:
    """Seconds to send queries, keys and values of ``width`` from a division of attention by heads to one by sequences.

    An all-to-all: each byte travels a quarter of a closed ring (a third of an open one) along every axis.

    Example:
        >>> cube = Torus((4, 4, 4), 270e9, 1e-6, 0.0)
        >>> round(1e6 * (exchange_s(cube, 6.4e6, 1024.0) - exchange_s(cube, 0.0, 1024.0)))
        2276
    """
    if torus.chips == 1:
        return 0.0 * tokens
    per_ring = _CLOSED_DISTANCE if torus.closed else _OPEN_DISTANCE
    travelled = per_ring * sum(length for length in torus.axes if length > 1)
    steps = torus.steps(tuple(range(len(torus.axes))))
    return torus.launch_s + torus.hop_s * steps + tokens * width / torus.chips * _ACTIVATION_B * travelled / torus.link_Bps
