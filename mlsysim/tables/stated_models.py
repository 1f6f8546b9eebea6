"""The transformer that the columns of a row describe, where the row has no name that the registry knows.

A column that is left out follows from the published count of parameters: layers, a multiple of the pipeline's stages; the width
of a feed-forward block that is not four times the hidden one; the hidden width, that of the registered model nearest in size.
Heads are those of registered models of the same width, else as near to the usual width as the plan allows.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mlsysim.core.errors import InconsistentError
from mlsysim.models.parameters import embedding_parameters, head_parameters, total_parameters
from mlsysim.models.registry import Models
from mlsysim.models.types import TransformerWorkload
from mlsysim.tables.cells import cell_text, number_cell, whole_cell
from mlsysim.tables.experts import expert_workload
from mlsysim.tables.facts import facts
from mlsysim.tables.names import PARAMETERS_TOLERANCE, untold_fields

# Counts of parameters nearer than this are of one architecture; nominal ones ("16B") are seldom further off.
_CLOSE = 0.04
_HEAD_WIDTH = 128
_HEAD_WIDTHS = (128, 256)
_FFN_STEP = 64
_VOCABULARY = 51200


def stated_workload(row: Mapping[str, str], tp: int = 1, pp: int = 1) -> TransformerWorkload:
    """The transformer that the row's columns describe, dense or of experts.

    Of ``layers``, ``heads`` and ``ffn_hidden`` those that are empty follow from the others: ``tp`` ranks share the heads,
    ``pp`` stages the layers.

    Raises:
        InputError: a cell that is needed is empty or no number.
        InconsistentError: no such layers have the row's parameters.

    Example:
        >>> bloom = stated_workload({"model": "tuning", "hidden": "14400", "params_b": "194"}, tp=8, pp=6)
        >>> bloom.layers, bloom.heads, bloom.ffn_width
        (78, 96, 57600)
    """
    hidden = whole_cell(row, "hidden", _hidden_of_size(cell_text(row, "model"), number_cell(row, "params_b", 0.0)))
    heads = whole_cell(row, "heads", 0) or usual_heads(hidden, tp)
    name, kv_heads = row.get("model") or "model", whole_cell(row, "kv_heads", heads)
    vocab, billions = whole_cell(row, "vocab", _VOCABULARY), number_cell(row, "params_b", 0.0)
    if whole_cell(row, "experts", 1) == 1:
        ffn = whole_cell(row, "ffn_hidden", 0)
        layers = _layers(row, hidden, ffn or 4 * hidden, vocab, pp)
        built = built_workload(name, layers, hidden, heads, kv_heads, ffn, vocab, billions)
        return _check_parameters(built, billions) if billions and ffn else built
    experts = whole_cell(row, "experts"), whole_cell(row, "experts_topk")
    ffn, active = whole_cell(row, "ffn_hidden", 0), number_cell(row, "active_params_b", 0.0)
    layers = whole_cell(row, "layers")
    return expert_workload(
        name, layers, hidden, heads, kv_heads, ffn, vocab, *experts, billions, active, whole_cell(row, "head_dim", 0)
    )


@functools.cache
def _registered_shapes() -> tuple[tuple[int, int, float], ...]:
    """Hidden width, heads, and parameters of the registered decoders without experts."""
    models = (model for model in Models.Language if isinstance(model, TransformerWorkload) and model.moe is None)
    return tuple((model.hidden_dim, model.heads, model.parameter_count) for model in models if model.causal)


@functools.lru_cache(maxsize=256)
def _hidden_of_size(name: str, billions: float) -> int | None:
    """Hidden width of the registered decoder nearest in size, if it is near; None of other models, or without a size."""
    if not billions or any(word in name for word in facts("training.toml")["other_shapes"]["words"]):
        return None
    hidden, _, parameters = min(_registered_shapes(), key=lambda shape: abs(math.log(shape[2] / 1e9 / billions)))
    return hidden if abs(parameters / 1e9 / billions - 1) < PARAMETERS_TOLERANCE else None


@functools.lru_cache(maxsize=256)
def usual_heads(hidden: int, tp: int = 1) -> int:
    """The number of heads that most registered models of this width have, if TP divides it.

    Else that of the usual width of a head, or as near to it as a number can be that divides the width and that TP divides.

    Example:
        >>> usual_heads(4096), usual_heads(14400, 8), usual_heads(15360, 8), usual_heads(2560)
        (32, 96, 120, 32)
    """
    registered = Counter(heads for width, heads, _ in _registered_shapes() if width == hidden and heads % tp == 0)
    if registered:
        return registered.most_common(1)[0][0]
    ranks = tp if hidden % tp == 0 else 1
    counts = [count for count in range(ranks, hidden + 1, ranks) if hidden % count == 0]
    return min(counts, key=lambda count: abs(count - hidden / _HEAD_WIDTH))


def _layers(row: Mapping[str, str], hidden: int, ffn: int, vocab: int, pp: int) -> int:
    """The row's layers; one that leaves them out and has a count of parameters has as many plain ones as these make."""
    billions = number_cell(row, "params_b", 0.0)
    if cell_text(row, "layers") or not billions:
        return whole_cell(row, "layers")
    each = 4 * hidden * hidden + 2 * hidden * ffn
    return max(1, round((billions * 1e9 - vocab * hidden) / each / pp)) * pp


