"""Inputs of a calibrated training step: layers as they are trained, a device's kernels, a software stack's coefficients."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mlsysim.physics.kernels.attention import AttentionDevice, PrefillKernel
from mlsysim.physics.kernels.collectives import CollectiveCoefficients
from mlsysim.physics.kernels.gemm import GemmKernel
from mlsysim.physics.layer.adapters import NO_ADAPTERS, Adapters
from mlsysim.physics.layer.shape import LayerShape
from mlsysim.physics.machine import Machine
from mlsysim.physics.numeric import Num, somewhere, where


@dataclass(frozen=True, slots=True)
class SharedCoefficients:
    """Coefficients common to all devices and stacks, for kernels other than matrix products.

    Attributes:
        streaming: share of the memory bandwidth that element-wise passes reach.
        unfused_share: share of the peak of the batched products of attention that stores its scores.
        unaligned_share: that share where a head is no multiple of 16 bytes wide, which tensor cores load at once.
        unfused_forward_B, unfused_backward_B: bytes a score that softmax, mask and dropout move.
        attention_backward: rate of the fused kernel's backward pass over that of its forward pass.
        flash_1: speed of FlashAttention-1 over FlashAttention-2.
        flash_2_on_hopper: speed of FlashAttention-2 over the vendor's own kernel, on Hopper (1 on Ampere).
        launch_norm: the host runs ahead of the device until it cannot: the norm of the two times, between a sum (1) and a
            maximum (infinity).
        async_tp_hidden: share of tensor-parallel collectives that runs beside the products they are cut to fit.
        launch_fallback: host time of a layer's pass, in those of a usual one, where attention that stores its scores falls back
            to separate kernels: the fused softmax takes score matrices by fours.
        launch_head: host time of the embedding, the output head and the loss of a micro-batch, in those of a layer's pass.
    """

    streaming: Num
    unfused_share: Num
    unaligned_share: Num
    unfused_forward_B: Num
    unfused_backward_B: Num
    attention_backward: Num
    flash_1: Num
    flash_2_on_hopper: Num
    launch_norm: Num
    launch_head: Num
    launch_fallback: Num
    async_tp_hidden: Num


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedShape(LayerShape):
    """The layers of a model as a training run computes them.

    Attributes:
        seq_len: tokens of a sequence.
        flash: 1.0 where attention stores no scores.
        older_on_hopper: 1.0 where a Hopper device runs FlashAttention-2 or older, not the vendor's own kernel.
        flash_1: 1.0 for FlashAttention-1.
        uneven: 1.0 where layers are of different kinds (dense first ones, ones that predict further tokens).
        head_passes: passes of a token through the output head: more than one where further tokens are predicted.
        eager: 1.0 where PyTorch runs each operation of norm, rotation and gate by itself; 0.0 where they are fused.
        async_tp: 1.0 where tensor-parallel collectives are cut in parts that run beside the products, whatever the stack does.
        adapters: low-rank adapters beside (frozen) products; none where all weights are trained.
    """

    seq_len: Num
    flash: Num = 1.0
    older_on_hopper: Num = 0.0
    flash_1: Num = 0.0
    uneven: Num = 0.0
    head_passes: Num = 1.0
    eager: Num = 0.0
    async_tp: Num = 0.0
    adapters: Adapters = NO_ADAPTERS


@dataclass(frozen=True, slots=True)
class KernelDevice:
    """Fitted kernels of one accelerator, its datasheet, and the constants that all accelerators share.

    Attributes:
        gemm, gemm_peak_flops_per_s, gemm_input_B: matrix products of layers, their peak, and the bytes of an element.
        head_gemm, head_peak_flops_per_s: matrix products of the output head, 16-bit, and their peak.
        attention, attention_device: fused 16-bit attention, and what it runs on.
        collectives, link_Bps: coefficients within a node or NVLink domain, and the bandwidth of the link that they stand for.
        memory_Bps, multiprocessors, cache_B: figures of the datasheet.
        clock: share of the clock of a short benchmark that hours of training sustain.
        shared: constants of all devices and stacks.
        torus_axes: axes of a torus of links (1: a switch); tensor parallelism has one of them.
    """

    gemm: GemmKernel
    gemm_peak_flops_per_s: Num
    gemm_input_B: float
    head_gemm: GemmKernel
    head_peak_flops_per_s: float
    attention: PrefillKernel
    attention_device: AttentionDevice
    collectives: CollectiveCoefficients
    link_Bps: Num
    memory_Bps: float
    multiprocessors: float
    cache_B: float
    clock: Num
    shared: SharedCoefficients
    torus_axes: float = 1.0

    @property
    def streaming_Bps(self) -> Num:
        """Bandwidth that element-wise passes reach, in bytes per second."""
        return self.shared.streaming * self.memory_Bps

    @property
    def axis_links(self) -> CollectiveCoefficients:
        """Collectives over one axis of a torus, which tensor-parallel ranks have; over a switch, those of all ranks."""
        if self.torus_axes <= 1:
            return self.collectives
        links, axes = self.collectives, self.torus_axes
        return replace(links, bandwidth_Bps=links.bandwidth_Bps / axes, pair_bandwidth_Bps=links.pair_bandwidth_Bps / axes)

    def under(self, stack: StackCoefficients, machine: Machine) -> KernelDevice:
        """The kernels of the slowest accelerator of a machine under a stack, on the links of its nodes."""
        peak, clock = self.gemm_peak_flops_per_s * stack.product_rate, self.clock * stack.compute_share * machine.slowest_clock
        return replace(self, clock=clock, gemm_peak_flops_per_s=peak).in_node(machine.intra_Bps * stack.link_share)

    def attending(self, stack: StackCoefficients) -> KernelDevice:
        """The kernels of the accelerator with the stack's own of fused attention."""
        if not somewhere((stack.attention_rate != 1.0) | (stack.backward_rate > 0)):
            return self
        backward = where(stack.backward_rate > 0, stack.backward_rate, self.shared.attention_backward)
        shared = replace(self.shared, attention_backward=backward)
        return replace(self, attention=self.attention.at_rate(stack.attention_rate), shared=shared)

    def in_node(self, link_Bps: Num) -> KernelDevice:
        """The kernels of the accelerator in a node whose links have ``link_Bps``."""
        speedup = link_Bps / self.link_Bps
        if not somewhere(speedup != 1):
            return self
        return replace(self, collectives=self.collectives.on_link(speedup), link_Bps=link_Bps)


