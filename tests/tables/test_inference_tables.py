"""The forward pass alone on calibrated engines, and rows of MLPerf Inference."""

from __future__ import annotations

import csv
import tomllib
import zlib
from dataclasses import fields, replace

import pytest
from repository import ANCHOR_TREE

from mlsysim import Fleet, Hardware, Models, NetworkFabric, Node, SingleNodeModel
from mlsysim.calibration.data_parallel import INFERRED, pass_hardware
from mlsysim.calibration.device_entries import device_entries
from mlsysim.calibration.inference import (
    InferenceCoefficients,
    inference_fitted_names,
    inference_stack,
)
from mlsysim.calibration.store import tables
from mlsysim.core.errors import MLSysError
from mlsysim.lowering.data_parallel import Samples
from mlsysim.lowering.forward import forward_time, inference_kernels, inference_work
from mlsysim.tables.inference import inference_question
from mlsysim.tables.predict import predict_table

# What ends at the edge of its range: two tables of few rows, one of which mixes runs with and without XLA.
AT_BOUND = {"tensorflow-convnets": ["convolution_share"], "paddle-convnets": ["moved"]}
TABLES = [*sorted((ANCHOR_TREE / "inference").glob("*.csv")), *sorted((ANCHOR_TREE / "inference_frameworks").glob("*.csv"))]
RESNET, BERT = Models.Vision.ResNet50, Models.Language.BERT_Large
A100 = Hardware.Cloud.A100
ROW = {
    "id": "x",
    "round": "v3.0",
    "submitter": "NVIDIA",
    "benchmark": "resnet50",
    "scenario": "Offline",
    "system": "NVIDIA DGX A100 (8x A100-SXM-80GB, TensorRT)",
    "accelerator": "NVIDIA A100-SXM-80GB",
    "n_accel": "8.0",
    "value": "1",
    "unit": "samples/s",
}


def read(table):
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def solved(workload=RESNET, hardware=A100, **given):
    arguments = {"batch_size": 256, "precision": "int8", "stack": "tensorrt-mlperf"} | given
    return SingleNodeModel().solve(workload, hardware, **arguments)


def rate(**given):
    return solved(**given).throughput.m_as("count/second")


def work_s(**changed):
    kernels, found = inference_kernels(A100, "int8")
    stack = inference_stack("tensorrt-mlperf")
    work = inference_work(RESNET, 256.0, Samples("int8", 1, 1.0, 0.0), stack)
    return float(sum(forward_time(work, kernels, replace(stack.coefficients, **changed), found.clock)))


def test_a_pass_on_an_engine_is_calibrated_and_its_parts_sum_to_it():
    result = solved()
    assert result.basis == "calibrated"
    assert sum(part.m_as("second") for part in result.breakdown.values()) == pytest.approx(result.latency.m_as("second"))
    assert "stack.tensorrt-mlperf.convolution_share" in result.coefficients
    assert 25e3 < rate() < 50e3


def test_a_pass_is_slower_than_its_bound_and_faster_with_8_bits():
    bound = SingleNodeModel().solve(RESNET, A100, batch_size=256, precision="int8")
    assert rate() < bound.throughput.m_as("count/second")
    assert rate() > 1.5 * rate(precision="fp16")
    bert = {"workload": BERT, "seq_len": 384}
    assert rate(**bert) > 1.5 * rate(**bert, precision="fp16")


def test_padding_is_left_out():
    assert rate(workload=BERT, seq_len=384, mean_tokens=180) > 1.8 * rate(workload=BERT, seq_len=384)


def test_accelerators_of_a_system_do_not_slow_each_other():
    node = Node(name="eight", accelerator=A100, accelerators_per_node=8, intra_node_bw="1 GB/s")
    fleet = Fleet(name="eight", node=node, count=1, fabric=NetworkFabric(name="none", bandwidth="1 GB/s"))
    assert rate(hardware=fleet, batch_size=8 * 256) == pytest.approx(8 * rate())


