"""Rows of studies of failures: counts of fleets, times between failures, best intervals, sizes of checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pint

from mlsysim.calibration.operations.checkpoints import checkpoint_contents
from mlsysim.calibration.operations.failures import ANY, NODE_ACCELERATORS
from mlsysim.core.checks import needed, positive_quantity
from mlsysim.core.errors import InputError
from mlsysim.physics.operations.checkpoint import checkpoint_B
from mlsysim.physics.operations.reliability import daly_interval_s, first_order_ettr, renewal_goodput, young_interval_s
from mlsysim.solvers.operations.reliability import FailureRate, ReliabilityResult, failure_rate, reliability
from mlsysim.tables.cells import Cells, cell_text, number_cell
from mlsysim.tables.names import registered_model
from mlsysim.tables.operations.law_answer import LawAnswer

RELIABILITY_COLUMNS = ("kind", "system", "quantity", "unit", "n_nodes", "duration_days", "mttf_hours", "write_cost_s")
_ALL_FAILURES = "all-job-failures"
_NO_FAILURES = ("planned", "manual")
_WEIGHT_B = 2.0  # of the 16-bit weights in which language models are trained


def reliability_answer(cells: Cells) -> LawAnswer:
    """What follows for a row from the rates of published fleets, or from what the row itself states.

    Its ``value``, ``failures``, ``ettr`` and ``ckpt_gb`` are not read, nor ``mttf_hours`` of a time between failures.

    Raises:
        InputError: the row is of a kind that nothing follows for, or leaves out what it hangs on.

    Example:
        >>> row = {"kind": "count", "quantity": "unexpected", "n_nodes": "2048", "duration_days": "54"}
        >>> found = reliability_answer(row)
        >>> found.ends[0] < found.value < found.ends[1], found.assumed
        (True, {'fleet_class': 'any'})
    """
    kind = cell_text(cells, "kind")
    if kind not in _KINDS:
        raise InputError("kind", kind, f"one of {', '.join(_KINDS)}: nothing follows for another row")
    return _KINDS[kind](cells)


def _accelerators(cells: Cells) -> float:
    if cell_text(cells, "n_nodes"):
        return NODE_ACCELERATORS * number_cell(cells, "n_nodes")
    return number_cell(cells, "n_accel")


def _job(cells: Cells, known: FailureRate, days: float) -> ReliabilityResult:
    count = round(_accelerators(cells))
    return reliability(
        count, days * 86400, known, subject="a row", checkpoint_time=None, checkpoint_interval=None, restart_time="automated"
    )


def _count(cells: Cells) -> LawAnswer:
    quantity = cell_text(cells, "quantity")
    if any(quantity.startswith(word) or word in quantity.split() for word in _NO_FAILURES):
        raise InputError("quantity", quantity, "failures: planned stops and what people do are none")
    job = _job(cells, failure_rate(ANY, None, None, None, None), number_cell(cells, "duration_days"))
    return _of_class(job.failures, job, "failures", 1.0, ANY)


def _mttf(cells: Cells) -> LawAnswer:
    """By the row's own rate where a larger job is projected from it; what was measured on jobs is all of their failures."""
    seconds = positive_quantity("unit", f"1 {cell_text(cells, 'unit') or 'hour'}", "second")
    if "projected" in cell_text(cells, "quantity") and cell_text(cells, "rate_per_1000_node_days"):
        of_row = failure_rate(ANY, None, None, f"{1000 / number_cell(cells, 'rate_per_1000_node_days')!r} day", None)
        return LawAnswer(_job(cells, of_row, 1.0).mttf.m_as("second") / seconds, None, of_row.known_by, "", of_row.basis, {})
    kind = _ALL_FAILURES if "measured" in cell_text(cells, "quantity") else ANY
    job = _job(cells, failure_rate(kind, None, None, None, None), 1.0)
    return _of_class(job.mttf.m_as("second") / seconds, job, "mttf", seconds, kind)


def _of_class(value: float, job: ReliabilityResult, field: str, scale: float, kind: str) -> LawAnswer:
    interval = needed("interval", job.interval_of(field), "that of a class of fleets")
    low, high = (
        (end.m_as("second") if isinstance(end, pint.Quantity) else end) / scale for end in (interval.low, interval.high)
    )
    return LawAnswer(value, (float(low), float(high)), interval.scope, kind, job.basis, {"fleet_class": kind})


def _interval(cells: Cells) -> LawAnswer:
    quantity, law = cell_text(cells, "quantity"), "young"
    best = young_interval_s
    if "daly" in quantity:
        law, best = "daly", daly_interval_s
    elif "young" not in quantity:
        raise InputError("quantity", quantity, "the interval of Young or of Daly")
    return _identity(float(best(number_cell(cells, "write_cost_s"), number_cell(cells, "mttf_hours") * 3600)), law)


def _first_order(cells: Cells) -> LawAnswer:
    """The lesson's own convention: 1 / (1 + f)."""
    mtbf_s = number_cell(cells, "mttf_hours") * 3600
    return _identity(
        float(first_order_ettr(number_cell(cells, "write_cost_s"), number_cell(cells, "restart_s"), mtbf_s)), "first order"
    )


def _effective_time(cells: Cells) -> LawAnswer:
    """Where a row states all that it hangs on."""
    interval_s, checkpoint_s, restart_s = (number_cell(cells, name) for name in ("interval_s", "write_cost_s", "restart_s"))
    mtbf_s = 1000 * 86400 * NODE_ACCELERATORS / (number_cell(cells, "rate_per_1000_node_days") * _accelerators(cells))
    return _identity(float(renewal_goodput(interval_s, checkpoint_s, restart_s, mtbf_s)), "daly")


def _size(cells: Cells) -> LawAnswer:
    """In binary units, in which sources print GB and TB."""
    name = (cells.get("system") or "").strip()
    model = registered_model(name)
    if model is None:
        raise InputError("system", name, "a model that the registry knows")
    weights = cell_text(cells, "quantity").startswith("weights")
    held = checkpoint_contents("master-weights", "none" if weights else "adam")
    size_B = checkpoint_B(model.parameter_count, _WEIGHT_B, held.master_B, held.moments, held.moment_B)
    return _identity(float(size_B) / 2**30, "", {} if weights else {"optimizer": "adam", "stack": "master-weights"})


def _identity(value: float, law: str, assumed: Mapping[str, str] | None = None) -> LawAnswer:
    return LawAnswer(value, None, "", law, "identity", assumed or {})


_KINDS: Mapping[str, Callable[[Cells], LawAnswer]] = {
    "count": _count,
    "mttf": _mttf,
    "formula_value": _interval,
    "worked_example": _first_order,
    "ettr": _effective_time,
    "checkpoint_size": _size,
    "checkpoint": _size,
}
