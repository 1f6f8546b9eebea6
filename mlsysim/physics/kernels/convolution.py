"""Device time of a convolutional network's passes: convolutions as implicit matrix products, and the normalisation between.

Channels-last, no unrolled input in memory (implicit GEMM). A convolution of h x w outputs, c inputs, n outputs and a k x k
window is a product (b h w, n, c k k) forward; (b s h s w, c, n k k / s s) for the gradient of its input, s the stride; and
(n, c k k, b h w) for that of its weights: as many multiply-accumulates each time.

Sources: Chetlur et al., "cuDNN", 2014, arXiv:1410.0759 (implicit products); Ioffe and Szegedy 2015, arXiv:1502.03167 (what
normalisation reads, forwards and backwards).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mlsysim.physics.kernels.gemm import gemm_s
from mlsysim.physics.kernels.passes import Passes, ReplicaDevice
from mlsysim.physics.numeric import Num

Layers = npt.NDArray[np.float64]

# Values (elements) that batch normalisation and its ReLU move per output of a convolution: forward it reads once for the
# statistics, then reads and writes; backward it reads output and gradient twice and writes once. Where a shortcut is added:
# one more read forward, and backward the shortcut's gradient is read and written once more.
_NORM_FORWARD, _NORM_BACKWARD = 3.0, 5.0
_SHORTCUT_FORWARD, _SHORTCUT_BACKWARD = 1.0, 2.0
_NORM_KERNELS = 3.0  # one forward, two backward (statistics, then the gradient)
# The main loop of an implicit product of many rows splits its inner dimension as far as the chip has multiprocessors.
_MOST_SPLITS = 1024.0
# Tensor cores take channels in eights: an image's three are padded.
_CHANNEL_STEP = 4.0


@dataclass(frozen=True, slots=True)
class Convolutions:
    """The distinct layers of a network, one array element for each.

    Attributes:
        inputs, outputs: channels of the input and of the output.
        window: width of the filter, k of k x k.
        stride: pixels that the filter moves by.
        size: height and width of the input.
        groups: parts that channels are split into.
        count: how often the network has the layer.
        normalised: 1.0 where batch normalisation and ReLU follow.
        shortcut: 1.0 where a shortcut is added to the output.
        first: 1.0 where the input is the image, whose gradient nobody needs.
        scored: 1.0 where the outputs are scores of boxes, of which a selection keeps few.
    """

    inputs: Layers
    outputs: Layers
    window: Layers
    stride: Layers
    size: Layers
    groups: Layers
    count: Layers
    normalised: Layers
    shortcut: Layers
    first: Layers
    scored: Layers


def convolution_macs(layers: Convolutions) -> float:
    """Multiply-accumulates of one image, forward.

    Example:
        >>> one = [np.array([float(v)]) for v in (64, 64, 3, 1, 56, 1, 1, 1, 0, 0, 0)]
        >>> convolution_macs(Convolutions(*one)) == 56 * 56 * 64 * 64 * 9
        True
    """
    return float(np.sum(layers.count * _outputs(layers) ** 2 * layers.outputs * _inner(layers)))


def convolution_parameters(layers: Convolutions) -> float:
    """The number of weights of all filters, with scale and shift of each normalised channel (else a bias)."""
    return float(np.sum(layers.count * layers.outputs * (_inner(layers) + 1 + layers.normalised)))


def convolution_passes(
    layers: Convolutions, batch: Num, device: ReplicaDevice, moved: Num = 1.0, transposed: Num = 0.0
) -> Passes:
    """Seconds of the forward and backward pass of ``batch`` images, and the kernels of both together.

    Args:
        layers: the network's layers.
        batch: images on one accelerator, a number or an array of them.
        device: fitted kernels.
        moved: bytes that element-wise passes move over those of kernels that each do one thing.
        transposed: 1.0 where activations are channels-first, so that each product rewrites its operands and its result.

    Example:
        >>> from mlsysim.physics.kernels.gemm import GemmKernel, SharedGemm
        >>> from mlsysim.physics.kernels.passes import SharedDataParallel
        >>> kernel = GemmKernel(0.9, 180.0, 2.6, 0.8, 3e-6, SharedGemm(2.5, 2.5e-7, 12.0, 256.0))
        >>> shared = SharedDataParallel(5.0, 20e-6, 0.6)
        >>> a100 = ReplicaDevice(kernel, 312e12, 2.0, 2.0, 2.0, 1.9e12, 108.0, 40 * 2.0**20, 0.8, shared)
        >>> one = Convolutions(*[np.array([float(v)]) for v in (64, 64, 3, 1, 56, 1, 1, 1, 0, 0, 0)])
        >>> small, large = (convolution_passes(one, batch, a100).forward_s for batch in (64.0, 128.0))
        >>> bool(1.7 < large / small < 2.1)
        True
    """
    # Layers are the last axis of all that follows.
    b = np.asarray(batch, dtype=float)[..., None]
    device = replace(device, peak_flops_per_s=np.asarray(device.peak_flops_per_s)[..., None])
    net, value_B = layers, device.value_B
    out_size = _outputs(net)
    pixels_in, pixels_out = b * net.size**2, b * out_size**2
    n, k = net.outputs / net.groups, _padded(net)
    read_B, written_B = value_B * pixels_in * net.inputs / net.groups, value_B * pixels_out * n
    products_s = net.groups * _product_s(pixels_out, n, k, read_B, written_B, device)
    k_back = n * (net.window / net.stride) ** 2
    input_gradient_s = net.groups * _product_s(pixels_in, net.inputs / net.groups, k_back, written_B, read_B, device)
    # Both operands are activations; the product is as small as the filter.
    weight_gradient_s = net.groups * _product_s(n, k, pixels_out, written_B, value_B * n * k, device, second_B=read_B)
    value_s = moved * device.value_B * pixels_out * net.outputs / device.streaming_Bps
    norm_forward_s = (_NORM_FORWARD * net.normalised + _SHORTCUT_FORWARD * net.shortcut) * value_s
    norm_backward_s = (_NORM_BACKWARD * net.normalised + _SHORTCUT_BACKWARD * net.shortcut) * value_s
    # A transposition reads and writes: of input and output forward, of both and their gradients backward.
    rewritten_s = 2 * transposed * (read_B + written_B) * net.groups / device.streaming_Bps
    launch_s = device.gemm.launch_s
    forward_s = products_s + norm_forward_s + rewritten_s + launch_s * net.normalised
    gradients_s = (1 - net.first) * (input_gradient_s + rewritten_s) + weight_gradient_s + rewritten_s
    backward_s = gradients_s + norm_backward_s + 2 * launch_s * net.normalised
    kernels = float(np.sum(net.count * (3 - net.first + _NORM_KERNELS * net.normalised)))
    return Passes(np.sum(net.count * forward_s, axis=-1), np.sum(net.count * backward_s, axis=-1), kernels)


def convolution_scores(layers: Convolutions) -> float:
    """The number of scores of one image, among which its boxes are selected.

    Example:
        >>> head = Convolutions(*[np.array([float(v)]) for v in (256, 2376, 3, 1, 100, 1, 1, 0, 0, 0, 1)])
        >>> convolution_scores(head) == 100 * 100 * 9 * 264
        True
    """
    return float(np.sum(layers.scored * layers.count * _outputs(layers) ** 2 * layers.outputs))


def _outputs(layers: Convolutions) -> Layers:
    return -(-layers.size // layers.stride)


def _inner(layers: Convolutions) -> Layers:
    return layers.inputs / layers.groups * layers.window**2


def _padded(layers: Convolutions) -> Layers:
    return -(-layers.inputs / layers.groups // _CHANNEL_STEP) * _CHANNEL_STEP * layers.window**2


def _product_s(m: Num, n: Num, k: Num, first_B: Num, written_B: Num, device: ReplicaDevice, second_B: Num | None = None) -> Num:
    """Seconds of a product whose operands hold fewer bytes than m x k and n x k elements, since windows overlap."""
    weight_B = device.value_B if second_B is None else second_B / (n * k)
    kernel = replace(device.gemm, most_splits=_MOST_SPLITS)
    peak, units = device.peak_flops_per_s, device.multiprocessors
    input_B, output_B = first_B / (m * k), written_B / (m * n)
    return gemm_s(m, n, k, input_B, weight_B, output_B, kernel, peak, device.memory_Bps, units, device.cache_B)
