"""From passes to what a user of a server sees: a fixed batch, a fixed number of requests in flight, and the most it can do.

Source: Yu et al., "Orca", OSDI 2022 (iteration-level scheduling); Agrawal et al., "Sarathi-Serve", OSDI 2024, arXiv:2403.02310
(chunked prefill).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

from mlsysim.physics.numeric import Num, maximum, minimum, where
from mlsysim.physics.serving_deployment import EngineCoefficients, EngineKernels, ServingKernels, ServingShape, Shards
from mlsysim.physics.serving_step import PassTime, decode_pass, mixed_prefill_s, prefill_pass


class Step(Protocol):
    """A decode step and what it consists of."""

    @property
    def total_s(self) -> Num:
        """The whole step."""

    def parts(self) -> tuple[dict[str, float], str]:
        """Seconds by name, and what limits the step."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a schedule comes to.

    Attributes:
        ttft_s: from a request's arrival to its first token, queueing for a place in the batch included.
        tpot_s: time per output token after the first, mean.
        request_s: whole request.
        tokens_per_s: output tokens of all sequences.
        batch: sequences decoded together.
        step: one decode step of them.
    """

    ttft_s: Num
    tpot_s: Num
    request_s: Num
    tokens_per_s: Num
    batch: Num
    step: Step


class Passes(Protocol):
    """What every schedule needs of a deployment: the time of its passes, in seconds."""

    def prefill_s(self, batch: Num, prompt: Num) -> Num:
        """The prompts of ``batch`` sequences, alone."""

    def decode(self, batch: Num, context: Num) -> Step:
        """One token of ``batch`` sequences."""

    def joining_s(self, step: Step, batch: Num, prompt: Num, tokens_a_step: Num) -> Num:
        """What one prompt adds to the decode ``step`` of ``batch`` sequences; several may join one step."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A model on its accelerators under an engine, whose passes consist of measured kernels."""

    shape: ServingShape
    shards: Shards
    kernels: ServingKernels
    engine: EngineCoefficients
    has: EngineKernels
    step_tokens: Num = 8192.0

    def prefill(self, batch: Num, prompt: Num) -> PassTime:
        """The prompts of ``batch`` sequences, part by part."""
        return prefill_pass(self.shape, batch, prompt, self.shards, self.kernels, self.engine, self.has)

    def prefill_s(self, batch: Num, prompt: Num) -> Num:
        """The prompts of ``batch`` sequences."""
        return self.prefill(batch, prompt).total_s

    def decode(self, batch: Num, context: Num) -> PassTime:
        """One token of ``batch`` sequences."""
        return decode_pass(self.shape, batch, context, self.shards, self.kernels, self.engine, self.has)

    def joining_s(self, step: Step, batch: Num, prompt: Num, tokens_a_step: Num) -> Num:
        """What one prompt adds to the decode ``step`` of ``batch`` sequences; several may join one step."""
        tokens = maximum(minimum(prompt, self.step_tokens), tokens_a_step)
        added_s = mixed_prefill_s(
            self.shape, cast("PassTime", step), batch, prompt, tokens, self.shards, self.kernels, self.engine, self.has
        )
        return self.engine.interleave * added_s * prompt / tokens


def static_batch(passes: Passes, batch: Num, prompt: Num, output: Num, context: Num) -> Served:
    """A fixed batch: all prompts together, then ``output - 1`` steps at the mean ``context``; nobody joins, nobody leaves.

    Tokens per second count ``batch output`` tokens over the whole request, prefill included.
    """
    first_s = passes.prefill_s(batch, prompt)
    step = passes.decode(batch, context)
    step_s = step.total_s
    request_s = first_s + maximum(output - 1, 0.0) * step_s
    return Served(first_s, step_s, request_s, batch * maximum(output, 1.0) / request_s, batch, step)


def continuous_batch(passes: Passes, concurrency: Num, most: Num, prompt: Num, output: Num, rounds: Num = 0.0) -> Served:
    """``concurrency`` requests always in flight, of which at most ``most`` fit: a new one starts when one ends.

    Between two tokens of a sequence lies a step of the batch and, as often as others start, their prompts, which join it:
    TPOT = step(B) + (B - 1)/output x prompt in a step. A prompt waits for those before it (they are served in turn: M/D/1), and
    who finds no place in the batch for (C - B) others to end. ``rounds``: requests of each slot in all; the first of each come
    all at once, so that their prompts queue (0: steady state, none do).
    """
    batch = minimum(concurrency, most)
    step = passes.decode(batch, prompt + output / 2)
    step_s = step.total_s
    joined_s = passes.joining_s(step, batch, prompt, batch * prompt / output)
    tpot_s = step_s + (batch - 1) / output * joined_s
    alone_s = passes.prefill_s(1.0, prompt)
    busy = minimum(batch / output * joined_s / tpot_s, 0.95)
    queued_s = busy / (2 * (1 - busy)) * joined_s
    burst_s = where(rounds > 0, (batch - 1) / 2 / maximum(rounds, 1.0), 0.0) * joined_s
    waiting_s = (concurrency - batch) / batch * output * tpot_s
    ttft_s = alone_s + step_s / 2 + queued_s + burst_s + waiting_s
    request_s = ttft_s + (output - 1) * tpot_s
    return Served(ttft_s, tpot_s, request_s, concurrency * output / request_s, batch, step)


def most_throughput(passes: Passes, most: Num, prompt: Num, output: Num) -> Served:
    """As many sequences as fit, without end: every step decodes all, and the prompts of those that start join it.

    Tokens per second = B / (step(B) + B / output x prompt in a step).
    """
    step = passes.decode(most, prompt + output / 2)
    step_s = step.total_s
    joined_s = passes.joining_s(step, most, prompt, most * prompt / output)
    tpot_s = step_s + most / output * joined_s
    first_s = passes.prefill_s(1.0, prompt)
    return Served(first_s, tpot_s, first_s + (output - 1) * tpot_s, most / tpot_s, most, step)
