"""Predictions for tables of runs: a row in, the same row and what is predicted of it out.

The tables are known by their columns: LLM serving (``engine``, ``mode``, ...), LLM training runs (``layers``, ...), layouts
that fit or ran out of memory (``activation_checkpointing``, ...), and ResNet-50 and BERT training (``batch_per_accel`` or
``benchmark``).
"""

from __future__ import annotations

import functools
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from mlsysim.core.errors import InputError, MLSysError, UnknownNameError
from mlsysim.physics.work import FULL, RECOMPUTE_MODES, SELECTIVE, LayeredWork
from mlsysim.solvers.cnn_table import bound_run
from mlsysim.solvers.distributed import DistributedModel, DistributedResult
from mlsysim.solvers.lowering import training_work
from mlsysim.solvers.serving import ServingModel
from mlsysim.solvers.serving_table import METRICS as SERVING_METRICS
from mlsysim.solvers.serving_table import serving_figure, serving_question
from mlsysim.solvers.training_table import TrainingQuestion, question

ADDED_COLUMNS = ("predicted", "feasible", "basis", "stack_used", "reason")
# What was measured, and what people say of it: never read.
UNREAD_COLUMNS = frozenset(("value", "notes", "outcome", *ADDED_COLUMNS))
# What a figure is and where it was published; its year is none of that: it tells the era of a stack. Rows that differ in
# these alone are figures of one run, solved once.
_FIGURE_COLUMNS = frozenset(("metric", "unit", "id", "evidence", "source", "locator"))
_RUN_TOTALS = ("accel_hours", "train_days")
_FIGURES = ("step_time_s", "tokens_per_s_per_accel", "samples_per_s", "tflops_per_accel", "mfu_pct", "hfu_pct")
_SAMPLE_RATES = ("samples_per_s", "samples_per_s_end_to_end")
# A unit other than the one that the metric's name says: what it counts more of.
_SCALES = {("step_time_s", "ms"): 1e3, ("step_time_s", "min"): 1 / 60, ("tflops_per_accel", "pflop/s"): 1e-3}

Cells = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Run:
    """A solved run: what all figures of it share, and the figure of a metric."""

    feasible: bool
    basis: str
    stack_used: str
    reason: str
    figure: Callable[[str], float | str]


