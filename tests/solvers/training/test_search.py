"""The search: the whole space, the same physics as a single solve, bounded memory, and answers that say why."""

import functools
import itertools
import math
import time
import tracemalloc
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsysim import DistributedModel, Fleet, InputError, Models, ParallelismOptimizer, Systems
from mlsysim.calibration.memory import usable_memory_B
from mlsysim.lowering.training_setting import TrainingSetting
from mlsysim.physics.plan import Plan
from mlsysim.physics.training.kernel_step import LayerTimes, once_per_layer
from mlsysim.solvers.training import search as searching
from mlsysim.solvers.training.objective import Objective
from mlsysim.solvers.training.parallelism import PAPER_OVERLAP, solve_arguments
from mlsysim.solvers.training.plan_space import Choices, _factorizations, divisors, rows, splits, tasks
from mlsysim.solvers.training.search import Question, exhausted
from mlsysim.solvers.training.search_rows import found_row

LLAMA = Models.Language.Llama3_8B
MIXTRAL = Models.Language.Mixtral_8x7B


def fleet(nodes=4):
    return Fleet(name=f"{nodes} nodes", node=Systems.Nodes.DGX_H100, count=nodes)


def search(model=LLAMA, on=None, **asked):
    return ParallelismOptimizer().solve(model, on or fleet(), **{"batch_size": 64, "space": "full", **asked})


def alone(model, on, row, **asked):
    return DistributedModel().solve(model, on, **{"batch_size": 64, **asked}, **solve_arguments(row))


BASES = {
    "efficiency": {"efficiency": 0.5, "overlap_efficiency": PAPER_OVERLAP},
    "calibrated": {"stack": "megatron-core"},
}


@functools.cache
def whole_space(basis, nodes, batch, seq_len):
    """Every plan that fits, as columns: what the search ranks, before it is put in words."""
    asked = {"batch_size": batch, "seq_len": seq_len, **BASES[basis]}
    setting = TrainingSetting.of(LLAMA, fleet(nodes), **asked, zero_stage=1)
    goal = Objective("step_time", batch * seq_len, 1.0)
    question = Question(setting, Choices(), goal, usable_memory_B(80 * 2**30), kept=10**9)
    return exhausted(question, splits(setting, Choices()))[0].best


@pytest.mark.parametrize("basis", BASES)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_every_plan_is_judged_as_a_single_solve_judges_it(basis, data):
    nodes, batch = data.draw(st.sampled_from([1, 2, 3, 5])), data.draw(st.sampled_from([24, 60, 64]))
    seq_len = data.draw(st.sampled_from([2048, 6144]))
    found = whole_space(basis, nodes, batch, seq_len)
    for which in data.draw(st.lists(st.integers(0, found.shape[1] - 1), min_size=5, max_size=10)):
        row = found_row(found[:, which])
        step = alone(LLAMA, fleet(nodes), row, batch_size=batch, seq_len=seq_len, **BASES[basis])
        assert step.step_latency_total.m_as("s") == pytest.approx(row["step_latency"].m_as("s"), rel=1e-9)
        assert step.memory_per_accelerator.m_as("B") == pytest.approx(row["memory"].m_as("B"), rel=1e-9)
        assert step.plan == {name: row[name] for name in step.plan}


TORUS = Fleet(name="256 TPU", node=Systems.Nodes.TPUv4_Host, count=64, fabric=Systems.Fabrics.ICI_v4)


@pytest.mark.parametrize(
    ("model", "on", "asked"),
    [
        (MIXTRAL, fleet(4), {"stack": "megatron-core"}),
        (MIXTRAL, fleet(4), {"stack": "megatron-core", "expert_tp_size": 1, "routing_imbalance": 1.3}),
        (Models.Language.DeepSeek_V2, fleet(32), {"stack": "megatron-core"}),
        (LLAMA, fleet(2), {"stack": "pytorch-fsdp", "lora_rank": 16}),
        (LLAMA, fleet(2), {"stack": "megatron-core", "attention": "unfused"}),
        (LLAMA, TORUS, {"stack": "maxtext", "batch_size": 256}),
    ],
)
def test_plans_that_share_their_layers_are_judged_as_single_solves_judge_them(model, on, asked):
    found = search(model, on, top_k=1000, **asked)
    for row in (*found.ranking[::25], *found.pareto):
        step = alone(model, on, row, **{name: value for name, value in asked.items() if name != "expert_tp_size"})
        assert step.step_latency_total.m_as("s") == pytest.approx(row["step_latency"].m_as("s"), rel=1e-12)
        assert step.memory_per_accelerator.m_as("B") == pytest.approx(row["memory"].m_as("B"), rel=1e-12)


