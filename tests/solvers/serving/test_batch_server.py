"""Batches of whatever arrived: the queue against a simulation, the server that rests on it, and its rows."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from mlsysim import BatchServerModel, Hardware, Models
from mlsysim.calibration.harnesses import Harness, harness_fitted_names, served_tables
from mlsysim.core.errors import MLSysError
from mlsysim.physics.queues.batch_queue import batch_spread, highest_load, latency_in_batches
from mlsysim.tables.predict import predict_table

SIZES = np.unique(np.round(np.geomspace(1, 4096, 60)))
RESNET, BERT, A100 = Models.Vision.ResNet50, Models.Language.BERT_Large, Hardware.Cloud.A100
ASKED = {"precision": "int8", "stack": "tensorrt-mlperf"}
ROW = {
    "round": "v3.0",
    "benchmark": "resnet50",
    "scenario": "Server",
    "system": "DGX A100",
    "accelerator": "NVIDIA A100-SXM-80GB",
    "n_accel": "8",
    "value": "1",
    "unit": "samples/s",
}


def simulated_p99_s(load_per_s, fixed_s, each_s, count=100_000, most=None):
    """Latency of a server that takes all that came, or ``most`` of it, as its next batch."""
    arrivals = np.cumsum(np.random.default_rng(7).exponential(1 / load_per_s, count))
    now, taken, latencies = 0.0, 0, []
    while taken < count:
        now = max(now, arrivals[taken])
        upto = int(np.searchsorted(arrivals, now, side="right"))
        upto = min(upto, taken + (most or count))
        now += fixed_s + each_s * (upto - taken)
        latencies.append(now - arrivals[taken:upto])
        taken = upto
    return float(np.quantile(np.concatenate(latencies[10:]), 0.99))


@pytest.mark.parametrize(("fixed_s", "each_s"), [(5e-3, 1e-4), (2e-3, 1e-4), (1e-3, 5e-5)])
def test_the_highest_load_keeps_its_limit_in_a_simulation(fixed_s, each_s):
    found = highest_load(SIZES, fixed_s + each_s * SIZES, 15e-3, share=0.99)
    assert simulated_p99_s(found.load_per_s, fixed_s, each_s) == pytest.approx(15e-3, rel=0.15)


def test_where_batches_save_nothing_requests_are_taken_singly():
    found = highest_load(SIZES, 8e-3 * SIZES, 100e-3, share=0.99)
    assert (found.batch, 0.5 < 8e-3 * found.load_per_s < 1) == (1.0, True)
    assert simulated_p99_s(found.load_per_s, 0.0, 8e-3, most=1) == pytest.approx(100e-3, rel=0.15)
    assert highest_load(SIZES, 0.2 * SIZES, 100e-3, share=0.99) is None


def test_the_spread_grows_with_that_of_the_requests_and_lengthens_the_tail():
    even, uneven = (batch_spread(SIZES, 1e-3 + 1e-4 * SIZES, spread) for spread in (0.0, 1.0))
    assert np.all(uneven > even)
    tails = latency_in_batches(np.array([0.0, 0.1, 0.2, 0.4]), 0.99)
    assert tails[0] == pytest.approx(1.99, abs=1e-6)
    assert np.all(np.diff(tails) > 0)


def rate(**given):
    return BatchServerModel().solve(RESNET, A100, **{**ASKED, "latency_limit": "15 ms", **given}).throughput.m_as("count/s")


def test_a_looser_limit_takes_more_and_no_engine_beats_the_bound():
    assert rate(latency_limit="5 ms") < rate() < rate(latency_limit="50 ms") < rate(latency_limit="50 ms", stack=None)
    assert rate(harness_name="triton") < rate()


def test_lone_queries_take_longer_the_more_samples_they_have():
    one, eight = (BatchServerModel().solve(RESNET, A100, query_size=size, **ASKED) for size in (1, 8))
    assert one.latency < eight.latency < 8 * one.latency
    assert one.breakdown["query"].m_as("s") > 0


def test_a_limit_that_one_sample_exceeds_is_infeasible():
    found = BatchServerModel().solve(BERT, A100, latency_limit="0.1 ms", seq_len=384, **ASKED)
    assert not found.feasible
    assert "no load keeps" in found.reason


@pytest.mark.parametrize("name", served_tables())
def test_at_most_six_coefficients_are_fitted_to_a_harness(name):
    assert set(served_tables()[name]["fit"]) <= {part.name for part in fields(Harness)}
    assert len(harness_fitted_names(name)) <= 6


def test_rows_of_every_scenario_are_predicted_in_their_unit():
    scenarios = ("Offline", "Server", "SingleStream", "MultiStream")
    offline, server, one, eight = (predict_table([ROW | {"scenario": name}])[0] for name in scenarios)
    assert server["predicted"] < offline["predicted"]
    assert 0.1 < one["predicted"] < eight["predicted"] < 5
    assert {row["basis"] for row in (offline, server, one, eight)} == {"calibrated"}
    assert "v2.0" in predict_table([ROW | {"scenario": "MultiStream", "round": "v1.0"}])[0]["reason"]


@pytest.mark.parametrize("model", ["retinanet", "ssd-resnet34", "bert-99", "bert-99.9"])
@pytest.mark.parametrize("accelerator", ["NVIDIA T4", "NVIDIA H100-SXM-80GB"])
def test_every_model_is_served_within_its_limit(model, accelerator):
    row = predict_table([ROW | {"benchmark": model, "accelerator": accelerator}])[0]
    assert row["predicted"] > 0
    if (model, accelerator) != ("retinanet", "NVIDIA T4"):
        assert row["feasible"], row["reason"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"query_size": 2},
        {"query_size": 0, "latency_limit": None},
        {"percentile": 0},
        {"token_spread": -1},
        {"harness_name": "tritom"},
        {"latency_limit": "3 GB"},
        {"seq_len": 384},
        {"stack": "tensorrt"},
    ],
    ids=str,
)
def test_wrong_arguments_are_named(wrong):
    with pytest.raises(MLSysError):
        rate(**wrong)
