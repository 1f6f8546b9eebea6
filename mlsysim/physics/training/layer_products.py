"""The matrix products of a layer in training: forward, and backward for the gradients of inputs and of trained weights.

Sources: Narayanan et al. 2021, arXiv:2104.04473 (what a rank multiplies); Hu et al. 2021, arXiv:2106.09685 (frozen weights have
no gradients, adapters beside them have).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from mlsysim.physics.kernels.gemm import gemm_s
from mlsysim.physics.layer.adapters import ADDED_B, adapted_products, adapter_products_s
from mlsysim.physics.layer.experts import local_experts, masked_products, routed_rows
from mlsysim.physics.layer.products import ORDERED, ROUTED, ROUTER, LayerProduct, layer_products
from mlsysim.physics.layer.shape import ExpertShape
from mlsysim.physics.numeric import Num, ceil, maximum, minimum, somewhere, where
from mlsysim.physics.plan import Plan
from mlsysim.physics.training.step_inputs import KernelDevice, TrainedShape

# A product's rows, outputs and inputs as its passes multiply them: for the result, the gradients of inputs and of weights.
RESULT, OF_INPUTS, OF_WEIGHTS = (0, 1, 2), (0, 2, 1), (1, 2, 0)
Order = tuple[int, int, int]


def trained_products(shape: TrainedShape, plan: Plan) -> Iterator[tuple[LayerProduct, Num, Num]]:
    """Tell of each product of a layer its rows for one micro-batch on one rank, and how many there are of it in one kernel."""
    tokens, devices = plan.micro_batch_tokens, shape.routed.devices
    for one in layer_products(shape, plan.tp, plan.expert_split):
        if one.part == ROUTED:
            # Each device of an accelerator has all experts of its rank, and its part of their rows.
            groups = local_experts(shape.routed, plan) * devices
            rows = maximum(routed_rows(shape.routed, plan) / groups, 1.0)
            yield (one, rows, groups) if not somewhere(shape.routed.tile_rows) else _in_tiles(one, rows, groups, shape.routed)
        else:
            yield one, tokens / plan.routed_from if one.part == ROUTER else tokens, one.groups


def _in_tiles(one: LayerProduct, rows: Num, groups: Num, routed: ExpertShape) -> tuple[LayerProduct, Num, Num]:
    """A grouped product with what its tiles compute in vain, given and returned as ``trained_products`` tells it.

    An expert's rows begin and end within tiles: one of ``rows`` meets rows / tile + 1 of them, less a row. Features beyond one
    tile fill whole ones.
    """
    tile, width = routed.tile_rows, maximum(routed.tile_width, 1.0)
    met = rows + where(groups > routed.devices, maximum(tile - 1, 0.0), 0.0)
    n, k = (where(size > width, ceil(size / width) * width, size) for size in (one.n, one.k))
    return one._replace(n=n, k=k), met, groups


def forward_and_backward_s(shape: TrainedShape, plan: Plan, device: KernelDevice, frozen: Num) -> tuple[dict[str, Num], Num]:
    """Seconds of one layer's products forward, by their names, and of all of them backward; the mean over kinds of layers."""
    trained = where(frozen > 0, 0.0, 1.0)
    forward: dict[str, Num] = {}
    backward: Num = 0.0
    for one, rows, groups in trained_products(shape, plan):
        result_s, inputs_s, weights_s = (
            call_s(one, rows, groups, order, shape, device) for order in (RESULT, OF_INPUTS, OF_WEIGHTS)
        )
        forward[one.name] = forward.get(one.name, 0.0) + one.share * result_s
        backward = backward + one.share * (inputs_s + trained * weights_s)
    if somewhere(shape.routed.masked_tokens):
        forward[ORDERED], back_s = (_masked_s(shape, plan, device, backward=back) for back in (False, True))
        backward = backward + back_s
    return forward, backward


