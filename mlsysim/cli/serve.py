"""The command ``mlsysim serve``: how fast a deployment serves a batch, and whether it fits."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mlsysim.cli.options import taking
from mlsysim.cli.question import accelerator_of, engine_named, transformer_named
from mlsysim.cli.results import Answer, answering, memory_of
from mlsysim.lowering.options import ServingOptions

Model = Annotated[str, typer.Argument(help="The model: a name of `mlsysim list models`, or an id on Hugging Face.")]
On = Annotated[str, typer.Option("--on", help='What it runs on: "H200", "8 x H200", "64 x DGX H100"; several with commas.')]
Bound = Annotated[bool, typer.Option("--bound", help="The speed of light: physics and datasheets alone.")]
SHOWN = {
    "itl": "between tokens",
    "ttft": "first token",
    "request_latency": "whole request",
    "tokens_per_second": "output tokens/s",
    "requests_per_second": "requests/s",
    "max_batch": "largest batch",
}
# The options that most lines have.
FIRST = ("batch_size", "input_len", "output_len", "tp_size", "pp_size", "stack", "precision", "kv_precision")


@taking(ServingOptions, called={"stack": "--engine"}, without=("seq_len",), first=FIRST)
def served(model: Model, on: On, bound: Bound = False, **options: Any) -> list[Answer]:
    """Tell how fast a deployment serves a batch of prompts, whether it fits, and what takes the time.

    Without --engine it is the engine that measurements support best on the accelerator.
    """
    from mlsysim.models.registry import Models
    from mlsysim.solvers.recommended import recommended_engine
    from mlsysim.solvers.serving.serving import ServingModel
    from mlsysim.systems.fleet_text import machine_called, machines_listed

    workload = transformer_named(model)
    if options.get("stack") is not None:
        options["stack"] = engine_named(options["stack"])
    if options.get("draft") is not None:
        options["draft"] = Models.get(options["draft"])
    answers = []
    for name in machines_listed(on, "--on"):
        machine = machine_called(name, "--on")
        chosen = recommended_engine(workload, machine, options, "bound" if bound else None)
        result = ServingModel().solve(workload, machine, **chosen.added_to(options))
        device = accelerator_of(machine)
        without = () if options.get("output_len") else ("request_latency", "requests_per_second")
        answers.append(Answer(name, result, chosen.notes, memory_of(result, device), without=without))
    return answers


serve = answering("serve", served, SHOWN)
