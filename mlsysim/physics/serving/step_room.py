"""The room that prompts have in the steps of a running batch, and what follows from it for all schedules.

A scheduler that batches by iteration gives a step so many tokens: first one to each sequence that decodes, and what is left to
parts of prompts. Over the O steps of a request, in which a batch of B starts B prompts of P tokens, all steps together take
B (P + O) tokens, so that no more than T O / (P + O) sequences decode at a time however many requests are in flight: more have
their prompts in line.

Sources: Agrawal et al., "Sarathi-Serve", OSDI 2024, arXiv:2403.02310 (chunked prefill: decodes first, prompts fill the rest of
a token budget); vLLM, v1/core/sched/scheduler.py (running sequences take of ``token_budget`` before waiting ones; evidence:
recalled).
"""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.physics.kernels.alpha_beta import distinct_targets
from mlsysim.physics.numeric import Num, maximum, minimum


def prompts_together(batch: Num, output: Num) -> Num:
    """Prompts that join a step which any join: B requests, that start at random, join O (1 - (1 - 1/O)^B) of O steps.

    Example:
        >>> prompts_together(1.0, 64.0), prompts_together(48.0, 1.0), round(prompts_together(16.0, 64.0), 3)
        (1.0, 48.0, 1.122)
    """
    return batch / distinct_targets(output, batch)


def tokens_left(tokens: Num, decoding: Num) -> Num:
    """Tokens of prompts that a step of ``tokens`` has room for beside those of sequences that decode, one at least.

    Example:
        >>> tokens_left(512.0, 12.0), tokens_left(512.0, 600.0)
        (500.0, 1.0)
    """
    return maximum(tokens - decoding, 1.0)


@dataclass(frozen=True, slots=True)
class StepRoom:
    """Requests of ``prompt`` tokens and ``output`` steps, whose prompts are computed in the steps of those that decode.

    Each field is a float, or an array with an element for each question.

    Attributes:
        tokens: T, that a group of ranks computes in a step, counted as those of prompts; infinite where it has room for any.
        groups: G, groups of ranks that attend for sequences of their own: each has a step's room of its own.
        sequence_tokens: t, of that room, that a request takes which decodes.
        prompt: P, tokens of a prompt.
        output: O, steps that a request decodes in, mean.
    """

    tokens: Num
    groups: Num
    sequence_tokens: Num
    prompt: Num
    output: Num

    @property
    def most_decoding(self) -> Num:
        """Requests that decode at a time at most, where prompts fill the rest of every step: G T O / (P + t O), or a lone one.

        Example:
            >>> room = StepRoom(512.0, 1.0, 1.0, 3000.0, 128.0)
            >>> round(room.most_decoding, 2), StepRoom(512.0, 2.0, 1.0, 448.0, 64.0).most_decoding
            (20.95, 128.0)
        """
        return maximum(self.groups * self.tokens * self.output / (self.prompt + self.sequence_tokens * self.output), 1.0)

    @property
    def more_steps(self) -> Num:
        """Steps that a request takes beyond its output where not even one could decode all the time: (P + t O) / G T - O.

        Example:
            >>> StepRoom(512.0, 1.0, 1.0, 3000.0, 128.0).more_steps, StepRoom(512.0, 1.0, 1.0, 3068.0, 4.0).more_steps
            (0.0, 2.0)
        """
        taken = (self.prompt + self.sequence_tokens * self.output) / (self.groups * self.tokens)
        return maximum(taken - self.output, 0.0)

    def left(self, batch: Num) -> Num:
        """Tokens of prompts that a group has room for beside its part of ``batch`` requests that decode, one at least.

        Example:
            >>> StepRoom(512.0, 2.0, 1.0, 3000.0, 128.0).left(24.0)
            500.0
        """
        return tokens_left(self.tokens, self.sequence_tokens * batch / self.groups)

    def steps(self, batch: Num) -> Num:
        """Steps that the parts of one prompt are computed in, as a mean: P / left, or one.

        Example:
            >>> StepRoom(512.0, 1.0, 1.0, 3000.0, 128.0).steps(12.0), StepRoom(512.0, 1.0, 1.0, 100.0, 128.0).steps(12.0)
            (6.0, 1.0)
        """
        return maximum(self.prompt / self.left(batch), 1.0)

    def beside(self, batch: Num, together: Num) -> Num:
        """Tokens of others in a step with a prompt, of which ``together`` would be computed at once, as far as there is room.

        Of a prompt that is too long for a step each has a part: a group of ranks computes its parts one after the other.

        Example:
            >>> room = StepRoom(512.0, 1.0, 1.0, 100.0, 128.0)
            >>> room.beside(12.0, 3.0), room.beside(12.0, 9.0), StepRoom(512.0, 1.0, 1.0, 3000.0, 128.0).beside(12.0, 3.0)
            (200.0, 400.0, 0.0)
            >>> StepRoom(512.0, 8.0, 1.0, 2000.0, 128.0).beside(96.0, 3.0)  # parts of two others, in their groups
            1000.0
        """
        left = self.left(batch)
        part = minimum(self.prompt, left)
        return minimum(part * (together - 1), self.groups * left - part)

    def usually_beside(self, batch: Num) -> Num:
        """Tokens of other prompts in a step that any join, mean, where B requests start at random and take ``steps`` each.

        A prompt of n steps is in n of O steps: as many are met as of prompts of a step in O / n steps.

        Example:
            >>> round(StepRoom(512.0, 8.0, 1.0, 100.0, 64.0).usually_beside(16.0), 1)  # 1.122 of them, as of one group
            12.2
            >>> round(StepRoom(504.0, 8.0, 1.0, 2000.0, 64.0).usually_beside(32.0) / 500)  # four steps of 64: of 16, 2 at once
            1
        """
        return self.beside(batch, prompts_together(batch, maximum(self.output / self.steps(batch), 1.0)))

    def left_free(self, batch: Num, beside: Num) -> Num:
        """Share of the steps that no prompt joins, where each of B requests fills j of O steps: 1 - B j / O or none.

        A prompt, or as much of it as a step has room for, joins ``beside`` tokens of others: j = prompt / tokens of such a
        step. Prompts that have no room beside each other, or are too long for a step, fill more steps than start at random.

        Example:
            >>> StepRoom(520.0, 1.0, 1.0, 1024.0, 64.0).left_free(8.0, 0.0)
            0.75
            >>> StepRoom(520.0, 1.0, 1.0, 512.0, 4.0).left_free(8.0, 0.0)
            0.0
        """
        joined = self.prompt / (minimum(self.prompt, self.left(batch)) + beside)
        return maximum(1 - batch * joined / self.output, 0.0)

    def after_free(self, batch: Num, beside: Num) -> Num:
        """Share of the steps with prompts that follow one without: only the first part of a prompt can.

        Example:
            >>> StepRoom(520.0, 1.0, 1.0, 1024.0, 64.0).after_free(8.0, 0.0)
            0.375
        """
        return self.left_free(batch, beside) / self.steps(batch)
