"""How many requests a deployment takes, in a continuous batch, within limits, with drafts: exact, or infeasible, and why."""

import pytest

from mlsysim import (
    BatchingOptimizer,
    ContinuousBatchingModel,
    Fleet,
    Hardware,
    InputError,
    Models,
    ServingModel,
    SpeculativeDecodingModel,
    Systems,
)
from mlsysim.physics.serving.speculation import expected_tokens

LLAMA, H100 = Models.Language.Llama3_8B, Hardware.Cloud.H100
A100, HGX = Systems.Nodes.DGX_A100_80GB, Systems.Nodes.DGX_H100
ASKED = {"seq_len": 1024, "output_len": 256}
LONG = {"seq_len": 4096, "output_len": 512}
STACKS = (None, "vllm-2025")


def ms(quantity):
    return quantity.m_as("ms")


def flying(**given):
    return ContinuousBatchingModel().solve(LLAMA, H100, **{**ASKED, **given})


def batching(**given):
    return BatchingOptimizer().solve(LLAMA, H100, **{**ASKED, **bound_or(given)})


def bound_or(given):
    """Arguments of a solver that takes the best-supported engine where none is named: no stack is the bound here."""
    return given if given.get("stack", "left out") is not None else {**given, "basis": "bound"}


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


@pytest.mark.parametrize("plan", [{"tp_size": 4, "pp_size": 4}, {"tp_size": 8, "attention_dp": 8, "ep_size": 8}])
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("schedule", ["continuous", "offline"])
def test_the_more_of_a_prompt_is_cached_the_more_is_served(plan, stack, schedule):
    """Also where stages, or groups of ranks, attend to prompts of their own at the same time.

    Groups wait for each other's parts of prompts, all of which are told as the mean one: the cache takes the first, whose keys
    are few, and the mean of the others is dearer. By so much, a twentieth at most, a little cached is told too slow.
    """
    asked = {"input_len": 32000, "output_len": 100, "batch_size": 64, "stack": stack, "schedule": schedule, **plan}
    model, hits = Models.get("Qwen3-235B-A22B"), (0, 0.05, 0.1, 0.2, 0.5, 0.9)
    node = Fleet(name="two", node=Systems.Nodes.DGX_H200, count=2)
    rates = [ServingModel().solve(model, node, **asked, prefix_hit=hit).tokens_per_second.m_as("count/s") for hit in hits]
    dearer = 0.05 if "attention_dp" in plan and stack is not None else 0.0
    assert all(more >= (1 - dearer) * max(rates[:place]) for place, more in enumerate(rates[1:], 1))
    assert max(rates) == rates[-1] > 2 * rates[0]


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
    """A little below the limit, so that requests that find their replica fuller than the others keep it, too."""
    one = batching(max_itl="15.1 ms")
    assert one.itl.m_as("ms") < 15
    rate = one.requests_per_second.m_as("count/s")
    assert batching(max_itl="15.1 ms", request_rate=f"{3.5 * rate} count/s").replicas == 4
    assert one.replicas == 1


def test_a_model_that_does_not_fit_is_said_with_bytes():
    found = BatchingOptimizer().solve(Models.Language.Llama2_70B, H100, **ASKED, max_itl="1 s")
    assert not found.feasible
    assert found.reason.startswith("one H100")
    assert "128.5 GiB" in found.reason
    assert (found.batch, found.max_batch, found.total_searched) == (0, 0, 0)


def test_weights_that_leave_an_engine_no_cache_are_infeasible():
    """Weights fit the bare device; beside an engine's workspace not one sequence of this length does."""
    asked = {"seq_len": 600_000, "output_len": 8, "stack": "vllm-2025"}
    found = ContinuousBatchingModel().solve(LLAMA, H100, **asked)
    assert not found.feasible
    assert "GiB" in found.reason
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
    assert "draft's weights 128.5 GiB" in found.reason
    for argument, value in (("acceptance", 3), ("acceptance", -1), ("draft_len", -1), ("draft_tp_size", 8), ("seq_len", 0)):
        with pytest.raises(InputError) as caught:
            drafted(**{argument: value})
        assert caught.value.argument == argument
