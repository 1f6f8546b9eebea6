"""How many requests a deployment takes, and how many accelerators a load takes: exact, infeasible with a reason."""

import math
import time

import pytest
from test_batching import A100, ASKED, H100, HGX, LLAMA, LONG, STACKS, bound_or, ms

from mlsysim import (
    CapacityPlanner,
    Fleet,
    Hardware,
    InputError,
    Models,
    ServingModel,
    Systems,
    TailLatencyModel,
)
from mlsysim.lowering.arrivals import paces
from mlsysim.lowering.deployment import Deployment
from mlsysim.physics.queues.constant_service import ConstantService
from mlsysim.physics.serving.disaggregation import decode_pool, kv_transfer_s
from mlsysim.solvers.serving.pools import MOST_BUSY, prefill_pool

LOAD = {"request_rate": "20 count/s", "input_len": 1024, "output_len": 256}
PRICES = {A100.name: "1.8 USD/hour", HGX.name: "3 USD/hour"}


def capacity(model=LLAMA, hardware=(A100, HGX), **given):
    return CapacityPlanner().solve(model, hardware, **{**LOAD, **bound_or(given)})


def tail(node, row, stack, share=0.99):
    """What the tail model says of a deployment."""
    plan = {"tp_size": row["tp"], "pp_size": row["pp"], "batch_size": row["batch"], "replicas": row["replicas"]}
    plan |= bound_or({"stack": stack})
    return TailLatencyModel().solve(LLAMA, node, **LOAD, **plan, precision=row["precision"], percentile=share)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("share", [0.9, 0.99])
def test_every_ranked_deployment_keeps_the_limits_by_the_tail_model(stack, share):
    found = capacity(
        stack=stack, prices=PRICES, max_itl="30 ms", max_ttft="400 ms", disaggregated=False, top_k=5, percentile=share
    )
    assert len(found.ranking) == 5
    assert len({(row["hardware"], row["tp"], row["pp"]) for row in found.ranking}) == 5, "plans differ"
    for row in found.ranking:
        run = tail({A100.name: A100, HGX.name: HGX}[row["hardware"]], row, stack, share)
        seen = {"itl": "tpot", "ttft": "ttft", "request_latency": "latency"}
        for name, other in seen.items():
            assert ms(row[name]) == pytest.approx(ms(run.at_percentile[other])), name
        assert ms(row["itl"]) <= 30
        assert ms(row["ttft"]) <= 400
        assert row["capacity"].m_as("count/s") == pytest.approx(run.capacity.m_as("count/s"))
        assert row["utilization"] == pytest.approx(run.utilization) == pytest.approx(1 / (1 + row["headroom"]))
        assert row["accelerators"] == row["replicas"] * row["tp"] * row["pp"]
        assert row["cost_per_million_tokens"].m_as("USD") == pytest.approx(
            row["cost_per_hour"].m_as("USD/hour") / (20 * 256 * 3600) * 1e6
        )
    costs = [row["cost_per_hour"] for row in found.ranking]
    assert costs == sorted(costs)


def test_the_batch_is_the_largest_at_which_all_requests_keep_the_limit_between_tokens():
    found = capacity(LLAMA, [HGX], stack="vllm-2025", max_itl="15 ms", disaggregated=False, tp_sizes=[1], pp_sizes=[1])
    batch, run = found.best_config["batch"], {"stack": "vllm-2025", "schedule": "continuous", **ASKED}
    full_s = paces(Deployment.of(LLAMA, HGX, **run), None).token_s
    assert full_s[batch - 1] <= 0.015 < full_s[batch]
    assert ms(ServingModel().solve(LLAMA, HGX, batch_size=batch, **run).tpot) <= 15


def test_a_planned_load_does_not_wait_behind_a_full_replica():
    """At a batch whose mean rate just meets the load, a queue of half a minute stands before it."""
    model, card = Models.get("Qwen3-32B"), Hardware.Cloud.H200
    asked = {"request_rate": "20 count/s", "input_len": 1000, "output_len": 300, "stack": "vllm-2025"}
    found = CapacityPlanner().solve(model, [card], **asked, precisions=["fp8"], max_ttft="2 s", disaggregated=False)
    row = found.best_config
    plan = {"tp_size": row["tp"], "pp_size": row["pp"], "batch_size": row["batch"], "replicas": row["replicas"]}
    run = TailLatencyModel().solve(model, card, **asked, **plan, precision="fp8")
    assert run.ttft_p99.m_as("s") <= 2
    assert run.utilization == pytest.approx(found.utilization)


