"""Inputs of a calibrated serving pass: a model's shape, a device's kernels, an engine, and how the model is divided.

Sources: Pope et al., "Efficiently Scaling Transformer Inference", 2022 (what a pass reads and sends); NVIDIA TensorRT-LLM,
"XQA kernel" (which groups of query heads share one read).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from mlsysim.physics.kernels.attention import AttentionDevice, DecodeKernel, PrefillKernel
from mlsysim.physics.kernels.collectives import CollectiveCoefficients, FabricCoefficients
from mlsysim.physics.kernels.gemm import GemmKernel
from mlsysim.physics.layer.shape import LayerShape
from mlsysim.physics.numeric import Num, Truth, minimum

WORD_B = 2.0  # bytes of an element of the 16-bit formats


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix product's kernel, its formats (bytes of an element) and its peak."""

    kernel: GemmKernel
    input_B: float
    weight_B: float
    peak_flops_per_s: float
    output_B: float = WORD_B


@dataclass(frozen=True, slots=True)
class SharedServing:
    """Constants of all serving engines.

    Attributes:
        cache_read_Bps: rate at which one multiprocessor reads from the last-level cache: keys and values again, and what the
            kernel before has written.
        unfused_share: share of the peak that the batched products of attention with stored scores reach.
        network_share: share of a benchmarked all-reduce's latency that one among nodes has at least: NCCL's, whatever kernel of
            its own an engine has within a node.
        exchange_s: time of a dispatch or combine of no tokens between ranks of experts.
        exchange_share: share of a network card's line rate that those reach.
        exchange_multiprocessors: units that they take while they run, but for low-latency ones.
        core_clock_Hz: clock of the cores at which ``EngineCoefficients.core_Bps`` counts.
        placed_spread: standard deviation of a part's tokens over their mean where second copies of busy experts even them out.
        routing_s: time of the small kernels of a layer of experts that choose experts for each token and sort tokens by them.
    """

    cache_read_Bps: float
    unfused_share: float
    network_share: float
    exchange_s: float
    exchange_share: float
    exchange_multiprocessors: float
    core_clock_Hz: float
    placed_spread: float = 0.0
    routing_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ServingKernels:
    """The fitted kernels of one accelerator at the number formats of one deployment, and its datasheet's rates.

    Attributes:
        gemm, gemm_peak_flops_per_s, input_B, weight_B: matrix products of layers, their peak, and bytes of their elements.
        lends: the vendor's kernels are known, so that an engine with products of its own can call them.
        scales: activations are quantised by kernels of their own (4-bit block scales, 8-bit integers).
        byte_experts: routed experts multiply in 8 bits.
        block_experts: their weights have a scale for each block.
        output_B, element_B: bytes of an element that those products write, and that passes between them move.
        head_gemm, head_peak_flops_per_s, head_weight_B: matrix products of the output head.
        prefill, decode, attention, kv_B: attention kernels, their device, bytes of an element of the cache.
        collectives: coefficients between accelerators of a node.
        crossing_share: share of their bandwidth that is left where more than half a node takes part.
        fabric, nic_Bps: coefficients between nodes, and an accelerator's network bandwidth.
        memory_Bps, multiprocessors, cache_B: figures of the accelerator's datasheet.
        own_peak_flops_per_s, own_compute_share, own_memory_share: an engine's own products: their peak, the share of it that
            they reach, and of the memory's rate that their reads (and those of its decode attention) reach.
        core_clock: clock of its cores over ``core_clock_Hz``, where they limit an engine's own products; infinite where never.
        streaming: share of the memory bandwidth that element-wise passes reach.
        shared: constants of all engines.
        dispatch_B: bytes of an element of a token on its way to its experts, scales included.
        experts: matrix products of routed experts, where their format is not that of the layers' other weights.
    """

    gemm: GemmKernel
    gemm_peak_flops_per_s: float
    input_B: float
    weight_B: float
    lends: bool
    output_B: float
    element_B: float
    scales: bool
    head_gemm: GemmKernel
    head_peak_flops_per_s: float
    head_weight_B: float
    prefill: PrefillKernel
    decode: DecodeKernel
    attention: AttentionDevice
    kv_B: float
    collectives: CollectiveCoefficients
    crossing_share: float
    fabric: FabricCoefficients
    nic_Bps: float
    memory_Bps: float
    multiprocessors: float
    cache_B: float
    own_peak_flops_per_s: float
    own_compute_share: float
    own_memory_share: float
    streaming: float
    shared: SharedServing
    core_clock: float
    dispatch_B: float
    experts: Product | None
    byte_experts: bool
    block_experts: bool

    def __hash__(self) -> int:
        # Five of thirty fields tell devices, formats and networks apart.
        return hash((self.gemm, self.weight_B, self.kv_B, self.attention.bandwidth_Bps, self.nic_Bps))

    @property
    def narrowest_B(self) -> float:
        """Bytes of an element of the narrowest weights of a layer."""
        return self.weight_B if self.experts is None else min(self.weight_B, self.experts.weight_B)

    @property
    def cache_read_Bps(self) -> float:
        """Rate at which all multiprocessors together read from the last-level cache."""
        return self.multiprocessors * self.shared.cache_read_Bps

    @property
    def streaming_Bps(self) -> float:
        """Bandwidth of element-wise passes over large tensors, as attention scores are."""
        return self.streaming * self.memory_Bps

    def own_Bps(self, engine: EngineCoefficients) -> Num:
        """Bandwidth of an engine's own kernels, by the norm of limits: the memory's as they reach it, what the cores take."""
        memory_Bps = self.memory_Bps * self.own_memory_share * engine.memory_share
        cores_Bps = self.multiprocessors * self.core_clock * engine.core_Bps
        norm = self.gemm.shared.overlap
        return memory_Bps * (1 + (memory_Bps / cores_Bps) ** norm) ** (-1 / norm)


