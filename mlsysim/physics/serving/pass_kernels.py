"""The kernels of a serving pass one by one, with their arithmetic and traffic: what a roofline shows.

Source: Williams, Waterman, Patterson, "Roofline", CACM 2009.
"""

from __future__ import annotations

from functools import partial

from mlsysim.physics.kernels.attention import attended_keys
from mlsysim.physics.kernels.roofline import (
    ATTENTION,
    DOWN,
    ELEMENT_WISE,
    EXPERTS_DOWN,
    EXPERTS_UP,
    HEAD,
    SHARED_DOWN,
    SHARED_UP,
    UP,
    KernelWork,
)
from mlsysim.physics.layer.latent_attention import absorbed_dim
from mlsysim.physics.numeric import Num
from mlsysim.physics.serving.activations import elementwise_layer_s
from mlsysim.physics.serving.deployment import WORD_B, Product, ServedModel, ServingShape
from mlsysim.physics.serving.expert_ranks import busiest_rank
from mlsysim.physics.serving.passes import (
    decode_layer_attention_s,
    prefill_layer_attention_s,
    sequences_of_stage,
    with_idle_groups,
)
from mlsysim.physics.serving.products import engine_products, product_s, products_of_layer, scaled

DECODE, PREFILL = "decode", "prefill"


def decode_kernels(model: ServedModel, batch: float, context: float) -> tuple[KernelWork, ...]:
    """Kernels that one token of each of ``batch`` sequences of ``context`` tokens passes, on one rank of each stage."""
    sequences = sequences_of_stage(model, batch)
    model = with_idle_groups(model, sequences)
    shape, own = model.shape, float(sequences / model.shards.own)
    reach = min(float(shape.window), context) if shape.windowed else context
    keys = (1 - shape.windowed) * context + shape.windowed * reach
    heads, cached_heads = _of_a_rank(model, shape.heads), _of_a_rank(model, shape.cached_heads)
    # Queries multiply each cached key once, and scores each cached value.
    width = absorbed_dim(shape.latent) if shape.latent.used else shape.cached_dim
    attention = KernelWork(
        ATTENTION,
        DECODE,
        flops=float(4 * own * heads * keys * width),
        moved_B=float(2 * own * cached_heads * keys * shape.cached_dim * model.kernels.kv_B),
        seconds=float(decode_layer_attention_s(model, sequences, context) / model.engine.attention_share),
    )
    return _pass_kernels(model, sequences, sequences, attention)


def prefill_kernels(model: ServedModel, batch: float, prompt: float) -> tuple[KernelWork, ...]:
    """Kernels of the prompts of ``batch`` sequences, computed together, on one rank of each stage."""
    shape, own = model.shape, batch / float(model.shards.own)
    heads, kv_heads = _of_a_rank(model, shape.heads), _of_a_rank(model, shape.kv_heads)
    if model.has.causal:
        near = attended_keys(prompt, shape.window) if shape.windowed else 0.0
        keys = (1 - shape.windowed) * attended_keys(prompt) + shape.windowed * near
    else:
        keys = prompt
    attention = KernelWork(
        ATTENTION,
        PREFILL,
        flops=float(4 * own * prompt * heads * keys * shape.head_dim),
        moved_B=float(own * prompt * shape.head_dim * (4 * heads + 2 * model.kernels.kv_B * kv_heads)),
        seconds=float(prefill_layer_attention_s(model, batch, prompt)),
    )
    return _pass_kernels(model, batch * prompt, batch, attention)


def _of_a_rank(model: ServedModel, heads: Num) -> float:
    return max(float(heads / model.shards.attention), 1.0)


def _pass_kernels(model: ServedModel, tokens: Num, sequences: Num, attention: KernelWork) -> tuple[KernelWork, ...]:
    """All calls of each kernel of a pass of ``tokens`` tokens, of whom one of each of ``sequences`` sequences has logits."""
    shape, shards, kernels = model.shape, model.shards, model.kernels
    load, direction = busiest_rank(shape, shards, tokens), attention.direction
    layer_product, expert_product = engine_products(model)
    calls: dict[str, KernelWork] = {}

    def call(product: Product, name: str, m: Num, n: Num, k: Num, groups: Num = 1.0) -> Num:
        seconds = product_s(model, m, n, k, product, groups)
        moved_B = groups * (product.input_B * m * k + product.weight_B * n * k + product.output_B * m * n)
        one = KernelWork(name, direction, float(groups * 2 * m * n * k), float(moved_B), float(seconds))
        calls[name] = one if name not in calls else calls[name].beside(one)
        return seconds

    products_of_layer(
        *(shape, shards, tokens, load, partial(call, layer_product), partial(call, expert_product)),
        decoding=direction == DECODE,
    )
    layers = [work.times(float(shape.layers * _share(shape, name))) for name, work in calls.items()]
    passes_s = float(shape.layers * elementwise_layer_s(model, tokens, load.over_mean))
    told = [*layers, attention.times(float(shape.layers)), KernelWork(ELEMENT_WISE, direction, 0.0, 0.0, passes_s)]
    if shape.vocab:
        head = Product(kernels.head_gemm, WORD_B, kernels.head_weight_B, kernels.head_peak_flops_per_s)
        calls.clear()
        call(scaled(head, model.engine), HEAD, sequences / shards.own, shape.vocab / shards.attention, shape.hidden)
        told += calls.values()
    return tuple(work for work in told if work.seconds > 0)


def _share(shape: ServingShape, name: str) -> Num:
    """The share of the layers that have a kernel."""
    if name in (UP, DOWN):
        return shape.dense
    return 1 - shape.dense if name in (EXPERTS_UP, EXPERTS_DOWN, SHARED_UP, SHARED_DOWN) else 1.0
