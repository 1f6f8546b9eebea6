"""Schedules of a server as its users see them: a fixed batch, a fixed number of requests in flight, and the most it can do.

Source: Yu et al., "Orca", OSDI 2022 (iteration-level scheduling); Agrawal et al., "Sarathi-Serve", OSDI 2024, arXiv:2403.02310
(chunked prefill).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import NamedTuple, Protocol, cast

from mlsysim.physics.numeric import Num, floor, maximum, minimum, somewhere, where
from mlsysim.physics.serving.deployment import ServedModel
from mlsysim.physics.serving.passes import PassTime, decode_pass, mixed_prefill_s, prefill_pass
from mlsysim.physics.serving.speculation import rounds_of
from mlsysim.physics.serving.step_room import StepRoom, prompts_together, tokens_left


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


@dataclass(frozen=True, slots=True)
class Load:
    """What a schedule is asked of its passes: each field a float, or an array with an element for each question.

    Attributes:
        batch: sequences of a fixed batch, or requests in flight.
        most: sequences that fit.
        prompt: tokens of a prompt.
        output: tokens that a request generates, mean; of a server that drafts, its rounds.
        context: tokens that a sequence of a fixed batch holds at the mean decode step.
        rounds: requests that each place in flight serves in all; 0 in the steady state.
        requests: requests of an offline run; 0 for a run without end.
        wait_steps: steps that the scheduler holds prompts back while others decode, so that more join together (``gathered``).
        recv_interval: decode steps between the scheduler's looks at what arrived (``received``).
        output_cv: spread of the outputs' lengths, by which those in flight are longer than their mean (``met_output``).
        step_tokens, groups, sequence_tokens: the room of a step, as of ``StepRoom``; cached tokens of a prompt count.
        ahead: steps that are scheduled by the time a step runs, beside it: a prompt that comes meanwhile joins the one after.
    """

    batch: Num
    most: Num
    prompt: Num
    output: Num
    context: Num
    rounds: Num
    requests: Num
    wait_steps: Num
    recv_interval: Num
    output_cv: Num
    step_tokens: Num
    groups: Num
    sequence_tokens: Num
    ahead: Num

    @property
    def room(self) -> StepRoom:
        """The room that its prompts have in steps."""
        return StepRoom(self.step_tokens, self.groups, self.sequence_tokens, self.prompt, self.output)


class Passes(Protocol):
    """The times of a deployment's passes, in seconds, which are all that a schedule needs of it."""

    @property
    def front_s(self) -> Num:
        """Seconds of a request before its prompt is computed, in which it keeps only itself waiting; ``prefill_s`` has them."""

    def prefill_s(self, batch: Num, prompt: Num) -> Num:
        """Seconds of the prompts of ``batch`` sequences, alone."""

    def decode(self, batch: Num, context: Num) -> Step:
        """Time one token of each of ``batch`` sequences that hold ``context`` tokens."""

    def joining_s(self, step: Step, batch: Num, prompt: Num, beside: Num, hidden: Num) -> Num:
        """Seconds that one prompt adds to the decode ``step`` of ``batch`` sequences that ``beside`` tokens of others join.

        ``hidden`` is the share of a step while which the host launches the next one, for it is ahead.
        """


@dataclass(frozen=True, slots=True)
class PassesOver:
    """Passes that stand on those of ``whole``, which begin and decode as these do."""

    whole: Passes

    @property
    def front_s(self) -> Num:
        """Seconds of a request before its prompt is computed."""
        return self.whole.front_s

    def decode(self, batch: Num, context: Num) -> Step:
        """Time one token of each of ``batch`` sequences that hold ``context`` tokens."""
        return self.whole.decode(batch, context)


