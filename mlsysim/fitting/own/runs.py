"""A user's runs, from tables of runs and from files of anchors, as what a fit takes: the plan of each and what was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlsysim.calibration.evidence import WHOLE, quantity_of
from mlsysim.calibration.own import ENGINE, STACK, is_own, own_stack
from mlsysim.core.errors import DataError, InputError, MLSysError
from mlsysim.fitting import engines, training
from mlsysim.fitting.calibration import Runs
from mlsysim.fitting.engines import SI, MeasuredFigure
from mlsysim.fitting.training import MeasuredStep
from mlsysim.solvers.serving.serving import checked_question
from mlsysim.tables.predict import FIGURE_COLUMNS, UNREAD_COLUMNS
from mlsysim.tables.serving import METRICS, serving_question
from mlsysim.tables.training import METRICS as TRAINING_METRICS
from mlsysim.tables.training import TrainingQuestion, question
from mlsysim.tables.training_steps import prepared, run_steps
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.inputs import call_of
from mlsysim.validation.anchors.loading import load
from mlsysim.validation.anchors.record_keys import TABLE_SUFFIX, USER_SUFFIX
from mlsysim.validation.anchors.runner import predict, step_exponent
from mlsysim.validation.anchors.runs import predicted_runs

# The fields of a serving result that a fit can predict, and what they are in SI units.
_FIELDS = {field: SI.get(unit, 1.0) for field, unit in METRICS.values()}


@dataclass(frozen=True)
class OwnRun:
    """A figure of a run.

    Attributes:
        id: its name, in its file.
        key: what all figures of one run share: they are left out of a fit together.
        measured: the run, and the figure in SI units.
        called, year: what its table calls the framework or the engine, and its year ("" and None where it does not say).
    """

    id: str
    key: str
    measured: MeasuredStep | MeasuredFigure
    called: str
    year: float | None

    @property
    def software(self) -> str:
        """The shipped stack or engine that stands for it."""
        if isinstance(self.measured, MeasuredStep):
            name = str(self.measured.run.setting.stack)
            return own_stack(name).like if is_own(name) else name
        stack = self.measured.replica.deployment.stack
        return "" if stack is None else stack.name

    @property
    def accelerator(self) -> str:
        """What it ran on."""
        if isinstance(self.measured, MeasuredStep):
            return self.measured.run.asked.fleet.node.accelerator.name
        return self.measured.replica.deployment.accelerator.name

    @property
    def quantity(self) -> str:
        """What it speaks of, "whole" or "first token"."""
        return WHOLE if isinstance(self.measured, MeasuredStep) else quantity_of(self.measured.field)

    @property
    def kind(self) -> str:
        """``own.STACK`` of training, ``own.ENGINE`` of serving."""
        return STACK if isinstance(self.measured, MeasuredStep) else ENGINE


def read_runs(paths: Sequence[Path]) -> list[OwnRun]:
    """Read all runs of some files, which are all of training or all of serving, and of one stack or engine.

    Args:
        paths: tables of runs (``*.csv``) and files of anchors (``*.anchor.toml``).

    Raises:
        DataError: a file is neither, a run cannot be predicted, or runs are of different software.
    """
    runs = _named_apart([run for path in paths for run in _read(path)])
    software = sorted({(run.kind, run.software) for run in runs})
    if not runs or len(software) > 1:
        names = ", ".join(name for _, name in software) or "nothing"
        raise DataError(f"{', '.join(map(str, paths))}: runs of {names}: expected those of one stack or engine")
    if sum(len(group.measured) for group in together(runs)) < len(runs):
        raise DataError(f"{', '.join(map(str, paths))}: runs of {software[0][1]}: expected an engine with fitted coefficients")
    return runs


def _named_apart(runs: Sequence[OwnRun]) -> list[OwnRun]:
    """The runs, those whose name another has with a number behind it."""
    seen: Counter[str] = Counter()
    apart = []
    for run in runs:
        seen[run.id] += 1
        apart.append(run if seen[run.id] == 1 else replace(run, id=f"{run.id} ({seen[run.id]})"))
    return apart


def together(runs: Sequence[OwnRun]) -> list[Runs]:
    """Group runs as a fit predicts them; the sources of rows are the runs' ids."""
    steps = [run.measured._replace(source=run.id) for run in runs if isinstance(run.measured, MeasuredStep)]
    figures = [run.measured._replace(source=run.id) for run in runs if isinstance(run.measured, MeasuredFigure)]
    return [*training.grouped(steps), *engines.grouped(figures)]


