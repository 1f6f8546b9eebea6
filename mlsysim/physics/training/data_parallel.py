"""A data-parallel training step of a model that one accelerator holds whole: convolutional networks, BERT.

step = micro-batches x (device and host) + exposed all-reduce + optimizer + what a step costs whatever its size.

Sources: Sergeev and Del Balso 2018, arXiv:1802.05799 (ring all-reduce under the backward pass); Li et al. 2020,
arXiv:2006.15704 (buckets: what overlaps, and that the last one cannot).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlsysim.physics.kernels.passes import Passes, ReplicaDevice
from mlsysim.physics.numeric import Num, added_in_norm, maximum, minimum, where
from mlsysim.physics.training.step import Parts


@dataclass(frozen=True, slots=True)
class ReplicaCoefficients:
    """Coefficients that a software stack adds to the kernels; at most six of these are fitted to one stack.

    Attributes:
        matmul_share: rate of its matrix products or convolutions over the measured kernels'.
        moved: bytes that its element-wise passes move over those of kernels that each do one thing (fusion: below 1).
        host_kernel_s: time of the host to launch a kernel.
        dp_hidden: share of the all-reduce under the backward pass.
        network_share: share of the links' line rate that it reaches.
        step_s: time of each step, whatever its size: start of the input, loss scaling, the last bucket's wait.
    """

    matmul_share: Num = 0.8
    moved: Num = 1.0
    host_kernel_s: Num = 5e-6
    dp_hidden: Num = 0.5
    network_share: Num = 0.7
    step_s: Num = 0.0


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """A data-parallel step as numbers, or as arrays of them.

    Attributes:
        replicas: accelerators, all with the whole model.
        per_node: accelerators of one node.
        micro_batches: micro-batches of one step on one accelerator.
        accumulated_B: bytes that one micro-batch moves to cast weights and to accumulate gradients.
        gradient_B: bytes that are reduced.
        updated_B: bytes that the optimizer moves through memory.
        intra_Bps, inter_Bps: bandwidth of the links inside a node and between nodes, per accelerator, one direction.
        slowest_clock: clock of the slowest replica over that of one in the middle.
    """

    replicas: Num
    per_node: Num
    micro_batches: Num
    accumulated_B: Num
    gradient_B: Num
    updated_B: Num
    intra_Bps: Num
    inter_Bps: Num
    slowest_clock: Num


@dataclass(frozen=True, slots=True)
class ReplicaStep(Parts):
    """Seconds of the parts of a data-parallel step; the parts sum to ``total_s``."""

    forward_s: Num
    backward_s: Num
    host_s: Num
    dp_exposed_s: Num
    optimizer_s: Num
    fixed_s: Num


def all_reduce_s(plan: ReplicaPlan, network_share: Num, hop_s: Num) -> Num:
    """Seconds of a two-level ring: 2 (r-1)/r S over a node's links, 2 (N-1)/N of each rank's part S/r over its network card.

    Example:
        >>> one_node = ReplicaPlan(8.0, 8.0, 1.0, 0.0, 100e6, 0.0, 300e9, 25e9, 1.0)
        >>> round(1e3 * all_reduce_s(one_node, 1.0, 20e-6), 3)
        0.583
    """
    nodes = plan.replicas / plan.per_node
    inside_s = 2 * (plan.per_node - 1) / plan.per_node * plan.gradient_B / (plan.intra_Bps * network_share)
    part_B = plan.gradient_B / plan.per_node
    across_s = 2 * (nodes - 1) / nodes * part_B / (plan.inter_Bps * network_share)
    hops = 2 * np.log2(maximum(1.0, nodes))
    return inside_s + where(nodes > 1, across_s + hops * hop_s, 0.0)


def replica_step(passes: Passes, plan: ReplicaPlan, device: ReplicaDevice, stack: ReplicaCoefficients) -> ReplicaStep:
    """Time a step: host and device as (a^n + b^n)^(1/n), the all-reduce under the last micro-batch's backward pass."""
    device_s = passes.forward_s + passes.backward_s
    host_s = passes.kernels * stack.host_kernel_s
    beside_s = added_in_norm(device_s, host_s, device.shared.host_norm)
    accumulated_s = plan.accumulated_B / device.streaming_Bps
    reduce_s = where(plan.replicas > 1, all_reduce_s(plan, stack.network_share, device.shared.hop_s), 0.0)
    hidden_s = stack.dp_hidden * minimum(reduce_s, passes.backward_s)
    return ReplicaStep(
        forward_s=plan.micro_batches * passes.forward_s,
        backward_s=plan.micro_batches * (passes.backward_s + accumulated_s),
        host_s=plan.micro_batches * beside_s,
        dp_exposed_s=reduce_s - hidden_s,
        optimizer_s=plan.updated_B / device.streaming_Bps,
        fixed_s=stack.step_s + 0.0 * reduce_s,
    )
