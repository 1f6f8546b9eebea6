"""From a serving deployment to what its requests see when they arrive at random."""

from __future__ import annotations

import functools
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from math import ceil, inf, log

import numpy as np

from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.offloaded_passes import drafted, whole_passes
from mlsysim.lowering.prefix_cache import prefixed, step_room
from mlsysim.lowering.serving_memory import Room, room
from mlsysim.lowering.work import inference_work
from mlsysim.physics.numeric import Floats, Num, Whole, minimum
from mlsysim.physics.queues.between import Between
from mlsysim.physics.queues.even_arrivals import even_in_flight, even_steps
from mlsysim.physics.queues.open_loop import OpenLoop, in_flight, last_kept, not_rare
from mlsysim.physics.queues.prompt_queue import CELLS, Turns, prompts_a_step, turns
from mlsysim.physics.queues.queueing import delay_scale_s
from mlsysim.physics.serving.inference import InferenceWork, largest_batch
from mlsysim.physics.serving.schedule import Passes, Step, whole_prompts_s
from mlsysim.physics.serving.step_room import StepRoom

_LEVELS = 8  # numbers in flight at which the queue of prompts is solved
_PARTS = 4096  # of the capacity: loads that are told apart
_NOBODY = 1e-12  # so few requests count as none
ALMOST = 1 - 1e-9  # of the capacity: above it a float no longer tells the queue from one that grows for ever


