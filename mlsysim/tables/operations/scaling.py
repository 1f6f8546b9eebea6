"""Rows of scaling studies: losses of runs on named data sets, and compute-optimal sizes by named laws."""

from __future__ import annotations

from mlsysim.calibration.operations.scaling_laws import data_set_law
from mlsysim.core.errors import InputError
from mlsysim.solvers.operations.scaling import ScalingModel
from mlsysim.tables.cells import Cells, cell_text, number_cell
from mlsysim.tables.operations.law_answer import LawAnswer

SCALING_COLUMNS = ("kind", "law", "dataset", "params_b", "tokens_b", "flops", "loss_metric")
_RUNS = ("run", "run_reconstructed")
_OPTIMA = "optimal_allocation"


def scaling_answer(cells: Cells) -> LawAnswer:
    """The loss of a run, or the size of a compute-optimal model.

    The loss hangs on the data set and on what it is measured on, which ``loss_metric`` says after "on"; the size on the law
    and on ``flops``.

    Args:
        cells: of the row; ``loss``, and of a compute-optimal model ``params_b`` and ``tokens_b``, are not read.

    Raises:
        InputError: the row is neither, or names no data set or law that is known.

    Example:
        >>> row = {"kind": "optimal_allocation", "law": "approach1", "flops": "1.23e22"}
        >>> f"{scaling_answer(row).value:.1f}"
        '10.0'
    """
    kind = cell_text(cells, "kind")
    if kind in _RUNS:
        return _loss(cells)
    if kind == _OPTIMA:
        best = ScalingModel().solve(compute_budget=_flop(cells), law=(cells.get("law") or "").strip())
        return LawAnswer(best.optimal_parameters.m_as("Gcount"), None, "", best.law, best.basis, {})
    raise InputError("kind", kind, f"{', '.join(_RUNS)} or {_OPTIMA}: a law says nothing of another row")


def _loss(cells: Cells) -> LawAnswer:
    dataset = (cells.get("dataset") or "").strip()
    _, found, measured_on = (cells.get("loss_metric") or "").partition(" on ")
    law = data_set_law(dataset, measured_on.strip() if found else None)
    bare = "without embeddings" in law.counts
    column = "params_nonembed_b" if bare and cell_text(cells, "params_nonembed_b") else "params_b"
    size = number_cell(cells, column)
    run = ScalingModel().solve(
        parameters=f"{size * 1e9!r} count",
        tokens=f"{number_cell(cells, 'tokens_b') * 1e9!r} count",
        compute_budget=_flop(cells) if cell_text(cells, "flops") else None,
        dataset=dataset,
        measured_on=law.measured_on,
    )
    interval, loss = run.interval, run.loss
    if loss is None or interval is None:
        raise InputError("dataset", dataset, "a data set whose law of loss is known")
    assumed = {"params_nonembed_b": cell_text(cells, column)} if bare and column == "params_b" else {}
    return LawAnswer(loss, (float(interval.low), float(interval.high)), interval.scope, law.name, run.basis, assumed)


def _flop(cells: Cells) -> str:
    return f"{number_cell(cells, 'flops')!r} flop"
