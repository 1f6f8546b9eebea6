"""Parameter counts of an architecture: matrices counted, biases and norms as far as they matter.

Sources: Kaplan et al. 2020 section 2.1 (dense), DeepSeek-V2 section 2.1 (multi-head latent attention).
"""

from __future__ import annotations

from mlsysim.models.architecture import Architecture


def attention_parameters(model: Architecture) -> float:
    """Weights of one attention block: Q, K, V and output projections (compressed ones for MLA), their biases."""
    h, heads = model.hidden_dim, model.heads
    if model.mla is not None:
        mla = model.mla
        query_width = heads * (mla.nope_head_dim + mla.rope_head_dim)
        query = h * mla.q_lora_rank + mla.q_lora_rank * query_width if mla.q_lora_rank else h * query_width
        down = h * (mla.kv_lora_rank + mla.rope_head_dim)
        up = mla.kv_lora_rank * heads * (mla.nope_head_dim + mla.v_head_dim)
        return float(query + down + up + heads * mla.v_head_dim * h)
    query_width, kv_width = heads * model.head_width, model.kv_head_count * model.head_width
    weights = h * query_width + 2 * h * kv_width + query_width * h
    bias = (query_width + 2 * kv_width) * (model.bias or model.qkv_bias) + h * model.bias
    return float(weights + bias + (h * query_width if model.relative_positions else 0))


def ffn_parameters(model: Architecture, width: float) -> float:
    """Weights of one feed-forward block of ``width``: two matrices, or three with a gate (SwiGLU, GeGLU)."""
    bias = ((model.ffn_matrices - 1) * width + model.hidden_dim) * model.bias
    return model.ffn_matrices * model.hidden_dim * width + bias


def embedding_parameters(model: Architecture) -> float:
    """Weights of token and learned position embeddings, and of projections where token embeddings are narrower."""
    width = embedding_width(model)
    projections = 2 * width * model.hidden_dim if width != model.hidden_dim else 0
    return float(width * model.vocab_size + projections + model.hidden_dim * model.positions)


def embedding_width(model: Architecture) -> int:
    """Elements of a token embedding."""
    return model.hidden_dim if model.embedding_dim is None else model.embedding_dim


def head_parameters(model: Architecture) -> float:
    """Weights of the output head (none where it is tied to the embedding, or where there is no vocabulary)."""
    return 0.0 if model.tied_embeddings else float(embedding_width(model) * model.vocab_size)


def moe_layers(model: Architecture) -> int:
    """The number of layers that have experts."""
    if model.moe is None:
        return 0
    return (model.layers - model.moe.first_dense_layers) // model.moe.every


def total_parameters(model: Architecture, ffn_width: float) -> float:
    """All parameters of the model; ``ffn_width`` is the width of the dense feed-forward blocks."""
    h, experts = model.hidden_dim, moe_layers(model)
    total = model.layers * (attention_parameters(model) + 2 * h) + model.cross_attention_layers * attention_parameters(model)
    total += (model.layers - experts) * ffn_parameters(model, ffn_width)
    if model.moe is not None:
        routed = model.moe.experts * ffn_parameters(model, model.moe.ffn_hidden) + h * model.moe.experts
        total += experts * (routed + ffn_parameters(model, model.moe.shared_width))
    return total + embedding_parameters(model) + head_parameters(model)


def active_parameters(model: Architecture, ffn_width: float) -> float:
    """Parameters that one token passes through: all but the experts it is not routed to."""
    if model.moe is None:
        return total_parameters(model, ffn_width)
    idle = model.moe.experts - model.moe.experts_per_token
    return total_parameters(model, ffn_width) - moe_layers(model) * idle * ffn_parameters(model, model.moe.ffn_hidden)


def solved_ffn_width(model: Architecture, parameters: float) -> float:
    """The dense feed-forward width with which the architecture has ``parameters`` (may come out absurd: the caller checks)."""
    dense = model.layers - moe_layers(model)
    other_parameters = total_parameters(model, 0.0)
    per_width = dense * (ffn_parameters(model, 1.0) - ffn_parameters(model, 0.0))
    return (parameters - other_parameters) / per_width if per_width else 0.0
