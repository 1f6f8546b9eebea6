"""Routed experts dealt out whole to ranks: what the busiest rank works on, and how tokens travel there and back.

Each of ``ep`` parts holds (experts + redundant) / ep experts. Ranks of one sequence have its tokens anyhow, compute those of
their own experts and add up the results as tensor parallelism does. Ranks that attend for sequences of their own dispatch each
token to its experts and combine what they give back.

Sources: DeepSeek-AI, DeepEP, docs/legacy.md (low-latency kernels send a token to each of its experts, others once to a node
and once to a rank); NVIDIA TensorRT-LLM, "Scaling Expert Parallelism", blogs 4 and 18 (one copy a rank; gathering where ep is
small); DeepSeek-AI, EPLB (second copies of busy experts); Blom, "Statistical Estimates and Transformed Beta-Variables", 1958
(the largest of n normal numbers).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

from mlsysim.physics.kernels.alpha_beta import distinct_targets
from mlsysim.physics.layer.shape import ExpertShape
from mlsysim.physics.numeric import Num, maximum, minimum, somewhere, sqrt, where
from mlsysim.physics.serving.deployment import ServedModel, Shards
from mlsysim.physics.serving.inference import touched_experts

_ACTIVATION_B = 2.0  # of an element that experts give back
_HEADER_B = 16.0  # of a message of the low-latency kernels
_CHOICE_B = 12.0  # of each chosen expert: index (8) and weight (4)


def deviations_of_busiest(parts: int) -> float:
    """Standard deviations by which the largest of ``parts`` normal numbers is expected to lie above their mean.

    Example:
        >>> deviations_of_busiest(1), round(deviations_of_busiest(8), 2)
        (0.0, 1.43)
    """
    return NormalDist().inv_cdf((parts - 0.375) / (parts + 0.25)) if parts > 1 else 0.0


@dataclass(frozen=True, slots=True)
class RankLoad:
    """Routed work of the busiest rank: copies of tokens, the experts that they touch, and its copies over the mean rank's."""

    rows: Num
    touched: Num
    over_mean: Num


NO_EXPERTS = RankLoad(0.0, 1.0, 1.0)


def busiest_rank(routed: ExpertShape, shards: Shards, tokens: Num) -> RankLoad:
    """The routed work of ``tokens`` tokens on the busiest part of the experts; of all experts where they are not dealt out.

    Tokens choose evenly, so that copies on a rank scatter by chance: n k/ep +- sqrt(n k/ep). An expert that is there twice
    halves what each copy gets, evenly, and with it the scatter: a share f of such copies leaves 1 - 3/4 f of the variance. To
    that of chance the variance of uneven choices is added, (``uneven`` n k/ep)^2.

    Args:
        routed: the experts of the model.
        shards: how it is divided.
        tokens: tokens of the pass.
    """
    experts, per_token, ep = maximum(routed.experts, 1.0), maximum(routed.per_token, 1.0), shards.ep
    touched_share = touched_experts(experts, per_token, tokens)
    if not somewhere(ep > 1):
        return RankLoad(tokens * per_token, experts * touched_share, 1.0)
    slots = (experts + shards.redundant) / ep
    twice_share = 2 * shards.redundant / (experts + shards.redundant)
    mean_rows, mean_touched = tokens * per_token / ep, slots * touched_share
    variance = mean_rows * (1 - 0.75 * twice_share) + (shards.uneven * mean_rows) ** 2
    scattered_rows = mean_rows + shards.deviations * sqrt(variance)
    rows = minimum(where(shards.imbalance > 0, shards.imbalance * mean_rows, scattered_rows), tokens * per_token)
    scattered = mean_touched + shards.deviations * sqrt(mean_touched * (1 - touched_share))
    touched = where(ep > 1, minimum(minimum(scattered, slots), rows), experts * touched_share)
    return RankLoad(rows, touched, rows / mean_rows)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One layer's dispatch and combine.

    Attributes:
        kernels_s: seconds of both that do not depend on what is sent.
        dispatch_s, combine_s: seconds on the wire.
        multiprocessors: units that they take from what is computed meanwhile; none on a systolic array, whose links have DMA
            engines of their own.
    """

    kernels_s: Num
    dispatch_s: Num
    combine_s: Num
    multiprocessors: float

    @property
    def total_s(self) -> Num:
        """Seconds of both, where nothing is computed meanwhile."""
        return self.kernels_s + self.dispatch_s + self.combine_s


NOTHING = Exchange(0.0, 0.0, 0.0, 0.0)


def sent_B(model: ServedModel, *, low_latency: bool) -> tuple[Num, Num]:
    """Bytes of one copy of a token on its way to an expert, and back."""
    told_B = _HEADER_B if low_latency else _CHOICE_B * model.shape.routed.per_token
    return model.shape.hidden * model.kernels.dispatch_B + told_B, model.shape.hidden * _ACTIVATION_B


def token_B(model: ServedModel) -> tuple[float, float]:
    """Bytes of all copies of a token of a decode step on their way to its experts, its own rank's included, and back."""
    low_latency, per_token = model.has.sent_per_expert, maximum(model.shape.routed.per_token, 1.0)
    copies = float(per_token if low_latency else _copies(model, model.shards.ep))
    there_B, back_B = sent_B(model, low_latency=low_latency)
    return copies * float(there_B), copies * float(back_B)


