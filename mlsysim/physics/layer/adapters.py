"""Low-rank adapters beside frozen weights: two thin products for each adapted one.

Source: Hu et al. 2021, arXiv:2106.09685.
"""

from __future__ import annotations

from collections.abc import Callable

from mlsysim.physics.numeric import Num, maximum

# The adapter's output is scaled and added to that of the frozen product, 16-bit: two reads and a write each.
ADDED_B = 10.0
# The host launches four thin products for the adapters of attention, beside a layer's own eight modules: four products,
# attention, two norms and the activation function.
LAUNCHED = 4 / 8


def adapter_products_s(tokens: Num, n: Num, k: Num, rank: Num, product: Callable[[Num, Num, Num], Num]) -> tuple[Num, Num]:
    """Forward and backward seconds of the adapter of one product of ``n`` output and ``k`` input features.

    Example:
        >>> forward, backward = adapter_products_s(8.0, 100.0, 50.0, 4.0, lambda m, n, k: 2.0 * m * n * k)
        >>> forward, backward
        (9600.0, 19200.0)
    """
    r = maximum(rank, 1.0)
    forward_s = product(tokens, r, k) + product(tokens, n, r)
    input_gradients_s = product(tokens, r, n) + product(tokens, k, r)
    weight_gradients_s = product(n, r, tokens) + product(r, k, tokens)
    return forward_s, input_gradients_s + weight_gradients_s
