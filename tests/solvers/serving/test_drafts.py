"""Drafted tokens in every schedule: rounds of the speculative solver, and what a round yields of each sequence."""

import pytest

from mlsysim import ContinuousBatchingModel, Hardware, Models, ServingModel, SpeculativeDecodingModel, TailLatencyModel
from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.core.units import Q_
from mlsysim.systems.registry import Systems
from mlsysim.tables.predict import predict_table

LARGE, SMALL, DGX = Models.Language.Llama3_70B, Models.Language.Llama3_8B, Systems.Nodes.DGX_H100
LOAD = {"input_len": 1024, "output_len": 301, "tp_size": 4}
DRAFTS = {"draft_len": 3, "acceptance": 0.8}
YIELDED = 1 + 0.8 + 0.64 + 0.512
SCHEDULES = ("static", "continuous", "offline")


def serve(**asked):
    return ServingModel().solve(LARGE, DGX, **{**LOAD, **asked})


def s(quantity):
    return quantity.m_as("s")


@pytest.mark.parametrize("stack", [None, "vllm-2025"])
@pytest.mark.parametrize("batch_size", [1, 16])
def test_a_fixed_batch_takes_the_rounds_of_the_speculative_solver(stack, batch_size):
    run = serve(stack=stack, batch_size=batch_size, draft=SMALL, **DRAFTS)
    alone = SpeculativeDecodingModel().solve(LARGE, SMALL, DGX, **{**LOAD, **DRAFTS}, stack=stack, batch_size=batch_size)
    assert s(run.itl) == pytest.approx(s(alone.itl))
    assert s(run.token_gap) == pytest.approx(s(alone.round_latency) / YIELDED)
    assert s(run.request_latency) == pytest.approx(s(run.ttft) + 300 * s(run.token_gap))
    assert sum(map(s, run.breakdown.values())) == pytest.approx(s(run.itl))
    assert run.tokens_per_second.m_as("count/s") == pytest.approx(batch_size * 301 / s(run.request_latency))


@pytest.mark.parametrize("stack", [None, "vllm-2025"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_drafts_that_are_never_accepted_cost_and_those_that_are_pay(stack, schedule):
    asked = {"schedule": schedule, "stack": stack, "batch_size": 4, "max_num_seqs": 8 if stack else None}
    plain = serve(**asked)
    wasted, best = (serve(**asked, draft_len=3, acceptance=chance) for chance in (0.0, 1.0))
    assert s(wasted.token_gap) > s(plain.token_gap)
    assert s(best.token_gap) < s(wasted.token_gap)
    if schedule == "static":
        assert s(best.token_gap) == pytest.approx(s(wasted.token_gap) / 4)
    assert s(best.ttft) > s(plain.ttft), "what drafts computes the prompt, too"
    assert best.max_batch <= plain.max_batch
    if schedule != "offline":
        assert best.tokens_per_second > plain.tokens_per_second


@pytest.mark.parametrize("stack", [None, "vllm-2025"])
@pytest.mark.parametrize("draft", [None, SMALL])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_more_drafts_are_accepted_the_more_is_served(stack, draft, schedule):
    """Also of long prompts and short outputs: what checks drafts reads a sequence's cache once, prompts beside it or not."""
    asked = {"stack": stack, "draft": draft, "schedule": schedule, "input_len": 8192, "output_len": 64, "batch_size": 128}
    rates = [serve(**asked, draft_len=7, acceptance=chance).tokens_per_second.m_as("count/s") for chance in (0, 0.5, 0.8, 1)]
    assert rates == sorted(rates)


def test_a_module_of_the_model_is_a_layer_more():
    """One of 80 layers and the head for each of 3 drafts; a model that drafts brings its own weights."""
    module, model = serve(batch_size=4, **DRAFTS), serve(batch_size=4, draft=SMALL, **DRAFTS)
    plain = serve(batch_size=4)
    drafts_s = s(module.breakdown["drafts"]) * YIELDED
    assert drafts_s == pytest.approx(3 * s(plain.itl) / 80)
    layer_B = plain.weights.m_as("byte") / 80 / 4
    added_B = module.memory_per_accelerator.m_as("byte") - plain.memory_per_accelerator.m_as("byte")
    assert added_B == pytest.approx(layer_B + plain.kv_cache.m_as("byte") / 80 / 4, rel=1e-3)
    assert model.memory_per_accelerator > module.memory_per_accelerator


@pytest.mark.parametrize("stack", [None, "vllm-2025"])
def test_a_lone_request_takes_the_same_in_every_schedule(stack):
    asked = {**LOAD, **DRAFTS, "stack": stack, "draft": SMALL}
    fixed = serve(**asked)
    counted = ContinuousBatchingModel().solve(LARGE, DGX, **asked, concurrency=1)
    basis = {} if stack else {"basis": "bound"}
    rare = TailLatencyModel().solve(LARGE, DGX, **asked, **basis, request_rate="0.001 count/s")
    assert s(counted.ttft) == pytest.approx(s(fixed.ttft))
    assert s(counted.request_latency) == pytest.approx(s(fixed.request_latency))
    assert s(rare.latency_mean) == pytest.approx(s(fixed.request_latency), rel=2e-3)
    assert s(rare.tpot_mean) == pytest.approx(s(fixed.token_gap), rel=2e-3)


def test_requests_at_random_hold_their_places_shorter_with_drafts_that_are_accepted():
    asked = {**LOAD, "stack": "vllm-2025", "request_rate": "4 count/s"}
    plain, drafted = (
        TailLatencyModel().solve(LARGE, DGX, **asked, **more) for more in ({}, {"draft_len": 3, "acceptance": 0.9})
    )
    assert drafted.latency_mean < plain.latency_mean
    assert drafted.requests_in_flight < plain.requests_in_flight
    assert drafted.capacity > Q_(0, "count/s")


def test_a_row_says_what_is_drafted():
    row = {"metric": "tpot_ms", "model": "Llama-3-70B", "accelerator": "H100-SXM-80GB", "engine": "vllm 0.15.1", "tp": "4"}
    row |= {
        "mode": "closed-loop",
        "input_len": "1024",
        "output_len": "301",
        "batch_or_concurrency": "8",
        "weight_precision": "fp8",
    }
    plain, module, model, none = predict_table(
        [
            row,
            row | {"draft_len": "3", "acceptance": "0.8"},
            row | {"draft_len": "3", "acceptance": "0.8", "draft_model": "Llama-3-8B"},
            row | {"draft_len": "3"},
        ]
    )
    assert module["predicted"] < model["predicted"] < plain["predicted"]
    assert none["reason"].startswith("acceptance = ''")


@pytest.mark.parametrize(
    "wrong",
    [
        {"draft_len": 2},
        {"draft_len": 2, "acceptance": 1.1},
        {"draft_len": -1},
        {"acceptance": 0.5},
        {"draft": SMALL},
        {"draft_len": 2, "acceptance": 0.5, "draft": "Llama"},
        {"draft_len": 2, "acceptance": 0.5, "offload": "weights"},
    ],
)
def test_drafts_that_nothing_says_how_to_count_are_refused(wrong):
    with pytest.raises((InputError, InconsistentError)):
        serve(**wrong)


def test_a_card_that_has_no_room_for_what_drafts_is_refused():
    run = ServingModel().solve(SMALL, Hardware.Cloud.H100, input_len=64, draft=LARGE, draft_len=1, acceptance=0.5)
    assert not run.feasible
