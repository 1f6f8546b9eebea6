"""A training run as a launch file states it: model, accelerators, and the plan as ``DistributedModel.solve`` takes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlsysim.calibration.names import stack_called
from mlsysim.core.checks import needed
from mlsysim.core.errors import InconsistentError, NotModelledError
from mlsysim.core.toml import packaged_toml, reads
from mlsysim.launch.known_models import like_registered
from mlsysim.launch.options import LaunchNotes, NotesTaken
from mlsysim.lowering.training_plan import by_long_names
from mlsysim.models.registry import Models
from mlsysim.models.types import TransformerWorkload

_FILE = "train_options.toml"
# Arguments on which the number of micro-batches hangs, where a file says how large each is.
_CHANGE_THE_NUMBER = {"batch_size", "tp_size", "pp_size", "cp_size", "dp_size"}


@dataclass(frozen=True)
class TrainingLaunch(LaunchNotes):
    """A training run as a launch file states it.

    Attributes:
        framework: whose file it is: megatron-lm, torchtitan, deepspeed, nanotron or llm-foundry.
        workload: what is trained.
        accelerators: of the run.
        per_node: of a node; None where nobody says.
        arguments: keywords of ``DistributedModel.solve``, ``batch_size`` and ``stack`` among them.
        assumed, ignored, unknown: as ``LaunchNotes`` has them.
    """

    framework: str
    workload: TransformerWorkload
    accelerators: int
    per_node: int | None
    arguments: dict[str, Any]


@dataclass
class Run(NotesTaken):
    """What is collected on the way to a ``TrainingLaunch``.

    Attributes:
        framework: the name of its entry in ``train_options.toml``.
        name: what messages call the file.
        workload: what is trained, where the caller or the file says it.
        accelerators: of the run, where somebody says it.
        per_node: of a node.
        arguments: of ``DistributedModel.solve``.
    """

    framework: str
    name: str
    workload: TransformerWorkload | None = None
    accelerators: int | None = None
    per_node: int | None = None
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """The framework's entry in ``train_options.toml``."""
        facts: dict[str, Any] = train_facts()[self.framework]
        return facts

    def counted(self) -> int:
        """The accelerators of the run.

        Raises:
            MissingArgumentError: nobody says how many there are.
        """
        return needed("accelerators", self.accelerators, f"how many there are: {self.name} leaves it to its launcher")

    def model(self, why: str = "the file names none") -> TransformerWorkload:
        """What is trained.

        Raises:
            MissingArgumentError: nobody says it.
        """
        return needed("workload", self.workload, f"a model such as Models.Language.Llama3_8B: {why} ({self.name})")

    def as_registered(self, built: TransformerWorkload) -> TransformerWorkload:
        """The registry's model whose layers are those of ``built``, where there is one; else ``built``."""
        symbol, known = like_registered(built, vocabulary=False)
        if known is None:
            return built
        self.assumed.append(f"the model is the registry's {symbol}, whose layers are the same")
        return known

    def ranks(self, tp: int, pp: int, cp: int = 1) -> int:
        """Data-parallel ranks: those that tensor, pipeline and context parallelism leave.

        Raises:
            InconsistentError: these do not divide the accelerators.
        """
        count, each = self.counted(), tp * pp * cp
        if count % each:
            raise InconsistentError("accelerators", count, f"a multiple of tp x pp x cp = {tp} x {pp} x {cp}")
        return count // each

    def micro_batches(self, batch: int, micro: int, dp: int) -> int:
        """Micro-batches of a step.

        Raises:
            InconsistentError: the batch is no multiple of what the ranks compute at once.
        """
        if batch % (micro * dp):
            raise InconsistentError("global batch", batch, f"a multiple of micro-batch x dp = {micro} x {dp}")
        return batch // (micro * dp)

    def _written(self, stated: Mapping[str, Any]) -> dict[str, Any]:
        """What the file says beside the caller's keywords: its micro-batch's size where these change how many there are."""
        written = dict(self.arguments)
        told = {name for name, value in stated.items() if value is not None}
        if "micro_batch" in told or (told & _CHANGE_THE_NUMBER and "microbatch_count" not in told):
            ranks = self.counted() // math.prod(written.get(name, 1) for name in ("tp_size", "pp_size", "cp_size"))
            size, part = divmod(written["batch_size"], written.pop("microbatch_count") * ranks)
            if not part and "micro_batch" not in told:
                written["micro_batch"] = size
        return written

    def launch(self, stated: Mapping[str, Any]) -> TrainingLaunch:
        """The run as it was collected; ``stated`` keywords of the caller win."""
        called = str(self.facts["framework"])
        stated = by_long_names(stated)
        arguments = {"stack": stack_called(called), **self._written(stated), **stated}
        return TrainingLaunch(
            framework=called,
            workload=self.model(),
            accelerators=self.counted(),
            per_node=self.per_node,
            arguments=arguments,
            assumed=tuple(dict.fromkeys(self.assumed)),
            ignored=tuple(self.ignored),
            unknown=tuple(self.unknown),
        )


@reads("launch", _FILE)
def train_facts() -> dict[str, Any]:
    """Give the document ``train_options.toml``."""
    return packaged_toml("launch", _FILE)


def registered(name: str) -> TransformerWorkload | None:
    """The registry's model of that name, written as files of training write it; None where there is none.

    Raises:
        NotModelledError: its layers are of a kind that is not modelled.

    Example:
        >>> registered("meta-llama/Llama-2-13b-hf").name, registered("in_house")
        ('Llama-2-13B', None)
    """
    model = Models.Language.find(name) or Models.Language.find(name.replace("_", "-"))
    if model is None and (reason := Models.not_modelled(name)):
        raise NotModelledError("model", name, reason)
    return model


def refuse_offload(name: str, value: object) -> None:
    """Refuses what the host's memory would keep.

    Raises:
        NotModelledError: something is offloaded.

    Example:
        >>> refuse_offload("enable_cpu_offload", True)
        Traceback (most recent call last):
        mlsysim.core.errors.NotModelledError: enable_cpu_offload = True: expected nothing: offloading is not modelled in \
training
    """
    if value:
        raise NotModelledError(name, value, "nothing: offloading is not modelled in training")