def test_a_layer_is_computed_once_for_all_plans_that_split_it_alike():
    ones = np.ones(6)
    tp, chunks = np.array([1.0, 2.0, 1.0, 2.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0, 1.0, 2.0, 4.0])
    plan = Plan(
        tp, 3 * ones, ones, 1.0, chunks, 8 * ones, 4096 * ones, np.arange(6.0), 0.0, 0.0, 1.0, 2.0, 2.0, 12.0, 1.0, 0.0, 1.0
    )
    asked = []

    def times(split):
        asked.append(split)
        return LayerTimes(split.tp, split.virtual_stages, *[0.0] * 7)

    layer = once_per_layer(times, plan)
    assert [split.tp.size for split in asked] == [3]  # whether there are several chunks matters, not how many
    assert (layer.forward_s == tp).all()
    assert (layer.backward_s == np.minimum(chunks, 2.0)).all()
    # What no layer may depend on is no number.
    assert math.isnan(asked[0].pp)
    assert math.isnan(asked[0].zero_stage)


@pytest.mark.parametrize("stack", [None, "megatron-core"])
def test_tasks_are_of_like_sizes_and_leave_nothing_out(stack):
    basis = {"efficiency": 0.5} if stack is None else {"stack": stack}
    setting = TrainingSetting.of(LLAMA, fleet(64), batch_size=1024, **basis, zero_stage=1)
    parts = splits(setting, Choices())
    every = rows(setting, Choices(), parts)
    for size in (1, 500, 2048, 10**9):
        lists = tasks(setting, Choices(), parts, size)
        assert [part for task in lists for part in task] == parts
        found = [rows(setting, Choices(), task) for task in lists]
        assert (np.concatenate(found, axis=1) == every).all()
        assert all(one.shape[1] <= size for one, task in zip(found, lists, strict=True) if len(task) > 1)
    assert len(tasks(setting, Choices(), parts, 500)) > 4


def test_experts_are_spread_in_every_legal_way():
    found = search(MIXTRAL, on=fleet(2), top_k=100_000, efficiency=0.5, fixed={"cp": 1})
    assert {row["ep"] for row in found.ranking} == {1, 2, 4, 8}
    row = next(row for row in found.ranking if row["ep"] == 4)
    step = alone(MIXTRAL, fleet(2), row, efficiency=0.5, overlap_efficiency=PAPER_OVERLAP)
    assert step.step_latency_total.m_as("s") == pytest.approx(row["step_latency"].m_as("s"), rel=1e-9)


def test_the_ranking_is_sorted_and_the_front_is_what_no_plan_beats():
    found = search(top_k=100_000, stack="megatron-core", fixed={"cp": 1})
    every = [(row["step_latency"].m_as("s"), row["memory"].m_as("B")) for row in found.ranking]
    assert every == sorted(every)
    front = [(row["step_latency"].m_as("s"), row["memory"].m_as("B")) for row in found.pareto]
    best = float("inf")
    expected = []
    for step, memory in every:
        if memory < best:
            expected.append((step, memory))
            best = memory
    assert front == expected
    assert front[0] == every[0]


def test_more_room_never_makes_the_best_plan_slower():
    found = [search(efficiency=0.5), search(efficiency=0.5, space="tp-pp-dp"), search(efficiency=0.5, fixed={"tp": 8})]
    whole, paper, fixed = (plan.require_best().step_latency_total for plan in found)
    assert whole <= paper
    assert whole <= fixed
    assert found[0].total_space >= found[0].total_legal >= found[0].total_evaluated >= found[0].total_feasible > 0
    assert found[0].total_searched == found[0].total_legal
    assert found[1].total_legal < found[2].total_legal < found[0].total_legal


def test_what_the_caller_fixes_stays_fixed():
    asked = {"tp": (2, 4), "pp": 2, "recompute": "none", "schedule": "1f1b", "zero_stage": (0, 1), "sequence_parallel": True}
    found = search(efficiency=0.5, fixed=asked, top_k=10_000)
    for name, value in asked.items():
        assert {row[name] for row in found.ranking} <= set(value if isinstance(value, tuple) else [value])
    assert {row["tp"] for row in found.ranking} == {2, 4}


def test_a_memory_limit_is_kept():
    free = search(efficiency=0.5)
    limit = free.ranking[0]["memory"] * 0.5
    tight = search(efficiency=0.5, max_memory=limit)
    assert tight.ranking[0]["memory"] <= limit
    assert tight.require_best().step_latency_total >= free.require_best().step_latency_total
    none = search(efficiency=0.5, max_memory="1 GB")
    assert not none.feasible
    assert "0.9 GiB are usable" in none.reason
    assert none.total_searched > 0 == none.total_evaluated == none.total_feasible


def test_the_reasons_name_what_the_other_choice_costs():
    found = search(efficiency=0.5)
    best = found.ranking[0]
    for row, words in zip(found.alternatives, found.why, strict=True):
        assert row["instead_of"] == best.get(row["changed"], row["instead_of"])
        assert row["value"] != row["instead_of"]
        if row["fits"]:
            assert row["slower"] >= 0
            step = alone(LLAMA, fleet(), row, efficiency=0.5, overlap_efficiency=PAPER_OVERLAP)
            assert step.step_latency_total.m_as("s") == pytest.approx(row["step_latency"].m_as("s"), rel=1e-9)
            assert f"{100 * row['slower']:+.1f} %" in words
        else:
            assert "does not fit" in words
    changed = {row["changed"] for row in found.alternatives}
    assert {"tp", "pp", "recompute", "zero_stage", "micro_batch"} <= changed


