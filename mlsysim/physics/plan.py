"""A parallel plan as numbers: each field a float, or an array with one element a plan."""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.physics.numeric import Num, ceil, floor, maximum, minimum, where

GPIPE, ONE_F_ONE_B, INTERLEAVED = 0, 1, 2
SCHEDULES = ("gpipe", "1f1b", "interleaved")


@dataclass(frozen=True, slots=True)
class Plan:
    """The split of a step over ranks, which are laid out TP innermost, then CP, then DP, PP outermost.

    The TP x CP x DP ranks of a stage are laid out a second time for the experts: their own tensor parallelism innermost, then
    EP, then copies of the same experts (Liu et al. 2025, arXiv:2504.14960).

    Attributes:
        tp, pp, dp, ep: ranks of tensor, pipeline, data and expert parallelism.
        virtual_stages: model chunks a rank (interleaved schedule), else 1.
        micro_batches: passes through the pipeline in a step.
        micro_batch_tokens: tokens of one micro-batch on one rank (context parallelism has divided them).
        zero_stage: 0 to 3.
        sequence_parallel: 1.0 where norms and residuals are split over TP, else 0.0.
        recompute: ``work.NONE``, ``SELECTIVE`` or ``FULL``.
        schedule: ``GPIPE``, ``ONE_F_ONE_B`` or ``INTERLEAVED``.
        weight_B, gradient_B, optimizer_B: bytes a parameter.
        cp: ranks of context parallelism, which share each sequence.
        expert_tp: ranks that share one expert's matrices; 0.0 for as many as TP.
        shard_copies: groups of data-parallel ranks that each hold all shards (hybrid sharding); 1: ZeRO divides over all.
    """

    tp: Num
    pp: Num
    dp: Num
    ep: Num
    virtual_stages: Num
    micro_batches: Num
    micro_batch_tokens: Num
    zero_stage: Num
    sequence_parallel: Num
    recompute: Num
    schedule: Num
    weight_B: Num
    gradient_B: Num
    optimizer_B: Num
    cp: Num
    expert_tp: Num
    shard_copies: Num

    @property
    def ranks(self) -> Num:
        """The number of accelerators."""
        return self.tp * self.pp * self.dp * self.cp

    @property
    def data_ranks(self) -> Num:
        """The number of ranks that hold the same dense parameters: data and context parallel."""
        return self.dp * self.cp

    @property
    def expert_split(self) -> Num:
        """The number of ranks that share one expert's matrices."""
        return where(self.expert_tp > 0, self.expert_tp, self.tp)

    @property
    def expert_copies(self) -> Num:
        """The number of ranks that hold the same parameters of experts."""
        return self.tp * self.data_ranks / (self.expert_split * self.ep)

    @property
    def expert_shard_copies(self) -> Num:
        """The number of groups that each hold all shards of their experts: no more than there are copies of these."""
        return minimum(self.shard_copies, self.expert_copies)

    @property
    def routed_from(self) -> Num:
        """The number of ranks that divide a micro-batch's tokens before routing: those of TP, with sequence parallelism."""
        return where(self.sequence_parallel > 0, self.tp, 1.0)

    def ranks_in_node(self, group: Num, stride: Num, per_node: float) -> Num:
        """The number of a group's ranks, ``stride`` apart, that share a node."""
        return minimum(group, maximum(per_node // stride, 1.0))


def stage_layers(layers: Num, pp: Num) -> tuple[Num, Num]:
    """Layers of the fullest and of the emptiest stage: stages may be uneven, the first ones take what is left over.

    Example:
        >>> [float(n) for n in stage_layers(126, 4)]
        [32.0, 31.0]
    """
    return ceil(layers / pp), floor(layers / pp)


def held_by_first_stage(plan: Plan) -> Num:
    """Micro-batches whose activations the first stage holds at once.

    GPipe holds all; 1F1B holds pp; interleaving holds pp + (pp-1)/v (Korthikanti et al. 2022, section 4.2.3). Without a
    pipeline each micro-batch ends before the next begins.
    """
    interleaved = plan.pp + (plan.pp - 1) / plan.virtual_stages
    return _held(plan, interleaved, plan.pp)


def held_by_last_stage(plan: Plan) -> Num:
    """Micro-batches whose activations the last stage holds at once: one, unless the schedule holds several."""
    interleaved = 1 + (plan.pp - 1) * (plan.virtual_stages - 1) / plan.virtual_stages
    return _held(plan, interleaved, 1.0)


def _held(plan: Plan, interleaved: Num, alternating: Num) -> Num:
    """Micro-batches that a stage holds under the plan's schedule, of which it holds so many interleaved, or under 1F1B."""
    held = where(plan.schedule == GPIPE, plan.micro_batches, where(plan.schedule == INTERLEAVED, interleaved, alternating))
    return where(plan.pp == 1, 1.0, minimum(plan.micro_batches, held))
