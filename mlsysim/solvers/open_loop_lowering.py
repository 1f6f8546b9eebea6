"""From a serving deployment to what its requests see when they arrive at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlsysim.physics.open_loop import OpenLoop, in_flight
from mlsysim.physics.queueing import delay_scale_s
from mlsysim.physics.serving_schedule import Passes
from mlsysim.solvers.lowering import inference_work
from mlsysim.solvers.serving_bound import BoundPasses
from mlsysim.solvers.serving_input import ServingSetting
from mlsysim.solvers.serving_lowering import calibrated_passes
from mlsysim.solvers.serving_room import room


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


def paces(setting: ServingSetting, most: int | None) -> Paces:
    """A replica's speed with 1, 2, ... requests in flight, at most ``most`` or as many as fit.

    Every request takes ``output`` steps of the batch, in which the prompts of all others join once: f(n) = n / (output step(n)
    + n prompt). A request finds a step under way, of which half is left, and then its prompt is computed.
    """
    work = inference_work(setting.workload, setting.weights, setting.cache)
    held = room(setting, work)
    places = int(max(1.0, min(held.most_sequences, float(most or held.most_sequences))))
    passes: Passes = BoundPasses.of(setting, work) if setting.stack is None else calibrated_passes(setting)
    batch = np.arange(1.0, places + 1.0)
    prompt, output = setting.prompt, setting.output
    step = passes.decode(batch, setting.context)
    step_s = np.broadcast_to(np.asarray(step.total_s, dtype=float), batch.shape)
    joined_s = np.broadcast_to(np.asarray(passes.joining_s(step, batch, prompt, batch * prompt / output), float), batch.shape)
    alone_s = float(passes.prefill_s(1.0, prompt))
    others_s = np.concatenate(([0.0], step_s[:-1]))
    return Paces(
        places=places,
        reason=held.reason(setting, 1.0) if held.most_sequences < 1 else "",
        prompt_s=alone_s,
        joined_s=float(joined_s[-1]),
        first_s=alone_s + others_s / 2,
        token_s=step_s + (batch - 1) / output * joined_s,
        completions_per_s=batch / (output * step_s + batch * joined_s),
    )
