"""Which registered model a table means by a name, where its columns leave out the architecture."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from mlsysim.core.errors import InconsistentError, InputError, nearest
from mlsysim.models.registry import Models
from mlsysim.models.types import TransformerWorkload

# Columns without which a transformer cannot be built, and what the registry calls them.
_NEEDED = {"layers": "layers", "hidden": "hidden_dim", "heads": "heads"}


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


def _folded(name: str) -> str:
    """Letters and digits alone: tables, registry and model cards differ in the rest."""
    return "".join(character for character in name.lower() if character.isalnum())


@functools.cache
def _registered() -> dict[str, str]:
    """Ids by the folded names of all language models."""
    spellings = Models.Language.spellings()
    return {_folded(name): entry for entry, names in spellings.items() for name in reversed(names)}
