"""The command ``mlsysim trust``: how far off predictions like one were, by published measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlsysim.cli.output import AsJson, AsMarkdown, Document, Facts, Notes, Table, tell
from mlsysim.cli.question import model_named, name_of
from mlsysim.core.errors import InconsistentError

if TYPE_CHECKING:
    from mlsysim.calibration.evidence import RunFacts
    from mlsysim.calibration.intervals import Spread
    from mlsysim.validation.report.coverage import Judged

_TRAINING, _SERVING = "DistributedModel", "ServingModel"
_LEFT_OUT = (
    "the interval is that of a run that states all that matters; runs whose tables leave facts out are further off, and theirs "
    "is as much wider"
)
_HEADER = ("figures", "half within", "90 % within", "in their interval")


def trust(
    model: Annotated[str, typer.Argument(help="The model, in any published spelling.")],
    on: Annotated[str, typer.Option("--on", help='An accelerator, a node or a fleet, such as H100 or "64 x DGX H100".')],
    stack: Annotated[str | None, typer.Option("--stack", help="A training stack.")] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="A serving engine.")] = None,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
) -> int | None:
    """Show what is known of a model on a device: published runs like it, and how far off they were predicted.

    Without a stack or an engine, all that were measured on the device are compared. An accelerator without a count is any
    number of it: the nearest runs may be of one or of thousands.
    """
    from mlsysim.hardware.types import HardwareNode
    from mlsysim.systems.fleet_text import machine_called
    from mlsysim.systems.fleets import as_fleet

    (workload, _), machine = model_named(model), machine_called(on, "--on")
    fleet = as_fleet(machine)
    # Who names an accelerator alone asks what is known of it, not of one of it.
    device, count = fleet.node.accelerator.name, 0.0 if isinstance(machine, HardwareNode) else float(fleet.accelerators)
    if stack is not None and engine is not None:
        raise InconsistentError("--engine", engine, "nothing beside --stack: a run trains or serves")
    if stack is None and engine is None:
        document = _compared(workload.name, workload.kind, device)
    else:
        from mlsysim.calibration.evidence import RunFacts

        solver, option, typed = (_SERVING, "--engine", engine) if stack is None else (_TRAINING, "--stack", stack)
        named = name_of(option, str(typed))
        document = _told(solver, RunFacts(workload.name, workload.kind, device, named, count))
    tell(document, as_json=as_json, as_markdown=as_markdown)
    return None


def _told(solver: str, facts: RunFacts) -> Document:
    """All that is known of runs like one: the interval that it gets, what that rests on, and the runs next to it."""
    from mlsysim.calibration.evidence import FIRST_TOKEN, WHOLE, unfitted
    from mlsysim.calibration.intervals import NAMED, spread
    from mlsysim.solvers.interval import nearest_to
    from mlsysim.solvers.result import fitted_basis

    missing = unfitted(solver, WHOLE, facts)
    rows = [("basis", fitted_basis(solver, facts))]
    if missing:
        named = ", this ".join(NAMED[one] for one in missing)
        rows.append(("not fitted to", f"this {named}: intervals come from those that were left out of fits"))
    intervals: dict[str, Any] = {}
    notes: list[Table | Notes] = []
    quantities = {WHOLE: "step"} if solver == _TRAINING else {WHOLE: "time between tokens", FIRST_TOKEN: "first token"}
    for quantity, named in quantities.items():
        known = spread(solver, quantity, facts)
        other = spread(solver, quantity, facts, known_source=False)
        if known is None:
            continue
        rows.append((named, f"nine in ten measurements lie within {_ends(known)} of the prediction ({known.scope})"))
        if other is not None and other.log_width > known.log_width:
            rows.append(("", f"of somebody who has published nothing yet: {_ends(other)}"))
        if not missing and known.p90 > math.expm1(known.log_width):
            notes = [Notes([_LEFT_OUT], "Notes")]
        intervals[quantity] = {"known source": _plain(known), "elsewhere": None if other is None else _plain(other)}
    tables, measured = [], []
    for quantity in intervals:
        pooled = _pooled(solver, quantity, facts)
        measured += [{"quantity": quantity, "shared": shared, **figures} for shared, figures in pooled]
        body = [[", ".join(shared.values()) or "all", *_shown(figures)] for shared, figures in pooled]
        tables.append(Table(("measured runs of", *_HEADER), body, f"Published runs like it: {quantities[quantity]}", _HEADER))
    nearest = nearest_to(solver, WHOLE, facts)
    on = [f"{one.facts.accelerators:,.0f} x {one.facts.accelerator}" for one in nearest]
    listed = [
        (one.facts.model, place, one.facts.stack, _signed(one.error), one.citation)
        for one, place in zip(nearest, on, strict=True)
    ]
    header = ("run", "on", "stack", "error", "published by")
    runs = Table(header, listed, "The published runs that are most like it", ("error",))
    data = {
        "command": "trust",
        "model": facts.model,
        "kind": facts.kind,
        "accelerator": facts.accelerator,
        "accelerators": facts.accelerators or None,
        "stack": facts.stack,
        "basis": fitted_basis(solver, facts),
        "unmeasured": list(missing),
        "intervals": intervals,
        "measured": measured,
        "nearest": [
            {"id": one.id, **one.facts._asdict(), "error": math.expm1(one.error), "citation": one.citation, "url": one.url}
            for one in nearest
        ],
    }
    counted = f"{facts.accelerators:,.0f} x" if facts.accelerators else "any number of"
    title = f"{facts.model} ({facts.kind}) on {counted} {facts.accelerator} with {facts.stack}"
    return Document(title, [Facts(rows), *tables, runs, *notes], data)


def _pooled(solver: str, quantity: str, facts: RunFacts) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """What runs share with this one, the most first, and how far off the predictions of those runs were."""
    from mlsysim.calibration.intervals import SCOPES

    judged, pooled = _judged(solver, quantity), []
    for names in SCOPES:
        shared = {name: getattr(facts, name) for name in names}
        like = [one for one in judged if all(getattr(one.run.facts, name) == value for name, value in shared.items())]
        if like:
            pooled.append((shared, _figures(like)))
    return pooled


def _compared(model: str, kind: str, device: str) -> Document:
    """All stacks and engines that were measured on a device, with how far off runs of this kind of model were."""
    from mlsysim.calibration.evidence import WHOLE
    from mlsysim.solvers.interval import called

    blocks: list[Table | Notes] = []
    listed = []
    for solver, named in ((_TRAINING, "Training stacks"), (_SERVING, "Serving engines")):
        on_device = [one for one in _judged(solver, WHOLE) if (one.run.facts.accelerator, one.run.facts.kind) == (device, kind)]
        stacks: dict[str, list[Judged]] = {}
        for one in on_device:
            stacks.setdefault(one.run.facts.stack, []).append(one)
        body = []
        for stack, like in sorted(stacks.items(), key=lambda item: -len(item[1])):
            figures = _figures(like)
            of_model = sum(called(one.run.facts.model) == called(model) for one in like)
            listed.append({"solver": solver, "stack": stack, **figures, "figures_of_model": of_model})
            body.append([stack or "(one that nobody knows)", *_shown(figures), str(of_model)])
        if body:
            header = ("stack" if solver == _TRAINING else "engine", *_HEADER, "of this model")
            blocks.append(Table(header, body, f"{named} measured with {kind} models on it", header[1:]))
        else:
            blocks.append(Notes([f"no run of a {kind} model was measured on it"], named))
    blocks.append(Notes(["name one by --stack or --engine for its intervals and the published runs next to yours"]))
    data = {"command": "trust", "model": model, "kind": kind, "accelerator": device, "stacks": listed}
    return Document(f"{model} ({kind}) on {device}", blocks, data)


def _judged(solver: str, quantity: str) -> Sequence[Judged]:
    from mlsysim.validation.report.coverage import judged_runs

    return judged_runs(solver, quantity)


def _figures(like: Sequence[Judged]) -> dict[str, Any]:
    """How many figures runs have, how far off they were predicted, and how many lie in the interval that others give them."""
    from mlsysim.calibration.intervals import spread_of

    errors = spread_of([one.run for one in like])
    return {
        "figures": len(like),
        "runs": len({one.run.run for one in like}),
        "median_error": errors.median,
        "p90_error": errors.p90,
        "in_interval": sum(one.held for one in like) / len(like),
    }


def _shown(figures: dict[str, Any]) -> list[str]:
    shares = (f"{100 * figures[name]:.1f} %" for name in ("median_error", "p90_error", "in_interval"))
    return [f"{figures['figures']:,}", *shares]


def _ends(spread: Spread) -> str:
    return f"{_signed(-spread.log_width)} to {_signed(spread.log_width)}"


def _signed(log_error: float) -> str:
    return f"{100 * math.expm1(log_error):+.1f} %"


def _plain(spread: Spread) -> dict[str, Any]:
    low, high = spread.about(1.0)
    return {"low": low, "high": high, "scope": spread.scope, "runs": spread.runs, "median": spread.median, "p90": spread.p90}
