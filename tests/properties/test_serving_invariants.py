"""What must hold of every answer about serving, one accelerator, scaling and energy, whatever the workload and machine."""

from __future__ import annotations

from dataclasses import replace

import pytest
from drawn import EFFICIENCIES, FEW, KNOBS, MANY, ROUNDING, assert_sound, decoders, hardware, seconds, trainings, transformers
from hypothesis import assume, given
from hypothesis import strategies as st
from random_systems import either

from mlsysim.core.units import Q_
from mlsysim.solvers.operations.scaling import ScalingModel
from mlsysim.solvers.operations.sustainability import SustainabilityModel
from mlsysim.solvers.serving.serving import ServingModel
from mlsysim.solvers.training.distributed import DistributedModel
from mlsysim.solvers.training.single_node import SingleNodeModel


@st.composite
def servings(draw):
    model, chip = draw(decoders()), draw(hardware())
    tp = draw(either(*[d for d in (1, 2, 4, 8) if model.heads % d == 0]))
    asked = {
        "seq_len": draw(either(1, 100, 2048, 32768)),
        "batch_size": draw(either(1, 3, 64, 1000)),
        "precision": draw(either("bf16", "fp8")),
        "weight_precision": draw(either(None, "int4")),
        "kv_precision": draw(either(None, "fp8")),
        "efficiency": draw(EFFICIENCIES),
        "tp_size": tp,
    }
    return model, chip, asked


def serve(model, chip, asked, **changes):
    return ServingModel().solve(model, chip.node(8), **{**asked, **changes})


@MANY
@given(servings(), st.floats(1.01, 10.0))
def test_faster_hardware_never_slows_serving(case, factor):
    model, chip, asked = case
    run = serve(*case)
    assert_sound(run, "itl")
    assert run.ttft.m_as("s") > 0
    assert run.tokens_per_second.m_as("count/s") == pytest.approx(asked["batch_size"] / run.itl.m_as("s"))
    for knob in KNOBS:
        faster = serve(model, chip.faster(knob, factor), asked)
        assert faster.itl <= run.itl * (1 + ROUNDING), knob
        assert faster.ttft <= run.ttft * (1 + ROUNDING), knob
    assert serve(model, chip, asked, efficiency=None).itl <= run.itl * (1 + ROUNDING)


@pytest.mark.parametrize("arithmetic_over_traffic", [0.3, 0.8, 1.25, 1.6, 4.0])
@FEW
@given(model=decoders(), chip=hardware(), batch=st.sampled_from([1, 64]))
def test_more_of_what_binds_serving_helps(arithmetic_over_traffic, model, chip, batch):
    asked = {"seq_len": 2048, "batch_size": batch, "precision": "bf16"}
    traffic = serve(model, replace(chip, peak=1e30), asked).itl
    arithmetic = serve(model, replace(chip, memory=1e30), asked).itl
    chip = chip.faster("peak", (arithmetic / traffic).m_as("") / arithmetic_over_traffic)
    run = serve(model, chip, asked)
    assume(run.feasible)
    knob = "memory" if run.binding in ("weight reads", "KV reads") else "peak"
    assert serve(model, chip.faster(knob, 1.1), asked).itl < run.itl, run.binding


@MANY
@given(servings())
def test_the_largest_batch_is_exact(case):
    model, chip, asked = case
    run = serve(*case)
    most = run.max_batch
    assert run.feasible == (asked["batch_size"] <= most)
    if most:
        assert serve(model, chip, asked, batch_size=most).feasible
    if most < 10**12:
        assert not serve(model, chip, asked, batch_size=most + 1).feasible


@MANY
@given(servings())
def test_longer_contexts_and_larger_batches_take_more(case):
    model, chip, asked = case
    run, longer = serve(*case), serve(model, chip, asked, seq_len=2 * asked["seq_len"])
    assert longer.itl >= run.itl * (1 - ROUNDING)
    assert longer.ttft >= run.ttft * (1 - ROUNDING)
    assert longer.max_batch <= run.max_batch
    if model.sliding_window is None:
        assert longer.kv_cache.m_as("byte") == pytest.approx(2 * run.kv_cache.m_as("byte"))
    else:
        assert longer.kv_cache >= run.kv_cache
    larger = serve(model, chip, asked, batch_size=2 * asked["batch_size"])
    assert larger.kv_cache.m_as("byte") == pytest.approx(2 * run.kv_cache.m_as("byte"))
    assert run.itl * (1 - ROUNDING) <= larger.itl <= run.itl * (2 + ROUNDING)
    assert larger.weights == run.weights


