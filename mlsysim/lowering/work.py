"""From typed workloads and systems to the plain numbers of physics."""

from __future__ import annotations

from dataclasses import replace

from mlsysim.core.errors import InputError
from mlsysim.core.identity_cache import identity_cache
from mlsysim.core.precision import bytes_per_element
from mlsysim.models import parameters as counting
from mlsysim.models.types import CNNWorkload, TransformerWorkload, Workload
from mlsysim.physics.layer.latent_attention import NO_LATENT, LatentShape
from mlsysim.physics.layer.work import LayeredWork, attended_tokens, attention_flops
from mlsysim.physics.serving.deployment import ServingShape
from mlsysim.physics.serving.inference import InferenceWork

# Activations and their copies in the residual stream are 16-bit in every training precision here.
_ACTIVATION_B = 2.0


def training_work(workload: Workload, seq_len: int, lora_rank: int = 0) -> LayeredWork:
    """``workload`` lowered for training at ``seq_len`` (images have none); with ``lora_rank``, of adapters alone."""
    if isinstance(workload, TransformerWorkload):
        work = _transformer_work(workload, seq_len)
        return _frozen(work, workload, lora_rank) if lora_rank else work
    if isinstance(workload, CNNWorkload):
        return _counted_work(workload)
    raise InputError("workload", workload.name, f"a transformer or a network of known FLOP, not {type(workload).__name__}")


@identity_cache()
def _transformer_work(model: TransformerWorkload, seq_len: int) -> LayeredWork:
    h, layers = float(model.hidden_dim), float(model.layers)
    expert_layers = counting.moe_layers(model)
    ffn, routed, active_width = 0.0, 0.0, 0.0
    if model.moe is not None:
        moe = model.moe
        routed = expert_layers * moe.experts * counting.ffn_parameters(model, moe.ffn_hidden) / layers
        active_width = moe.experts_per_token * moe.ffn_hidden + moe.shared_width
        ffn = expert_layers * (counting.ffn_parameters(model, moe.shared_width) + h * moe.experts)
    ffn += (layers - expert_layers) * counting.ffn_parameters(model, model.ffn_width)
    attention = counting.attention_parameters(model) * (1 + model.cross_attention_layers / layers)
    width = (expert_layers * active_width + (layers - expert_layers) * model.ffn_width) / layers
    embedding, head = counting.embedding_parameters(model), float(counting.embedding_width(model) * model.vocab_size)
    active = (model.active_parameters - embedding - counting.head_parameters(model)) / layers
    qk, v = _attention_head_dims(model)
    scores = attention_flops(model.heads, qk, v, 1.0)
    # Kept for the backward pass, 16-bit each: Q, K, V and the attention output; the pre-activations (gate and up where
    # gated) and their product; at each of the two norms its input and its output.
    attention_split = model.heads * (qk + v) + (model.heads if model.mla else model.kv_head_count) * (qk + v)
    # Selective recomputation expands compressed keys, values and queries again, and keeps the attention output beside them.
    selective_split, latent = float(attention_split), 0.0
    if model.mla is not None:
        selective_split = model.heads * v
        latent = float(model.mla.q_lora_rank + model.mla.kv_lora_rank + model.mla.rope_head_dim)
    ffn_split = (model.ffn_matrices - 1) * width
    copies = float(model.moe.experts_per_token) * expert_layers / layers if model.moe else 0.0
    # Layers that predict further tokens: like the last ones, each with a projection of two vectors and a pass of the head.
    further = float(model.prediction_layers)
    projection = 2 * h * h * further
    dispatched = 2 * copies * h  # each copy of a token, as its expert takes it and as it gives it back
    return LayeredWork(
        layers=layers + further,
        tokens_per_sample=float(seq_len),
        matmul_flops=2.0 * active,
        attention_flops=float(scores * keys_seen(model, seq_len, model.causal)),
        full_attention_flops=float(scores * keys_seen(model, seq_len, causal=False)),
        head_flops=2.0 * (head * (1 + further) + projection),
        layer_parameters=attention + ffn / layers + 2 * h,
        expert_parameters=routed,
        embedding_parameters=embedding,
        head_parameters=head,
        tied_parameters=head if model.tied_embeddings else 0.0,
        kept_split_B=_ACTIVATION_B * (attention_split + ffn_split + width),
        kept_residual_B=_ACTIVATION_B * (4 * h + dispatched),
        selective_split_B=_ACTIVATION_B * (selective_split + ffn_split),
        selective_residual_B=_ACTIVATION_B * (2 * h + latent + dispatched),
        boundary_B=_ACTIVATION_B * h,
        logits=float(model.vocab_size) * (1 + further),
        ffn_elements=float(width),
        scores=float(model.heads * seq_len),
        routed_copies=copies,
        reductions=_reductions(model),
        key_value_B=_ACTIVATION_B * _ring_width(model),
    )


