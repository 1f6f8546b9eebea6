"""Which registered model a table means by a name: where its columns leave out the architecture, or have no column for it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from mlsysim.core.errors import InconsistentError, InputError, nearest
from mlsysim.models.registry import Models
from mlsysim.models.types import TransformerWorkload

# Columns without which a transformer cannot be built, and what the registry calls them.
_NEEDED = {"layers": "layers", "hidden": "hidden_dim", "heads": "heads"}
# What tables have no column for.
_UNTOLD = ("head_dim", "ffn_matrices", "parallel_block", "sliding_window", "full_attention_every")


def named_model(row: Mapping[str, str]) -> TransformerWorkload | None:
    """The registered model that ``row`` names, if its own columns leave out what builds one; None if they do not.

    Raises:
        InputError: columns are left out, and no transformer of the registry has this name.
        InconsistentError: a column that is there contradicts the registry.

    Example:
        >>> named_model({"model": "Llama-3.1-70B"}).hidden_dim
        8192
        >>> named_model({"model": "mine", "layers": "2", "hidden": "64", "heads": "2"}) is None
        True
    """
    missing = [column for column in _NEEDED if not str(row.get(column) or "").strip()]
    if not missing:
        return None
    text = str(row.get("model") or "").strip()
    entry = _registered().get(_folded(text))
    if entry is None:
        hint = nearest(text, _registered()) if text else None
        raise InputError(missing[0], "", "a number: the row leaves it out, and no registered model has its name", hint)
    found: TransformerWorkload = Models.Language.get(entry)
    for column, field in _NEEDED.items():
        if column not in missing and str(row[column]).strip().removesuffix(".0") != str(getattr(found, field)):
            raise InconsistentError(
                column, row[column], f"the {getattr(found, field)} of {found.name}, or all of {', '.join(_NEEDED)}"
            )
    return found


def untold_fields(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What tables of runs have no column for, of the registered dense model ``name``; empty if ``fields`` are not its own.

    Example:
        >>> palm = {"layers": 118, "hidden_dim": 18432, "heads": 48, "kv_heads": 1, "ffn_hidden": 73728}
        >>> untold_fields("PaLM 540B", palm)["parallel_block"]
        True
        >>> untold_fields("PaLM 540B", palm | {"layers": 24})
        {}
    """
    entry = _registered().get(_folded(name))
    if entry is None:
        return {}
    found: TransformerWorkload = Models.Language.get(entry)
    own = {field: getattr(found, field) for field in fields} | {"kv_heads": found.kv_head_count}
    return {field: getattr(found, field) for field in _UNTOLD} if own == dict(fields) and found.moe is None else {}


def _folded(name: str) -> str:
    """Letters and digits alone: tables, registry and model cards differ in the rest."""
    return "".join(character for character in name.lower() if character.isalnum())


@functools.cache
def _registered() -> dict[str, str]:
    """Ids by the folded names of all language models."""
    spellings = Models.Language.spellings()
    return {_folded(name): entry for entry, names in spellings.items() for name in reversed(names)}