@FEW
@given(servings())
def test_a_serving_result_carries_its_dimensions(case):
    run = serve(*case)
    units = {"itl": "s", "ttft": "s", "tokens_per_second": "count/s", "weights": "byte", "kv_cache": "byte"}
    for name, unit in {**units, "memory_per_accelerator": "byte"}.items():
        assert getattr(run, name).dimensionality == Q_(1, unit).dimensionality, name
    assert isinstance(run.max_batch, int)


@MANY
@given(
    transformers(),
    hardware(),
    st.integers(1, 64),
    st.sampled_from([1, 512, 4096]),
    st.booleans(),
    st.none() | st.floats(0.05, 1.0),
    st.floats(1.01, 10.0),
)
def test_one_accelerator(model, chip, batch, seq_len, is_training, efficiency, factor):
    asked = {"batch_size": batch, "seq_len": seq_len, "is_training": is_training, "efficiency": efficiency}

    def solve(on, **changes):
        return SingleNodeModel().solve(model, on.device(), **{**asked, **changes})

    run = solve(chip)
    assert_sound(run, "latency")
    assert 0 < run.mfu <= (efficiency or 1.0) * (1 + ROUNDING)
    assert run.throughput.m_as("count/s") == pytest.approx(batch / run.latency.m_as("s"))
    assert run.memory.dimensionality == Q_("1 byte").dimensionality
    assert all(solve(chip.faster(knob, factor)).latency <= run.latency * (1 + ROUNDING) for knob in ("peak", "memory"))
    twice = solve(chip, batch_size=2 * batch)
    assert run.latency * (1 - ROUNDING) <= twice.latency <= run.latency * (2 + ROUNDING)
    assert run.latency * (1 - ROUNDING) <= solve(chip, precision="fp32").latency


@pytest.mark.parametrize("arithmetic_over_traffic", [0.3, 0.8, 1.25, 1.6, 4.0])
@FEW
@given(model=transformers(), chip=hardware())
def test_more_of_what_binds_one_accelerator_helps(arithmetic_over_traffic, model, chip):
    def solve(on):
        return SingleNodeModel().solve(model, on.device(), batch_size=1, seq_len=64)

    ratio = solve(replace(chip, memory=1e30)).latency / solve(replace(chip, peak=1e30)).latency
    chip = chip.faster("peak", ratio.m_as("") / arithmetic_over_traffic)
    run = solve(chip)
    assume(run.feasible)
    knob = {"compute": "peak", "memory traffic": "memory"}[run.binding]
    assert solve(chip.faster(knob, 1.1)).latency < run.latency, run.binding


@FEW
@given(trainings())
def test_one_accelerator_is_a_fleet_of_one(training):
    assume(training.model.moe is None)
    asked = {"batch_size": 4, "seq_len": 512, "precision": "bf16", "efficiency": training.asked["efficiency"]}
    fleet = training.hardware.fleet(1, 1)
    alone = SingleNodeModel().solve(training.model, fleet.node.accelerator, is_training=True, **asked)
    step = DistributedModel().solve(training.model, fleet, microbatch_count=1, zero_stage=0, recompute="none", **asked)
    assert alone.latency.m_as("s") == pytest.approx(seconds(step))
    assert alone.mfu == pytest.approx(step.mfu)
    assert alone.memory.m_as("byte") == pytest.approx(step.memory_per_accelerator.m_as("byte"))
    assert alone.feasible == step.feasible


@FEW
@given(st.floats(1e15, 1e30), st.floats(0.1, 1000.0))
def test_the_budget_is_spent(budget, ratio):
    best = ScalingModel().solve(compute_budget=Q_(budget, "flop"), tokens_per_parameter=ratio)
    parameters, tokens = best.optimal_parameters.m_as("count"), best.optimal_tokens.m_as("count")
    assert 6 * parameters * tokens == pytest.approx(budget)
    assert tokens / parameters == pytest.approx(ratio)
    more = ScalingModel().solve(compute_budget=Q_(4 * budget, "flop"), tokens_per_parameter=ratio)
    assert more.optimal_parameters.m_as("count") == pytest.approx(2 * parameters)


@FEW
@given(hardware(), st.floats(0.01, 1000.0), st.floats(1.0, 3.0), st.floats(0.0, 1000.0), st.integers(1, 5000))
def test_energy_and_carbon(chip, days, pue, grams, count):
    run = SustainabilityModel().solve(chip.fleet(8, count), duration_days=days, pue=pue, grid=Q_(grams, "gCO2e/kWh"))
    joules = run.energy.m_as("J")
    assert joules == pytest.approx(8 * count * 700 * days * 86400 * pue)
    assert sum(part.m_as("J") for part in run.breakdown.values()) == pytest.approx(joules)
    assert run.carbon.m_as("gCO2e") == pytest.approx(joules / 3.6e6 * grams)
    assert run.mean_power.m_as("W") * pue * run.duration.m_as("s") == pytest.approx(joules)
