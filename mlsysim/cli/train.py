"""The command ``mlsysim train``: how long a step of a parallel plan takes, and whether it fits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlsysim.cli.options import taking
from mlsysim.cli.question import (
    batch_of,
    fleet_or_chip,
    launched,
    length_assumed,
    model_named,
    name_of,
)
from mlsysim.cli.results import Answer, answering, memory_of
from mlsysim.cli.serve import Bound, Model, On
from mlsysim.core.errors import InputError
from mlsysim.lowering.options import StepOptions
from mlsysim.solvers.shown import shown

if TYPE_CHECKING:
    from mlsysim.hardware.types import HardwareNode
    from mlsysim.solvers.training.distributed import DistributedResult
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
# What says how large micro-batches are; how large ones are tried where nothing does, and what gain is worth a word.
_SIZE_OF_MICRO_BATCHES = ("micro_batch", "microbatch_count", "micro_batch_tokens")
_LARGEST_POWER, _WORTH_TELLING = 8, 0.01
# The options that most lines have.
FIRST = ("seq_len", "tp_size", "pp_size", "micro_batch", "zero_stage", "recompute", "precision", "stack")


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
    from mlsysim.systems.fleets import as_fleet

    workload, assumed = model_named(model)
    size = batch_of(batch)
    tokens = isinstance(workload, TransformerWorkload)
    sample = "sequence" if tokens else "sample"
    counted = ("throughput",) if tokens else ("tokens_per_second", "tokens_per_second_per_accelerator")

    def answer(name: str, machine: HardwareNode | Node | Fleet) -> Answer:
        fleet = as_fleet(machine)
        chosen = recommended_stack(workload, fleet, options, "bound" if bound else None)
        asked = {"batch_size": size, **chosen.added_to(options)}
        result = DistributedModel().solve(workload, fleet, **asked)
        memory = memory_of(result, fleet.node.accelerator)
        larger = _on_micro_batches(result, partial(DistributedModel().solve, workload, fleet), asked, sample)
        notes = (*chosen.notes, *assumed, *length_assumed(workload, options), *larger)
        return Answer(name, result, notes, memory, without=counted)

    return answer


def _on_micro_batches(
    result: DistributedResult, solve: Callable[..., DistributedResult], asked: dict[str, Any], sample: str
) -> tuple[str, ...]:
    """What larger micro-batches would do, where nobody said how large they are."""
    if any(asked.get(name) is not None for name in _SIZE_OF_MICRO_BATCHES):
        return ()
    sequences = int(result.plan["micro_batches"])
    sizes = [size for size in (2**power for power in range(1, _LARGEST_POWER)) if sequences % size == 0]
    others = {}
    for size in sizes:
        with suppress(InputError):  # a schedule that so few micro-batches do not fill
            if (run := solve(**asked, micro_batch=size)).feasible:
                others[size] = run
    quickest = min(others, key=lambda size: others[size].step_latency_total, default=0)
    said = f"micro-batches of one {sample}, since no --micro-batch is given"
    if not quickest or others[quickest].step_latency_total > (1 - _WORTH_TELLING) * result.step_latency_total:
        return (said,) if others else ()
    return (f"{said}: --micro-batch {quickest} takes {shown(others[quickest].step_latency_total)}",)


def _pasted(source: str, model: str | None, batch: int | None, bound: bool, options: dict[str, Any]) -> Asked:
    """Ask about the run that a launch file describes; options of our own line win."""
    from mlsysim.launch import answer_training
    from mlsysim.systems.types import accelerator_of

    def answer(name: str, machine: HardwareNode | Node | Fleet) -> Answer:
        launch = launched(source, model, machine, batch, bound, options)
        result = answer_training(launch, fleet_or_chip(machine))
        return Answer(name, result, (), memory_of(result, accelerator_of(machine)), without=("throughput",))

    return answer


train = answering("train", trained, SHOWN)
