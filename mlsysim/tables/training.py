"""Rows of a table of training runs as questions for ``DistributedModel``: the columns of published measurement tables."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlsysim.calibration.names import stack_of_variant
from mlsysim.calibration.stacks import stack as known_stack
from mlsysim.core.errors import InputError, UnknownNameError
from mlsysim.core.names import folded
from mlsysim.models.adapters import adapters_of
from mlsysim.models.types import TransformerWorkload
from mlsysim.physics.layer.adapters import Adapters
from mlsysim.solvers.training.distributed import DistributedModel, DistributedResult
from mlsysim.systems.fleets import usual_fleet
from mlsysim.systems.types import Fleet
from mlsysim.tables.cells import cell_text, number_cell, whole_cell
from mlsysim.tables.facts import facts
from mlsysim.tables.names import (
    begun_model,
    named_accelerator,
    named_format,
    named_framework,
    named_model,
    refuse_unmodelled,
    registered_model,
)
from mlsysim.tables.stated_models import stated_workload

METRICS = ("step_time_s", "tokens_per_s_per_accel", "tflops_per_accel", "mfu_pct", "hfu_pct")

_facts = functools.partial(facts, "training.toml")
_NOTED = {
    "release": re.compile(r"\brelease (\d\d\.\d\d)\b"),
    "capacity_factor": re.compile(r"\bcapacity(?: factor)? (\d+(?:\.\d+)?)\b"),
    "head_dim": re.compile(r"\bhead_dim (\d+)\b"),
    "accelerator_ktokens": re.compile(r"\b(\d+)k tokens per device\b"),
}
_NO_RELEASE = "~"  # sorts after every release
_RELEASE = re.compile(r"\b2\d\.\d\d\b")
_SHARDING = re.compile(r"\bzero-?([123])|\b(?:fsdp|hsdp)")
_COMPILED = re.compile(r"\b(?:eager|compiled?)\b")


@dataclass(frozen=True)
class TrainingQuestion:
    """One row, ready to be solved.

    Attributes:
        workload, fleet, arguments: of ``DistributedModel.solve``.
        metric: what the row measures, one of ``METRICS``.
        flops: what its TFLOP/s and MFU count: ``causal``, ``full``, ``hardware``, ``ungated`` or, of adapters, ``weights``.
    """

    workload: TransformerWorkload
    fleet: Fleet
    arguments: dict[str, Any]
    metric: str
    flops: str

    @property
    def adapters(self) -> Adapters:
        """The low-rank adapters that alone are trained; none where all weights are."""
        asked = self.arguments
        return adapters_of(
            self.workload, asked.get("lora_rank"), asked.get("lora_targets"), known_stack(asked["stack"]).adapters
        )


def question(row: Mapping[str, str]) -> TrainingQuestion:
    """The question that ``row`` asks; reads neither its value nor its notes.

    Raises:
        InputError: a cell that is needed is empty or unknown, or a feature that is not modelled.
    """
    fleet = _fleet(row)
    workload = _workload(row)
    framework = named_framework(row)
    if workload.prediction_layers and not framework.get("predicts_further", True):
        workload = workload.model_copy(update={"prediction_layers": 0})
    tp, pp, cp = _split(row, framework, fleet)
    if fleet.accelerators % (tp * pp * cp):
        raise InputError("n_accel", fleet.accelerators, f"a multiple of tp x pp x cp = {tp} x {pp} x {cp}")
    dp = fleet.accelerators // (tp * pp * cp)
    batch, micro_batch = _batches(row, framework, fleet.accelerators, dp)
    if framework.get("batch_by_accelerator") and micro_batch % pp == 0:
        # As many micro-batches as stages, unless a run says another number, which no column has.
        micro_batch //= pp
    microbatch_count = _near(batch, dp * micro_batch) // (dp * micro_batch)
    if not microbatch_count:
        raise InputError("global_batch_seqs", batch, f"a multiple of dp x micro_batch = {dp} x {micro_batch}")
    batch = microbatch_count * dp * micro_batch
    zero_stage = _zero_stage(row, framework, pp)
    variant = cell_text(row, "variant")
    stack = _stack(row, framework, workload, fleet, zero_stage)
    arguments: dict[str, Any] = {
        "batch_size": batch,
        "seq_len": _seq_len(row),
        "precision": _precision(row, fleet),
        "tp_size": tp,
        "pp_size": pp,
        "virtual_stages": _virtual_stages(row, framework, workload.layers, pp, microbatch_count),
        "microbatch_count": microbatch_count,
        "zero_stage": zero_stage,
        "shard_size": _shard_size(row, framework, fleet, tp, dp) if zero_stage else None,
        "sequence_parallel": {"yes": tp > 1, "no": False}.get(cell_text(row, "sequence_parallel")),
        "recompute": cell_text(row, "recompute") or framework.get("recompute"),
        "attention": _attention(row, framework, fleet),
        "stack": stack,
    }
    gradients = cell_text(row, "gradient_precision")
    if gradients or known_stack(stack).gradients:
        arguments["gradient_precision"] = gradients or framework.get("gradients", _facts()["published"]["gradients"])
    if cp > 1:
        arguments["cp_size"] = cp
    if workload.moe is not None:
        # Megatron-Core's recipes do not split experts, whatever TP the other layers have; no table says otherwise.
        arguments |= {"ep_size": whole_cell(row, "ep", 1), "expert_tp_size": tp if framework.get("splits_experts") else 1}
        if capacity := number_cell(row, "capacity_factor", 0.0):
            arguments["capacity_factor"] = capacity
        if framework.get("tuned_ep") and not cell_text(row, "ep"):
            arguments["ep_size"] = _fastest_ep(workload.moe.experts, dp * tp, workload, fleet, arguments)
    if known_stack(stack).eager is not None and (said := _COMPILED.search(variant)):
        arguments["compiled"] = said.group() != "eager"
    if "async tp" in variant:
        arguments["async_tp"] = True
    adapters = _adapters(row, framework, stack)
    arguments |= adapters
    metric = cell_text(row, "metric")
    if metric not in METRICS:
        raise UnknownNameError.among("metric", metric, METRICS)
    # Weights that are gathered for each micro-batch make small ones slow: nobody takes these where larger ones fit.
    gathered = zero_stage == 3 and not framework.get("batch_by_accelerator")
    if (gathered or framework.get("tuned_micro_batch")) and not cell_text(row, "micro_batch"):
        arguments["microbatch_count"] = _fastest_count(workload, fleet, arguments, batch // dp)
    # Of adapters, sources count the frozen products alone, forward and backward: 4 FLOP a parameter.
    return TrainingQuestion(workload, fleet, arguments, metric, "weights" if adapters else _counted(row, framework))


def _split(row: Mapping[str, str], framework: Mapping[str, Any], fleet: Fleet) -> tuple[int, int, int]:
    """Tensor, pipeline and context ranks; a row that states none has the least TP within a node that its batch allows."""
    tp, pp, cp = (whole_cell(row, name, 1) for name in ("tp", "pp", "cp"))
    stated = any(cell_text(row, name) for name in ("tp", "pp", "cp")) or not cell_text(row, "global_batch_seqs")
    if not stated and not framework.get("batch_by_accelerator"):
        batch, micro_batch = whole_cell(row, "global_batch_seqs"), whole_cell(row, "micro_batch", 1)
        degrees = (2**power for power in range(fleet.node.accelerators_per_node.bit_length()))
        tp = next((tp for tp in degrees if _near(batch, fleet.accelerators // tp * micro_batch)), 1)
    return tp, pp, cp


def _near(batch: int, shared: int) -> int:
    """The multiple of ``shared`` nearest to a batch, which reports round; 0 where it is another batch."""
    near = round(batch / shared) * shared if shared else 0
    return near if abs(near / batch - 1) <= _facts()["usual"]["batch_rounding"] else 0


def _fleet(row: Mapping[str, str]) -> Fleet:
    link_GBps, network_GBps = number_cell(row, "intra_bw_GBps", 0.0), number_cell(row, "inter_bw_GBps_per_accel", 0.0)
    return usual_fleet(
        named_accelerator(row),
        whole_cell(row, "n_accel"),
        whole_cell(row, "accel_per_node", 0) or None,
        1e9 * link_GBps or None,
        1e9 * network_GBps or None,
    )


def _workload(row: Mapping[str, str]) -> TransformerWorkload:
    """The model of the row; one of which it has the name alone may say after it what was done to it ("LoRA")."""
    name = row.get("model") or ""
    refuse_unmodelled(name)
    begun = None if cell_text(row, "layers") or cell_text(row, "params_b") or registered_model(name) else begun_model(name)
    if begun is not None:
        row = {**row, "model": begun.name}
    return named_model(row) or stated_workload(row, whole_cell(row, "tp", 1), whole_cell(row, "pp", 1))


def _adapters(row: Mapping[str, str], framework: Mapping[str, Any], stack: str) -> dict[str, Any]:
    """Rank and targets of the adapters where a column, the model's name or the variant says that only those are trained."""
    text = f"{cell_text(row, 'model')} {cell_text(row, 'variant')}"
    if "lora" not in text and not cell_text(row, "lora_rank"):
        return {}
    usual, said = _facts()["lora"], re.search(r"\b(?:r|rank)[ =]?(\d+)\b", text)
    rank = whole_cell(row, "lora_rank", int(said.group(1)) if said else int(usual["rank"]))
    published = (targets for word, targets in usual["targets"].items() if word in f"{text} {stack}")
    targets = cell_text(row, "lora_targets") or framework.get("lora_targets") or next(published, "")
    return {"lora_rank": rank} | ({"lora_targets": targets} if targets else {})