@dataclass(frozen=True, slots=True)
class EnginePasses(ServedModel):
    """Passes of a served model, whose steps compute ``step_tokens`` tokens of prompts, padded by the factor ``padding``."""

    step_tokens: Num = 8192.0
    padding: Num = 1.0

    @property
    def front_s(self) -> Num:
        """Seconds of a request before its prompt is computed."""
        return self.engine.request_s

    def prefill(self, batch: Num, prompt: Num) -> PassTime:
        """Time the prompts of ``batch`` sequences, part by part."""
        return prefill_pass(self, batch, prompt, self.padding)

    def prefill_s(self, batch: Num, prompt: Num) -> Num:
        """Seconds of the prompts of ``batch`` sequences."""
        return self.prefill(batch, prompt).total_s

    def decode(self, batch: Num, context: Num) -> PassTime:
        """Time one token of each of ``batch`` sequences that hold ``context`` tokens."""
        return decode_pass(self, batch, context)

    def joining_s(self, step: Step, batch: Num, prompt: Num, beside: Num, hidden: Num) -> Num:
        """Seconds that one prompt adds to the decode ``step`` of ``batch`` sequences; one too long for a step joins several."""
        left = tokens_left(self.step_tokens, batch * self.shards.attention / self.shards.tp)
        tokens = minimum(prompt, left) + beside
        added_s = mixed_prefill_s(self, cast("PassTime", step), batch, prompt, tokens, left, hidden)
        return self.engine.interleave * maximum(added_s, 0.0) * prompt / tokens


def whole_prompts_s(
    passes: Passes, step: Step, batch: Num, room: StepRoom, beside: Num, hidden: Num, beams: float = 1.0
) -> Num:
    """Seconds that one prompt adds to the decode ``step`` of ``batch`` requests that ``beside`` tokens of others join, mean.

    Prompts join whole: where k to k + 1 others do in the mean, some steps have k and some k + 1, as far as steps have room.
    Kernels compute the rows of a step, in tiles, not of the mean one. With n prompts in a share p of these steps, which add
    A(n), each prompt adds sum p A(n) / sum p n.

    Args:
        passes: of the deployment.
        step: of the requests that decode.
        batch: how many these are.
        room: of their steps, in tokens of such prompts.
        beside: tokens of other prompts in a step that prompts join, mean of these steps.
        hidden: as of ``Passes.joining_s``.
        beams: sequences that each request decodes.
    """
    prompt, own = room.prompt, minimum(room.prompt, room.left(batch))
    # A lone prompt joins others of none, but for rounding; of one that is too long for a step a part joins.
    fewer = minimum(own * floor(maximum(beside, 0.0) / own), beside)
    more = maximum(minimum(fewer + own, room.beside(batch, inf)), beside)
    fewer_s = passes.joining_s(step, beams * batch, prompt, fewer, hidden)
    if not somewhere(beside > fewer):
        return fewer_s
    more_s = passes.joining_s(step, beams * batch, prompt, more, hidden)
    of_more = where(more > fewer, (beside - fewer) / maximum(more - fewer, 1e-9 * own), 0.0)
    return ((1 - of_more) * (own + fewer) * fewer_s + of_more * (own + more) * more_s) / (own + beside)


def static_batch(passes: Passes, load: Load) -> Served:
    """Serve a fixed batch: all prompts together, then ``output - 1`` steps at the mean ``context``; nobody joins or leaves.

    Tokens per second count ``batch output`` tokens over the whole request, prefill included.
    """
    batch, output = load.batch, load.output
    first_s = passes.prefill_s(batch, load.prompt)
    step = passes.decode(batch, load.context)
    step_s = step.total_s
    request_s = first_s + maximum(output - 1, 0.0) * step_s
    return Served(first_s, step_s, request_s, batch * maximum(output, 1.0) / request_s, batch, step)


def gathered(joins: Num, steps: Num) -> tuple[Num, Num]:
    """Steps that a prompt is held back, and others that join with it, where the first that waits opens a window of ``steps``.

    With m = ``joins`` steps others in a window, one prompt in 1 + m opens it and waits for its end, the others for half of it;
    all of a window join together: m others beside the one that opens it, 1 + m beside each other.

    Args:
        joins: prompts that come in a step, mean, at random.
        steps: that the scheduler holds prompts back (0: none are).

    Source: NVIDIA TensorRT-LLM, ``batch_wait_timeout_iters``: the scheduler counts iterations from the first waiting prompt on.

    Example:
        >>> gathered(0.0, 20.0), gathered(0.05, 20.0)
        ((20.0, 0.0), (15.0, 1.5))
    """
    inside = joins * steps
    return steps * (1 + inside / 2) / (1 + inside), inside * (2 + inside) / (1 + inside)


