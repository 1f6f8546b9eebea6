"""``ReliabilityModel``, ``CheckpointModel`` and ``time_to_train``: whose rate it is, how sure, and what a training takes."""

from __future__ import annotations

import math

import pytest

from mlsysim import Fleet, Hardware, Models, Node, Systems, predict_table
from mlsysim.calibration.operations.checkpoints import FILE as CHECKPOINTS
from mlsysim.calibration.operations.failures import fleet_class
from mlsysim.calibration.stacks import stack_names
from mlsysim.core.errors import InconsistentError, InfeasibleError, InputError, MissingArgumentError, UnknownNameError
from mlsysim.core.toml import packaged_toml
from mlsysim.solvers.operations.checkpoint import CheckpointModel
from mlsysim.solvers.operations.power import PowerModel
from mlsysim.solvers.operations.reliability import ReliabilityModel
from mlsysim.solvers.operations.time_to_train import time_to_train
from mlsysim.solvers.training.distributed import DistributedModel
from mlsysim.solvers.training.parallelism import ParallelismOptimizer

LLAMA = Models.Language.Llama3_8B


def nodes(count):
    return Fleet(name="fleet", node=Systems.Nodes.DGX_H100, count=count)


def fails(count=128, **asked):
    return ReliabilityModel().solve(nodes(count), **{"duration": "30 day", **asked})


def saves(count=8, workload=LLAMA, **asked):
    return CheckpointModel().solve(workload, nodes(count), **{"storage_bandwidth": "10 GB/s", **asked})


@pytest.fixture(scope="module")
def plan():
    return DistributedModel().solve(LLAMA, nodes(8), batch_size=64, seq_len=8192, tp_size=2, stack="megatron-core")


@pytest.mark.parametrize(
    ("argument", "error", "asked"),
    [
        ("events", MissingArgumentError, {"node_days": 100}),
        ("node_days", MissingArgumentError, {"events": 3}),
        ("events", InputError, {"events": 0, "node_days": 100}),
        ("events", InconsistentError, {"node_mtbf": "100 day", "events": 3}),
        ("node_days", InconsistentError, {"node_mtbf": "100 day", "node_days": 3}),
        ("fleet_class", UnknownNameError, {"fleet_class": "old"}),
        ("without", UnknownNameError, {"without": "llama-4"}),
        ("restart_time", UnknownNameError, {"restart_time": "automatic-ish", "checkpoint_time": "9 s"}),
        ("restart_time", InputError, {"restart_time": "-9 s", "checkpoint_time": "9 s"}),
        ("checkpoint_time", MissingArgumentError, {"checkpoint_interval": "9 s"}),
    ],
)
def test_what_is_refused_of_a_job(argument, error, asked):
    with pytest.raises(error) as caught:
        fails(**asked)
    assert caught.value.argument == argument


def test_time_between_failures_falls_with_the_size_of_the_job():
    one, many = fails(1), fails(1000)
    assert many.mttf.m_as("second") == pytest.approx(one.mttf.m_as("second") / 1000)
    assert many.failures == pytest.approx(1000 * one.failures)


def test_rates_are_of_eight_accelerators_whatever_a_node_has():
    small = Node(
        name="quad", accelerator=Hardware.Cloud.H100, accelerators_per_node=4, intra_node_bw="900 GB/s", network_bw="50 GB/s"
    )
    quads = ReliabilityModel().solve(Fleet(name="quads", node=small, count=256), duration="30 day")
    assert quads.failures == pytest.approx(fails(128).failures)


def test_a_fleet_that_was_never_counted_is_far_less_sure_than_one_that_was():
    seen, poisson, unseen = (
        fails(2048, **known)
        for known in ({"events": 400, "node_days": 1e5}, {"node_mtbf": "250 day"}, {"fleet_class": "established"})
    )
    assert seen.rate == poisson.rate == 4
    widths = [one.interval.high - one.interval.low for one in (poisson, seen, unseen)]
    assert widths == sorted(set(widths))
    # Of a Poisson count nine in ten lie within 1.645 standard deviations.
    assert widths[0] == pytest.approx(2 * 1.645 * math.sqrt(poisson.failures), rel=0.1)
    assert poisson.interval_of("rate") is None, "it is known"
    assert unseen.interval_of("mttf").low < unseen.mttf < unseen.interval_of("mttf").high


def test_a_class_is_told_without_a_fleet():
    known = fleet_class("established")
    without = [fleet_class("established", fleet) for fleet in ("rsc-1", "rsc-2", "llama-3", "infinite-hbd")]
    assert all(one.fleets == known.fleets - 1 for one in without)
    assert without[0].rate < known.rate < without[1].rate
    assert fleet_class("established", "opt-175b").rate == known.rate, "a fleet of another class"