def _stack(
    row: Mapping[str, str], framework: Mapping[str, Any], workload: TransformerWorkload, fleet: Fleet, zero_stage: int
) -> str:
    """The stack of a framework, unless the variant, the model or a recipe says another; a user's own is what it says."""
    said = None if "own" in framework else stack_of_variant(cell_text(row, "variant"), cell_text(row, "model"))
    if said or "own" in framework:
        return said or str(framework["stack"])
    precision = re.sub("[^a-z0-9]", "", cell_text(row, "precision"))
    accelerator, release = fleet.node.accelerator.name, _release(row)
    for recipe in framework.get("recipes", ()):
        if (
            release >= recipe.get("since", "")
            and any(text in precision for text in recipe.get("precisions", ("",)))
            and any(text in accelerator for text in recipe.get("accelerators", ("",)))
            and workload.name in recipe.get("models", (workload.name,))
            and zero_stage == recipe.get("zero_stage", zero_stage)
        ):
            return str(recipe["stack"])
    return str(framework["stack"])


def _counted(row: Mapping[str, str], framework: Mapping[str, Any]) -> str:
    """What the TFLOP/s of a framework count; of some models, or before some release, it counts them otherwise."""
    model, release = folded(cell_text(row, "model")), _release(row)
    for other in framework.get("counts", ()):
        if model.startswith(tuple(folded(name) for name in other["models"])) and release < other.get("before", _NO_RELEASE):
            return str(other["flops"])
    return str(framework["flops"])


