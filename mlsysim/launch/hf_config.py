"""A model from its Hugging Face ``config.json``: ``model_from_config``, and ``read_config`` with what was assumed.

``mlsysim.model_from_config("config.json")`` gives a ``TransformerWorkload`` for any solver; a folder with the file, its text
or a parsed dictionary do as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlsysim.core.errors import InputError, NotModelledError
from mlsysim.core.provenance import Provenance
from mlsysim.launch.documents import Table, json_table, text_of
from mlsysim.launch.hf_keys import Keys
from mlsysim.launch.hf_quantization import StoredFormats, formats_of
from mlsysim.launch.known_models import like_registered
from mlsysim.models.architecture import MOST_LAYERS, LatentAttention, MixtureOfExperts, expert_places
from mlsysim.models.types import TransformerWorkload

# A model of more parameters than that is a slip of a digit: forty times what anybody has published.
_MOST_PARAMETERS = 1e14
_CONFIG = "config.json"
_BESIDE = "hf_quant_config.json"


@dataclass(frozen=True)
class ConfigReading:
    """What a ``config.json`` was read as.

    Attributes:
        model: the model, ready for any solver.
        registered: symbol of the registry's entry that has the same architecture, by which calibrated answers know it; empty
            where none has.
        weights: number format of the stored weights, or of routed experts alone where only these have their own.
        kv_precision: number format of the cache that the checkpoint states; empty where it states none.
        assumed: what the file leaves out or what was simplified, each with what stands for it.
    """

    model: TransformerWorkload
    registered: str
    weights: str
    kv_precision: str
    assumed: tuple[str, ...]


def model_from_config(source: str | Path | Mapping[str, Any], name: str | None = None) -> TransformerWorkload:
    """The transformer that a Hugging Face ``config.json`` describes.

    Args:
        source: the path of the file or of a folder that has it, its text, or what it says as a dictionary.
        name: of the model; by default the registry's name of the same architecture, else the file's.

    Returns:
        The registry's own model where the architecture is one of its entries, in the configuration's number format.

    Raises:
        NotModelledError: layers of a kind that is not modelled, by their name and key.
        UnknownNameError: an architecture that is not known here.
        InputError: the file cannot be read, or a size is missing or absurd; the message has file and key.

    Example:
        >>> sizes = dict(hidden_size=2048, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8)
        >>> config = dict(model_type="llama", intermediate_size=8192, vocab_size=128256, tie_word_embeddings=True, **sizes)
        >>> model = model_from_config(config)
        >>> model.name, f"{model.parameter_count / 1e9:.2f} B", read_config(config).registered
        ('Llama-3.2-1B', '1.24 B', 'Llama3_2_1B')
        >>> model_from_config({"model_type": "jamba", "hidden_size": 4096})
        Traceback (most recent call last):
        mlsysim.core.errors.NotModelledError: config.json: model_type = 'jamba': expected a transformer with attention in \
every layer: it has Mamba layers
    """
    return read_config(source, name).model


def read_config(source: str | Path | Mapping[str, Any], name: str | None = None) -> ConfigReading:
    """The model that a Hugging Face ``config.json`` describes, with the registry's entry that it is and what was assumed.

    Raises:
        InputError: as ``model_from_config`` raises it.
    """
    document, called = _document(source)
    keys = Keys.of(document, called)
    assumed: list[str] = []
    fields = _sizes(keys, assumed)
    fields |= _feed_forward(keys, fields["layers"], fields["hidden_dim"])
    fields |= _windows(keys, fields["layers"], assumed)
    formats = formats_of(keys, fields["layers"], fields.get("moe") is not None)
    assumed += formats.notes
    stored = {"weight_format": formats.weights, "expert_format": formats.experts}
    model = _built(fields | stored, name or _name(document, called), called)
    registered, known = like_registered(model)
    if known is not None:
        same = all(getattr(known, key) == value for key, value in stored.items())
        model = known if same else known.model_copy(update=stored)
        model = model if name is None else model.model_copy(update={"name": name})
    return ConfigReading(model, registered, _stored(keys, formats, assumed), formats.cache, tuple(assumed))


def _document(source: object) -> tuple[dict[str, Any], str]:
    """The configuration's table and its name; what ModelOpt wrote beside it is its ``quantization_config``."""
    if isinstance(source, Mapping):
        return {str(key): value for key, value in source.items()}, _CONFIG
    if not isinstance(source, (str, Path)):
        raise InputError(_CONFIG, source, "a path, a text or a dictionary")
    path = Path(source) if isinstance(source, Path) or len(source) < 1024 else None
    beside = None
    try:
        if path is not None and "\0" not in str(path):
            source = path / _CONFIG if path.is_dir() else source
            beside = Path(source).parent / _BESIDE
            beside = beside if beside.is_file() else None
    except OSError:
        beside = None
    text, called = text_of(source, _CONFIG)
    document = json_table(text, called)
    if beside is not None and "quantization_config" not in document:
        told = json_table(text_of(beside, _BESIDE)[0], str(beside))
        document["quantization_config"] = told.inner("quantization")
    return document, called


