"""Schedules of a server as its users see them: a fixed batch, a fixed number of requests in flight, and the most it can do.

Source: Yu et al., "Orca", OSDI 2022 (iteration-level scheduling); Agrawal et al., "Sarathi-Serve", OSDI 2024, arXiv:2403.02310
(chunked prefill).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, cast

from mlsysim.physics.numeric import Num, maximum, minimum, where
from mlsysim.physics.serving.deployment import ServedModel
from mlsysim.physics.serving.passes import PassTime, decode_pass, mixed_prefill_s, prefill_pass


class Step(Protocol):
    """A decode step and the parts that it consists of."""

    @property
    def total_s(self) -> Num:
        """Seconds of the whole step."""

    def parts(self) -> tuple[dict[str, float], str]:
        """Give the seconds of each part by name, and the name of what limits the step."""


@dataclass(frozen=True, slots=True)
class Served:
    """Latencies and rate that a schedule reaches.

    Attributes:
        ttft_s: time from a request's arrival to its first token, queueing for a place in the batch included.
        tpot_s: time per output token after the first, mean.
        request_s: time from a request's arrival to its last token.
        tokens_per_s: output tokens a second of all sequences.
        batch: sequences decoded together.
        step: one decode step of these sequences.
    """

    ttft_s: Num
    tpot_s: Num
    request_s: Num
    tokens_per_s: Num
    batch: Num
    step: Step


class Passes(Protocol):
    """The times of a deployment's passes, in seconds, which are all that a schedule needs of it."""

    def prefill_s(self, batch: Num, prompt: Num) -> Num:
        """Seconds of the prompts of ``batch`` sequences, alone."""

    def decode(self, batch: Num, context: Num) -> Step:
        """Time one token of each of ``batch`` sequences that hold ``context`` tokens."""

    def joining_s(self, step: Step, batch: Num, prompt: Num, tokens_a_step: Num) -> Num:
        """Seconds that one prompt adds to the decode ``step`` of ``batch`` sequences; several may join one step."""


@dataclass(frozen=True, slots=True)
class EnginePasses(ServedModel):
    """Passes of a served model, whose steps compute ``step_tokens`` tokens of prompts, padded by the factor ``padding``."""

    step_tokens: Num = 8192.0
    padding: Num = 1.0

    def prefill(self, batch: Num, prompt: Num) -> PassTime:
        """Time the prompts of ``batch`` sequences, part by part."""
        return prefill_pass(self, batch, prompt, self.padding)

    def prefill_s(self, batch: Num, prompt: Num) -> Num:
        """Seconds of the prompts of ``batch`` sequences."""
        return self.prefill(batch, prompt).total_s

    def decode(self, batch: Num, context: Num) -> PassTime:
        """Time one token of each of ``batch`` sequences that hold ``context`` tokens."""
        return decode_pass(self, batch, context)

    def joining_s(self, step: Step, batch: Num, prompt: Num, tokens_a_step: Num) -> Num:
        """Seconds that one prompt adds to the decode ``step`` of ``batch`` sequences; several may join one step."""
        tokens = maximum(minimum(prompt, self.step_tokens), tokens_a_step)
        added_s = mixed_prefill_s(self, cast("PassTime", step), batch, prompt, tokens)
        return self.engine.interleave * added_s * prompt / tokens


def static_batch(passes: Passes, batch: Num, prompt: Num, output: Num, context: Num) -> Served:
    """Serve a fixed batch: all prompts together, then ``output - 1`` steps at the mean ``context``; nobody joins or leaves.

    Tokens per second count ``batch output`` tokens over the whole request, prefill included.
    """
    first_s = passes.prefill_s(batch, prompt)
    step = passes.decode(batch, context)
    step_s = step.total_s
    request_s = first_s + maximum(output - 1, 0.0) * step_s
    return Served(first_s, step_s, request_s, batch * maximum(output, 1.0) / request_s, batch, step)


def continuous_batch(passes: Passes, concurrency: Num, most: Num, prompt: Num, output: Num, rounds: Num = 0.0) -> Served:
    """Keep ``concurrency`` requests in flight, of which at most ``most`` fit the batch: a new one starts when one ends.

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


def most_throughput(
    passes: Passes, most: Num, prompt: Num, output: Num, requests: Num = 0.0, step_tokens: Num = 8192.0
) -> Served:
    """Serve as many sequences as fit: every step decodes all, and the prompts of those that start join it.

    Without end (``requests`` = 0) tokens per second = B / (step(B) + B / output x prompt in a step). A finite number N of equal
    ones comes in waves of B: who starts together (``step_tokens`` of prompts a step) ends together, and the last wave leaves
    places empty. The run takes as many steps as come before its last request's end; its fixed part is paid by each step, what
    grows with its sequences by each token: total = steps step(0) + N output step'(B) + N prompt in a step.
    """
    batch = where(requests > 0, minimum(most, requests), most)
    step = passes.decode(batch, prompt + output / 2)
    step_s = step.total_s
    prompt_tokens = maximum(batch * prompt / output, where(requests > 0, minimum(step_tokens, batch * prompt), 0.0))
    joined_s = passes.joining_s(step, batch, prompt, prompt_tokens)
    half_step_s = passes.decode(batch / 2, prompt + output / 2).total_s
    sequence_s = (step_s - half_step_s) / (batch / 2)
    ramp = minimum(batch * prompt / prompt_tokens, output)
    full_waves = (requests - 1) // batch
    steps = full_waves * output + ramp * (requests - full_waves * batch) / batch + output
    token_s = steps / maximum(requests, 1.0) / output * (step_s - sequence_s * batch) + sequence_s + joined_s / output
    token_s = where(requests > 0, token_s, step_s / batch + joined_s / output)
    tpot_s = batch * token_s
    first_s = passes.prefill_s(1.0, prompt)
    return Served(first_s, tpot_s, first_s + (output - 1) * tpot_s, 1 / token_s, batch, step)


def streamed(served: Served, output: Num, interval: Num) -> Served:
    """Hand tokens to the client ``interval`` at a time: its first comes with the interval's last, and the end as before.

    TTFT' = TTFT + (interval - 1) TPOT, TPOT' = (request - TTFT') / (output - 1).

    Source: NVIDIA TensorRT-LLM, LLM API reference (``stream_interval``).
    """
    together = minimum(interval, maximum(output, 1.0))
    ttft_s = served.ttft_s + (together - 1) * served.tpot_s
    tpot_s = where(together > 1, maximum(served.request_s - ttft_s, 0.0) / maximum(output - 1, 1.0), served.tpot_s)
    return replace(served, ttft_s=ttft_s, tpot_s=tpot_s)
