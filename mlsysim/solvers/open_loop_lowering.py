"""From a serving deployment to what its requests see when they arrive at random."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from mlsysim.physics.inference import InferenceWork, largest_batch
from mlsysim.physics.open_loop import OpenLoop, in_flight
from mlsysim.physics.queueing import delay_scale_s
from mlsysim.physics.serving_schedule import Passes
from mlsysim.solvers.lowering import inference_work
from mlsysim.solvers.serving_bound import BoundPasses
from mlsysim.solvers.serving_input import ServingSetting
from mlsysim.solvers.serving_lowering import Room, calibrated_passes, room

_HALVINGS = 30


@dataclass(frozen=True)
class Paces:
    """A replica's speed by the number of requests in flight, 1 to ``places``; ``reason``: why none fits, with the bytes."""

    places: int
    reason: str
    prompt_s: float
    joined_s: float
    first_s: np.ndarray[tuple[int], np.dtype[np.float64]]
    token_s: np.ndarray[tuple[int], np.dtype[np.float64]]
    completions_per_s: np.ndarray[tuple[int], np.dtype[np.float64]]

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
        free, taken = in_flight(arrival_per_s, self.completions_per_s)
        busy = arrival_per_s * self.joined_s
        return OpenLoop(
            free=free,
            taken=taken,
            place_s=float(delay_scale_s(1 / self.capacity_per_s, 1, arrival_per_s / self.capacity_per_s, cv2)),
            busy=busy,
            prompt_s=float(delay_scale_s(self.joined_s, 1, busy, 0.0)),
            first_s=self.first_s,
            token_s=self.token_s,
        )


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
        return all(loop.after_wait_tail(limit_s, more) <= 1 - self.share for limit_s, more in after if limit_s < inf)


def highest_arrivals(pace: Paces, limits: Limits, output: float, cv2: float) -> float:
    """The most arrivals a second within ``limits``; 0 where not even a lone request keeps them.

    More arrivals lengthen every time, so that halving finds it.
    """
    low, high = 0.0, pace.capacity_per_s
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if limits.kept(pace.under(middle, cv2), output) else (low, middle)
    return low


def paces(setting: ServingSetting, most: int | None, beams: int = 1) -> Paces:
    """A replica's speed with 1, 2, ... requests in flight, at most ``most`` or as many as fit.

    Every request takes ``output`` steps of the batch, in which the prompts of all others join once: f(n) = n / (output step(n)
    + n prompt). A request finds a step under way, of which half is left, and then its prompt is computed. Under beam search a
    request decodes ``beams`` sequences, which share its prompt and the prompt's cache.
    """
    work = inference_work(setting.workload, setting.weights, setting.cache)
    held = room(setting, work)
    fit = held.most_sequences if beams == 1 else _searched(setting, work, held, beams)
    places = int(max(1.0, min(fit, float(most or fit))))
    passes: Passes = BoundPasses.of(setting, work) if setting.stack is None else calibrated_passes(setting)
    batch = np.arange(1.0, places + 1.0)
    prompt, output = setting.prompt, setting.output
    # Beams of one request read the keys and values of its prompt together.
    step = passes.decode(beams * batch, prompt / beams + output / 2)
    step_s = np.broadcast_to(np.asarray(step.total_s, dtype=float), batch.shape)
    joined = passes.joining_s(step, beams * batch, prompt, batch * prompt / output)
    joined_s = np.broadcast_to(np.asarray(joined, float), batch.shape)
    alone_s = float(passes.prefill_s(1.0, prompt))
    others_s = np.concatenate(([0.0], step_s[:-1]))
    return Paces(
        places=places,
        reason=held.reason(setting, 1.0) if fit < 1 else "",
        prompt_s=alone_s,
        joined_s=float(joined_s[-1]),
        first_s=alone_s + others_s / 2,
        token_s=step_s + (batch - 1) / output * joined_s,
        completions_per_s=batch / (output * step_s + batch * joined_s),
    )


def _searched(setting: ServingSetting, work: InferenceWork, held: Room, beams: int) -> float:
    """Requests that fit, of which each caches its prompt once and ``beams`` continuations of it."""
    tokens = setting.prompt + beams * max(0.0, setting.occupied - setting.prompt)
    fit = float(largest_batch(held.free_B, work.kv_B / setting.kv_shards, tokens))
    return fit if setting.stack is None else min(fit, setting.stack.most_sequences // beams)