def test_a_card_stands_in_its_usual_node():
    one, eight = (capacity(LLAMA, [on], stack="vllm-2025", max_itl="6 ms", disaggregated=False) for on in (H100, HGX))
    assert one.feasible
    assert max(row["tp"] for row in one.ranking) == 8
    assert [row["tp"] for row in one.ranking] == [row["tp"] for row in eight.ranking]


def test_formats_are_the_models_own_unless_asked():
    found = capacity(
        Models.get("Qwen3-32B"), [Hardware.Cloud.H200], stack="vllm-2025", max_ttft="2 s", request_rate="20 count/s"
    )
    assert {row["precision"] for row in found.ranking} == {"fp16"}
    (note,) = (note for note in found.diagnostics if "quantised" in note)
    narrow = capacity(Models.get("Qwen3-32B"), [Hardware.Cloud.H200], stack="vllm-2025", max_ttft="2 s", precisions=["fp8"])
    assert note.startswith(f"if quantised to fp8: {narrow.accelerators} accelerators")
    own = capacity(Models.Language.DeepSeek_V3, [Hardware.Cloud.H200], stack="vllm-2025", request_rate="0.1 count/s")
    assert own.best_config["precision"] == "fp8_block"


@pytest.mark.parametrize("stack", STACKS)
def test_pools_apart_are_two_queues(stack):
    """First tokens wait as in M/D/1; a decode replica is a birth-death chain of its own steps."""
    found = capacity(
        LLAMA, [HGX], stack=stack, disaggregated=True, tp_sizes=[2], pp_sizes=[1], max_ttft="300 ms", max_itl="25 ms"
    )
    row = found.best_config
    first = ServingModel().solve(LLAMA, HGX, stack=stack, tp_size=2, **ASKED).ttft
    line = TailLatencyModel().solve(
        request_rate=f"{20 / row['prefill_replicas']} count/s", service_time=first, distribution="deterministic"
    )
    assert ms(found.ttft) == pytest.approx(ms(line.latency_p99))
    assert ms(found.ttft) <= 300
    kv_B = LLAMA.layers * 2 * LLAMA.kv_head_count * LLAMA.head_width * 2 * 1024
    sent_s = kv_transfer_s(kv_B, 2.0, 2.0, HGX.network_bw.m_as("byte/s"))
    arriving = {"stack": stack, "tp_size": 2, "schedule": "continuous", **ASKED}
    in_flight, weights, times_s = 20 / row["replicas"], [1.0], []
    for batch in range(1, row["batch"] + 1):
        step_s = ServingModel().solve(LLAMA, HGX, batch_size=batch, **arriving).itl.m_as("s")
        per_s, token_s = decode_pool(float(batch), 256.0, step_s, sent_s)
        weights.append(weights[-1] * in_flight / per_s)
        times_s.append(token_s)
    shares = [weight / sum(weights) for weight in weights]
    slow = sum(share for share, token_s in zip(shares, times_s, strict=False) if token_s > found.itl.m_as("s") * (1 + 1e-9))
    assert slow <= 0.01
    assert ms(found.itl) <= 25
    assert ms(found.request_latency) == pytest.approx(ms(found.ttft) + 255 * ms(found.itl))


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
    asked = {"hardware": [HGX], "stack": "vllm-2025", "tp_sizes": [1], "pp_sizes": [1], "input_len": 4096, "max_itl": "30 ms"}
    none, most = (capacity(**asked, disaggregated=apart, prefix_hit=hit) for hit in (0.0, 0.9))
    assert most.accelerators < none.accelerators
    assert none == capacity(**asked, disaggregated=apart)
    if not apart:
        plan = {"batch_size": most.best_config["batch"], "replicas": most.replicas, "prefix_hit": 0.9}
        run = TailLatencyModel().solve(LLAMA, HGX, **{**LOAD, "input_len": 4096}, stack="vllm-2025", **plan)
        assert ms(run.tpot_p99) == pytest.approx(ms(most.itl))
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


