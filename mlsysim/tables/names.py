"""What the cells of a row name: the accelerator, and the model where columns leave its architecture out."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from mlsysim.calibration.names import framework_called, unknown
from mlsysim.core.errors import InconsistentError, InputError, either
from mlsysim.core.names import longest_beginning
from mlsysim.core.precision import precision_name
from mlsysim.hardware.registry import Hardware
from mlsysim.hardware.types import HardwareNode
from mlsysim.models.registry import Models
from mlsysim.models.types import TransformerWorkload
from mlsysim.tables.cells import Cells, cell_text, number_cell, software_cell

# Published counts are rounded; beyond this the row is of an architecture that its cells do not describe.
PARAMETERS_TOLERANCE = 0.15
# A size in a model's name: not of each of its experts ("8x7B"), nor what it activates ("30B-A3B": the first counts).
_SIZE = re.compile(r"(?<![a-z0-9.x])(\d+(?:\.\d+)?) ?([mbt])(?![a-z0-9])")
# Columns without which a transformer cannot be built, and what the registry calls them.
_NEEDED = {"layers": "layers", "hidden": "hidden_dim", "heads": "heads"}
# What tables have no column for.
_UNTOLD = ("head_dim", "ffn_matrices", "parallel_block", "sliding_window", "full_attention_every")


def named_accelerator(cells: Cells) -> HardwareNode:
    """Returns the accelerator that a row names; of one cut in slices, a slice.

    Raises:
        UnknownNameError: no accelerator is called so, or the name does not say which; the message has near names.
        InputError: the cell is empty.

    Example:
        >>> named_accelerator({"accelerator": "NVIDIA A100-SXM4-80GB (400W)"}).name
        'A100 SXM4 80GB'
    """
    return Hardware.get(_accelerator_text(cells))


def accelerator_id(cells: Cells) -> str:
    """Returns the registry's id of the accelerator that a row names.

    Raises:
        UnknownNameError, InputError: as ``named_accelerator``.

    Example:
        >>> accelerator_id({"accelerator": "TPU v5p-1024"})
        'tpu_v5p'
    """
    return Hardware.id_of(_accelerator_text(cells))


def _accelerator_text(cells: Cells) -> str:
    text = cell_text(cells, "accelerator")
    if not text:
        raise InputError("accelerator", "", "a name: the row leaves it out")
    return text


def named_model(row: Mapping[str, str]) -> TransformerWorkload | None:
    """Returns the registered model that a row names, where its own columns leave out what builds one; None where they do not.

    Heads of usual width build one, and as many layers as the row's parameters make.

    Raises:
        InputError: columns are left out, and no transformer of the registry has this name.
        InconsistentError: a column that is there contradicts the registry.

    Example:
        >>> named_model({"model": "meta-llama/Llama-3.1-70B-Instruct"}).hidden_dim
        8192
        >>> named_model({"model": "mine", "layers": "2", "hidden": "64", "heads": "2"}) is None
        True
    """
    missing = [column for column in _NEEDED if not cell_text(row, column)]
    if not missing:
        return None
    model = registered_model(row.get("model") or "")
    if model is None:
        refuse_unmodelled(row.get("model") or "")
        if cell_text(row, "params_b") or not {"hidden", "layers"} & set(missing):
            return None
        near = Models.Language.nearest(row.get("model"))
        like = f", such as {either(near)}" if near else ""
        raise InputError(missing[0], "", f"a number: the row leaves it out, and no registered model has its name{like}")
    for column, field in _NEEDED.items():
        if column not in missing and cell_text(row, column).removesuffix(".0") != str(getattr(model, field)):
            raise InconsistentError(
                column, row[column], f"the {getattr(model, field)} of {model.name}, or all of {', '.join(_NEEDED)}"
            )
    return model


def named_framework(cells: Cells) -> Mapping[str, Any]:
    """The entry of a row's framework; an older run of the same name may have had another stack, or counted other FLOP.

    Example:
        >>> named_framework({"framework": "torchtitan"})["stack"], named_framework({"accelerator": "TPU v5p"})["stack"]
        ('torchtitan', 'pathways-2022')
    """
    year = number_cell(cells, "year", 0.0) or None
    return framework_called(software_cell(cells, "framework"), year) or unknown(cell_text(cells, "accelerator").upper())


@functools.lru_cache(maxsize=4096)
def registered_model(name: str) -> TransformerWorkload | None:
    """Returns the language model of the registry that is called so, or None.

    Example:
        >>> registered_model("Qwen/Qwen3-32B-FP8").name, registered_model("in-house")
        ('Qwen3-32B', None)
    """
    return Models.Language.find(name)


@functools.lru_cache(maxsize=4096)
def begun_model(name: str) -> TransformerWorkload | None:
    """Returns the registered model whose name ``name`` begins with, or None: also where ``name`` says another size.

    Example:
        >>> begun_model("Qwen2.5 32B 2-node LoRA").name, begun_model("GPT-2 350M")
        ('Qwen2.5-32B', None)
    """
    begun = longest_beginning(name, [spelling for names in Models.Language.spellings().values() for spelling in names])
    model = registered_model(name) or (None if begun is None else registered_model(begun))
    said = _said_billions(name)
    other = said and model is not None and abs(said / (model.parameter_count / 1e9) - 1) > PARAMETERS_TOLERANCE
    return None if other else model


def _said_billions(name: str) -> float:
    """Returns the 1e9 parameters that a model's name says, 0 where it says none."""
    said = _SIZE.search(name.lower())
    return 0.0 if said is None else float(said[1]) * {"m": 1e-3, "b": 1.0, "t": 1e3}[said[2]]


def untold_fields(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what tables of runs have no column for, of the registered dense model ``name``; empty if ``fields`` differ.

    Example:
        >>> palm = {"layers": 118, "hidden_dim": 18432, "heads": 48, "kv_heads": 1, "ffn_hidden": 73728}
        >>> untold_fields("PaLM 540B", palm)["parallel_block"]
        True
        >>> untold_fields("PaLM 540B", palm | {"layers": 24})
        {}
    """
    model = registered_model(name)
    if model is None or model.moe is not None:
        return {}
    same = {field: getattr(model, field) for field in fields} | {"kv_heads": model.kv_head_count} == dict(fields)
    return {field: getattr(model, field) for field in _UNTOLD} if same else {}


def named_format(column: str, text: str, meant: Mapping[str, str] | None = None) -> str:
    """Returns the number format that a cell names; what the table means by some texts goes before what people do.

    Raises:
        UnknownNameError: no format is spelt so.
        InputError: the cell is empty.

    Example:
        >>> named_format("precision", "bfloat16"), named_format("weight_precision", "fp4", {"fp4": "nvfp4"})
        ('bf16', 'nvfp4')
    """
    if not text:
        raise InputError(column, "", "a number format: the row leaves it out")
    told = (meant or {}).get(text)
    return precision_name(column, text) if told is None else str(told)


def refuse_unmodelled(name: str) -> None:
    """Refuses models whose layers are not of the kinds that are modelled.

    Raises:
        InputError: with the reason.

    Example:
        >>> refuse_unmodelled("Nemotron_3_Nano")
        Traceback (most recent call last):
        mlsysim.core.errors.InputError: model = 'Nemotron_3_Nano': expected a transformer: most layers are Mamba-2
    """
    reason = _not_modelled(name)
    if reason:
        raise InputError("model", name, reason)


_not_modelled = functools.lru_cache(maxsize=4096)(Models.not_modelled)
