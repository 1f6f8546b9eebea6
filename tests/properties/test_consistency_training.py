"""What must hold between answers about training: solvers that are asked the same agree, better machines are no worse."""

from __future__ import annotations

import pytest
from hypothesis import assume
from hypothesis import strategies as st
from random_systems import PARTS, ROUNDING, answer, faster, training_questions, tried_on

from mlsysim.calibration.stacks import stack, stack_names
from mlsysim.solvers.training.distributed import DistributedModel
from mlsysim.solvers.training.parallelism import ParallelismOptimizer
from mlsysim.systems.fleets import usual_fleet


def seconds(result):
    return result.step_latency_total.m_as("second")


def held_B(result):
    return result.memory_per_accelerator.m_as("byte")


def step(question, fleet=None, ranks=1, **changes):
    """The answer to a question, on another fleet or on ``ranks`` times as many accelerators."""
    model, accelerator, count, arguments = question
    fleet = usual_fleet(accelerator, ranks * count) if fleet is None else fleet
    return DistributedModel().solve(model, fleet, **{**arguments, **changes})


@tried_on(12, 3000, question=training_questions(stacks=sorted(stack_names())))
def test_no_stack_is_faster_than_the_bound(question):
    """Of the schedules that both can be asked for: two batches that pass each other in a pipeline are none of them."""
    assume(not stack(question[3]["stack"]).coefficients.two_batches)
    run = answer(step, question)
    assert run.mfu <= 1 + ROUNDING
    assert seconds(step(question, stack=None)) <= seconds(run) * (1 + ROUNDING)


@tried_on(12, 3000, question=training_questions(), part=st.sampled_from(PARTS), factor=st.sampled_from([1.1, 4.0]))
def test_no_faster_machine_trains_slower(question, part, factor):
    run = answer(step, question)
    _, accelerator, count, _ = question
    better = step(question, faster(usual_fleet(accelerator, count), part, factor))
    assert seconds(better) <= seconds(run) * (1 + ROUNDING)
    assert better.feasible or not run.feasible


@tried_on(8, 3000, question=training_questions(), times=st.sampled_from([2, 4]))
def test_no_more_work_is_done_sooner(question, times):
    """Longer sequences, more of them in a micro-batch or more micro-batches; none needs less memory."""
    run = answer(step, question)
    arguments = question[3]
    batch, passes = times * arguments["batch_size"], times * arguments["microbatch_count"]
    for more in (
        {"seq_len": times * arguments["seq_len"]},
        {"batch_size": batch},
        {"batch_size": batch, "microbatch_count": passes},
    ):
        longer = answer(step, question, **more)
        assert seconds(longer) >= seconds(run) * (1 - ROUNDING), more
        assert held_B(longer) >= held_B(run) * (1 - ROUNDING), more


CUTS = {"tp_size": 2, "cp_size": 2, "pp_size": 2, "ep_size": 1, "zero_stage": 1, "dp": 2}


@tried_on(12, 3000, question=training_questions(), cut=st.sampled_from(sorted(CUTS)))
def test_no_finer_cut_needs_more_memory(question, cut):
    """Twice the ranks of a kind that divides what it cuts, or the next ZeRO stage, at the same micro-batch."""
    model, _, _, arguments = question
    run = answer(step, question)
    if cut == "dp":
        changed = {"batch_size": 2 * arguments["batch_size"]}
    elif cut == "zero_stage":
        changed = {cut: min(arguments[cut] + 1, 3)}
    else:
        changed = {cut: 2 * arguments[cut]}
    # A stack keeps more micro-batches than a schedule needs, but none without a pipeline.
    assume(cut != "pp_size" or (model.layers % (2 * arguments["pp_size"]) == 0 and not arguments["stack"]))
    assert held_B(answer(step, question, ranks=CUTS[cut], **changed)) <= held_B(run) * (1 + ROUNDING)


@tried_on(2, 150, question=training_questions(), part=st.sampled_from(PARTS), space=st.sampled_from(["tp-pp-dp", "full"]))
def test_the_best_plan_takes_what_the_search_says_and_no_longer_on_a_faster_machine(question, part, space):
    model, accelerator, count, arguments = question
    assume(count <= 32)
    fleet = usual_fleet(accelerator, count)
    asked = {name: arguments[name] for name in ("stack", "batch_size", "seq_len", "precision", "efficiency")}
    found = answer(ParallelismOptimizer().solve, model, fleet, space=space, **asked)
    assume(found.feasible)
    best = found.require_best()
    ranks = {f"{name}_size": best.plan[name] for name in ("tp", "pp", "cp", "ep") if name in best.plan}
    rest = {name: best.plan[name] for name in ("virtual_stages", "schedule", "sequence_parallel", "recompute", "zero_stage")}
    hidden = {} if asked["stack"] else {"overlap_efficiency": 0.85}
    again = DistributedModel().solve(
        model, fleet, microbatch_count=best.plan["micro_batches"], **ranks, **rest, **hidden, **asked
    )
    assert seconds(again) == pytest.approx(seconds(best), rel=ROUNDING)
    better = ParallelismOptimizer().solve(model, faster(fleet, part, 2.0), space=space, **asked)
    assert seconds(better.require_best()) <= seconds(best) * (1 + ROUNDING)
