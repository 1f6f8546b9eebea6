"""What must hold between answers about serving: solvers that are asked the same agree, and better machines are no worse."""

from __future__ import annotations

import pytest
from hypothesis import assume
from hypothesis import strategies as st
from random_systems import PARTS, ROUNDING, answer, faster, serving_questions, tried_on

from mlsysim.calibration.engines import engine
from mlsysim.hardware.registry import Hardware
from mlsysim.models.registry import Models
from mlsysim.solvers.serving.batching import BatchingOptimizer
from mlsysim.solvers.serving.continuous_batching import ContinuousBatchingModel
from mlsysim.solvers.serving.serving import ServingModel
from mlsysim.solvers.serving.tail_latency import TailLatencyModel
from mlsysim.systems.fleets import usual_nodes
from mlsysim.systems.types import Fleet
from mlsysim.tables.predict import predict_table

TIMES = ("itl", "ttft", "token_gap", "request_latency")
SCHEDULES = ("static", "continuous", "offline")


def seconds(result, name):
    return getattr(result, name).m_as("second")


def served(model, hardware, arguments, **changes):
    if not model.causal:
        changes = {**changes, "output_len": None, "schedule": "static"}
    return ServingModel().solve(model, hardware, **{**arguments, **changes})


@tried_on(10, 2000, question=serving_questions(), schedule=st.sampled_from(SCHEDULES))
def test_no_engine_is_faster_than_the_bound(question, schedule):
    """Nor keeps more of a peak than there is; at as many sequences in a batch.

    An engine whose own products add in 16 bits has a peak of its own where that is faster; one on a torus may gather weights,
    which sends less than the bound's all-reduces.
    """
    _, hardware, arguments = question
    accelerator = hardware.node.accelerator if isinstance(hardware, Fleet) else hardware
    kernels = engine(arguments["stack"]).has
    assume(not (kernels.torus or (kernels.own_products and accelerator.compute.fp16_sum_flops)))
    run = answer(served, *question, schedule=schedule)
    bound = answer(served, *question, stack=None, schedule=schedule)
    assert run.prefill_mfu <= 1 + ROUNDING
    assert run.max_batch <= bound.max_batch
    if run.batch == bound.batch:
        for name in TIMES:
            assert seconds(bound, name) <= seconds(run, name) * (1 + ROUNDING), name


@tried_on(
    10,
    2000,
    question=serving_questions(),
    schedule=st.sampled_from(SCHEDULES),
    part=st.sampled_from(PARTS[:5]),
    factor=st.sampled_from([1.1, 4.0]),
    bound=st.booleans(),
)
def test_no_faster_machine_serves_slower(question, schedule, part, factor, bound):
    """With more memory a server may take more at a time than is best: rates are compared where it takes as many."""
    model, hardware, arguments = question
    arguments = arguments | {"schedule": schedule} | ({"stack": None} if bound else {})
    run = answer(served, model, hardware, arguments)
    better = answer(served, model, faster(hardware, part, factor), arguments)
    assert better.max_batch >= run.max_batch
    if better.batch == run.batch:
        assert better.tokens_per_second >= run.tokens_per_second * (1 - ROUNDING)
    # Where more are in flight than fit, who is served sooner waits longer for a place: the prompts of others take as long.
    waits = schedule == "continuous" and arguments["batch_size"] > run.batch
    if better.batch == run.batch:
        for name in set(TIMES) - ({"ttft"} if waits else set()):
            assert seconds(better, name) <= seconds(run, name) * (1 + ROUNDING), name


@tried_on(8, 2000, question=serving_questions(), longer=st.sampled_from([1, 100, 5000]))
def test_no_longer_prompt_or_larger_batch_is_faster(question, longer):
    """Two engines change with size: on a torus the layout, and in a pipeline whose stages hand over at most so many tokens the
    parts that overlap.
    """
    arguments = question[2]
    kernels = engine(arguments["stack"]).has
    assume(not kernels.torus and (arguments["pp_size"] == 1 or not kernels.stage_tokens))
    run = answer(served, *question)
    for more in ({"input_len": arguments["input_len"] + longer}, {"batch_size": arguments["batch_size"] + longer}):
        other = answer(served, *question, **more)
        assert other.max_batch <= run.max_batch
        for name in TIMES:
            assert seconds(other, name) >= seconds(run, name) * (1 - ROUNDING), name


