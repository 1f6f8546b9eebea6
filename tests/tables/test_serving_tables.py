"""Rows of tables of serving: what their cells ask, and what their own metrics are predicted to be."""

import csv
import tomllib
import zlib

import pytest
from repository import ANCHOR_TREE

from mlsysim.tables.predict import predict_table
from mlsysim.tables.serving import METRICS, serving_question


@pytest.mark.parametrize(("cell", "excludes"), [("", True), ("yes", True), ("no", False), ("False", False)])
def test_a_table_says_what_its_tpot_is(cell, excludes):
    rows = [
        {**ROW, "metric": metric, "tpot_excludes_first_token": cell} for metric in ("itl_ms", "tpot_ms", "request_latency_ms")
    ]
    gap, tpot, request = (row["predicted"] for row in predict_table(rows))
    assert tpot == pytest.approx(gap if excludes else request / 1024)


@pytest.mark.parametrize(
    ("cells", "harness", "held_back"),
    [
        ({"source": "InferenceMAX, by somebody", "engine": "trtllm"}, "inferencemax", 20),
        ({"source": "InferenceMAX", "engine": "trtllm", "batch_wait_iters": "0"}, "inferencemax", 0),
        ({"source": "InferenceMAX", "engine": "trtllm", "tp": "8"}, "inferencemax", 0),
        ({"source": "InferenceMAX", "engine": "vllm"}, "inferencemax", 0),
        ({"source": "aiconfigurator's own", "engine": "trtllm 1.0.0rc3"}, "aiconfigurator", 0),
        ({"source": "somebody", "engine": "vllm"}, None, 0),
        ({"source": "somebody", "engine": "vllm", "harness": "in-process"}, "in-process", 0),
    ],
)
def test_a_row_says_what_it_was_measured_through(cells, harness, held_back):
    row = {
        "metric": "ttft_ms",
        "model": "Llama-3.1-8B",
        "accelerator": "H200-SXM-141GB",
        "mode": "closed-loop",
        "weight_precision": "fp8",
    }
    row |= {"input_len": "1024", "output_len": "1024", "batch_or_concurrency": "8", "year": "2026"} | cells
    asked = serving_question(row).arguments
    assert (asked.get("harness_name"), asked["batch_wait_iters"]) == (harness, held_back)


@pytest.mark.parametrize(
    ("cells", "steps"),
    [
        ({}, 10),
        ({"batch_or_concurrency": "16"}, 30),
        ({"recv_interval": "5"}, 5),
        ({"accelerator": "H200-SXM-141GB"}, 1),
        ({"model": "Llama-3.1-8B"}, 1),
        ({"source": "somebody"}, 1),
    ],
)
def test_a_row_says_when_the_scheduler_looks(cells, steps):
    row = {
        "metric": "ttft_ms",
        "model": "DeepSeek-R1",
        "accelerator": "B200-SXM",
        "mode": "closed-loop",
        "engine": "sglang 0.5.6",
    }
    row |= {"source": "InferenceMAX", "weight_precision": "fp8", "n_accel": "8", "tp": "8", "year": "2026"}
    row |= {"input_len": "1024", "output_len": "1024", "batch_or_concurrency": "8"} | cells
    assert serving_question(row).arguments["recv_interval"] == steps


def test_a_cache_that_no_row_states_has_the_format_of_its_engine_or_of_the_weights():
    row = {"metric": "itl_ms", "model": "Llama-3.1-8B", "accelerator": "H200-SXM-141GB", "weight_precision": "fp8"}
    row |= {"input_len": "1000", "output_len": "100", "mode": "static", "batch_or_concurrency": "8"}
    formats = [
        serving_question({**row, "engine": engine, "kv_precision": stated}).arguments["kv_precision"]
        for engine, stated in (("sglang 0.5", ""), ("vllm", ""), ("sglang 0.5", "fp8"))
    ]
    assert formats == ["fp16", "fp8", "fp8"]


ROW = {
    "model": "Llama-3.1-70B",
    "layers": "80",
    "hidden": "8192",
    "heads": "64",
    "kv_heads": "8",
    "ffn_hidden": "28672",
    "accelerator": "H200-SXM-141GB",
    "n_accel": "4",
    "tp": "4.0",
    "weight_precision": "fp8",
    "input_len": "1024.0",
    "output_len": "1024.0",
    "batch_or_concurrency": "16.0",
    "engine": "vllm ",
    "year": "2026",
    "mode": "closed-loop",
}


