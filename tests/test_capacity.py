"""How many requests a deployment takes, and how many accelerators a load takes: exact, infeasible with a reason."""

import pytest

from mlsysim import BatchingOptimizer, ContinuousBatchingModel, Hardware, InputError, Models, ServingModel

LLAMA, H100 = Models.Language.Llama3_8B, Hardware.Cloud.H100
ASKED = {"seq_len": 1024, "output_len": 256}
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


# The largest batch.


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(
    "limits",
    [
        {"max_itl": "15 ms"},
        {"max_ttft": "100 ms"},
        {"max_itl": "30 ms", "max_ttft": "110 ms"},
        {"max_ttft": "500 ms", "schedule": "static"},
        {"max_itl": "9 ms", "schedule": "static"},
        {},
    ],
    ids=str,
)
def test_no_larger_batch_keeps_the_limits(stack, limits):
    found = batching(stack=stack, **limits)
    within = []
    for batch in range(1, found.max_batch + 1):
        run = ServingModel().solve(
            *(LLAMA, H100), **ASKED, stack=stack, batch_size=batch, schedule=limits.get("schedule", "continuous")
        )
        quick = ms(run.tpot) <= float(limits.get("max_itl", "inf ms").split()[0])
        if quick and ms(run.ttft) <= float(limits.get("max_ttft", "inf ms").split()[0]):
            within.append(batch)
    assert found.batch == max(within)
    assert ms(found.itl) == pytest.approx(sum(ms(part) for part in found.breakdown.values()))


@pytest.mark.parametrize("limit", ["max_itl", "max_ttft"])
def test_a_tighter_limit_never_gives_a_larger_batch(limit):
    batches = [batching(stack="vllm-2025", **{limit: f"{milliseconds} ms"}).batch for milliseconds in range(1, 150, 8)]
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


@pytest.mark.parametrize(("argument", "value"), [("concurrency", 0), ("page_size", 1.5), ("output_len", None)])
def test_continuous_batching_refuses(argument, value):
    with pytest.raises(InputError) as caught:
        flying(**{argument: value})
    assert caught.value.argument == argument
