"""How a serving deployment divides attention and experts over the ranks of a stage: its arguments, checked."""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.core.checks import boolean, real_number, whole_number
from mlsysim.core.errors import InconsistentError
from mlsysim.models.types import TransformerWorkload


@dataclass(frozen=True, slots=True)
class ExpertPlan:
    """Routed experts on the ranks of a stage.

    Attributes:
        ep: parts that they are dealt out to; with 1 each rank has a part of the width of all of them.
        redundant: second copies of busy experts.
        imbalance: tokens of the busiest part over the mean; 0: what chance makes of even routing, and of placed second copies.
        overlapped: whether one half of the tokens computes while those of the other are exchanged.
    """

    ep: int = 1
    redundant: int = 0
    imbalance: float = 0.0
    overlapped: bool = False

    def of_a_rank(self, workload: TransformerWorkload) -> float:
        """Routed experts of a layer that a rank holds, or a part of the width of each of."""
        return 0.0 if workload.moe is None else (workload.moe.experts + self.redundant) / self.ep


WHOLE = ExpertPlan()
_PER_SECOND_COPY = 8


def attention_groups(value: object, tp: int) -> int:
    """Groups of the ``tp`` ranks of a stage that attend for sequences of their own; True: each rank is one.

    Raises:
        InputError: neither a truth value nor a divisor of ``tp``.

    Example:
        >>> attention_groups(True, 8), attention_groups(False, 8), attention_groups(2, 8)
        (8, 1, 2)
    """
    if isinstance(value, bool):
        return tp if value else 1
    groups = whole_number("attention_dp", value)
    if tp % groups:
        raise InconsistentError("attention_dp", value, f"True, False or a divisor of tp_size = {tp}")
    return groups


def check_experts(
    workload: TransformerWorkload,
    tp: int,
    per_node: int,
    groups: int,
    *,
    ep_size: object = 1,
    redundant_experts: object = None,
    routing_imbalance: object = None,
    two_batch_overlap: object = None,
) -> ExpertPlan:
    """The division of the routed experts, checked.

    Engines deal out as many experts to each part (SGLang: experts + redundant ones divide by ep; TensorRT-LLM: ep divides tp).
    Published deployments over several nodes compute one half of a batch while the other is exchanged (DeepSeek, LMSYS), and
    have a second copy of an eighth of their experts (DeepSeek-AI, open-infra-index, day 6: 32 of 256, in prefill and decode).

    Args:
        workload: the model.
        tp: ranks of a stage.
        per_node: ranks of a node.
        groups: groups of ranks with sequences of their own.
        ep_size: parts that the experts are dealt out to.
        redundant_experts: second copies of experts; None: the fewest with which each part has as many, of experts on
            several nodes, of which nothing else is said, at least an eighth.
        routing_imbalance: tokens of the busiest part over the mean; None: what chance makes of even routing.
        two_batch_overlap: whether halves of a batch overlap; None: where experts lie on several nodes.

    Raises:
        InputError: one is out of range, or two contradict each other.

    Example:
        >>> from mlsysim.models.registry import Models
        >>> plan = check_experts(Models.get("deepseek_v3"), 72, 8, 72, ep_size=72)
        >>> plan.redundant, plan.overlapped
        (32, True)
    """
    ep, moe = whole_number("ep_size", ep_size), workload.moe
    if ep == 1:
        for name, value in (("redundant_experts", redundant_experts), ("routing_imbalance", routing_imbalance)):
            if value is not None:
                raise InconsistentError(name, value, "left out with ep_size = 1: all ranks share every expert")
    if two_batch_overlap is not None and boolean("two_batch_overlap", two_batch_overlap) and (ep == 1 or groups == 1):
        raise InconsistentError("two_batch_overlap", True, "ep_size > 1 and attention_dp: no tokens travel to experts else")
    if ep == 1:
        return WHOLE
    if moe is None:
        raise InconsistentError("ep_size", ep, f"1: {workload.name} has no experts")
    if tp % ep:
        raise InconsistentError("ep_size", ep, f"a divisor of the {tp} ranks of a stage (tp_size)")
    spread = tp > per_node and groups > 1
    if redundant_experts is None:
        least = moe.experts // _PER_SECOND_COPY if spread and two_batch_overlap is None else 0
        redundant = least + -(moe.experts + least) % ep
    else:
        redundant = whole_number("redundant_experts", redundant_experts, 0, moe.experts)
        if (moe.experts + redundant) % ep:
            expected = f"a number that, with the {moe.experts} experts of {workload.name}, divides by ep_size = {ep}"
            raise InconsistentError("redundant_experts", redundant, expected)
    if redundant > moe.experts:
        raise InconsistentError("ep_size", ep, f"at most {2 * moe.experts}: two copies of each expert of {workload.name}")
    imbalance = 0.0 if routing_imbalance is None else real_number("routing_imbalance", routing_imbalance, 1.0, float(ep))
    return ExpertPlan(ep, redundant, imbalance, overlapped=spread if two_batch_overlap is None else bool(two_batch_overlap))
