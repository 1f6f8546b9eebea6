"""How many requests a deployment takes, and how many accelerators a load takes: exact, infeasible with a reason."""

import math
import time

import pytest

from mlsysim import (
    BatchingOptimizer,
    CapacityPlanner,
    ContinuousBatchingModel,
    Fleet,
    Hardware,
    InputError,
    Models,
    ServingModel,
    SpeculativeDecodingModel,
    Systems,
)
from mlsysim.physics.serving.disaggregation import MOST_BUSY, decode_pool, kv_transfer_s, prefill_pool
from mlsysim.physics.serving.speculation import expected_tokens

LLAMA, H100 = Models.Language.Llama3_8B, Hardware.Cloud.H100
ASKED = {"seq_len": 1024, "output_len": 256}
LONG = {"seq_len": 4096, "output_len": 512}
STACKS = (None, "vllm-2025")


def ms(quantity):
    return quantity.m_as("ms")


def flying(**given):
    return ContinuousBatchingModel().solve(LLAMA, H100, **{**ASKED, **given})


def batching(**given):
    return BatchingOptimizer().solve(LLAMA, H100, **{**ASKED, **given})


# Continuous batching.


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("concurrency", [1, 64, 3000])
def test_continuous_batching_is_the_schedule_of_the_serving_model(stack, concurrency):
    """With blocks of one token nothing is wasted, and both models answer the same question."""
    mine = flying(stack=stack, concurrency=concurrency, page_size=1)
    serving = ServingModel().solve(LLAMA, H100, **ASKED, stack=stack, batch_size=concurrency, schedule="continuous")
    for name in ("ttft", "tpot", "itl", "request_latency", "tokens_per_second", "requests_per_second", "kv_cache", "weights"):
        assert getattr(mine, name).magnitude == pytest.approx(getattr(serving, name).magnitude), name
    assert (mine.batch, mine.max_batch) == (serving.batch, serving.max_batch)
    assert sum(ms(part) for part in mine.breakdown.values()) == pytest.approx(ms(mine.tpot))


@pytest.mark.parametrize("stack", STACKS)
def test_the_default_concurrency_fills_the_cache(stack):
    full = flying(stack=stack)
    assert full.feasible
    assert full.batch == full.concurrency == full.max_batch
    assert 1 - 1 / full.batch < full.kv_use <= 1
    beyond = flying(stack=stack, concurrency=full.max_batch + 100)
    assert beyond.batch == full.batch
    assert beyond.ttft > 10 * full.ttft
    assert beyond.binding == "memory capacity"


def test_larger_blocks_hold_fewer_sequences():
    found = [flying(page_size=size) for size in (1, 16, 256)]
    assert found[0].max_batch > found[1].max_batch > found[2].max_batch
    assert found[0].kv_unused == 0 < found[1].kv_unused < found[2].kv_unused < 0.2
    # Of 1024 + 128 tokens, mean over a life, half a block of 256 is empty.
    assert found[2].kv_unused == pytest.approx(127.5 / (1152 + 127.5))


@pytest.mark.parametrize("stack", STACKS)
def test_cached_prefixes_are_not_computed(stack):
    asked = {"seq_len": 8192, "stack": stack, "concurrency": 16}
    runs = [flying(**asked, prefix_hit=hit) for hit in (0.0, 0.25, 0.5, 0.9, 1.0)]
    for name in ("ttft", "tpot"):
        times = [ms(getattr(run, name)) for run in runs]
        assert times == sorted(times, reverse=True), name
        assert times[-1] > 0
    assert {ms(run.itl) for run in runs} == {ms(runs[0].itl)}
    assert {run.max_batch for run in runs} == {runs[0].max_batch}
    assert runs[0] == flying(**asked)
    # New tokens also attend to the cached ones: half a prompt costs more than a prompt of half the length.
    half = flying(**{**asked, "seq_len": 4096})
    assert ms(runs[2].tpot) - ms(runs[2].itl) > ms(half.tpot) - ms(half.itl)