def _read(path: Path) -> Iterator[OwnRun]:
    if path.name.endswith(USER_SUFFIX):
        yield from map(_anchor_run, load(path))
    elif path.name.endswith(TABLE_SUFFIX):
        yield from _table_runs(path)
    else:
        raise DataError(f"{path}: expected a name that ends in {TABLE_SUFFIX} or {USER_SUFFIX}")


def _table_runs(path: Path) -> Iterator[OwnRun]:
    for row in predicted_runs(path):
        try:
            value = float(row["value"])
            if not 0 < value < float("inf") or row["predicted"] == "":
                raise InputError("value", row["value"], row["reason"] or "a number above 0")
            yield _table_run(row, value)
        except (MLSysError, ValueError) as error:
            raise DataError(f"{path}: {row['id']}: {error}") from None


def _table_run(row: Mapping[str, Any], value: float) -> OwnRun:
    cells = {column: str(cell) for column, cell in row.items() if isinstance(cell, str)}
    key = repr(sorted(item for item in cells.items() if item[0] not in UNREAD_COLUMNS | FIGURE_COLUMNS))
    year = float(cells["year"]) if cells.get("year") else None
    metric = cells.get("metric", "").strip().lower()
    if "engine" in cells:
        asked = serving_question(cells)
        replica, after_first = checked_question((asked.workload, asked.hardware), asked.arguments)
        field = METRICS[metric][0]
        figure = MeasuredFigure(replica, after_first, field, _FIELDS[field] * value, "")
        return OwnRun(str(row["id"]), key, figure, cells["engine"], year)
    run = prepared(question({**cells, "metric": TRAINING_METRICS[0]}))
    ratio = value / float(row["predicted"])
    seconds = run_steps([run])[0].seconds * (ratio if metric == TRAINING_METRICS[0] else 1 / ratio)
    return OwnRun(str(row["id"]), key, MeasuredStep(run, seconds, ""), cells.get("framework", ""), year)


def _anchor_run(anchor: Anchor) -> OwnRun:
    value, call, metric = anchor.case.value, call_of(anchor), anchor.case.metric
    if value is None or not call.keywords.get("stack"):
        raise anchor.error("expected a case with a value and a stack")
    software = str(call.keywords["stack"])
    called = anchor.case.run.get("framework") or anchor.case.run.get("engine") or software
    if anchor.source.solver == "ServingModel":
        if metric not in _FIELDS:
            raise anchor.error(f"metric = {metric!r}: a calibration knows {', '.join(_FIELDS)}")
        replica, after_first = checked_question(call.inputs, call.keywords)
        figure = MeasuredFigure(replica, after_first, metric, SI.get(anchor.case.unit, 1.0) * value, "")
        return OwnRun(anchor.id, _key(anchor), figure, called, None)
    if anchor.source.solver != "DistributedModel":
        raise anchor.error(f"solver = {anchor.source.solver!r}: runs of DistributedModel and of ServingModel are calibrated")
    predicted = predict(anchor).predicted
    exponent = step_exponent(anchor, metric)
    if not exponent or not isinstance(predicted, float):
        raise anchor.error(f"metric = {metric!r}: expected a time, a rate or a utilisation of a step")
    workload, fleet = call.inputs
    run = prepared(TrainingQuestion(workload, fleet, call.keywords, TRAINING_METRICS[0], "causal"))
    seconds = run_steps([run])[0].seconds * (value / predicted) ** exponent
    return OwnRun(anchor.id, _key(anchor), MeasuredStep(run, seconds, ""), called, None)


def _key(anchor: Anchor) -> str:
    return repr((call_of(anchor).inputs, sorted(call_of(anchor).keywords.items(), key=str)))
