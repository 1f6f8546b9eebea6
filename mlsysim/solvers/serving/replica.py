"""One copy of a model, ready for any number of requests at once: its passes, its memory, and why it has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.offloaded_passes import drafted, streamed_passes, whole_passes
from mlsysim.lowering.prefix_cache import step_room
from mlsysim.lowering.serving_memory import Room, room
from mlsysim.lowering.work import inference_work
from mlsysim.physics.numeric import Num
from mlsysim.physics.serving.inference import InferenceWork
from mlsysim.physics.serving.schedule import (
    Load,
    Passes,
    Served,
    continuous_batch,
    in_tokens,
    most_throughput,
    static_batch,
)


@dataclass(frozen=True, slots=True)
class ServingReplica:
    """A copy of the model.

    Attributes:
        deployment: what is served, and how.
        work: arithmetic and bytes of the model.
        held: the memory that it takes.
        whole_passes: times of its passes, were no prompt cached and all of it on the accelerators.
        passes: times of its passes as they are.
    """

    deployment: Deployment
    work: InferenceWork
    held: Room
    whole_passes: Passes
    passes: Passes

    @classmethod
    def of(cls, deployment: Deployment) -> Self:
        """The replica of a deployment."""
        work = inference_work(deployment.workload, deployment.weights, deployment.cache, deployment.experts)
        held = room(deployment, work)
        whole = whole_passes(deployment, work)
        passes = drafted(streamed_passes(whole, deployment, work, held.all_weights_B), deployment)
        return cls(deployment, work, held, whole, passes)

    def with_batch(self, batch: int) -> Self:
        """Copy the replica with another number of requests."""
        return replace(self, deployment=replace(self.deployment, batch=float(batch)))

    @property
    def accelerators(self) -> int:
        """The number of accelerators that share the model."""
        return self.held.accelerators

    @property
    def most(self) -> int:
        """Sequences whose cache fits, or that the engine decodes together."""
        return int(self.held.most_sequences)

    @property
    def load(self) -> Load:
        """What its schedule is asked of its passes; where no sequence fits, one is answered for."""
        deployment, room = self.deployment, step_room(self.deployment)
        return Load(
            batch=deployment.batch,
            most=max(1.0, self.held.most_sequences),
            prompt=deployment.prompt,
            output=deployment.output,
            context=deployment.context,
            rounds=float(deployment.rounds or 0),
            requests=float(deployment.requests or 0),
            wait_steps=float(deployment.batch_wait_iters),
            recv_interval=float(deployment.recv_interval),
            output_cv=deployment.output_cv,
            step_tokens=room.tokens,
            groups=room.groups,
            sequence_tokens=room.sequence_tokens,
            ahead=deployment.ahead,
        )

    def served(self, batch: Num) -> Served:
        """The schedule's answer to ``batch`` sequences, one or an array of them, without a look at the memory."""
        return scheduled(self.deployment, self.passes, replace(self.load, batch=batch, most=batch))

    def lacking(self) -> str:
        """Why not even one sequence fits, with the bytes; empty where one does."""
        return self.held.reason(self.deployment, 1.0)


_SCHEDULES: dict[str, Callable[[Passes, Load], Served]] = {
    "static": static_batch,
    "continuous": continuous_batch,
    "offline": most_throughput,
}


def scheduled(deployment: Deployment, passes: Passes, load: Load) -> Served:
    """What the deployment's schedule comes to under a load, or under each of an array of loads."""
    drafts = bool(deployment.draft_len)
    served = _SCHEDULES[deployment.schedule](passes, replace(load, output=deployment.rounds_each) if drafts else load)
    return in_tokens(served, load.output, deployment.round_tokens) if drafts else served


def whole_batches(first: int, last: int) -> npt.NDArray[np.float64]:
    """All whole numbers from ``first`` to ``last``.

    Example:
        >>> whole_batches(2, 4)
        array([2., 3., 4.])
    """
    return np.arange(float(first), float(last) + 1)
