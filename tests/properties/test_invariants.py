"""What must hold of every prediction, whatever the workload, the fleet and the plan.

Faster hardware never slows a step; parts sum to the whole; nothing beats the bound; arrays of plans give what each plan
gives alone; the search finds what trying every plan finds.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import fields, replace

import numpy as np
import pytest
from drawn import FEW, KNOBS, MANY, ROUNDING, assert_sound, divisors, hardware, seconds, trainings, transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from random_systems import either

from mlsysim.core.errors import InputError
from mlsysim.core.units import Q_
from mlsysim.lowering.work import inference_work, training_work
from mlsysim.models.parameters import embedding_width
from mlsysim.models.registry import Models
from mlsysim.physics.layer.work import FULL, NONE, SELECTIVE
from mlsysim.physics.machine import Machine
from mlsysim.physics.plan import GPIPE, INTERLEAVED, ONE_F_ONE_B, Plan
from mlsysim.physics.training.memory import MEMORY_PARTS, training_memory
from mlsysim.physics.training.roofline_step import training_step
from mlsysim.physics.training.step import Overlap, StepParts, StepTime, assemble_step
from mlsysim.solvers.training.distributed import DistributedModel
from mlsysim.solvers.training.parallelism import PAPER_OVERLAP, ParallelismOptimizer


@MANY
@given(trainings())
def test_a_step_is_the_sum_of_its_parts_and_no_better_than_its_efficiency(training):
    step = training.solve()
    assert_sound(step, "step_latency_total")
    assert sum(part.m_as("byte") for part in step.memory.values()) == pytest.approx(
        step.memory_per_accelerator.m_as("byte"), rel=ROUNDING
    )
    efficiency = training.asked["efficiency"]
    assert 0 < step.mfu <= (efficiency or 1.0) * (1 + ROUNDING)
    assert step.mfu <= step.mfu_full_attention * (1 + ROUNDING)
    assert step.scaling_efficiency == pytest.approx(step.mfu / (efficiency or 1.0))
    assert step.basis == ("bound" if efficiency is None else "efficiency")
    assert step.feasible == (not step.reason)
    plan = step.plan
    assert plan["tp"] * plan["pp"] * plan["dp"] == training.per_node * training.nodes
    assert plan["dp"] * plan["micro_batches"] * plan["micro_batch_tokens"] == (
        training.asked["batch_size"] * training.asked["seq_len"]
    )


@MANY
@given(trainings(), st.floats(1.01, 10.0))
def test_faster_hardware_never_slows_a_step(training, factor):
    before = seconds(training.solve())
    for knob in KNOBS:
        after = seconds(training.solve(training.hardware.faster(knob, factor)))
        assert after <= before * (1 + ROUNDING), f"{knob} x {factor}"
    everything = training.hardware
    for knob in KNOBS:
        everything = everything.faster(knob, factor)
    assert seconds(training.solve(everything)) == pytest.approx(before / factor), "time scales with speed"


OVERLAPS = st.builds(Overlap, *[st.sampled_from([0.0, 0.85, 1.0])] * 4, st.booleans())
SECONDS = st.sampled_from([0.0, 0.5, 1.0, 1.5, 10.0])


@settings(MANY, max_examples=300)
@given(
    st.integers(3, 9),
    st.sampled_from([1, 2, 3]),
    st.integers(1, 12),
    st.builds(StepParts, *[SECONDS] * len(fields(StepParts))),
    OVERLAPS,
    st.sampled_from([0.5, 0.9]),
)
def test_a_faster_part_never_slows_the_whole(layers, pp, passes, parts, overlap, factor):
    """Even with stages of unequal length: what hides under a stage is no more than that stage computes."""
    split = Plan(
        1.0,
        float(pp),
        1.0,
        1.0,
        1.0,
        float(passes),
        64.0,
        0.0,
        0.0,
        float(NONE),
        float(ONE_F_ONE_B),
        2.0,
        2.0,
        12.0,
        1.0,
        0.0,
        1.0,
    )
    before = assemble_step(float(layers), parts, split, overlap).total_s
    for part in fields(StepParts):
        if part.name in ("cp_window_s", "head_spread"):
            continue  # a part of the layer's own time, and no time at all
        faster = replace(parts, **{part.name: factor * getattr(parts, part.name)})
        assert assemble_step(float(layers), faster, split, overlap).total_s <= before * (1 + ROUNDING), part.name


@MANY
@given(trainings())
def test_nothing_beats_the_bound(training):
    step = training.solve()
    bound = {
        "efficiency": None,
        "overlap_comm": True,
        "overlap_efficiency": None,
        "straggler_factor": 1.0,
        "congestion_factor": 1.0,
        "recompute": step.plan["recompute"],
    }
    assert seconds(training.solve(**bound)) <= seconds(step) * (1 + ROUNDING)


@MANY
@given(trainings())
def test_twice_the_batch_takes_at_most_twice_the_time(training):
    training = replace(training, asked={**training.asked, "recompute": training.asked["recompute"] or "none"})
    once, batch = seconds(training.solve()), 2 * training.asked["batch_size"]
    passes = training.asked["microbatch_count"]
    for twice in (training.solve(batch_size=batch, microbatch_count=2 * passes), training.solve(batch_size=batch)):
        assert once * (1 - ROUNDING) <= seconds(twice) <= 2 * once * (1 + ROUNDING)


@MANY
@given(trainings())
def test_hiding_more_never_slows_a_step(training):
    asked = {key: value for key, value in training.asked.items() if not key.startswith("overlap")}
    training = replace(training, asked=asked)
    shares = [seconds(training.solve(overlap_efficiency=share)) for share in (1.0, 0.6, 0.0)]
    assert shares == sorted(shares)
    assert seconds(training.solve(overlap_comm=False)) == pytest.approx(shares[-1])


@FEW
@given(trainings())
def test_recomputation_trades_time_for_memory(training):
    asked = {key: value for key, value in training.asked.items() if not key.startswith("overlap")}
    none, selective, full = (
        DistributedModel().solve(
            training.model,
            training.hardware.fleet(training.per_node, training.nodes),
            **{**asked, "overlap_comm": False, "recompute": mode},
        )
        for mode in ("none", "selective", "full")
    )
    # Of the whole rank: with fewer activations another stage may be the fullest.
    needed = [step.memory_per_accelerator.m_as("byte") for step in (full, selective, none)]
    assert needed == sorted(needed)
    assert seconds(none) <= seconds(selective) * (1 + ROUNDING)
    assert seconds(none) <= seconds(full) * (1 + ROUNDING)


@FEW
@given(trainings(), st.sampled_from([0.9, 0.999, 1.05, 2.0]))
def test_recomputation_is_the_cheapest_that_fits(training, room):
    """With a device that just holds, or just not, what each mode needs."""
    modes = ("none", "selective", "full")
    for needed in {training.solve(recompute=mode).memory_per_accelerator.m_as("byte") for mode in modes}:
        chip = replace(training.hardware, capacity=room * needed)
        each = [training.solve(chip, recompute=mode) for mode in modes]
        fitting = [step for step in each if step.feasible]
        assert training.solve(chip, recompute=None) == (fitting or each)[0]


@FEW
@given(trainings(), st.floats(1.0, 5.0))
def test_stragglers_and_congestion_slow_what_they_touch(training, factor):
    training = replace(training, asked={**training.asked, "recompute": "none", "straggler_factor": 1.0})
    base, late = training.solve(), training.solve(straggler_factor=factor)
    for part in ("compute", "optimizer"):
        assert late.breakdown[part].m_as("s") == pytest.approx(factor * base.breakdown[part].m_as("s"))
    assert seconds(late) >= seconds(base) * (1 - ROUNDING)
    base = training.solve(congestion_factor=1.0)
    slower = replace(training.hardware, inter=training.hardware.inter / factor)
    crowded = seconds(training.solve(congestion_factor=factor))
    assert crowded == pytest.approx(seconds(training.solve(slower, congestion_factor=1.0)))
    assert crowded >= seconds(base) * (1 - ROUNDING)


UNITS = {
    "step_latency_total": "second",
    "throughput": "count/second",
    "tokens_per_second": "count/second",
    "flops_per_accelerator": "flop/second",
    "memory_per_accelerator": "byte",
}


@FEW
@given(trainings())
def test_a_training_result_carries_its_dimensions(training):
    step = training.solve()
    for name, unit in UNITS.items():
        assert getattr(step, name).dimensionality == Q_(1, unit).dimensionality, name
    assert all(part.dimensionality == Q_("1 s").dimensionality for part in step.breakdown.values())
    assert all(part.dimensionality == Q_("1 byte").dimensionality for part in step.memory.values())
    batch, tokens = training.asked["batch_size"], training.asked["batch_size"] * training.asked["seq_len"]
    assert step.throughput.m_as("count/s") == pytest.approx(batch / seconds(step))
    assert step.tokens_per_second.m_as("count/s") == pytest.approx(tokens / seconds(step))


@functools.cache
@st.composite
def plans(draw, layers):
    pp = draw(either(*[p for p in (1, 2, 3, 4, 8) if p <= layers]))
    tp, dp = draw(either(1, 2, 4, 8)), draw(either(1, 2, 8, 24))
    chunks = draw(either(1, 2, 3)) if pp > 1 else 1
    kind = INTERLEAVED if chunks > 1 else draw(either(GPIPE, ONE_F_ONE_B))
    return Plan(
        tp=float(tp),
        pp=float(pp),
        dp=float(dp),
        ep=float(draw(either(*[e for e in (1, 2, 8) if dp % e == 0]))),
        virtual_stages=float(chunks),
        micro_batches=float(draw(st.integers(1, 8)) * pp),
        micro_batch_tokens=float(draw(either(64, 2048, 16384))),
        zero_stage=float(draw(st.integers(0, 3))),
        sequence_parallel=float(tp > 1 and draw(st.booleans())),
        recompute=float(draw(either(NONE, SELECTIVE, FULL))),
        schedule=float(kind),
        weight_B=draw(either(2.0, 4.0)),
        gradient_B=draw(either(2.0, 4.0)),
        optimizer_B=draw(either(8.0, 12.0)),
        cp=1.0,
        expert_tp=0.0,
        shard_copies=1.0,
    )


@st.composite
def work_and_plans(draw, count=1):
    work = training_work(draw(transformers()), draw(either(128, 4096)))
    return work, draw(st.lists(plans(work.layers), min_size=count, max_size=count))


@MANY
@given(work_and_plans())
def test_splitting_a_model_further_never_adds_static_memory(case):
    work, (plan,) = case
    before = training_memory(work, plan).static_B
    assert training_memory(work, replace(plan, tp=2 * plan.tp)).static_B <= before * (1 + ROUNDING)
    if 2 * plan.pp <= work.layers:
        assert training_memory(work, replace(plan, pp=2 * plan.pp)).static_B <= before * (1 + ROUNDING)
    stages = [training_memory(work, replace(plan, zero_stage=float(stage))).static_B for stage in range(4)]
    assert all(later <= earlier * (1 + ROUNDING) for earlier, later in itertools.pairwise(stages))
    if plan.dp > 1:
        assert stages[1] < stages[0]


@FEW
@given(
    work_and_plans(count=12),
    st.lists(st.tuples(*[st.floats(1e10, 1e15)] * 4), min_size=12, max_size=12),
    OVERLAPS,
)
def test_many_plans_at_once_give_what_each_gives_alone(case, speeds, overlap):
    work, each = case
    machines = [Machine(*speed, 8.0, 2.0) for speed in speeds]
    together = Plan(*(np.array([getattr(plan, field.name) for plan in each]) for field in fields(Plan)))
    machine = Machine(*(np.array(column) for column in zip(*speeds, strict=True)), 8.0, 2.0)
    step, memory = training_step(work, together, machine, overlap), training_memory(work, together)
    for i, (plan, own) in enumerate(zip(each, machines, strict=True)):
        one, held = training_step(work, plan, own, overlap), training_memory(work, plan)
        step_parts = [part.name for part in fields(StepTime)]
        for result, alone, parts, whole in ((step, one, step_parts, one.total_s), (memory, held, MEMORY_PARTS, held.total_B)):
            for part in parts:
                of_array = np.broadcast_to(getattr(result, part), (len(each),))[i]
                assert of_array == pytest.approx(getattr(alone, part), rel=1e-12, abs=1e-12 * float(whole)), part
        assert step.total_s[i] == pytest.approx(one.total_s, rel=1e-12)


def test_lowering_loses_no_parameter():
    for model in Models.Language:
        # Layers that predict further tokens are trained, but no part of the model's count.
        work = training_work(model.model_copy(update={"prediction_layers": 0}), 2048)
        assert work.parameters == pytest.approx(model.computed_parameters, rel=1e-9), model.name
        head = embedding_width(model) * model.vocab_size
        assert work.head_parameters == head, f"{model.name}: the head is as wide as the token embedding"
        assert work.head_flops == pytest.approx(2 * head), model.name
        served = inference_work(model, "bf16", "bf16")
        assert 0 < served.always_read_B + served.expert_B <= served.resident_B * (1 + ROUNDING), model.name


@FEW
@given(
    transformers(),
    hardware(capacity=24 * 2**30),
    st.sampled_from([(8, 1), (8, 3), (6, 2), (4, 4), (1, 8)]),
    st.sampled_from([1, 7, 16, 48]),
    st.sampled_from([{}, {"efficiency": 0.4}, {"recompute": "full", "zero_stage": 3}, {"overlap_comm": False}]),
)
def test_the_search_finds_what_trying_every_plan_finds(model, chip, shape, batch, asked):
    per_node, nodes = shape
    fleet, ranks = chip.fleet(per_node, nodes), per_node * nodes
    asked = {**asked, "batch_size": batch, "seq_len": 1024}
    overlap = {} if "overlap_comm" in asked else {"overlap_efficiency": PAPER_OVERLAP}
    tried = []
    for tp in divisors(per_node):
        for pp in range(1, ranks + 1):
            try:
                tried.append(DistributedModel().solve(model, fleet, tp_size=tp, pp_size=pp, **asked, **overlap))
            except InputError:
                continue
    if not tried:
        with pytest.raises(InputError, match="batch_size"):
            ParallelismOptimizer().solve(model, fleet, **asked)
        return
    found = ParallelismOptimizer().solve(model, fleet, top_k=ranks**2, **asked)
    running = sorted((plan for plan in tried if plan.feasible), key=seconds)
    assert (found.total_searched, found.total_feasible) == (len(tried), len(running))
    assert found.feasible == bool(running)
    ranked = [row["step_latency"].m_as("s") for row in found.ranking]
    assert ranked == pytest.approx([seconds(plan) for plan in running], rel=ROUNDING)
    if running:
        assert seconds(found.require_best()) == pytest.approx(seconds(running[0]), rel=ROUNDING)
        assert found.best_config == found.best.plan
