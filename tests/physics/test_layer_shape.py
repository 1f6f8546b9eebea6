"""One description of a layer: its kinds worked out by hand, and what all that go by it see of every model of the registry."""

from dataclasses import replace

import numpy as np
import pytest
from plain import plan, serving_kernels

from mlsysim.lowering.work import inference_work, served_shape, training_work
from mlsysim.models.registry import Models
from mlsysim.models.types import TransformerWorkload
from mlsysim.physics.kernels.attention import AttentionHeads
from mlsysim.physics.layer.adapters import Adapters, adapter_parameters
from mlsysim.physics.layer.attention import (
    attention_heads,
    cached_elements,
    cached_tokens,
    keys_seen,
    qkv_elements,
    ring_elements,
    score_flops,
)
from mlsysim.physics.layer.kept import KeptElements, ffn_elements, kept_elements
from mlsysim.physics.layer.parameters import part_parameters
from mlsysim.physics.layer.products import AROUND, DENSE, ROUTED, ROUTER, SHARED, attention_products, layer_products
from mlsysim.physics.layer.shape import NO_LATENT, ExpertShape, LatentShape, LayerShape
from mlsysim.physics.serving.deployment import EngineCoefficients, EngineKernels, ServedModel, Shards
from mlsysim.physics.serving.expert_ranks import busiest_rank
from mlsysim.physics.serving.products import served_products
from mlsysim.physics.training.layer_products import trained_products

# Eight heads of 4, two of keys; gated blocks of 20; a stream of 30.
GROUPED = LayerShape(layers=2.0, hidden=30.0, heads=8.0, kv_heads=2.0, head_dim=4.0, ffn=20.0, ffn_matrices=3.0, vocab=100.0)
LATENT = replace(GROUPED, latent=LatentShape(query_rank=6.0, key_rank=4.0, plain_dim=2.0, rotary_dim=3.0, value_dim=5.0))
EXPERTS = replace(GROUPED, routed=ExpertShape(experts=16.0, per_token=2.0, ffn=12.0, shared_ffn=10.0, layers=0.5))
LANGUAGE = [model for model in Models.Language if isinstance(model, TransformerWorkload)]


def sizes(products):
    return [(one.share, one.n, one.k, one.groups) for one in products]


def test_products_of_a_dense_layer():
    """Queries of 32, keys and values of 8 each; output from 32; up and gate to 2 x 20; down from 20."""
    assert sizes(layer_products(GROUPED)) == [(1, 32 + 16, 30, 1), (1, 30, 32, 1), (1, 40, 30, 1), (1, 30, 20, 1)]
    # Four ranks share two heads of keys: each has a whole one.
    assert sizes(layer_products(GROUPED, 4.0)) == [(1, 8 + 8, 30, 1), (1, 30, 8, 1), (1, 10, 30, 1), (1, 30, 5, 1)]
    every = replace(GROUPED, kv_heads=8.0, ffn_matrices=2.0)
    assert sizes(layer_products(every))[::2] == [(1, 96, 30, 1), (1, 20, 30, 1)], "as many keys as queries; no gate"


def test_products_of_latent_attention():
    """8 heads on two ranks: queries from 6 to 4 x (2 + 3), keys and values to 4 + 3 and to 4 x (2 + 5), out of 4 x 5."""
    compressed = [(1, 6, 30, 1), (1, 7, 30, 1)]
    expanded = [(1, 20, 6, 1), (1, 28, 4, 1), (1, 30, 20, 1)]
    assert sizes(attention_products(LATENT, 2.0)) == compressed + expanded
    assert sizes(attention_products(LATENT, 2.0, fused=True)) == [(1, 13, 30, 1), *expanded]
    # A decode step: each of 4 heads takes on 2 x 4 of its keys and 4 x 5 of its values, the weights of 28 x 4.
    absorbed = [(1, 4, 2, 4), (1, 5, 4, 4)]
    assert sizes(attention_products(LATENT, 2.0, fused=True, absorbed=True)) == [
        *((1, 13, 30, 1), (1, 20, 6, 1)),
        *(*absorbed, (1, 30, 20, 1)),
    ]
    assert sum(n * k * groups for _, n, k, groups in absorbed) == 28 * 4
    plain_queries = replace(LATENT, latent=replace(LATENT.latent, query_rank=0.0))
    assert sizes(attention_products(plain_queries, 2.0)) == [(0, 1, 30, 1), (1, 7, 30, 1), (1, 20, 30, 1), *expanded[1:]]
    assert sizes(attention_products(plain_queries, fused=True))[0] == (1, 7, 30, 1)


