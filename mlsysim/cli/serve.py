"""The command ``mlsysim serve``: how fast a deployment serves a batch, and whether it fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlsysim.cli.options import flag_of, taking
from mlsysim.cli.question import checkpoint_formats, name_of, other_number, transformer_named
from mlsysim.cli.results import Answer, answering, memory_of, told
from mlsysim.core.checks import needed
from mlsysim.lowering.options import FORMATS, STACK_OPTIONS, ServingOptions

if TYPE_CHECKING:
    from mlsysim.hardware.types import HardwareNode
    from mlsysim.solvers.result import Result
    from mlsysim.systems.types import Fleet, Node

    Asked = Callable[[HardwareNode | Node | Fleet], tuple[Result, tuple[str, ...]]]

Model = Annotated[
    str | None,
    typer.Argument(
        help="A name of `mlsysim list models`, an id on Hugging Face, or the path of a config.json.", show_default=False
    ),
]
On = Annotated[str, typer.Option("--on", help='What it runs on: "H200", "8 x H200", "64 x DGX H100"; several with commas.')]
Bound = Annotated[bool, typer.Option("--bound", help="The speed of light: physics and datasheets alone.")]
SHOWN = {
    "itl": "between tokens",
    "token_gap": "with others' prompts",
    "ttft": "first token",
    "request_latency": "whole request",
    "tokens_per_second": "output tokens/s",
    "requests_per_second": "requests/s",
    "max_batch": "largest batch",
}
# The one part of an encoder's time, and what its fields are called.
_PASS, _ENCODED = "the pass", {"ttft": "one pass", "tokens_per_second": "sequences/s"}
# A mean time between tokens this near to a decode step says no more than the step.
_NEAR = 0.005
# The options that most lines have.
FIRST = ("batch_size", "input_len", "output_len", "tp_size", "pp_size", "stack", *FORMATS.values())


@taking(ServingOptions, called={"stack": "--engine"}, without=("seq_len",), first=FIRST)
def served(
    model: Model = None,
    *,
    on: On,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", help='A server\'s command line, such as "vllm serve ...", or a script or manifest that has one.'
        ),
    ] = None,
    bound: Bound = False,
    **options: Any,
) -> list[Answer]:
    """Tell how fast a deployment serves a batch of prompts, whether it fits, and what takes the time.

    Without --engine it is the engine that measurements support best on the accelerator; with --from the one that is started,
    and without --batch then as many requests in flight as it lets in.
    """
    from mlsysim.models.registry import Models
    from mlsysim.systems.fleet_text import machine_called, machines_listed
    from mlsysim.systems.types import accelerator_of

    if options.get("stack") is not None:
        options["stack"] = name_of("--engine", options["stack"])
    if options.get("draft") is not None:
        options["draft"] = Models.get(options["draft"])
    endless = () if options.get("output_len") else ("request_latency", "requests_per_second")
    answer = _described(model, bound, options) if source is None else _pasted(source, model, bound, options)
    answers = []
    for name in machines_listed(on, "--on"):
        machine = machine_called(name, "--on")
        result, notes = answer(machine)
        figures, without = {**_of_a_pass(result), **memory_of(result, accelerator_of(machine))}, (*endless, *_same(result))
        answers.append(Answer(name, result, (*notes, *other_number(machine, result)), figures, without=without))
    return answers


def _of_a_pass(result: Result) -> dict[str, str]:
    """The figures of an encoder, which generates no tokens: its one pass has all of them."""
    if _PASS not in result.breakdown:
        return {}
    return {called: told(result, name, getattr(result, name)) for name, called in _ENCODED.items()}


def _same(result: Result) -> tuple[str, ...]:
    """Fields that are others of an encoder, and a time between tokens that is a step's: no prompt of others comes between."""
    if _PASS in result.breakdown:
        return tuple(name for name in SHOWN if name != "max_batch")
    gap, step = getattr(result, "token_gap", None), getattr(result, "itl", None)
    return ("token_gap",) if gap is None or step is None or gap <= (1 + _NEAR) * step else ()


def _described(model: str | None, bound: bool, options: dict[str, Any]) -> Asked:
    """Ask about the deployment that a line's own options describe."""
    from mlsysim.solvers.recommended import recommended_engine
    from mlsysim.solvers.serving.serving import ServingModel

    model = needed("MODEL", model, 'a model, or --from "vllm serve ..."')
    workload, assumed = transformer_named(model)
    formats = checkpoint_formats(model, workload, options)
    if formats:
        assumed = (*assumed, f"the name says so: {', '.join(f'{flag_of(name)} {told}' for name, told in formats.items())}")

    def answer(machine: HardwareNode | Node | Fleet) -> tuple[Result, tuple[str, ...]]:
        chosen = recommended_engine(workload, machine, options, "bound" if bound else None)
        result = ServingModel().solve(workload, machine, **{**formats, **chosen.added_to(options)})
        return result, (*chosen.notes, *assumed)

    return answer


def _pasted(source: str, model: str | None, bound: bool, options: dict[str, Any]) -> Asked:
    """Ask about the deployment that a server's command line starts; options of our own line win."""
    from mlsysim.launch import answer_serving, serving_launch

    launch = serving_launch(source, workload=None if model is None else transformer_named(model)[0])
    load = {name: options.pop(name, None) for name in ("input_len", "output_len", "batch_size", "acceptance")}
    for name in ("input_len", "output_len"):
        needed(flag_of(name), load[name], "a number of tokens, which a server's command line does not say")
    basis = dict.fromkeys(("stack", *STACK_OPTIONS)) if bound else {}
    return lambda machine: (answer_serving(launch, machine, **load, **{**options, **basis}), ())


serve = answering("serve", served, SHOWN)
