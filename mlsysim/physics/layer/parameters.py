"""The parameters of a layer: the weights of its products, their biases, and two norms.

Sources: Kaplan et al. 2020, arXiv:2001.08361, section 2.1 (what is counted); Dai et al. 2019, arXiv:1901.02860 (relative
positions).
"""

from __future__ import annotations

from mlsysim.physics.layer.products import AROUND, QKV, ROUTER, LayerProduct, layer_products
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


def _bias(shape: LayerShape, product: LayerProduct) -> Num:
    """Biases of a product's outputs; the router has none."""
    if product.part == ROUTER:
        return 0.0
    return product.n * (shape.qkv_biased if product.name == QKV else shape.biased)


def norm_parameters(shape: LayerShape) -> Num:
    """Scales of a layer's two norms."""
    return 2 * shape.hidden