def test_where_arithmetic_is_all_cached_and_new_make_the_whole():
    """FLOPs of the new tokens of half a cached prompt, and of a prompt as long as the cached half, are those of all of it."""
    asked = {"seq_len": 8192, "concurrency": 16, "efficiency": 0.01}
    whole, rest, first = (flying(**given) for given in (asked, {**asked, "prefix_hit": 0.5}, {**asked, "seq_len": 4096}))
    joined = [ms(run.breakdown["prefills of others"]) for run in (whole, rest, first)]
    assert joined[1] + joined[2] == pytest.approx(joined[0], rel=1e-3)


# The largest batch.


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(
    "limits",
    [
        {"max_itl": "20 ms"},
        {"max_ttft": "240 ms"},
        {"max_itl": "40 ms", "max_ttft": "300 ms"},
        {"max_ttft": "900 ms", "schedule": "static"},
        {"max_itl": "9 ms", "schedule": "static"},
        {},
    ],
    ids=str,
)
def test_no_larger_batch_keeps_the_limits(stack, limits):
    found = batching(**LONG, stack=stack, **limits)
    within = []
    for batch in range(1, found.max_batch + 1):
        run = ServingModel().solve(
            *(LLAMA, H100), **LONG, stack=stack, batch_size=batch, schedule=limits.get("schedule", "continuous")
        )
        quick = ms(run.tpot) <= float(limits.get("max_itl", "inf ms").split()[0])
        if quick and ms(run.ttft) <= float(limits.get("max_ttft", "inf ms").split()[0]):
            within.append(batch)
    assert found.batch == max(within)
    assert ms(found.itl) == pytest.approx(sum(ms(part) for part in found.breakdown.values()))


@pytest.mark.parametrize("limit", ["max_itl", "max_ttft"])
def test_a_tighter_limit_never_gives_a_larger_batch(limit):
    batches = [batching(stack="vllm-2025", **{limit: f"{milliseconds} ms"}).batch for milliseconds in range(1, 150, 16)]
    assert batches == sorted(batches)
    assert batches[0] == 0 < batches[-1]


def test_what_binds_is_said():
    assert batching().binding == "memory capacity"
    assert batching(max_itl="12 ms").binding == "ITL limit"
    assert batching(max_ttft="20 ms").binding == "TTFT limit"
    assert batching(stack="vllm-2025", kv_precision="fp8", seq_len=16, output_len=16).binding == "the engine's most sequences"


def test_replicas_carry_the_load():
    one = batching(max_itl="15 ms")
    rate = one.requests_per_second.m_as("count/s")
    assert batching(max_itl="15 ms", request_rate=f"{3.5 * rate} count/s").replicas == 4
    assert one.replicas == 1


def test_a_model_that_does_not_fit_is_said_with_bytes():
    found = BatchingOptimizer().solve(Models.Language.Llama2_70B, H100, **ASKED, max_itl="1 s")
    assert not found.feasible
    assert found.reason.startswith("one H100")
    assert "138" in found.reason
    assert (found.batch, found.max_batch, found.total_searched) == (0, 0, 0)


def test_weights_that_leave_an_engine_no_cache_are_infeasible():
    """Weights fit the bare device; beside an engine's workspace not one sequence of this length does."""
    asked = {"seq_len": 600_000, "output_len": 8, "stack": "vllm-2025"}
    found = ContinuousBatchingModel().solve(LLAMA, H100, **asked)
    assert not found.feasible
    assert "GB" in found.reason
    assert found.binding == "memory capacity"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("max_itl", "50"), ("max_itl", "-1 ms"), ("max_ttft", "0 s"), ("max_ttft", "3 GB"), ("request_rate", "-1 count/s")),
        *(("schedule", "offline"), ("output_len", 0), ("seq_len", 0), ("tp_size", 3), ("stack", "vllm-1999")),
    ],
    ids=str,
)
def test_batching_refuses(argument, value):
    with pytest.raises(InputError) as caught:
        batching(**{argument: value})
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("argument", "value"), [("concurrency", 0), ("page_size", 1.5), ("output_len", None), ("prefix_hit", 1.1)]
)
def test_continuous_batching_refuses(argument, value):
    with pytest.raises(InputError) as caught:
        flying(**{argument: value})
    assert caught.value.argument == argument


