"""Requests that arrive at a rate: at equal intervals, with a system prompt that all share, turn by turn; tables of them."""

import pytest
from random_systems import faster

from mlsysim import Hardware, InputError, Models, TailLatencyModel
from mlsysim.core.errors import InconsistentError
from mlsysim.lowering.arrivals import paces
from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.prefix_cache import conversation
from mlsysim.tables.open_loop import open_loop_question
from mlsysim.tables.predict import predict_table

LLAMA, H100 = Models.Language.Llama3_8B, Hardware.Cloud.H100
LOAD = {"input_len": 600, "output_len": 200, "stack": "vllm-2025", "max_num_seqs": 64}
ROW = {"model": "Llama-3.1-8B", "accelerator": "H100-SXM-80GB", "engine": "vllm 0.15.1", "tp": "1", "max_num_seqs": "64"}
ROW |= {"arrival_rate_per_s": "4", "system_prompt_len": "100", "question_len": "500", "output_len": "200"}


def solve(rate=4, hardware=H100, **asked):
    return TailLatencyModel().solve(LLAMA, hardware, **{**LOAD, **asked}, request_rate=f"{rate} count/s")


def ms(quantity):
    return quantity.m_as("ms")


def simulated(pace, rate, count=600):
    """Seconds to the first token and of a request, step by step, with the steps of ``pace`` and arrivals at equal intervals."""
    now, scheduled, decoding, waiting, seen, output = 0.0, 0.0, {}, [], [], int(pace.setting.output)
    coming = [number / rate for number in range(count)]
    while coming or waiting or decoding:
        if not decoding and not waiting:
            now = max(now, coming[0])
        # A host that is ahead has scheduled a step when the one before it began.
        while coming and coming[0] <= (scheduled if decoding and pace.setting.ahead else now):
            waiting.append(coming.pop(0))
        scheduled = now
        joining, waiting = waiting, []
        step_s = pace.step_s[len(decoding) - 1] if decoding else 0.0
        alone_s = pace.alone_s - pace.front_s
        now += step_s + len(joining) * pace.joined_s[len(decoding) - 1] if decoding else alone_s * len(joining)
        decoding = {came: left - 1 for came, left in decoding.items()}
        for came in [came for came, left in decoding.items() if not left]:
            seen.append((firsts.pop(came) - came + pace.front_s, now - came + pace.front_s))
            del decoding[came]
        if not seen and not joining and not decoding:
            continue
        for came in joining:
            decoding[came] = output - 1
            firsts[came] = now
    settled = seen[count // 3 : 2 * count // 3]
    return [sorted(times) for times in zip(*settled, strict=True)]


firsts: dict[float, float] = {}


@pytest.mark.parametrize("rate", [2.0, 7.0, 20.0])
def test_arrivals_at_equal_intervals_are_like_those_simulated_step_by_step(rate):
    asked = {**LOAD, "output_len": 50, "max_num_seqs": 64}
    run = solve(rate, **asked, arrivals="even")
    first_s, whole_s = simulated(paces(Deployment.of(LLAMA, H100, **asked, schedule="continuous"), None), rate)
    assert run.ttft_mean.m_as("s") == pytest.approx(sum(first_s) / len(first_s), rel=0.1)
    assert run.ttft_p90.m_as("s") == pytest.approx(first_s[int(0.9 * len(first_s))], rel=0.12)
    assert run.latency_mean.m_as("s") == pytest.approx(sum(whole_s) / len(whole_s), rel=0.06)
    assert run.requests_in_flight == pytest.approx(rate * sum(whole_s) / len(whole_s), rel=0.08)


@pytest.mark.parametrize("rate", [0.5, 4, 16])
def test_who_meets_nobody_by_chance_waits_less(rate):
    even, random = solve(rate, arrivals="even"), solve(rate)
    for name in ("ttft_mean", "ttft_p99", "latency_p99"):
        assert ms(getattr(even, name)) <= ms(getattr(random, name)) * 1.0001, name
    assert even.capacity == random.capacity
    quicker = solve(rate, hardware=faster(H100, "memory", 1.2), arrivals="even")
    assert ms(quicker.ttft_mean) < ms(even.ttft_mean)
    assert ms(quicker.latency_p99) < ms(even.latency_p99)


def test_rare_requests_at_equal_intervals_are_alone():
    alone, rare = solve(1e-3), solve(1e-3, arrivals="even")
    assert ms(rare.ttft_p99) == pytest.approx(ms(rare.ttft_mean))
    assert ms(rare.ttft_mean) == pytest.approx(ms(alone.ttft_mean), rel=1e-3)


def test_what_all_prompts_begin_with_is_computed_once():
    """100 of 600 tokens: the same as a prompt of which a sixth is cached."""
    assert solve(shared_len=100).ttft_mean == solve(prefix_hit=100 / 600).ttft_mean
    assert ms(solve(shared_len=100).ttft_mean) < ms(solve().ttft_mean)
    assert solve(shared_len=100, prefix_hit=0.0).ttft_mean == solve().ttft_mean, "a cache that is off"
    with pytest.raises(InconsistentError, match="less than the 600 tokens"):
        solve(shared_len=600)


def test_a_conversation_grows_by_its_questions_and_answers():
    """Three turns of 500 new tokens and answers of 200: 600, 1300 and 2000 tokens, of which 500 are new each time."""
    assert conversation(600, 200, 100, 3) == (1300, pytest.approx(1 - 500 / 1300))
    talk = solve(shared_len=100, turns=3)
    assert talk.latency_mean == solve(input_len=1300, prefix_hit=1 - 500 / 1300).latency_mean
    assert ms(talk.tpot_mean) > ms(solve(shared_len=100).tpot_mean), "a longer context"
    assert ms(solve(turns=3, prefix_hit=0.0).ttft_mean) > ms(talk.ttft_mean), "without a cache all of it is computed again"


def test_limits_of_an_engine_are_arguments():
    chunked, whole = (solve(0.5, input_len=6000, max_num_batched_tokens=tokens) for tokens in (1024, 8192))
    assert ms(chunked.ttft_mean) > ms(whole.ttft_mean), "a prompt takes six steps"
    few, many = (solve(2, max_num_seqs=most) for most in (4, 64))
    assert few.wait_p99 > many.wait_p99, "few places are taken more often"
    bound = {"basis": "bound"}
    for name in ("max_num_seqs", "max_num_batched_tokens"):
        with pytest.raises(InconsistentError, match="nothing without a stack"):
            TailLatencyModel().solve(LLAMA, H100, input_len=600, output_len=200, request_rate="1 count/s", **bound, **{name: 8})
    with pytest.raises(InputError, match="arrivals"):
        solve(arrivals="evn")


def test_a_table_of_an_open_loop_is_answered_by_the_solver():
    rows = [ROW | {"metric": metric} for metric in ("ttft_mean_ms", "ttft_p90_ms", "itl_mean_ms", "e2e_p99_ms", "ttft_ms")]
    first, late, between, whole, wrong = predict_table(rows)
    asked = {**LOAD, "precision": "bf16", "kv_precision": "fp16", "shared_len": 100}
    run = solve(**asked)
    assert first["predicted"] == pytest.approx(ms(run.ttft_mean))
    assert late["predicted"] == pytest.approx(ms(run.ttft_p90))
    assert between["predicted"] == pytest.approx(ms(run.tpot_mean))
    assert whole["predicted"] == pytest.approx(ms(run.latency_p99))
    assert wrong["predicted"] == ""
    assert "ttft_mean_ms" in wrong["reason"]
    even, plain, missing = predict_table(
        [
            ROW | {"metric": "ttft_mean_ms", "arrivals": "even"},
            ROW | {"metric": "ttft_mean_ms", "prefix_caching": "no"},
            ROW | {"metric": "ttft_mean_ms", "arrival_rate_per_s": ""},
        ]
    )
    assert even["predicted"] == pytest.approx(ms(solve(**asked, arrivals="even").ttft_mean))
    assert plain["predicted"] > first["predicted"]
    assert missing["reason"].startswith("arrival_rate_per_s = ''")
    experts = ROW | {"model": "Qwen3-235B-A22B", "tp": "8", "ep": "8", "output_cv": "1.5", "prefix_hit": "0.4"}
    told = open_loop_question(experts | {"system_prompt_len": "0"}).arguments
    assert (told["ep_size"], told["output_cv"], told["prefix_hit"], "shared_len" in told) == (8, 1.5, 0.4, False)