def received(joins: Num, interval: Num) -> tuple[Num, Num]:
    """Steps that a request waits for the scheduler's next look at what arrived, and others that it finds with it.

    It arrives anywhere between two looks, ``interval`` steps apart; one each step is no wait, and those of a step join anyhow.

    Args:
        joins: requests that arrive in a step, mean, at random.
        interval: steps from one look to the next.

    Source: SGLang, scheduler_recv_skipper.py (``--scheduler-recv-interval``: decode steps between looks; evidence: recalled).

    Example:
        >>> received(0.5, 1.0), received(0.5, 11.0)
        ((0.0, 0.0), (5.0, 5.0))
    """
    return (interval - 1) / 2, joins * (interval - 1)


def met_output(output: Num, output_cv: Num) -> Num:
    """Tokens that a sequence in flight generates in all, E[O^2] / E[O] = O (1 + cv^2): a long output is in flight for longer.

    Example:
        >>> met_output(200.0, 0.0), met_output(200.0, 1.0)  # all alike; lengths of which each next token may be the last
        (200.0, 400.0)
    """
    return output * (1 + output_cv**2)


def continuous_batch(passes: Passes, load: Load) -> Served:
    """Keep ``batch`` requests in flight, of which at most ``most`` fit the batch: a new one starts when one ends.

    A closed loop: while a request takes its O = ``output`` steps, each of the others ends and starts once, so that a request in
    a batch of B sees all B prompts, its own included, whenever they come:

        request = front + (half a step until the next begins) + O step(B) + B prompt in a step.

    In each step (B - 1)/O of the others' prompts join. Those of its own prompt's step, and of the half before it, keep a
    request from its first token, by up to a quarter longer where several join each step and so end together; the rest comes
    between its later tokens. Where the host is a step ahead, the scheduled one comes first, while the host launches the prompt.
    A prompt that is too long for a step takes several.
    No more decode at a time than leave room for their prompts in the steps (``StepRoom``): those of the others are in line.
    Alone a request waits for nobody. Beyond B requests the places are always taken, and a request takes ``batch``/B times what
    one holds a place. In finite ``rounds`` the first requests of each place come all at once, so that (B - 1)/2 prompts, a
    step each, are computed before one's own.
    """
    batch, output = minimum(load.batch, load.most), load.output
    decoding = minimum(batch, load.room.most_decoding)
    seen = _in_flight(passes, load, decoding)
    later_s = (output - 1) * seen.tpot_s
    waits_s = load.batch / decoding * seen.place_s
    if somewhere(decoding < batch):
        # No more requests end than with room for all; but groups of ranks that have a part each wait less for the busiest.
        with_room = _in_flight(passes, replace(load, step_tokens=load.step_tokens * inf), batch)
        waits_s = where(load.groups > 1, waits_s, maximum(waits_s, with_room.ttft_s + (output - 1) * with_room.tpot_s))
    # Not as a difference where nobody waits: of a long output nothing would be left of it.
    ttft_s = where(load.batch > decoding, maximum(seen.ttft_s, waits_s - later_s), seen.ttft_s)
    request_s = ttft_s + later_s
    return Served(ttft_s, seen.tpot_s, request_s, load.batch * output / request_s, decoding, seen.step)


class _InFlight(NamedTuple):
    """What those see who have a place and room, and how long one holds its place where another always waits for it."""

    ttft_s: Num
    tpot_s: Num
    place_s: Num
    step: Step