@pytest.mark.parametrize("metric", METRICS)
def test_a_row_is_predicted_in_its_own_metric(metric):
    row = predict_table([{**ROW, "metric": metric, "value": "x", "notes": "y"}])[0]
    assert row["predicted"] > 0
    assert (row["feasible"], row["basis"], row["stack_used"]) == (True, "calibrated", "vllm-2025")


def test_the_year_chooses_the_era_of_an_engine():
    rows = [{**ROW, "year": year, "metric": "itl_ms"} for year in ("2024", "2026", "", "99999")]
    assert [row["stack_used"] for row in predict_table(rows)] == ["vllm-2024", "vllm-2025", "vllm-2025", "vllm-2025"]


def test_a_release_tells_an_engines_era_before_the_year():
    names = ("vLLM 0.2.1", "vllm 0.6.3", "vLLM v0.10.1", "TensorRT-LLM 0.9", "TensorRT-LLM v0.17", "trtllm 1.0.0rc3", "TGI 1.4")
    stacks = [row["stack_used"] for row in predict_table([{**ROW, "engine": name, "metric": "itl_ms"} for name in names])]
    eras = [
        "vllm-2023",
        "vllm-2024",
        "vllm-0.13",
        "tensorrt-llm-0.9",
        "tensorrt-llm-0.14",
        "tensorrt-llm-1.0-server",
        "vllm-2023",
    ]
    assert stacks == eras
    early = [{**ROW, "engine": "TensorRT-LLM", "year": year, "metric": "itl_ms"} for year in ("2023", "2024", "2025")]
    stacks = [row["stack_used"] for row in predict_table(early)]
    assert stacks == ["tensorrt-llm-0.5", "tensorrt-llm-0.14", "tensorrt-llm-1.0"]


def test_a_source_that_times_phases_apart():
    """Its latency of 64 tokens is 64 times the gap; its share of the peak that of the tokens made, one prompt being its own."""
    run = {**ROW, "model": "PaLM-540B", "accelerator": "TPU v4", "n_accel": "64", "tp": "", "engine": "JAX/Pathways custom"}
    run |= {"mode": "static", "input_len": "1984", "output_len": "64", "batch_or_concurrency": "64", "weight_precision": "int8"}
    gap, whole = (row["predicted"] for row in predict_table([{**run, "metric": m} for m in ("itl_ms", "request_latency_ms")]))
    apart = {**run, "source": "Pope et al. 2022"}
    tables = [{**apart, "metric": "request_latency_ms"}, {**apart, "metric": "mfu_pct"}, {**run, "metric": "mfu_pct"}]
    generated, share, of_prompts = (predict_table([row])[0]["predicted"] for row in tables)
    assert generated == pytest.approx(64 * gap)
    assert generated < whole
    assert share / of_prompts == pytest.approx((64 / gap) / (64 * 1984 / (whole - 63 * gap)), rel=1e-6)
    prompts = {**apart, "output_len": "0"}
    first, alone = (predict_table([{**prompts, "metric": m}])[0]["predicted"] for m in ("ttft_ms", "request_latency_ms"))
    assert first == pytest.approx(alone)


def test_an_engine_that_is_not_listed_has_the_generic_stack():
    rows = [{**ROW, "engine": name, "metric": "itl_ms"} for name in ("mystery", "", "vllm")]
    assert [row["stack_used"] for row in predict_table(rows)] == ["generic", "generic", "vllm-2025"]


@pytest.mark.parametrize("name", ["Instinct MI300X", "NVIDIA H100 SXM5 80GB", "TPU v5p", "h20 96gb", "Gaudi 3"])
def test_accelerators_without_an_entry_among_engines_serve_on_their_training_kernels(name):
    (row,) = predict_table([{**ROW, "accelerator": name, "metric": "itl_ms"}])
    assert (row["feasible"], row["reason"]) == (True, "")
    assert row["predicted"] > 0


