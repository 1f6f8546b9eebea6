"""The command ``mlsysim train``: how long a step of a parallel plan takes, and whether it fits."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mlsysim.cli.options import taking
from mlsysim.cli.question import model_named, stack_named
from mlsysim.cli.results import Answer, answering, memory_of
from mlsysim.cli.serve import Bound, Model, On
from mlsysim.lowering.options import StepOptions

Batch = Annotated[int, typer.Option("--batch", help="Sequences of a step, all ranks together.")]
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
def trained(model: Model = None, *, on: On, batch: Batch, bound: Bound = False, **options: Any) -> list[Answer]:
    """Tell how long a training step of a parallel plan takes, whether it fits, and what takes the time.

    Without --stack it is the stack that measurements support best on the accelerator.
    """
    from mlsysim.models.types import TransformerWorkload
    from mlsysim.solvers.recommended import recommended_stack
    from mlsysim.solvers.training.distributed import DistributedModel
    from mlsysim.systems.fleet_text import fleet_called, machines_listed

    workload, assumed = model_named(model)
    if options.get("stack") is not None:
        options["stack"] = stack_named(options["stack"])
    tokens = isinstance(workload, TransformerWorkload)
    counted = ("throughput",) if tokens else ("tokens_per_second", "tokens_per_second_per_accelerator")
    answers = []
    for name in machines_listed(on, "--on"):
        fleet = fleet_called(name, "--on")
        chosen = recommended_stack(workload, fleet, options, "bound" if bound else None)
        result = DistributedModel().solve(workload, fleet, batch_size=batch, **chosen.added_to(options))
        memory = memory_of(result, fleet.node.accelerator)
        answers.append(Answer(name, result, (*chosen.notes, *assumed), memory, without=counted))
    return answers


train = answering("train", trained, SHOWN)