def test_objectives_can_leave_accelerators_idle():
    asked = {"efficiency": 0.5, "idle_accelerators": True, "fixed": {"cp": 1}}
    fastest = search(**asked)
    cheapest = search(objective="tokens_per_dollar", accelerator_price="2.5 USD/hour", **asked)
    used = [plan.best_config["tp"] * plan.best_config["pp"] * plan.best_config["dp"] for plan in (fastest, cheapest)]
    assert used[1] <= used[0] == 32
    tokens = 64 * 4096 / (cheapest.best.step_latency_total.m_as("hour") * 2.5 * used[1])
    assert cheapest.objective_value.m_as("count/USD") == pytest.approx(tokens)
    mfu = search(objective="mfu", **asked)
    assert mfu.objective_value == pytest.approx(mfu.best.mfu)
    assert mfu.objective_value >= fastest.best.mfu
    power = search(objective="tokens_per_joule", accelerator_power="1 kW", **asked)
    assert power.best_config == cheapest.best_config


def test_time_to_train_counts_failures():
    asked = {
        "efficiency": 0.5,
        "objective": "time_to_train",
        "train_tokens": "1e12 count",
        "checkpoint_time": "1 min",
        "restart_time": "10 min",
    }
    steady, shaky = (search(accelerator_mtbf=mtbf, **asked) for mtbf in ("1e9 hour", "1000 hour"))
    steps = 1e12 / (64 * 4096)
    assert steady.objective_value.m_as("s") == pytest.approx(steps * steady.best.step_latency_total.m_as("s"), rel=1e-3)
    assert shaky.objective_value > 1.02 * steady.objective_value


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"space": "ful"}, "space"),
        ({"fixed": {"tpp": 8}}, "tpp"),
        ({"fixed": {"tp": 3}}, "fixed"),
        ({"fixed": {"recompute": "some"}}, "recompute"),
        ({"fixed": {"pp": ()}}, "at least one"),
        ({"fixed": {"zero_stage": 4}}, "zero_stage"),
        ({"objective": "tokens_per_dollar"}, "accelerator_price"),
        ({"objective": "speed"}, "objective"),
        ({"accelerator_price": "2 USD/hour"}, "accelerator_price"),
        ({"max_memory": "-1 GB"}, "max_memory"),
        ({"max_tp_size": 0}, "max_tp_size"),
        ({"executor": 3}, "executor"),
    ],
)
def test_bad_input_is_named(asked, says):
    with pytest.raises(InputError, match=says):
        search(**asked)


def test_an_interrupt_returns_the_best_so_far(monkeypatch):
    calls = itertools.count()
    judged = searching.searched

    def interrupted(question, parts):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return judged(question, parts)

    monkeypatch.setattr(searching, "searched", interrupted)
    found = search(on=fleet(64), batch_size=1024, efficiency=0.5)
    assert not found.complete
    assert found.feasible
    assert "interrupted" in found.diagnostics[0]


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_an_executor_gives_the_same_answer(pool):
    here = search(efficiency=0.5, fixed={"cp": 1})
    with pool(2) as executor:
        there = search(efficiency=0.5, fixed={"cp": 1}, executor=executor)
    assert there == here


def test_a_dask_cluster_of_two_workers_gives_the_same_answer():
    distributed = pytest.importorskip("distributed", reason="a search on Dask needs the extra dask")
    here = search(efficiency=0.5, fixed={"cp": 1})
    # Questions and answers travel over TCP, to workers in this process: two more would read Dask and the package again.
    workers = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "protocol": "tcp"}
    with (
        distributed.LocalCluster(**workers, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
        client.get_executor() as executor,
    ):
        assert search(efficiency=0.5, fixed={"cp": 1}, executor=executor) == here


def test_time_grows_no_faster_than_plans():
    sizes = ((16, 128), (1024, 8192))
    plans, seconds = {}, {size: float("inf") for size in sizes}
    for _ in range(4):  # in turns, so that a slow phase of the machine meets both
        for nodes, batch in sizes:
            start = time.process_time()
            plans[nodes, batch] = search(on=fleet(nodes), batch_size=batch, efficiency=0.5).total_searched
            seconds[nodes, batch] = min(seconds[nodes, batch], time.process_time() - start)
    small, large = sizes
    assert plans[large] > 3 * plans[small]
    # A small search spreads its fixed part over few plans; three times its time a plan leaves room for a machine's noise.
    assert seconds[large] / plans[large] < 3 * seconds[small] / plans[small]


def test_memory_stays_bounded():
    tracemalloc.start()
    try:
        found = search(on=fleet(64), batch_size=1024, efficiency=0.5)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.total_searched > 10_000
    assert peak < 100e6


def test_factorizations_are_counted():
    for number in (1, 8, 12, 30, 64):
        triples = sum(1 for a in divisors(number) for b in divisors(number // a))
        assert _factorizations(number, 3) == triples
