"""Rows of MLPerf Inference whose queries arrive (server) or follow each other (single stream, multi-stream)."""

from __future__ import annotations

from typing import Any

from mlsysim.core.errors import InputError
from mlsysim.core.toml import reads
from mlsysim.solvers.serving.batch_server import BatchServerResult
from mlsysim.tables.cells import Cells, cell_text
from mlsysim.tables.inference import names_of, round_number, submitted, submitted_model
from mlsysim.tables.question import Question

SCENARIOS = ("server", "singlestream", "multistream")


def is_served(cells: Cells) -> bool:
    """True if a row's queries arrive, or follow each other."""
    return cell_text(cells, "scenario") in SCENARIOS


def served_figure(cells: Cells, result: BatchServerResult, _metric: str) -> float:
    """Samples a second of the whole system (server), or milliseconds of a query (streams).

    Example:
        >>> row = {"benchmark": "resnet50", "round": "v3.0", "accelerator": "NVIDIA A100-SXM-80GB", "n_accel": "8"}
        >>> from mlsysim.solvers.serving.batch_server import BatchServerModel
        >>> one = row | {"scenario": "SingleStream"}
        >>> round(served_figure(one, served_question(one).answered_by(BatchServerModel), ""), 1)
        0.5
    """
    if cell_text(cells, "scenario") == "server":
        return float(result.throughput.m_as("count/second"))
    return float(result.latency.m_as("ms"))


@reads("tables", "mlperf_inference.toml", kept=False)
def served_question(cells: Cells) -> Question:
    """The question that a row asks of ``BatchServerModel``; reads neither its value nor its notes.

    Raises:
        InputError: a cell that is needed is empty or unknown, or a system that is not calibrated.
    """
    asked, rules, scenario = submitted(cells), names_of("served"), cell_text(cells, "scenario")
    model = submitted_model(cells)
    system = cell_text(cells, "system")
    harness = next((found for word, found in rules["harness"].items() if word in system), "lwis")
    arguments: dict[str, Any] = asked.arguments | {"harness_name": harness}
    if scenario == "server":
        arguments |= {
            "latency_limit": f"{rules['limit_ms'][model]} ms",
            "percentile": rules["percentile"],
            "token_spread": rules["token_spread"].get(model, 0.0),
        }
    if scenario == "multistream":
        if round_number(cells) < rules["multistream_from"]:
            raise InputError("round", cells["round"], "v2.0 or later: before, multi-stream counted streams, not latency")
        arguments["query_size"] = rules["multistream"]
    if model in rules["p90_tokens"]:
        tokens = names_of("squad")["mean_tokens"] if scenario == "server" else rules["p90_tokens"][model]
        arguments["mean_tokens"] = tokens
    return Question(asked.workload, asked.hardware, arguments)