@pytest.mark.parametrize(
    ("cells", "text"),
    [
        ({"mode": "server"}, "mode = 'server'"),
        ({"accelerator": "Z200-SXM"}, "z200-sxm"),
        ({"weight_precision": ""}, "weight_precision"),
        ({"n_accel": "3"}, "n_accel = 3"),
    ],
)
def test_a_row_that_cannot_be_predicted_says_why(cells, text):
    row = predict_table([{**ROW, **cells, "metric": "itl_ms"}])[0]
    assert row["predicted"] == ""
    assert text.lower() in row["reason"].lower()


# Runs whose watts are anchors, too, in the same role.
METERED = "mlenergy_rates"
TABLES = sorted(path for path in (ANCHOR_TREE / "serving").glob("*.csv") if path.stem != METERED)


@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.stem)
def test_the_role_of_a_figure_is_the_hash_of_its_run(table):
    text = table.with_suffix(".toml").read_text("utf-8")
    given = tomllib.loads(text)["defaults"]
    odd = "odd is calibration" in text
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if given.get("role") == "validation":  # of a source that no fit reads, all rows are
        assert all("role" not in row for row in rows)
        return
    for row in rows:
        own = {name.removeprefix("run."): cell for name, cell in row.items() if name.startswith("run.") and cell}
        cells = given["run"] | own
        key = "|".join(cells[name] for name in sorted(cells) if name not in ("metric", "harness"))
        calibration = (zlib.crc32(key.encode()) % 2 == 1) == odd
        assert row["role"] == ("calibration" if calibration else "validation"), row["id"]
    assert sum(row["role"] == "validation" for row in rows) * 2 >= len(rows)


def test_integers_of_weights_only_are_no_8_bit_arithmetic():
    """gpt-fast: half of the bytes, the products of 16 bits."""
    row = {**ROW, "engine": "gpt-fast", "n_accel": "1", "tp": "1", "model": "Llama-2-7B", "mode": "static", "metric": "itl_ms"}
    asked = [serving_question({**row, "weight_precision": name}).arguments for name in ("bf16", "int8")]
    assert [each["precision"] for each in asked] == ["bf16", "bf16"]
    assert asked[1]["weight_precision"] == "int8"
    wide, narrow = (
        predict_table([{**row, "weight_precision": name, "batch_or_concurrency": "1"}])[0]["predicted"]
        for name in ("bf16", "int8")
    )
    assert 0.5 < narrow / wide < 0.8


@pytest.mark.parametrize(
    ("engine", "written", "stored"),
    [("gpt-fast", "int4", "int4_g32"), ("mlx 0.29", "int4", "mlx_4bit"), ("vllm", "int4", "int4")],
)
def test_a_width_alone_means_the_groups_that_an_engines_own_scripts_store(engine, written, stored):
    """gpt-fast: a scale and a zero point of 16 bits for 32 weights, 5 bits a weight; MLX: 32 bits for 64, 4.5."""
    row = {**ROW, "engine": engine, "n_accel": "1", "tp": "1", "model": "Llama-2-7B", "weight_precision": written}
    arguments = serving_question({**row, "mode": "static", "metric": "itl_ms"}).arguments
    assert arguments.get("weight_precision", arguments["precision"]) == stored


def test_the_rate_of_a_metered_run_has_the_role_of_its_watts():
    """What a fit was given of a run's watts is joules in no validation case; neither may its rate be."""
    roles = []
    for path in (ANCHOR_TREE / "energy" / "mlenergy.csv", ANCHOR_TREE / "serving" / f"{METERED}.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            roles.append({row["id"].rpartition("-")[0]: row["role"] for row in csv.DictReader(file)})
    watts, rates = roles
    assert len(rates) == 191
    assert rates.items() <= watts.items()
    assert 2 * list(rates.values()).count("validation") >= len(rates)


def test_a_row_says_what_the_prefix_cache_has():
    whole, half = (predict_table([{**ROW, "metric": "ttft_ms", "prefix_hit": hit}])[0]["predicted"] for hit in ("", "0.5"))
    asked = serving_question({**ROW, "metric": "ttft_ms", "prefix_hit": "0.5"})
    assert asked.arguments["prefix_hit"] == 0.5
    assert half < whole
