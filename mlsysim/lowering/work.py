"""From typed workloads and systems to the plain numbers of physics."""

from __future__ import annotations

from dataclasses import fields, replace

from mlsysim.core.errors import InputError
from mlsysim.core.identity_cache import identity_cache
from mlsysim.core.precision import bytes_per_element
from mlsysim.models import parameters as counting
from mlsysim.models.layers import moe_layers
from mlsysim.models.types import CNNWorkload, TransformerWorkload, Workload
from mlsysim.physics.layer.adapters import NO_ADAPTERS, Adapters, adapter_parameters
from mlsysim.physics.layer.attention import cached_elements, keys_seen, ring_elements, score_flops
from mlsysim.physics.layer.kept import ffn_elements, kept_elements, routed_copies
from mlsysim.physics.layer.parameters import norm_parameters, part_parameters, undivided_parameters
from mlsysim.physics.layer.products import AROUND, DENSE, ROUTED, ROUTER, SHARED, layer_products
from mlsysim.physics.layer.shape import LayerShape
from mlsysim.physics.layer.work import LayeredWork
from mlsysim.physics.serving.inference import InferenceWork

# Activations and their copies in the residual stream are 16-bit in every training precision here.
_ACTIVATION_B = 2.0


def training_work(workload: Workload, seq_len: int, adapters: Adapters = NO_ADAPTERS) -> LayeredWork:
    """``workload`` lowered for training at ``seq_len`` (images have none): of all its weights, or of ``adapters`` alone."""
    if isinstance(workload, TransformerWorkload):
        work = _transformer_work(workload, seq_len)
        return _frozen(work, workload, adapters) if adapters.rank else work
    if isinstance(workload, CNNWorkload):
        return _counted_work(workload)
    raise InputError("workload", workload.name, f"a transformer or a network of known FLOP, not {type(workload).__name__}")


@identity_cache()
def _transformer_work(model: TransformerWorkload, seq_len: int) -> LayeredWork:
    shape = model.layer_shape
    h, layers, routed_layers = shape.hidden, shape.layers, shape.routed.layers
    ffn = shape.dense * part_parameters(shape, DENSE) + routed_layers * part_parameters(shape, SHARED, ROUTER)
    attention = part_parameters(shape, AROUND) * (1 + model.cross_attention_layers / layers)
    embedding, head = counting.embedding_parameters(model), float(counting.embedding_width(model) * model.vocab_size)
    active = (model.active_parameters - embedding - counting.head_parameters(model)) / layers
    kept, flops_per_key = kept_elements(shape), score_flops(shape)
    # Layers that predict further tokens: like the last ones, each with a projection of two vectors and a pass of the head.
    further = float(model.prediction_layers)
    projection = 2 * h * h * further
    return LayeredWork(
        layers=float(layers + further),
        tokens_per_sample=float(seq_len),
        matmul_flops=float(2.0 * active),
        attention_flops=float(flops_per_key * keys_seen(shape, seq_len, causal=model.causal)),
        full_attention_flops=float(flops_per_key * keys_seen(shape, seq_len, causal=False)),
        head_flops=float(2.0 * (head * (1 + further) + projection)),
        layer_parameters=float(attention + ffn + norm_parameters(shape)),
        undivided_parameters=float(undivided_parameters(shape)),
        expert_parameters=float(routed_layers * part_parameters(shape, ROUTED)),
        embedding_parameters=embedding,
        head_parameters=head,
        tied_parameters=head if model.tied_embeddings else 0.0,
        kept_split_B=float(_ACTIVATION_B * kept.split),
        kept_residual_B=float(_ACTIVATION_B * kept.residual),
        selective_split_B=float(_ACTIVATION_B * kept.selective_split),
        selective_residual_B=float(_ACTIVATION_B * kept.selective_residual),
        boundary_B=float(_ACTIVATION_B * h),
        logits=float(shape.vocab * (1 + further)),
        ffn_elements=float(ffn_elements(shape)),
        scores=float(shape.heads * seq_len),
        routed_copies=float(routed_copies(shape)),
        reductions=float(shape.reductions),
        key_value_B=float(_ACTIVATION_B * ring_elements(shape)),
        frozen=0.0,
        adapter_parameters=0.0,
    )