def test_time_grows_with_what_is_moved_and_falls_with_the_engines_share():
    assert work_s(traffic=1.5) > work_s()
    assert work_s(moved=1.5) > work_s()
    assert work_s(convolution_share=1.2) < work_s()
    assert work_s(clock_share=0.7) > work_s()
    assert work_s(prologue_share=1.0) > work_s()
    assert work_s(host_kernel_s=1e-3) > work_s()
    assert work_s(step_s=1e-3) == pytest.approx(work_s() + 1e-3)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"stack": "tensort-mlperf"}, "stack"),
        ({"efficiency": 0.5}, "efficiency"),
        ({"precision": "int4"}, "precision"),
        ({"hardware": Hardware.Cloud.MI300X}, "calibrated"),
        ({"workload": Models.Language.Llama2_70B}, "workload"),
    ],
)
def test_what_is_not_calibrated_is_refused(given, word):
    with pytest.raises(MLSysError, match=word):
        solved(**given)


@pytest.mark.parametrize("name", tables("inference.toml")["stack"])
def test_an_engine_has_at_most_six_fitted_coefficients_and_states_the_rest(name):
    entry = tables("inference.toml")["stack"][name]
    assert len(entry.get("fit", ())) <= 6
    assert set(entry.get("fit", ())) <= {part.name for part in fields(InferenceCoefficients)}
    assert entry["source"]
    assert entry["at_bound"] == AT_BOUND.get(name, [])


def test_a_clock_of_training_runs_is_counted_once_and_is_at_most_that_of_the_datasheet():
    names = inference_fitted_names("pytorch-convnets", "Tesla V100 SXM2 16GB", "fp32")
    assert {"device.v100.clock", "device.v100.fp32_share"} <= set(names)
    assert len(names) == len(set(names))
    assert 0.5 < pass_hardware(INFERRED, "Tesla V100 SXM2 16GB").clock <= 1


def test_a_device_takes_what_its_entry_is_like():
    names = inference_fitted_names("tensorrt-mlperf", "H100 PCIe 80GB", "int8")
    assert {"device.h100_sxm.int8_share", "device.h100_pcie.clock"} <= set(names)
    assert all(entry["source"] != "TODO" for entry in device_entries("inference").values())


@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.stem)
def test_the_role_of_a_row_is_drawn_from_its_run(table):
    given = tomllib.loads(table.with_suffix(".toml").read_text("utf-8"))["defaults"]["run"]
    rows = read(table)
    for row in rows:
        own = {name.removeprefix("run."): cell for name, cell in row.items() if name.startswith("run.") and cell}
        key = "|".join((given | own)[name] for name in sorted(given | own) if name != "metric")
        assert row["role"] == ("validation" if zlib.crc32(key.encode()) % 5 > 1 else "calibration"), row["id"]
    assert sum(row["role"] == "validation" for row in rows) >= len(rows) / 2


def test_a_table_of_results_is_predicted_row_by_row():
    rows = [
        ROW,
        ROW | {"benchmark": "bert-99", "accelerator": "NVIDIA H100-SXM-80GB", "n_accel": "1"},
        ROW | {"system": "DGX A100 (8x A100-SXM-80GB, MaxQ, TensorRT)"},
        ROW | {"round": "v1.0"},
        ROW | {"accelerator": "NVIDIA A100-SXM-80GB CTS"},
    ]
    images, sequences, limited, older, named = predict_table(rows)
    assert 250e3 < images["predicted"] < 400e3
    assert 7e3 < sequences["predicted"] < 11e3
    assert limited["predicted"] < images["predicted"]
    assert older["predicted"] < images["predicted"]
    assert named["predicted"] == images["predicted"]
    assert {row["basis"] for row in (images, sequences, limited, older)} == {"calibrated"}
    assert limited["stack_used"] == "tensorrt-mlperf-maxq"


