"""The number formats that a Hugging Face checkpoint states for its weights and its cache: ``quantization_config``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mlsysim.core.checks import looked_up, whole_number
from mlsysim.core.errors import InputError, NotModelledError
from mlsysim.launch.documents import Table
from mlsysim.launch.hf_keys import Keys, facts

# Words in the name of a module that stands for attention, and for routed experts, in lists of what stays in 16 bits.
_ATTENTION = ("self_attn", "attention", "attn", "q_proj", "kv_")


class StoredFormats(NamedTuple):
    """Number formats of a checkpoint: of all weights, of routed experts alone, of the cache (empty: 16 bits), and notes."""

    weights: str = ""
    experts: str = ""
    cache: str = ""
    notes: tuple[str, ...] = ()


def formats_of(keys: Keys, layers: int, has_experts: bool) -> StoredFormats:
    """The formats that a configuration states; where attention stays in 16 bits, those of routed experts alone.

    Raises:
        NotModelledError: a way to quantise that is not modelled, by name.
        InputError: the table says something that no such table does.
    """
    table = _table(keys)
    if not table:
        return StoredFormats()
    where = f"{keys.name}: quantization_config"
    method = table.get("quant_method") or ("modelopt" if "quant_algo" in table else "mlx" if "bits" in table else None)
    if not isinstance(method, str):
        raise InputError(f"{where}.quant_method", method, "the name of a method such as fp8, awq or compressed-tensors")
    weights = _weights(method.lower(), table, where)
    attention_kept = _covers_attention(_kept(table, where), layers)
    cache = _cache(table, where)
    if attention_kept and has_experts:
        return StoredFormats("", weights, cache)
    note = f"attention stays in 16 bits beside {weights} weights: all are counted as {weights}"
    return StoredFormats(weights, "", cache, (note,) if attention_kept else ())


def _table(keys: Keys) -> dict[str, Any]:
    """The table of quantisation: of the language model, else of the whole file, else what MLX calls it."""
    for table in (keys.table, keys.outer):
        for key in ("quantization_config", "quantization"):
            quantized = Table(table, keys.name).inner(key)
            if quantized:
                return quantized
    return {}


def _weights(method: str, table: Mapping[str, Any], where: str) -> str:
    known = facts()
    if method == "compressed-tensors":
        return _compressed(table, where)
    if method.startswith("modelopt"):
        return _of_algorithm(table.get("quant_algo"), f"{where}.quant_algo")
    if method == "bitsandbytes":
        return "nf4" if table.get("load_in_4bit") else "bnb_int8"
    if method not in known["quantization"]:
        raise NotModelledError(f"{where}.quant_method", method, f"one of {', '.join(sorted(known['quantization']))}")
    choices: dict[str, str] = known["quantization"][method]
    if "any" in choices:
        # One scale for a block of the matrix, where nobody says null.
        return "fp8_block" if method == "fp8" and table.get("weight_block_size") else choices["any"]
    bits = str(table.get("bits", 4))
    if bits not in choices:
        raise NotModelledError(f"{where}.bits", table.get("bits"), f"{' or '.join(choices)} with {method}")
    return choices[bits]


def _of_algorithm(algorithm: object, where: str) -> str:
    known: dict[str, str] = facts()["modelopt"]
    if not isinstance(algorithm, str) or algorithm.upper() not in known:
        raise NotModelledError(where, algorithm, f"one of {', '.join(known)}: layers of several formats are not modelled")
    return known[algorithm.upper()]


def _compressed(table: Mapping[str, Any], where: str) -> str:
    """The format of compressed-tensors: what its first group says of weights and of activations."""
    groups = Table(Table(table, where).inner("config_groups"), f"{where}.config_groups")
    if not groups:
        raise InputError(groups.name, None, "a group of weights: compressed-tensors says their format there")
    name = next(iter(groups))
    group = Table(groups.inner(name), f"{groups.name}.{name}")
    weights, activations = group.inner("weights"), group.inner("input_activations")
    bits = whole_number(f"{group.name}.weights.num_bits", weights.get("num_bits"), 1, 64)
    kind = f"{weights.get('type', 'int')} {bits}"
    if kind == "float 4":
        kind = f"{kind} of {weights.get('group_size')}"
    known: dict[str, dict[str, str]] = facts()["compressed"]
    choice = looked_up(f"{group.name}.weights", kind, known)
    narrow = activations.get("num_bits")
    if not activations or (isinstance(narrow, int) and narrow > 8):
        return choice["alone"]
    return "fp8_block" if kind == "float 8" and weights.get("strategy") == "block" else choice["together"]


def _kept(table: Mapping[str, Any], where: str) -> list[str]:
    """Modules that stay in 16 bits."""
    for key in ("modules_to_not_convert", "ignore", "exclude_modules"):
        value = table.get(key)
        if value:
            if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
                raise InputError(f"{where}.{key}", value, "a list of the names of modules")
            return value
    return []


def _covers_attention(kept: list[str], layers: int) -> bool:
    """Whether attention stays in 16 bits: by a pattern, or in at least half of the layers by name."""
    named = [entry for entry in kept if any(word in entry.lower() for word in _ATTENTION)]
    if any(entry.startswith("re:") or "*" in entry or not any(ch.isdigit() for ch in entry) for entry in named):
        return True
    numbers = {part for entry in named for part in entry.split(".") if part.isdecimal()}
    return 2 * len(numbers) >= layers


def _cache(table: Mapping[str, Any], where: str) -> str:
    """The cache's format where the checkpoint states one of 8 bits."""
    scheme = table.get("kv_cache_scheme")
    algorithm = table.get("kv_cache_quant_algo")
    if isinstance(scheme, Mapping):
        kind, bits = scheme.get("type", "float"), scheme.get("num_bits")
        if (kind, bits) in (("float", 8), ("int", 8)):
            return "fp8" if kind == "float" else "int8"
        raise NotModelledError(f"{where}.kv_cache_scheme", f"{kind} {bits}", "a cache of 8 bits, or null")
    if isinstance(algorithm, str):
        return _of_algorithm(algorithm, f"{where}.kv_cache_quant_algo")
    return ""