@tried_on(5, 500, question=serving_questions())
def test_continuous_batching_is_serving_with_requests_in_flight(question):
    model, hardware, arguments = question
    run = answer(served, model, hardware, arguments, schedule="continuous")
    others = {name: value for name, value in arguments.items() if name != "batch_size"}
    same = answer(ContinuousBatchingModel().solve, model, hardware, concurrency=arguments["batch_size"], page_size=1, **others)
    for name in (*TIMES, "tokens_per_second", "kv_cache", "memory_per_accelerator", "max_batch", "batch", "prefill_mfu"):
        assert getattr(same, name) == getattr(run, name), name


@tried_on(5, 500, question=serving_questions())
def test_a_request_alone_takes_the_same_in_every_schedule(question):
    """In a fixed batch of one, in flight alone, and where one comes in years."""
    model, hardware, arguments = question
    others = {name: value for name, value in arguments.items() if name != "batch_size"}
    alone = others | {"batch_size": 1}
    fixed, flying = (answer(served, model, hardware, alone, schedule=schedule) for schedule in SCHEDULES[:2])
    for name in TIMES:
        assert seconds(flying, name) == pytest.approx(seconds(fixed, name)), name
    rare = answer(TailLatencyModel().solve, model, hardware, request_rate="1e-12 count/s", **others)
    assert rare.feasible == fixed.feasible
    if rare.feasible:
        assert seconds(rare, "ttft_mean") == pytest.approx(seconds(fixed, "ttft"), rel=1e-4)
        assert seconds(rare, "latency_mean") == pytest.approx(seconds(fixed, "request_latency"), rel=1e-4)


@tried_on(4, 200, question=serving_questions(), limit=st.sampled_from([None, "50 ms", "500 ms"]))
def test_the_best_batch_is_served_as_it_says(question, limit):
    model, hardware, arguments = question
    others = {name: value for name, value in arguments.items() if name != "batch_size"}
    best = answer(BatchingOptimizer().solve, model, hardware, max_itl=limit, **others)
    if best.feasible:
        run = served(model, hardware, arguments, schedule="continuous", batch_size=best.batch)
        assert run.feasible
        assert best.tokens_per_second.m == pytest.approx(run.tokens_per_second.m)
        assert best.ttft.m == pytest.approx(run.ttft.m)


ROW = {"accelerator": "H100-SXM-80GB", "metric": "itl_ms", "year": "2025", "engine": "vLLM 0.15", "kv_precision": "bf16"}


@pytest.mark.parametrize(("mode", "schedule"), [("static", "static"), ("closed-loop", "continuous")])
@pytest.mark.parametrize(
    ("model", "tp", "prompt", "output", "batch"), [("Llama-3.1-8B", 1, 1000, 200, 16), ("Mixtral-8x7B", 2, 100, 500, 64)]
)
def test_a_row_of_a_table_is_the_call_that_it_means(model, tp, prompt, output, batch, mode, schedule):
    cells = {"model": model, "n_accel": tp, "tp": tp, "input_len": prompt, "output_len": output, "batch_or_concurrency": batch}
    row = {**ROW, "mode": mode, "weight_precision": "bf16", **{name: str(cell) for name, cell in cells.items()}}
    run = ServingModel().solve(
        Models.get(model),
        usual_nodes(Hardware.Cloud.H100, tp) if tp > 1 else Hardware.Cloud.H100,
        stack="vllm-2025",
        precision="bf16",
        tp_size=tp,
        schedule=schedule,
        input_len=prompt,
        output_len=output,
        batch_size=batch,
        rounds=10 if mode == "closed-loop" else None,  # of the benchmark that such a row is of
    )
    (answered,) = predict_table([row])
    expected = run.itl if mode == "static" else run.token_gap
    assert float(answered["predicted"]) == pytest.approx(expected.m_as("ms"), rel=1e-5)
