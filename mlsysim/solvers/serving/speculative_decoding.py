"""A draft model that proposes, a target that checks: ``SpeculativeDecodingModel``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack, cast

import numpy as np

from mlsysim.core.checks import real_number, strict_keywords, whole_number
from mlsysim.core.errors import InconsistentError
from mlsysim.core.units import Quantity, with_unit, with_units
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.feasibility import over_budget
from mlsysim.lowering.options import FormatOptions
from mlsysim.lowering.serving_kernels import coefficients_used
from mlsysim.models.types import TransformerWorkload
from mlsysim.physics.serving.drafts import CheckedStep
from mlsysim.physics.serving.speculation import expected_tokens
from mlsysim.solvers.result import Result
from mlsysim.solvers.serving.replica import ServingReplica, whole_batches
from mlsysim.systems.types import Fleet, Node

# Longest draft that is tried where nobody says.
_LONGEST = 16


@dataclass(frozen=True, kw_only=True)
class SpeculativeResult(Result):
    """Latencies and rate that drafting reaches.

    Attributes:
        draft_len: tokens that the draft proposes each round (0: drafting does not pay).
        tokens_per_round: expected, of one sequence.
        itl: mean time per token; ``plain_itl``: of the target alone; ``speedup``: their ratio.
        round_latency: drafts and the pass that checks them.
        tokens_per_second: of the whole batch while it decodes.
        memory_per_accelerator: weights and KV cache of both models.
        speedups: of each draft length that was tried.
    """

    HEADLINE = ("draft_len", "speedup", "itl", "plain_itl", "tokens_per_round")

    draft_len: int
    tokens_per_round: float
    itl: Quantity
    plain_itl: Quantity
    speedup: float
    round_latency: Quantity
    tokens_per_second: Quantity
    memory_per_accelerator: Quantity
    speedups: dict[int, float]


class SpeculativeDecodingModel:
    """Rounds of k drafted tokens and one pass of the target over k + 1 (Leviathan et al. 2023)."""

    @strict_keywords
    def solve(
        self,
        workload: TransformerWorkload,
        draft: TransformerWorkload,
        hardware: HardwareNode | Node | Fleet,
        *,
        acceptance: float,
        draft_len: int | None = None,
        batch_size: int = 1,
        output_len: int | None = None,
        tp_size: int = 1,
        draft_tp_size: int | None = None,
        **options: Unpack[FormatOptions],
    ) -> SpeculativeResult:
        """The gain of a draft length, or the length with the largest gain.

        Args:
            workload: the target, a decoder.
            draft: what proposes, on the same accelerators, in turn with the target.
            hardware: one accelerator, a node or a fleet.
            acceptance: chance that the target accepts a drafted token, 0 to 1.
            draft_len: tokens a round; by default the best from 0 (none) to 16.
            batch_size: sequences decoded together.
            output_len: tokens that a request generates: then the context is its mean.
            tp_size: accelerators that share each layer of the target.
            draft_tp_size: of the draft; by default the same.
            **options: see ``FormatOptions``; without ``output_len``, ``input_len`` is the context of the step.

        Raises:
            InputError: an argument out of range.

        Example:
            >>> from mlsysim import Hardware, Models, Systems
            >>> models = Models.Language.Llama2_70B, Models.Language.Llama3_8B
            >>> load = dict(acceptance=0.8, input_len=1024)
            >>> run = SpeculativeDecodingModel().solve(*models, Systems.Nodes.DGX_H100, tp_size=4, **load)
            >>> run.draft_len > 1, 1.5 < run.speedup < 5
            (True, True)
        """
        chance = real_number("acceptance", acceptance, 0.0, 1.0)
        drafts_on = tp_size if draft_tp_size is None else draft_tp_size
        target, proposer = (
            ServingReplica.of(
                Deployment.of(model, hardware, **options, batch_size=batch_size, output_len=output_len, tp_size=ranks)
            )
            for model, ranks in ((workload, tp_size), (draft, drafts_on))
        )
        setting = target.deployment
        if not (workload.causal and draft.causal):
            raise InconsistentError("workload", setting.workload.name, "a decoder, and a decoder for a draft")
        if drafts_on > tp_size:
            raise InconsistentError("draft_tp_size", drafts_on, f"at most tp_size {tp_size}: the draft lies beside the target")
        # One length stays a float, which Python reckons with in a fifth of the time that an array of one takes.
        lengths = whole_batches(0, _LONGEST) if draft_len is None else float(whole_number("draft_len", draft_len, 0))
        batch, context = setting.batch, setting.context
        each_s = float(proposer.passes.decode(batch, context).total_s)
        alone, wide = (cast("CheckedStep", target.passes.decode(many, context)) for many in (batch, batch * (lengths + 1)))
        plain_s = float(alone.total_s)
        checks_s, tokens = wide.checking(alone).total_s, expected_tokens(lengths, chance)
        speedups = plain_s * tokens / (lengths * each_s + checks_s)
        columns = speedups, lengths, tokens, checks_s
        tried = [tuple(map(float, columns))] if draft_len is not None else np.stack(columns, axis=1).tolist()
        speedup, long, yielded, check_s = max(tried, key=lambda one: one[0])
        length = int(long)
        parts_s = {"drafts": length * each_s, "check": check_s}
        reason, needed_B = _no_room(target, proposer, batch)
        return SpeculativeResult(
            solver="SpeculativeDecodingModel",
            subject=f"{setting.workload.name} drafted by {draft.name}, batch {batch:.0f} at {context:.0f} "
            f"tokens on {target.accelerators} x {setting.accelerator.name}",
            basis=setting.basis,
            reason=reason,
            binding="memory capacity" if reason else max(parts_s, key=lambda name: parts_s[name]),
            breakdown=with_units(parts_s, "second"),
            diagnostics=_vocabularies(setting.workload, draft),
            coefficients=coefficients_used(setting),
            draft_len=length,
            tokens_per_round=yielded,
            itl=with_unit(plain_s / speedup, "second"),
            plain_itl=with_unit(plain_s, "second"),
            speedup=speedup,
            round_latency=with_unit(sum(parts_s.values()), "second"),
            tokens_per_second=with_unit(batch * speedup / plain_s, "count/second"),
            memory_per_accelerator=with_unit(needed_B, "byte"),
            speedups={int(one[1]): one[0] for one in tried},
        )


def _vocabularies(target: TransformerWorkload, draft: TransformerWorkload) -> tuple[str, ...]:
    if target.vocab_size == draft.vocab_size:
        return ()
    return (f"vocabularies differ ({target.vocab_size} and {draft.vocab_size}): drafted tokens are checked in a shared one",)


def _no_room(target: ServingReplica, proposer: ServingReplica, batch: float) -> tuple[str, float]:
    """Why both models and their caches do not fit, with the bytes, else empty; and what an accelerator holds."""
    parts_B = {"weights": target.held.weights_B, "draft's weights": proposer.held.weights_B}
    caches_B = [batch * replica.held.each_kv_B / replica.held.shards for replica in (target, proposer)]
    parts_B |= {"KV cache": caches_B[0], "draft's KV cache": caches_B[1]}
    needed_B = sum(parts_B.values())
    device = target.deployment.accelerator
    who = f"each of {target.accelerators}" if target.accelerators > 1 else "one"
    return over_budget(needed_B, device, who, parts_B, target.held.usable_B), needed_B
