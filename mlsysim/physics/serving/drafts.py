"""Decode steps that check drafted tokens: rounds of drafts and one pass over them, in every schedule.

Source: Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", ICML 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

from mlsysim.physics.numeric import Num
from mlsysim.physics.serving.passes import PassTime
from mlsysim.physics.serving.schedule import Passes, PassesOver, Step


class CheckedStep(Step, Protocol):
    """A decode step of B (k + 1) sequences that can stand for k + 1 tokens of each of B."""

    def checking(self, alone: Step) -> Step:
        """The pass over k + 1 tokens of each of B sequences, where ``alone`` is a decode step of these."""


@dataclass(frozen=True, slots=True)
class Round:
    """A round of drafting.

    Attributes:
        check: the pass over drafted tokens and one more of each sequence, which reads each sequence's cache once.
        draft: one step of what drafts; of the model's own module, None.
        drafts_s: seconds of all drafts.
    """

    check: Step
    draft: Step | None
    drafts_s: Num

    @property
    def total_s(self) -> Num:
        """Seconds of the whole round."""
        return self.check.total_s + self.drafts_s

    def parts(self) -> tuple[dict[str, float], str]:
        """Seconds by name, and the longer of both."""
        seconds = {"drafts": float(self.drafts_s), "check of drafts": float(self.check.total_s)}
        return seconds, max(seconds, key=lambda part: seconds[part])


@dataclass(frozen=True, slots=True)
class DraftedPasses(PassesOver):
    """Passes of a model whose decode steps are rounds of ``length`` drafts, at the mean ``context`` of a request.

    ``draft`` has the passes of a model that drafts, on the same ranks in turn; None stands for a module of the model's own, one
    more layer with the model's head for each drafted token (multi-token prediction), of a model of ``layers``.

    Source: DeepSeek-AI, "DeepSeek-V3 Technical Report", arXiv:2412.19437, section 2.2 (a module is a block and a shared head).
    """

    draft: Passes | None
    length: float
    context: float
    layers: float

    def prefill_s(self, batch: Num, prompt: Num) -> Num:
        """The prompts of ``batch`` sequences, which what drafts computes, too."""
        whole_s = self.whole.prefill_s(batch, prompt)
        if self.draft is None:
            return whole_s + (whole_s - self.whole.front_s) / self.layers
        return whole_s + self.draft.prefill_s(batch, prompt) - self.draft.front_s

    def decode(self, batch: Num, context: Num) -> Round:
        """One round of ``batch`` sequences; a schedule that counts rounds does not know the ``context`` in tokens."""
        alone = cast("CheckedStep", self.whole.decode(batch, self.context))
        wide = cast("CheckedStep", self.whole.decode(batch * (self.length + 1), self.context))
        drafting = None if self.draft is None else self.draft.decode(batch, self.context)
        each_s = self._module_s(alone) if drafting is None else drafting.total_s
        return Round(wide.checking(alone), drafting, self.length * each_s)

    def joining_s(self, step: Step, batch: Num, prompt: Num, beside: Num, hidden: Num) -> Num:
        """Seconds that one prompt adds to the round that it joins: to its check, and to one of its drafts."""
        drafted = cast("Round", step)
        joined_s = self.whole.joining_s(drafted.check, batch * (self.length + 1), prompt, beside, hidden)
        if self.draft is None or drafted.draft is None:
            return joined_s * (1 + 1 / self.layers)
        return joined_s + self.draft.joining_s(drafted.draft, batch, prompt, beside, hidden)

    def _module_s(self, alone: Step) -> Num:
        """A layer's part of a step, and all of the head."""
        head_s = alone.head_s if isinstance(alone, PassTime) else 0.0
        return head_s + (alone.total_s - head_s) / self.layers