# How many accelerators.

A100, HGX = Systems.Nodes.DGX_A100_80GB, Systems.Nodes.DGX_H100
LOAD = {"request_rate": "20 count/s", "input_len": 1024, "output_len": 256}
PRICES = {A100.name: "1.8 USD/hour", HGX.name: "3 USD/hour"}


def capacity(model=LLAMA, hardware=(A100, HGX), **given):
    return CapacityPlanner().solve(model, hardware, **{**LOAD, **given})


def single(node, **given):
    """One configuration by the model of a single solve."""
    return ServingModel().solve(LLAMA, node, **{**ASKED, "schedule": "continuous", **given})


def by_hand(node, price, stack, max_itl, max_ttft, tps, pps, most):
    """Every configuration together and apart, a solve each; every prefill plan beside every decode plan."""
    rate, rows, plans = 20.0, [], [(tp, pp) for tp in tps for pp in pps]
    base = {"stack": stack, "precision": "fp16"}
    kv_B = LLAMA.layers * 2 * LLAMA.kv_head_count * LLAMA.head_width * 2 * 1024
    firsts = {(tp, pp): single(node, tp_size=tp, pp_size=pp, schedule="static", **base).ttft.m_as("s") for tp, pp in plans}
    for tp, pp in plans:
        for batch in range(1, most + 1):
            run = single(node, tp_size=tp, pp_size=pp, batch_size=batch, **base)
            count = math.ceil(rate / run.requests_per_second.m_as("count/s"))
            rows.append((count * tp * pp * price, ms(run.tpot), ms(run.ttft), tp, pp, batch, False))
            for (ptp, ppp), first_s in firsts.items():
                sent_s = kv_transfer_s(kv_B, ptp * ppp, tp * pp, node.network_bw.m_as("byte/s"))
                own_s = kv_transfer_s(kv_B, ptp * ppp, ptp * ppp, node.network_bw.m_as("byte/s"))
                pool, ttft_s = prefill_pool(rate, first_s, own_s, max_ttft / 1e3)
                per_s, tpot_s = decode_pool(batch, 256.0, run.itl.m_as("s"), sent_s)
                ranks = math.ceil(rate / per_s) * tp * pp + pool * ptp * ppp
                rows.append((ranks * price, tpot_s * 1e3, ttft_s * 1e3, tp, pp, batch, True))
    return [row for row in rows if row[1] <= max_itl and row[2] <= max_ttft * (1 + 1e-9)]


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(("max_itl", "max_ttft"), [(25, 300), (9, 150), (40, 105), (5, 40)])
def test_single_solves_of_every_configuration_find_nothing_cheaper(stack, max_itl, max_ttft):
    sizes = {"tp_sizes": [1, 2], "pp_sizes": [1, 2], "max_batch": 12}
    found = capacity(
        *(LLAMA, [HGX]), precisions=["fp16"], prices={HGX.name: "3 USD/hour"}, stack=stack, **sizes, max_itl=f"{max_itl} ms",
        max_ttft=f"{max_ttft} ms",
    )  # fmt: skip
    within = by_hand(HGX, 3.0, stack, max_itl, max_ttft, [1, 2], [1, 2], 12)
    # Together, and apart with each prefill pool that is worth trying.
    assert found.total_searched % (4 * 12) == 0
    assert 2 * 4 * 12 <= found.total_searched <= 5 * 4 * 12
    assert found.feasible == bool(within)
    if not within:
        return
    cost, itl, *_ = min(within)
    assert found.cost_per_hour.m_as("USD/hour") == pytest.approx(cost)
    assert ms(found.itl) == pytest.approx(itl)
    assert found.cost_per_million_tokens.m_as("USD") == pytest.approx(cost / (20 * 256 * 3600) * 1e6)
    # The front of all that are within the limits, by its definition.
    front, least = [], math.inf
    for cost, itl, *_ in sorted(within):
        if itl < least:
            least = itl
            front.append((cost, itl))
    assert [row["cost_per_hour"].m_as("USD/hour") for row in found.front] == pytest.approx([cost for cost, _ in front])
    assert [ms(row["itl"]) for row in found.front] == pytest.approx([itl for _, itl in front])


