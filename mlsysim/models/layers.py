"""From the fields of a transformer to the plain numbers of its layers."""

from __future__ import annotations

from mlsysim.models.architecture import Architecture
from mlsysim.physics.layer.shape import NO_EXPERTS, NO_LATENT, ExpertShape, LatentShape, LayerShape


def layer_shape(model: Architecture, ffn_width: float) -> LayerShape:
    """The layers of ``model``, whose dense feed-forward blocks are ``ffn_width`` wide."""
    mla = model.mla
    latent = NO_LATENT
    if mla is not None:
        dims = (mla.q_lora_rank, mla.kv_lora_rank, mla.nope_head_dim, mla.rope_head_dim, mla.v_head_dim)
        latent = LatentShape(*(float(size) for size in dims))
    return LayerShape(
        layers=float(model.layers),
        hidden=float(model.hidden_dim),
        heads=float(model.heads),
        kv_heads=float(model.kv_head_count),
        head_dim=float(model.head_width),
        ffn=float(ffn_width),
        ffn_matrices=float(model.ffn_matrices),
        vocab=float(model.vocab_size),
        window=float(model.sliding_window or 0),
        windowed=model.windowed_layers / model.layers,
        reductions=1.0 if model.parallel_block else 2.0,
        biased=float(model.bias),
        qkv_biased=float(model.bias or model.qkv_bias),
        relative=float(model.relative_positions),
        latent=latent,
        routed=_experts(model),
    )


def moe_layers(model: Architecture) -> int:
    """The number of layers that have experts."""
    if model.moe is None:
        return 0
    return (model.layers - model.moe.first_dense_layers) // model.moe.every


def _experts(model: Architecture) -> ExpertShape:
    moe = model.moe
    if moe is None:
        return NO_EXPERTS
    return ExpertShape(
        experts=float(moe.experts),
        per_token=float(moe.experts_per_token),
        ffn=float(moe.ffn_hidden),
        shared_ffn=float(moe.shared_width),
        layers=moe_layers(model) / model.layers,
    )
