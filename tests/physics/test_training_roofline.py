"""The parts of a step by roofline, at a few FLOP and bytes a second."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from plain import machine, plan, three_layers, work

from mlsysim.physics.layer.work import FULL, NONE, SELECTIVE
from mlsysim.physics.training.roofline_step import (
    data_parallel_s,
    expert_parallel_s,
    pipeline_send_s,
    ring_exchange_s,
    roofline_parts,
    tensor_parallel_s,
    training_step,
)
from mlsysim.physics.training.step import Overlap

MODEL = three_layers(routed_copies=2.0, reductions=2.0, key_value_B=12.0)
COUNTS = machine(rate_flops_per_s=5.0, memory_Bps=inf)
READS = machine(rate_flops_per_s=inf)
SLOW = machine(intra_Bps=4.0, inter_Bps=1.0)


def split(**changed):
    """Two ranks of TP and EP, ten tokens; weights of 2 bytes, gradients of 4."""
    return plan(**{"tp": 2.0, "dp": 4.0, "ep": 2.0, "micro_batch_tokens": 10.0, "gradient_B": 4.0} | changed)


def test_arithmetic():
    """A layer: 3 x 100 of its weights, 3 x 2 x 2 of adapters, 3 x 30 of attention = 402 FLOP a token; the head 3 x 40."""
    parts = roofline_parts(MODEL, split(), COUNTS)
    assert parts.layer_s == 402 * 10 / 2 / 5
    assert parts.head_s == 120 * 10 / 2 / 5
    assert parts.cp_window_s == 3 * 30 * 10 / 2 / 5, "the ring hides under attention alone"
    waits = roofline_parts(MODEL, split(), machine(rate_flops_per_s=5.0, memory_Bps=0.5))
    assert waits.layer_s == (12 * 17 + 2 * 8 * 10) / 0.5, "... but for the time that a layer waits for memory"
    assert waits.cp_window_s == waits.layer_s - 312 * 10 / 2 / 5


@pytest.mark.parametrize(("mode", "flops"), [(NONE, 0), (SELECTIVE, 30), (FULL, 130)])
def test_recomputation_repeats_the_forward_pass(mode, flops):
    assert roofline_parts(MODEL, split(recompute=float(mode)), COUNTS).recompute_s == flops * 10 / 2 / 5


def test_traffic():
    """Weights are read twice, gradients read and written, activations written and read: 2 x 2 + 2 x 4 = 12 bytes a parameter.

    A rank has (20 + 2) / 2 + 24 / (2 x 2) = 17 parameters, and keeps 8 / 2 + 4 = 8 bytes a token. The head has 14 parameters
    and 5 logits of 2 + 4 bytes.
    """
    parts = roofline_parts(MODEL, split(), READS)
    assert parts.layer_s == 12 * 17 + 2 * 8 * 10
    assert parts.head_s == (12 * 14 + 2 * 30 * 10) / 2
    # Sequence parallelism keeps (8 + 4) / 2; what is recomputed is written and read when it is rebuilt.
    assert roofline_parts(MODEL, split(sequence_parallel=1.0), READS).layer_s == 12 * 17 + 2 * 6 * 10
    assert roofline_parts(MODEL, split(recompute=float(FULL)), READS).layer_s == parts.layer_s


def test_frozen_weights_have_no_gradients_to_move():
    """17 parameters are read twice, the gradients of one adapter parameter are read and written; the head's are neither."""
    parts = roofline_parts(replace(MODEL, frozen=1.0), split(), READS)
    assert parts.layer_s == 2 * 2 * 17 + 2 * 4 * 1 + 2 * 8 * 10
    assert parts.head_s == (2 * 2 * 14 + 2 * 30 * 10) / 2


@pytest.mark.parametrize(("zero_stage", "parameters"), [(0, 45 + 18), (1, 45 / 4 + 18 / 2), (3, 45 / 4 + 18 / 2)])
def test_the_optimizer_reads_and_writes_its_states(zero_stage, parameters):
    """2 x 12 + 4 + 2 = 30 bytes a parameter.

    The one stage has (3 x 22 + 10 + 14) / 2 = 45 dense ones, of which ZeRO leaves a rank a fourth, and 3 x 24 / 4 = 18 of
    experts, in two copies.
    """
    untied = work(layers=3.0, layer_parameters=22.0, expert_parameters=24.0, embedding_parameters=10.0, head_parameters=14.0)
    parts = roofline_parts(untied, split(zero_stage=float(zero_stage)), READS)
    assert parts.optimizer_s == 30 * parameters


