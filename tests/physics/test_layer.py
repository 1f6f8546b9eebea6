"""The work, the parameters and the activations of a layer; the pieces that a rank owns."""

from dataclasses import replace

import pytest
from plain import plan, three_layers, work

from mlsysim.physics.layer.context_parallel import ring_passes_B, ring_passes_memory_B
from mlsysim.physics.layer.sharding import (
    first_stage_ends,
    fullest_stage,
    last_stage_ends,
    rank_parameters,
    stage_parameters,
    trained_parameters,
)
from mlsysim.physics.layer.work import (
    FULL,
    NONE,
    SELECTIVE,
    kept_activation_B,
    recomputed_flops,
)

MODEL = three_layers()
FROZEN = work(matmul_flops=100.0, attention_flops=30.0, head_flops=40.0, adapter_parameters=2.0, frozen=1.0)


def test_arithmetic_of_a_token():
    """A pass forward, two backward: 3 x 100 + 3 x 30, adapters 3 x 2 x 2 FLOP; three layers, and a head of 3 x 40."""
    assert MODEL.layer_flops == 100 + 30
    assert MODEL.trained_layer_flops == 300 + 12 + 90
    assert MODEL.training_flops == 3 * 402 + 120
    assert MODEL.training_flops_full_attention == 3 * (300 + 12 + 180) + 120
    # Frozen weights have no gradient of their own: 2 x 100, 2 x 40.
    assert FROZEN.trained_layer_flops == 200 + 12 + 90
    assert FROZEN.training_flops == 302 + 80


def test_sizes_of_a_model():
    assert MODEL.parameters == 3 * (20 + 24) + 10 + 14 - 6
    assert MODEL.logits_B == 5 * (2 + 4)


@pytest.mark.parametrize(("mode", "flops"), [(NONE, 0), (SELECTIVE, 30), (FULL, 130)])
def test_recomputed_arithmetic(mode, flops):
    assert recomputed_flops(MODEL, float(mode)) == flops


@pytest.mark.parametrize(
    ("mode", "tp", "sequence_parallel", "kept"),
    [
        (NONE, 2, 0, 8 / 2 + 4),
        (NONE, 2, 1, 8 / 2 + 4 / 2),
        (SELECTIVE, 2, 0, 3 / 2 + 2),
        (SELECTIVE, 2, 1, 3 / 2 + 2 / 2),
        (FULL, 2, 0, 6),
        (FULL, 2, 1, 6 / 2),
    ],
)
def test_activations_of_a_token(mode, tp, sequence_parallel, kept):
    assert kept_activation_B(MODEL, float(mode), float(tp), float(sequence_parallel)) == kept


def test_parameters_of_a_rank():
    """(2 layers x (20 + 2) + 7 of the ends) / 2 ranks of TP; 2 x 24 of experts over 2 x 4 ranks."""
    split = plan(tp=2.0, dp=8.0, ep=4.0, cp=2.0)
    found = rank_parameters(MODEL, split, 2.0, 7.0)
    assert (found.dense, found.expert, found.whole) == (51 / 2, 6, 31.5)
    # 8 x 2 ranks hold the same dense ones, 2 x 16 / (2 x 4) = 4 the same experts.
    assert found.sharded(split) == 51 / 2 / 16 + 6 / 4
    assert found.sharded(plan(tp=2.0, dp=8.0, ep=4.0, cp=2.0, shard_copies=2.0)) == 2 * (51 / 32 + 1.5)
    # Of four copies of experts no more than four groups have one each: eight groups hold what four do.
    groups = [plan(tp=2.0, dp=8.0, ep=4.0, cp=2.0, shard_copies=number) for number in (4.0, 8.0, 16.0)]
    assert [found.sharded(each) for each in groups] == [51 / 2 / shards + 6 for shards in (4, 2, 1)]
    # Experts whole on a rank.
    assert rank_parameters(MODEL, plan(tp=2.0, dp=8.0, ep=4.0, expert_tp=1.0), 2.0, 7.0).expert == 12


def test_parameters_with_gradients():
    split = plan(tp=2.0)
    assert trained_parameters(MODEL, split, 2.0, 7.0) == rank_parameters(MODEL, split, 2.0, 7.0)
    frozen = work(adapter_parameters=2.0, expert_parameters=24.0, frozen=1.0)
    every, trained = stage_parameters(frozen, split, 3.0, 8.0)
    assert (every.dense, every.expert) == ((3 * 2 + 8) / 2, 36)
    assert (trained.dense, trained.expert) == (3 * 2 / 2, 0), "the adapters alone"


def test_ends_of_the_pipeline():
    """10 of the embedding, 14 of the head, 6 of them the same: where both share a rank, 18."""
    alone, deep = plan(), plan(pp=2.0)
    assert (first_stage_ends(MODEL, alone), last_stage_ends(MODEL, alone)) == (18, 18)
    assert (first_stage_ends(MODEL, deep), last_stage_ends(MODEL, deep)) == (10, 14)


def test_the_fullest_stage():
    """2 of 3 layers and the head: 2 x 22 + 14; experts 2 x 24."""
    every, trained = fullest_stage(MODEL, plan(pp=2.0))
    assert (every.dense, every.expert) == (58, 48)
    assert trained == every


def test_a_ring():
    """Each rank's 5 bytes to 4 - 1 others: forward, backward, gradients; full recomputation once more."""
    assert [ring_passes_B(5.0, 4.0, float(mode)) for mode in (NONE, SELECTIVE, FULL)] == [45, 45, 60]


def test_what_a_ring_moves_beside_attention():
    """8 bytes of 5 elements and 7 for each of 4 - 1 ranks, backward 4 and 6; of 2 of keys and values 4 + 3 x 2, and 5 x 4."""
    assert ring_passes_memory_B(5.0, 2.0, 4.0, 7.0, backward=False) == 5 * (8 + 3 * 7) + 2 * (4 + 3 * 2)
    assert ring_passes_memory_B(5.0, 2.0, 4.0, 7.0, backward=True) == 5 * (4 + 3 * 6) + 2 * 5 * 4
    assert [ring_passes_memory_B(5.0, 2.0, 1.0, 7.0, backward=backward) for backward in (False, True)] == [0, 0]


def test_ranks_of_tensor_parallelism_repeat_what_compresses():
    """12 parameters and 2 of adapters a layer: 4 of them whole on each of 2 ranks, the rest and 6 at the ends halved."""
    repeated = work(layer_parameters=12.0, adapter_parameters=2.0, undivided_parameters=4.0)
    assert rank_parameters(repeated, plan(tp=2.0), 3.0, 6.0).dense == (3 * 10 + 6) / 2 + 3 * 4
    assert trained_parameters(replace(repeated, frozen=1.0), plan(tp=2.0), 3.0, 6.0).dense == 3 * 2 / 2