def test_products_of_experts():
    """Half of the layers: 16 experts of 12 that three ranks share, one of 10 and a dense block that two share; scores."""
    assert sizes(layer_products(EXPERTS, 2.0, 3.0))[2:] == [
        *((0.5, 20, 30, 1), (0.5, 30, 10, 1)),
        *((0.5, 8, 30, 16), (0.5, 30, 4, 16)),
        *((0.5, 10, 30, 1), (0.5, 30, 5, 1)),
        (0.5, 16, 30, 1),
    ]
    everywhere = replace(EXPERTS, routed=replace(EXPERTS.routed, layers=1.0, shared_ffn=0.0))
    assert [one.part for one in layer_products(everywhere)] == [AROUND, AROUND, ROUTED, ROUTED, ROUTER]


def test_models_of_two_kinds_side_by_side():
    """Rows of an array: an ordinary dense model, and one with latent attention and experts."""
    mixed = replace(
        GROUPED,
        latent=LatentShape(*(np.array([0.0, size]) for size in (6.0, 4.0, 2.0, 3.0, 5.0))),
        routed=ExpertShape(*(np.array([0.0, size]) for size in (16.0, 2.0, 12.0, 10.0, 1.0))),
    )
    rows = [GROUPED, replace(LATENT, routed=replace(EXPERTS.routed, layers=1.0))]
    for parts in ((AROUND,), (DENSE,), (ROUTED, SHARED, ROUTER)):
        products = [one for one in layer_products(mixed) if one.part in parts]
        weights = sum(one.share * one.groups * one.n * one.k for one in products)
        assert weights.tolist() == [part_parameters(shape, *parts) for shape in rows]
    for told in (cached_elements, ring_elements, score_flops, lambda shape: qkv_elements(shape, 1.0)):
        assert told(mixed).tolist() == [told(shape) for shape in rows]


def test_heads_that_a_kernel_sees():
    assert attention_heads(GROUPED, 4.0, 1.0) == AttentionHeads(2.0, 1.0, 4.0, 1.0, 0.0, 0.0, 1.0)
    # Keys of 5 and values of 5 for each of 8 heads; absorbed, one vector of 4 + 3, of which 4 are summed up.
    assert attention_heads(LATENT, 2.0) == AttentionHeads(4.0, 4.0, 5.0, 2.0, 0.0, 0.0, 1.0)
    assert attention_heads(LATENT, 2.0, absorbed=True) == AttentionHeads(4.0, 1.0, 3.5, 2.0, 0.0, 5.5, 1.0)
    assert attention_heads(GROUPED, 2.0, absorbed=True) == AttentionHeads(4.0, 1.0, 4.0, 2.0, 0.0, 0.0, 1.0)
    assert score_flops(LATENT) == 2 * 8 * (5 + 5)
    assert score_flops(LATENT, absorbed=True) == 2 * 8 * (7 + 4)
    assert score_flops(GROUPED, absorbed=True) == score_flops(GROUPED) == 2 * 8 * (4 + 4)


def test_windows():
    """A fourth of the layers sees two of eight tokens: 2 (1 - 2/16) in a causal pass, else 4."""
    windowed = replace(GROUPED, window=2.0, windowed=0.25)
    assert keys_seen(windowed, 8.0, causal=True) == 0.75 * 4 + 0.25 * 1.75
    assert keys_seen(windowed, 8.0, causal=False) == cached_tokens(windowed, 8.0) == 0.75 * 8 + 0.25 * 2
    assert cached_tokens(windowed, 1.0) == 1


def test_elements_of_a_token():
    """Cached: a key and a value of two heads, or one vector of 4 + 3. Queries, keys and values; the compressed ones on all."""
    assert (cached_elements(GROUPED), cached_elements(LATENT)) == (2 * 8, 7)
    assert (qkv_elements(GROUPED, 1.0), qkv_elements(GROUPED, 4.0)) == (48, 8 + 8)
    assert qkv_elements(LATENT, 2.0) == 4 * (5 + 5 + 5) + 6 + 4 + 3
    assert (ring_elements(GROUPED), ring_elements(LATENT)) == (16, 8 * (5 + 5))
    assert ffn_elements(EXPERTS) == 0.5 * 20 + 0.5 * (2 * 12 + 10)
    # Queries, output, keys, values; up, gate and their product; two norms' inputs and outputs.
    assert kept_elements(GROUPED) == KeptElements(32 + 32 + 8 + 8 + 60, 4 * 30, 80 + 40, 2 * 30)
    # 8 heads of 5, four times; selectively the output, and 13 compressed ones.
    assert kept_elements(LATENT) == KeptElements(4 * 40 + 60, 4 * 30, 40 + 40, 2 * 30 + 13)
    # A copy of a token as an expert takes it and as it gives it back, two in half of the layers.
    assert kept_elements(EXPERTS).residual == kept_elements(GROUPED).residual + 2 * 30