def test_more_room_than_anybody_tries_is_no_error():
    found = capacity(Models.Language.GPT_OSS_120B, [Hardware.Cloud.H200], input_len=100, output_len=20)
    assert found.feasible
    assert found.best_config["batch"] <= 1024
    few = capacity(LLAMA, [Hardware.get("MI355X")], input_len=1, output_len=2, max_batch=64, stack=None)
    assert few.best_config["batch"] == 64
    assert "batches beyond max_batch = 64 fit and were not tried" in few.diagnostics


def test_a_request_longer_than_the_model_was_made_for_is_told():
    load = {"input_len": 8000, "output_len": 200, "stack": "vllm-2025"}
    found = capacity(hardware=[H100], **load)
    tails = TailLatencyModel().solve(LLAMA, H100, request_rate="0.1 count/s", **load)
    for answer in (found, tails, ServingModel().solve(LLAMA, H100, **load)):
        assert any(note.startswith("seq_len 8200 is beyond the ") for note in answer.diagnostics)


def test_without_prices_accelerators_count():
    found = capacity(max_itl="20 ms")
    assert found.cost_per_hour is found.cost_per_million_tokens is None
    assert found.accelerators == min(row["accelerators"] for row in found.ranking)
    tpu = Hardware.get("tpu_v4")
    both = capacity(LLAMA, [A100, tpu], max_itl="20 ms", precisions=["fp16", "fp32"])
    assert any(tpu.name in note and "fp32" in note for note in both.diagnostics)


def test_a_fleet_has_an_end():
    one = Fleet(name="one", node=HGX, count=1)
    found = capacity(LLAMA, [one], stack="vllm-2025", request_rate="1000 count/s", precisions=["fp16"])
    assert not found.feasible
    assert found.binding == "fleet size"
    assert "accelerators of 8" in found.reason
    enough = found.reason.split("enough for ")[1].split(",")[0]
    asked = {"stack": "vllm-2025", "precisions": ["fp16"]}
    for share, feasible in ((0.99, True), (1.01, False)):
        assert capacity(LLAMA, [one], **asked, request_rate=f"{share * float(enough)} count/s").feasible == feasible
    assert capacity(LLAMA, [one]).accelerators <= 8


def test_limits_that_only_a_request_alone_keeps_are_said():
    """A card for each of the requests that come in hours is no answer."""
    alone = single_prefill()
    found = capacity(LLAMA, [HGX], stack="vllm-2025", tp_sizes=[1], pp_sizes=[1], disaggregated=False, max_ttft=1.01 * alone)
    assert not found.feasible
    assert found.binding == "TTFT limit"
    assert found.reason.startswith("only requests that meet no others keep the limits")
    assert ms(found.ttft) == pytest.approx(ms(alone))


def single_prefill():
    return ServingModel().solve(LLAMA, HGX, stack="vllm-2025", **ASKED).ttft


def test_a_model_that_fits_no_plan_is_said_with_bytes():
    found = capacity(Models.Language.Llama2_70B, [Hardware.Cloud.H100, Hardware.Cloud.A100], tp_sizes=[1], pp_sizes=[1])
    assert not found.feasible
    assert found.binding == "memory capacity"
    assert "128.5 GiB" in found.reason
    assert (found.total_plans, found.total_fit, found.total_searched, found.ranking) == (2, 0, 0, ())
    assert str(found).splitlines()[1].startswith("  INFEASIBLE: ")


def test_hardware_that_serves_nothing_is_said_beside_what_does():
    """Each for its own reason: too little memory in a node, too slow alone, and too dear."""
    tpu, l40s = Hardware.get("TPU v6e"), Hardware.get("L40S")
    model, asked = Models.get("Llama-3.1-70B"), {"stack": "vllm-2025", "max_itl": "25 ms", "max_ttft": "1 s"}
    notes = capacity(model, (H100, tpu, l40s), **asked).diagnostics
    told = {name: [note for note in notes if note.startswith(f"{name} serves nothing: ")] for name in (tpu.name, l40s.name)}
    assert "fits none of" in told[tpu.name][0]
    assert 'a node of 4: a fleet such as "8 x TPU v6e Trillium" lets it span several' in told[tpu.name][0]
    assert "not even a lone request keeps the limits; at the nearest, TP 8 x PP 1" in told[l40s.name][0]
    assert not any(note.startswith(f"{H100.name} serves nothing") for note in notes)
    slow = capacity(model, (H100, l40s), **asked | {"max_itl": "45 ms"}).diagnostics
    assert f"{l40s.name} serves nothing: no deployment of it keeps the limits at 10 times the cost of the best" in slow


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


