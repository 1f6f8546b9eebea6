"""A machine and kernels so plain that a reader can work their times out on paper.

Products and attention take their arithmetic over the peak, collectives their bytes over the bandwidth, nothing has a latency.
A product of 64 x 64 x 64 takes one second: sizes are counted in ``UNIT`` elements, so that no tile is part empty.
"""

from __future__ import annotations

from dataclasses import fields, replace
from math import inf

from mlsysim.physics.kernels.attention import AttentionDevice, DecodeKernel, PrefillKernel, SharedAttention
from mlsysim.physics.kernels.collectives import CollectiveCoefficients, FabricCoefficients, SharedCollectives, Tuner
from mlsysim.physics.kernels.gemm import GemmKernel, SharedGemm
from mlsysim.physics.layer.shape import LayerShape
from mlsysim.physics.layer.work import NONE, LayeredWork
from mlsysim.physics.machine import Machine
from mlsysim.physics.plan import ONE_F_ONE_B, Plan
from mlsysim.physics.serving.deployment import ServingKernels, SharedServing

UNIT = 64.0
PEAK = 2 * UNIT**3  # FLOP/s

# No prologue, no memory, no launch; nothing is split.
PRODUCTS = GemmKernel(1.0, 0.0, inf, inf, 0.0, SharedGemm(1.0, 0.0, 0.0, 1.0), most_splits=1.0)

_ATTENTION = SharedAttention(1.0, 8.0, 1.0, 1.0, 0.5)
# No floor, no exponentials, no half-masked tiles; so small a chip that no thread block is the longest.
PREFILL = PrefillKernel(0.0, 1.0, 1e30, 0.0, 0.0, _ATTENTION)
DECODE = DecodeKernel(0.0, 1.0, 0.0, 0.0, inf, 0.0, 0.0, _ATTENTION)
CHIP = AttentionDevice(PEAK, 1.0, 1e-15, 0.0, 1.0)

# The protocol "simple" whatever the size: no step, no launch, no fill, and a copy that takes no time.
_SHARED_LINKS = SharedCollectives(8.0, 1.0, 0.0, 1.0, inf, 1.0, 1.0, 1.0, 0.0, inf)
_TUNER = Tuner(inf, 0.0, inf, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0)


def links(bandwidth_Bps):
    """Collectives of k S/n bytes over ``bandwidth_Bps``: an all-gather (n-1)/n S/B, an all-reduce twice that."""
    return CollectiveCoefficients(0.0, 0.0, 0.0, bandwidth_Bps, bandwidth_Bps, 0.0, _TUNER, _SHARED_LINKS)


def plan(**changed):
    """One rank, one micro-batch of one token, no ZeRO, nothing recomputed; 2, 2 and 12 bytes a parameter."""
    usual = dict.fromkeys(("tp", "pp", "dp", "ep", "virtual_stages", "micro_batches", "micro_batch_tokens"), 1.0)
    usual |= {"zero_stage": 0.0, "sequence_parallel": 0.0, "recompute": float(NONE), "schedule": float(ONE_F_ONE_B)}
    usual |= {"cp": 1.0, "expert_tp": 0.0, "shard_copies": 1.0}
    return Plan(**usual | {"weight_B": 2.0, "gradient_B": 2.0, "optimizer_B": 12.0} | changed)


def machine(**changed):
    """1 FLOP/s and 1 B/s everywhere; eight accelerators a node."""
    usual = {"rate_flops_per_s": 1.0, "memory_Bps": 1.0, "intra_Bps": 1.0, "inter_Bps": 1.0, "per_node": 8.0}
    return Machine(**usual | changed)


def work(**changed):
    """One layer without parameters, arithmetic or activations."""
    return LayeredWork(
        **dict.fromkeys((part.name for part in fields(LayeredWork)), 0.0) | {"layers": 1.0, "tokens_per_sample": 1.0} | changed
    )


def serving_kernels(**changed):
    """Kernels of an accelerator that streams 16,384 B/s, sends 4,096 B/s inside a node and 1,024 B/s outside."""
    usual = {"gemm": PRODUCTS, "gemm_peak_flops_per_s": PEAK, "input_B": 2.0, "weight_B": 2.0, "lends": True, "output_B": 2.0}
    usual |= {"element_B": 2.0, "scales": False, "head_gemm": PRODUCTS, "head_peak_flops_per_s": 2 * PEAK, "head_weight_B": 2.0}
    usual |= {"prefill": PREFILL, "decode": DECODE, "attention": replace(CHIP, bandwidth_Bps=16384.0), "kv_B": 2.0}
    usual |= {"collectives": links(4096.0), "crossing_share": 0.5, "fabric": FabricCoefficients(0.25, 1.0, 0.0)}
    usual |= {"nic_Bps": 1024.0, "memory_Bps": 32768.0, "multiprocessors": 1.0, "cache_B": 0.0}
    usual |= {"own_peak_flops_per_s": 4 * PEAK, "own_compute_share": 0.5, "own_memory_share": 0.25, "streaming": 0.5}
    usual |= {"core_clock": inf, "dispatch_B": 2.0, "experts": None, "byte_experts": False, "block_experts": False}
    return ServingKernels(**usual | {"shared": SharedServing(65536.0, 0.5, 1.5, 0.0, 1.0, 0.0, 1.0)} | changed)


def three_layers(**changed):
    """Three layers and both ends of a model, in small round numbers."""
    usual = {
        "layers": 3.0,
        "matmul_flops": 100.0,
        "attention_flops": 30.0,
        "full_attention_flops": 60.0,
        "head_flops": 40.0,
        "layer_parameters": 20.0,
        "expert_parameters": 24.0,
        "embedding_parameters": 10.0,
        "head_parameters": 14.0,
        "tied_parameters": 6.0,
        "kept_split_B": 8.0,
        "kept_residual_B": 4.0,
        "selective_split_B": 3.0,
        "selective_residual_B": 2.0,
        "boundary_B": 6.0,
        "logits": 5.0,
        "adapter_parameters": 2.0,
    }
    return work(**usual | changed)


def served_shape(**changed):
    """Three layers; four query heads and two of keys, 64 wide; gated blocks of 256; a vocabulary of 256."""
    usual = {
        "layers": 3.0,
        "hidden": 2 * UNIT,
        "heads": 4.0,
        "kv_heads": 2.0,
        "head_dim": UNIT,
        "ffn": 4 * UNIT,
        "ffn_matrices": 3.0,
        "vocab": 4 * UNIT,
    }
    return LayerShape(**usual | changed)
