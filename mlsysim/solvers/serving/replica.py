"""One copy of a model, ready for any number of requests at once: its passes, its room, and why it has none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mlsysim.lowering.serving_bound import BoundPasses
from mlsysim.lowering.serving_kernels import calibrated_passes
from mlsysim.lowering.serving_memory import Room, room
from mlsysim.lowering.serving_setting import ServingSetting, check_setting
from mlsysim.lowering.work import inference_work
from mlsysim.physics.numeric import Num
from mlsysim.physics.serving.inference import InferenceWork, largest_batch
from mlsysim.physics.serving.schedule import Passes, Served, continuous_batch, static_batch

# Arguments of ``ServingModel.solve`` that the solvers built on it may leave out.
_USUAL: dict[str, Any] = {
    "batch_size": 1,
    "output_len": None,
    "precision": "fp16",
    "weight_precision": None,
    "kv_precision": None,
    "efficiency": None,
    "stack": None,
    "tp_size": 1,
    "pp_size": 1,
    "replicas": 1,
    "schedule": "continuous",
    "rounds": None,
    "requests": None,
    "stream_interval": 1,
    "attention_dp": False,
}


@dataclass(frozen=True, slots=True)
class ServingReplica:
    """A copy of the model.

    Attributes:
        setting: what was asked.
        work: of the model.
        held: memory.
        passes: their times.
        page: tokens of a block of the cache.
        most: sequences whose cache fits, or that the engine decodes together.
    """

    setting: ServingSetting
    work: InferenceWork
    held: Room
    passes: Passes
    page: int
    most: int

    @classmethod
    def of(cls, workload: object, hardware: object, page: int = 1, **asked: Any) -> Self:
        """The replica of the arguments of ``ServingModel.solve``.

        Raises:
            InputError: one is out of range.
        """
        setting = check_setting(workload, hardware, **{**_USUAL, **asked})
        work = inference_work(setting.workload, setting.weights, setting.cache)
        held = room(setting, work)
        passes: Passes = BoundPasses.of(setting, work) if setting.stack is None else calibrated_passes(setting)
        most = held.most_sequences
        if page > 1:
            most = min(most, float(largest_batch(held.free_B, work.kv_B / setting.kv_shards, _paged(setting, page))))
        return cls(setting, work, held, passes, page, int(most))

    @property
    def accelerators(self) -> int:
        """Of the replica."""
        return self.held.accelerators

    @property
    def each_kv_B(self) -> float:
        """Cache of one sequence, all ranks, with what it leaves unused of its last block."""
        return self.work.kv_B * _paged(self.setting, self.page)

    def served(self, batch: Num) -> Served:
        """The schedule's answer to ``batch`` sequences, one or an array of them, without a look at the memory."""
        setting = self.setting
        if setting.schedule == "static":
            return static_batch(self.passes, batch, setting.prompt, setting.output, setting.context)
        return continuous_batch(self.passes, batch, batch, setting.prompt, setting.output, float(setting.rounds or 0))

    def lacking(self) -> str:
        """Why not even one sequence fits, with the bytes; empty where one does."""
        if self.most >= 1:
            return ""
        setting, held = self.setting, self.held
        sequence_B = self.each_kv_B / held.shards
        return held.reason(setting, 1.0) or (
            f"{setting.accelerator.name} has {max(held.free_B, 0.0) / 1e9:.2f} GB for the KV cache beside "
            f"{held.weights_B / 1e9:.1f} GB of weights and the engine's workspace; one sequence needs {sequence_B / 1e9:.2f} GB"
        )


def _paged(setting: ServingSetting, page: int) -> float:
    """Tokens of blocks that a running sequence occupies: half of the last one is empty, mean over its life."""
    return setting.occupied + (page - 1) / 2


def whole_batches(first: int, last: int) -> npt.NDArray[np.float64]:
    """All whole numbers from ``first`` to ``last``.

    Example:
        >>> whole_batches(2, 4)
        array([2., 3., 4.])
    """
    return np.arange(float(first), float(last) + 1)
