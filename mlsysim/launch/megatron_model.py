"""The model that Megatron's size options describe."""

from __future__ import annotations

import ast
from typing import Any

from mlsysim.core.errors import InputError, MissingArgumentError
from mlsysim.launch.options import Stated
from mlsysim.launch.training_run import registered
from mlsysim.models.architecture import MOST_LAYERS, MOST_WIDE, LatentAttention, MixtureOfExperts, expert_places
from mlsysim.models.types import TransformerWorkload

# Tokenizers whose size is their own, where no option says it: GPT-2's, before padding.
_VOCABULARIES = {"GPT2BPETokenizer": 50257}
# Megatron's defaults of latent attention (megatron/core/transformer/transformer_config.py).
_KV_RANK, _NOPE, _ROPE, _VALUE = 512, 128, 64, 128
_PADDING = 128


def stated_model(stated: Stated, tp: int, name: str, assumed: list[str]) -> TransformerWorkload:
    """The transformer that the options describe, its vocabulary padded for ``tp`` ranks; ``assumed`` tells what is simplified.

    Raises:
        MissingArgumentError: a size without which there is no model.
        InputError: sizes that no model has.

    Example:
        >>> sizes = dict(layers=2, hidden=512, heads=8, positions=1024, vocab=50257)
        >>> model = stated_model(Stated(sizes), 1, "run.sh", [])
        >>> model.ffn_width, model.ffn_matrices, model.tied_embeddings, model.positions, model.vocab_size
        (2048, 2, True, 1024, 50304)
    """
    layers, hidden, heads = (_needed(stated, key, option, name) for key, option in _NEEDED.items())
    if layers > MOST_LAYERS or max(hidden, heads) > MOST_WIDE:
        raise InputError(f"{name}: --num-layers", f"{layers} x {hidden}", "sizes that a model can have")
    gated = bool(stated.get("swiglu"))
    ffn = stated.get("ffn") or (int(4 * hidden * 2 / 3 / 64) * 64 if gated else 4 * hidden)
    # Groups count only with the switch in older releases, and by themselves in newer ones.
    kv_heads = stated.get("groups") or heads
    learned = str(stated.get("position") or "learned_absolute") == "learned_absolute"
    vocab = _vocabulary(stated, name, assumed)
    multiple = (stated.get("multiple") or _PADDING) * tp
    latent = _latent(stated) if stated.get("latent") else None
    fields: dict[str, Any] = {
        "layers": layers,
        "hidden_dim": hidden,
        "heads": heads,
        "kv_heads": heads if latent else kv_heads,
        "head_dim": latent.nope_head_dim + latent.rope_head_dim if latent else stated.get("head_dim"),
        "ffn_hidden": max(1, ffn),
        "ffn_matrices": 3 if gated else 2,
        "vocab_size": -(-vocab // multiple) * multiple,
        "tied_embeddings": not stated.get("untied"),
        "positions": (stated.get("positions") or 0) if learned else 0,
        "bias": not stated.get("no_bias"),
        "qkv_bias": bool(stated.get("qkv_bias")),
        "prediction_layers": min(stated.get("prediction") or 0, MOST_LAYERS),
        "max_seq_len": stated.get("positions") or None,
        "mla": latent,
        "moe": _experts(stated, max(1, ffn), layers, name),
    }
    if fields["head_dim"] is None and hidden % heads:
        raise InputError(f"{name}: --kv-channels", None, f"the width of a head: {hidden} does not divide by {heads}")
    return TransformerWorkload.of_architecture(name=f"{layers} layers of {hidden}", **fields)


_NEEDED = {"layers": "--num-layers", "hidden": "--hidden-size", "heads": "--num-attention-heads"}


def _needed(stated: Stated, key: str, option: str, name: str) -> int:
    value = stated.get(key)
    if not value:
        raise MissingArgumentError(option, None, f"a number, or a model given as workload ({name})")
    return int(value)


def _vocabulary(stated: Stated, name: str, assumed: list[str]) -> int:
    """Rows of the embedding before padding: stated, or those of the tokenizer's model."""
    if stated.get("vocab"):
        return int(stated.get("vocab"))
    tokenizer = registered(str(stated.get("tokenizer_model"))) if stated.get("tokenizer_model") else None
    known = _VOCABULARIES.get(str(stated.get("tokenizer")))
    if tokenizer is not None:
        assumed.append(f"a vocabulary of {tokenizer.vocab_size} tokens, that of {tokenizer.name}")
        return tokenizer.vocab_size
    if known is None:
        raise MissingArgumentError("--vocab-size", None, f"the tokens of the tokenizer: {name} leaves it to its files")
    assumed.append(f"a vocabulary of {known} tokens, that of {stated.get('tokenizer')}")
    return known


def _latent(stated: Stated) -> LatentAttention:
    return LatentAttention(
        kv_lora_rank=stated.get("kv_rank") or _KV_RANK,
        q_lora_rank=stated.get("q_rank") or 0,
        nope_head_dim=stated.get("nope") or _NOPE,
        rope_head_dim=stated.get("rope") or _ROPE,
        v_head_dim=stated.get("value") or _VALUE,
    )


def _experts(stated: Stated, ffn: int, layers: int, name: str) -> MixtureOfExperts | None:
    experts = stated.get("experts") or 0
    if experts < 2:
        return None
    shared = stated.get("shared_ffn") or None
    first, every = _expert_layers(str(stated.get("expert_every") or 1), layers, name)
    return MixtureOfExperts(
        experts=experts,
        experts_per_token=stated.get("per_token") or 2,
        ffn_hidden=stated.get("expert_ffn") or ffn,
        shared_experts=1 if shared else 0,
        shared_ffn_hidden=shared,
        first_dense_layers=first,
        every=every,
    )


def _expert_layers(text: str, layers: int, name: str) -> tuple[int, int]:
    """Leading dense layers and the distance of layers with experts: a number, or a list such as ``([0]*3+[1]*58)``."""
    if text.isdecimal() and len(text) < 6:
        return 0, max(1, int(text))
    marks = _marks(text)
    if len(marks) != layers or 1 not in marks:
        raise InputError(f"{name}: --moe-layer-freq", text, f"a number, or a list of {layers} entries 0 and 1")
    return expert_places([mark == 1 for mark in marks], f"{name}: --moe-layer-freq", text)


def _marks(text: str) -> list[int]:
    """A list of numbers, lists added and lists repeated; empty where it is something else."""
    try:
        return _listed(ast.parse(text[:500].strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _listed(node: ast.AST) -> list[int]:
    if isinstance(node, ast.List):
        return [entry.value for entry in node.elts if isinstance(entry, ast.Constant) and type(entry.value) is int]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        both = _listed(node.left) + _listed(node.right)
        if len(both) <= MOST_LAYERS:
            return both
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and isinstance(node.right, ast.Constant):
        times, inside = node.right.value, _listed(node.left)
        if type(times) is int and 0 <= times <= MOST_LAYERS and len(inside) * times <= MOST_LAYERS:
            return inside * times
    raise ValueError("no list of layers")
