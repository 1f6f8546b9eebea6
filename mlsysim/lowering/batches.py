"""From a workload on a calibrated engine to the time of its batches behind a harness, for a solve and for the fit alike."""

from __future__ import annotations

import functools
from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

from mlsysim.calibration.harnesses import Harness
from mlsysim.calibration.inference import inference_stack
from mlsysim.core.errors import InconsistentError
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
BATCHES = np.unique(np.round(np.geomspace(1, 4096, 60)))
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


def engine_batches(
    workload: Workload,
    accelerator: HardwareNode,
    stack_name: str,
    sizes: Floats,
    samples: Samples,
    lone_clock: float | None,
) -> Batches:
    """Batches of ``sizes`` on a calibrated engine; ``lone_clock``: the least clock, where they come one at a time.

    Raises:
        InputError: a stack, accelerator, precision or workload that is not calibrated.
    """
    known_by = (id(workload), id(accelerator), stack_name, sizes.tobytes(), samples, lone_clock)
    return kept_batches(_Asked(workload, accelerator, stack_name, sizes, samples, lone_clock, known_by))


@dataclass(frozen=True, slots=True)
class _Asked:
    """The arguments of ``engine_batches``; models and accelerators, which it holds, are told apart by identity."""

    workload: Workload = field(compare=False)
    accelerator: HardwareNode = field(compare=False)
    stack_name: str = field(compare=False)
    sizes: Floats = field(compare=False)
    samples: Samples = field(compare=False)
    lone_clock: float | None = field(compare=False)
    known_by: tuple[Hashable, ...]


@functools.lru_cache(maxsize=512)
def kept_batches(asked: _Asked) -> Batches:
    """Times of an engine's batches: systems of several sizes have the same accelerators, under several limits."""
    workload, accelerator, samples = asked.workload, asked.accelerator, asked.samples
    stack = inference_stack(asked.stack_name)
    kernels, found = inference_kernels(accelerator, samples.precision)
    work = inference_work(workload, asked.sizes, samples, stack)
    clock = found.clock if asked.lone_clock is None else max(found.clock, asked.lone_clock)
    time = forward_time(work, kernels, stack.coefficients, clock, found.traffic)
    copy_s = asked.sizes * _sample_B(workload, samples.precision, samples.seq_len) / _host_link_Bps(accelerator)
    encoder, integer = isinstance(workload, TransformerWorkload), samples.precision == "int8"
    return Batches(asked.sizes, np.asarray(sum(time)), copy_s, encoder, integer)


def bound_batches(
    workload: Workload, accelerator: HardwareNode, samples: Floats, *, precision: str, mean_tokens: float
) -> Batches:
    """Times of batches at the speed of light: the datasheet's arithmetic or one read of the weights; copies hidden."""
    tokens = max(1, round(mean_tokens))
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
    found = highest_load(
        batches.samples, busy_s(batches, harness), limit_s - harness.query_s, share=share, size_spread=size_spread
    )
    return None if found is None else found._replace(latency_s=found.latency_s + harness.query_s)


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