def _in_flight(passes: Passes, load: Load, batch: Num) -> _InFlight:
    prompt, output, rounds, room = load.prompt, load.output, load.rounds, load.room
    step = passes.decode(batch, prompt + met_output(output, load.output_cv) / 2)
    step_s, others = step.total_s, batch - 1
    alone_s, front_s = passes.prefill_s(1.0, prompt), passes.front_s
    held_steps, held = gathered(others / output, load.wait_steps)
    unseen_steps, unseen = received(others / output, load.recv_interval)
    beside = minimum(held + unseen, others)
    together = maximum(prompts_together(batch, output), 1 + beside)
    beside_tokens = maximum(room.usually_beside(batch), room.beside(batch, 1 + beside))
    hidden = load.ahead * room.after_free(batch, beside_tokens)
    # A prompt that would add more to the steps that it joins than a pass of its own has one.
    joined_s = minimum(whole_prompts_s(passes, step, batch, room, beside_tokens, hidden), alone_s - front_s)
    first_share = where(rounds > 0, 1 / maximum(rounds, 1.0), 0.0)
    queued = first_share * others / 2
    meanwhile = minimum(1.5 * others / output, 1.5 * together - 1) + beside
    ahead = (1 - first_share) * minimum(meanwhile, others) + queued
    begun_s = front_s + (load.ahead + room.steps(batch)) * step_s + joined_s
    computed_s = where(others > 0, maximum(alone_s, begun_s) + step_s / 2, alone_s)
    held_back_s = where(others > 0, (1 - first_share) * (held_steps + unseen_steps) * step_s, 0.0)
    tpot_s = step_s + (others - ahead) / maximum(output - 1, 1.0) * joined_s
    place_s = (output + room.more_steps) * step_s + batch * joined_s
    return _InFlight(computed_s + held_back_s + ahead * joined_s + queued * step_s, tpot_s, place_s, step)


def most_throughput(passes: Passes, load: Load) -> Served:
    """Serve as many sequences as fit: every step decodes all, and the prompts of those that start join it.

    Without end (``requests`` = 0) tokens per second = B / (step(B) + B / output x prompt in a step). A finite number N of equal
    ones comes in waves of B: who starts together (``step_tokens`` of prompts a step) ends together, and the last wave leaves
    places empty. The run takes as many steps as come before its last request's end; its fixed part is paid by each step, what
    grows with its sequences by each token: total = steps step(0) + N output step'(B) + N prompt in a step. A prompt that takes
    more steps than its output has, and B is 1, keeps its place for these, too (``StepRoom.more_steps``).
    """
    prompt, output, requests, room = load.prompt, load.output, load.requests, load.room
    batch = minimum(where(requests > 0, minimum(load.most, requests), load.most), room.most_decoding)
    context = prompt + met_output(output, load.output_cv) / 2
    step = passes.decode(batch, context)
    step_s = step.total_s
    wave = output + room.more_steps
    prompt_tokens = maximum(batch * prompt / wave, minimum(room.groups * room.tokens, batch * prompt))
    starting = prompt_tokens - minimum(prompt, room.tokens)
    started = where(requests > 0, starting, room.usually_beside(batch))
    hidden = load.ahead * room.after_free(batch, started)
    alone_s, front_s = passes.prefill_s(1.0, prompt), passes.front_s
    joined_s = minimum(whole_prompts_s(passes, step, batch, room, started, hidden), alone_s - front_s)
    half_step_s = passes.decode(batch / 2, context).total_s
    sequence_s = (step_s - half_step_s) / (batch / 2)
    ramp = minimum(batch * prompt / prompt_tokens, wave)
    full_waves = (requests - 1) // batch
    steps = full_waves * wave + ramp * (requests - full_waves * batch) / batch + output
    token_s = steps / maximum(requests, 1.0) / output * (step_s - sequence_s * batch)
    token_s = where(requests > 0, token_s + wave / output * sequence_s, wave / output * step_s / batch) + joined_s / output
    tpot_s = batch * token_s
    return Served(alone_s, tpot_s, alone_s + (output - 1) * tpot_s, 1 / token_s, batch, step)


def in_tokens(served: Served, output: Num, tokens: Num) -> Served:
    """What a schedule of rounds comes to in tokens: a round yields ``tokens`` of a request's ``output`` (``rounds_of``)."""
    rate = served.tokens_per_s * output / rounds_of(output, tokens)
    return replace(served, tpot_s=served.tpot_s / tokens, tokens_per_s=rate)
