"""Predictions for tables of runs: a row in, the same row and what is predicted of it out.

The tables are known by their columns: LLM serving (``engine``, ``mode``, ...), servers whose requests arrive at a rate
(``arrival_rate_per_s``), LLM training runs (``layers``, ...), layouts that fit or ran out of memory
(``activation_checkpointing``, ...), ResNet-50 and BERT (``batch_per_accel`` or ``benchmark``), MLPerf Inference (``scenario``),
energy (``power_basis``, ...), and studies of scaling (``law``, ...) and of failures (``mttf_hours``, ...).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from mlsysim.calibration.evidence import RunFacts, is_known_source, quantity_of
from mlsysim.calibration.intervals import spread
from mlsysim.core.checks import mapping
from mlsysim.core.errors import InputError, MLSysError
from mlsysim.lowering.feasibility import over_budget
from mlsysim.physics.layer.work import RECOMPUTE_MODES
from mlsysim.physics.training.memory import MEMORY_PARTS
from mlsysim.solvers.result import Result, fitted_basis, run_facts
from mlsysim.solvers.serving.batch_server import BatchServerModel
from mlsysim.solvers.serving.serving import ServingModel
from mlsysim.solvers.serving.tail_latency import TailLatencyModel
from mlsysim.solvers.serving.together import serve_together
from mlsysim.solvers.serving.token_server import TokenServerModel
from mlsysim.solvers.training.distributed import DistributedModel
from mlsysim.solvers.training.single_node import SingleNodeModel, SingleNodeResult
from mlsysim.tables.assumed import assumed_of
from mlsysim.tables.cells import Cells
from mlsysim.tables.columns import no_such_table, wrong_metric
from mlsysim.tables.data_parallel import replica_question
from mlsysim.tables.inference import inference_question, is_inference
from mlsysim.tables.layouts import layout_cells
from mlsysim.tables.open_loop import METRICS as OPEN_LOOP_METRICS
from mlsysim.tables.open_loop import open_loop_figure, open_loop_question
from mlsysim.tables.operations import energy
from mlsysim.tables.operations.law_answer import LawAnswer
from mlsysim.tables.operations.reliability import RELIABILITY_COLUMNS, reliability_answer
from mlsysim.tables.operations.scaling import SCALING_COLUMNS, scaling_answer
from mlsysim.tables.question import Question
from mlsysim.tables.served import is_served, served_figure, served_question
from mlsysim.tables.serving import METRICS as SERVING_METRICS
from mlsysim.tables.serving import figure_of, noted_limits, serving_question
from mlsysim.tables.token import is_language, is_submission, submission_cells, token_figure, token_question
from mlsysim.tables.training import METRICS as TRAINING_METRICS
from mlsysim.tables.training import noted_cells, question
from mlsysim.tables.training_figures import training_figure
from mlsysim.tables.training_steps import LoweredRun, RunStep, lowered, run_steps

ADDED_COLUMNS = ("predicted", "low", "high", "feasible", "basis", "stack_used", "scope", "assumed", "reason")
# What was measured, and what people say of it: never read, but for what ``predict_table`` says of notes.
UNREAD_COLUMNS = frozenset(("value", "notes", "outcome", *ADDED_COLUMNS))
# What a figure is and where it was published; its year is none of that: it tells the era of a stack. Rows that differ in
# these alone are figures of one run, solved once.
FIGURE_COLUMNS = frozenset(("metric", "unit", "id", "evidence", "source", "locator"))
_FIGURES = (*TRAINING_METRICS, "samples_per_s")
_OF_THE_PEAK = ("mfu_pct", "hfu_pct")
_SAMPLE_RATES = ("samples_per_s", "samples_per_s_end_to_end")
# A unit other than the one that the metric's name says: what it counts more of.
_SCALES = {("step_time_s", "ms"): 1e3, ("step_time_s", "min"): 1 / 60, ("tflops_per_accel", "pflop/s"): 1e-3}

# Rows whose runs are computed together: enough for full arrays, few enough to hold.
_BLOCK_ROWS = 4096

_Key = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Run:
    """A solved run: what all figures of it share, and the figure of a metric; ``ends``: of an interval that a law states.

    ``metric`` is that of tables without such a column, and ``further`` what stands in columns that only they have.
    """

    feasible: bool
    basis: str
    stack_used: str
    reason: str
    figure: Callable[[str], float | str]
    solver: str = ""
    facts: RunFacts | None = None
    assumed: Mapping[str, str] = field(default_factory=dict)
    ends: tuple[float, float] | None = None
    scope: str = ""
    metric: str = ""
    further: Mapping[str, Any] = field(default_factory=dict)


def predict_table(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every row with its columns in order, then what is predicted of it: ``ADDED_COLUMNS``.

    ``predicted`` is in the row's own metric and unit; "fits" or "OOM" where the table asks for the outcome. Nine in ten
    measurements are expected from ``low`` to ``high``, by the errors of the runs that ``scope`` names, the wider the more that
    defaults stand for, which ``assumed`` lists; a row whose ``source`` is none of the publications that fits were given runs of
    has the interval of sources left out of the fit. A row that cannot be predicted has it empty (as ``feasible`` and the
    others) and says why in ``reason``. For a plan that does not fit, ``feasible`` is False, ``reason`` says why with the bytes,
    and ``predicted`` is what would hold if it did.
    Neither ``value`` nor ``outcome`` is read, and of ``notes``, where the table has no column for it, nothing but a training
    framework's release ("release 26.06"), the width of heads ("head_dim 256"), experts' capacity ("capacity 1.25"), an
    accelerator's tokens ("8k tokens per device") and llama.cpp's micro-batch ("ub 2048").

    Args:
        rows: of one table; cells are text or numbers, None or empty where the table does not say.

    Raises:
        InputError: the columns are those of no known table.

    Example:
        >>> run = dict(model="GPT", layers=40, hidden=6144, heads=48, seq_len=2048, accelerator="A100-SXM-80GB", n_accel=256,
        ...            global_batch_seqs=1024, micro_batch=4, tp=8, recompute="full", framework="Megatron-LM",
        ...            year=2021, value=149)
        >>> rates, days = predict_table([run | {"metric": "tflops_per_accel"}, run | {"metric": "train_days"}])
        >>> 100 < rates["predicted"] < 200, rates["feasible"], rates["basis"], rates["stack_used"]
        (True, True, 'calibrated', 'megatron-2021')
        >>> days["predicted"], days["reason"]
        ('', "metric = 'train_days': expected a rate or a time of one step: run totals are not predicted")
    """
    return list(predicted_rows(rows))


