"""Memory that one copy of a model takes of its accelerators and of the host, and the sequences that fit beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mlsysim.calibration.engines import Engine
from mlsysim.calibration.memory import usable_memory_B
from mlsysim.core.errors import InputError
from mlsysim.core.precision import bytes_per_element
from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.feasibility import over_budget
from mlsysim.lowering.offload import Offload
from mlsysim.lowering.work import inference_work, served_shape
from mlsysim.models import parameters as counting
from mlsysim.models.layers import moe_layers
from mlsysim.physics.layer.attention import qkv_elements
from mlsysim.physics.layer.kept import ffn_elements
from mlsysim.physics.layer.parameters import part_parameters
from mlsysim.physics.layer.products import ROUTED
from mlsysim.physics.serving.inference import InferenceWork, largest_batch
from mlsysim.physics.serving.offload import kept_share
from mlsysim.physics.serving.torus_partition import padded_heads

# A hundred times what engines decode at once: queues with more places take too long to solve.
_MOST_TRIED = 2**17


@dataclass(frozen=True, slots=True)
class Room:
    """Memory of one replica: its weights, its cache, and the sequences that fit.

    Attributes:
        accelerators: number of accelerators of a replica.
        shards: ranks that divide the cache.
        each_kv_B: cache of one sequence over all ranks, with what it leaves unused of its last block.
        weights_B: weights on one accelerator.
        usable_B: memory of one accelerator that weights and cache may fill: the engine's share, without its workspace.
        most_decoded: sequences that the engine decodes together at most, however much memory there is.
        most_sequences: sequences whose cache fits, or that the engine decodes together.
        all_weights_B: weights of one accelerator, with those that lie in the host's memory.
        kept: share of the cache on the accelerators.
        offload: what lies in the host's memory.
    """

    accelerators: int
    shards: float
    each_kv_B: float
    weights_B: float
    usable_B: float
    most_decoded: float
    most_sequences: float
    all_weights_B: float
    kept: float
    offload: Offload

    def kv_B(self, batch: float) -> float:
        """Bytes of the cache of ``batch`` sequences."""
        return self.each_kv_B * batch

    def needed_B(self, batch: float) -> float:
        """Bytes that ``batch`` sequences and the weights need on one accelerator."""
        return self.weights_B + self.kept * self.kv_B(batch) / self.shards

    def host_B(self, batch: float) -> float:
        """Bytes that one accelerator keeps in the host's memory."""
        return self.offload.weights * self.all_weights_B + self.offload.cache * self.kv_B(batch) / self.shards

    @property
    def free_B(self) -> float:
        """Memory of one accelerator that is left beside its weights."""
        return self.usable_B - self.weights_B

    def most_tried(self, setting: Deployment, most: int | None = None) -> int:
        """All the sequences that fit, for who tries every number of them, or ``most`` where more fit.

        Raises:
            InputError: there are more than anybody could serve at once.
        """
        tried = min(self.most_sequences, most or self.most_sequences)
        if tried > _MOST_TRIED:
            expected = f"one whose memory has room for at most {_MOST_TRIED} requests of these lengths, not for {tried:.3g}"
            raise InputError(
                "hardware", setting.accelerator.name, f"{expected}, unless an argument says how many are served at once"
            )
        return int(tried)

    def reason(self, setting: Deployment, batch: float) -> str:
        """Why ``batch`` sequences do not fit, with the numbers; empty where they do: no more than ``most_sequences``."""
        if batch <= self.most_sequences:
            return ""
        device = setting.accelerator
        who = f"each of {self.accelerators}" if self.accelerators > 1 else "one"
        parts_B = {"weights": self.weights_B, "KV cache": self.kept * self.kv_B(batch) / self.shards}
        if over := over_budget(sum(parts_B.values()), device, who, parts_B, self.usable_B):
            return over
        host_B = self.host_B(batch)
        if host_B > self.offload.host_B:
            have_B = self.offload.host_B
            return f"{who} {device.name} needs {host_B / 1e9:.1f} GB of host memory; it has {have_B / 1e9:.1f} GB"
        engine = "" if setting.stack is None else setting.stack.name
        return f"{engine} decodes {self.most_decoded:.0f} sequences together at most, of {batch:.0f}"