def test_experts_are_dealt_out_where_that_costs_less():
    model, fleet = Models.get("deepseek_v3"), Fleet(name="4", node=HGX, count=4, fabric=Systems.Fabrics.InfiniBand_NDR)
    asked = {"request_rate": "20 count/s", "input_len": 1000, "output_len": 400, "stack": "sglang-2025"}
    found = CapacityPlanner().solve(model, [fleet], **asked, max_itl="80 ms", pp_sizes=[1], disaggregated=False)
    best = found.best_config
    assert best["ep"] == best["attention_dp"] == best["tp"] > 1
    others = {row["value"]: row["accelerators"] for row in found.alternatives if row["changed"] == "ep"}
    assert others.get(1, math.inf) > found.accelerators
    plan = {"tp_size": best["tp"], "ep_size": best["ep"], "attention_dp": best["attention_dp"], "replicas": best["replicas"]}
    seen = TailLatencyModel().solve(model, fleet, **asked, **plan, batch_size=best["batch"], precision=best["precision"])
    assert seen.at_percentile["tpot"].m_as("ms") <= 80 * (1 + 1e-9)
    dense = CapacityPlanner().solve(LLAMA, [H100], request_rate="20 count/s", **ASKED)
    assert {row["ep"] for row in dense.ranking} == {1}


def test_pools_have_divisions_of_their_own():
    model, fleet = Models.get("deepseek_v3"), Fleet(name="8", node=HGX, count=8, fabric=Systems.Fabrics.InfiniBand_NDR)
    asked = {"request_rate": "20 count/s", "input_len": 2000, "output_len": 200, "stack": "sglang-2025", "max_ttft": "5 s"}
    found = CapacityPlanner().solve(model, [fleet], **asked, pp_sizes=[1], disaggregated=True)
    assert found.feasible
    best = found.best_config
    assert best["prefill_attention_dp"] == best["prefill_ep"] in (1, best["prefill_tp"])
    assert found.accelerators == best["prefill_replicas"] * best["prefill_tp"] + best["replicas"] * best["tp"]
    # Groups of ranks with sequences of their own each take prompts, and send a cache from the rank that has it.
    divided = {"tp_size": 8, "ep_size": 8, "attention_dp": 8}
    pace = paces(Deployment.of(model, fleet, input_len=2000, output_len=200, stack="sglang-2025", **divided), None)
    pool = prefill_pool(pace, 20.0, 0.001, 0.99)
    round_s = float(pace.passes.prefill_s(8.0, 2000.0))
    assert pool.senders == 1
    assert pool.replicas == math.ceil(20.0 * round_s / MOST_BUSY / 8)
    assert pool.ttft_s > round_s


def test_a_prefill_pool_is_the_smallest_that_keeps_its_limit():
    for limit_s in (1.0, 2.0, math.inf):
        pace = paces(Deployment.of(LLAMA, HGX, stack="vllm-2025", schedule="continuous", **LONG), None)
        pool = prefill_pool(pace, 50.0, 0.001, 0.99, limit_s)
        busy = 50 * pace.alone_s / pool.replicas
        assert pool.ttft_s <= limit_s
        assert busy <= MOST_BUSY * (1 + 1e-9)
        fewer = 50 * pace.alone_s / (pool.replicas - 1)
        late = fewer >= 1 or pace.alone_s * (1 + ConstantService.of(fewer).wait_percentile(0.99)) > limit_s
        assert late or fewer > MOST_BUSY, "one fewer would not do"


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
    """Half a second for a card and its plans, the best of some runs."""
    times = []
    for _ in range(2):
        start = time.process_time()
        capacity(Models.Language.Llama2_70B, [H100], stack="vllm-2025", max_itl="40 ms", max_ttft="500 ms")
        times.append(time.process_time() - start)
    assert min(times) < 0.5, times
