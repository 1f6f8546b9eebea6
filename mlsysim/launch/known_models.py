"""The registry's entry that has the same architecture as a model from elsewhere."""

from __future__ import annotations

from typing import Any

from mlsysim.models.registry import Models
from mlsysim.models.types import TransformerWorkload

# What two architectures are compared by; lengths, biases and positions change less than a thousandth of a step.
_COMPARED = (
    *("layers", "hidden_dim", "heads", "kv_head_count", "head_width", "ffn_matrices"),
    *("sliding_window", "full_attention_every", "causal", "cross_attention_layers"),
)
# Of a vocabulary that files of training pad or leave to a tokenizer: nearer ones are of one model.
_PADDED = 0.05


def like_registered(model: TransformerWorkload, vocabulary: bool = True) -> tuple[str, TransformerWorkload | None]:
    """The symbol and the entry of the registry with this architecture; an empty symbol and None where there is none.

    The vocabulary must be the same, or, as scripts of training pad it, without ``vocabulary`` only near it.

    Example:
        >>> symbol, entry = like_registered(Models.Language.Qwen3_32B.model_copy(update={"name": "mine"}))
        >>> symbol, entry is Models.Language.Qwen3_32B
        ('Qwen3_32B', True)
    """
    wanted = _compared(model)
    named = Models.Language.find(model.name)
    if named is not None and _compared(named) == wanted and _distance(named, model) == (False, 0):
        return Models.Language.spellings()[Models.Language.id_of(model.name)][1], named
    alike = [
        (_distance(entry, model), entry.weight_format != model.weight_format, symbol, entry)
        for symbol, entry in zip(Models.Language.names(), Models.Language, strict=True)
        if entry.layers == model.layers and entry.hidden_dim == model.hidden_dim and _compared(entry) == wanted
    ]
    if not alike:
        return "", None
    (tied_apart, apart), _, symbol, entry = min(alike, key=lambda one: one[:2])
    same = not tied_apart and apart <= (0 if vocabulary else _PADDED * model.vocab_size)
    return (symbol, entry) if same else ("", None)


def _distance(entry: TransformerWorkload, model: TransformerWorkload) -> tuple[bool, int]:
    return entry.tied_embeddings != model.tied_embeddings, abs(entry.vocab_size - model.vocab_size)


def _compared(model: TransformerWorkload) -> tuple[Any, ...]:
    sizes = tuple(getattr(model, name) for name in _COMPARED)
    moe, latent = model.moe, model.mla
    experts = moe and (moe.experts, moe.experts_per_token, moe.ffn_hidden, moe.shared_width, moe.first_dense_layers, moe.every)
    all_experts = moe is not None and not moe.first_dense_layers and moe.every == 1
    return (*sizes, 0 if all_experts else model.ffn_width, experts, latent)