def predicted_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows that ``predict_table`` returns, one by one: a table of any length needs the memory of a few thousand rows.

    Rows are read and solved in blocks; the runs of a block are computed together.

    Args:
        rows: of one table, as ``predict_table`` takes them.

    Yields:
        Each row with what is predicted of it, in order.

    Raises:
        InputError: the columns of a block's first row are those of no known table.

    Example:
        >>> from itertools import count, islice
        >>> run = dict(model="Llama-3.1-8B", accelerator="H100", n_accel=8, seq_len=8192, global_batch_seqs=128,
        ...            micro_batch=1, framework="Megatron-LM", metric="step_time_s")
        >>> endless = ({**run, "id": number} for number in count())
        >>> [row["id"] for row in islice(predicted_rows(endless), 2)]
        [0, 1]
    """
    if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable):
        raise InputError("rows", rows, "the rows of a table, each a mapping from columns to cells")
    remaining = iter(rows)
    while block := [mapping("rows", row, "mappings from columns to cells") for row in islice(remaining, _BLOCK_ROWS)]:
        yield from _predicted_block(block)


def _predicted_block(block: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    solve, metrics = table_kind(block[0])
    further = energy.further_columns(block[0])
    # Rows of DeepLearningExamples say their framework and its age by where and when they were published.
    # Figures of a server are those of what its source measured them through; laws answer in the row's own unit.
    told = {"locator"} if solve is _small_model_run else {"source"} if solve in (_serving_run, _open_loop_run) else set()
    told |= {"unit"} if isinstance(solve, functools.partial) else set()
    figure_columns = FIGURE_COLUMNS - told
    solved: dict[_Key, _Run | _Waiting | str] = {}
    asked: list[tuple[str, _Key, str, str, bool]] = []
    for row in block:
        cells = {column: _cell(value) for column, value in row.items() if column not in UNREAD_COLUMNS}
        noted = noted_cells if "framework" in cells else noted_limits if "engine" in cells else None
        cells = noted(_cell(row.get("notes"))) | cells if noted else cells
        run_cells = {column: text for column, text in cells.items() if column not in figure_columns}
        metric, unit = cells.get("metric", "").strip().lower(), cells.get("unit", "").strip().lower()
        wrong = wrong_metric(metric, metrics) if metrics else ""
        key = tuple(run_cells.items())
        if not wrong and key not in solved:
            solved[key] = _guarded(solve, run_cells)
        asked.append((wrong, key, metric, unit, is_known_source(cells.get("source", ""))))
    answers = _answered(solved)
    for row, (wrong, key, metric, unit, known_source) in zip(block, asked, strict=True):
        answer = wrong or answers[key]
        yield dict(row) | dict.fromkeys(further, "") | _added(answer, metric, unit, known_source=known_source)


def _answered(solved: Mapping[_Key, _Run | _Waiting | str]) -> dict[_Key, _Run | str]:
    """All runs; those that wait are computed together, much faster than one by one."""
    answers: dict[_Key, _Run | str] = {key: run for key, run in solved.items() if not isinstance(run, _Waiting)}
    training = {key: run for key, run in solved.items() if isinstance(run, _WaitingTraining)}
    steps = run_steps([run.run for run in training.values()])
    answers |= {key: run.answered(step) for (key, run), step in zip(training.items(), steps, strict=True)}
    serving = {key: run for key, run in solved.items() if isinstance(run, _WaitingServing)}
    served = _served([run.asked for run in serving.values()])
    for (key, run), answer in zip(serving.items(), served, strict=True):
        answers[key] = answer if isinstance(answer, str) else run.answered(answer)
    return answers


def _served(questions: Sequence[Question]) -> list[_Run | str]:
    """The runs of serving questions, or why there is none."""
    try:
        results = serve_together([((asked.workload, asked.hardware), asked.arguments) for asked in questions])
    except (MLSysError, ArithmeticError, ValueError) as error:  # a row never ends the table: which one it was, each tells alone
        return [_reason(error)] if len(questions) == 1 else [run for asked in questions for run in _served([asked])]
    return [
        _reason(result) if isinstance(result, MLSysError) else _answer(asked, result, figure_of(asked))
        for asked, result in zip(questions, results, strict=True)
    ]


def table_kind(columns: Collection[str]) -> tuple[Callable[[Cells], _Run | _Waiting], tuple[str, ...]]:
    """The kind of solve for a table with these ``columns``, and its metrics (none where it asks for an outcome).

    Raises:
        InputError: no such table is known.
    """
    for needed, solve, metrics in _KINDS:
        if needed <= set(columns):
            return solve, metrics
    raise no_such_table(list(columns), [needed for needed, _, _ in _KINDS])


def _cell(value: Any) -> str:
    """A cell as text: what tables read by pandas leave out is None or not a number."""
    return "" if value is None or value != value else str(value)  # noqa: PLR0124


def _guarded(solve: Callable[[Cells], _Run | _Waiting], cells: Cells) -> _Run | _Waiting | str:
    """The run, or why there is none: a row never ends the table."""
    try:
        return solve(cells)
    except (MLSysError, ArithmeticError, ValueError) as error:
        return _reason(error)


def _reason(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _added(answer: _Run | str, metric: str, unit: str, *, known_source: bool) -> dict[str, Any]:
    nothing = dict.fromkeys(ADDED_COLUMNS, "")
    if isinstance(answer, str):
        return nothing | {"reason": answer}
    # Tables without a metric say by the unit what is counted, or count one thing alone.
    metric = answer.metric or metric
    try:
        predicted = answer.figure(metric or unit)
    except (MLSysError, ArithmeticError, ValueError) as error:
        return nothing | {"reason": _reason(error)}
    told: dict[str, Any] = {}
    if not isinstance(predicted, str):
        predicted *= _SCALES.get((metric, unit), 1.0)
        if not 0 <= predicted < math.inf:
            return nothing | {"reason": f"the prediction is {predicted}: the row asks for no real run"}
        told = _interval(answer, metric, predicted, known_source=known_source)
    told |= {"predicted": predicted, "feasible": answer.feasible, "basis": answer.basis}
    assumed = ", ".join(f"{column}={value}" for column, value in answer.assumed.items())
    return {**nothing, **told, "stack_used": answer.stack_used, "assumed": assumed, "reason": answer.reason, **answer.further}


def _interval(answer: _Run, metric: str, predicted: float, *, known_source: bool) -> dict[str, Any]:
    if answer.ends is not None:
        return {"low": answer.ends[0], "high": answer.ends[1], "scope": answer.scope}
    if answer.facts is None:
        return {}
    field = SERVING_METRICS[metric][0] if answer.solver == "ServingModel" else OPEN_LOOP_METRICS.get(metric, metric)
    quantity = quantity_of(field)
    width = spread(answer.solver, quantity, answer.facts, known_source=known_source, assumed=answer.assumed)
    if width is None:
        return {}
    low, high = width.about(predicted, 100.0 if metric in _OF_THE_PEAK else None)
    return {"low": low, "high": high, "scope": f"{width.scope}: {width.runs} runs"}


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A run that is computed together with others, and what its row leaves out."""

    assumed: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _WaitingTraining(_Waiting):
    """A training run whose memory and step are computed together with others'; of a layout only whether it fits is asked."""

    run: LoweredRun
    layout: bool = False

    def answered(self, step: RunStep) -> _Run:
        """The run with its step."""
        asked, setting = self.run.asked, self.run.setting
        sizes = {part.removesuffix("_B"): getattr(step.memory, part) for part in MEMORY_PARTS}
        reason = over_budget(sum(sizes.values()), setting.fleet.node.accelerator, "each", sizes)
        outcome = "OOM" if reason else "fits"
        recompute = RECOMPUTE_MODES[step.recompute]
        figure = functools.partial(training_figure, asked, step.seconds, recompute)
        stack, fleet = asked.arguments["stack"], setting.fleet
        facts = run_facts(setting.workload, fleet.node.accelerator, stack, fleet.accelerators)
        basis = fitted_basis(DistributedModel.__name__, facts)
        read = (lambda _: outcome) if self.layout else figure
        assumed = dict(self.assumed)
        if "recompute" in assumed:
            assumed["recompute"] = recompute
        return _Run(not reason, basis, stack, reason, read, DistributedModel.__name__, facts, assumed)