def test_slices_are_parts_of_their_accelerator():
    card = {"n_accel": "1", "accelerator": "NVIDIA A100-SXM-80GB"}
    names = ["", " (1x1g.10gb MIG)", " (7x1g.10gb MIG)"]
    whole, one, seven = (
        row["predicted"] for row in predict_table([ROW | card | {"accelerator": card["accelerator"] + n} for n in names])
    )
    assert seven == pytest.approx(7 * one)
    assert 0.08 < one / whole < 1 / 7


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"scenario": "Burst"}, "scenario"),
        ({"benchmark": "rnnt"}, "benchmark"),
        ({"accelerator": ""}, "accelerator"),
        ({"accelerator": "AMD MI300X"}, "accelerator"),
        ({"accelerator": "NVIDIA A30 (MIG)"}, "slices"),
        ({"accelerator": "NVIDIA L40S (2x1g.6gb MIG)"}, "slices"),
        ({"accelerator": "NVIDIA A30 (1x7g.24gb MIG)"}, "part of"),
        ({"n_accel": "0"}, "n_accel"),
        ({"n_accel": "2.5"}, "n_accel"),
        ({"n_accel": "nan"}, "n_accel"),
        ({"round": ""}, "round"),
    ],
)
def test_a_row_that_is_not_calibrated_says_why(changed, word, refusal):
    assert word in refusal(ROW | changed)


FRAMEWORK_ROW = {
    "model": "ResNet-50 v1.5",
    "task": "infer",
    "accelerator": "A100-SXM-80GB",
    "n_accel": "1",
    "precision": "amp-fp16",
    "batch_per_accel": "128.0",
    "metric": "samples_per_s",
    "locator": "PaddlePaddle/Classification/RN50v1.5/README.md:L1 [Inference performance]",
    "year": "2022",
    "value": "1",
}


def test_batches_of_a_framework_are_predicted_and_tensorrt_is_faster():
    rows = [FRAMEWORK_ROW, FRAMEWORK_ROW | {"precision": "fp16 (TensorRT)"}, FRAMEWORK_ROW | {"batch_per_accel": "1"}]
    plain, engine, one = predict_table(rows)
    assert 3e3 < plain["predicted"] < 7e3
    assert 12e3 < engine["predicted"] < 20e3
    assert one["predicted"] < 300
    assert engine["stack_used"] == "paddle-tensorrt"


def test_the_length_of_a_sequence_is_that_of_the_cited_line_or_of_its_own_column():
    row = FRAMEWORK_ROW | {"model": "BERT-Large", "batch_per_accel": "4"}
    short, long, own = predict_table(
        [
            row | {"locator": "TensorFlow/LanguageModeling/BERT/README.md:L982 @729963d [Fine-tuning]"},
            row | {"locator": "TensorFlow/LanguageModeling/BERT/README.md:L986 @729963d [Fine-tuning]"},
            row | {"locator": "TensorFlow/README.md", "seq_len": "128"},
        ]
    )
    assert short["stack_used"] == "tensorflow-bert"
    assert short["predicted"] == own["predicted"] > long["predicted"] > 0


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"model": "VGG-16"}, "model"),
        ({"model": "BERT-Large", "locator": "PyTorch/README.md:L7 @729963d"}, "locator"),
        ({"model": "BERT-Large", "locator": "PyTorch/README.md"}, "locator"),
        ({"precision": "int4"}, "precision"),
        ({"locator": "Caffe/README.md"}, "framework"),
        ({"task": "evaluate"}, "task"),
        ({"batch_per_accel": ""}, "batch_per_accel"),
    ],
)
def test_a_batch_that_is_not_calibrated_says_why(changed, word, refusal):
    assert word in refusal(FRAMEWORK_ROW | changed)


def test_what_was_measured_is_not_read():
    assert predict_table([ROW])[0]["predicted"] == predict_table([ROW | {"value": "9e9", "notes": "MaxQ"}])[0]["predicted"]


def test_the_number_format_follows_the_target_the_device_and_the_round():
    def precision(**changed):
        return inference_question(ROW | changed).arguments["precision"]

    assert precision(benchmark="bert-99") == "int8"
    assert precision(benchmark="bert-99.9") == "fp16"
    assert precision(benchmark="bert-99.9", accelerator="NVIDIA H100-SXM-80GB") == "fp8"
