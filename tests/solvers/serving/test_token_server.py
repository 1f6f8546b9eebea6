"""Language models at their highest load, within limits and without, and the rows of MLPerf Inference that ask for it."""

from __future__ import annotations

import csv
import tomllib
import zlib

import numpy as np
import pytest
from repository import ANCHOR_TREE

from mlsysim import Hardware, Models, Systems, TailLatencyModel, TokenServerModel
from mlsysim.calibration.engines import COEFFICIENTS, engine
from mlsysim.calibration.harnesses import LoadHarness, harness, loaded_engine, loaded_fitted_names, loaded_tables
from mlsysim.core.errors import MLSysError
from mlsysim.lowering.arrivals import paces
from mlsysim.lowering.deployment import Deployment
from mlsysim.tables.predict import predict_table
from mlsysim.tables.token import names_of, token_question
from mlsysim.validation.anchors.loading import anchor_files, load

FAMILIES = ("token_load", "inference_load", "detection", "retinanet", "slices")
TABLES = [table for family in FAMILIES for table in sorted((ANCHOR_TREE / family).glob("*.csv"))]
LLAMA, H100, NODE = Models.Language.Llama3_8B, Hardware.Cloud.H100, Systems.Nodes.DGX_H100
ASKED = {"accelerators": 8, "seq_len": 512, "output_len": 128, "precision": "fp8", "stack": "tensorrt-llm-1.0"}
ROW = {
    "round": "v5.1",
    "benchmark": "llama2-70b-99",
    "scenario": "Offline",
    "system": "DGX (8x H200-SXM-141GB, TensorRT)",
    "accelerator": "NVIDIA H200-SXM-141GB",
    "n_accel": "8.0",
    "value": "1",
    "unit": "Tokens/s",
}


def solved(workload=LLAMA, hardware=NODE, **given):
    return TokenServerModel().solve(workload, hardware, **(ASKED | given))


def rate(**given):
    return solved(**given).requests_per_second.m_as("count/s")


def predicted(**changed):
    return predict_table([ROW | changed])[0]


@pytest.mark.parametrize("limits", [{"max_ttft": "500 ms", "max_tpot": "15 ms"}, {}])
def test_a_load_that_is_judged_is_held_up_to_the_highest(limits):
    highest = solved(**limits)
    held = solved(request_rate=0.999 * highest.requests_per_second, **limits)
    over = solved(request_rate=1.001 * highest.requests_per_second, **limits)
    assert held.feasible
    assert held.requests_per_second.m_as("count/s") == pytest.approx(0.999 * rate(**limits))
    assert held.tpot <= highest.tpot
    assert not over.feasible
    assert "requests a second" in over.reason
    far = solved(request_rate=2 * highest.requests_per_second, **limits)
    assert "can be served" in far.reason


@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.stem)
def test_the_role_of_a_row_is_drawn_from_its_run(table):
    given = tomllib.loads(table.with_suffix(".toml").read_text("utf-8"))["defaults"].get("run", {})
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        own = {name.removeprefix("run."): cell for name, cell in row.items() if name.startswith("run.") and cell}
        key = "|".join((given | own)[name] for name in sorted(given | own))
        assert row["role"] == ("validation" if zlib.crc32(key.encode()) % 5 > 1 else "calibration"), row["id"]


@pytest.mark.parametrize("family", FAMILIES)
def test_at_least_half_of_a_family_is_validation(family):
    files = [path for path in anchor_files(ANCHOR_TREE) if path.parent.name == family]
    roles = [anchor.case.role for path in files for anchor in load(path)]
    assert files
    assert roles.count("validation") >= len(roles) / 2


def test_the_highest_load_is_where_a_limit_binds():
    asked = {name: ASKED[name] for name in ("seq_len", "output_len", "precision", "stack")}
    found = solved(max_tpot="15 ms", tp_sizes=[1])
    for share, within in ((0.98, True), (1.02, False)):
        arrivals = f"{share * found.requests_per_second.m_as('count/s')} count/s"
        tail = TailLatencyModel().solve(LLAMA, NODE, arrival_rate=arrivals, replicas=8, **asked)
        assert (tail.tpot_p99.m_as("ms") <= 15) == within


@pytest.mark.parametrize("limit", [{"max_ttft": "100 ms"}, {"max_tpot": "12 ms"}, {"max_latency": "2 s"}])
def test_a_limit_costs_load_and_a_looser_one_less(limit):
    ((name, text),) = limit.items()
    loose = {name: f"{2 * float(text.split()[0])} {text.split()[1]}"}
    assert rate(**limit) < rate(**loose) <= rate()


def test_limits_that_nothing_keeps_are_said():
    found = solved(max_tpot="0.1 ms")
    assert not found.feasible
    assert "no load keeps the limits" in found.reason
    assert found.requests_per_second.m_as("count/s") > 0


def test_a_model_too_large_for_one_is_shared_by_several():
    found = solved(Models.Language.Llama2_70B, precision="fp16")
    assert (found.feasible, found.tp_size * found.replicas) == (True, 8)
    assert found.tp_size > 1
    alone = solved(Models.Language.Llama2_70B, H100, precision="fp16")
    assert not alone.feasible
    assert "GiB" in alone.reason


def test_the_chosen_layout_is_the_best_of_all():
    assert rate() == pytest.approx(max(rate(tp_sizes=[size]) for size in (1, 2, 4, 8)))