@dataclass(frozen=True, slots=True)
class _WaitingServing(_Waiting):
    """A deployment under its scheduler; its metrics are those of a result."""

    asked: Question
    energy: bool = False

    def answered(self, run: _Run) -> _Run:
        """The run with what its row leaves out, and of a table of energy what only that tells."""
        answer = replace(run, assumed=self.assumed)
        return replace(answer, metric=energy.METRIC, further=energy.served_columns(run.figure)) if self.energy else answer


def _training_run(cells: Cells) -> _WaitingTraining:
    run = lowered(question({**cells, "metric": "step_time_s"}))
    return _WaitingTraining(assumed_of(DistributedModel.__name__, cells, run.asked.fleet, run.asked.arguments), run)


def _layout_run(cells: Cells) -> _WaitingTraining:
    """A layout that fits or does not: a training run of the paper's models."""
    return replace(_training_run(layout_cells(cells)), layout=True, assumed={})


def _law_run(answer: Callable[[Cells], LawAnswer], cells: Cells) -> _Run:
    """What a published law says of a row."""
    said = answer(cells)
    return _Run(True, said.basis, said.law, "", lambda _: said.value, assumed=said.assumed, ends=said.ends, scope=said.scope)


def _energy_run(cells: Cells) -> _Run | _Waiting:
    """The energy of a served token, or of a training run."""
    if energy.is_served(cells):
        asked, assumed = energy.energy_serving_cells(cells)
        question = energy.energy_serving_question(asked)
        assumed |= assumed_of(ServingModel.__name__, asked, question.hardware, question.arguments)
        return _WaitingServing(assumed, question, energy=True)
    run = _law_run(energy.training_energy, cells)
    return replace(run, further={energy.MWH: run.figure("")})


