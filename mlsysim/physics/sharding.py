"""How many parameters a rank owns: tensor, pipeline and expert parallelism divide them, ZeRO shards the copies."""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.physics.numeric import Num, maximum, where
from mlsysim.physics.plan import Plan, stage_layers
from mlsysim.physics.work import LayeredWork


@dataclass(frozen=True, slots=True)
class RankParameters:
    """Parameters of one stage on one rank: ``dense`` has dp copies, ``expert`` has dp/ep."""

    dense: Num
    expert: Num

    @property
    def whole(self) -> Num:
        """What the rank holds without ZeRO."""
        return self.dense + self.expert

    def sharded(self, plan: Plan) -> Num:
        """Its share of what ZeRO divides. Experts are already spread over EP, so only dp/ep copies are left to divide."""
        return plan.replicas * (self.dense / plan.dp + self.expert * plan.ep / plan.dp)


def rank_parameters(work: LayeredWork, plan: Plan, layers: Num, ends: Num) -> RankParameters:
    """Parameters of a rank whose stage has ``layers`` layers and ``ends`` embedding and head parameters."""
    expert = layers * work.expert_parameters / (plan.tp * plan.ep)
    return RankParameters((layers * work.layer_parameters + ends) / plan.tp, expert)


def first_stage_ends(work: LayeredWork, plan: Plan) -> Num:
    """Embedding parameters at the first stage, with the head where it is also the last."""
    head = work.head_parameters - work.tied_parameters
    return work.embedding_parameters + where(plan.pp == 1, head, 0.0)


def last_stage_ends(work: LayeredWork, plan: Plan) -> Num:
    """Head parameters at the last stage, with the embedding where it is also the first."""
    embedding = work.embedding_parameters - work.tied_parameters
    return work.head_parameters + where(plan.pp == 1, embedding, 0.0)


def largest_rank(work: LayeredWork, plan: Plan) -> RankParameters:
    """The fullest stage's parameters: the slowest to reduce and to update."""
    full, _ = stage_layers(work.layers, plan.pp)
    return rank_parameters(work, plan, full, maximum(first_stage_ends(work, plan), last_stage_ends(work, plan)))
