"""Time of one layer of a serving pass: products, attention, element-wise passes, and what its ranks send each other.

Ranks that share sequences add up their parts of attention's and the feed-forward block's output, two all-reduces a layer. Ranks
that attend for sequences of their own send tokens only to experts: gathered and scattered where these are cut by width, else
dispatched and combined. Of two halves of the tokens one computes while the other travels; kernels that send on multiprocessors
keep theirs from the products of the whole pass.

Sources: Shoeybi et al. 2019 (two all-reduces a layer); DeepSeek-AI, open-infra-index, day 6, "DeepSeek-V3/R1 Inference System
Overview" (two micro-batches in turn); SGLang 0.5.5, operations_strategy.py:84 (``deep_gemm_num_sms``: products of a prefill in
two halves run on the multiprocessors that DeepEP does not have).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mlsysim.physics.kernels.collectives import CollectiveCoefficients, collective_s
from mlsysim.physics.numeric import Num, everywhere, maximum, minimum, once_for_floats, somewhere, where
from mlsysim.physics.records import chosen
from mlsysim.physics.serving.activations import elementwise_layer_s
from mlsysim.physics.serving.deployment import ServedModel
from mlsysim.physics.serving.expert_ranks import NO_EXPERTS, NOTHING, Exchange, busiest_rank, exchange
from mlsysim.physics.serving.products import layer_products_s

# Cards without NVLink read each other's memory in pairs alone: custom_all_reduce.py.
_PAIR = 2.0


@dataclass(frozen=True, slots=True)
class LayerTime:
    """Seconds of one layer's kernels, mean over its kinds of layers, and of what its ranks send each other."""

    products_s: Num
    attention_s: Num
    elementwise_s: Num
    sent_s: Num

    @property
    def computed_s(self) -> Num:
        """Seconds of the kernels that compute."""
        return self.products_s + self.attention_s + self.elementwise_s

    @property
    def total_s(self) -> Num:
        """Seconds of the layer."""
        return self.computed_s + self.sent_s


def layer_time(model: ServedModel, tokens: Num, attention_s: Callable[[float], Num], *, decoding: bool = False) -> LayerTime:
    """Time one layer of ``tokens`` tokens, whole or, where that is allowed and faster, as two halves that take turns.

    Args:
        model: the model, its division and its kernels.
        tokens: tokens of all ranks.
        attention_s: seconds of attention of a share of them.
        decoding: whether they are one token a sequence: kernels of a decode step.
    """
    shape, shards = model.shape, model.shards
    if not somewhere(shards.overlapped):
        return _whole(model, tokens, attention_s(1.0), decoding).time
    halved = _whole(model, tokens / 2, attention_s(0.5), decoding)
    half, sent = halved.time, halved.exchange
    # One half's dispatch or combine meets what the other computes up to its dispatch, or from there to its combine.
    lost = sent.multiprocessors / model.kernels.multiprocessors
    if lost >= 1:  # nothing would be left to compute on meanwhile
        return _whole(model, tokens, attention_s(1.0), decoding).time
    exposed_s: Num = 0.0
    other_passes_s = half.elementwise_s / 2
    for products_s, others_s in ((halved.around_s, half.attention_s + other_passes_s), (halved.ffn_s, other_passes_s)):
        computed_s = products_s / (1 - lost) + others_s
        for travels_s in (sent.dispatch_s, sent.combine_s):
            exposed_s = exposed_s + maximum(travels_s - computed_s, 0.0) + lost * minimum(travels_s, others_s)
    wire_s = (1 - shape.dense) * (sent.dispatch_s + sent.combine_s)
    hidden_s = 2 * wire_s - (1 - shape.dense) * exposed_s
    products_s = 2 * half.products_s / (1 - lost)
    halves = LayerTime(products_s, 2 * half.attention_s, 2 * half.elementwise_s, 2 * half.sent_s - hidden_s)
    allowed = (shards.overlapped > 0) & shards.exchanges
    # All at once computes as long as a half at least, and has as much on the wire as both.
    if everywhere(allowed & (halves.total_s <= half.computed_s + half.sent_s + wire_s)):
        return halves
    whole = _whole(model, tokens, attention_s(1.0), decoding).time
    taken = allowed & (halves.total_s < whole.total_s)
    return chosen(taken, halves, whole)


@dataclass(frozen=True, slots=True)
class _Whole:
    """A layer whose tokens compute, travel and compute again: its products before and after that, and how they travel."""

    time: LayerTime
    around_s: Num
    ffn_s: Num
    exchange: Exchange


