"""A torchtitan TOML (v0.1 to v0.2) as a training run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlsysim.core.checks import looked_up
from mlsysim.core.errors import InputError
from mlsysim.launch.documents import Table, toml_table
from mlsysim.launch.training_run import Run, refuse_offload
from mlsysim.models.registry import Models

_EIGHT_BITS = ("float8", "quantize.linear.float8", "quantize.linear.mx", "mx")
_MODES = {"none": "none", "selective": "selective", "full": "full", "memory_budget": "selective"}


def torchtitan_run(text: str, run: Run) -> None:
    r"""Fills ``run`` with what a torchtitan file says.

    Raises:
        NotModelledError: a feature that is not modelled, by its key.
        InputError: a value is none that its key takes, or values contradict each other.

    Example:
        >>> run = Run("torchtitan", "llama.toml", accelerators=8)
        >>> torchtitan_run('[model]\nname = "llama3"\nflavor = "8B"\n[training]\nlocal_batch_size = 1\nseq_len = 8192', run)
        >>> run.workload.name, run.arguments["batch_size"], run.arguments["zero_stage"], run.arguments["recompute"]
        ('Llama-3-8B', 8, 3, 'selective')
    """
    document = toml_table(text, run.name)
    tables = {key: document.inner(key) for key in run.facts["read"] if key != "ignored"}
    _told(document, run)
    training, split = tables["training"], tables["parallelism"]
    if run.workload is None:
        run.workload = _model(tables["model"], run)
    refuse_offload(f"{run.name}: training.enable_cpu_offload", training.flag("enable_cpu_offload"))
    tp, pp, cp = (split.whole(f"{name}_parallel_degree", 1) for name in ("tensor", "pipeline", "context"))
    copies, shards = split.whole("data_parallel_replicate_degree", 1), split.whole("data_parallel_shard_degree", -1, -1)
    if shards < 1:
        shards = max(1, run.counted() // (tp * pp * cp * copies))
    if run.accelerators is None:
        run.accelerators = tp * pp * cp * copies * shards
    if tp * pp * cp * copies * shards != run.accelerators:
        expected = f"tp x pp x cp x replicate x shard = {tp} x {pp} x {cp} x {copies} x {shards}"
        raise InputError("accelerators", run.accelerators, expected)
    dp = copies * shards
    local = training.whole("local_batch_size", training.whole("batch_size", 8))
    micro = split.whole("pipeline_parallel_microbatch_size", 1) if pp > 1 else local
    batch = training.whole("global_batch_size", -1, -1)
    batch = local * dp if batch < 1 else batch
    run.arguments |= {
        "batch_size": batch,
        "seq_len": training.whole("seq_len", 2048),
        "precision": _precision(tables["model"], run),
        "gradient_precision": "fp32",
        "tp_size": tp,
        "pp_size": pp,
        "cp_size": cp,
        "virtual_stages": _virtual_stages(split, pp, run),
        "microbatch_count": run.micro_batches(batch, micro, dp),
        "zero_stage": _zero_stage(split, copies, shards, pp, run),
        "sequence_parallel": tp > 1,
        "recompute": _recompute(tables["activation_checkpoint"], run),
        "compiled": tables["compile"].flag("enable") or training.flag("compile"),
        "async_tp": split.flag("enable_async_tensor_parallel"),
    }
    if split.flag("disable_loss_parallel"):
        run.assumed.append("the loss is not divided over tensor-parallel ranks: it is counted as divided")
    if copies > 1 and shards * cp > 1:
        run.arguments["shard_size"] = shards
    if run.model().moe is not None:
        expert_tp = split.whole("expert_tensor_parallel_degree", 1)
        run.arguments |= {"ep_size": split.whole("expert_parallel_degree", 1), "expert_tp_size": expert_tp}
    if training.text("dtype", "float32") == "bfloat16":
        run.assumed.append("parameters, gradients and moments in bf16: 12 bytes of optimizer states a parameter are counted")


def _told(document: Mapping[str, Any], run: Run) -> None:
    """Notes tables and keys that nobody described here."""
    known = run.facts["read"]
    for table, value in document.items():
        if table in known["ignored"]:
            run.ignored.append(table)
        elif table not in known or not isinstance(value, dict):
            run.unknown.append(str(table)[:80])
        else:
            run.unknown += [f"{table}.{key}"[:80] for key in value if key not in known[table]]


def _model(table: Table, run: Run) -> Any:
    """The registry's model of a name and a flavor."""
    flavors: dict[str, dict[str, str]] = run.facts["flavors"]
    name, flavor = table.text("name", "llama3"), table.text("flavor", "debugmodel")
    return Models.Language[looked_up(f"{table.name}.flavor", flavor, looked_up(f"{table.name}.name", name, flavors))]


