"""Matrix products of one layer of a serving pass, at a prefill's thousands of tokens and a decode step's few.

Source: Pope et al. 2022, section 3 (feed-forward and attention projections under tensor parallelism).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mlsysim.physics.kernels.gemm import GemmKernel, gemm_s
from mlsysim.physics.layer.products import AROUND, ROUTED, ROUTER, LayerProduct, layer_products
from mlsysim.physics.numeric import Num, in_norm, maximum, minimum, once_for_floats, somewhere, where
from mlsysim.physics.serving.deployment import (
    WORD_B,
    EngineCoefficients,
    Product,
    ServedModel,
    ServingKernels,
)
from mlsysim.physics.serving.expert_ranks import RankLoad

# Kernels of a layer beside products: two norms, rotation, the cache's write, attention, activation; all-reduces under tensor
# parallelism; of a layer of experts choosing, counting, sorting and adding up; of shared ones activation and addition; of
# latent attention norms between its projections, and parts of queries and keys put together (SGLang 0.5.6, deepseek_v2.py).
_BETWEEN, _REDUCTIONS, _SORTING, _SHARED, _LATENT = 6.0, 2.0, 4.0, 2.0, 4.0


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
    return in_norm(read_s, multiply_s, product.kernel.shared.overlap)


def _unpacked_product_s(model: ServedModel, m: Num, n: Num, k: Num, product: Product, groups: Num) -> Num:
    """Seconds of the vendor's 16-bit product; weights of another width are first written out in 16 bits."""
    kernels, narrow = model.kernels, product.weight_B != WORD_B
    written_B = (product.weight_B + WORD_B) * groups * n * k
    unpack_s = written_B / (kernels.streaming * kernels.own_Bps(model.engine)) if narrow else 0.0
    return unpack_s + gemm_s(
        *(m, n, k, WORD_B, WORD_B, WORD_B, product.kernel, product.peak_flops_per_s),
        *(kernels.memory_Bps, kernels.multiprocessors, kernels.cache_B, groups),
    )


def served_products(
    model: ServedModel, tokens: Num, load: RankLoad, *, decoding: bool = False
) -> Iterator[tuple[LayerProduct, Num, Num, Product]]:
    """Tell of each product of a layer its rows, how many there are of it in one kernel, and the kernel.

    A grouped product reads every expert that the batch touches, once: ``load`` is the routed work of the busiest rank. The
    router's scores have 16 bits whatever the format. What compresses the inputs of latent attention is one product (vLLM,
    SGLang, TensorRT-LLM: ``fused_qkv_a_proj``), and ``decoding`` absorbs what expands them.
    """
    shards = model.shards
    of_layer, of_experts = engine_products(model)
    rows, routed_rows = tokens / shards.own, _tiled(load.rows / load.touched, tokens, model.has.tile)
    for one in layer_products(model.shape, shards.attention, shards.tp / shards.ep, fused=True, absorbed=decoding):
        if one.part == ROUTED:
            yield one, routed_rows, load.touched, of_experts
        else:
            yield one, rows, one.groups, head_product(model.kernels, model.engine) if one.part == ROUTER else of_layer


def _tiled(rows: Num, tokens: Num, tile: float) -> Num:
    """Rows of an expert as kernels with tiles of ``tile`` rows compute them: its last tile is half empty, mean over experts.

    A pass of fewer ``tokens`` has tiles of as many.
    """
    if not tile:
        return rows
    size = minimum(tile, tokens)
    return maximum(size, rows + (size - 1) / 2)


def layer_products_s(model: ServedModel, tokens: Num, load: RankLoad, *, decoding: bool = False) -> tuple[Num, Num]:
    """Seconds of one layer's matrix products around attention and in feed-forward blocks, mean over dense and expert layers."""
    around_s: Num = 0.0
    ffn_s: Num = 0.0
    for one, rows, groups, kernel in served_products(model, tokens, load, decoding=decoding):
        seconds = one.share * product_s(model, rows, one.n, one.k, kernel, groups)
        if one.part == AROUND:
            around_s = around_s + seconds
        else:
            ffn_s = ffn_s + seconds
    return around_s, ffn_s


def head_product(kernels: ServingKernels, engine: EngineCoefficients) -> Product:
    """Give the 16-bit product of the output head, and of a router, at the rates that the engine reaches."""
    return scaled(Product(kernels.head_gemm, WORD_B, kernels.head_weight_B, kernels.head_peak_flops_per_s), engine)


def launches(model: ServedModel) -> Num:
    """Kernels of a layer that are launched one by one: products, what quantises their inputs, and those between them."""
    shape, shards = model.shape, model.shards
    products = layer_products(shape, shards.attention, shards.tp / shards.ep, fused=True)
    multiplied: Num = sum((one.share for one in products), 0.0)
    quantised: Num = sum((one.share for one in products if one.part != ROUTER), 0.0) * (model.kernels.input_B < WORD_B)
    routed = shape.routed.layers * (_SORTING + where(shape.routed.shared_ffn > 0, _SHARED, 0.0))
    between = _BETWEEN + where(shards.tp > 1, _REDUCTIONS, 0.0) + where(shape.latent.key_rank > 0, _LATENT, 0.0) + routed
    return multiplied + quantised + between


def engine_products(model: ServedModel) -> tuple[Product, Product]:
    """Give the products of a layer's weights, and of its routed experts', at the rates that the engine reaches."""
    kernels = model.kernels
    layer_product = Product(kernels.gemm, kernels.input_B, kernels.weight_B, kernels.gemm_peak_flops_per_s, kernels.output_B)
    engine_product = scaled(layer_product, model.engine)
    return engine_product, engine_product if kernels.experts is None else scaled(kernels.experts, model.engine)
