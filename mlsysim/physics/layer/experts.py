"""Expert layers of a training step: the rows of their products, their element-wise passes, and the all-to-alls between ranks.

A rank holds experts/ep experts, each split over ``expert_split`` ranks. Every micro-batch, its tokens are copied to the ranks
of their experts (dispatch), worked on, and sent back and added (combine); the backward pass mirrors both.

Sources: Lepikhin et al. 2021, arXiv:2006.16668 (all-to-alls); Liu et al. 2025, arXiv:2504.14960 (Megatron-Core's layout of
ranks); DeepSeek-AI 2024, arXiv:2412.19437, section 3.2 (a token is sent once to a rank or node, whatever its experts there).
"""

from __future__ import annotations

from mlsysim.physics.kernels.alpha_beta import distinct_targets
from mlsysim.physics.kernels.collectives import CollectiveCoefficients, collective_s
from mlsysim.physics.layer.element_bytes import block_B
from mlsysim.physics.layer.shape import ExpertShape, LayerShape
from mlsysim.physics.machine import Machine
from mlsysim.physics.numeric import Num, maximum, somewhere, where
from mlsysim.physics.plan import Plan

_ACTIVATION_B = 2.0
# Bytes to put a value in order by expert: read and written.
_ORDERED_B = 2 * _ACTIVATION_B
# An 8-bit product reads copies by row and by column that a pass over the 16-bit values wrote.
_QUANTISED_B = 4.0
# Scores, their softmax, the choice and its bookkeeping, 32-bit: bytes a token and expert, each way.
_ROUTING_B = 24.0
# A mask of places, and each of its gradients: truth values (1) and 16-bit weights (2), written once.
_MASK_B = 3.0


def routed_rows(shape: ExpertShape, plan: Plan) -> Num:
    """Token copies that the experts of the busiest rank work on in one micro-batch: tokens x per_token x split / tp.

    Example:
        >>> from mlsysim.physics.plan import Plan
        >>> plan = Plan(1, 1, 8, 8, 1, 1, 4096.0, 1, 0, 0, 1, 2, 2, 12, 1, 0, 1)
        >>> float(routed_rows(ExpertShape(experts=64.0, per_token=8.0), plan))
        32768.0
    """
    return plan.micro_batch_tokens * shape.per_token * plan.expert_split / plan.tp * shape.imbalance


def local_experts(shape: ExpertShape, plan: Plan) -> Num:
    """The number of experts that one rank holds."""
    return maximum(shape.experts / plan.ep, 1.0)


def exchange_s(
    shape: ExpertShape,
    hidden: Num,
    plan: Plan,
    machine: Machine,
    collectives: CollectiveCoefficients,
    sent_once: Num = 0.0,
    hidden_share: Num = 0.0,
    two_batches: Num = 0.0,
    exchange_units: Num = 0.0,
    in_turn: Num = 0.0,
    split_links: CollectiveCoefficients | None = None,
) -> Num:
    """Seconds that one dispatch or combine of a micro-batch adds to the compute; 0 with one expert-parallel rank.

    Within an NVLink domain the measured all-to-all; beyond it, the network cards at the same time, whichever is longer; what
    they need longer hides by ``hidden_share`` under the compute of another micro-batch (an interleaved schedule, or
    ``two_batches``). Where kernels of the exchange run beside compute on ``exchange_units``, their share of the device's
    multiprocessors, the exchange within the domain costs what compute loses with these. With ``sent_once`` a token crosses
    once to a rank or node that has several of its experts: of random ones, or, ``in_turn``, of neighbours, as a gate that
    deals all tokens out evenly chooses them. Experts split over several ranks also gather their tokens there, over
    ``split_links`` where these are others.
    """
    if not somewhere(shape.experts):
        return 0.0
    ep, split = plan.ep, plan.expert_split
    token_B = _ACTIVATION_B * hidden * plan.micro_batch_tokens / plan.routed_from * shape.imbalance

    def copies(targets: Num) -> Num:
        neighbours = maximum(shape.per_token * targets / maximum(shape.experts, 1.0), 1.0)
        once = where(in_turn > 0, neighbours, distinct_targets(targets, shape.per_token))
        return where(sent_once > 0, once, shape.per_token)

    in_node = plan.ranks_in_node(ep, split, machine.per_node)
    nodes = ep / in_node
    local_s = collective_s("all_to_all", token_B * copies(ep) / nodes, in_node, collectives)
    remote_s = token_B * copies(nodes) * (nodes - 1) / nodes * machine.oversubscription / machine.inter_Bps
    rows_B = _ACTIVATION_B * hidden * routed_rows(shape, plan)
    # Only with several model chunks a rank does another micro-batch's compute stand beside these messages.
    exposed_share = where((plan.virtual_stages > 1) | (two_batches > 0), 1 - hidden_share, 1.0)
    longer_s = exposed_share * maximum(remote_s - local_s, 0.0)
    shown_s = where(exchange_units > 0, exchange_units, 1.0) * local_s
    return shape.layers * (shown_s + longer_s + collective_s("all_gather", rows_B, split, split_links or collectives))