@pytest.mark.parametrize(("mode", "passes"), [(NONE, 2), (SELECTIVE, 2), (FULL, 3)])
def test_tensor_parallel_exchanges(mode, passes):
    """2 reductions a pass, each 2 x 1/2 x 6 x 10 bytes at 4 B/s: 15 s; forward, backward, and when all is repeated."""
    assert tensor_parallel_s(MODEL, split(recompute=float(mode)), SLOW) == passes * 2 * 15
    assert roofline_parts(MODEL, split(recompute=float(mode)), SLOW).tp_s == passes * 30


def test_tensor_parallelism_across_nodes():
    """16 ranks on two nodes: their rings use 8 cards of 1 B/s, no more than the link inside: 2 x 15/16 x 60 / 4 = 28.125."""
    assert tensor_parallel_s(MODEL, split(tp=16.0), SLOW) == 4 * 28.125
    assert tensor_parallel_s(MODEL, split(tp=16.0), machine(intra_Bps=100.0)) == 4 * 112.5 / 8
    assert tensor_parallel_s(MODEL, split(tp=8.0), machine(intra_Bps=105.0)) == 4 * 1, "eight share a node"


@pytest.mark.parametrize(("mode", "exchanges"), [(NONE, 4), (SELECTIVE, 4), (FULL, 6)])
def test_experts_exchange_tokens(mode, exchanges):
    """Dispatch and combine, forward and backward: 4, and with the repeated forward pass 6.

    Two ranks in one node: a token goes to 2 random ranks of 2, which is 1.5 different ones, half of them elsewhere:
    60 bytes x 1.5 / 2 = 45 bytes at 4 B/s.
    """
    assert expert_parallel_s(MODEL, split(recompute=float(mode)), SLOW) == exchanges * 45 / 4
    # With sequence parallelism each rank of TP sends half of the tokens.
    assert expert_parallel_s(MODEL, split(sequence_parallel=1.0, recompute=float(mode)), SLOW) == exchanges * 45 / 8
    assert roofline_parts(MODEL, split(recompute=float(mode)), SLOW).ep_s == exchanges * 45 / 4


def test_experts_across_nodes():
    """Ranks 8 apart share no node: 45 bytes at the network's 1 B/s, thinned twice."""
    assert expert_parallel_s(MODEL, split(tp=8.0), SLOW) == 4 * 45
    assert expert_parallel_s(MODEL, split(tp=8.0), machine(intra_Bps=4.0, oversubscription=2.0)) == 4 * 90
    assert expert_parallel_s(MODEL, split(tp=8.0, expert_tp=1.0), SLOW) == 4 * 45 / 4
    assert expert_parallel_s(work(boundary_B=6.0), split(), SLOW) == 0, "no experts"


@pytest.mark.parametrize(("mode", "rounds"), [(NONE, 3), (SELECTIVE, 3), (FULL, 4)])
def test_a_ring_passes_keys_and_values(mode, rounds):
    """12 x 10 / 2 = 60 bytes to 4 - 1 others: forward, backward and their gradients, at 4 B/s."""
    ring = split(cp=4.0, recompute=float(mode))
    assert ring_exchange_s(MODEL, ring, SLOW) == rounds * 3 * 60 / 4
    assert roofline_parts(MODEL, ring, SLOW).cp_s == rounds * 3 * 60 / 4


def test_a_ring_across_nodes():
    """8 ranks, 2 apart: 4 of them share a node and its 4 cards of 1 B/s; 8 apart, each has one."""
    assert ring_exchange_s(MODEL, split(cp=8.0), machine(intra_Bps=100.0)) == 3 * 7 * 60 / 4
    assert ring_exchange_s(MODEL, split(cp=8.0, tp=8.0), machine(intra_Bps=100.0)) == 3 * 7 * 15
    assert ring_exchange_s(MODEL, split(cp=4.0), machine(intra_Bps=60.0)) == 3 * 3, "4 x 2 ranks fill a node"


def test_sends_between_stages():
    """Activations forward and gradients back: 2 x 6 x 10 = 120 bytes, for each of the chunks."""
    assert pipeline_send_s(MODEL, split(pp=1.0), SLOW) == 0
    assert pipeline_send_s(MODEL, split(pp=2.0), SLOW) == 120, "16 ranks: over the network"
    assert pipeline_send_s(MODEL, split(pp=2.0, virtual_stages=3.0), SLOW) == 360
    assert pipeline_send_s(MODEL, split(pp=2.0, dp=2.0), SLOW) == 120 / 4, "8 ranks: inside a node"
    assert pipeline_send_s(MODEL, split(pp=2.0, sequence_parallel=1.0), SLOW) == 60
    assert roofline_parts(MODEL, split(pp=2.0), SLOW).send_s == 120


