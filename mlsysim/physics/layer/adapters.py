"""Low-rank adapters beside frozen weights: two thin products for each adapted one.

Sources: Hu et al. 2021, arXiv:2106.09685; NVIDIA-NeMo/Megatron-Bridge, src/megatron/bridge/peft (one adapter beside a fused
product); huggingface/peft, src/peft/tuners/lora (one beside each projection).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mlsysim.physics.layer.products import DENSE, DOWN, OUTPUT, QKV, ROUTED, ROUTER, SHARED, LayerProduct
from mlsysim.physics.numeric import Num, maximum, where

# The adapter's output is scaled and added to that of the frozen product, 16-bit: two reads and a write each.
ADDED_B = 10.0
# The host launches two thin products an adapter, beside a layer's own eight modules: four products, attention, two norms and
# the activation function.
LAUNCHED = 2 / 8


@dataclass(frozen=True, slots=True)
class Adapters:
    """Which products of a layer have low-rank adapters, trained alone; all zero where all weights are trained.

    Attributes:
        rank: elements between the two thin products of an adapter.
        qkv, up: shares of the outputs of queries, keys and values, and of the products before the activation function, that
            have an adapter.
        qkv_readers, up_readers: adapters that read the input of these products: one, or one for each projection.
        output, down: 1.0 where attention's output and the product after the activation function have one.
    """

    rank: Num = 0.0
    qkv: Num = 0.0
    qkv_readers: Num = 0.0
    output: Num = 0.0
    up: Num = 0.0
    up_readers: Num = 0.0
    down: Num = 0.0

    @property
    def launched(self) -> Num:
        """What launching the adapters adds to the host's time of a pass, in those of a layer without them."""
        return LAUNCHED * (self.qkv_readers + self.up_readers + self.output + self.down)

    def gathers(self, sequence_parallel: Num) -> Num:
        """Whole activations that tensor-parallel ranks gather for the adapters of a layer's pass, half an all-reduce each.

        An adapter before which the sequence is split reads it whole, and one beside a product that is summed over ranks writes
        it whole.
        """
        return (
            where(sequence_parallel, where(self.qkv > 0, 1.0, 0.0) + where(self.up > 0, 1.0, 0.0), 0.0)
            + self.output
            + self.down
        )


NO_ADAPTERS = Adapters()


def adapted_products(adapters: Adapters, products: tuple[LayerProduct, ...]) -> Iterator[tuple[LayerProduct, Num, Num]]:
    """Tell of each product the share of its outputs that adapters have, and how many of these read its input.

    Each product of latent attention before its output has an adapter where queries, keys and values have; experts have none.

    Example:
        >>> product = LayerProduct(QKV, "around attention", 1.0, 6144.0, 4096.0)
        >>> [(part, readers) for _, part, readers in adapted_products(Adapters(8.0, 0.5, 2.0), (product,))]
        [(0.5, 2.0)]
    """
    for one in products:
        if one.part in (ROUTED, ROUTER, SHARED):
            continue
        if one.name in (OUTPUT, DOWN):
            has = adapters.output if one.name == OUTPUT else adapters.down
            yield one, has, has
        elif one.part == DENSE:
            yield one, adapters.up, adapters.up_readers
        else:
            readers = adapters.qkv_readers if one.name == QKV else where(adapters.qkv > 0, 1.0, 0.0)
            yield one, adapters.qkv, readers


def adapter_parameters(adapters: Adapters, products: tuple[LayerProduct, ...]) -> Num:
    """Parameters of the adapters beside ``products``.

    Example:
        >>> product = LayerProduct(QKV, "around attention", 1.0, 6144.0, 4096.0)
        >>> adapter_parameters(Adapters(16.0, 1.0, 1.0), (product,)), 16 * (6144 + 4096)
        (163840.0, 163840)
    """
    sizes: Num = sum((part * one.n + readers * one.k for one, part, readers in adapted_products(adapters, products)), start=0.0)
    return adapters.rank * sizes


def adapter_products_s(
    tokens: Num, n: Num, k: Num, rank: Num, readers: Num, product: Callable[[Num, Num, Num], Num]
) -> tuple[Num, Num]:
    """Forward and backward seconds of the adapters that read ``k`` features and write ``n``, each its part of these.

    Example:
        >>> forward, backward = adapter_products_s(8.0, 100.0, 50.0, 4.0, 1.0, lambda m, n, k: 2.0 * m * n * k)
        >>> forward, backward
        (9600.0, 19200.0)
    """
    r, each = maximum(rank, 1.0), maximum(n / maximum(readers, 1.0), 1.0)
    forward_s = product(tokens, r, k) + product(tokens, each, r)
    input_gradients_s = product(tokens, r, each) + product(tokens, k, r)
    weight_gradients_s = product(each, r, tokens) + product(r, k, tokens)
    return readers * forward_s, readers * (input_gradients_s + weight_gradients_s)