def expert_passes_B(shape: LayerShape, plan: Plan, *, backward: bool, quantised: bool, more_B: Num = 0.0) -> Num:
    """Bytes of the element-wise passes of one expert layer's feed-forward part, on one rank: blocks, copies and routing.

    ``more_B`` is what a stack moves beyond fused passes per element of routed tokens that are copied in order.
    """
    routed, hidden = shape.routed, shape.hidden
    rows, width = routed_rows(routed, plan), maximum(routed.ffn / plan.expert_split, 1.0)
    read_by_products = hidden + ((shape.ffn_matrices - 1) * width if backward else width)
    elements = rows * width + plan.micro_batch_tokens * routed.shared_ffn / plan.tp
    copied_B = quantised * _QUANTISED_B * rows * read_by_products
    return block_B(shape, backward=backward) * elements + _ordered_B(routed, hidden, plan, more_B) + copied_B


def masked_places(shape: ExpertShape) -> Num:
    """Places that the experts have for the tokens of one sequence, all together: tokens x per_token x capacity.

    Example:
        >>> masked_places(ExpertShape(experts=8.0, per_token=2.0, imbalance=1.25, masked_tokens=4096.0))
        10240.0
    """
    return shape.masked_tokens * shape.per_token * shape.imbalance


def masked_products(shape: ExpertShape, hidden: Num, plan: Plan, *, backward: bool) -> tuple[tuple[Num, Num, Num, Num], ...]:
    """The products of tokens and a mask of places that put tokens in order by expert, and back: rows, n, k and how many.

    Forward, one there and one back; backward, one of each for the gradients of tokens, and one for that of the weights with
    which a token's experts are added. Source: Lepikhin et al. 2021, arXiv:2006.16668, algorithm 1 (einsums with the masks).
    """
    tokens, places = maximum(shape.masked_tokens, 1.0), maximum(masked_places(shape), 1.0)
    sequences = plan.micro_batch_tokens / plan.routed_from / tokens
    there_and_back = (places, hidden, tokens, sequences), (tokens, hidden, places, sequences)
    return (*there_and_back, (tokens, places, hidden, sequences)) if backward else there_and_back


def _ordered_B(shape: ExpertShape, hidden: Num, plan: Plan, more_B: Num) -> Num:
    """Bytes to choose experts and to put token copies in their order, before and after they travel, there and back."""
    rank_tokens = plan.micro_batch_tokens / plan.routed_from
    sent_rows, rows = rank_tokens * shape.per_token, routed_rows(shape, plan)
    copied_B = _ORDERED_B * hidden * (rank_tokens + sent_rows + 2 * rows) + more_B * rows * hidden
    masks_B = _MASK_B * rank_tokens * masked_places(shape)
    return where(shape.masked_tokens > 0, masks_B, copied_B) + _ROUTING_B * rank_tokens * shape.experts