@pytest.mark.parametrize("stack", STACKS)
def test_every_ranked_configuration_is_that_of_the_serving_model(stack):
    found = capacity(
        stack=stack, prices=PRICES, max_itl="30 ms", max_ttft="400 ms", disaggregated=False, top_k=5, pp_sizes=[1, 2]
    )
    assert len(found.ranking) == 5
    for row in found.ranking:
        node = {A100.name: A100, HGX.name: HGX}[row["hardware"]]
        plan = {"tp_size": row["tp"], "pp_size": row["pp"], "batch_size": row["batch"], "precision": row["precision"]}
        run = single(node, stack=stack, **plan)
        assert run.feasible
        assert ms(run.tpot) == pytest.approx(ms(row["itl"]))
        assert ms(run.ttft) == pytest.approx(ms(row["ttft"]))
        assert ms(row["itl"]) <= 30
        assert ms(row["ttft"]) <= 400
        rate = run.requests_per_second.m_as("count/s")
        assert rate == pytest.approx(row["requests_per_second"].m_as("count/s"))
        assert (row["replicas"] - 1) * rate < 20 <= row["replicas"] * rate * (1 + 1e-12)
        assert row["accelerators"] == row["replicas"] * row["tp"] * row["pp"]
    costs = [row["cost_per_hour"] for row in found.ranking]
    assert costs == sorted(costs)


@pytest.mark.parametrize("limit", ["max_itl", "max_ttft"])
def test_a_tighter_limit_is_never_cheaper(limit):
    found = [
        capacity(stack="vllm-2025", **{limit: f"{value} ms"}, tp_sizes=[1, 2], pp_sizes=[1], max_batch=256)
        for value in (1, 20, 150, 500)
    ]
    assert not found[0].feasible
    counts = [run.accelerators for run in found if run.feasible]
    assert counts == sorted(counts, reverse=True)
    assert len(counts) >= 2
    searched = [run.total_feasible for run in found]
    assert searched == sorted(searched)


def test_more_load_takes_more():
    asked = {"hardware": [HGX], "precisions": ["fp8"], "max_itl": "20 ms", "stack": "vllm-2025", "pp_sizes": [1]}
    counts = [capacity(**asked, request_rate=f"{rate} count/s").accelerators for rate in (1, 30, 300)]
    assert counts[0] < counts[1] < counts[2]


def test_the_front_falls_in_latency_as_it_rises_in_cost():
    found = capacity(stack="vllm-2025", prices=PRICES, pp_sizes=[1, 2])
    costs, itls = ([row[name].magnitude for row in found.front] for name in ("cost_per_million_tokens", "itl"))
    assert costs == sorted(costs)
    assert itls == sorted(itls, reverse=True)
    assert found.front[0]["cost_per_hour"] == found.cost_per_hour == found.ranking[0]["cost_per_hour"]


@pytest.mark.parametrize("apart", [False, True])
def test_cached_prefixes_take_fewer_accelerators(apart):
    asked = {"hardware": [HGX], "precisions": ["fp16"], "stack": "vllm-2025", "tp_sizes": [1], "pp_sizes": [1]}
    asked |= {"input_len": 4096, "max_itl": "30 ms", "disaggregated": apart}
    none, most = (capacity(**asked, prefix_hit=hit) for hit in (0.0, 0.9))
    assert most.accelerators < none.accelerators
    assert none == capacity(**asked)
    if not apart:
        run = flying(seq_len=4096, stack="vllm-2025", concurrency=most.best_config["batch"], prefix_hit=0.9, page_size=1)
        assert ms(run.tpot) == pytest.approx(ms(most.itl))
    assert most.best_config["disaggregated"] == apart


