"""From a run to what its accelerators do: of the same layers and steps that its time comes from."""

from __future__ import annotations

from mlsysim.core.precision import bytes_per_element
from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.prefix_cache import computed
from mlsysim.lowering.serving_kernels import peak_flops_per_s
from mlsysim.lowering.training_setting import TrainingSetting
from mlsysim.physics.layer.attention import cached_tokens
from mlsysim.physics.layer.work import LayeredWork, recomputed_flops
from mlsysim.physics.operations.power import Activity
from mlsysim.physics.plan import Plan
from mlsysim.physics.serving.deployment import WORD_B
from mlsysim.physics.serving.inference import InferenceWork, weights_read_B
from mlsysim.physics.serving.schedule import Served
from mlsysim.physics.training.roofline_step import layer_traffic_B
from mlsysim.physics.training.step import StepTime

# Parts of a decode step in which no kernel computes. An engine's own time is none: small kernels of layers, and sampling.
_WAITING = ("communication", "tensor-parallel communication", "host transfers beyond them")


def serving_activity(
    deployment: Deployment, work: InferenceWork, served: Served, accelerators: int, tokens_per_s: float
) -> Activity | None:
    """What each accelerator of a replica does, mean over whole requests; None of rounds of drafts, whose work is not counted.

    ``tokens_per_s``: output tokens of the replica; of a model that generates nothing, sequences.
    """
    if deployment.draft_len:
        return None
    batch, context = float(served.batch), float(cached_tokens(deployment.workload.layer_shape, deployment.context))
    new, keys = computed(deployment)
    step_s = batch / tokens_per_s
    # Prompts that a step computes, mean: each request brings one.
    prompts = batch / max(deployment.output, 1.0) if deployment.output or not deployment.workload.causal else 0.0
    flops = prompts * (new * (work.matmul_flops + work.attention_flops_per_key * keys) + work.head_flops)
    kept_tokens, waiting_s = prompts * new, 0.0
    if deployment.workload.causal:
        flops += batch * (work.matmul_flops + work.decode_flops_per_key * context + work.head_flops)
        kept_tokens += batch * context
        parts, _ = served.step.parts()
        waiting_s = sum(parts.get(name, 0.0) for name in _WAITING)
    device = deployment.accelerator
    moved = step_s * device.memory_bandwidth_Bps
    narrowest_B = min(bytes_per_element(deployment.weights), bytes_per_element(deployment.experts or deployment.weights))
    return Activity(
        weights=_share(float(weights_read_B(work, batch)) / accelerators / moved),
        cache=_share(work.kv_B * kept_tokens / deployment.kv_shards / moved),
        arithmetic=_share(flops / accelerators / (step_s * peak_flops_per_s(deployment))),
        busy=_share(1 - waiting_s / step_s),
        narrow=float(narrowest_B < WORD_B),
    )


def training_activity(setting: TrainingSetting, work: LayeredWork, plan: Plan, step: StepTime) -> Activity:
    """What each accelerator does in a training step, mean over ranks; the optimizer's own traffic is left out."""
    seconds, accelerators = float(step.total_s), setting.fleet.accelerators
    flops = (work.training_flops + work.layers * float(recomputed_flops(work, plan.recompute))) * setting.batch_size
    passes = float(plan.micro_batches) * work.layers / float(plan.pp)
    moved_B = float(layer_traffic_B(work, plan)) * passes
    busy_s = float(step.compute_s + step.recompute_s + step.optimizer_s)
    return Activity(
        weights=_share(moved_B / (seconds * setting.fleet.node.accelerator.memory_bandwidth_Bps)),
        cache=0.0,
        arithmetic=_share(flops * setting.seq_len / accelerators / (seconds * setting.peak_flops_per_s)),
        busy=_share(busy_s / seconds),
    )


def _share(value: float) -> float:
    """A share, which roundings and last-level caches may lift over 1."""
    return min(max(value, 0.0), 1.0)
