"""From a serving deployment to what its requests see when they arrive at random."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
import numpy.typing as npt

from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.serving_bound import BoundPasses
from mlsysim.lowering.serving_kernels import calibrated_passes
from mlsysim.lowering.serving_memory import Room, room
from mlsysim.lowering.work import inference_work
from mlsysim.physics.numeric import Floats
from mlsysim.physics.queues.open_loop import OpenLoop, in_flight
from mlsysim.physics.queues.prompt_queue import CELLS, prompts_a_step, turn
from mlsysim.physics.queues.queueing import delay_scale_s
from mlsysim.physics.serving.inference import InferenceWork, largest_batch
from mlsysim.physics.serving.schedule import Passes

_LEVELS = 8  # numbers in flight at which the queue of prompts is solved
_HALVINGS = 12  # of the capacity: to a four-thousandth of it


@dataclass(frozen=True)
class Paces:
    """A replica's speed by the number of requests in flight, 1 to ``places``; ``reason``: why none fits, with the bytes.

    ``alone_s``: to the first token of a request that finds nobody; ``front_s``: of it, what keeps only the request waiting.
    """

    setting: Deployment
    passes: Passes
    places: int
    beams: int
    reason: str
    alone_s: float
    front_s: float
    step_tokens: float
    step_s: Floats
    joined_s: Floats
    token_s: Floats
    completions_per_s: Floats

    @property
    def capacity_per_s(self) -> float:
        """Requests that a replica completes with all places taken."""
        return float(self.completions_per_s[-1])

    @property
    def best_per_s(self) -> float:
        """Requests that a replica completes with as many places taken as complete most."""
        return float(self.completions_per_s.max())

    def under(self, arrival_per_s: float, cv2: float) -> OpenLoop:
        """What requests see that arrive at this rate, below capacity; ``cv2``: of the time that they hold a place."""
        together = max(1.0, self.places / self.setting.output)
        last_s = self.step_s[max(0, self.places - 2)] + together * self.joined_s[-1]
        wait_s, first_s, completions_per_s = self._turns(arrival_per_s)
        free, taken = in_flight(arrival_per_s, completions_per_s)
        return OpenLoop(
            free=free,
            taken=taken,
            place_s=float(delay_scale_s(1 / self.capacity_per_s, 1, arrival_per_s / self.capacity_per_s, cv2)),
            cells=CELLS,
            wait_s=wait_s,
            first_s=first_s,
            last_s=self.front_s + float(last_s),
            token_s=self.token_s,
        )

    def _turns(self, arrival_per_s: float) -> tuple[Floats, Floats, Floats]:
        """Wait and time to the first token then, by the number in flight (rows) and cell of probability; completions by it.

        Solved with some numbers that decode, and interpolated: with d that decode d + lambda W are in flight, W the time before
        the first token. An empty engine starts at once.
        """
        wait_s, first_s = np.zeros((self.places, CELLS.size)), np.full((self.places, CELLS.size), self.alone_s)
        completions_per_s = self.completions_per_s.copy()
        if self.places > 1:
            levels = np.unique(np.rint(np.geomspace(1, self.places - 1, _LEVELS)).astype(int))
            turns = [turn(arrival_per_s, *kept) for kept in self._steps_s(arrival_per_s, levels)]
            before_s = np.array([CELLS @ (found.wait_s + found.first_s) for found in turns])
            met, at = np.arange(1, self.places), levels + arrival_per_s * before_s
            for rows, columns in ((wait_s, [found.wait_s for found in turns]), (first_s, [found.first_s for found in turns])):
                for cell, values in enumerate(np.array(columns).T):
                    rows[met, cell] = np.interp(met, at, values)
            idle = [max(0.0, 1 - step_s / found.cycle_s) for step_s, found in zip(self.step_s[levels - 1], turns, strict=True)]
            completions_per_s[met - 1] = self._completions_per_s(
                decoding=np.minimum(np.interp(met, at, levels), met),
                prompts_share=np.interp(met, at, idle),
                before_s=np.interp(met, at, before_s),
                behind=np.interp(met, at, [found.behind for found in turns]),
                arrival_per_s=arrival_per_s,
            )
            first_s[met] += self.front_s
        return wait_s, first_s, completions_per_s

    def _completions_per_s(
        self, decoding: Floats, prompts_share: Floats, before_s: Floats, behind: Floats, arrival_per_s: float
    ) -> Floats:
        """Requests completed with 1, 2, ... in flight: n / (output step + n p + x), x what else a request spends in flight.

        After the first token come output - 1 steps, the prompts behind it in line, and those that come meanwhile. All in all
        it is in flight for W + ((output - 1) step + behind p) / (1 - rho), rho = lambda p, which gives x.
        """
        prompt_s = prompts_share / arrival_per_s
        step_s = np.interp(decoding, np.arange(1, self.places + 1), self.step_s)
        else_s = np.maximum(before_s * (1 - prompts_share) + (behind - 1) * prompt_s - step_s, 0.0)
        in_flight_now = np.arange(1.0, decoding.size + 1)
        rates: Floats = in_flight_now / (self.setting.output * step_s + in_flight_now * prompt_s + else_s)
        return rates

    def _steps_s(self, arrival_per_s: float, levels: npt.NDArray[np.int_]) -> list[tuple[Floats, Floats, float]]:
        """The arguments of ``turn`` after the rate, for each number that decodes.

        A prompt that is too long for a step takes several, and others behind it fill its last.
        """
        prompt, fits = self.setting.prompt, self.step_tokens / self.setting.prompt
        batch, base_s = levels[:, None].astype(float), self.step_s[levels - 1]
        most = [prompts_a_step(arrival_per_s, *pace, fits) for pace in zip(base_s, self.joined_s[levels - 1], strict=True)]
        prompts = np.arange(max(most) + 1.0)
        step = self.passes.decode(self.beams * batch, _context(self.setting, self.beams))
        each_step = np.maximum(prompts, 1.0) * min(prompt, self.step_tokens)
        added_s = prompts * np.asarray(self.passes.joining_s(step, self.beams * batch, prompt, each_step), float)
        steps = np.maximum(prompts * prompt / np.maximum(self.step_tokens - batch, 1.0), 1.0)
        begun = np.where(prompts > 1, steps, np.ceil(steps))
        shared_s = ((begun - steps) * added_s / steps)[:, 1]
        kept_s, first_s = steps * base_s[:, None] + added_s, begun * base_s[:, None] + added_s
        return [(kept_s[row, : k + 1], first_s[row, : k + 1], float(shared_s[row])) for row, k in enumerate(most)]


@dataclass(frozen=True, slots=True)
class Limits:
    """What ``share`` of the requests keep, in seconds (inf: no limit): to the first token, a token after it, the whole."""

    share: float
    first_s: float
    token_s: float
    request_s: float

    def kept(self, loop: OpenLoop, output: float) -> bool:
        """Whether requests of ``output`` tokens keep them."""
        if loop.token_percentile_s(self.share) > self.token_s:
            return False
        after = ((self.first_s, 0.0), (self.request_s, output - 1))
        return all(loop.after_wait(more).tail(limit_s) <= 1 - self.share for limit_s, more in after if limit_s < inf)


def highest_arrivals(pace: Paces, limits: Limits, output: float, cv2: float) -> float:
    """The most arrivals a second within ``limits``; 0 where not even a lone request keeps them.

    More arrivals lengthen every time, so that halving finds it.
    """
    low, high = 0.0, pace.capacity_per_s
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if limits.kept(pace.under(middle, cv2), output) else (low, middle)
    return low


def paces(setting: Deployment, most: int | None, beams: int = 1) -> Paces:
    """A replica's speed with 1, 2, ... requests in flight, at most ``most`` or as many as fit.

    Every request takes ``output`` steps of the batch, in which the prompts of all others join once: f(n) = n / (output step(n)
    + n prompt). Under beam search a request decodes ``beams`` sequences, which share its prompt and the prompt's cache.
    """
    work = inference_work(setting.workload, setting.weights, setting.cache)
    held = room(setting, work)
    fit = held.most_sequences if beams == 1 else _searched(setting, work, held, beams)
    places = int(max(1.0, min(fit, float(most or fit))))
    stack = setting.stack
    passes: Passes = BoundPasses.of(setting, work) if stack is None else calibrated_passes(setting)
    batch = np.arange(1.0, places + 1.0)
    prompt, output = setting.prompt, setting.output
    step = passes.decode(beams * batch, _context(setting, beams))
    step_s = np.broadcast_to(np.asarray(step.total_s, dtype=float), batch.shape)
    joined = passes.joining_s(step, beams * batch, prompt, batch * prompt / output)
    joined_s = np.broadcast_to(np.asarray(joined, float), batch.shape)
    return Paces(
        setting=setting,
        passes=passes,
        places=places,
        beams=beams,
        reason=held.reason(setting, 1.0) if fit < 1 else "",
        alone_s=float(passes.prefill_s(1.0, prompt)),
        front_s=0.0 if stack is None else float(stack.coefficients.request_s),
        step_tokens=float(stack.step_tokens) if stack is not None and stack.step_tokens else float("inf"),
        step_s=step_s,
        joined_s=joined_s,
        token_s=step_s + (batch - 1) / output * joined_s,
        completions_per_s=batch / (output * step_s + batch * joined_s),
    )


def _context(setting: Deployment, beams: int) -> float:
    """Keys and values that a sequence reads in a step: beams of one request read those of its prompt together."""
    return setting.context if beams == 1 else setting.prompt / beams + setting.output / 2


def _searched(setting: Deployment, work: InferenceWork, held: Room, beams: int) -> float:
    """Requests that fit, of which each caches its prompt once and ``beams`` continuations of it."""
    tokens = setting.prompt + beams * max(0.0, setting.occupied - setting.prompt)
    fit = float(largest_batch(held.free_B, work.kv_B / setting.kv_shards, tokens))
    return fit if setting.stack is None else min(fit, setting.stack.most_sequences // beams)