def test_the_winner_is_explained():
    found = capacity(stack="vllm-2025", prices=PRICES, max_itl="8 ms", pp_sizes=[1, 2])
    assert found.binding == "ITL limit"
    other = next(row for row in found.alternatives if row["changed"] == "hardware")
    assert other["value"] == A100.name
    alone = capacity(LLAMA, [A100], stack="vllm-2025", prices={A100.name: "1.8 USD/hour"}, max_itl="8 ms", pp_sizes=[1, 2])
    assert other["cost_per_hour"] == alone.cost_per_hour
    assert other["dearer"] == pytest.approx(float(alone.cost_per_hour / found.cost_per_hour) - 1)
    assert len(found.why) == len(found.alternatives)
    assert sum(part.magnitude for part in found.breakdown.values()) == found.accelerators


def test_without_prices_accelerators_count():
    found = capacity(max_itl="20 ms")
    assert found.cost_per_hour is found.cost_per_million_tokens is None
    assert found.accelerators == min(row["accelerators"] for row in found.ranking)
    assert any(A100.name in note and "fp8" in note for note in found.diagnostics)


def test_a_fleet_has_an_end():
    one = Fleet(name="one", node=HGX, count=1)
    found = capacity(LLAMA, [one], stack="vllm-2025", request_rate="1000 count/s", precisions=["fp16"])
    assert not found.feasible
    assert found.binding == "fleet size"
    assert "accelerators of 8" in found.reason
    assert capacity(LLAMA, [one]).accelerators <= 8


def test_a_model_that_fits_no_plan_is_said_with_bytes():
    found = capacity(Models.Language.Llama2_70B, [Hardware.Cloud.H100, Hardware.Cloud.A100], precisions=["fp16"])
    assert not found.feasible
    assert found.binding == "memory capacity"
    assert "138" in found.reason
    assert "GB" in found.reason
    assert (found.total_plans, found.total_fit, found.total_searched, found.ranking) == (2, 0, 0, ())
    assert str(found).splitlines()[1].startswith("  INFEASIBLE: ")


def test_limits_out_of_reach_say_how_far():
    found = capacity(max_itl="1 us")
    assert not found.feasible
    assert "ITL" in found.reason
    assert "limit of 0.001 ms" in found.reason
    assert found.itl.m_as("us") > 1
    assert found.accelerators == 0


def test_layers_of_a_prime_number_may_be_staged():
    """61 layers that one node cannot hold lie on two."""
    two = Fleet(name="two", node=HGX, count=2)
    found = capacity(Models.Language.DeepSeek_V3, [two], precisions=["fp8"], request_rate="0.1 count/s", stack="vllm-2025")
    assert found.feasible
    assert found.best_config["pp"] > 1


def test_pools_apart_need_a_network():
    bare = Hardware.Cloud.H100.model_copy(update={"interconnect_bw": None})
    found = capacity(LLAMA, [bare], precisions=["fp16"], disaggregated=True)
    assert not found.feasible
    assert found.binding == "network"


