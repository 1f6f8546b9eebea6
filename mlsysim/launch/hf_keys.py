"""The sizes that a Hugging Face ``config.json`` states, under whichever keys its architecture has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlsysim.core.checks import whole_number
from mlsysim.core.errors import InputError, NotModelledError, UnknownNameError
from mlsysim.core.toml import packaged_toml, reads
from mlsysim.launch.documents import Table
from mlsysim.models.architecture import MOST_LAYERS, MOST_WIDE

_FILE = "hf_config.toml"


@reads("launch", _FILE)
def facts() -> dict[str, Any]:
    """Give the document ``hf_config.toml``."""
    return packaged_toml("launch", _FILE)


@reads("launch", _FILE)
def type_facts(model_type: str) -> dict[str, Any]:
    """Give what an architecture has that its files leave out, with what it is like."""
    entry: dict[str, Any] = facts()["type"][model_type]
    if "like" not in entry:
        return entry
    base = type_facts(entry["like"])
    return {**base, **entry, "absent": {**base.get("absent", {}), **entry.get("absent", {})}}


@dataclass(frozen=True)
class Keys:
    """The keys of a text model in a configuration, and where they stand.

    Attributes:
        table: the keys, of the language model alone where the file has several.
        outer: the keys of the whole file.
        model_type: the architecture, an entry of ``hf_config.toml``.
        name: what messages call the file.
    """

    table: Mapping[str, Any]
    outer: Mapping[str, Any]
    model_type: str
    name: str

    @classmethod
    def of(cls, document: Mapping[str, Any], name: str) -> Keys:
        """The keys of the language model in a document.

        Raises:
            NotModelledError: layers of a kind that is not modelled, or an architecture that nobody described here.
            InputError: it says no architecture.
        """
        known = facts()
        outer_type = document.get("model_type")
        nested = Table(document, name).inner("text_config")
        table = nested or document
        said = nested.get("model_type") or (known["wrapped"].get(outer_type) if isinstance(outer_type, str) else None)
        said = said or outer_type
        if said is None:
            raise InputError(f"{name}: model_type", None, "the architecture, such as llama: the file leaves it out")
        if not isinstance(said, str):
            raise InputError(f"{name}: model_type", said, "the architecture's name, such as llama")
        for one in (outer_type, said):
            _refuse_type(one, table, f"{name}: model_type")
        said = known["renamed"].get(said, said)
        said = known["wrapped"].get(said, said)
        if said not in known["type"]:
            raise UnknownNameError.among(f"{name}: model_type", said, known["type"])
        keys = cls(table, document, said, name)
        keys.refuse_layers()
        return keys

    @property
    def facts(self) -> dict[str, Any]:
        """What the architecture has that its files leave out."""
        return type_facts(self.model_type)

    def raw(self, size: str) -> tuple[str, Any]:
        """The key that states a size, and its value; an empty key and the class default where the file leaves it out."""
        names: list[str] = facts()["keys"][size]
        for key in names:
            if key in self.table:
                return key, self.table[key]
        return "", self.facts.get("absent", {}).get(size)

    def whole(self, size: str, minimum: int = 1, maximum: int = MOST_WIDE) -> int | None:
        """A size, one of ``[keys]``, that is a whole number within limits; None where nobody says it.

        Raises:
            InputError: it is something else, or out of range.
        """
        key, value = self.raw(size)
        if isinstance(value, list) and value and all(one == value[0] for one in value):
            value = value[0]  # one entry a layer, all alike
        return None if value is None else whole_number(f"{self.name}: {key or size}", value, minimum, maximum)

    def needed(self, size: str, maximum: int = MOST_WIDE) -> int:
        """A size without which no model can be built.

        Raises:
            InputError: the file leaves it out, or has something else than a number.
        """
        value = self.whole(size, 1, maximum)
        if value is None:
            key = facts()["keys"][size][0]
            raise InputError(f"{self.name}: {key}", None, f"a number: the file of a {self.model_type} model leaves it out")
        return value

    def flag(self, *names: str) -> bool | None:
        """The first of these keys that is a truth value; None where none of them is there.

        Raises:
            InputError: one is something else.
        """
        for key in names:
            value = self.table.get(key)
            if value is not None:
                if not isinstance(value, bool):
                    raise InputError(f"{self.name}: {key}", value, "true or false")
                return value
        return None

    def listed(self, key: str) -> list[Any]:
        """The list under a key; empty where it is absent or null.

        Raises:
            InputError: something else stands there, or more than any model has.
        """
        value = self.table.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > MOST_LAYERS:
            raise InputError(f"{self.name}: {key}", value, f"a list of at most {MOST_LAYERS} entries")
        return value

    def refuse_layers(self) -> None:
        """Refuses layers of a kind that is not modelled, whatever the architecture is called.

        Raises:
            NotModelledError: with the key and the kind of layer.
        """
        for key, kind in facts()["layers_by_key"].items():
            value = self.table.get(key)
            if value not in (None, 0, False, [], {}, ""):
                raise NotModelledError(f"{self.name}: {key}", value, f"attention in every layer: {kind} are not modelled")
        kinds: dict[str, str] = facts()["layer_kinds"]
        for key in ("layer_types", "block_types"):
            for number, entry in enumerate(self.listed(key)):
                if not isinstance(entry, str):
                    raise InputError(f"{self.name}: {key}.{number}", entry, "the kind of a layer")
                if entry in kinds:
                    expected = f"attention in every layer: {kinds[entry]} (layer {number}) is not modelled"
                    raise NotModelledError(f"{self.name}: {key}", entry, expected)
        if any(entry == 0 for entry in self.listed("attn_type_list")):
            expected = "1 for every layer: linear attention (lightning attention) is not modelled"
            raise NotModelledError(f"{self.name}: attn_type_list", 0, expected)


def _refuse_type(model_type: object, table: Mapping[str, Any], argument: str) -> None:
    """Refuses an architecture whose layers are not modelled; one whose layers a list states is judged by that."""
    kind = facts()["refused"].get(model_type) if isinstance(model_type, str) else None
    listed = table.get("layer_types")
    if kind is not None and model_type in facts()["type"] and isinstance(listed, list) and listed:
        return
    if kind is not None:
        pattern = table.get("hybrid_override_pattern")
        where = f" (hybrid_override_pattern {pattern[:12]}...)" if isinstance(pattern, str) and pattern else ""
        raise NotModelledError(argument, model_type, f"a transformer with attention in every layer: it has {kind}{where}")
