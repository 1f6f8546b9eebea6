"""Matrix products of one layer of a serving pass, at a prefill's thousands of tokens and a decode step's few.

Source: Pope et al. 2022, section 3 (feed-forward and attention projections under tensor parallelism).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mlsysim.physics.kernels.gemm import GemmKernel, gemm_s
from mlsysim.physics.kernels.roofline import (
    COMPRESSION,
    DOWN,
    EXPANSION,
    EXPERTS_DOWN,
    EXPERTS_UP,
    OUTPUT,
    QKV,
    SHARED_DOWN,
    SHARED_UP,
    UP,
)
from mlsysim.physics.layer.latent_attention import absorbed_products, latent_products
from mlsysim.physics.numeric import Num, everywhere, maximum, minimum, once_for_floats, somewhere, where
from mlsysim.physics.serving.deployment import (
    WORD_B,
    EngineCoefficients,
    Product,
    ServedModel,
    ServingShape,
    Shards,
)
from mlsysim.physics.serving.expert_ranks import RankLoad


def scaled(product: Product, engine: EngineCoefficients) -> Product:
    """Give ``product`` at the rates that the engine reaches with its kernel, once a pass for all its calls."""
    kernel = _scaled_kernel(product.kernel, engine.compute_share, engine.memory_share)
    return Product(kernel, product.input_B, product.weight_B, product.peak_flops_per_s, product.output_B)


# Passes on one engine share the kernel, which takes longer to build than to evaluate.
@once_for_floats
def _scaled_kernel(kernel: GemmKernel, compute_share: Num, memory_share: Num) -> GemmKernel:
    # No engine lifts a kernel over the peak: its share was fitted to formats that stay below it.
    efficiency = minimum(kernel.efficiency * compute_share, maximum(kernel.efficiency, 1.0))
    return replace(
        kernel,
        efficiency=efficiency,  # type: ignore[arg-type]
        memory_efficiency=kernel.memory_efficiency * memory_share,  # type: ignore[arg-type]
    )


def product_s(model: ServedModel, m: Num, n: Num, k: Num, product: Product, groups: Num = 1.0) -> Num:
    """Seconds of an engine's product (``groups`` in one kernel), by the vendor's kernels (already ``scaled``) or its own.

    An engine that has both turns to the vendor's at so many rows, where its own may be the slower: more rows are no faster.
    """
    kernels, has = model.kernels, model.has
    if has.own_products:
        if not (kernels.lends and has.own_rows and (has.unpacks or product.weight_B >= WORD_B)):
            return _own_product_s(model, m, n * groups, k, product)
        own_s = _own_product_s(model, minimum(m, has.own_rows), n * groups, k, product)
        if not somewhere(m > has.own_rows):
            return own_s
        return where(m > has.own_rows, maximum(own_s, _unpacked_product_s(model, m, n, k, product, groups)), own_s)
    return gemm_s(
        m,
        n,
        k,
        product.input_B,
        product.weight_B,
        product.output_B,
        product.kernel,
        product.peak_flops_per_s,
        kernels.memory_Bps,
        kernels.multiprocessors,
        kernels.cache_B,
        groups,
    )


def _own_product_s(model: ServedModel, m: Num, n: Num, k: Num, product: Product) -> Num:
    """Seconds by the norm of plain limits: reading the weights, unpacking them in the cores, multiplying."""
    kernels, engine = model.kernels, model.engine
    read_s = product.weight_B * n * k / kernels.own_Bps(engine)
    multiply_s = 2 * m * n * k / (kernels.own_peak_flops_per_s * kernels.own_compute_share * engine.own_share)
    norm = product.kernel.shared.overlap
    return (read_s**norm + multiply_s**norm) ** (1 / norm)


def _unpacked_product_s(model: ServedModel, m: Num, n: Num, k: Num, product: Product, groups: Num) -> Num:
    """Seconds of the vendor's 16-bit product; weights of another width are first written out in 16 bits."""
    kernels, narrow = model.kernels, product.weight_B != WORD_B
    written_B = (product.weight_B + WORD_B) * groups * n * k
    unpack_s = written_B / (kernels.streaming * kernels.own_Bps(model.engine)) if narrow else 0.0
    return unpack_s + gemm_s(
        *(m, n, k, WORD_B, WORD_B, WORD_B, product.kernel, product.peak_flops_per_s),
        *(kernels.memory_Bps, kernels.multiprocessors, kernels.cache_B, groups),
    )


def layer_products_s(model: ServedModel, tokens: Num, load: RankLoad, *, decoding: bool = False) -> tuple[Num, Num]:
    """Seconds of one layer's matrix products around attention and in feed-forward blocks, mean over dense and expert layers.

    ``load`` is the routed work of the busiest rank; ``decoding`` absorbs the products of latent attention.
    """
    engine_product, expert_product = engine_products(model)

    def product(_: str, m: Num, n: Num, k: Num, groups: Num = 1.0) -> Num:
        return product_s(model, m, n, k, engine_product, groups)

    def expert(_: str, m: Num, n: Num, k: Num, groups: Num) -> Num:
        return product_s(model, m, n, k, expert_product, groups)

    return products_of_layer(model.shape, model.shards, tokens, load, product, expert, decoding=decoding)