def _masked_s(shape: TrainedShape, plan: Plan, device: KernelDevice, *, backward: bool) -> Num:
    """Seconds of the products with masks that put tokens in order by expert, 16-bit; 0 where tokens are copied."""
    products = masked_products(shape.routed, shape.hidden, plan, backward=backward)
    seconds = sum((head_product_s(m, n, k, device, groups) for m, n, k, groups in products), start=0.0)
    return where(shape.routed.masked_tokens > 0, shape.routed.layers * seconds, 0.0)


def edges(one: LayerProduct, rows: Num, order: Order) -> tuple[Num, Num, Num]:
    """Rows, columns and inner dimension of one of a product's passes."""
    features = (rows, one.n, one.k)
    return features[order[0]], features[order[1]], features[order[2]]


def call_s(one: LayerProduct, rows: Num, groups: Num, order: Order, shape: TrainedShape, device: KernelDevice) -> Num:
    """Seconds of one of a product's passes: scores of the router are computed in 16 bits, whatever the others' format."""
    seconds = (head_product_s if one.part == ROUTER else product_s)(*edges(one, rows, order), device, groups)
    if one.part != ROUTED or not somewhere(shape.routed.tile_rows):
        return seconds
    return _by_tiles_s(seconds, one, rows, groups, order, shape.routed, device)


def _by_tiles_s(
    seconds: Num, one: LayerProduct, rows: Num, groups: Num, order: Order, routed: ExpertShape, device: KernelDevice
) -> Num:
    """Seconds of a kernel that reads both its operands anew for each tile, while it computes the one before.

    Source: the JAX authors, jax/experimental/pallas/ops/tpu/megablox/gmm.py: the inner dimension is the innermost of its grid.
    """
    width = maximum(routed.tile_width, 1.0)
    tile = one._replace(n=minimum(one.n, width), k=minimum(one.k, width))
    m, n, k = edges(tile, maximum(routed.tile_rows, 1.0), order)
    tiles = groups * rows * one.n * one.k / (m * n * k)
    read_s = device.gemm_input_B * tiles * k * (m + n) / (device.gemm.memory_efficiency * device.memory_Bps)
    return where(routed.tile_rows > 0, maximum(seconds, read_s) + tiles * routed.tile_step_s, seconds)


def product_s(m: Num, n: Num, k: Num, device: KernelDevice, groups: Num = 1.0) -> Num:
    """Seconds of a layer's matrix product, or of ``groups`` of them in one kernel."""
    size_B = device.gemm_input_B
    peak = device.gemm_peak_flops_per_s * device.clock
    chip = (device.memory_Bps, device.multiprocessors, device.cache_B)
    return gemm_s(m, n, k, size_B, size_B, 2.0, device.gemm, peak, *chip, groups)


def head_product_s(m: Num, n: Num, k: Num, device: KernelDevice, groups: Num = 1.0) -> Num:
    """Seconds of a 16-bit matrix product, as ``product_s``."""
    peak = device.head_peak_flops_per_s * device.clock
    chip = (device.memory_Bps, device.multiprocessors, device.cache_B)
    return gemm_s(m, n, k, 2.0, 2.0, 2.0, device.head_gemm, peak, *chip, groups)


def adapters_s(shape: TrainedShape, plan: Plan, device: KernelDevice) -> tuple[Num, Num]:
    """Forward and backward seconds of a layer's low-rank adapters, 16-bit whatever the products use."""
    adapters, tokens = shape.adapters, plan.micro_batch_tokens
    forward: Num = 0.0
    backward: Num = 0.0
    if not somewhere(adapters.rank):
        return forward, backward
    for one, part, readers in adapted_products(adapters, layer_products(shape, plan.tp, plan.expert_split)):
        if not somewhere(readers):
            continue
        written = part * one.n
        thin = (tokens, written, one.k, adapters.rank, readers)
        there, back = adapter_products_s(*thin, partial(head_product_s, device=device))
        added = ADDED_B * tokens * written / device.streaming_Bps
        forward, backward = forward + one.share * (there + added), backward + one.share * (back + added)
    return forward, backward