def _small_model_run(cells: Cells) -> _Run:
    return _inference_run(cells) if is_inference(cells) else _solved(replica_question(cells), SingleNodeModel, _samples_per_s)


def _inference_run(cells: Cells) -> _Run:
    if is_language(cells):
        return _solved(token_question(cells), TokenServerModel, token_figure)
    if is_served(cells):
        return _solved(served_question(cells), BatchServerModel, functools.partial(served_figure, cells))
    return _solved(inference_question(cells), SingleNodeModel, _samples_per_s)


def _open_loop_run(cells: Cells) -> _Run:
    """A deployment whose requests arrive at a rate."""
    return _solved(open_loop_question(cells), TailLatencyModel, open_loop_figure)


def _serving_run(cells: Cells) -> _Run | _Waiting:
    """A deployment under its scheduler, or a submission of a whole system."""
    if is_submission(cells):
        return _solved(token_question(submission_cells(cells)), TokenServerModel, token_figure)
    asked = serving_question({**cells, "metric": "ttft_ms"})
    return _WaitingServing(assumed_of(ServingModel.__name__, cells, asked.hardware, asked.arguments), asked)


def _solved(asked: Question, solver: type[Any], figure: Callable[[Any, str], float]) -> _Run:
    return _answer(asked, asked.answered_by(solver), figure)


