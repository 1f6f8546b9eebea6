"""Ranks of a plan, its stages and what they hold."""

import numpy as np
import pytest
from plain import plan

from mlsysim.physics.plan import GPIPE, INTERLEAVED, ONE_F_ONE_B, held_by_first_stage, held_by_last_stage, stage_layers


def test_groups_of_ranks():
    """2 x 3 x 5 x 7 = 210 ranks; a stage's 2 x 5 x 7 = 70 hold experts: split over 2, spread over 5, 7 copies."""
    split = plan(tp=2.0, pp=3.0, dp=5.0, cp=7.0, ep=5.0)
    assert (split.ranks, split.data_ranks) == (210, 35)
    assert (split.expert_split, split.expert_copies) == (2, 7)
    alone = plan(tp=2.0, pp=3.0, dp=5.0, cp=7.0, ep=5.0, expert_tp=1.0)
    assert (alone.expert_split, alone.expert_copies) == (1, 14)
    assert split.routed_from == 1, "each rank of TP routes all tokens"
    assert plan(tp=2.0, sequence_parallel=1.0).routed_from == 2


@pytest.mark.parametrize(
    ("group", "stride", "together"),
    [(4.0, 1.0, 4), (16.0, 1.0, 8), (16.0, 2.0, 4), (16.0, 3.0, 2), (16.0, 8.0, 1), (16.0, 16.0, 1), (1.0, 1.0, 1)],
)
def test_ranks_of_a_group_in_a_node_of_eight(group, stride, together):
    assert plan().ranks_in_node(group, stride, 8.0) == together


@pytest.mark.parametrize(("layers", "pp", "most_and_least"), [(8, 4, (2, 2)), (9, 4, (3, 2)), (7, 1, (7, 7))])
def test_layers_of_a_stage(layers, pp, most_and_least):
    assert stage_layers(float(layers), float(pp)) == most_and_least


@pytest.mark.parametrize(
    ("schedule", "pp", "chunks", "micro_batches", "first", "last"),
    [
        (GPIPE, 4, 1, 16, 16, 16),
        (ONE_F_ONE_B, 4, 1, 16, 4, 1),
        (ONE_F_ONE_B, 4, 1, 3, 3, 1),
        (INTERLEAVED, 4, 2, 16, 4 + 3 / 2, 1 + 3 * 1 / 2),
        (INTERLEAVED, 4, 3, 16, 4 + 3 / 3, 1 + 3 * 2 / 3),
        (INTERLEAVED, 4, 2, 2, 2, 2),
        (GPIPE, 1, 1, 16, 1, 1),
        (ONE_F_ONE_B, 1, 1, 16, 1, 1),
        (ONE_F_ONE_B, 2, 1, 16, 2, 1),
    ],
)
def test_micro_batches_in_flight(schedule, pp, chunks, micro_batches, first, last):
    split = plan(schedule=schedule, pp=float(pp), virtual_stages=float(chunks), micro_batches=float(micro_batches))
    assert (held_by_first_stage(split), held_by_last_stage(split)) == (first, last)


def test_many_plans_at_once():
    split = plan(pp=np.array([1.0, 4.0]), micro_batches=np.array([16.0, 3.0]))
    assert held_by_first_stage(split).tolist() == [1, 3]
    assert split.ranks_in_node(np.array([4.0, 16.0]), 2.0, 8.0).tolist() == [4, 4]
