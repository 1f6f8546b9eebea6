"""What one solver recommends the others keep: each is asked about the other's answer."""

from __future__ import annotations

import random

import pytest

from mlsysim import (
    Q_,
    BatchingOptimizer,
    CapacityPlanner,
    ContinuousBatchingModel,
    DistributedModel,
    Fleet,
    FleetOptimizer,
    Hardware,
    InputError,
    Models,
    ServingModel,
    Systems,
    TailLatencyModel,
    TokenServerModel,
)
from mlsysim.solvers.training.parallelism import PAPER_OVERLAP, solve_arguments
from mlsysim.systems.fleets import usual_node

MODELS = [Models.get(name) for name in ("Llama-3.1-8B", "Qwen3-32B", "Llama-3.1-70B", "Mixtral-8x7B")]
CARDS = [Hardware.Cloud.A100, Hardware.Cloud.H100, Hardware.Cloud.H200, Hardware.Cloud.L40S, Hardware.Cloud.MI300X]
STACKS = [None, "vllm-2025", "sglang-2025", "tensorrt-llm-1.0"]
# A limit by its argument, and its time by the name that the tail model has for it.
TIMES = {"max_ttft": "ttft", "max_itl": "tpot", "max_latency": "latency"}
# The last bits of a percentile that was searched for are no breach of a limit.
ROUNDING = 1e-9


def some(*quick, of):
    """A few questions that are answered quickly in every run, and all behind the marker."""
    seeds = [pytest.param(seed, marks=() if seed in quick else pytest.mark.exhaustive) for seed in range(of)]
    return pytest.mark.parametrize("seed", seeds)


def question(rng):
    """A load of a model on a card, limits of which most can be kept, and the share of requests that keep them."""
    load = {"input_len": rng.choice([64, 500, 1000, 4000]), "output_len": rng.choice([16, 64, 300, 1000])}
    load |= {"stack": rng.choice(STACKS), "request_rate": f"{10 ** rng.uniform(-1.5, 2):.4g} count/s"}
    limits = {
        "max_ttft": f"{10 ** rng.uniform(-1, 1.3):.3g} s",
        "max_itl": f"{10 ** rng.uniform(0.9, 2.2):.3g} ms",
        "max_latency": f"{load['output_len'] * 10 ** rng.uniform(-1.8, -0.7) + 2:.3g} s",
    }
    names = rng.choice([("max_ttft",), ("max_itl",), ("max_ttft", "max_itl"), ("max_ttft", "max_itl"), tuple(limits)])
    share = rng.choice([0.5, 0.9, 0.99, 0.99, 0.99, 0.999])
    return rng.choice(MODELS), rng.choice(CARDS), load, {name: limits[name] for name in names}, share


def keeps(run, limits):
    """Whether the tail model says of a run that the asked share of requests keeps the limits."""
    return run.feasible and all(run.at_percentile[TIMES[name]] <= Q_(limit) * (1 + ROUNDING) for name, limit in limits.items())


