"""Rows of a table of servers under requests that arrive at a rate, as questions for ``TailLatencyModel``."""

from __future__ import annotations

from collections.abc import Mapping

from mlsysim.core.checks import looked_up
from mlsysim.core.toml import packaged_toml, reads
from mlsysim.core.units import in_unit
from mlsysim.lowering.options import FORMATS
from mlsysim.models.registry import Models
from mlsysim.solvers.serving.tail_latency import TailLatencyResult
from mlsysim.tables.cells import cell_text, flag_cell, number_cell, whole_cell
from mlsysim.tables.question import Question
from mlsysim.tables.serving import CACHE_COLUMN, serving_question

# What a metric of the tables is called on a result: a part, and which of its figures; all in milliseconds.
_PARTS = {"ttft": "ttft", "itl": "tpot", "tpot": "tpot", "e2e": "latency"}
_FIGURES = {"mean": "mean", "p50": "p50", "median": "p50", "p90": "p90", "p99": "p99"}
METRICS = {f"{part}_{figure}_ms": f"{field}_{at}" for part, field in _PARTS.items() for figure, at in _FIGURES.items()}
# What a request that arrives at a rate is asked with, of what a row of a closed loop says.
_ASKED = (
    *(*FORMATS.values(), "tp_size", "pp_size", "attention_dp", "replicas", "stack"),
    *("harness_name", "max_num_batched_tokens", "max_num_seqs", "draft_len", "acceptance", "draft", "ep_size", "output_cv"),
)


@reads("tables", "serving.toml", kept=False)
def open_loop_question(row: Mapping[str, str]) -> Question:
    """The question that ``row`` asks; reads neither its value nor its notes.

    Each request holds a system prompt, which the prefix cache has after the first, and a question; of a conversation of several
    ``turns`` the earlier ones, too. A row that only says that there are several (``multi_turn``) is asked about the first.

    Raises:
        InputError: a cell that is needed is empty or unknown.

    Example:
        >>> row = dict(model="Llama-3.1-8B", accelerator="H100-SXM-80GB", engine="vllm 0.15.1", arrival_rate_per_s="2")
        >>> asked = open_loop_question(row | dict(system_prompt_len="100", question_len="400", output_len="200")).arguments
        >>> asked["input_len"], asked["shared_len"], asked["request_rate"]
        (500, 100, '2.0 count/second')
    """
    known = packaged_toml("tables", "serving.toml")["open_loop"]
    system = whole_cell(row, "system_prompt_len", 0, least=0)
    written = cell_text(row, "weight_precision") or Models.weight_format(row.get("model") or "") or known["weight_precision"]
    cells = {
        **row,
        "metric": "ttft_ms",
        "mode": "closed-loop",
        "input_len": str(system + whole_cell(row, "question_len")),
        "weight_precision": written,
        CACHE_COLUMN: cell_text(row, CACHE_COLUMN) or known[CACHE_COLUMN],
        "batch_wait_iters": "0",
        "recv_interval": "1",
    }
    served = serving_question(cells)
    source = cell_text(row, "source")
    even = any(word in source for word in known["even_sources"])
    arguments = {name: served.arguments[name] for name in _ASKED if name in served.arguments} | {
        "request_rate": f"{number_cell(row, 'arrival_rate_per_s')} count/second",
        "arrivals": cell_text(row, "arrivals") or ("even" if even else "random"),
        "input_len": served.arguments["input_len"],
        "output_len": served.arguments["output_len"],
        "turns": whole_cell(row, "turns", 1),
    }
    if not flag_cell(row, "prefix_caching", True):
        arguments["prefix_hit"] = 0.0
    else:
        told = cell_text(row, "prefix_hit")
        arguments |= {"prefix_hit": served.arguments["prefix_hit"]} if told else {"shared_len": system}
    return Question(served.workload, served.hardware, arguments)


def open_loop_figure(result: TailLatencyResult, metric: str) -> float:
    """``metric`` of a result, in milliseconds.

    Raises:
        UnknownNameError: there is no such metric; the message has near names.
    """
    return in_unit(getattr(result, looked_up("metric", metric, METRICS)), "ms")