def _name(document: Mapping[str, Any], called: str) -> str:
    """What the model is called: by the file itself, else by the file's name or its folder's."""
    said = document.get("_name_or_path")
    if isinstance(said, str) and said.strip("./ "):
        return said.rstrip("/").rsplit("/", 1)[-1][:200]
    path = Path(called)
    if path.name == called == _CONFIG:
        return str(document.get("model_type", "model"))[:200]
    return (path.stem if path.name != _CONFIG else path.parent.name or "model").rsplit("--", 1)[-1] or "model"


def _sizes(keys: Keys, assumed: list[str]) -> dict[str, Any]:
    """Sizes of layers, heads and embeddings."""
    facts = keys.facts
    hidden, layers, heads = keys.needed("hidden"), keys.needed("layers", MOST_LAYERS), keys.needed("heads")
    head_dim = keys.whole("head_dim")
    mla = _latent(keys, hidden, heads)
    if mla is not None:
        head_dim = mla.nope_head_dim + mla.rope_head_dim
    elif head_dim is None and hidden % heads:
        raise InputError(f"{keys.name}: head_dim", None, f"a number: hidden_size {hidden} does not divide by {heads} heads")
    length = keys.whole("length")
    embedding = keys.whole("embedding")
    learned, parallel = facts.get("learned"), keys.flag("use_parallel_residual", "parallel_attn")
    outer_tied = keys.outer.get("tie_word_embeddings")
    tied = keys.flag("tie_word_embeddings") if not isinstance(outer_tied, bool) else outer_tied
    vocab_outside = keys.outer.get("vocab_size") if keys.raw("vocab")[1] is None else None
    if isinstance(vocab_outside, int):
        assumed.append(f"vocab_size {vocab_outside} of the whole file: the language model leaves it out")
    vocab = vocab_outside if isinstance(vocab_outside, int) else keys.needed("vocab")
    return {
        "layers": layers,
        "hidden_dim": hidden,
        "heads": heads,
        "kv_heads": heads if mla is not None else _kv_heads(keys, heads),
        "head_dim": head_dim,
        "vocab_size": vocab,
        "tied_embeddings": bool(facts["tied"]) if tied is None else tied,
        "positions": 0 if learned is None else (length or 0) + learned,
        "bias": bool(facts.get("bias", False)),
        "qkv_bias": bool(facts.get("qkv_bias", False) or keys.flag("attention_bias", "qkv_bias", "add_qkv_bias")),
        "parallel_block": bool(facts.get("parallel") if parallel is None else parallel),
        "causal": bool(facts.get("causal", True)),
        "embedding_dim": embedding if embedding != hidden else None,
        "prediction_layers": keys.whole("prediction", 0, MOST_LAYERS) or 0,
        "max_seq_len": length,
        "mla": mla,
    }


def _kv_heads(keys: Keys, heads: int) -> int:
    """Key/value heads: as many as query heads where the key is null, one where all queries share them."""
    nested = Table(keys.table, keys.name).inner("attn_config")
    if nested.get("kv_n_heads") is not None:
        return int(nested["kv_n_heads"]) if isinstance(nested["kv_n_heads"], int) else heads
    if keys.facts.get("multi_query") and not keys.flag("new_decoder_architecture"):
        return 1 if keys.flag("multi_query") is not False else heads
    return keys.whole("kv_heads") or heads


