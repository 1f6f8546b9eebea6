"""The parameters of a layer: the weights of its products, their biases, and two norms.

Sources: Kaplan et al. 2020, arXiv:2001.08361, section 2.1 (what is counted); Dai et al. 2019, arXiv:1901.02860 (relative
positions); NVIDIA megatron_core 0.14.0, megatron/core/models/gpt/gpt_layer_specs.py (what compresses is whole on every rank;
0.13.0 divided it).
"""

from __future__ import annotations

from mlsysim.physics.layer.products import AROUND, COMPRESSION, QKV, ROUTER, ROUTING, LayerProduct, layer_products
from mlsysim.physics.layer.shape import LayerShape
from mlsysim.physics.numeric import Num


def part_parameters(shape: LayerShape, *parts: str) -> Num:
    """Parameters of these parts of one layer that has them: of all its routed experts, without norms.

    Args:
        shape: the layer.
        parts: parts as products name them.

    Example:
        >>> llama = LayerShape(32.0, 4096.0, 32.0, 8.0, 128.0, 14336.0, 3.0, 128256.0)
        >>> part_parameters(llama, AROUND)
        41943040.0
    """
    products = [one for one in layer_products(shape) if one.part in parts]
    counted: Num = sum((one.groups * (one.n * one.k + _bias(shape, one)) for one in products), start=0.0)
    return counted + shape.relative * shape.hidden * shape.query_width if AROUND in parts else counted


def undivided_parameters(shape: LayerShape) -> Num:
    """Parameters of a layer, mean over layers, that each tensor-parallel rank has whole, as it computes the whole product.

    They are those of what compresses queries, keys and values for latent attention, and those of the router.

    Example:
        >>> llama = LayerShape(32.0, 4096.0, 32.0, 8.0, 128.0, 14336.0, 3.0, 128256.0)
        >>> undivided_parameters(llama)
        0.0
    """
    whole = [one for one in layer_products(shape) if one.name in (COMPRESSION, ROUTING)]
    return sum((one.share * one.n * one.k for one in whole), start=0.0)


def _bias(shape: LayerShape, product: LayerProduct) -> Num:
    """Biases of a product's outputs; the router has none."""
    if product.part == ROUTER:
        return 0.0
    return product.n * (shape.qkv_biased if product.name == QKV else shape.biased)


def norm_parameters(shape: LayerShape) -> Num:
    """Scales of a layer's two norms."""
    return 2 * shape.hidden