def noted_cells(notes: str) -> dict[str, str]:
    """The cells that a row's notes make up for: nothing else is read of them.

    They are ``release``, ``capacity_factor``, ``head_dim`` and ``accelerator_ktokens`` (an accelerator's in a step, / 1,024).

    Example:
        >>> noted_cells("release 26.06; 9e9 tokens/s"), noted_cells("dropped tokens capacity 1.25"), noted_cells("9e9 tokens/s")
        ({'release': '26.06'}, {'capacity_factor': '1.25'}, {})
    """
    said = {name: pattern.search(notes) for name, pattern in _NOTED.items()}
    return {name: match.group(1) for name, match in said.items() if match}


def _release(row: Mapping[str, str]) -> str:
    """The year and month of the framework's release, as ``26.06``; empty where the row does not say."""
    said = _RELEASE.search(f"{cell_text(row, 'release')} {cell_text(row, 'framework')}")
    return said.group() if said else ""


def _batches(row: Mapping[str, str], framework: Mapping[str, Any], accelerators: int, dp: int) -> tuple[int, int]:
    """Sequences of a step, and of one micro-batch of one data-parallel rank.

    Some frameworks count the micro-batch by accelerator, not by data-parallel rank, and accumulate no gradients: without a
    micro-batch theirs is the whole batch, and without a batch it is what all accelerators have, by default as many tokens as
    the framework gives each. Any other row without a batch has as many a step as large models are usually trained with.
    """
    by_accelerator, default = framework.get("batch_by_accelerator"), framework.get("accelerator_tokens")
    default = int(1024 * number_cell(row, "accelerator_ktokens", 0.0)) or default
    if default and not cell_text(row, "global_batch_seqs") and not cell_text(row, "micro_batch"):
        count = max(1, round(default / _seq_len(row) * accelerators / dp))
        return count * dp, count
    if not cell_text(row, "global_batch_seqs") and not (by_accelerator and cell_text(row, "micro_batch")):
        micro_batch = whole_cell(row, "micro_batch", 1)
        count = max(1, round(_facts()["usual"]["tokens"] / _seq_len(row) / (dp * micro_batch)))
        return count * dp * micro_batch, count if by_accelerator else micro_batch
    if not by_accelerator:
        return whole_cell(row, "global_batch_seqs"), whole_cell(row, "micro_batch", 1)
    if not cell_text(row, "global_batch_seqs"):
        batch = accelerators * whole_cell(row, "micro_batch")
        return batch, max(1, batch // dp)
    batch = whole_cell(row, "global_batch_seqs")
    if batch % dp:
        raise InputError("global_batch_seqs", batch, f"a multiple of dp = {dp}")
    each = number_cell(row, "micro_batch", batch / accelerators) * accelerators / dp
    if each != int(each):
        raise InputError("micro_batch", each, "a whole number of sequences a data-parallel rank: no sequence is split")
    return batch, int(each)


def _shard_size(row: Mapping[str, str], framework: Mapping[str, Any], fleet: Fleet, tp: int, dp: int) -> int | None:
    """Data-parallel ranks that hold all shards: as the row says, those of a node or slice in hybrid sharding, or all (None)."""
    group = cell_text(row, "zero_group")
    if group and group != "all":
        shards = whole_cell(row, "zero_group")
    elif "hsdp" in cell_text(row, "sharding") or framework.get("shards_in_domain"):
        shards = max(1, fleet.node.accelerators_per_node // tp)
    else:
        return None
    return shards if shards < dp and dp % shards == 0 else None


def _virtual_stages(row: Mapping[str, str], framework: Mapping[str, Any], layers: int, pp: int, count: int) -> int:
    """The row's model chunks; else one layer a chunk where the framework's recipes interleave and the plan allows it."""
    if cell_text(row, "vpp") or pp == 1:
        return whole_cell(row, "vpp", 1)
    if "interleaved" in cell_text(row, "variant") and "several_chunks" in framework:
        return int(framework["several_chunks"])
    chunks = layers + int(framework.get("bare_chunks", 0))
    return chunks // pp if framework.get("interleaved") and chunks % pp == 0 and count % pp == 0 else 1


def _fastest_count(workload: TransformerWorkload, fleet: Fleet, arguments: Mapping[str, Any], sequences: int) -> int:
    """Micro-batches of a rank's ``sequences``: of those of 1, 2, 4, ... sequences that fit, the fastest."""
    steps: dict[int, DistributedResult] = {}
    for size in (2**power for power in range(sequences.bit_length())):
        if sequences % size == 0:
            plan = {**arguments, "microbatch_count": sequences // size}
            steps[sequences // size] = DistributedModel().solve(workload, fleet, **plan)
    fitting = {count: step for count, step in steps.items() if step.feasible} or {sequences: steps[sequences]}
    return min(fitting, key=lambda count: float(fitting[count].step_latency_total.m))


def _fastest_ep(experts: int, ranks: int, workload: TransformerWorkload, fleet: Fleet, arguments: Mapping[str, Any]) -> int:
    """Expert-parallel ranks of a row that leaves them out: of 1, 2, 4, ... that divide experts and ranks, the fastest."""
    sizes = [size for size in (2**power for power in range(experts.bit_length())) if experts % size == 0 and ranks % size == 0]
    steps = {size: DistributedModel().solve(workload, fleet, **{**arguments, "ep_size": size}) for size in sizes}
    return int(min(steps, key=lambda size: float(steps[size].step_latency_total.m)))


def _seq_len(row: Mapping[str, str]) -> int:
    return whole_cell(row, "seq_len", int(_facts()["usual"]["seq_len"]))


def _precision(row: Mapping[str, str], fleet: Fleet) -> str:
    """The format of the matrix products; a submission to MLPerf that leaves it out has 8 bits where the hardware does."""
    text = cell_text(row, "precision")
    if not text:
        submitted = "mlperf" in cell_text(row, "model") and "fp8" in fleet.node.accelerator.compute.precision_flops
        text = "fp8" if submitted else "bf16"
    named = [precision for precision in ("fp8", "int8", "fp4", "bf16", "fp16", "fp32") if precision in text]
    return min(named, key=text.index) if named else named_format("precision", text)


def _zero_stage(row: Mapping[str, str], framework: Mapping[str, Any], pp: int) -> int:
    text = cell_text(row, "sharding") or framework.get("sharding") or _sharding_said(row)
    if pp > 1 and text != "none":
        text = framework.get("pipelined_sharding", text)
    if "offload" in text:
        raise InputError("sharding", text, "no offloading: it is not modelled")
    for stage in (3, 2, 1):
        if f"zero{stage}" in text:
            return stage
    return 3 if "fsdp" in text or "hsdp" in text else 0 if text == "none" else 1


def _sharding_said(row: Mapping[str, str]) -> str:
    """The sharding that the framework's name says, as in "DeepSpeed ZeRO-3" or "PyTorch FSDP"; empty where it says none."""
    said = _SHARDING.search(cell_text(row, "framework"))
    return "" if said is None else f"zero{said[1]}" if said[1] else said[0]


def _attention(row: Mapping[str, str], framework: Mapping[str, Any], fleet: Fleet) -> str:
    """The attention kernel; where a row does not say, one that stores no scores, on hardware that has such a kernel."""
    text = cell_text(row, "flash_attention")
    older = any(name in fleet.node.accelerator.name for name in _facts()["stored_scores_on"]["accelerators"])
    if not text and "attention" in framework:
        return str(framework["attention"])
    if text == "no" or (older and not text):
        return str(_facts()["stored_scores"].get(cell_text(row, "variant"), "unfused"))
    return "flash-1" if "v1" in text or "attentionv1" in cell_text(row, "variant") else "flash"