def test_the_time_of_a_job_is_told_whole():
    run = fails(1024, checkpoint_time="60 s", restart_time="by-people")
    assert sum(part.m_as("day") for part in run.breakdown.values()) == pytest.approx(30)
    assert run.breakdown["work kept"].m_as("day") / 30 == pytest.approx(run.goodput)
    rate = fails(1024, checkpoint_time="60 s", restart_time="by-people", checkpoint_interval="1 hour")
    assert rate.goodput < run.goodput, "no interval is better than the best"
    bounds = run.interval_of("goodput")
    assert bounds.low < run.goodput < bounds.high


def test_conventions_of_effective_time_agree_where_failures_are_rare():
    run = fails(32, checkpoint_time="30 s")
    assert run.ettr_kokolis == pytest.approx(run.goodput, abs=3e-3)
    assert run.ettr_first_order == pytest.approx(run.goodput, abs=3e-3)


def test_bytes_by_what_a_stack_writes():
    each = {stack: saves(stack=stack).bytes_per_parameter for stack in ("megatron-core", "torchtitan", "no-master-weights")}
    assert each == {"megatron-core": 14, "torchtitan": 12, "no-master-weights": 10}
    assert saves(optimizer="none").bytes_per_parameter == 2
    assert saves(optimizer="adam-8bit").bytes_per_parameter == 8
    assert saves(precision="fp32").bytes_per_parameter == 12, "weights of 32 bits need no copy"


def test_every_stack_has_its_way_of_writing():
    known = {name for entry in packaged_toml("calibration", CHECKPOINTS)["stack"].values() for name in entry["stacks"]}
    assert known <= set(stack_names())


def test_a_checkpoint_goes_through_the_narrowest():
    whole, parts = saves(sharded=False, writer_bandwidth="1 GB/s"), saves(writer_bandwidth="1 GB/s")
    assert whole.write_time == 8 * parts.write_time
    assert whole.binding == "writers"
    assert saves().binding == "storage"
    assert saves().stall == saves().write_time


def test_an_asynchronous_checkpoint_stops_for_the_copy_alone():
    saved = saves(asynchronous=True, copy_bandwidth="20 GB/s", mtbf="3 hour")
    assert saved.stall.m_as("second") == pytest.approx(saved.size.m_as("byte") / 64 / 20e9)
    assert saved.write_time > saved.stall
    assert saved.checkpoint_interval + saved.stall >= saved.write_time, "the next waits for the last"
    assert saved.feasible
    assert saved.goodput > saves(mtbf="3 hour").goodput
    with pytest.raises(InconsistentError, match="asynchronous"):
        saves(copy_bandwidth="20 GB/s")


def test_a_training_takes_longer_than_its_steps(plan):
    run = time_to_train(plan, "1e12 count", checkpoint_time="20 s", price="2 USD/hour")
    working = 1e12 / plan.tokens_per_second.m_as("count/second")
    assert run.duration.m_as("second") == pytest.approx(working / run.goodput)
    assert run.breakdown["work kept"].m_as("second") == pytest.approx(working)
    assert run.cost.m_as("USD") == pytest.approx(2 * run.accelerator_hours)
    assert run.accelerator_hours == pytest.approx(64 * run.duration.m_as("hour"))
    for name in ("duration", "cost", "accelerator_hours"):
        bounds = run.interval_of(name)
        assert bounds.low < getattr(run, name) < bounds.high
    alone = plan.interval
    assert run.interval.high / run.duration >= alone.high / plan.step_latency_total


def test_the_energy_of_a_training_is_less_than_its_power_all_along(plan):
    run = time_to_train(plan, "1e12 count", checkpoint_time="20 s", pue=1.2)
    power = PowerModel().solve(plan, pue=1.2)
    working = run.breakdown["work kept"] + run.breakdown["lost work"]
    most, least = (power.facility_power * part for part in (run.duration, working))
    assert least.m_as("MWh") < run.energy.m_as("MWh") < most.m_as("MWh")
    bounds = run.interval_of("energy")
    assert bounds.low < run.energy < bounds.high
    assert bounds.high / run.energy >= run.interval.high / run.duration
    twice = time_to_train(plan, "1e12 count", checkpoint_time="20 s", pue=2.4)
    assert twice.energy.m_as("MWh") == pytest.approx(2 * run.energy.m_as("MWh"))


