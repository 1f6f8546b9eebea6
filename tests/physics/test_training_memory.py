"""Bytes of the fullest rank: weights, gradients, states, activations and buffers."""

from dataclasses import replace

import numpy as np
import pytest
from plain import plan, work

from mlsysim.physics.layer.work import FULL, NONE, SELECTIVE
from mlsysim.physics.plan import GPIPE
from mlsysim.physics.records import chosen
from mlsysim.physics.training.memory import MemoryTerms, MemoryUse, fullest_rank_B, training_memory

# 3 layers of 20 parameters and 24 of experts; 16 of the embedding, 10 of the head.
MODEL = work(
    layers=3.0,
    layer_parameters=20.0,
    expert_parameters=24.0,
    embedding_parameters=16.0,
    head_parameters=10.0,
    kept_split_B=8.0,
    kept_residual_B=4.0,
    selective_split_B=3.0,
    selective_residual_B=2.0,
    boundary_B=6.0,
    logits=5.0,
    ffn_elements=7.0,
    scores=9.0,
    routed_copies=2.0,
)


def split(**changed):
    """Two ranks of TP and EP, of eight; ten tokens; weights of 2 bytes, gradients of 4, states of 12."""
    return plan(**{"tp": 2.0, "dp": 4.0, "ep": 2.0, "micro_batch_tokens": 10.0, "gradient_B": 4.0} | changed)


@pytest.mark.parametrize(
    ("zero_stage", "weights", "gradients", "states"),
    [(0, 61, 61, 61), (1, 61, 61, 19.75), (2, 61, 19.75, 19.75), (3, 19.75, 19.75, 19.75)],
)
def test_what_zero_shards(zero_stage, weights, gradients, states):
    """(3 x 20 + 16 + 10) / 2 = 43 dense parameters in 4 copies, 3 x 24 / 4 = 18 of experts in 2: 43 / 4 + 18 / 2 = 19.75."""
    used = training_memory(MODEL, split(zero_stage=float(zero_stage)))
    assert (used.weights_B, used.gradients_B, used.optimizer_B) == (2 * weights, 4 * gradients, 12 * states)
    assert used.static_B == 2 * weights + 4 * gradients + 12 * states
    assert used.total_B == used.static_B + used.activations_B + used.buffers_B


@pytest.mark.parametrize(("mode", "kept", "rebuilt"), [(NONE, 8, 0), (SELECTIVE, 3.5, 4.5), (FULL, 6, 2)])
def test_activations_and_what_is_rebuilt(mode, kept, rebuilt):
    """8 / 2 + 4 bytes a token and layer, 3 / 2 + 2 or 6: of one layer the rest is rebuilt. 5 / 2 logits of 6 bytes."""
    used = training_memory(MODEL, split(recompute=float(mode)))
    assert used.activations_B == 3 * kept * 10 + 6 * 5 * 10 / 2
    assert used.buffers_B == rebuilt * 10


def test_sequence_parallelism_divides_the_rest():
    used = training_memory(MODEL, split(sequence_parallel=1.0, recompute=float(SELECTIVE)))
    assert used.activations_B == 3 * (3 + 2) / 2 * 10 + 150
    assert used.buffers_B == ((8 + 4) / 2 - 5 / 2) * 10


def test_gathered_layers():
    """ZeRO-3 holds two layers of 20 / 2 + 24 / 4 = 16 parameters gathered."""
    assert training_memory(MODEL, split(zero_stage=3.0)).buffers_B == 2 * 2 * 16
    assert training_memory(MODEL, split(zero_stage=2.0)).buffers_B == 0
    assert training_memory(MODEL, split(zero_stage=3.0, dp=4.0, ep=4.0)).buffers_B == 2 * 2 * 10, "experts without a copy stay"
    assert training_memory(MODEL, split(zero_stage=3.0, dp=1.0, ep=1.0)).buffers_B == 0, "one rank has all"
    one_alone = MemoryTerms(gathered_layers=1.0)
    assert training_memory(MODEL, split(zero_stage=3.0), one_alone).buffers_B == 2 * 16, "a loop over layers holds one"


