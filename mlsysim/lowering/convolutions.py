"""The layers of convolutional networks, from ``data/convolutions.toml``."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlsysim.core.errors import InputError
from mlsysim.core.toml import packaged_toml, reads
from mlsysim.physics.kernels.convolution import Convolutions


@reads("lowering", "convolutions.toml")
def convolutions(name: str) -> Convolutions:
    """The layers of the network of this name.

    Raises:
        InputError: no layers of it are known.

    Example:
        >>> from mlsysim.physics.kernels.convolution import convolution_macs, convolution_parameters
        >>> network = convolutions("ResNet-50 v1.5")
        >>> round(convolution_macs(network) / 1e9, 2), round(convolution_parameters(network) / 1e6, 2)
        (4.09, 25.56)
    """
    known = _networks()
    if name not in known:
        raise InputError("workload", name, f"a network whose layers are known ({', '.join(known)}) beside stack")
    if "layers" in known[name]:
        return _listed_network(known[name]["layers"], known[name].get("scores", 0))
    sizes = ("image", "blocks", "width", "groups", "expansion", "classes")
    return _bottleneck_network(**{size: known[name][size] for size in sizes})


@reads("lowering", "convolutions.toml")
def _networks() -> dict[str, dict[str, Any]]:
    document = packaged_toml("lowering", "convolutions.toml")
    return {name: entry for name, entry in document.items() if name != "defaults"}


def _bottleneck_network(
    *, image: int, blocks: list[int], width: int, groups: int, expansion: int, classes: int
) -> Convolutions:
    """Rows of (inputs, outputs, window, stride, size, groups, count, normalised, shortcut, first); nothing is scored."""
    size = image // 4  # the stem strides by two, the pooling after it too
    rows = [(3, width, 7, 2, image, 1, 1, 1, 0, 1)]
    inputs = width
    for stage, count in enumerate(blocks):
        narrow, stride = width * 2**stage, 1 if stage == 0 else 2
        wide = expansion * narrow
        rows.append((inputs, narrow, 1, 1, size, 1, 1, 1, 0, 0))
        rows.append((narrow, narrow, 3, stride, size, groups, 1, 1, 0, 0))
        rows.append((inputs, wide, 1, stride, size, 1, 1, 1, 0, 0))
        size //= stride
        rows.append((narrow, wide, 1, 1, size, 1, count, 1, 1, 0))
        if count > 1:
            rows.append((wide, narrow, 1, 1, size, 1, count - 1, 1, 0, 0))
            rows.append((narrow, narrow, 3, 1, size, groups, count - 1, 1, 0, 0))
        inputs = wide
    rows.append((inputs, classes, 1, 1, 1, 1, 1, 0, 0, 0))
    return Convolutions(*(np.array(column, dtype=float) for column in zip(*((*row, 0) for row in rows), strict=True)))


def _listed_network(layers: list[list[int]], scores: int) -> Convolutions:
    """Rows as ``Convolutions`` has them, of which the first takes the image; ``scores`` outputs are those of boxes."""
    rows = [(*layer, float(place == 0), float(layer[1] == scores)) for place, layer in enumerate(layers)]
    return Convolutions(*(np.array(column, dtype=float) for column in zip(*rows, strict=True)))