# One layer of 20 parameters that two ranks of TP share: 10 of 2-byte weights and 4-byte gradients, on 4 replicas.
DENSE = work(layer_parameters=20.0)


@pytest.mark.parametrize(
    ("zero_stage", "micro_batches", "moved"),
    [
        (0, 1, 4 * 10 + 4 * 10),  # an all-reduce: reduce-scatter and all-gather of gradients
        (0, 5, 4 * 10 + 4 * 10),
        (1, 5, 4 * 10 + 2 * 10),  # gradients scattered, weights gathered
        (2, 5, 4 * 10 * 5 + 2 * 10),  # gradients scattered in each micro-batch
        (3, 5, 4 * 10 * 5 + 2 * 10 * 2 * 5),  # and weights gathered twice in each
    ],
)
def test_replicas_reduce_and_gather(zero_stage, micro_batches, moved):
    four = split(zero_stage=float(zero_stage), micro_batches=float(micro_batches))
    assert data_parallel_s(DENSE, four, SLOW) == 3 / 4 * moved / 4
    assert roofline_parts(DENSE, four, SLOW).dp_s == 3 / 4 * moved / 4


def test_replicas_across_nodes():
    """80 bytes on 16 ranks, 2 apart: four in a node, whose 4 cards give 4 B/s; the two experts' ranks are 4 apart: two cards.

    24 parameters of experts over 2 x 2 ranks: 6, with 8 copies: 7/8 x 48 bytes.
    """
    links = machine(intra_Bps=100.0)
    assert data_parallel_s(DENSE, split(dp=16.0), links) == 15 / 16 * 80 / 4
    assert data_parallel_s(work(expert_parameters=24.0), split(dp=16.0), links) == 7 / 8 * 48 / 2
    assert data_parallel_s(work(expert_parameters=24.0), split(dp=4.0), links) == 1 / 2 * 48 / 100
    assert data_parallel_s(DENSE, split(dp=4.0), links) == 3 / 4 * 80 / 100


def test_hybrid_sharding():
    """8 data ranks in 2 groups of 4: within a group 3/4 x 60 bytes at 100 B/s; each rank's 10/4 gradients between two groups.

    A ring of two over one card of 1 B/s: 2 x 1/2 x 4 x 10/4 = 10 s.
    """
    hybrid = split(dp=8.0, zero_stage=1.0, shard_copies=2.0)
    links = machine(intra_Bps=100.0)
    assert data_parallel_s(DENSE, hybrid, links) == pytest.approx(3 / 4 * 60 / 100 + 10)
    routed = work(expert_parameters=24.0)  # 6 of a rank, with 4 copies, 2 of them in a group
    assert data_parallel_s(routed, hybrid, links) == pytest.approx(1 / 2 * 36 / 100 + 4 * 6 / 2)
    # Four groups of one rank reduce dense gradients among four, and those of experts, of which there are two copies, among two.
    whole = split(dp=4.0, zero_stage=1.0, shard_copies=4.0)
    assert data_parallel_s(routed, whole, links) == pytest.approx(4 * 6)
    assert data_parallel_s(DENSE, whole, links) == pytest.approx(2 * 3 / 4 * 4 * 10)


def test_frozen_weights_are_gathered_and_not_reduced():
    """Adapters of 2 parameters on two ranks: 1, that is reduced; 11 are gathered with ZeRO-3."""
    adapted = work(layer_parameters=20.0, adapter_parameters=2.0, frozen=1.0)
    assert data_parallel_s(adapted, split(), SLOW) == 3 / 4 * (4 + 4) / 4
    assert data_parallel_s(adapted, split(zero_stage=3.0), SLOW) == 3 / 4 * (4 + 2 * 2 * 11) / 4


def test_a_step_of_one_layer():
    """402 x 10 / 2 + 600 of the head; two reductions forward and two backward of 15 s at 4 B/s; nothing hides."""
    fast = machine(memory_Bps=inf, intra_Bps=4.0)
    step = training_step(MODEL, split(dp=1.0, ep=1.0), fast, Overlap.of_all(0.0))
    assert step.compute_s == 3 * 2010 + 600
    assert step.tp_exposed_s == 3 * 4 * 15
    assert step.total_s == step.compute_s + step.tp_exposed_s
    hidden = training_step(MODEL, split(dp=1.0, ep=1.0), fast, Overlap.of_all(1.0))
    assert hidden.total_s == step.compute_s


def test_one_rank_exchanges_nothing():
    assert data_parallel_s(DENSE, split(dp=1.0), SLOW) == 0
    assert tensor_parallel_s(MODEL, split(tp=1.0), SLOW) == 0
    assert np.all(expert_parallel_s(MODEL, split(ep=np.array([1.0, 1.0])), SLOW) == 0)
