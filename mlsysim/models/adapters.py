"""Which projections of a model have low-rank adapters, as frameworks name them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from mlsysim.core.checks import instance, whole_number
from mlsysim.core.errors import InconsistentError, UnknownNameError
from mlsysim.core.toml import packaged_toml, reads
from mlsysim.models.types import TransformerWorkload, Workload
from mlsysim.physics.layer.adapters import NO_ADAPTERS, Adapters

_ATTENTION = "attention"
_AROUND, _BEFORE = ("query", "key", "value"), ("gate", "up")


def adapters_of(model: Workload, lora_rank: object, lora_targets: object, usual: str = "") -> Adapters:
    """The adapters of a training run; none without a rank.

    Args:
        model: what is trained.
        lora_rank: rank of the adapters, or None.
        lora_targets: names of projections or of sets of them, with commas between; None for the usual ones.
        usual: targets of the software that trains, for models whose attention and feed-forward blocks are plain ones; those
            of attention where it has none.

    Raises:
        InputError: a rank or a target that the model does not have, or targets without a rank.

    Example:
        >>> from mlsysim.models.registry import Models
        >>> adapters_of(Models.Language.Llama3_8B, 8, "q_proj,v_proj")
        Adapters(rank=8.0, qkv=0.8333333333333334, qkv_readers=2.0, output=0.0, up=0.0, up_readers=0.0, down=0.0)
    """
    if lora_rank is None:
        if lora_targets is not None:
            raise InconsistentError("lora_targets", lora_targets, "nothing without lora_rank: no adapters are trained")
        return NO_ADAPTERS
    rank = whole_number("lora_rank", lora_rank)
    if not isinstance(model, TransformerWorkload) or rank > model.hidden_dim:
        raise InconsistentError("lora_rank", rank, f"nothing for {model.name}, or a rank up to the width of its layers")
    if lora_targets is None:
        plain = model.moe is None and model.mla is None
        text = usual if usual and plain else _ATTENTION
    else:
        text = instance("lora_targets", lora_targets, str, 'projections, such as "attention" or "q_proj,v_proj"')
    return _adapters(model, float(rank), text)


def _adapters(model: TransformerWorkload, rank: float, text: str) -> Adapters:
    shape = model.layer_shape
    width = {"query": float(shape.query_width), "key": float(shape.key_width), "value": float(shape.key_width)}
    has = {*_AROUND, "output", "up", "down"} | ({"gate"} if shape.ffn_matrices > 2 else set())
    groups = [[name for name in group if name in has] for group in _targets(text)]
    adapted = [name for group in groups for name in group]
    if not adapted or len(adapted) > len(set(adapted)):
        raise InconsistentError("lora_targets", text, f"projections of {model.name}, each once")
    if model.moe is not None and not {"gate", "up", "down"}.isdisjoint(adapted):
        raise InconsistentError(
            "lora_targets", text, f"those of attention: adapters of the experts of {model.name} are not modelled"
        )
    around = [name for name in _AROUND if name in adapted]
    if model.mla is not None and around and len(around) < len(_AROUND):
        raise InconsistentError(
            "lora_targets", text, f"all of queries, keys and values, which {model.name} compresses together"
        )
    before = [name for name in _BEFORE if name in adapted]
    return Adapters(
        rank=rank,
        qkv=sum(width[name] for name in around) / sum(width.values()),
        qkv_readers=_readers(groups, around),
        output=float("output" in adapted),
        up=len(before) / (float(shape.ffn_matrices) - 1),
        up_readers=_readers(groups, before),
        down=float("down" in adapted),
    )


def _readers(groups: Sequence[Sequence[str]], projections: Sequence[str]) -> float:
    return float(sum(any(name in projections for name in group) for group in groups))


def _targets(text: str) -> list[list[str]]:
    """The projections of each adapter that ``text`` names."""
    file = _file()
    targets: dict[str, list[str]] = {name: parts for name, parts in file["target"].items() if name != "source"}
    named = [name.strip().lower() for name in text.split(",")]
    for name in named:
        if name not in targets and name not in file["set"]:
            raise UnknownNameError.among("lora_targets", name, (*file["set"], *targets))
    single = [one for name in named for one in (file["set"][name]["targets"] if name in file["set"] else [name])]
    return [targets[name] for name in single]


@functools.cache
@reads("models", "adapters.toml")
def _file() -> dict[str, Any]:
    return packaged_toml("models", "adapters.toml")