def plans(model, node):
    """TP x PP of a replica in a node, and whether its ranks have whole experts and sequences of their own."""
    for tp in range(1, node + 1):
        for pp in range(1, node // tp + 1):
            even = -(-model.layers // pp) * pp <= 1.05 * model.layers
            if node % tp == model.heads % tp == 0 and even:
                yield tp, pp, 1
                if model.moe is not None and 1 < tp <= model.moe.experts:
                    yield tp, pp, tp


def smaller(model, card, load, below):
    """Deployments with fewer accelerators: every plan, the most replicas and some fewer, every batch that is chosen among."""
    for tp, pp, ep in plans(model, usual_node(card).accelerators_per_node):
        asked = {name: value for name, value in load.items() if name != "request_rate"}
        divided = {"tp_size": tp, "pp_size": pp, "ep_size": ep, "attention_dp": ep}
        most = ServingModel().solve(model, card, **asked, **divided, schedule="continuous").max_batch
        places = {2**power for power in range(10)} | {most, 1024}
        for replicas in range((below - 1) // (tp * pp), max(0, (below - 1) // (tp * pp) - 3), -1):
            for batch in sorted(size for size in places if 1 <= size <= min(most, 1024)):
                yield divided | {"replicas": replicas, "batch_size": batch}


@some(0, 1, 2, 4, of=200)
def test_a_plan_keeps_its_limits_by_the_tail_model_and_no_smaller_one_does(seed):
    model, card, load, limits, share = question(random.Random(seed))
    found = CapacityPlanner().solve(model, [card], **load, **limits, percentile=share, disaggregated=False)

    def seen(**plan):
        return TailLatencyModel().solve(model, card, **load, **plan, percentile=share)

    for row in found.ranking:
        divided = {"tp_size": row["tp"], "pp_size": row["pp"], "ep_size": row["ep"], "attention_dp": row["attention_dp"]}
        run = seen(**divided, replicas=row["replicas"], batch_size=row["batch"])
        assert keeps(run, limits), row
        assert row["ttft"].m_as("s") == pytest.approx(run.at_percentile["ttft"].m_as("s"))
    # Where nothing keeps the limits, nothing does with a few nodes either.
    for plan in smaller(model, card, load, found.accelerators if found.feasible else 25):
        assert not keeps(seen(**plan), limits), plan


@some(4, 6, of=100)
def test_pools_apart_are_planned_only_where_they_cost_less(seed):
    model, card, load, limits, share = question(random.Random(seed))
    asked = {**load, **limits, "percentile": share}
    either, together, apart = (
        CapacityPlanner().solve(model, [card], **asked, disaggregated=how) for how in (None, False, True)
    )
    counts = [run.accelerators for run in (together, apart) if run.feasible]
    if either.feasible:
        assert either.accelerators == min(counts)
    else:  # a way alone may be given more, which is no answer where another needs far less to carry the load
        assert min(counts, default=10**4) > 1000


@some(0, 2, 3, 4, 6, 10, of=100)
def test_the_best_batch_is_that_of_the_serving_model_and_its_replicas_keep_the_limits(seed):
    model, card, load, limits, share = question(random.Random(seed))
    limits.pop("max_latency", None)
    tp = random.Random(seed).choice([1, 2, 4])
    found = BatchingOptimizer().solve(model, card, **load, **limits, tp_size=tp, percentile=share)
    if not found.feasible:
        return
    rate = load.pop("request_rate")
    plan = {"tp_size": tp, "batch_size": found.batch}
    served = ServingModel().solve(model, card, **load, **plan, schedule="continuous")
    flying = ContinuousBatchingModel().solve(model, card, **load, tp_size=tp, concurrency=found.batch, page_size=1)
    for run in (served, flying):
        assert run.feasible
        assert run.tpot <= Q_(limits.get("max_itl", "1 hour")) * (1 + ROUNDING)
        assert run.ttft <= Q_(limits.get("max_ttft", "1 hour")) * (1 + ROUNDING)
    for replicas in (found.replicas, found.replicas - 1):
        if replicas:
            run = TailLatencyModel().solve(model, card, **load, **plan, request_rate=rate, replicas=replicas, percentile=share)
            assert keeps(run, limits) == (replicas == found.replicas)
    assert found.tail.utilization == pytest.approx(found.utilization)


@some(4, 5, 10, of=60)
def test_a_servers_highest_load_is_kept_by_its_own_answer_and_the_tail_model(seed):
    rng = random.Random(seed)
    model, card, load, _, share = question(rng)
    del load["request_rate"]
    limits = {"max_ttft": f"{rng.uniform(0.5, 5):.3g} s", "max_tpot": f"{rng.uniform(15, 90):.3g} ms"}
    asked = {**load, **limits, "accelerators": 8, "percentile": share}
    node = usual_node(card)
    found = TokenServerModel().solve(model, node, **asked)
    if not found.feasible:
        return
    assert TokenServerModel().solve(model, node, **asked, request_rate=(1 - 1e-6) * found.requests_per_second).feasible
    bound = TokenServerModel().solve(model, node, **{**asked, "stack": None})
    assert found.requests_per_second <= bound.requests_per_second
    if model.moe is None:
        run = TailLatencyModel().solve(
            model, node, **load, request_rate=found.requests_per_second, tp_size=found.tp_size, replicas=found.replicas,
            batch_size=found.places, percentile=share,
        )  # fmt: skip
        assert keeps(run, {"max_ttft": limits["max_ttft"], "max_itl": limits["max_tpot"]})


@some(1, 3, 7, of=40)
def test_the_best_fleet_is_that_of_single_training_steps(seed):
    rng = random.Random(seed)
    model = rng.choice(MODELS[:3])
    nodes = [Systems.Nodes.DGX_A100_80GB, Systems.Nodes.DGX_H100]
    fleets = [Fleet(name=node.name, node=node, count=rng.choice([1, 2, 4])) for node in nodes]
    # A search hides this share of each collective unless told, or unless its stack knows.
    basis = rng.choice([{"efficiency": 0.4, "overlap_efficiency": PAPER_OVERLAP}, {"stack": "megatron-core"}])
    common = {"seq_len": rng.choice([2048, 4096]), **basis}
    batch = rng.choice([32, 64])
    found = FleetOptimizer().solve([model], fleets, batch_size=batch, search={**common, "space": "full"})
    steps = {}
    for row in (row for row in found.rows if row["feasible"]):
        fleet = next(fleet for fleet in fleets if fleet.name == row["fleet"])
        plan = found.results[model.name, fleet.name].ranking[0]
        assert row["plan"].items() <= plan.items()
        run = DistributedModel().solve(model, fleet, batch_size=batch, **common, **solve_arguments(plan))
        assert run.feasible
        assert run.step_latency_total.m_as("s") == pytest.approx(row["step_latency"].m_as("s"))
        assert run.memory_per_accelerator.m_as("GB") == pytest.approx(row["memory"].m_as("GB"))
        steps[fleet.name] = run.step_latency_total
    assert found.feasible == bool(steps)
    if steps:
        assert found.best == {model.name: min(steps, key=steps.__getitem__)}


@pytest.mark.parametrize("percentile", [0, 1.0, 99, "p99", None])
def test_a_percentile_is_a_share_below_one(percentile):
    load = {"input_len": 100, "output_len": 10}
    questions = [
        lambda: CapacityPlanner().solve(MODELS[0], [CARDS[1]], **load, request_rate="1 count/s", percentile=percentile),
        lambda: TailLatencyModel().solve(MODELS[0], CARDS[1], **load, request_rate="1 count/s", percentile=percentile),
        lambda: BatchingOptimizer().solve(MODELS[0], CARDS[1], **load, percentile=percentile),
        lambda: TokenServerModel().solve(MODELS[0], CARDS[1], **load, accelerators=1, max_ttft="1 s", percentile=percentile),
    ]
    for ask in questions:
        with pytest.raises(InputError) as caught:
            ask()
        assert caught.value.argument == "percentile"