def _latent(keys: Keys, hidden: int, heads: int) -> LatentAttention | None:
    rank = keys.whole("kv_rank")
    if rank is None:
        return None
    nope, rope = keys.needed("nope"), keys.whole("rope", 0)
    value = keys.whole("value") or hidden // heads
    queries = keys.whole("q_rank", 0) or 0
    return LatentAttention(
        kv_lora_rank=rank, q_lora_rank=queries, nope_head_dim=nope, rope_head_dim=rope or 0, v_head_dim=max(1, value)
    )


def _feed_forward(keys: Keys, layers: int, hidden: int) -> dict[str, Any]:
    """Widths of the feed-forward blocks, and the experts."""
    facts = keys.facts
    wide = keys.table.get("expansion_ratio", facts.get("wide"))
    ffn = keys.whole("ffn")
    if ffn is None and isinstance(wide, (int, float)) and not isinstance(wide, bool) and 0 < wide < 1000:
        ffn = round(wide * hidden)
    experts = keys.whole("experts", 0)
    moe = None
    if experts is not None and experts > 1:
        moe = _experts(keys, experts, ffn, layers)
    if moe is not None and facts.get("dense_ffn_key") in keys.table:
        ffn = keys.table[facts["dense_ffn_key"]]
    elif facts.get("shared_is_dense"):
        ffn = keys.whole("shared_ffn") or ffn
    if ffn is None and moe is not None:
        ffn = moe.ffn_hidden
    if ffn is None:
        ffn = keys.needed("ffn")
    return {"ffn_hidden": ffn, "ffn_matrices": facts["matrices"], "moe": moe}


def _experts(keys: Keys, experts: int, ffn: int | None, layers: int) -> MixtureOfExperts:
    """The routed and shared experts; layers of experts come after dense ones, or are every n-th."""
    facts = keys.facts
    if keys.table.get("parallel_attn_mlp_res") or keys.table.get("residual_moe"):
        raise NotModelledError(f"{keys.name}: parallel_attn_mlp_res", True, "experts or a dense block in a layer, not both")
    width = keys.whole("expert_ffn")
    if facts.get("expert_ffn_key") == "intermediate_size" or width is None:
        width = ffn if width is None else width
    if width is None:
        raise InputError(f"{keys.name}: moe_intermediate_size", None, "a number: the file leaves out the width of an expert")
    each = keys.needed("per_token")
    shared, together = keys.whole("shared", 0) or facts.get("always_shared", 0), keys.whole("shared_ffn", 0)
    shared, shared_width = (1, together) if together else (shared, None)
    first, every = _expert_layers(keys, layers)
    return MixtureOfExperts(
        experts=experts,
        experts_per_token=each,
        ffn_hidden=width,
        shared_experts=shared,
        shared_ffn_hidden=shared_width,
        first_dense_layers=first,
        every=every,
    )


def _expert_layers(keys: Keys, layers: int) -> tuple[int, int]:
    """Leading dense layers, and how many layers there are for each one with experts after them."""
    key, listed = keys.raw("every")
    marks: list[bool] | None = None
    if isinstance(listed, list):
        marks = [entry == 1 for entry in keys.listed(key)]
    elif keys.listed("mlp_layer_types"):
        marks = [entry == "sparse" for entry in keys.listed("mlp_layer_types")]
    elif keys.listed("moe_layers"):
        with_experts = keys.listed("moe_layers")
        marks = [number in with_experts for number in range(layers)]
    elif keys.listed("mlp_only_layers"):
        dense = keys.listed("mlp_only_layers")
        marks = [number not in dense for number in range(layers)]
    end = keys.table.get("moe_layer_end_index")
    if isinstance(end, int) and end not in (-1, layers - 1):
        raise NotModelledError(f"{keys.name}: moe_layer_end_index", end, f"-1 or the last layer, {layers - 1}")
    if marks is None:
        first = keys.whole("first_dense", 0, layers) or 0
        return first, keys.whole("every", 1, layers) or 1
    if len(marks) != layers or not any(marks):
        raise InputError(f"{keys.name}: {key or 'mlp_layer_types'}", len(marks), f"an entry for each of the {layers} layers")
    return expert_places(marks, f"{keys.name}: {key or 'mlp_only_layers'}", listed)


