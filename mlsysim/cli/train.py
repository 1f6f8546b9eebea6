"""The command ``mlsysim train``: how long a step of a parallel plan takes, and whether it fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlsysim.cli.options import taking
from mlsysim.cli.question import accelerator_of, as_fleet, batch_of, fleet_or_chip, launched, model_named, name_of
from mlsysim.cli.results import Answer, answering, memory_of
from mlsysim.cli.serve import Bound, Model, On
from mlsysim.lowering.options import StepOptions

if TYPE_CHECKING:
    from mlsysim.hardware.types import HardwareNode
    from mlsysim.systems.types import Fleet, Node

    Asked = Callable[[str, HardwareNode | Node | Fleet], Answer]

Batch = Annotated[int | None, typer.Option("--batch", help="Sequences of a step, all ranks together.")]
From = Annotated[
    str | None,
    typer.Option("--from", help="A launch file, or its text: Megatron's arguments, a torchtitan TOML, a DeepSpeed JSON, YAML."),
]
SHOWN = {
    "step_latency_total": "step",
    "throughput": "samples/s",
    "tokens_per_second": "tokens/s",
    "tokens_per_second_per_accelerator": "tokens/s each",
    "mfu": "MFU",
    "plan": "plan",
}
# The options that most lines have.
FIRST = ("seq_len", "tp_size", "pp_size", "microbatch_count", "zero_stage", "recompute", "precision", "stack")


@taking(StepOptions, first=FIRST)
def trained(
    model: Model = None, *, on: On, batch: Batch = None, source: From = None, bound: Bound = False, **options: Any
) -> list[Answer]:
    """Tell how long a training step of a parallel plan takes, whether it fits, and what takes the time.

    Without --stack it is the stack that measurements support best on the accelerator; with --from the framework of the file,
    and what the file leaves out is said by the options beside it.
    """
    from mlsysim.systems.fleet_text import machine_called, machines_listed

    if options.get("stack") is not None:
        options["stack"] = name_of("--stack", options["stack"])
    answer = _described(model, batch, bound, options) if source is None else _pasted(source, model, batch, bound, options)
    return [answer(name, machine_called(name, "--on")) for name in machines_listed(on, "--on")]


def _described(model: str | None, batch: int | None, bound: bool, options: dict[str, Any]) -> Asked:
    """Ask about the step that a line's own options describe."""
    from mlsysim.models.types import TransformerWorkload
    from mlsysim.solvers.recommended import recommended_stack
    from mlsysim.solvers.training.distributed import DistributedModel

    workload, assumed = model_named(model)
    size = batch_of(batch)
    tokens = isinstance(workload, TransformerWorkload)
    counted = ("throughput",) if tokens else ("tokens_per_second", "tokens_per_second_per_accelerator")

    def answer(name: str, machine: HardwareNode | Node | Fleet) -> Answer:
        fleet = as_fleet(machine)
        chosen = recommended_stack(workload, fleet, options, "bound" if bound else None)
        result = DistributedModel().solve(workload, fleet, batch_size=size, **chosen.added_to(options))
        memory = memory_of(result, fleet.node.accelerator)
        return Answer(name, result, (*chosen.notes, *assumed), memory, without=counted)

    return answer


def _pasted(source: str, model: str | None, batch: int | None, bound: bool, options: dict[str, Any]) -> Asked:
    """Ask about the run that a launch file describes; options of our own line win."""
    from mlsysim.launch import answer_training

    def answer(name: str, machine: HardwareNode | Node | Fleet) -> Answer:
        launch = launched(source, model, machine, batch, bound, options)
        result = answer_training(launch, fleet_or_chip(machine))
        return Answer(name, result, (), memory_of(result, accelerator_of(machine)), without=("throughput",))

    return answer


train = answering("train", trained, SHOWN)
