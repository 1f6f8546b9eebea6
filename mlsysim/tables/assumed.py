"""Facts of a run that its row leaves out and a default stands for: they are listed, and make a prediction's interval wider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlsysim.calibration.engines import engine
from mlsysim.lowering.options import Formats
from mlsysim.systems.types import Fleet
from mlsysim.tables.cells import Cells, cell_text, whole_cell
from mlsysim.tables.names import begun_model, named_framework
from mlsysim.tables.serving import CACHE_COLUMN

# Columns whose absence a default fills, by the solver whose tables have them.
FACTS = {
    "DistributedModel": (
        *("recompute", "flash_attention", "precision", "micro_batch", "inter_bw_GBps_per_accel", "sharding", "vpp"),
        "sequence_parallel",
    ),
    "ServingModel": ("mode", CACHE_COLUMN, "batch_or_concurrency", "tp"),
}


def assumed_of(solver: str, cells: Cells, hardware: object, arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return the columns that a row of runs leaves out though they matter to it, each with what its question has instead.

    Of others than training and serving nothing is assumed.

    Example:
        >>> row = {"model": "Llama-3.1-8B", "accelerator": "H100", "n_accel": "8", "framework": "Megatron-Core"}
        >>> row |= {"seq_len": "8192", "global_batch_seqs": "64", "metric": "step_time_s", "precision": "fp8"}
        >>> from mlsysim.tables.training import question
        >>> asked = question(row)
        >>> assumed_of("DistributedModel", row | {"gradient_precision": "fp32"}, asked.fleet, asked.arguments)
        {'recompute': 'the least that fits', 'flash_attention': 'flash', 'micro_batch': '1', 'sharding': 'zero1'}
        >>> assumed_of("DistributedModel", row, asked.fleet, asked.arguments)["gradient_precision"]
        'bf16'
    """
    if not cells:
        return {}
    if solver == "DistributedModel" and isinstance(hardware, Fleet):
        told = _of_training(cells, hardware, arguments)
    elif solver == "ServingModel":
        told = _of_serving(arguments)
    else:
        return {}
    return {column: value for column, value in told.items() if not cell_text(cells, column) or _corrected(cells, column, value)}


def _corrected(cells: Cells, column: str, value: str) -> bool:
    """True of a batch that a row states though its ranks cannot share it: the question has another."""
    return column == "global_batch_seqs" and whole_cell(cells, column) != int(value)


def _of_training(cells: Cells, fleet: Fleet, arguments: Mapping[str, Any]) -> dict[str, str]:
    """What stands for each column that matters, were it left out."""
    tp, pp, cp = (int(arguments.get(name) or 1) for name in ("tp_size", "pp_size", "cp_size"))
    dp = fleet.accelerators // (tp * pp * cp)
    sequences = arguments["batch_size"] // dp
    framework = named_framework(cells)
    size = "as registered models of its size"
    shape = {"layers": "by its parameters", "hidden": size, "heads": size}
    told = {
        **(shape if begun_model(cells.get("model") or "") is None else {}),
        "seq_len": str(arguments["seq_len"]),
        "global_batch_seqs": str(arguments["batch_size"]),
        "recompute": str(arguments.get("recompute") or "the least that fits"),
        "flash_attention": str(arguments["attention"]),
        "precision": str(arguments["precision"]),
    }
    if arguments.get("gradient_precision"):
        told["gradient_precision"] = str(arguments["gradient_precision"])
    if sequences > 1 and not framework.get("batch_by_accelerator"):
        told["micro_batch"] = str(sequences // (arguments.get("microbatch_count") or sequences))
    if fleet.count > 1:
        told["inter_bw_GBps_per_accel"] = f"{fleet.inter_bandwidth_Bps / 1e9:g}"
    if not any(cell_text(cells, name) for name in ("tp", "pp", "cp")) and tp > 1:
        told["tp"] = str(tp)
    if framework.get("tuned_ep") and arguments.get("ep_size"):
        told["ep"] = str(arguments["ep_size"])
    if dp > 1:
        told["sharding"] = f"zero{arguments['zero_stage']}"
    if pp > 1:
        told["vpp"] = str(arguments["virtual_stages"])
    if tp > 1:
        told["sequence_parallel"] = (
            "by the plan" if arguments["sequence_parallel"] is None else str(arguments["sequence_parallel"])
        )
    return told


def _of_serving(arguments: Mapping[str, Any]) -> dict[str, str]:
    """What stands for each column that matters, were it left out."""
    told = {"mode": str(arguments["schedule"]), CACHE_COLUMN: str(Formats.of(arguments).cache)}
    if arguments["schedule"] != "offline":
        told["batch_or_concurrency"] = str(arguments["batch_size"])
    # A slice of a torus shares every layer.
    if arguments["replicas"] * arguments["tp_size"] * arguments["pp_size"] > 1 and not engine(arguments["stack"]).has.torus:
        told["tp"] = str(arguments["tp_size"])
    return told