def _ring_width(model: TransformerWorkload) -> float:
    """Elements of one token's keys and values as attention kernels take them."""
    qk, v = _attention_head_dims(model)
    heads = model.heads if model.mla is not None else model.kv_head_count
    return float(heads * (qk + v))


def _frozen(work: LayeredWork, model: TransformerWorkload, rank: int) -> LayeredWork:
    """``work`` with frozen weights, and adapters beside the products of attention (q, k, v; output).

    A frozen product keeps no input for its weight gradient: those of the feed-forward block go (the norm's output before it,
    the activation function's after it).
    """
    qk, v = _attention_head_dims(model)
    heads, keys, h = model.heads, model.heads if model.mla is not None else model.kv_head_count, model.hidden_dim
    width = heads * qk + keys * (qk + v)
    unkept = _ACTIVATION_B * work.ffn_elements
    return replace(
        work,
        frozen=1.0,
        adapter_parameters=float(rank * (h + width + heads * v + h)),
        kept_split_B=work.kept_split_B - unkept,
        kept_residual_B=work.kept_residual_B - _ACTIVATION_B * h,
    )


def _counted_work(model: CNNWorkload) -> LayeredWork:
    """One layer, one "token" a sample. Unknown activations count as none: the solver says so."""
    kept = 0.0 if model.activations is None else _ACTIVATION_B * float(model.activations.m_as("count"))
    return LayeredWork(
        layers=1.0,
        tokens_per_sample=1.0,
        matmul_flops=model.forward_flops,
        attention_flops=0.0,
        full_attention_flops=0.0,
        head_flops=0.0,
        layer_parameters=model.parameter_count,
        expert_parameters=0.0,
        embedding_parameters=0.0,
        head_parameters=0.0,
        tied_parameters=0.0,
        kept_split_B=kept,
        kept_residual_B=0.0,
        selective_split_B=kept,
        selective_residual_B=0.0,
        boundary_B=kept,
        logits=0.0,
        ffn_elements=0.0,
        scores=0.0,
        routed_copies=0.0,
        reductions=0.0,
    )


def _cached_head_dims(model: TransformerWorkload) -> tuple[float, float]:
    """Head widths in a decode step, which absorbs the up-projections of latent attention (DeepSeek-V2 2024, section 2.1.2)."""
    if model.mla is not None:
        return float(model.mla.kv_lora_rank + model.mla.rope_head_dim), float(model.mla.kv_lora_rank)
    return _attention_head_dims(model)


def _attention_head_dims(model: TransformerWorkload) -> tuple[float, float]:
    """Head widths of queries and keys, and of values."""
    if model.mla is not None:
        return float(model.mla.nope_head_dim + model.mla.rope_head_dim), float(model.mla.v_head_dim)
    return float(model.head_width), float(model.head_width)


def latent_shape(model: TransformerWorkload) -> LatentShape:
    """Ranks and head widths of the model's latent attention; of another, none.

    Example:
        >>> from mlsysim.models.registry import Models
        >>> latent_shape(Models.get("deepseek_v3")).key_rank, latent_shape(Models.Language.Llama3_8B).used
        (512.0, False)
    """
    mla = model.mla
    if mla is None:
        return NO_LATENT
    dims = (mla.q_lora_rank, mla.kv_lora_rank, mla.nope_head_dim, mla.rope_head_dim, mla.v_head_dim)
    return LatentShape(*(float(size) for size in dims))


def keys_seen(model: TransformerWorkload, seq_len: int, causal: bool) -> float:
    """Keys that a query of a ``seq_len``-token pass sees, mean over its positions and over the layers (windowed ones see less).

    Example:
        >>> llama = TransformerWorkload(name="Llama", parameters="7e9 count", layers=32, hidden_dim=4096, heads=32)
        >>> keys_seen(llama, 4096, causal=True)
        2048.0
    """
    windowed = model.windowed_layers / model.layers
    everywhere = attended_tokens(seq_len, causal, None)
    return (1 - windowed) * everywhere + windowed * attended_tokens(seq_len, causal, model.sliding_window)


def cached_tokens(model: TransformerWorkload, context: float) -> float:
    """Tokens of a ``context`` whose keys and values are kept and read, mean over the layers (windowed ones keep the window).

    Example:
        >>> llama = TransformerWorkload(name="Llama", parameters="7e9 count", layers=32, hidden_dim=4096, heads=32)
        >>> cached_tokens(llama, 1024)
        1024.0
    """
    windowed = model.windowed_layers / model.layers
    return (1 - windowed) * context + windowed * min(context, model.sliding_window or context)