def _answer(asked: Question, result: Result, figure: Callable[[Any, str], float]) -> _Run:
    """A solver's answer to a row, whose figures ``figure`` reads by their metric."""
    read = functools.partial(figure, result)
    stack = asked.arguments["stack"]
    return _Run(result.feasible, result.basis, stack, result.reason, read, result.solver, result.facts)


def _samples_per_s(result: SingleNodeResult, _metric: str) -> float:
    return float(result.throughput.m_as("count/second"))


_OPEN_LOOP = frozenset(("model", "accelerator", "engine", "arrival_rate_per_s", "question_len", "output_len", "metric"))
_KINDS: tuple[tuple[frozenset[str], Callable[[Cells], _Run | _Waiting], tuple[str, ...]], ...] = (
    (frozenset(("model", "accelerator", "engine", "mode", "input_len", "metric")), _serving_run, tuple(SERVING_METRICS)),
    (_OPEN_LOOP, _open_loop_run, tuple(OPEN_LOOP_METRICS)),
    (frozenset(("accelerator", "n_accel", "layers", "hidden", "global_batch_seqs", "metric")), _training_run, _FIGURES),
    (frozenset(("model", "accelerator", "n_accel", "seq_len", "micro_batch", "activation_checkpointing")), _layout_run, ()),
    (frozenset(("model", "accelerator", "n_accel", "seq_len", "global_batch_seqs", "metric")), _training_run, _FIGURES),
    (frozenset(("model", "accelerator", "n_accel", "task", "batch_per_accel", "metric")), _small_model_run, _SAMPLE_RATES),
    (frozenset(("benchmark", "accelerator", "n_accel", "global_batch_seqs", "metric")), _small_model_run, _SAMPLE_RATES),
    (frozenset(("benchmark", "scenario", "round", "accelerator", "n_accel")), _inference_run, ()),
    (frozenset(SCALING_COLUMNS), functools.partial(_law_run, scaling_answer), ()),
    (frozenset(RELIABILITY_COLUMNS), functools.partial(_law_run, reliability_answer), ()),
    (frozenset(energy.ENERGY_COLUMNS), _energy_run, ()),
)
