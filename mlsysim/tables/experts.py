"""The model with experts that a row of a table describes.

Tables carry layers, widths, experts and how many of them a token visits, but neither ranks of latent attention nor shared
experts, dense first layers or windows. Where the registry knows the model by its name, and agrees with the row's cells, it has
them. Else they are inferred: ``ffn_hidden`` is the width of one expert, and ``params_b`` and ``active_params_b`` say how many
shared experts of that width there are, and whether matrices are gated and embeddings tied; a width that the row leaves out is
the one that gives ``params_b``.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

from mlsysim.core.errors import InputError
from mlsysim.core.names import folded
from mlsysim.models.parameters import active_parameters, total_parameters
from mlsysim.models.types import MixtureOfExperts, TransformerWorkload
from mlsysim.tables.names import PARAMETERS_TOLERANCE, begun_model, registered_model

_MOST_SHARED = 8


@functools.lru_cache(maxsize=4096)
def expert_workload(
    name: str,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    expert_ffn: int,
    vocab: int,
    experts: int,
    per_token: int,
    billions: float,
    active_billions: float,
    head_dim: int = 0,
) -> TransformerWorkload:
    """The registry's model of this name where it agrees with the row, else one inferred from the row (0: not given).

    Raises:
        InputError: no architecture of these cells has the row's parameters.

    Example:
        >>> deepseek = expert_workload("DeepSeek-V3 671B", 61, 7168, 128, 128, 2048, 129280, 256, 8, 671.0, 37.0)
        >>> deepseek.name, deepseek.mla.kv_lora_rank
        ('DeepSeek-V3 / R1', 512)
        >>> unknown = expert_workload("in-house", 28, 3584, 28, 4, 2560, 151936, 64, 8, 57.4, 14.2)
        >>> unknown.moe.shared_experts, unknown.ffn_matrices
        (8, 3)
    """
    model = registered_model(name) or begun_model(name)
    if model is not None and _agrees(model, layers, hidden, experts, per_token, head_dim):
        return model.model_copy(update={"prediction_layers": 0}) if "womtp" in folded(name) else model
    fields: dict[str, Any] = {
        "name": name,
        "architecture": "MixtureOfExperts",
        "layers": layers,
        "hidden_dim": hidden,
        "heads": heads,
        "kv_heads": kv_heads,
        "vocab_size": vocab,
    } | ({"head_dim": head_dim} if head_dim else {})
    published = (billions * 1e9, active_billions * 1e9)
    kinds = [
        _kind(fields, experts, per_token, expert_ffn, published[0], *choice)
        for choice in itertools.product((3, 2) if expert_ffn else (3,), range(_MOST_SHARED + 1), (False, True))
    ]
    kind = min(kinds, key=lambda kind: sum(_misses(fields | kind, published))) if any(published) else kinds[0]
    misses = _misses(fields | kind, published)
    if max(misses) > PARAMETERS_TOLERANCE:
        counted = f"{billions or active_billions:g}"
        expected = f"within {PARAMETERS_TOLERANCE:.0%} of what {experts} experts of width {expert_ffn} have"
        raise InputError("params_b", counted, expected)
    return TransformerWorkload.of_architecture(**fields | kind)


def _kind(
    fields: dict[str, Any], experts: int, per_token: int, width: int, parameters: float, matrices: int, shared: int, tied: bool
) -> dict[str, Any]:
    """One way to read the row; a width that it leaves out (0) is the one with which all parameters come out."""
    kind = {"ffn_matrices": matrices, "tied_embeddings": tied}

    def of_width(each: int) -> dict[str, Any]:
        moe = MixtureOfExperts(experts=experts, experts_per_token=per_token, ffn_hidden=each, shared_experts=shared)
        return kind | {"moe": moe, "ffn_hidden": each}

    if width or not parameters:
        return of_width(width or 4 * int(fields["hidden_dim"]))
    least, more = (total_parameters(TransformerWorkload.model_construct(**fields | of_width(each)), 0.0) for each in (1, 2))
    return of_width(max(1, round(1 + (parameters - least) / (more - least))))


def _misses(fields: dict[str, Any], published: tuple[float, float]) -> tuple[float, float]:
    """The relative differences of all and of active parameters from the published ones."""
    model = TransformerWorkload.model_construct(**fields)
    width = fields["ffn_hidden"]
    counted = (total_parameters(model, width), active_parameters(model, width))
    all_miss, active_miss = (abs(count / given - 1) if given else 0.0 for count, given in zip(counted, published, strict=True))
    return all_miss, active_miss


def _agrees(model: TransformerWorkload, layers: int, hidden: int, experts: int, per_token: int, head_dim: int) -> bool:
    """True of the row's layers and experts, and of its heads' width where it says one; latent heads have several."""
    moe = model.moe
    if head_dim and model.mla is None and head_dim != model.head_width:
        return False
    shape = (model.layers, model.hidden_dim, moe.experts if moe else 0, moe.experts_per_token if moe else 0)
    return shape == (layers, hidden, experts, per_token)