def kv_elements(model: TransformerWorkload) -> float:
    """Elements that one token leaves in the KV cache, all layers: 2 L kv_heads d, or L (rank + rope) for latent attention.

    Example:
        >>> llama = TransformerWorkload(
        ...     name="Llama-2 70B", parameters="69e9 count", layers=80, hidden_dim=8192, heads=64, kv_heads=8
        ... )
        >>> kv_elements(llama)
        163840.0
    """
    if model.mla is not None:
        return float(model.layers * (model.mla.kv_lora_rank + model.mla.rope_head_dim))
    return 2.0 * model.layers * model.kv_head_count * model.head_width


@identity_cache()
def inference_work(model: TransformerWorkload, weights: str, cache: str, experts: str = "") -> InferenceWork:
    """``model`` lowered for inference, with weights and cache in these number formats; the published count of weights holds.

    ``experts``: the number format of routed experts, where it is another.
    """
    weight_B = bytes_per_element(weights)
    expert_B = bytes_per_element(experts or weights)
    embedding, head = counting.embedding_parameters(model), counting.head_parameters(model)
    routed = 0.0
    if model.moe is not None:
        routed = counting.moe_layers(model) * model.moe.experts * counting.ffn_parameters(model, model.moe.ffn_hidden)
    qk, v = _attention_head_dims(model)
    read = model.parameter_count - routed - (0.0 if model.tied_embeddings else embedding)
    return InferenceWork(
        layers=float(model.layers),
        matmul_flops=2.0 * (model.active_parameters - embedding - head),
        attention_flops_per_key=model.layers * float(attention_flops(model.heads, qk, v, 1.0)),
        decode_flops_per_key=model.layers * float(attention_flops(model.heads, *_cached_head_dims(model), 1.0)),
        head_flops=2.0 * model.hidden_dim * model.vocab_size,
        resident_B=weight_B * (model.parameter_count - routed) + expert_B * routed,
        always_read_B=weight_B * read,
        expert_B=expert_B * routed,
        experts=float(model.moe.experts) if model.moe else 1.0,
        experts_per_token=float(model.moe.experts_per_token) if model.moe else 1.0,
        kv_B=bytes_per_element(cache) * kv_elements(model),
        residual_B=_ACTIVATION_B * model.hidden_dim,
        reductions=_reductions(model),
    )


def _reductions(model: TransformerWorkload) -> float:
    """All-reduces of a layer's forward pass: after attention and after the feed-forward block, one where they are parallel."""
    return 1.0 if model.parallel_block else 2.0


@identity_cache()
def serving_shape(workload: TransformerWorkload) -> ServingShape:
    """``workload`` as its kernels see it.

    Example:
        >>> from mlsysim.models.registry import Models
        >>> shape = serving_shape(Models.Language.Llama2_70B)
        >>> shape.qkv_width, shape.kv_heads, shape.dense
        (10240.0, 8.0, 1.0)
    """
    h = float(workload.hidden_dim)
    moe, mla = workload.moe, workload.mla
    expert_layers = counting.moe_layers(workload)
    width = float(workload.heads * workload.head_width)
    key_width = float(workload.kv_head_count * workload.head_width)
    qkv_width, output_width, head_dim = width + 2 * key_width, width, float(workload.head_width)
    kv_heads = cached_heads = float(workload.kv_head_count)
    cached_dim = head_dim
    if mla is not None:
        output_width = float(workload.heads * mla.v_head_dim)
        qkv_width = counting.attention_parameters(workload) / h - output_width
        head_dim = (mla.nope_head_dim + mla.rope_head_dim + mla.v_head_dim) / 2
        kv_heads, cached_heads, key_width = float(workload.heads), 1.0, 0.0
        # The cache holds one vector a token where attention elsewhere holds a key and a value.
        cached_dim = (mla.kv_lora_rank + mla.rope_head_dim) / 2
    return ServingShape(
        layers=float(workload.layers),
        hidden=h,
        qkv_width=qkv_width,
        key_width=key_width,
        attention_width=output_width,
        heads=float(workload.heads),
        kv_heads=kv_heads,
        head_dim=head_dim,
        cached_heads=cached_heads,
        cached_dim=cached_dim,
        window=float(workload.sliding_window or 0),
        windowed=workload.windowed_layers / workload.layers,
        ffn=float(workload.ffn_width) if expert_layers < workload.layers else 0.0,
        ffn_matrices=float(workload.ffn_matrices),
        dense=1 - expert_layers / workload.layers,
        experts=float(moe.experts) if moe else 1.0,
        experts_per_token=float(moe.experts_per_token) if moe else 1.0,
        expert_ffn=float(moe.ffn_hidden) if moe else 0.0,
        shared_ffn=float(moe.shared_width) if moe else 0.0,
        vocab=float(workload.vocab_size) if workload.causal else 0.0,
        reductions=1.0 if workload.parallel_block else 2.0,
        latent=latent_shape(workload),
    )