def engine_products(model: ServedModel) -> tuple[Product, Product]:
    """Give the products of a layer's weights, and of its routed experts', at the rates that the engine reaches."""
    kernels = model.kernels
    layer_product = Product(kernels.gemm, kernels.input_B, kernels.weight_B, kernels.gemm_peak_flops_per_s, kernels.output_B)
    engine_product = scaled(layer_product, model.engine)
    return engine_product, engine_product if kernels.experts is None else scaled(kernels.experts, model.engine)


def products_of_layer(
    shape: ServingShape,
    shards: Shards,
    tokens: Num,
    load: RankLoad,
    product: Callable[..., Num],
    expert: Callable[..., Num],
    *,
    decoding: bool = False,
) -> tuple[Num, Num]:
    """Add up the seconds of a layer's matrix products, around attention and in feed-forward blocks, as the callers tell them.

    ``product``, and of routed experts ``expert``, is called with the name of each, m, n, k and, of a grouped one, the number.
    """
    rows, latent = tokens / shards.own, shape.latent
    if latent.used and everywhere(latent.key_rank > 0):
        attention_s = _latent_products_s(shape, rows, shards.attention, product, decoding)
    else:
        attention_s = _plain_products_s(shape, rows, shards.attention, product)
        if latent.used:
            latent_s = _latent_products_s(shape, rows, shards.attention, product, decoding)
            attention_s = where(latent.key_rank > 0, latent_s, attention_s)
    ffn_s: Num = 0.0
    up = shape.ffn_matrices - 1
    if somewhere(shape.dense > 0):
        width = maximum(shape.ffn, 1.0) / shards.attention
        dense_s = product(UP, rows, up * width, shape.hidden) + product(DOWN, rows, shape.hidden, width)
        ffn_s = shape.dense * dense_s
    if somewhere(shape.dense < 1):
        ffn_s = ffn_s + (1 - shape.dense) * _experts_s(shape, tokens, load, shards, product, expert)
    return attention_s, ffn_s


def _plain_products_s(shape: ServingShape, rows: Num, ranks: Num, product: Callable[..., Num]) -> Num:
    """Seconds of the products around ordinary attention."""
    qkv_width = (shape.qkv_width - 2 * shape.key_width) / ranks + 2 * shape.key_width / minimum(ranks, shape.kv_heads)
    return product(QKV, rows, qkv_width, shape.hidden) + product(OUTPUT, rows, shape.hidden, shape.attention_width / ranks)


def _latent_products_s(shape: ServingShape, rows: Num, ranks: Num, product: Callable[..., Num], decoding: bool) -> Num:
    """Seconds of the products around latent attention.

    What compresses queries, and keys and values, is one product (vLLM, SGLang, TensorRT-LLM: ``fused_qkv_a_proj``), which each
    rank repeats.
    """
    queries, expand_queries, keys, expand_keys, output = latent_products(shape.latent, shape.hidden, shape.heads, ranks)
    products_s = product(COMPRESSION, rows, queries[0] * queries[1] + keys[1], shape.hidden)
    for _, n, k in (expand_queries,) if decoding else (expand_queries, expand_keys):
        products_s = products_s + product(EXPANSION, rows, n, k)
    products_s = products_s + product(OUTPUT, rows, *output[1:])
    if decoding:
        for groups, n, k in absorbed_products(shape.latent, shape.heads, ranks):
            products_s = products_s + product(EXPANSION, rows, n, k, groups)
    return products_s


def _experts_s(
    shape: ServingShape,
    tokens: Num,
    load: RankLoad,
    shards: Shards,
    product: Callable[..., Num],
    expert: Callable[..., Num],
) -> Num:
    """Seconds of one layer's experts: a grouped product reads every expert that the batch touches, once.

    All ranks share the width of the routed ones, or those of a part of them; the shared one belongs, as dense blocks and
    attention do, to those that share a sequence.
    """
    shared_rows, ranks = tokens / shards.own, shards.attention
    touched, rows = load.touched, load.rows / load.touched
    up = shape.ffn_matrices - 1
    width = maximum(shape.expert_ffn, 1.0) * shards.ep / shards.tp
    experts_s = expert(EXPERTS_UP, rows, up * width, shape.hidden, touched)
    experts_s = experts_s + expert(EXPERTS_DOWN, rows, shape.hidden, width, touched)
    if somewhere(shape.shared_ffn > 0):
        width = maximum(shape.shared_ffn, 1.0)
        shared_s = product(SHARED_UP, shared_rows, up * width / ranks, shape.hidden)
        shared_s = shared_s + product(SHARED_DOWN, shared_rows, shape.hidden, width / ranks)
        experts_s = experts_s + where(shape.shared_ffn > 0, shared_s, 0.0)
    return experts_s