def _precision(model: Mapping[str, Any], run: Run) -> str:
    listed = model.get("converters", [])
    if not isinstance(listed, list) or not all(isinstance(entry, str) for entry in listed):
        raise InputError(f"{run.name}: model.converters", listed, "a list of names")
    narrow = [entry for entry in listed if entry in _EIGHT_BITS]
    run.assumed += [f"converter {entry[:60]}: it is not counted" for entry in listed if entry not in narrow]
    if narrow:
        run.assumed.append("the scaling of 8-bit products is that of the stack's measured runs")
    return "fp8" if narrow else "bf16"


def _virtual_stages(split: Table, pp: int, run: Run) -> int:
    """Stages a rank: from the layers of a stage, embedding and head counted as one each, else the schedule's."""
    if pp == 1:
        return 1
    schedule = split.text("pipeline_parallel_schedule", "1F1B")
    usual = int(looked_up(f"{split.name}.pipeline_parallel_schedule", schedule, run.facts["schedules"]))
    if schedule == "GPipe":
        run.arguments["schedule"] = "gpipe"
    elif schedule not in ("1F1B", "Interleaved1F1B"):
        run.assumed.append(f"schedule {schedule}: as interleaved 1F1B with {usual} stages a rank")
    if "pipeline_parallel_layers_per_stage" not in split:
        return usual
    less = sum(split.whole(f"pipeline_parallel_{end}_stage_less_layers", 1, 0) for end in ("first", "last"))
    stages = -(-(run.model().layers + less) // split.whole("pipeline_parallel_layers_per_stage", 1))
    return max(1, stages // pp)


def _zero_stage(split: Table, copies: int, shards: int, pp: int, run: Run) -> int:
    """FSDP's stage: beside a pipeline, gradients stay whole until the last micro-batch (``calibration/data/names.toml``)."""
    if shards == 1:
        return 0 if copies > 1 else 3
    policy = split.text("fsdp_reshard_after_forward", "default")
    reshards = looked_up(
        f"{split.name}.fsdp_reshard_after_forward", policy, {"always": True, "never": False, "default": pp == 1}
    )
    if reshards:
        return 3
    if pp == 1:
        return 2
    run.assumed.append(
        "FSDP beside a pipeline gathers weights once a step (ZeRO-2) and keeps its gradients whole until the last micro-batch: "
        "it is counted as ZeRO-1"
    )
    return 1


def _recompute(table: Table, run: Run) -> str:
    """The mode; of selective ones, which of the framework's two is measured by the stack."""
    mode = table.text("mode", "selective")
    told = str(looked_up(f"{table.name}.mode", mode, _MODES))
    option = str(table.get("selective_ac_option", "2"))
    if mode == "memory_budget":
        run.assumed.append("a memory budget of recomputation: every second layer is counted")
    elif mode == "selective" and option == "op":
        run.arguments["stack"] = "torchtitan-products"
    elif mode == "selective" and option == "1":
        return "full"
    elif mode == "selective" and option != "2":
        run.assumed.append(f"every {option[:20]}-th layer is recomputed: every second is counted")
    return told
