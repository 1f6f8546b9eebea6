"""The parameters that a rank owns: tensor, pipeline and expert parallelism divide them, ZeRO shards the copies."""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.physics.layer.work import LayeredWork
from mlsysim.physics.numeric import Num, maximum, where
from mlsysim.physics.plan import Plan, stage_layers


@dataclass(frozen=True, slots=True)
class RankParameters:
    """Parameters of one stage on one rank: ``dense`` has dp x cp copies, ``expert`` the ranks' copies over EP."""

    dense: Num
    expert: Num

    def sharded(self, plan: Plan) -> Num:
        """Parameters that ZeRO leaves to the rank; experts, already spread over EP, have fewer copies left to divide."""
        dense = plan.shard_copies * self.dense / plan.data_ranks
        return dense + plan.expert_shard_copies * self.expert / plan.expert_copies

    @property
    def whole(self) -> Num:
        """What the rank holds without ZeRO."""
        return self.dense + self.expert

    def held(self, plan: Plan, from_stage: int) -> Num:
        """What the rank holds of a state that ZeRO shards from this stage on."""
        return where(plan.zero_stage >= from_stage, self.sharded(plan), self.whole)


def rank_parameters(work: LayeredWork, plan: Plan, layers: Num, ends: Num) -> RankParameters:
    """Parameters of a rank whose stage has ``layers`` layers and ``ends`` embedding and head parameters."""
    expert = layers * work.expert_parameters / (plan.expert_split * plan.ep)
    whole = work.undivided_parameters
    divided = layers * (work.layer_parameters - whole + work.adapter_parameters) + ends
    return RankParameters(divided / plan.tp + layers * whole, expert)


def trained_parameters(work: LayeredWork, plan: Plan, layers: Num, ends: Num) -> RankParameters:
    """Parameters with gradients of a rank whose stage has ``layers`` layers: all, or the adapters alone."""
    return stage_parameters(work, plan, layers, ends)[1]


def stage_parameters(work: LayeredWork, plan: Plan, layers: Num, ends: Num) -> tuple[RankParameters, RankParameters]:
    """Parameters of a rank, as ``rank_parameters`` counts them, and those of them that are trained."""
    every = rank_parameters(work, plan, layers, ends)
    adapters = layers * work.adapter_parameters / plan.tp
    return every, RankParameters(where(work.frozen, adapters, every.dense), where(work.frozen, 0.0, every.expert))


def first_stage_ends(work: LayeredWork, plan: Plan) -> Num:
    """Embedding parameters at the first stage, with the head where it is also the last."""
    head = work.head_parameters - work.tied_parameters
    return work.embedding_parameters + where(plan.pp == 1, head, 0.0)


def last_stage_ends(work: LayeredWork, plan: Plan) -> Num:
    """Head parameters at the last stage, with the embedding where it is also the first."""
    embedding = work.embedding_parameters - work.tied_parameters
    return work.head_parameters + where(plan.pp == 1, embedding, 0.0)


def fullest_stage(work: LayeredWork, plan: Plan) -> tuple[RankParameters, RankParameters]:
    """Parameters of a rank of the fullest stage, and those of them that are trained: the slowest to gather and to reduce."""
    layers, _ = stage_layers(work.layers, plan.pp)
    return stage_parameters(work, plan, layers, maximum(first_stage_ends(work, plan), last_stage_ends(work, plan)))