def room(setting: Deployment, work: InferenceWork) -> Room:
    """The memory of a deployment; an engine keeps a part to itself, and workspace for its largest pass."""
    ranks, proposed = setting.ranks, _proposer(setting, work)
    if setting.draft_len:
        work = replace(work, resident_B=work.resident_B + proposed[0], kv_B=work.kv_B + proposed[1])
    copies = setting.expert_plan.redundant / setting.workload.moe.experts if setting.workload.moe else 0.0
    weights_B = (work.resident_B + copies * work.expert_B) / ranks
    usable_B = usable_memory_B(setting.accelerator.memory_capacity_B)
    engine = setting.stack
    if engine is not None:
        wide_B = 0.0 if engine.has.own_products else _wide_tables_B(setting)
        weights_B += (wide_B + (_empty_heads_B(setting) if engine.has.torus else _copied_B(setting, wide_B))) / ranks
        shared_by = setting.tp if engine.has.torus else setting.attention_ranks
        usable_B = usable_B * engine.memory_share - _workspace_B(setting, engine) / shared_by - _gathered_B(setting, engine)
        if setting.schedule != "static":  # a fixed batch has the cache that it needs
            usable_B = min(usable_B, weights_B + engine.free_share * (usable_B - weights_B))
    each_kv_B = work.kv_B * setting.held
    offload, layers = setting.offload, setting.workload.layers / setting.pp
    all_weights_B, weights_B = weights_B, weights_B * kept_share(offload.weights, layers)
    kept, token_B = kept_share(offload.cache, layers), work.kv_B / setting.kv_shards
    most = float(largest_batch(usable_B - weights_B, token_B * kept, setting.held))
    if offload.host_B < float("inf") and offload.cache:
        beside_B = offload.host_B - offload.weights * all_weights_B
        most = min(most, float(largest_batch(beside_B, token_B * offload.cache, setting.held)))
    elif offload.weights * all_weights_B > offload.host_B:
        most = 0.0
    decoded = float("inf") if engine is None else engine.most_sequences * setting.tp / setting.attention_ranks
    most = min(most, decoded)
    return Room(ranks, setting.kv_shards, each_kv_B, weights_B, usable_B, decoded, most, all_weights_B, kept, offload)


def _proposer(setting: Deployment, work: InferenceWork) -> tuple[float, float]:
    """Bytes of the weights of what drafts tokens, and of its cache for each token: a model's, or a layer more."""
    if not setting.draft_len:
        return 0.0, 0.0
    if setting.draft is None:
        return work.resident_B / setting.workload.layers, work.kv_B / setting.workload.layers
    proposed = inference_work(setting.draft, setting.weights, setting.cache)
    return proposed.resident_B, proposed.kv_B


def _copied_B(setting: Deployment, wide_B: float) -> float:
    """Bytes that every rank with sequences of its own keeps whole beyond the first copy: all but the routed experts.

    Source: TensorRT-LLM, PyTorch models of Llama 4 and DeepSeek (with attention_dp, attention, dense blocks, shared experts,
    embedding and head have a tensor-parallel size of 1).
    """
    model = setting.workload
    if setting.attention_ranks == setting.tp:
        return 0.0
    kept = model.computed_parameters - moe_layers(model) * float(part_parameters(model.layer_shape, ROUTED))
    return (kept * bytes_per_element(setting.weights) + wide_B) * (setting.tp / setting.attention_ranks - 1)


def _empty_heads_B(setting: Deployment) -> float:
    """Query and output weights of the heads that only fill a division."""
    model = setting.workload
    empty = padded_heads(float(model.heads), setting.tp) - model.heads
    return 2 * model.layers * empty * model.head_width * model.hidden_dim * bytes_per_element(setting.weights)


def _wide_tables_B(setting: Deployment) -> float:
    """Embedding and head stay 16-bit where the layers' weights are narrower."""
    model = setting.workload
    tables = counting.embedding_parameters(model) + counting.head_parameters(model)
    return tables * max(0.0, 2.0 - bytes_per_element(setting.weights))


def _workspace_B(setting: Deployment, engine: Engine) -> float:
    """Activations of the longest pass, 16-bit, and logits of the largest batch in fp32, as they are and sorted."""
    shape = served_shape(setting.workload)
    elements = shape.ffn_matrices * ffn_elements(shape) + qkv_elements(shape, 1.0) + 4 * shape.hidden
    return float(2 * engine.step_tokens * elements + 8 * engine.most_sequences * shape.vocab)


def _gathered_B(setting: Deployment, engine: Engine) -> float:
    """Copies of all groups' tokens that each rank has room for, as its experts take them, hold them and give them back.

    Source: TensorRT-LLM 1.0, fused_moe_cutlass.py (moe_max_num_tokens: max_num_tokens x dp_size; evidence: recalled).
    """
    moe, plan = setting.workload.moe, setting.expert_plan
    if moe is None or setting.attention_dp == 1 or not (engine.has.gathers and plan.ep <= moe.experts_per_token):
        return 0.0
    width = setting.workload.ffn_matrices * moe.ffn_hidden * plan.ep / setting.tp
    copies = engine.step_tokens * setting.attention_dp * moe.experts_per_token
    return float(2 * copies * (width + 2 * setting.workload.hidden_dim))
