"""Language models of MLPerf Inference (offline, server, interactive) as questions for ``TokenServerModel``."""

from __future__ import annotations

import functools
import re
from typing import Any

from mlsysim.calibration.harnesses import chosen_of, harness
from mlsysim.core.checks import instance, looked_up
from mlsysim.core.errors import InputError, UnknownNameError
from mlsysim.core.toml import reads
from mlsysim.hardware.registry import Hardware
from mlsysim.lowering.options import Formats
from mlsysim.models.registry import Models
from mlsysim.models.types import TransformerWorkload
from mlsysim.solvers.serving.token_server import TokenServerResult
from mlsysim.systems.fleets import usual_nodes
from mlsysim.tables.cells import Cells, cell_text, whole_cell
from mlsysim.tables.facts import section
from mlsysim.tables.inference import round_number
from mlsysim.tables.names import accelerator_id, named_accelerator
from mlsysim.tables.question import Question

SCENARIOS = ("offline", "server", "interactive")
_TENSOR_PARALLEL = 8
names_of = functools.partial(section, "mlperf_llm.toml")


def is_language(cells: Cells) -> bool:
    """True if a row's benchmark is a language model."""
    return cell_text(cells, "benchmark") in names_of("benchmark")


def is_submission(cells: Cells) -> bool:
    """True if a row of a table of serving measurements is one of MLPerf Inference."""
    return cell_text(cells, "engine").startswith("mlperf")


def chosen_names(cells: Cells) -> tuple[str, ...]:
    """Names of what calibration rows chose of a row's benchmark, for no source states it: they count as coefficients.

    Example:
        >>> chosen_names({"benchmark": "mixtral-8x7b"}), chosen_names({"benchmark": "gptj-99"}), chosen_names({})
        (('chosen.mixtral-8x7b.prompt',), (), ())
    """
    name = cell_text(cells, "benchmark")
    return tuple(f"chosen.{name}.{part}" for part in chosen_of(name))


def submission_cells(cells: Cells) -> dict[str, str]:
    """A row of a table of serving measurements in the columns of MLPerf Inference.

    Raises:
        InputError: a model or a year that no benchmark has.

    Example:
        >>> submission_cells({"model": "GPT-J-6B", "mode": "server", "year": "2024"})["benchmark"]
        'gptj-99'
    """
    model, year = cell_text(cells, "model"), cell_text(cells, "year").removesuffix(".0")
    benchmark, submitted = looked_up("model", model, names_of("model")), looked_up("year", year, names_of("round"))
    return {**cells, "benchmark": benchmark, "scenario": cell_text(cells, "mode"), "round": str(submitted)}


@reads("tables", "mlperf_llm.toml", kept=False)
def token_question(cells: Cells) -> Question:
    """The question that a row asks; reads neither its value nor its notes.

    Raises:
        InputError: a cell that is needed is empty or unknown, or a scenario without limits.

    Example:
        >>> row = {"benchmark": "llama2-70b-99", "scenario": "Server", "round": "v5.1", "n_accel": "8"}
        >>> asked = token_question(row | {"accelerator": "NVIDIA H200-SXM-141GB"}).arguments
        >>> asked["max_ttft"], asked["max_tpot"], asked["precision"]
        ('2.0 s', '0.2 s', 'fp8')
    """
    name, scenario = cell_text(cells, "benchmark"), cell_text(cells, "scenario")
    if not is_language(cells):
        raise UnknownNameError.among("benchmark", name, names_of("benchmark"))
    benchmark, limits = {**names_of("benchmark")[name], **chosen_of(name)}, names_of("limits")
    if scenario not in SCENARIOS:
        raise InputError(
            "scenario", scenario, f"one of {', '.join(SCENARIOS)}: lone requests to language models are not modelled"
        )
    entry, count = _accelerator(cells), whole_cell(cells, "n_accel")
    arguments: dict[str, Any] = {
        "accelerators": count,
        "input_len": benchmark["prompt"],
        "output_len": benchmark["output"],
        "beams": benchmark.get("beams", 1),
        "output_spread": names_of("output")["spread"],
        **Formats(_precision(entry, name), cache=names_of("precision")["cache"]).arguments(),
        **_engine(cells, entry),
    }
    arguments |= {"run_time": names_of("run")["run_time"], "requests": benchmark["samples"]}
    if scenario != "offline":
        within = looked_up(f"benchmark with limits in the {scenario} scenario", name, limits[scenario])
        named = {"first": "max_ttft", "token": "max_tpot", "request": "max_latency"}
        arguments |= {named[part]: f"{limit_s} s" for part, limit_s in within.items()}
        arguments["percentile"] = limits["percentile"]
    model = instance("benchmark", Models.get(benchmark["model"]), TransformerWorkload, "a language model")
    accelerator, ranks = named_accelerator(cells), min(count, _TENSOR_PARALLEL)
    return Question(model, accelerator if ranks == 1 else usual_nodes(accelerator, ranks), arguments)


def token_figure(result: TokenServerResult, asked: str) -> float:
    """Tokens or requests a second of the whole system, whichever ``asked``, a metric or a unit, counts.

    From v5.0 on language models are rated in tokens, whatever the column is headed.
    """
    requests = asked.startswith("sample")
    return float((result.requests_per_second if requests else result.tokens_per_second).m_as("count/second"))


def _accelerator(cells: Cells) -> str:
    """The accelerator's id in the registry."""
    text = cell_text(cells, "accelerator")
    if not text:
        raise InputError("accelerator", "", "a name: language models on systems without accelerators are not calibrated")
    if "," in re.sub(r"[(].*?[)]", "", text):
        raise InputError("accelerator", text, "accelerators of one kind: how a system of several shares its load is not stated")
    return accelerator_id(cells)


def _precision(entry: str, benchmark: str) -> str:
    known = names_of("precision")
    narrow = entry.startswith(tuple(known["narrow_accelerators"])) and benchmark not in known["wide_benchmarks"]
    return str(known["narrow" if narrow else "usual"])


def _engine(cells: Cells, entry: str) -> dict[str, str]:
    """The engine, and the harness before it."""
    known, vendor = names_of("engine"), str(Hardware.get(entry).vendor).lower()
    if vendor not in known:
        raise InputError("accelerator", entry, "one of NVIDIA or AMD: engines of others are not calibrated")
    era = "newer" if round_number(cells) >= known["newer_from"] else "older"
    limited = vendor == "nvidia" and "maxq" in cell_text(cells, "system")
    name = str(known["limited"] if limited else known[vendor][era])
    return {"stack": harness(name).engine, "harness_name": name}