def _copies(model: ServedModel, targets: Num) -> Num:
    """Ranks or nodes, of ``targets``, that a token is sent to: those with any of its experts, or all of them.

    Source: NVIDIA TensorRT-LLM, blog 18, "Background": all ranks gather the tokens of all where they are no more than a token's
    experts, for dispatched it would send as many copies.
    """
    per_token = maximum(model.shape.routed.per_token, 1.0)
    with_experts = distinct_targets(targets, per_token)
    return where(model.shards.ep <= per_token, targets, with_experts) if model.has.gathers else with_experts


def exchange(model: ServedModel, tokens: Num, load: RankLoad, *, decoding: bool) -> Exchange:
    """Time the dispatch and combine of ``tokens`` tokens of all ranks: within an NVLink domain and beyond it at once.

    A low-latency kernel sends a copy for each expert, over the network to every rank outside the node. Another sends one to
    each node with any of a token's experts, and there one to each such rank. The busiest rank takes longest.

    Args:
        model: the model, its division and its kernels.
        tokens: tokens of all ranks.
        load: routed work of the busiest rank.
        decoding: whether they are one token a sequence.
    """
    shards, kernels = model.shards, model.kernels
    low_latency = decoding and model.has.sent_per_expert
    ep, per_token = shards.ep, maximum(model.shape.routed.per_token, 1.0)
    in_node = minimum(ep, maximum(shards.node * ep / shards.tp, 1.0))
    nodes = ep / in_node
    if low_latency:
        local_copies, remote_copies = per_token * (in_node - 1) / ep, per_token * (nodes - 1) / nodes
    else:
        local_copies = _copies(model, ep) * (in_node - 1) / in_node
        remote_copies = _copies(model, nodes) * (nodes - 1) / nodes
    copy_s = maximum(
        local_copies / kernels.collectives.bandwidth_Bps, remote_copies / (kernels.shared.exchange_share * kernels.nic_Bps)
    )
    there_B, back_B = sent_B(model, low_latency=low_latency)
    # A rank sends what it has, and takes what the busiest is sent.
    rank_tokens = maximum(tokens / (shards.own * shards.attention), tokens / shards.tp * load.over_mean)
    copies_s = copy_s * rank_tokens
    beside = low_latency or kernels.attention.array > 1
    multiprocessors = 0.0 if beside else kernels.shared.exchange_multiprocessors
    return Exchange(2 * kernels.shared.exchange_s, copies_s * there_B, copies_s * back_B, multiprocessors)