def test_the_first_stage_and_the_last():
    """First: 2 layers, 16 of the embedding, two micro-batches. Last: 1 layer, 10 of the head, one micro-batch and logits."""
    deep = split(pp=2.0, micro_batches=4.0)
    first = training_memory(MODEL, deep)
    assert first.weights_B == 2 * ((2 * 20 + 16) / 2 + 2 * 6)
    assert first.activations_B == 2 * 8 * 10 * 2
    heavy = replace(MODEL, logits=500.0)
    last = training_memory(heavy, deep)
    assert last.weights_B == 2 * ((20 + 10) / 2 + 6)
    assert last.activations_B == 8 * 10 + 6 * 500 * 10 / 2
    assert (fullest_rank_B(MODEL, deep), fullest_rank_B(heavy, deep)) == (first.total_B, last.total_B)
    gpipe = training_memory(MODEL, replace(deep, schedule=float(GPIPE)))
    assert gpipe.activations_B == 2 * 8 * 10 * 4


@pytest.mark.parametrize(
    ("terms", "activations"),
    [
        # (7 ffn + 9 scores) over two ranks, 3 residual elements whole, a token and layer.
        ({"ffn_B": 2.0}, 3 * (8 + 14 / 2) * 10 + 150),
        ({"score_B": 2.0}, 3 * (8 + 18 / 2) * 10 + 150),
        ({"norm_B": 2.0}, 3 * (8 + 6) * 10 + 150),
        # One byte less of 7 / 2 elements of the activation function, and of 2 x 3 of two norms.
        ({"input_B": 1.0}, 3 * (8 - 3.5 - 6) * 10 + 150),
        # Half of two copies of 6 bytes, there and back: 12.
        ({"routed_kept": 0.5}, 3 * (8 - 12) * 10 + 150),
        ({"fragmentation": 1.5}, 1.5 * (240 + 150)),
        ({"logit_B": 8.0}, 240 + 8 * 5 * 10 / 2),
        ({"logits_split": 0.0}, 240 + 6 * 5 * 10),
        ({"offloaded": 0.5}, 240 + 150),
        ({"on_host": 0.75}, 240 / 4 + 150),
        ({"in_flight": 2.0}, 240 + 150),
    ],
)
def test_what_a_stack_keeps(terms, activations):
    assert training_memory(MODEL, split(), MemoryTerms(**terms)).activations_B == activations


def test_what_a_stack_keeps_beside_recomputation():
    """Selective recomputation repeats unfused passes; copies of routed tokens that are not kept spare it 12 bytes, too."""
    selective = split(recompute=float(SELECTIVE))
    used = training_memory(MODEL, selective, MemoryTerms(routed_kept=0.5, ffn_B=2.0, fragmentation=2.0))
    assert used.activations_B == 2 * (3 * (3.5 - 12) * 10 + 150)
    assert used.buffers_B == 2 * ((8 + 7 - 12) - (3.5 - 12)) * 10
    waits = training_memory(MODEL, selective, MemoryTerms(offloaded=0.75))
    assert waits.activations_B == 3 * 3.5 * 10 / 4 + 150, "a quarter of what is kept is on the accelerator"


def test_what_a_stack_holds_in_flight_and_adds_to_states():
    deep = split(pp=2.0, micro_batches=4.0)
    assert training_memory(MODEL, deep, MemoryTerms(in_flight=1.0)).activations_B == 2 * 8 * 10 * 3
    assert training_memory(MODEL, deep, MemoryTerms(in_flight=9.0)).activations_B == 2 * 8 * 10 * 4, "no more than there are"
    assert training_memory(MODEL, split(), MemoryTerms(extra_optimizer_B=-2.0)).optimizer_B == 10 * 61


def test_adapters():
    """Frozen weights have no gradients and no states: adapters of 2 x 3 over two ranks alone."""
    adapted = replace(MODEL, frozen=1.0, adapter_parameters=2.0)
    used = training_memory(adapted, split())
    assert (used.weights_B, used.gradients_B, used.optimizer_B) == (2 * (43 + 3 + 18), 4 * 3, 12 * 3)
    assert training_memory(adapted, split(zero_stage=2.0)).gradients_B == 4 * 3 / 4


def test_plan_by_plan():
    low, high = (MemoryUse(*(np.full(2, size) for _ in range(5))) for size in (1.0, 2.0))
    assert chosen(np.array([True, False]), low, high).total_B.tolist() == [5, 10]
    two = split(zero_stage=np.array([0.0, 3.0]))
    used = training_memory(MODEL, two)
    assert used.buffers_B.tolist() == [0, 64]
    assert used.weights_B.tolist() == [122, 39.5]
