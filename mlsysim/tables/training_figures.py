"""Figures that published tables print of a training step: rates, and FLOP counted in several ways."""

from __future__ import annotations

from mlsysim.lowering.work import training_work
from mlsysim.physics.layer.attention import score_flops
from mlsysim.physics.layer.kept import ffn_elements
from mlsysim.physics.layer.work import FULL, RECOMPUTE_MODES, SELECTIVE, LayeredWork
from mlsysim.tables.training import TrainingQuestion


def training_figure(asked: TrainingQuestion, seconds: float, recompute: str, metric: str) -> float:
    """``metric`` of a step of ``seconds`` with this recomputation, in the unit that its name says.

    ``tflops_per_accel`` counts FLOP as the row's framework does; ``mfu_pct`` never counts recomputation and ``hfu_pct``
    always does (Chowdhery et al. 2022, appendix B; Korthikanti et al. 2022, appendix A).
    """
    samples, accelerators = asked.arguments["batch_size"], asked.fleet.accelerators
    tokens_per_s = samples * asked.arguments["seq_len"] / seconds / accelerators
    if metric == "step_time_s":
        return seconds
    if metric == "samples_per_s":
        return float(samples / seconds)
    if metric == "tokens_per_s_per_accel":
        return float(tokens_per_s)
    counted = asked.flops
    if metric == "mfu_pct" and counted == "hardware":
        counted = "full"
    if metric == "hfu_pct":
        counted = "hardware"
    work = training_work(asked.workload, asked.arguments["seq_len"], asked.adapters)
    flops_per_s = tokens_per_s * (flops_per_token(work, counted, recompute) - _uncounted_flops(asked, work))
    if metric == "tflops_per_accel":
        return float(flops_per_s / 1e12)
    return float(100 * flops_per_s / asked.fleet.node.accelerator.rate_flops_per_s(asked.arguments["precision"]))


def flops_per_token(work: LayeredWork, counted: str, recompute: str) -> float:
    """FLOP of one token's forward and backward pass.

    ``counted`` is ``causal`` (the half of the scores that a causal model computes), ``full`` (all scores), ``hardware`` (all
    scores, and what recomputation repeats), ``ungated`` (the causal half) or ``weights`` (no attention). With full
    recomputation of two-matrix feed-forward blocks of width 4 h that is 96 L h^2 (1 + s / 6h + V / 16 L h) per token
    (Narayanan et al. 2021, section 5).
    """
    if counted in ("causal", "ungated"):
        return work.training_flops
    if counted == "weights":
        return work.training_flops - 3 * work.layers * work.attention_flops
    mode = RECOMPUTE_MODES.index(recompute) if counted == "hardware" else 0
    repeated = work.full_attention_flops if mode in (SELECTIVE, FULL) else 0.0
    if mode == FULL:
        repeated += work.matmul_flops
    return work.training_flops_full_attention + work.layers * repeated


def _uncounted_flops(asked: TrainingQuestion, work: LayeredWork) -> float:
    """FLOP of a token that an ``ungated`` count leaves out: the gates, less the scores beyond a window, which it counts."""
    if asked.flops != "ungated":
        return 0.0
    shape = asked.workload.layer_shape
    gates = 2 * shape.hidden * ffn_elements(shape) * (shape.ffn_matrices - 2)
    beyond = score_flops(shape) * asked.arguments["seq_len"] / 2 - work.attention_flops
    return float(3 * work.layers * (gates - beyond))