@dataclass(frozen=True)
class Paces:
    """A replica's speed by the number of requests in flight, 1 to ``places``; ``reason`` says, with the bytes, why none fits.

    Every request takes ``output`` steps of the batch (with drafts, rounds), in which the prompts of all others join once: n
    requests are completed in output step(n) + n prompt. No more decode at a time than leave ``room`` for their prompts in the
    steps: the others are in line.
    """

    setting: Deployment
    passes: Passes
    places: int
    beams: int
    reason: str
    room: StepRoom
    solved: dict[int, tuple[Floats, Floats, Floats, Floats]] = field(default_factory=dict, compare=False, repr=False)
    loads: dict[tuple[Hashable, ...], Load] = field(default_factory=dict, compare=False, repr=False)

    @property
    def front_s(self) -> float:
        """What keeps only the request itself waiting before its first token."""
        return float(self.passes.front_s)

    @functools.cached_property
    def alone_s(self) -> float:
        """Time to the first token of a request that finds nobody."""
        return float(self.passes.prefill_s(1.0, self.setting.prompt))

    def in_time(self, first_s: float) -> float:
        """Returns the share of the requests that find others in flight whose first token may come by ``first_s``, at most.

        The step that runs when they come has any part of itself left, and only then may their prompt join one.
        """
        step_s = float(self.step_s.min())
        joined_s = max(self.front_s + (1 + self.setting.ahead) * step_s + float(self.joined_s.min()), self._passing_s)
        return min(max((first_s - joined_s) / step_s, 0.0), 1.0)

    @property
    def _passing_s(self) -> float:
        """Least time to a first token: a prompt adds to steps what it keeps one stage busy, and itself passes all of them."""
        return self.alone_s if self.setting.pp > 1 else 0.0

    @functools.cached_property
    def _times_s(self) -> tuple[Floats, Floats]:
        step_s, joined_s = (np.asarray(part, float) for part in self._with(np.arange(1.0, self.places + 1.0)))
        return np.broadcast_to(step_s, self.places), np.broadcast_to(joined_s, self.places)

    @property
    def step_s(self) -> Floats:
        """A decode step of 1, 2, ... requests."""
        return self._times_s[0]

    @property
    def joined_s(self) -> Floats:
        """What a prompt adds to the steps of 1, 2, ... requests."""
        return self._times_s[1]

    @functools.cached_property
    def token_s(self) -> Floats:
        """Time per output token with 1, 2, ... requests in flight, whose prompts join."""
        decoding, step_s, joined_s = self._decoding
        return (step_s + (decoding - 1) / self.setting.rounds_each * joined_s) / self.setting.round_tokens

    @functools.cached_property
    def completions_per_s(self) -> Floats:
        """Requests that a replica completes with 1, 2, ... in flight."""
        return np.asarray(self._rates_per_s(*self._decoding))

    @functools.cached_property
    def capacity_per_s(self) -> float:
        """Requests that a replica completes with all places taken."""
        decoding = min(float(self.places), self.most_decoding)
        return float(self._rates_per_s(decoding, *self._with(decoding)))

    @property
    def most_decoding(self) -> float:
        """Requests that decode at a time at most, for their prompts to have room."""
        return float(self.room.most_decoding)

    def _rates_per_s(self, decoding: Num, step_s: Num, joined_s: Num) -> Num:
        steps = self.setting.rounds_each + self.room.more_steps
        return decoding / (steps * step_s + decoding * joined_s)

    @functools.cached_property
    def _decoding(self) -> tuple[Floats, Floats, Floats]:
        """How many decode with 1, 2, ... requests in flight, their step, and what a prompt adds to it."""
        numbers, most = np.arange(1.0, self.places + 1.0), self.most_decoding
        if most >= self.places:
            return numbers, *self._times_s
        crowded_s = self._with(most)
        step_s, joined_s = (
            np.where(numbers <= most, each_s, most_s) for each_s, most_s in zip(self._times_s, crowded_s, strict=True)
        )
        return np.minimum(numbers, most), step_s, joined_s

    @property
    def best_per_s(self) -> float:
        """Requests that a replica completes with as many places taken as complete most."""
        return float(self.completions_per_s.max())

    @functools.cached_property
    def aged_s(self) -> Floats:
        """What each token that all sequences hold beyond the mean adds to a step of 1, 2, ... requests."""
        sequences, context = self.beams * np.arange(1.0, self.places + 1.0), _context(self.setting, self.beams)
        return np.asarray((self.passes.decode(sequences, 2 * context).total_s - self.step_s) / context, float)

    def with_places(self, places: int) -> Paces:
        """Returns the same replica with fewer places: ``places``, the most requests in flight, are no more than there are."""
        fewer = replace(self, places=places, solved={}, loads={})
        # Steps of as many requests are the same ones.
        fewer.__dict__["_times_s"] = tuple(part[:places] for part in self._times_s)
        fewer.__dict__["_decoding"] = tuple(part[:places] for part in self._decoding)
        fewer.__dict__["capacity_per_s"] = float(self.completions_per_s[places - 1])
        return fewer

    def _with(self, batch: Num) -> tuple[Num, Num]:
        """A decode step of each number of requests, and what a prompt adds to it."""
        step = self.passes.decode(self.beams * batch, _context(self.setting, self.beams))
        beside = self.room.usually_beside(batch)
        return step.total_s, self._joining_s(step, batch, beside, beside)

    def _joining_s(self, step: Step, batch: Num, beside: Num, usual: Num) -> Num:
        """What a prompt adds to a step of ``batch`` requests, with ``beside`` tokens of others; most steps have ``usual``."""
        hidden = self.setting.ahead * self.room.after_free(batch, usual)
        joined_s = whole_prompts_s(self.passes, step, batch, self.room, beside, hidden, self.beams)
        # A prompt that would add more to the steps that it joins than a pass of its own has one.
        return minimum(joined_s, self.alone_s - self.front_s)

    def under(self, arrival_per_s: float, cv2: float) -> OpenLoop:
        """What requests see that arrive at this rate, below capacity; ``cv2``: of the time that they hold a place.

        The queue of prompts is solved with some numbers that decode, and interpolated: with d that decode d + lambda W are in
        flight, W the time before the first token. An empty engine starts at once. Where steps have no room for the prompts of
        all who have a place, none waits for one: it is the same line.
        """
        decoding, step_s, joined_s = self._decoding
        together = max(1.0, decoding[-1] / self.setting.rounds_each)
        last_s = (1 + self.setting.ahead) * step_s[max(0, self.places - 2)] + together * joined_s[-1]
        completions_per_s, token_s = self.completions_per_s, self.token_s
        if self.places > 1:
            queue, between, ahead_s, met_per_s = self._queued(arrival_per_s)
            completions_per_s = np.append(met_per_s, completions_per_s[-1])
            token_s = np.pad(token_s, (0, completions_per_s.size - self.places), "edge")
        free, taken = in_flight(arrival_per_s, completions_per_s)
        if self.most_decoding < self.places:
            free[-1], taken = free[-1] + taken, 0.0
        likely = not_rare(free)
        wait_s, first_s = np.zeros((likely.size, CELLS.size)), np.full((likely.size, CELLS.size), self.alone_s)
        if self.places > 1:
            met = likely > 0
            wait_s[met] = between.of_these(queue.wait_s, likely[met] - 1)
            front_s = self.front_s + between.of_all(ahead_s)[likely[met] - 1, None]
            joined_s = between.of_these(queue.first_s, likely[met] - 1) + front_s
            first_s[met] = np.maximum(joined_s, self._passing_s)
        return OpenLoop(
            free=free,
            taken=taken,
            place_s=float(delay_scale_s(1 / self.capacity_per_s, 1, arrival_per_s / self.capacity_per_s, cv2)),
            cells=CELLS,
            likely=likely,
            wait_s=wait_s,
            first_s=first_s,
            last_s=max(self.front_s + float(last_s), self._passing_s),
            token_s=token_s,
        )

    def met_one(self, arrival_per_s: float, first_s: float) -> tuple[float, float]:
        """Share of those who meet one that decodes whose first token is later than ``first_s``, and how fast that one ends.

        Whoever meets more of them is late no more rarely, whatever the places: steps get longer.
        """
        queue, _, ahead_s, met_per_s = self._pair._queued(arrival_per_s)
        times_s = queue.wait_s[0] + np.maximum(queue.first_s[0] + self.front_s + ahead_s[0], self._passing_s)
        return float(CELLS[times_s > first_s].sum()), float(met_per_s[0])

    @functools.cached_property
    def _pair(self) -> Paces:
        return self.with_places(2)

    def _queued(self, arrival_per_s: float) -> tuple[Turns, Between, Floats, Floats]:
        """The queue of prompts at each level, where numbers in flight lie, what is scheduled before it, and completions."""
        queue = self._turns(arrival_per_s)
        ahead_s = self.setting.ahead * queue.cycle_s
        before_s = ((queue.wait_s + queue.first_s) * CELLS).sum(axis=1) + ahead_s
        solved_at = self._levels + arrival_per_s * before_s
        # Prompts for which steps have no room are in one line, with a place or without.
        most = max(self.places, ceil(solved_at[-1]) + 1) if self.most_decoding < self.places else self.places
        between = Between.of(np.arange(1.0, most), solved_at)
        return queue, between, ahead_s, self._completions_per_s(between, queue, before_s, arrival_per_s)

    def under_even(self, arrival_per_s: float) -> OpenLoop:
        """What requests see that arrive at equal intervals, below capacity: as many as always are in flight."""
        output, (decoding, step_s, joined_s) = self.setting.output, self._decoding
        steps = even_steps(arrival_per_s, step_s, joined_s)
        # One that is too long for a step begins in several.
        begun = np.ceil(self.room.steps(decoding - 1))
        met_s = np.maximum(self.front_s + steps.own_s + (begun - 1 + self.setting.ahead) * step_s, self._passing_s)
        # Beside 0, 1, .. others: alone, or in the steps of those.
        first_s = np.append(self.alone_s, met_s[:-1])
        waits_s = np.append(0.0, steps.found_s[:-1] / 2)
        flying = even_in_flight(arrival_per_s, waits_s + first_s + (output - 1) * self.token_s)
        others = min(max(flying - 1, 0.0), self.places - 1.0)
        low = min(int(others), max(self.places - 2, 0))
        free = np.zeros(self.places)
        free[low : low + 2] = np.array([1 - (others - low), others - low])[: self.places]
        likely = not_rare(free)
        middles = np.cumsum(CELLS) - CELLS / 2
        return OpenLoop(
            free=free,
            taken=0.0,
            place_s=float(step_s[-1]),
            cells=CELLS,
            likely=likely,
            wait_s=2 * waits_s[likely, None] * middles,
            first_s=np.repeat(first_s[likely, None], CELLS.size, axis=1),
            last_s=float(first_s[-1]),
            token_s=self.token_s,
        )

    @functools.cached_property
    def _levels(self) -> Whole:
        """Numbers that decode at which the queue of prompts is solved."""
        most = int(max(min(self.places - 1, self.most_decoding), 1))
        return np.unique(np.rint(np.geomspace(1, most, _LEVELS)).astype(int))

    def _turns(self, arrival_per_s: float) -> Turns:
        """What prompts see with each of the levels decoding."""
        at = self._levels - 1
        # The last of them has its rest in the next step, and each group of ranks has one at least.
        fits = np.ceil(self.room.groups * np.maximum(self.room.left(self._levels.astype(float)) / self.setting.prompt, 1.0))
        most = prompts_a_step(arrival_per_s, self.step_s[at], self.joined_s[at], fits)
        prompts = 2 ** int(np.ceil(np.log2(most.max())))
        if prompts not in self.solved:
            self.solved[prompts] = self._prompt_steps_s(prompts)
        return turns(arrival_per_s, most, *self.solved[prompts], ahead=self.setting.ahead > 0)

    def _completions_per_s(self, between: Between, queue: Turns, before_s: Floats, arrival_per_s: float) -> Floats:
        """Requests completed with 1, 2, ... in flight: n / (output step + n p + x), x what else a request spends in flight.

        After the first token come output - 1 steps, the prompts behind it in line, and those that come meanwhile. All in all
        it is in flight for W + ((output - 1) step + behind p) / (1 - rho), rho = lambda p, which gives x.
        """
        in_flight_now = np.arange(1.0, between.low.size + 1.0)
        decoding = np.minimum(between.of_all(self._levels.astype(float)), in_flight_now)
        prompts_share = between.of_all(np.maximum(0.0, 1 - queue.cycle_steps * self.step_s[self._levels - 1] / queue.cycle_s))
        behind, before_s = between.of_all(queue.behind), between.of_all(before_s)
        prompt_s = prompts_share / arrival_per_s
        step_s = np.interp(decoding, np.arange(1, self.places + 1), self.step_s)
        else_s = np.maximum(before_s * (1 - prompts_share) + (behind - 1) * prompt_s - step_s, 0.0)
        rates: Floats = in_flight_now / (self.setting.rounds_each * step_s + in_flight_now * prompt_s + else_s)
        return np.minimum(rates, self.capacity_per_s) if self.most_decoding < self.places else rates

    def _prompt_steps_s(self, most: int) -> tuple[Floats, Floats, Floats, Floats]:
        """The last four arrays of ``turns``: steps of each of the levels (rows) that 0 to ``most`` prompts (columns) join.

        A prompt that is too long for a step takes several, and others behind it fill its last.
        """
        room, levels, prompts = self.room, self._levels, np.arange(most + 1.0)
        batch, base_s = levels[:, None].astype(float), self.step_s[levels - 1][:, None]
        step = self.passes.decode(self.beams * batch, _context(self.setting, self.beams))
        usual = room.usually_beside(batch)
        beside = np.maximum(room.beside(batch, prompts), 0.0)
        added_s = prompts * np.asarray(self._joining_s(step, batch, beside, usual), float)
        # A group of ranks computes the parts of a prompt one after the other, and groups compute side by side.
        alone = np.where(prompts > 0, room.steps(batch), 1.0)
        steps = np.maximum(prompts * self.setting.prompt / (room.groups * room.left(batch)), alone)
        begun = np.where(prompts > room.groups, steps, np.ceil(steps))
        shared_s = ((begun - steps) * added_s / steps)[:, 1]
        return steps * base_s + added_s, begun * base_s + added_s, shared_s, steps


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits that ``share`` of the requests keep, in seconds (inf: none): to the first token, a token after it, the whole."""

    share: float
    first_s: float
    token_s: float
    request_s: float

    def kept(self, loop: OpenLoop, output: float) -> bool:
        """True where requests of ``output`` tokens keep these limits."""
        return self.missed(loop, output) <= 0

    def missed(self, loop: OpenLoop, output: float) -> float:
        """Logarithm of how many times more requests miss a limit than may; one that too many miss stands for the others."""
        rest = 1 - self.share
        slow = loop.slow(self.token_s) if self.token_s < inf else 0.0
        if slow <= rest:
            after = ((self.first_s, 0.0), (self.request_s, output - 1))
            slow = max(slow, *(loop.late(more, limit_s) if limit_s < inf else 0.0 for limit_s, more in after))
        return log(max(slow, _NOBODY) / rest)


@dataclass(frozen=True, slots=True)
class Load:
    """Requests a second that arrive at a replica, and what they see (None: nobody arrives).

    ``limit_per_s`` is where between this load and the next that is told apart the limits are reached, by a straight line: it
    moves smoothly with everything, for a fit.
    """

    arrival_per_s: float
    seen: OpenLoop | None
    limit_per_s: float


def highest_load(
    pace: Paces, limits: Limits, output: float, cv2: float, more_than_per_s: float = 0.0, guess_per_s: float | None = None
) -> Load:
    """The most arrivals within ``limits``, to a four-thousandth of capacity, searched from a guess if there is one.

    More arrivals lengthen every time. There are none where lone requests do not keep the limits, or where no more than
    ``more_than_per_s`` do. Systems of several sizes ask the same of their replicas, which keep the answer.
    """
    asked = (limits, output, cv2, more_than_per_s, guess_per_s)
    if asked not in pace.loads:
        pace.loads[asked] = _searched_load(pace, limits, output, cv2, more_than_per_s, guess_per_s)
    return pace.loads[asked]


def _searched_load(
    pace: Paces, limits: Limits, output: float, cv2: float, more_than_per_s: float, guess_per_s: float | None
) -> Load:
    seen: dict[int, OpenLoop] = {}

    def missed(part: int) -> float:
        seen[part] = pace.under(pace.capacity_per_s * part / _PARTS, cv2)
        return limits.missed(seen[part], output)

    least = int(more_than_per_s / pace.capacity_per_s * _PARTS) + 1
    if least >= _PARTS or (least > 1 and missed(least) > 0):
        return Load(0.0, None, 0.0)
    guess = None if guess_per_s is None else int(guess_per_s / pace.capacity_per_s * _PARTS)
    part, reached = last_kept(missed, _PARTS, -log(1 - limits.share), low=least if least > 1 else 0, guess=guess)
    step_per_s = pace.capacity_per_s / _PARTS
    return Load(step_per_s * part, seen.get(part), step_per_s * reached)


def paces(setting: Deployment, most: int | None, beams: int = 1) -> Paces:
    """A replica's speed with at most ``most`` requests in flight, or as many as fit.

    Under beam search a request decodes ``beams`` sequences, which share its prompt and the prompt's cache.
    """
    work = inference_work(setting.workload, setting.weights, setting.cache, setting.experts)
    held = room(setting, work)
    fit = float(held.most_tried(setting, most)) if beams == 1 else _searched(setting, work, held, beams)
    passes = prefixed(whole_passes(setting, work), setting)
    return Paces(
        setting=setting,
        passes=drafted(passes, setting),
        places=int(max(1.0, min(fit, float(most or fit)))),
        beams=beams,
        reason=held.reason(setting, float(beams)) if fit < 1 else "",
        room=step_room(setting, beams),
    )


def _context(setting: Deployment, beams: int) -> float:
    """Keys and values that a sequence reads in a step: beams of one request read those of its prompt together."""
    return setting.context if beams == 1 else setting.prompt / beams + setting.output / 2


def _searched(setting: Deployment, work: InferenceWork, held: Room, beams: int) -> float:
    """Requests that fit, of which each caches its prompt once and ``beams`` continuations of it."""
    tokens = setting.prompt + beams * max(0.0, setting.occupied - setting.prompt)
    fit = float(largest_batch(held.free_B, work.kv_B / setting.kv_shards, tokens))
    return fit if setting.stack is None else min(fit, setting.stack.most_sequences // beams)