def predict_table(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every row with its columns in order, then ``predicted``, ``feasible``, ``basis``, ``stack_used`` and ``reason``.

    ``predicted`` is in the row's own metric and unit; "fits" or "OOM" where the table asks for the outcome. A row that cannot
    be predicted has it empty (as ``feasible`` and the others) and says why in ``reason``. For a plan that does not fit,
    ``feasible`` is False, ``reason`` says why with the bytes, and ``predicted`` is what would hold if it did.
    Neither ``value`` nor ``notes`` nor ``outcome`` is read.

    Args:
        rows: of one table; cells are text or numbers, None or empty where the table does not say.

    Raises:
        InputError: the columns are those of no known table.

    Example:
        >>> run = dict(model="GPT", layers=40, hidden=6144, heads=48, seq_len=2048, accelerator="A100-SXM-80GB", n_accel=256,
        ...            global_batch_seqs=1024, micro_batch=4, tp=8, recompute="full", framework="Megatron-LM", value=149)
        >>> rates, days = predict_table([run | {"metric": "tflops_per_accel"}, run | {"metric": "train_days"}])
        >>> 100 < rates["predicted"] < 200, rates["feasible"], rates["basis"], rates["stack_used"]
        (True, True, 'calibrated', 'megatron-2021')
        >>> days["predicted"], days["reason"]
        ('', "metric = 'train_days': expected a rate or a time of one step: run totals are not predicted")
    """
    table = list(rows)
    if not table:
        return []
    solve, metrics = table_kind(table[0])
    solved: dict[tuple[tuple[str, str], ...], _Run | str] = {}
    predictions = []
    for row in table:
        cells = {column: _cell(value) for column, value in row.items() if column not in UNREAD_COLUMNS}
        run_cells = {column: text for column, text in cells.items() if column not in _FIGURE_COLUMNS}
        metric, unit = cells.get("metric", "").strip().lower(), cells.get("unit", "").strip().lower()
        wrong = _wrong_metric(metric, metrics) if metrics else ""
        key = tuple(run_cells.items())
        if not wrong and key not in solved:
            solved[key] = _guarded(solve, run_cells)
        predictions.append(dict(row) | _added(wrong or solved[key], metric, unit))
    return predictions


def table_kind(columns: Iterable[str]) -> tuple[Callable[[Cells], _Run], tuple[str, ...]]:
    """What solves a run of the table with these ``columns``, and its metrics (none where it asks for an outcome).

    Raises:
        InputError: no such table is known.
    """
    found = set(columns)
    for needed, solve, metrics in _KINDS:
        if needed <= found:
            return solve, metrics
    known = "; or ".join(", ".join(sorted(needed)) for needed, _, _ in _KINDS)
    raise InputError("columns", ", ".join(sorted(map(str, found))), f"those of a table of training runs: {known}")


def _cell(value: Any) -> str:
    """A cell as text: what tables read by pandas leave out is None or not a number."""
    return "" if value is None or value != value else str(value)  # noqa: PLR0124


def _wrong_metric(metric: str, metrics: tuple[str, ...]) -> str:
    """Why ``metric`` is none of the table's, or an empty string."""
    if metric in metrics:
        return ""
    if metric in _RUN_TOTALS:
        return str(InputError("metric", metric, "a rate or a time of one step: run totals are not predicted"))
    return str(UnknownNameError.among("metric", metric, metrics))


def _guarded(solve: Callable[[Cells], _Run], cells: Cells) -> _Run | str:
    """The run, or why there is none: a row never ends the table."""
    try:
        return solve(cells)
    except (MLSysError, ArithmeticError, ValueError) as error:
        return " ".join(str(error).split()) or type(error).__name__


def _added(answer: _Run | str, metric: str, unit: str) -> dict[str, Any]:
    if isinstance(answer, str):
        return dict.fromkeys(ADDED_COLUMNS, "") | {"reason": answer}
    predicted = answer.figure(metric)
    if not isinstance(predicted, str):
        predicted *= _SCALES.get((metric, unit), 1.0)
        if not math.isfinite(predicted):
            return dict.fromkeys(ADDED_COLUMNS, "") | {"reason": f"the prediction is {predicted}: the row asks for no real run"}
    return dict(zip(ADDED_COLUMNS, (predicted, answer.feasible, answer.basis, answer.stack_used, answer.reason), strict=True))


def _training_run(cells: Cells) -> _Run:
    asked = question({**cells, "metric": "step_time_s"})
    result = DistributedModel().solve(asked.workload, asked.fleet, **asked.arguments)
    figure = functools.partial(training_figure, asked, result)
    return _Run(result.feasible, result.basis, asked.arguments["stack"], result.reason, figure)


def training_figure(asked: TrainingQuestion, result: DistributedResult, metric: str) -> float:
    """``metric`` of a solved step, in the unit that its name says.

    ``tflops_per_accel`` counts FLOP as the row's framework does; ``mfu_pct`` never counts recomputation and ``hfu_pct``
    always does (Chowdhery et al. 2022, appendix B; Korthikanti et al. 2022, appendix A).
    """
    seconds = float(result.step_latency_total.m_as("second"))
    samples, accelerators = asked.arguments["batch_size"], asked.fleet.accelerators
    tokens_per_s = samples * asked.arguments["seq_len"] / seconds / accelerators
    if metric == "step_time_s":
        return seconds
    if metric == "samples_per_s":
        return float(samples / seconds)
    if metric == "tokens_per_s_per_accel":
        return float(tokens_per_s)
    counted = asked.flops
    if metric == "mfu_pct" and counted == "hardware":
        counted = "full"
    if metric == "hfu_pct":
        counted = "hardware"
    work = training_work(asked.workload, asked.arguments["seq_len"])
    flops_per_s = tokens_per_s * flops_per_token(work, counted, result.plan["recompute"])
    if metric == "tflops_per_accel":
        return float(flops_per_s / 1e12)
    return float(100 * flops_per_s / asked.fleet.node.accelerator.rate_flops_per_s(asked.arguments["precision"]))


def flops_per_token(work: LayeredWork, counted: str, recompute: str) -> float:
    """FLOP of one token's forward and backward pass.

    ``counted`` is ``causal`` (the half of the scores that a causal model computes), ``full`` (all scores) or ``hardware``: all
    scores, and what recomputation repeats. With full recomputation of two-matrix feed-forward blocks of width 4 h that is 96 L
    h^2 (1 + s / 6h + V / 16 L h) per token (Narayanan et al. 2021, section 5).
    """
    if counted == "causal":
        return work.training_flops
    mode = RECOMPUTE_MODES.index(recompute) if counted == "hardware" else 0
    repeated = work.full_attention_flops if mode in (SELECTIVE, FULL) else 0.0
    if mode == FULL:
        repeated += work.matmul_flops
    return work.training_flops_full_attention + work.layers * repeated


@functools.cache
def _layouts() -> dict[str, Any]:
    return tomllib.loads((resources.files("mlsysim.solvers") / "data" / "hagemann2023.toml").read_text("utf-8"))


def _layout_run(cells: Cells) -> _Run:
    """A layout that fits or does not: a training run of the paper's models."""
    known = _layouts()
    kernel = cells.get("kernel", "").strip().lower()
    added = {column: str(known["defaults"][column]) for column in ("vocab", "sharding", "precision", "framework")}
    added |= {column: str(value) for column, value in _chosen(cells, "model", known["model"]).items()}
    added |= {
        "global_batch_seqs": str(_sequences(cells, known["defaults"]["batch_tokens"])),
        "recompute": _chosen(cells, "activation_checkpointing", known["recompute"]),
        "flash_attention": "no" if kernel in known["stores_scores"]["kernels"] else "yes",
        "variant": kernel,
    }
    run = _training_run({**cells, **added})
    return _Run(run.feasible, run.basis, run.stack_used, run.reason, lambda _: "fits" if run.feasible else "OOM")


def _chosen(cells: Cells, column: str, known: Mapping[str, Any]) -> Any:
    text = cells.get(column, "").strip().lower()
    if text not in known:
        raise UnknownNameError.among(column, text, known)
    return known[text]


def _sequences(cells: Cells, batch_tokens: int) -> int:
    """Sequences of a batch of ``batch_tokens``."""
    text = cells.get("seq_len", "").strip()
    try:
        sequences = round(batch_tokens / float(text))
    except (ValueError, ArithmeticError):
        sequences = 0
    if sequences < 1:
        raise InputError("seq_len", text, f"tokens of a sequence, at most the {batch_tokens} of a batch")
    return sequences


def _serving_run(cells: Cells) -> _Run:
    """A deployment under its scheduler; its metrics are those of a result."""
    asked = serving_question({**cells, "metric": "ttft_ms"})
    result = ServingModel().solve(asked.workload, asked.hardware, **asked.arguments)
    figure = functools.partial(serving_figure, result)
    return _Run(result.feasible, result.basis, asked.arguments["stack"], result.reason, figure)


def _bound_run(cells: Cells) -> _Run:
    run = bound_run(cells)
    return _Run(run.result.feasible, run.result.basis, "", run.result.reason, lambda _: run.samples_per_s)


_KINDS: tuple[tuple[frozenset[str], Callable[[Cells], _Run], tuple[str, ...]], ...] = (
    (frozenset(("model", "accelerator", "engine", "mode", "input_len", "metric")), _serving_run, tuple(SERVING_METRICS)),
    (frozenset(("accelerator", "n_accel", "layers", "hidden", "global_batch_seqs", "metric")), _training_run, _FIGURES),
    (frozenset(("model", "accelerator", "n_accel", "seq_len", "micro_batch", "activation_checkpointing")), _layout_run, ()),
    (frozenset(("model", "accelerator", "n_accel", "task", "batch_per_accel", "metric")), _bound_run, _SAMPLE_RATES),
    (frozenset(("benchmark", "accelerator", "n_accel", "global_batch_seqs", "metric")), _bound_run, _SAMPLE_RATES),
)