def test_parameters():
    """Weights, 30 + 48 biases of attention and 40 + 30 of the block, and none of the router; adapters of rank 2."""
    assert part_parameters(GROUPED, AROUND) == 48 * 30 + 30 * 32
    assert part_parameters(replace(GROUPED, biased=1.0, qkv_biased=1.0), AROUND, DENSE) == 30 * 140 + 48 + 30 + 40 + 30
    assert part_parameters(replace(GROUPED, qkv_biased=1.0), AROUND, DENSE) == 30 * 140 + 48
    assert part_parameters(replace(GROUPED, relative=1.0), AROUND) == 30 * (80 + 32)
    assert part_parameters(LATENT, AROUND) == 30 * (6 + 7) + 40 * 6 + 56 * 4 + 40 * 30
    experts = replace(EXPERTS, biased=1.0)
    assert part_parameters(experts, ROUTED) == 16 * (3 * 12 * 30 + 24 + 30)
    assert part_parameters(experts, ROUTER) == 16 * 30
    assert part_parameters(replace(experts, routed=replace(experts.routed, shared_ffn=0.0)), SHARED) == 0
    attention = Adapters(rank=2.0, qkv=1.0, qkv_readers=1.0, output=1.0)
    assert adapter_parameters(attention, layer_products(GROUPED)) == 2 * (30 + 48 + 32 + 30)
    assert adapter_parameters(replace(attention, rank=1.0), layer_products(LATENT)) == (30 + 6) + (6 + 40) + (30 + 7) + (
        4 + 56
    ) + (40 + 30)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # Elements of the checkpoints' tensors, as their pages on Hugging Face count them.
        ("Llama3_8B", 8_030_261_248),
        ("Llama2_70B", 68_976_648_192),
        ("Mixtral_8x7B", 46_702_792_704),
    ],
)
def test_published_parameters(name, parameters):
    """Products, norms and tables are all but the last norm."""
    model = Models.Language[name]
    assert model.computed_parameters == parameters - model.hidden_dim


def test_all_see_the_same_layers():
    """Training and serving multiply a token's way through one list; bounds, memory and caches follow from the same shape."""
    for model in LANGUAGE:
        shape, tokens = model.layer_shape, 4096.0
        alone, engine = Shards(1.0, 1.0, 8.0, 1.0), EngineCoefficients()
        served = ServedModel(served_shape(model), alone, serving_kernels(), engine, EngineKernels())
        load = busiest_rank(shape.routed, alone, tokens)
        told = {
            "training": list(trained_products(shape, plan(micro_batch_tokens=tokens))),
            "prompts": [each[:3] for each in served_products(served, tokens, load)],
            "decode": [each[:3] for each in served_products(served, tokens, load, decoding=True)],
        }
        flops = {}
        for who, products in told.items():
            flops[who] = dict.fromkeys((AROUND, DENSE, ROUTED, SHARED), 0.0)
            for one, rows, groups in products:
                if one.part != ROUTER:
                    flops[who][one.part] += 2 * one.share * rows * groups * one.n * one.k / tokens
        assert flops["prompts"] == pytest.approx(flops["training"]), model.name
        assert flops["decode"] == pytest.approx(flops["training"]), f"{model.name}: what is absorbed is as much arithmetic"
        trained, inferred = training_work(model, 4096), inference_work(model, "bf16", "bf16")
        counted = sum(flops["training"].values()) + 2 * shape.routed.layers * part_parameters(shape, ROUTER)
        if not model.cross_attention_layers and not model.relative_positions:
            # Bounds count a token's parameters, norms and biases among them.
            assert counted <= trained.matmul_flops <= 1.01 * counted, model.name
        assert inferred.matmul_flops == pytest.approx(model.layers * trained.matmul_flops), model.name
        body = model.layers * (trained.layer_parameters + trained.expert_parameters)
        ends = trained.embedding_parameters + trained.head_parameters - trained.tied_parameters
        assert body + ends == pytest.approx(model.computed_parameters), model.name
        seen = attention_heads(shape, 1.0, absorbed=True)
        assert 2 * 2 * seen.kv_heads * seen.head_dim * model.layers == inferred.kv_B, model.name
        assert (shape.latent == NO_LATENT) == (model.mla is None), model.name


def test_ranks_divide_the_weights_and_repeat_what_they_must():
    """Rank by rank a layer's weights are all of them, but for heads of keys beyond one a rank and what compresses."""
    for shape, repeated in ((GROUPED, 0), (LATENT, (6 + 7) * 30)):
        whole, ranked = ([one.n * one.k for one in attention_products(shape, ranks)] for ranks in (1.0, 2.0))
        assert 2 * sum(ranked) == sum(whole) + repeated
