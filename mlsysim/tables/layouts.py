"""Rows of layouts that fit in memory or do not, as rows of training runs."""

from __future__ import annotations

from mlsysim.core.checks import looked_up
from mlsysim.core.errors import InputError
from mlsysim.tables.cells import Cells, cell_text
from mlsysim.tables.facts import facts


def layout_cells(cells: Cells) -> dict[str, str]:
    """The cells of a training run of the paper's models in a layout.

    Raises:
        InputError: the paper has no such model, or its batch no whole number of such sequences.
    """
    known, kernel = facts("hagemann2023.toml"), cell_text(cells, "kernel")
    added = {column: str(known["defaults"][column]) for column in ("vocab", "sharding", "precision", "framework")}
    added |= {column: str(value) for column, value in looked_up("model", cell_text(cells, "model"), known["model"]).items()}
    added |= {
        "global_batch_seqs": str(_sequences(cells, known["defaults"]["batch_tokens"])),
        "recompute": looked_up("activation_checkpointing", cell_text(cells, "activation_checkpointing"), known["recompute"]),
        "flash_attention": "no" if kernel in known["stores_scores"]["kernels"] else "yes",
        "variant": kernel,
    }
    return {**cells, **added}


def _sequences(cells: Cells, batch_tokens: int) -> int:
    """Sequences of a batch of ``batch_tokens``."""
    text = cell_text(cells, "seq_len")
    try:
        sequences = round(batch_tokens / float(text))
    except (ValueError, ArithmeticError):
        sequences = 0
    if sequences < 1:
        raise InputError("seq_len", text, f"tokens of a sequence, at most the {batch_tokens} of a batch")
    return sequences