@dataclass(frozen=True, slots=True)
class EngineCoefficients:
    """Coefficients of a serving engine: what it adds to its kernels, and how fast it runs them.

    Attributes:
        layer_s: time of each layer of a pass: gaps between kernels, small kernels.
        launch_s: time in which the host launches a layer's kernels one by one, where no graph does: a pass is no shorter.
        scaling_s: time of each layer whose activations are quantised by kernels of their own.
        kernel_s: time in which the host launches a kernel of a pass with prompts, one by one, where no graph does.
        byte_s: time of each layer of experts that multiply in 8 bits: inputs quantised, tiles of shapes that nobody tuned.
        fused_s: time of each layer under tensor parallelism that norms fused into its all-reduces save.
        latency_share: share of a benchmarked all-reduce's latency that an engine's own sees (fused with the norm after it).
        reduce_s: time of an all-reduce of no bytes by an engine's own kernels: a launch, and a wait for each other.
        step_s: time of each pass: scheduler, sampling, the copy of tokens to the host.
        sequence_s: time of each sequence of a pass.
        layer_sequence_s: time of each sequence in each layer of a pass, where attention handles them one by one.
        request_s: time of each request before its first token.
        compute_share, memory_share: shares of what benchmarked kernels reach (clock under sustained load included).
        attention_share: share of what benchmarked decode attention reaches.
        passes: element-wise traffic, over that of fused kernels.
        hop_s: time of each hand-over between pipeline stages.
        own_share: share of their peak that an engine's own products reach, on top of the device's.
        core_Bps: weight bytes that one multiprocessor (GPU core) unpacks and multiplies a second at ``core_clock_Hz``, of an
            engine's own products, where that is a limit.
        interleave: share of a prefill that the other sequences of the batch wait for.
        link_share, network_share: bandwidth of the links within a node, and of the network between nodes, over what the
            device's coefficients and the datasheet say: of one cluster.
    """

    layer_s: Num = 3e-5
    launch_s: Num = 0.0
    kernel_s: Num = 0.0
    scaling_s: Num = 1e-5
    byte_s: Num = 0.0
    fused_s: Num = 0.0
    latency_share: Num = 1.0
    reduce_s: Num = 5e-6
    step_s: Num = 0.0
    sequence_s: Num = 0.0
    layer_sequence_s: Num = 0.0
    request_s: Num = 0.0
    compute_share: Num = 0.9
    memory_share: Num = 1.0
    attention_share: Num = 1.0
    passes: Num = 1.0
    hop_s: Num = 1e-5
    own_share: Num = 1.0
    core_Bps: Num = inf
    interleave: Num = 1.0
    link_share: Num = 1.0
    network_share: Num = 1.0


