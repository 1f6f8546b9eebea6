"""The assembly of a training step from its parts: which collectives hide under which compute, and the pipeline.

Sources: Narayanan et al. 2021 (pipelines), Rajbhandari et al. 2020 (ZeRO).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, cast

from mlsysim.physics.numeric import Num, maximum, minimum, where
from mlsysim.physics.plan import Plan, stage_layers


@dataclass(frozen=True, slots=True)
class StepParts:
    """Seconds of the pieces of one step on one rank, before anything hides.

    Attributes:
        layer_s: forward and backward of one layer and micro-batch.
        recompute_s: what the backward pass repeats of that layer.
        head_s: the output head of one micro-batch.
        tp_s, ep_s: tensor- and expert-parallel collectives of one layer and micro-batch.
        send_s: what one micro-batch sends across one stage boundary, both ways.
        dp_s: gradient and weight traffic of the step.
        optimizer_s: the update of the weights.
        cp_s: the ring of context-parallel ranks of one layer and micro-batch.
        cp_window_s: what that ring can hide under: attention, and what the layer's arithmetic waits for.
        head_spread: 1.0 where the last stage has as many layers fewer as the output head takes time.
        replica_s: reduction between replicas of shards, after the last gradient: nothing is left to hide it.
    """

    layer_s: Num
    recompute_s: Num
    head_s: Num
    tp_s: Num
    ep_s: Num
    send_s: Num
    dp_s: Num
    optimizer_s: Num
    cp_s: Num
    cp_window_s: Num
    head_spread: Num
    replica_s: Num


@dataclass(frozen=True, slots=True)
class Overlap:
    """Shares of the collectives that hide under compute.

    Attributes:
        tp, cp, ep, pp, dp: the part of each collective that hides where there is compute enough to hide it.
        whole_step: gradients may hide under the compute of the whole step (the caller's own share, and the bound); else
            only under that of the micro-batch whose gradients they are.
    """

    tp: Num = 1.0
    ep: Num = 1.0
    pp: Num = 1.0
    dp: Num = 1.0
    whole_step: bool = False
    cp: Num = 1.0

    @classmethod
    def of_all(cls, share: Num, whole_step: bool = False) -> Overlap:
        """Let every collective hide by one common ``share``."""
        return cls(share, share, share, share, whole_step, share)


class Parts:
    """A base of dataclasses whose fields are seconds of the parts of a whole."""

    __slots__ = ()

    @property
    def total_s(self) -> Num:
        """Seconds of all parts together."""
        return sum(self.each_s().values(), start=0.0)

    def each_s(self) -> dict[str, Num]:
        """The seconds of each part, by its name without "_s"."""
        return {part.name.removesuffix("_s"): getattr(self, part.name) for part in fields(cast("Any", self))}


@dataclass(frozen=True, slots=True)
class StepTime(Parts):
    """Seconds of one step on one rank; the parts sum to the total.

    ``bubble_s`` is the time that a rank of mean load waits for the pipeline: fill, drain and uneven stages.
    """

    compute_s: Num
    recompute_s: Num
    tp_exposed_s: Num
    cp_exposed_s: Num
    ep_exposed_s: Num
    pp_exposed_s: Num
    dp_exposed_s: Num
    bubble_s: Num
    optimizer_s: Num


def assemble_step(layers: Num, parts: StepParts, plan: Plan, overlap: Overlap) -> StepTime:
    """Add up a step from its parts.

    Collectives take turns under the compute of their layer: tensor parallelism first, then the ring of context parallelism
    (under attention, and while arithmetic waits for memory or the host), then experts, then the sends between stages, then data
    parallelism under what is left. Together they never hide under more compute than there is.
    """
    window = parts.layer_s + parts.recompute_s
    tp_hidden = overlap.tp * minimum(parts.tp_s, window)
    cp_hidden = overlap.cp * minimum(parts.cp_s, minimum(parts.cp_window_s, window - tp_hidden))
    ep_hidden = overlap.ep * minimum(parts.ep_s, window - tp_hidden - cp_hidden)
    # Only what every stage has can hide what every stage waits for: the emptiest one sets it.
    _, emptiest_layers = stage_layers(layers, plan.pp)
    left_window = (window - tp_hidden - cp_hidden - ep_hidden) * emptiest_layers
    send_hidden = overlap.pp * minimum(parts.send_s, left_window)
    passes_under = plan.micro_batches if overlap.whole_step else where(plan.zero_stage >= 2, plan.micro_batches, 1.0)
    dp_hidden = overlap.dp * minimum(parts.dp_s, (left_window - send_hidden) * passes_under)

    block = window + (parts.tp_s - tp_hidden) + (parts.cp_s - cp_hidden) + (parts.ep_s - ep_hidden)
    send = parts.send_s - send_hidden
    pipeline, busy = pipeline_s(layers, plan, block, parts.head_s, send, parts.head_spread)
    passes = plan.micro_batches * layers / plan.pp
    return StepTime(
        compute_s=plan.micro_batches * (parts.layer_s * layers + parts.head_s) / plan.pp,
        recompute_s=parts.recompute_s * passes,
        tp_exposed_s=(parts.tp_s - tp_hidden) * passes,
        cp_exposed_s=(parts.cp_s - cp_hidden) * passes,
        ep_exposed_s=(parts.ep_s - ep_hidden) * passes,
        pp_exposed_s=send * plan.micro_batches,
        dp_exposed_s=parts.dp_s - dp_hidden + parts.replica_s,
        bubble_s=pipeline - busy,
        optimizer_s=parts.optimizer_s,
    )


def pipeline_s(layers: Num, plan: Plan, layer_s: Num, head_s: Num, send_s: Num, head_spread: Num = 0.0) -> tuple[Num, Num]:
    """Time of all micro-batches through the pipeline, and the mean busy time of a stage in it.

    The slowest stage works through all m micro-batches; one micro-batch also passes the other stages once, to fill and
    drain the pipeline, which interleaving by v chunks shortens v-fold (Narayanan et al. 2021, section 2.2):
    m slowest + (sum of stages - slowest) / v. The output head sits on the last stage; with ``head_spread`` that has fewer
    layers for it: no stage is slower than the fullest by layers, or than the mean.

    Example:
        >>> from mlsysim.physics.plan import Plan
        >>> plan = Plan(1, 4, 1, 1, 1, 8, 1, 0, 0, 0, 1, 2, 2, 12, 1, 0, 1)
        >>> total, busy = pipeline_s(32, plan, 1.0, 0.0, 0.0)
        >>> float(total), float(busy)
        (88.0, 64.0)
    """
    fullest_layers, emptiest_layers = stage_layers(layers, plan.pp)
    last_s = where(head_spread > 0, (layers * layer_s + head_s) / plan.pp, emptiest_layers * layer_s + head_s)
    slowest_s = maximum(fullest_layers * layer_s, last_s) + send_s
    all_stages_s = layers * layer_s + head_s + plan.pp * send_s
    ramp = (all_stages_s - slowest_s) / plan.virtual_stages
    return plan.micro_batches * slowest_s + ramp, plan.micro_batches * all_stages_s / plan.pp