def _whole(model: ServedModel, tokens: Num, attention_s: Num, decoding: bool) -> _Whole:
    shape, shards = model.shape, model.shards
    load = NO_EXPERTS if everywhere(shape.dense == 1) else busiest_rank(shape.routed, shards, tokens)
    around_s, ffn_s = layer_products_s(model, tokens, load, decoding=decoding)
    elementwise_s = elementwise_layer_s(model, tokens, load.over_mean)
    token_B, sent = tokens * shape.hidden * 2.0, NOTHING
    if not somewhere(shards.apart):
        sent_s = shape.reductions * all_reduce_s(model, token_B, shards.tp)
    else:
        if somewhere(shards.exchanges):
            sent = exchange(model, tokens, load, decoding=decoding)
        sent_s = _own_sequences_s(model, token_B, sent)
        if not everywhere(shards.apart):
            sent_s = where(shards.apart, sent_s, shape.reductions * all_reduce_s(model, token_B, shards.tp))
    time = LayerTime(around_s + ffn_s, attention_s, elementwise_s, sent_s)
    return _Whole(time, around_s, ffn_s, sent)


def _own_sequences_s(model: ServedModel, token_B: Num, sent: Exchange) -> Num:
    """Seconds of what groups of ranks with sequences of their own send: within a group, and to experts.

    All ranks gather ``token_B`` of all tokens, and scatter the parts of their results, unless experts are dealt out.
    """
    shape, shards = model.shape, model.shards
    # After attention, and after a dense block, the ranks of a group add up.
    group_s = (1 + shape.dense) * all_reduce_s(model, token_B / shards.own, shards.attention)
    if not somewhere(shards.ep > 1):
        return group_s + (1 - shape.dense) * all_reduce_s(model, token_B, shards.tp)
    # Ranks that share the width of their experts gather what one of them was sent.
    split_B = token_B * minimum(maximum(shape.routed.per_token, 1.0) / shards.ep, 1.0)
    experts_s = sent.total_s + all_reduce_s(model, split_B, shards.tp / shards.ep)
    if not everywhere(shards.ep > 1):
        experts_s = where(shards.ep > 1, experts_s, all_reduce_s(model, token_B, shards.tp))
    return group_s + (1 - shape.dense) * experts_s


def all_reduce_s(model: ServedModel, size_B: Num, ranks: Num) -> Num:
    """Seconds within a node as measured, less what an engine's own kernel saves.

    In an engine's own all-reduce n ranks read each other's memory, over NVLink or in a pair: a part of what their peers have,
    and then the sums of the other parts, 2 (n - 1)/n S bytes. Larger ones are NCCL's. Among nodes NCCL runs alone, a tree over
    all cards of a node is added, and both run at once.

    Source: vLLM, csrc/custom_all_reduce.cuh.
    """
    shards, kernels = model.shards, model.kernels
    if not somewhere(ranks > 1):
        return 0.0 * size_B
    links, share, inside = kernels.collectives, model.engine.latency_share, minimum(ranks, shards.node)
    wide = where(2 * inside > shards.node, kernels.crossing_share, 1.0) * model.engine.link_share
    nodes = ranks / shards.node
    if somewhere(nodes > 1):
        share = where(nodes > 1, maximum(share, kernels.shared.network_share), share)
    links = _reached(links, wide, model.engine.link_share, share)
    inside_s = collective_s("all_reduce", size_B, inside, links, model.has.switch_reduces)
    if model.has.own_reduce_B:
        own_s = model.engine.reduce_s + 2 * (1 - 1 / inside) * size_B / links.pair_bandwidth_Bps
        in_reach = (size_B <= model.has.own_reduce_B) & ((ranks <= _PAIR) | links.tuner.meshed) & (nodes <= 1)
        inside_s = where(in_reach, minimum(inside_s, own_s), inside_s)
    if not somewhere(nodes > 1):
        return inside_s
    depth = np.ceil(np.log2(maximum(nodes, 1.0)))
    wire_s = 2 * size_B / (shards.node * kernels.nic_Bps * model.engine.network_share)
    return where(nodes > 1, 2 * depth * kernels.fabric.level_s + maximum(inside_s, wire_s), inside_s)


@once_for_floats
def _reached(links: CollectiveCoefficients, wide: Num, link_share: Num, latency_share: Num) -> CollectiveCoefficients:
    """The links as an engine's all-reduces reach them: ``link_share`` of a pair's bandwidth, ``wide`` of that among more."""
    return replace(
        links,
        bandwidth_Bps=links.bandwidth_Bps * wide,  # type: ignore[arg-type]
        pair_bandwidth_Bps=links.pair_bandwidth_Bps * link_share,  # type: ignore[arg-type]
        launch_s=links.launch_s * latency_share,  # type: ignore[arg-type]
        ll_step_s=links.ll_step_s * latency_share,  # type: ignore[arg-type]
        simple_step_s=links.simple_step_s * latency_share,  # type: ignore[arg-type]
    )