def _frozen(work: LayeredWork, model: TransformerWorkload, adapters: Adapters) -> LayeredWork:
    """``work`` with frozen weights and ``adapters`` beside its products.

    A frozen product without an adapter keeps no input for a weight gradient: the output of the norm or of the activation
    function before it goes. Attention keeps its output for itself.
    """
    unkept = float(adapters.qkv == 0) + float(adapters.up == 0)
    return replace(
        work,
        frozen=1.0,
        adapter_parameters=float(adapter_parameters(adapters, layer_products(model.layer_shape))),
        kept_split_B=work.kept_split_B - float(adapters.down == 0) * _ACTIVATION_B * work.ffn_elements,
        kept_residual_B=work.kept_residual_B - unkept * work.boundary_B,
    )


# A layer and a token of nothing.
_NO_WORK = dict.fromkeys((part.name for part in fields(LayeredWork)), 0.0) | {"layers": 1.0, "tokens_per_sample": 1.0}


def _counted_work(model: CNNWorkload) -> LayeredWork:
    """One layer, one "token" a sample. Unknown activations count as none: the solver says so."""
    kept = 0.0 if model.activations is None else _ACTIVATION_B * float(model.activations.m_as("count"))
    counted = {
        "matmul_flops": model.forward_flops,
        "layer_parameters": model.parameter_count,
        **dict.fromkeys(("kept_split_B", "selective_split_B", "boundary_B"), kept),
    }
    return LayeredWork(**_NO_WORK | counted)


def cached_B(model: TransformerWorkload, cache: str) -> float:
    """Bytes that one token leaves in the KV cache of all layers, with its elements in the number format ``cache``.

    Example:
        >>> from mlsysim.models.registry import Models
        >>> cached_B(Models.Language.Llama2_70B, "fp16")
        327680.0
    """
    return float(bytes_per_element(cache) * model.layers * cached_elements(model.layer_shape))


@identity_cache()
def inference_work(model: TransformerWorkload, weights: str, cache: str, experts: str = "") -> InferenceWork:
    """``model`` lowered for inference, with weights and cache in these number formats; the published count of weights holds.

    ``experts``: the number format of routed experts, where it is another.
    """
    shape = model.layer_shape
    weight_B = bytes_per_element(weights)
    expert_B = bytes_per_element(experts or weights)
    embedding, head = counting.embedding_parameters(model), counting.head_parameters(model)
    routed = float(moe_layers(model) * part_parameters(shape, ROUTED))
    read = model.parameter_count - routed - (0.0 if model.tied_embeddings else embedding)
    return InferenceWork(
        layers=float(model.layers),
        matmul_flops=2.0 * (model.active_parameters - embedding - head),
        attention_flops_per_key=float(model.layers * score_flops(shape)),
        decode_flops_per_key=float(model.layers * score_flops(shape, absorbed=True)),
        head_flops=2.0 * model.hidden_dim * model.vocab_size,
        resident_B=weight_B * (model.parameter_count - routed) + expert_B * routed,
        always_read_B=weight_B * read,
        expert_B=expert_B * routed,
        experts=float(model.moe.experts) if model.moe else 1.0,
        experts_per_token=float(model.moe.experts_per_token) if model.moe else 1.0,
        kv_B=cached_B(model, cache),
        residual_B=_ACTIVATION_B * model.hidden_dim,
        reductions=float(shape.reductions),
    )


@identity_cache()
def served_shape(model: TransformerWorkload) -> LayerShape:
    """The layers of ``model`` as an engine computes them: an encoder has no output head."""
    return model.layer_shape if model.causal else replace(model.layer_shape, vocab=0.0)