@functools.lru_cache(maxsize=4096)
def built_workload(
    name: str, layers: int, hidden: int, heads: int, kv_heads: int, ffn: int, vocab: int, published_billions: float
) -> TransformerWorkload:
    """Gated or not, tied or not: tables do not say, the published count does; without one it is a plain GPT.

    A width of 0 is four times the hidden one of a plain block, or that of a gated one with which the count comes out. A model
    that the registry knows, of the same size, is built as it says there.
    """
    size = {"layers": layers, "hidden_dim": hidden, "heads": heads, "kv_heads": kv_heads}
    known = untold_fields(name, size | ({"ffn_hidden": ffn} if ffn else {}))
    fields: dict[str, Any] = {"name": name, "architecture": "Transformer", "vocab_size": vocab} | size
    fields |= {"ffn_hidden": ffn or 4 * hidden} | known
    matrices = (known["ffn_matrices"],) if known else (2, 3)
    kinds: list[dict[str, Any]] = [
        {"ffn_matrices": count, "tied_embeddings": tied} for count in matrices for tied in (True, False)
    ]

    def miss(kind: dict[str, Any]) -> float:
        return abs(_counted(fields | kind) / (published_billions * 1e9) - 1)

    kind = min(kinds, key=miss) if published_billions else kinds[0]
    if published_billions and not known and miss(kind) > _CLOSE:
        if ffn:
            # The heads of a row that states the block's width may together be wider than the hidden size.
            wider = min((other | {"head_dim": width} for other in kinds for width in _HEAD_WIDTHS), key=miss)
            kind = wider if miss(wider) < _CLOSE / 2 else kind
        else:
            gated = (_gated(fields | {"tied_embeddings": tied}, published_billions) for tied in (True, False))
            kind = min((kind, *gated), key=miss)
    return TransformerWorkload.of_architecture(**(fields | kind))


def _gated(fields: dict[str, Any], published_billions: float) -> dict[str, Any]:
    """A gated block as wide as the count of parameters says, a multiple of what kernels like."""
    gated = {"ffn_matrices": 3, "tied_embeddings": fields["tied_embeddings"]}
    least, more = (_counted(fields | gated | {"ffn_hidden": width}) for width in (1, 2))
    width = 1 + (published_billions * 1e9 - least) / (more - least)
    return gated | {"ffn_hidden": max(1, round(width / _FFN_STEP)) * _FFN_STEP}


def _counted(fields: dict[str, Any]) -> float:
    return total_parameters(TransformerWorkload.model_construct(**fields), fields["ffn_hidden"])


def _check_parameters(model: TransformerWorkload, published_billions: float) -> TransformerWorkload:
    """Refuse a model whose layers have other parameters than the row says, counted with or without the token embeddings."""
    tables = embedding_parameters(model) + head_parameters(model)
    counts = (model.parameter_count, model.parameter_count - tables)
    if min(abs(count / (published_billions * 1e9) - 1) for count in counts) > PARAMETERS_TOLERANCE:
        size = f"{model.layers} layers of hidden {model.hidden_dim} and ffn_hidden {model.ffn_width}"
        expected = f"within {PARAMETERS_TOLERANCE:.0%} of the {model.parameter_count / 1e9:.3g} of {size}"
        raise InconsistentError("params_b", f"{published_billions:g}", expected)
    return model
