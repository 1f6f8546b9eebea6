"""From a workload on a calibrated engine to the time of its batches behind a harness, for a solve and for the fit alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlsysim.calibration.harnesses import Harness
from mlsysim.calibration.inference import inference_stack
from mlsysim.core.errors import InconsistentError
from mlsysim.core.identity_cache import identity_cache
from mlsysim.core.precision import bytes_per_element
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.convolutions import convolutions
from mlsysim.lowering.data_parallel import Samples
from mlsysim.lowering.forward import forward_time, inference_kernels, inference_work
from mlsysim.lowering.work import training_work
from mlsysim.models.types import TransformerWorkload, Workload
from mlsysim.physics.kernels.roofline import roofline_s
from mlsysim.physics.numeric import Floats
from mlsysim.physics.queues.batch_queue import BatchLoad, highest_load

# Batches that a server is asked about: fractions of a sample are means.
BATCHES = tuple(np.unique(np.round(np.geomspace(1, 4096, 60))).tolist())
# Tokens, segments and mask, 32-bit integers each.
_TOKEN_B = 12.0


@dataclass(frozen=True)
class Batches:
    """Times of an engine's batches without a harness.

    Attributes:
        samples: of each.
        pass_s, copy_s: the forward pass, and the copy of its input from the host at the link's rate.
        encoder, integer: of the workload, and of its products.
    """

    samples: Floats
    pass_s: Floats
    copy_s: Floats
    encoder: bool
    integer: bool


@identity_cache(most=512, objects=2)
def engine_batches(
    workload: Workload,
    accelerator: HardwareNode,
    /,
    stack_name: str,
    sizes: tuple[float, ...],
    samples: Samples,
    lone_clock: float | None,
) -> Batches:
    """Batches of ``sizes`` on a calibrated engine; ``lone_clock``: the least clock, where they come one at a time.

    They are kept: systems of several sizes have the same accelerators, under several limits.

    Raises:
        InputError: a stack, accelerator, precision or workload that is not calibrated.
    """
    stack, batches = inference_stack(stack_name), np.array(sizes)
    kernels, device = inference_kernels(accelerator, samples.precision)
    work = inference_work(workload, batches, samples, stack)
    clock = device.clock if lone_clock is None else max(device.clock, lone_clock)
    time = forward_time(work, kernels, stack.coefficients, clock, device.traffic)
    copy_s = batches * _sample_B(workload, samples.precision, samples.seq_len) / _host_link_Bps(accelerator)
    encoder, integer = isinstance(workload, TransformerWorkload), samples.precision == "int8"
    return Batches(batches, np.asarray(sum(time)), copy_s, encoder, integer)


def bound_batches(
    workload: Workload, accelerator: HardwareNode, sizes: tuple[float, ...], *, precision: str, mean_tokens: float
) -> Batches:
    """Times of batches at the speed of light: the datasheet's arithmetic or one read of the weights; copies hidden."""
    samples, tokens = np.array(sizes), max(1, round(mean_tokens))
    work = training_work(workload, tokens)
    flops = samples * tokens * (work.layers * work.layer_flops + work.head_flops)
    weights_B = bytes_per_element(precision) * work.parameters
    pass_s = roofline_s(flops, weights_B, accelerator.rate_flops_per_s(precision), accelerator.memory_bandwidth_Bps)
    return Batches(samples, np.asarray(pass_s), 0.0 * samples, False, False)


def busy_s(batches: Batches, harness: Harness) -> Floats:
    """Accelerator's time that each batch takes while others wait: the pass, and copies that nothing hides."""
    share = 1.0
    if batches.encoder:
        share = harness.integer_share if batches.integer else harness.float_share
    return batches.pass_s / share + harness.copied_share * batches.copy_s + harness.request_s * batches.samples


def lone_s(batches: Batches, harness: Harness) -> Floats:
    """Latency of each batch as a query of its own: nothing hides its copy."""
    return harness.query_s + batches.pass_s + batches.copy_s + harness.request_s * batches.samples


def loaded(batches: Batches, harness: Harness, limit_s: float, share: float, size_spread: float) -> BatchLoad | None:
    """The highest load of one accelerator within ``limit_s``; None where none keeps it."""
    load = highest_load(
        batches.samples, busy_s(batches, harness), limit_s - harness.query_s, share=share, size_spread=size_spread
    )
    return None if load is None else load._replace(latency_s=load.latency_s + harness.query_s)


def _sample_B(workload: Workload, precision: str, seq_len: int) -> float:
    """Bytes of one sample's input."""
    if isinstance(workload, TransformerWorkload):
        return _TOKEN_B * seq_len
    network = convolutions(workload.name)
    return float(network.inputs[0] * network.size[0] ** 2) * bytes_per_element(precision)


def _host_link_Bps(accelerator: HardwareNode) -> float:
    link = accelerator.host_link_bw
    if link is None:
        raise InconsistentError("accelerator", accelerator.name, "one with host_link_bw: inputs come from the host")
    return float(link.m_as("byte/second"))
