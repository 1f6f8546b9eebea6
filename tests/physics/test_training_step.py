"""A step put together from its parts: what hides under what, the pipeline, and what a rank waits for."""

from dataclasses import replace

import pytest
from plain import plan

from mlsysim.physics.training.step import Overlap, StepParts, assemble_step, pipeline_s

# 5 layers on 2 stages (3 and 2), 6 micro-batches, 2 chunks a rank.
SPLIT = plan(pp=2.0, micro_batches=6.0, virtual_stages=2.0, zero_stage=1.0)
PARTS = StepParts(
    layer_s=10.0,
    recompute_s=2.0,
    head_s=5.0,
    tp_s=4.0,
    ep_s=3.0,
    send_s=8.0,
    dp_s=50.0,
    optimizer_s=7.0,
    cp_s=6.0,
    cp_window_s=5.0,
    head_spread=0.0,
    replica_s=1.0,
)
SHARES = Overlap(tp=0.5, cp=0.4, ep=0.5, pp=0.25, dp=0.5)


def test_parts_of_a_step():
    """A layer computes 10 + 2 = 12 s.

    Of 4 s TP half hides: 2; of the ring's 6 s, of which attention covers 5, 0.4 x 5 = 2; of 3 s of experts half: 1.5. Left
    are 12 - 2 - 2 - 1.5 = 6.5 s a layer, 13 s on the emptier stage: of 8 s of sends a quarter hides: 2; of 50 s of gradients
    half of the 11 s that are left: 5.5.
    """
    step = assemble_step(5.0, PARTS, SPLIT, SHARES)
    assert step.compute_s == 6 * (5 * 10 + 5) / 2
    passes = 6 * 5 / 2  # micro-batches x layers / stages
    assert step.recompute_s == 2 * passes
    assert step.tp_exposed_s == (4 - 2) * passes
    assert step.cp_exposed_s == (6 - 2) * passes
    assert step.ep_exposed_s == (3 - 1.5) * passes
    assert step.pp_exposed_s == (8 - 2) * 6
    assert step.dp_exposed_s == 50 - 5.5 + 1, "nothing hides the reduction between replicas"
    assert step.optimizer_s == 7
    # A layer takes 12 + 2 + 4 + 1.5 = 19.5 s, a send 6. The fuller stage 3 x 19.5 + 6 = 64.5, both 97.5 + 5 + 2 x 6 = 114.5.
    # 6 x 64.5 + (114.5 - 64.5) / 2 = 412 s, of which a rank works 6 x 114.5 / 2 = 343.5.
    assert step.bubble_s == 412 - 343.5
    assert step.total_s == 412 + 45.5 + 7


@pytest.mark.parametrize(
    ("changed", "part", "exposed"),
    [
        # Under 12 s of compute hide 12 of 20 s TP (by half: 6).
        ({"tp_s": 20.0}, "tp_exposed_s", (20 - 6) * 15),
        # All of the ring is shorter than attention: 0.4 x 3.
        ({"cp_s": 3.0}, "cp_exposed_s", (3 - 1.2) * 15),
        # Attention of 11 s: TP's 2 s leave 10: 0.4 x 10, of 30.
        ({"cp_s": 30.0, "cp_window_s": 11.0}, "cp_exposed_s", (30 - 4) * 15),
        # A ring under attention alone: a layer of 12 s hides no more of it than attention's 5 s.
        ({"cp_s": 12.0}, "cp_exposed_s", (12 - 2) * 15),
        # 12 - 2 - 2 = 8 s are left for experts: half of them, of 9.
        ({"ep_s": 9.0}, "ep_exposed_s", (9 - 4) * 15),
        # 13 s are left for sends: a quarter of them, of 20.
        ({"send_s": 20.0}, "pp_exposed_s", (20 - 3.25) * 6),
        # 11 s are left for gradients, which take 4: half.
        ({"dp_s": 4.0}, "dp_exposed_s", 4 - 2 + 1),
    ],
)
def test_what_hides_it(changed, part, exposed):
    assert getattr(assemble_step(5.0, replace(PARTS, **changed), SPLIT, SHARES), part) == pytest.approx(exposed)


@pytest.mark.parametrize(
    ("zero_stage", "whole_step", "hidden"),
    [(0.0, False, 5.5), (1.0, False, 5.5), (2.0, False, 25.0), (3.0, False, 25.0), (1.0, True, 25.0)],
)
def test_gradients_hide_under_the_passes_they_belong_to(zero_stage, whole_step, hidden):
    """Under the last micro-batch's 11 s, or (ZeRO-2, the caller's share) all six's 66 s: half of 50 s."""
    split = replace(SPLIT, zero_stage=zero_stage)
    step = assemble_step(5.0, PARTS, split, replace(SHARES, whole_step=whole_step))
    assert step.dp_exposed_s == 50 - hidden + 1


def test_one_share_for_all():
    assert Overlap.of_all(0.3) == Overlap(0.3, 0.3, 0.3, 0.3, False, 0.3)
    assert Overlap.of_all(0.3, whole_step=True).whole_step


def test_a_pipeline():
    """5 layers of 2 s and a head of 3 s on 2 stages, 4 micro-batches, sends of 1 s.

    Stages: 3 x 2 = 6, and 2 x 2 + 3 = 7 with the head. The slowest 7 + 1 = 8; both 10 + 3 + 2 = 15; 4 x 8 + (15 - 8) = 39 s,
    of which a stage works 4 x 15 / 2 = 30.
    """
    split = plan(pp=2.0, micro_batches=4.0)
    assert pipeline_s(5.0, split, 2.0, 3.0, 1.0) == (39, 30)
    # Interleaved by 7, the ramp is a seventh.
    assert pipeline_s(5.0, replace(split, virtual_stages=7.0), 2.0, 3.0, 1.0) == (33, 30)
    # The last stage has fewer layers for its head: (10 + 3) / 2 = 6.5 each, 7.5 with the send; 4 x 7.5 + 7.5.
    assert pipeline_s(5.0, split, 2.0, 3.0, 1.0, 1.0) == (37.5, 30)
    # Without a head the fuller stage is the slowest: 6 + 1; 4 x 7 + (12 - 7).
    assert pipeline_s(5.0, split, 2.0, 0.0, 1.0) == (33, 24)


def test_a_step_whose_last_stage_has_fewer_layers():
    """Stages of (5 x 12 + 5) / 2 = 32.5 s, that with three layers 36: 6 x 36 + (65 - 36), of which a rank works 6 x 32.5."""
    parts = StepParts(12.0, 0.0, 5.0, *[0.0] * 7, head_spread=1.0, replica_s=0.0)
    split = plan(pp=2.0, micro_batches=6.0)
    assert assemble_step(5.0, parts, split, SHARES).bubble_s == 216 + 29 - 195
    # Four layers: stages of 24 and, uneven by hand, (48 + 5) / 2 = 26.5; else 24 + 5 = 29.
    assert assemble_step(4.0, parts, split, SHARES).bubble_s == 5 * 26.5 + 53 - 6 * 26.5
    assert assemble_step(4.0, replace(parts, head_spread=0.0), split, SHARES).bubble_s == 5 * 29 + 53 - 6 * 26.5


def test_the_parts_by_name():
    step = assemble_step(5.0, PARTS, SPLIT, SHARES)
    names = "compute recompute tp_exposed cp_exposed ep_exposed pp_exposed dp_exposed bubble optimizer"
    assert list(step.each_s()) == names.split()
    assert step.each_s()["pp_exposed"] == 36