def _windows(keys: Keys, layers: int, assumed: list[str]) -> dict[str, Any]:
    """The window of attention, and how many layers there are for each that sees everything."""
    facts = keys.facts
    kind, chunk = facts.get("window"), keys.table.get(facts.get("chunk_key", ""))
    if chunk:
        assumed.append(f"attention in chunks of {chunk} tokens is taken as attention to all: shorter sequences are exact")
        return {}
    window, length, kinds = _window(keys), keys.whole("length"), keys.listed("layer_types")
    if window is None or (length is not None and window >= length) or (kind is None and not kinds):
        return {}
    if kind == "flag" and not keys.flag("use_sliding_window"):
        return {}
    if kinds:
        if len(kinds) != layers:
            raise InputError(f"{keys.name}: layer_types", len(kinds), f"an entry for each of the {layers} layers")
        return _arranged(keys, window, layers, kinds.count("full_attention") + kinds.count("attention"))
    if kind == "flag":
        full = keys.table.get("max_window_layers", 0)
        return _arranged(keys, window, layers, min(full, layers) if isinstance(full, int) and full >= 0 else 0)
    if kind == "pattern":
        return {"sliding_window": window, "full_attention_every": _pattern(keys, layers)}
    return {"sliding_window": window}


def _window(keys: Keys) -> int | None:
    named = keys.facts.get("window_key")
    if named is None:
        return keys.whole("window")
    value = keys.table.get(named, keys.facts["absent"]["window"])
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _pattern(keys: Keys, layers: int) -> int | None:
    """One layer in so many sees everything: a number, or letters of which G or g does."""
    named = keys.facts.get("full_every_key")
    key, value = (named, keys.table[named]) if isinstance(named, str) and named in keys.table else keys.raw("full_every")
    if isinstance(value, str) and value and value[-1] in "Gg" and set(value[:-1]) <= set("Ll"):
        value = len(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{keys.name}: {key}", value, "a whole number of layers, or letters such as LLLG")
    return value


def _arranged(keys: Keys, window: int, layers: int, full: int) -> dict[str, Any]:
    """Windows in all but ``full`` of the layers.

    Raises:
        NotModelledError: no n has so many layers, were every n-th full.
    """
    if full == layers:
        return {}
    if not full:
        return {"sliding_window": window}
    every = layers // full
    if layers // every != full:
        expected = f"every n-th of {layers} layers with full attention, not {full} of them"
        raise NotModelledError(f"{keys.name}: layer_types", full, expected)
    return {"sliding_window": window, "full_attention_every": every}


def _built(fields: Mapping[str, Any], name: str, called: str) -> TransformerWorkload:
    """The model of these fields; absurd sizes are refused by their product."""
    model = TransformerWorkload.of_architecture(
        name=name, **fields, provenance=Provenance(source=called if len(called) < 200 else _CONFIG, evidence="stated")
    )
    if model.parameter_count > _MOST_PARAMETERS:
        expected = f"at most {_MOST_PARAMETERS:g}: no such model can be meant"
        raise InputError(f"{called}: parameters", f"{model.parameter_count:.3g}", expected)
    return model


def _stored(keys: Keys, formats: StoredFormats, assumed: list[str]) -> str:
    """The format of the stored weights; one that engines do not keep is noted."""
    if formats.weights or formats.experts:
        return formats.weights or formats.experts
    said = next((table[key] for table in (keys.table, keys.outer) for key in ("torch_dtype", "dtype") if table.get(key)), None)
    if said is None:
        assumed.append("torch_dtype is absent: the file's weights are fp32, which engines load in 16 bits")
        return "fp32"
    names = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
    return names.get(str(said).removeprefix("torch."), str(said)[:40])
