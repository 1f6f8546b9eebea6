"""A parallel plan as numbers: each field a float, or an array with one element a plan."""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.physics.numeric import Num, ceil, floor, maximum, minimum, where

GPIPE, ONE_F_ONE_B, INTERLEAVED = 0, 1, 2
SCHEDULES = ("gpipe", "1f1b", "interleaved")


@dataclass(frozen=True, slots=True)
class Plan:
    """How a step is split. Ranks are laid out TP innermost, then DP (with EP inside it), PP outermost.

    Attributes:
        tp, pp, dp, ep: ranks of tensor, pipeline, data and expert parallelism (EP divides DP).
        virtual_stages: model chunks a rank (interleaved schedule), else 1.
        micro_batches: passes through the pipeline in a step.
        micro_batch_tokens: tokens of one micro-batch of one data-parallel rank.
        zero_stage: 0 to 3.
        sequence_parallel: 1.0 where norms and residuals are split over TP, else 0.0.
        recompute: ``work.NONE``, ``SELECTIVE`` or ``FULL``.
        schedule: ``GPIPE``, ``ONE_F_ONE_B`` or ``INTERLEAVED``.
        weight_B, gradient_B, optimizer_B: bytes a parameter.
        replicas: groups of data-parallel ranks that each hold all shards (hybrid sharding); 1: ZeRO divides over all of them.
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
    replicas: Num = 1.0

    @property
    def ranks(self) -> Num:
        """Accelerators."""
        return self.tp * self.pp * self.dp

    def ranks_in_node(self, group: Num, stride: Num, per_node: float) -> Num:
        """How many of a group's ranks, ``stride`` apart, share a node."""
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
    held = where(plan.schedule == GPIPE, plan.micro_batches, where(plan.schedule == INTERLEAVED, interleaved, plan.pp))
    return where(plan.pp == 1, 1.0, minimum(plan.micro_batches, held))


def held_by_last_stage(plan: Plan) -> Num:
    """The same at the last stage, which finishes a micro-batch before it takes the next unless the schedule is GPipe."""
    interleaved = 1 + (plan.pp - 1) * (plan.virtual_stages - 1) / plan.virtual_stages
    held = where(plan.schedule == GPIPE, plan.micro_batches, where(plan.schedule == INTERLEAVED, interleaved, 1.0))
    return where(plan.pp == 1, 1.0, minimum(plan.micro_batches, held))
