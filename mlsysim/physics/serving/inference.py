"""Prefill and decode of a transformer by roofline, and the memory they need.

Source: Pope et al., "Efficiently Scaling Transformer Inference", 2022.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.physics.kernels.alpha_beta import all_reduce_s
from mlsysim.physics.kernels.roofline import roofline_s
from mlsysim.physics.numeric import Num, floor, maximum


@dataclass(frozen=True, slots=True)
class InferenceWork:
    """The work of one model in inference, as plain numbers.

    Attributes:
        layers: number of blocks.
        matmul_flops: FLOP of all layers' matrix products, per token.
        attention_flops_per_key: FLOP of all layers' attention in a prefill, per query token and key.
        decode_flops_per_key: FLOP of it in a decode step (latent attention works on the compressed keys and values).
        head_flops: FLOP of one token's logits.
        resident_B: bytes of all weights.
        always_read_B: bytes of weights that every step reads (all but routed experts and the embedding table).
        expert_B: bytes of all routed experts.
        experts, experts_per_token: experts of one layer, and those of a token (1 and 1 without experts).
        kv_B: bytes of one token's keys and values, all layers.
        residual_B: bytes of one token's residual vector.
        reductions: tensor-parallel all-reduces a layer (1 for parallel blocks, else 2).
    """

    layers: float
    matmul_flops: float
    attention_flops_per_key: float
    decode_flops_per_key: float
    head_flops: float
    resident_B: float
    always_read_B: float
    expert_B: float
    experts: float
    experts_per_token: float
    kv_B: float
    residual_B: float
    reductions: float


def touched_experts(experts: Num, per_token: Num, tokens: Num) -> Num:
    """Share of experts that ``tokens`` touch when each picks ``per_token`` of ``experts`` evenly: 1 - (1 - k/E)^n.

    Example:
        >>> touched_experts(8, 2, 1), round(touched_experts(8, 2, 16), 3)
        (0.25, 0.99)
    """
    return 1 - (1 - per_token / experts) ** tokens


def weights_read_B(work: InferenceWork, tokens: Num) -> Num:
    """Weight bytes that a pass over ``tokens`` tokens reads."""
    return work.always_read_B + work.expert_B * touched_experts(work.experts, work.experts_per_token, tokens)


@dataclass(frozen=True, slots=True)
class ServingMachine:
    """The accelerators that a prefill or decode phase runs on, in SI units.

    Attributes:
        tp: accelerators that share the model.
        kv_shards: how many of them divide the KV cache: beyond one rank a key head, each keeps a copy.
        rate_flops_per_s, memory_Bps: arithmetic rate and memory bandwidth of one accelerator.
        link_Bps: bandwidth between them, per accelerator, one direction.
    """

    tp: Num
    kv_shards: Num
    rate_flops_per_s: Num
    memory_Bps: Num
    link_Bps: Num


def decode_step_s(work: InferenceWork, batch: Num, context: Num, machine: ServingMachine) -> Num:
    """Seconds of one token for each of ``batch`` sequences at ``context`` tokens: weights and KV read once, or the arithmetic.

    Tensor parallelism divides both; its all-reduces depend on the layer they end, so their time is added.
    """
    flops = batch * (work.matmul_flops + work.decode_flops_per_key * context + work.head_flops)
    moved_B = weights_read_B(work, batch) / machine.tp + work.kv_B * batch * context / machine.kv_shards
    kernels_s = roofline_s(flops / machine.tp, moved_B, machine.rate_flops_per_s, machine.memory_Bps)
    return kernels_s + reductions_s(work, batch, machine)


def prefill_s(work: InferenceWork, batch: Num, prompt: Num, keys: Num, machine: ServingMachine, cached: Num = 0.0) -> Num:
    """Seconds of ``batch`` prompts to their first token; ``keys`` is the mean number of keys a query sees.

    ``cached``: tokens before ``prompt`` whose keys and values are there already, and are read.
    """
    tokens = batch * prompt
    flops = tokens * (work.matmul_flops + work.attention_flops_per_key * keys) + batch * work.head_flops
    moved_B = weights_read_B(work, tokens) / machine.tp + work.kv_B * (tokens + batch * cached) / machine.kv_shards
    kernels_s = roofline_s(flops / machine.tp, moved_B, machine.rate_flops_per_s, machine.memory_Bps)
    return kernels_s + reductions_s(work, tokens, machine)


def reductions_s(work: InferenceWork, tokens: Num, machine: ServingMachine) -> Num:
    """Seconds of the all-reduces of a pass over ``tokens`` tokens."""
    return work.layers * work.reductions * all_reduce_s(work.residual_B * tokens, machine.tp, machine.link_Bps)


def largest_batch(free_B: Num, kv_B: Num, context: Num) -> Num:
    """The number of sequences of ``context`` tokens whose keys and values fit ``free_B``; 0 where nothing is free.

    Example:
        >>> int(largest_batch(10e9, 327680.0, 4096))
        7
    """
    return floor(maximum(free_B, 0.0) / (kv_B * context))
