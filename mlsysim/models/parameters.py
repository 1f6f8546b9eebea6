"""Parameter counts of an architecture: those of its layers, and of the tables at both ends.

Source: Kaplan et al. 2020, arXiv:2001.08361, section 2.1.
"""

from __future__ import annotations

from mlsysim.models.architecture import Architecture
from mlsysim.models.layers import layer_shape, moe_layers
from mlsysim.physics.layer.parameters import norm_parameters, part_parameters
from mlsysim.physics.layer.products import AROUND, DENSE, ROUTED, ROUTER, SHARED


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


def total_parameters(model: Architecture, ffn_width: float) -> float:
    """All parameters of the model; ``ffn_width`` is the width of the dense feed-forward blocks."""
    shape, experts = layer_shape(model, ffn_width), moe_layers(model)
    attention = part_parameters(shape, AROUND)
    total = model.layers * (attention + norm_parameters(shape)) + model.cross_attention_layers * attention
    total += (model.layers - experts) * part_parameters(shape, DENSE) + experts * part_parameters(shape, ROUTED, ROUTER, SHARED)
    return float(total) + embedding_parameters(model) + head_parameters(model)


def active_parameters(model: Architecture, ffn_width: float) -> float:
    """Parameters that one token passes through: all but the experts it is not routed to."""
    total = total_parameters(model, ffn_width)
    if model.moe is None:
        return total
    each = float(part_parameters(layer_shape(model, ffn_width), ROUTED)) / model.moe.experts
    return total - moe_layers(model) * (model.moe.experts - model.moe.experts_per_token) * each


def solved_ffn_width(model: Architecture, parameters: float) -> float:
    """The dense feed-forward width with which the architecture has ``parameters`` (may come out absurd: the caller checks)."""
    least = total_parameters(model, 0.0)
    per_width = total_parameters(model, 1.0) - least
    return (parameters - least) / per_width if per_width else 0.0