def test_a_training_of_the_best_plan_of_a_search():
    found = ParallelismOptimizer().solve(LLAMA, nodes(2), batch_size=64, efficiency=0.4)
    run = time_to_train(found, "1e11 count", checkpoint_time="20 s")
    assert run.duration == time_to_train(found.best, "1e11 count", checkpoint_time="20 s").duration
    assert run.cost is None


def test_a_training_needs_a_plan_that_fits(plan):
    with pytest.raises(InputError, match="DistributedModel or ParallelismOptimizer"):
        time_to_train(fails(), "1e12 count", checkpoint_time="20 s")
    with pytest.raises(InputError, match="tokens"):
        time_to_train(plan, 1e12, checkpoint_time="20 s")
    too_big = DistributedModel().solve(Models.Language.Llama3_70B, nodes(1), batch_size=64, seq_len=8192, stack="megatron-core")
    with pytest.raises(InfeasibleError):
        time_to_train(too_big, "1e12 count", checkpoint_time="20 s")
    with pytest.raises(InfeasibleError, match="work that is kept"):
        time_to_train(plan, "1e12 count", checkpoint_time="20 s", node_mtbf="60 s")


ROW = dict.fromkeys(("kind", "system", "quantity", "unit", "n_accel", "n_nodes", "duration_days", "mttf_hours"), "")
ROW |= dict.fromkeys(("write_cost_s", "restart_s", "interval_s", "rate_per_1000_node_days"), "")


def predicted(**cells):
    return predict_table([ROW | cells])[0]


def test_a_table_of_counts_and_of_times_between_failures():
    row = predicted(kind="count", quantity="unexpected", n_nodes="128", duration_days="30")
    assert row["predicted"] == pytest.approx(fails(128).failures)
    assert (row["low"], row["high"]) == (fails(128).interval.low, fails(128).interval.high)
    assert row["assumed"] == "fleet_class=any"
    projected = predicted(kind="mttf", quantity="MTTF (projected)", unit="hours", n_nodes="2048", rate_per_1000_node_days="6.5")
    assert projected["predicted"] == pytest.approx(1.8, rel=0.01)
    assert projected["low"] == ""
    measured = predicted(kind="mttf", quantity="MTTF (measured)", unit="days", n_nodes="1")
    assert measured["predicted"] == pytest.approx(47.7, rel=0.01)
    assert measured["low"] < measured["predicted"] < measured["high"]


def test_a_table_of_intervals_and_of_effective_time():
    young = predicted(kind="formula_value", quantity="Young optimal interval", mttf_hours="24", write_cost_s="300")
    assert young["predicted"] == pytest.approx(7200)
    daly = predicted(kind="formula_value", quantity="Daly optimal interval", mttf_hours="24", write_cost_s="300")
    assert daly["predicted"] == pytest.approx(7001.389)
    lesson = predicted(kind="worked_example", mttf_hours="7.9", write_cost_s="36", restart_s="1080")
    assert lesson["predicted"] == pytest.approx(0.919, abs=5e-4)
    whole = {"n_nodes": "256", "rate_per_1000_node_days": "6.5", "interval_s": "3600", "write_cost_s": "1", "restart_s": "600"}
    assert predicted(kind="ettr", **whole)["predicted"] == pytest.approx(0.954, abs=1e-3)


def test_a_table_of_checkpoints():
    row = predicted(kind="checkpoint_size", system="Llama 3 8B")
    assert row["predicted"] == pytest.approx(104.7, rel=1e-3)
    assert row["assumed"] == "optimizer=adam, stack=master-weights"
    assert predicted(kind="checkpoint", system="BLOOM-176B", quantity="weights checkpoint")["predicted"] == pytest.approx(
        328, rel=0.01
    )


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"kind": "category_count"}, "kind = 'category_count'"),
        ({"kind": "count", "quantity": "planned", "n_nodes": "8", "duration_days": "3"}, "quantity = 'planned'"),
        ({"kind": "count", "quantity": "failures", "n_nodes": "8"}, "duration_days = ''"),
        ({"kind": "count", "quantity": "failures", "duration_days": "8"}, "n_accel = ''"),
        ({"kind": "mttf", "unit": "GB", "n_nodes": "8"}, "unit = '1 gb'"),
        ({"kind": "formula_value", "quantity": "another"}, "quantity = 'another'"),
        ({"kind": "checkpoint_size", "system": "Llama 3 1T-class"}, "system = 'Llama 3 1T-class'"),
    ],
)
def test_a_row_that_nothing_follows_for_says_why(cells, reason):
    row = predicted(**cells)
    assert row["predicted"] == ""
    assert row["reason"].startswith(reason)