@dataclass(frozen=True, slots=True)
class EngineKernels:
    """Facts about the kernels that an engine has.

    Attributes:
        grouped_decode: query heads of a group share one read of their keys; else each reads for itself, from cache.
        only_group, only_head_dim: the one group size and head width that it has such a kernel for; 0: for all.
        flash_prefill: prefill stores no scores.
        flash_head_dim, flash_longest: the one head width, and the longest sequence, that it has such a kernel for; 0: all.
        score_B: bytes that attention moves at 16 bits for each score that it stores.
        no_flash_on: devices (of ``data/devices/``) that it has none for.
        own_products: matrix products of the engine's own instead of the vendor's: no tiles, each limit a plain rate.
        own_rows: rows of inputs up to which it uses its own; 16-bit weights of more go to the vendor's kernels; 0: always.
        unpacks: the vendor's kernels take narrower weights too, unpacked to 16 bits by another kernel; else they stay integers.
        wide: activations in 32 bits, each operation a kernel.
        repeats_memory: what is read for each query head is read from memory, not from cache.
        tile: rows that a tile of its own products of experts has at most; 0: no part of one is empty.
        chunk: tokens that a prefill computes at a time (a micro-batch); 0: all.
        in_flight: micro-batches of a prefill that are under way in a pipeline at most; 0: any number.
        launches, step_launches: kernels that a layer of a micro-batch, of a decode step launches: its overhead grows with them.
        unpack_launches: kernels that unpack the weights of a micro-batch's layer, where any do.
        queue: launches that an accelerator's queue holds; 0: any number.
        crossings: times that what a pipeline stage hands over crosses a link: 2 where it goes through the host's memory.
        integer_flash: fused attention of 8-bit integer models multiplies in 8 bits.
        integer_output_B, integer_element_B: bytes of an element that 8-bit integer products write, and that passes between
            them move.
        stage_tokens: pipeline stages hand over parts of a batch, halved until they hold no more (padded) tokens; 0: a part a
            stage.
        switch_reduces: large all-reduces run in the switch, where it can.
        causal: queries see the keys before them only (encoders see all).
        torus: all chips share every layer, in the layout that sends least (``torus_partition``).
        own_reduce_B: bytes up to which it has all-reduces of its own, one kernel each; 0: none.
        narrow_cache_on: the devices (of ``data/devices/``) on which its attention takes a cache of 8 bits as it is; on others
            it unpacks it first, which takes as long as a cache of 16. None named: on all.
        sent_per_expert: decode steps send a token to each of its experts (low latency), not once to a rank or node.
        block_rows: rows to which a kernel fills up those of each expert of a rank, where their weights have a scale a block.
        gathers: up to as many ranks as a token has experts gather the tokens of all, instead of sending them to experts.
        graph_tokens: tokens up to which graphs launch the kernels of any pass; 0: those of all decode steps, and of no prompt.
        ahead: the host schedules and launches a step while the one before runs.
    """

    grouped_decode: bool = True
    only_group: float = 0.0
    only_head_dim: float = 0.0
    flash_prefill: bool = True
    flash_head_dim: float = 0.0
    flash_longest: float = 0.0
    score_B: float = 13.0
    no_flash_on: tuple[str, ...] = ()
    own_products: bool = False
    own_rows: float = 0.0
    unpacks: bool = False
    wide: bool = False
    repeats_memory: bool = False
    integer_flash: bool = False
    integer_output_B: float = 2.0
    integer_element_B: float = 2.0
    tile: float = 0.0
    chunk: float = 0.0
    in_flight: float = 0.0
    launches: float = 1.0
    step_launches: float = 1.0
    unpack_launches: float = 0.0
    queue: float = 0.0
    crossings: float = 1.0
    stage_tokens: float = 0.0
    switch_reduces: bool = True
    causal: bool = True
    torus: bool = False
    own_reduce_B: float = 0.0
    narrow_cache_on: tuple[str, ...] = ()
    sent_per_expert: bool = False
    gathers: bool = False
    block_rows: float = 0.0
    graph_tokens: float = 0.0
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class Shards:
    """The division of a model over accelerators.

    Attributes:
        tp: accelerators that share each layer.
        pp: stages that the layers are divided over.
        node: accelerators of a node.
        attention: accelerators that share attention's heads: ``tp``, or fewer where groups attend for sequences of their own.
        ep: parts that the routed experts are dealt out to; 1: all ranks have a part of the width of each.
        redundant: second copies of busy experts, beside all the experts.
        deviations: standard deviations by which the busiest of ``ep`` parts is expected to lie above the mean.
        group_deviations: the same, of groups of ranks that attend for sequences of their own.
        imbalance: tokens of the busiest part over the mean; 0: what chance and ``uneven`` make of it.
        uneven: standard deviation of a part's tokens over their mean, beyond that of even choices.
        overlapped: whether half of the tokens may compute while those of the other half are exchanged.
        sequences: that there are at a time: groups beyond as many have none.
    """

    tp: Num
    pp: Num
    node: Num
    attention: Num
    ep: Num = 1.0
    redundant: Num = 0.0
    deviations: Num = 0.0
    group_deviations: Num = 0.0
    imbalance: Num = 0.0
    uneven: Num = 0.0
    overlapped: Num = 0.0
    sequences: Num = inf

    @property
    def own(self) -> Num:
        """Groups of ranks that each attend for sequences of their own; 1 where all ranks share every sequence."""
        return minimum(self.tp / self.attention, self.sequences)

    @property
    def apart(self) -> Truth:
        """True where not all ranks share every sequence."""
        return self.attention < self.tp

    @property
    def exchanges(self) -> Truth:
        """True where tokens travel to the ranks of their experts: ranks of one sequence have its tokens already."""
        return (self.ep > 1) & self.apart


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model, divided over accelerators whose kernels are measured, under an engine.

    ``graph_tokens``: those of the engine's kernels, or fewer where it was started for few sequences.
    """

    shape: LayerShape
    shards: Shards
    kernels: ServingKernels
    engine: EngineCoefficients
    has: EngineKernels
    graph_tokens: Num = 0.0