def test_a_prefill_pool_keeps_its_limit():
    for prefill_s in (0.01, 0.1, 0.9):
        for limit_s in (1.0, 2.0, math.inf):
            count, ttft_s = prefill_pool(50.0, prefill_s, 0.001, limit_s)
            assert ttft_s <= limit_s * (1 + 1e-9)
            assert 50 * prefill_s / count <= MOST_BUSY * (1 + 1e-9)
            if limit_s < math.inf and count > 50 * prefill_s / MOST_BUSY + 1:
                busy = 50 * prefill_s / (count - 1)
                assert busy >= 1 or prefill_s * (1 + busy / (2 - 2 * busy)) > limit_s, "one fewer would not do"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("request_rate", "0 count/s"), ("request_rate", 20), ("input_len", 0), ("output_len", 1.5), ("max_itl", "1 m")),
        *(("prices", {"DGX H100": "3 USD/hour"}), ("precisions", []), ("precisions", "fp16"), ("tp_sizes", [0])),
        *(
            ("max_batch", 0),
            ("top_k", 0),
            ("prefix_hit", 2),
            ("disaggregated", "yes"),
            ("stack", "vllm-1999"),
            ("hardware", []),
        ),
        *(("hardware", "H100"), ("hardware", [HGX, HGX]), ("hardware", ["H100"]), ("tp_sizes", [7]), ("precisions", ["fp61"])),
    ],
    ids=str,
)
def test_capacity_refuses(argument, value):
    with pytest.raises(InputError) as caught:
        capacity(**{argument: value})
    named = {"tp_sizes": ("tp_sizes", "hardware"), "precisions": ("precisions", "precision")}.get(argument, (argument,))
    assert caught.value.argument in named


def test_the_search_is_fast():
    """50,000 configurations a second on one core, of the calibrated kernels: the best of some runs."""
    asked = {"stack": "vllm-2025", "max_itl": "40 ms", "max_ttft": "500 ms"}
    rates = []
    for _ in range(2):
        start = time.process_time()
        found = capacity(Models.Language.Llama2_70B, **asked)
        rates.append(found.total_searched / (time.process_time() - start))
    assert max(rates) > 50_000, rates


# Drafts.

BIG = Models.Language.Llama2_70B


def drafted(**given):
    asked = {"acceptance": 0.8, "seq_len": 1024, "tp_size": 4, **given}
    return SpeculativeDecodingModel().solve(BIG, LLAMA, HGX, **asked)


def test_expected_tokens_are_those_of_a_walk():
    """Of k drafts the first i are accepted with chance a^i (1 - a), all with a^k: i + 1 tokens each."""
    for chance in (0.0, 0.3, 0.8, 1.0):
        for k in range(8):
            walk = sum((i + 1) * chance**i * (1 - chance) for i in range(k)) + (k + 1) * chance**k
            assert expected_tokens(float(k), chance) == pytest.approx(walk)


@pytest.mark.parametrize("stack", STACKS)
def test_without_drafts_the_target_is_alone(stack):
    run = drafted(stack=stack, draft_len=0)
    plain = ServingModel().solve(BIG, HGX, seq_len=1024, tp_size=4, stack=stack)
    assert run.speedup == pytest.approx(1)
    assert ms(run.itl) == pytest.approx(ms(run.plain_itl))
    assert ms(run.itl) == pytest.approx(ms(plain.itl))
    assert any("vocabularies differ" in note for note in run.diagnostics)


@pytest.mark.parametrize("stack", STACKS)
def test_the_best_draft_is_the_best_of_all(stack):
    best = drafted(stack=stack)
    each = {k: drafted(stack=stack, draft_len=k).speedup for k in range(17)}
    assert best.speedups == pytest.approx(each)
    assert best.speedup == pytest.approx(max(each.values()))
    assert 1.2 < best.speedup < best.tokens_per_round
    assert ms(best.round_latency) == pytest.approx(ms(best.itl) * best.tokens_per_round)
    gains = [drafted(stack=stack, acceptance=chance).speedup for chance in (0, 0.5, 0.9)]
    assert gains == sorted(gains)
    assert drafted(stack=stack, acceptance=0).draft_len == 0
    # Where arithmetic is no longer free, checking costs what it saves.
    assert drafted(stack=stack, batch_size=128).speedup < best.speedup


def test_drafts_need_room_and_sense():
    found = SpeculativeDecodingModel().solve(LLAMA, BIG, H100, acceptance=0.5, seq_len=1024)
    assert not found.feasible
    assert "draft's weights 138" in found.reason
    for argument, value in (("acceptance", 3), ("acceptance", -1), ("draft_len", -1), ("draft_tp_size", 8), ("seq_len", 0)):
        with pytest.raises(InputError) as caught:
            drafted(**{argument: value})
        assert caught.value.argument == argument