def test_twice_the_accelerators_take_twice_the_load():
    assert rate(accelerators=16, max_tpot="15 ms", tp_sizes=[1]) == pytest.approx(2 * rate(max_tpot="15 ms", tp_sizes=[1]))


def test_no_engine_beats_the_bound():
    assert rate(stack=None, basis="bound") > rate()


def test_beams_cost_steps_but_share_their_prompt():
    one, four = rate(), rate(beams=4)
    assert one / 4 < four < one
    load = {"schedule": "continuous", "input_len": 512, "output_len": 128}
    setting = Deployment.of(LLAMA, H100, **load, precision="fp8", stack="tensorrt-llm-1.0")
    assert paces(setting, None, beams=2).places > paces(setting, None).places / 2
    assert np.all(np.diff(paces(setting, None, beams=4).token_s) >= 0)


def test_a_harness_and_a_clock_change_the_engine_and_are_counted():
    own = engine("tensorrt-llm-1.0")
    slower = loaded_engine(own, "L40S", LoadHarness("x", own.name, 0.5, 1e-5, reserves=False))
    clock = float(loaded_tables()["device"]["l40s"]["clock"])
    assert slower.coefficients.compute_share == pytest.approx(0.5 * clock * own.coefficients.compute_share)
    assert slower.coefficients.sequence_s == pytest.approx(1e-5 + own.coefficients.sequence_s)
    names = loaded_fitted_names("L40S", harness("mlperf-tensorrt-llm-maxq"))
    assert len(names) == len(set(names)) == 3
    assert set(names) <= set(solved(hardware=Hardware.Cloud.L40S, harness_name="mlperf-tensorrt-llm-maxq").coefficients)


@pytest.mark.parametrize("name", loaded_tables()["harness"])
def test_at_most_two_coefficients_are_fitted_to_a_harness(name):
    entry = loaded_tables()["harness"][name]
    assert set(entry["fit"]) <= {"compute_share", "sequence_s"} <= set(COEFFICIENTS)
    assert not entry["at_bound"]


def test_rows_of_language_models_are_predicted_in_their_unit():
    tokens, samples = predicted()["predicted"], predicted(unit="samples/s")["predicted"]
    assert tokens == pytest.approx(294 * samples)
    assert 20e3 < tokens < 50e3
    assert predicted(scenario="Interactive")["predicted"] < predicted(scenario="server")["predicted"] <= tokens
    assert predicted(benchmark="llama2-70b-99.9")["predicted"] == tokens
    assert predicted(accelerator="Virtualized NVIDIA H200-SXM-141GB")["predicted"] == tokens
    assert predicted(system="8x H200, MaxQ", round="v4.1")["predicted"] < predicted(round="v4.1")["predicted"]
    assert predicted(accelerator="AMD Instinct MI300X 192GB HBM3")["stack_used"] == "vllm-2025"


def test_neither_a_value_nor_who_submitted_changes_a_prediction():
    assert predicted(value="9", submitter="NVIDIA", id="x")["predicted"] == predicted()["predicted"]


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"accelerator": ""}, "accelerator"),
        ({"accelerator": "Intel Arc Pro B60"}, "accelerator"),
        ({"accelerator": "Gaudi2"}, "NVIDIA or AMD"),
        ({"accelerator": "AMD MI300X (x8), AMD MI325X (x8)"}, "one kind"),
        ({"scenario": "SingleStream"}, "scenario"),
        ({"benchmark": "mixtral-8x7b", "scenario": "Interactive"}, "limits"),
        ({"n_accel": "0"}, "n_accel"),
        ({"round": ""}, "round"),
    ],
)
def test_a_row_that_cannot_be_predicted_says_why(changed, word):
    row = predicted(**changed)
    assert row["predicted"] == ""
    assert word in row["reason"]


def test_submissions_in_a_table_of_serving_measurements_are_the_same_rows():
    row = {
        "model": "Llama-2-70B", "accelerator": "NVIDIA H200-SXM-141GB", "engine": "MLPerf submission", "mode": "offline",
        "input_len": "", "metric": "output_tokens_per_s", "n_accel": "8", "year": "2025", "tp": "", "unit": "tokens/s",
    }  # fmt: skip
    assert predict_table([row])[0]["predicted"] == predicted()["predicted"]
    assert predict_table([row | {"model": "GPT-J-6B", "metric": "samples_per_s", "mode": "server"}])[0]["predicted"] > 0
    assert "year" in predict_table([row | {"year": "2019"}])[0]["reason"]


def test_every_benchmark_with_limits_is_known_and_its_model_registered():
    benchmarks, limits = names_of("benchmark"), names_of("limits")
    assert {name for scenario in ("server", "interactive") for name in limits[scenario]} <= set(benchmarks)
    for name in benchmarks:
        if name in limits["server"]:
            cells = {**ROW, "benchmark": name, "scenario": "server"}
            assert token_question({key: text.lower() for key, text in cells.items()}).workload.layers > 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"harness_name": "mlperf"},
        {"beams": 0},
        {"accelerators": 0},
        {"max_ttft": "0 s"},
        {"max_tpot": "3 GB"},
        {"percentile": 1.5},
        {"output_spread": -1},
        {"tp_sizes": [3]},
        {"workload": Models.Vision.ResNet50},
    ],
    ids=str,
)
def test_wrong_arguments_are_named(wrong):
    with pytest.raises(MLSysError):
        solved(**wrong)