@dataclass(frozen=True, slots=True)
class StackCoefficients:
    """Coefficients that a software stack adds, whatever the model, the plan or the device; at most six are fitted to one stack.

    Attributes:
        host_layer_s: time of the host to launch one pass of one layer.
        tp_hidden_forward, tp_hidden_backward: share of tensor-parallel collectives under compute.
        accumulated_B: bytes a parameter and micro-batch to accumulate weight gradients.
        tp_copied_B: bytes an element that tensor-parallel ranks copy beside each gather and scatter of an activation, where
            they cut it along another dimension than memory does (stated).
        adapter_gathers: share of the activations before and behind adapters that tensor-parallel ranks gather for these alone
            (stated): all of them, or none where adapters read what their product reads and send their rank's few elements.
        loss_B: bytes a logit that the loss moves, forward and backward (stated). Without fusion Megatron's casts (r2 w4), takes
            the maximum (r4), subtracts and exponentiates in place (r4 w4 each), sums (r4), divides (r4 w4), scales (r4 w4) and
            casts back (r4 w2).
        compiled_loss_B: the same where the run is compiled and its loss with it (stated; 0: it is not).
        narrow_gathers: 1.0 where tensor-parallel ranks gather 8-bit operands of products, forward and where that is repeated
            (stated).
        keys_gathered: 1.0 where context-parallel ranks gather all keys and values before attention begins: beside nothing, and
            with no partial outputs to merge (stated; 0: a ring beside attention).
        merged_B: bytes an element of attention's output each time that a ring merges a further partial one (stated).
        norm_B: bytes an element of the residual stream that unfused norms move beyond the fused ones, in each direction.
        dp_hidden: share of data-parallel traffic under the compute that can hide it.
        pp_hidden: share of the sends between stages under compute.
        network_share: share of the network cards' line rate that its traffic between nodes reaches.
        host_step_s: time of the host once a step, when nothing else runs: gradient clipping and its checks, the optimizer's
            many small kernels, the next batch, logging.
        gathered_B: bytes that a parameter moves through memory each time that it is gathered, to be copied or cast (stated).
        reduced_B: bytes that it moves each time that its gradient is reduced, to be cast for the wire (stated).
        reduced_once: 1.0 where sharded gradients are reduced once a step, not in each micro-batch (stated).
        replicas_hidden: 1.0 where replicas of shards reduce layer by layer under the backward pass, not after it (stated).
        scattered: 1.0 where the ranks of a TP group each send their part of an activation to the next stage (stated).
        interleaved_sends_hidden: share of the sends between stages under compute where a rank has several chunks of the model:
            another chunk's compute stands beside them.
        weights_alone: 1.0 where ranks that share optimizer states send each other the updated weights after the step, one rank
            after the other, beside nothing (stated).
        host_expert_s: what routing and the experts' kernels add to the host's time of a pass of an expert layer.
        routed_B: bytes an element of routed tokens that putting them in order moves beyond fused kernels, in each direction.
        biased_B: the same where experts have biases and a clamped activation, each operation of which runs by itself (stated).
        biases_gathered: 1.0 where a bias is gathered for each routed row as tokens are put in order, and its gradient scattered
            (stated).
        exchange_units: share of the multiprocessors that the exchange between experts' ranks takes, where it always runs beside
            another micro-batch's compute (stated; 0: it runs alone).
        ep_hidden: share of the all-to-alls between experts' ranks under compute, as far as the network's cards carry them:
            within an NVLink domain they occupy multiprocessors.
        sent_once: 1.0 where a token crosses once to a rank or node that has several of its experts (stated).
        experts_in_turn: 1.0 where neighbouring experts take a token, the next ones the next: a benchmark's gate (stated).
        written_layout: 1.0 where uneven stages are laid out by hand, so that the output head holds none up (stated).
        two_batches: 1.0 where every schedule has another micro-batch's compute beside such messages (DualPipe; stated).
        dropped_down: share of the feed-forward block's last product that full recomputation leaves out (stated): no gradient
            needs its result, and a compiler that sees the whole layer (XLA) drops it.
        repeated_ffn: share of the rest of that block, and of experts, that selective recomputation repeats beside attention
            (stated).
        repeated_core: share of attention that it repeats (stated): all of it with Megatron's, none with PyTorch's.
        repeated_layers: share of the layers that it repeats whole (stated).
        repeated_products: share of a layer beside attention that it repeats (stated).
        network_step_s: latency of a step of the ring by which replicas (hybrid sharding) reduce a layer's gradients.
        chain_step_s: latency of a step of the chain by which a rank sends its weights to all others (stated).
        tp_wait_s: what the ranks of a tensor-parallel collective wait for each other, beside its transfer.
        attention_rate: speed of its fused attention kernel over the best one that the device's coefficients stand for.
        backward_rate: the rate of its fused attention's backward pass over that of its forward pass (stated; 0: the usual one).
        link_share: bandwidth of the links within a node over what the device's coefficients stand for: of one cluster.
        product_rate: speed of its products of layers over the vendor's kernel of that format (stated).
        compute_share: speed of its compute over the clock that hours of training sustain elsewhere: of one cluster.
    """

    host_layer_s: Num = 0.0
    tp_hidden_forward: Num = 0.0
    tp_hidden_backward: Num = 0.0
    accumulated_B: Num = 10.0
    tp_copied_B: Num = 0.0
    adapter_gathers: Num = 0.0
    narrow_gathers: Num = 0.0
    keys_gathered: Num = 0.0
    merged_B: Num = 6.0
    loss_B: Num = 52.0
    compiled_loss_B: Num = 0.0
    norm_B: Num = 0.0
    dp_hidden: Num = 0.0
    pp_hidden: Num = 0.0
    network_share: Num = 0.85
    host_step_s: Num = 0.0
    gathered_B: Num = 0.0
    reduced_B: Num = 0.0
    reduced_once: Num = 0.0
    replicas_hidden: Num = 0.0
    scattered: Num = 0.0
    interleaved_sends_hidden: Num = 0.0
    weights_alone: Num = 0.0
    host_expert_s: Num = 0.0
    routed_B: Num = 0.0
    biased_B: Num = 0.0
    biases_gathered: Num = 0.0
    exchange_units: Num = 0.0
    ep_hidden: Num = 0.0
    sent_once: Num = 0.0
    experts_in_turn: Num = 0.0
    written_layout: Num = 0.0
    two_batches: Num = 0.0
    dropped_down: Num = 0.0
    repeated_ffn: Num = 0.0
    repeated_core: Num = 1.0
    repeated_layers: Num = 0.0
    repeated_products: Num = 0.0
    network_step_s: Num = 0.0
    chain_step_s: Num = 0.0
    tp_wait_s: Num = 0.0
    attention_rate: Num = 1.0
    backward_rate: Num = 0.0
    link_share: Num = 1.0
    product_rate: Num = 1.0
    compute_share: Num = 1.0
