"""The kernels of a serving pass one by one, with their arithmetic and traffic: what a roofline shows.

Source: Williams, Waterman, Patterson, "Roofline", CACM 2009.
"""

from __future__ import annotations

from mlsysim.physics.kernels.roofline import ATTENTION, ELEMENT_WISE, HEAD, KernelWork, each_once
from mlsysim.physics.layer.attention import attention_heads, cached_tokens, keys_seen, score_flops
from mlsysim.physics.numeric import Num
from mlsysim.physics.serving.activations import elementwise_layer_s
from mlsysim.physics.serving.deployment import Product, ServedModel
from mlsysim.physics.serving.expert_ranks import busiest_rank
from mlsysim.physics.serving.passes import (
    decode_layer_attention_s,
    prefill_layer_attention_s,
    sequences_of_stage,
    with_idle_groups,
)
from mlsysim.physics.serving.products import head_product, product_s, served_products

DECODE, PREFILL = "decode", "prefill"


def decode_kernels(model: ServedModel, batch: float, context: float) -> tuple[KernelWork, ...]:
    """Kernels that one token of each of ``batch`` sequences of ``context`` tokens passes, on one rank of each stage."""
    sequences = sequences_of_stage(model, batch)
    model = with_idle_groups(model, sequences)
    shape, own = model.shape, float(sequences / model.shards.own)
    seen, keys = (
        attention_heads(shape, model.shards.attention, model.kernels.kv_B, absorbed=True),
        cached_tokens(shape, context),
    )
    # Queries multiply each cached key once, and scores each cached value.
    flops_per_key = score_flops(shape, absorbed=True) * seen.heads / shape.heads
    attention = KernelWork(
        ATTENTION,
        DECODE,
        flops=float(own * keys * flops_per_key),
        moved_B=float(2 * own * seen.kv_heads * keys * seen.head_dim * seen.kv_B),
        seconds=float(decode_layer_attention_s(model, sequences, context) / model.engine.attention_share),
    )
    return _pass_kernels(model, sequences, sequences, attention)


def prefill_kernels(model: ServedModel, batch: float, prompt: float) -> tuple[KernelWork, ...]:
    """Kernels of the prompts of ``batch`` sequences, computed together, on one rank of each stage."""
    shape, own = model.shape, batch / float(model.shards.own)
    seen = attention_heads(shape, model.shards.attention, model.kernels.kv_B)
    keys = keys_seen(shape, prompt, causal=model.has.causal)
    attention = KernelWork(
        ATTENTION,
        PREFILL,
        flops=float(4 * own * prompt * seen.heads * keys * seen.head_dim),
        moved_B=float(own * prompt * seen.head_dim * (4 * seen.heads + 2 * seen.kv_B * seen.kv_heads)),
        seconds=float(prefill_layer_attention_s(model, batch, prompt)),
    )
    return _pass_kernels(model, batch * prompt, batch, attention)


def _pass_kernels(model: ServedModel, tokens: Num, sequences: Num, attention: KernelWork) -> tuple[KernelWork, ...]:
    """All calls of each kernel of a pass of ``tokens`` tokens, of whom one of each of ``sequences`` sequences has logits."""
    shape, shards, kernels = model.shape, model.shards, model.kernels
    load, direction = busiest_rank(shape.routed, shards, tokens), attention.direction

    def call(product: Product, name: str, m: Num, n: Num, k: Num, groups: Num = 1.0) -> KernelWork:
        seconds = product_s(model, m, n, k, product, groups)
        moved_B = groups * (product.input_B * m * k + product.weight_B * n * k + product.output_B * m * n)
        return KernelWork(name, direction, float(groups * 2 * m * n * k), float(moved_B), float(seconds))

    products = each_once(
        call(kernel, one.name, rows, one.n, one.k, groups).times(float(shape.layers * one.share))
        for one, rows, groups, kernel in served_products(model, tokens, load, decoding=direction == DECODE)
    )
    passes_s = float(shape.layers * elementwise_layer_s(model, tokens, load.over_mean))
    kinds = [*products, attention.times(float(shape.layers)), KernelWork(ELEMENT_WISE, direction, 0.0, 0.0, passes_s)]
    if shape.vocab:
        head = head_product(kernels, model.engine)
        kinds.append(call(head, HEAD, sequences / shards.own, shape.vocab / shards.attention, shape.hidden))
    return tuple(work for work in kinds if work.seconds > 0)
