"""Tables of energy: what is predicted of a row, what of it is read, and what a row that cannot be answered says."""

from __future__ import annotations

import pytest

from mlsysim.tables.operations.energy import FURTHER_COLUMNS, JOULES, MWH, WATTS
from mlsysim.tables.predict import predict_table

COLUMNS = ("id", "kind", "model", "accelerator", "power_basis", "energy_mwh", "j_per_output_token", "task", "power_w_per_accel")
SERVED = {
    **dict.fromkeys(COLUMNS, ""),
    "kind": "inference",
    "model": "Qwen/Qwen3-8B",
    "accelerator": "H100",
    "task": "lm-arena-chat",
    "weight_precision": "bfloat16",
    "n_accel": "1",
    "avg_batch": "31.9",
    "avg_output_len": "646.8",
    "year": "2026",
}
TRAINED = {
    **dict.fromkeys(COLUMNS, ""),
    "kind": "train",
    "accelerator": "TPUv3",
    "power_basis": "measured_system",
    "n_accel": "1024",
    "train_days": "30",
}


def only(**cells):
    (row,) = predict_table([(SERVED if cells.get("kind", "inference") == "inference" else TRAINED) | cells])
    return row


def test_a_served_row_has_watts_and_joules():
    row = only()
    assert 300 < row[WATTS] < 700
    assert row["predicted"] == row[JOULES]
    assert row["low"] < row[JOULES] < row["high"]
    assert row[MWH] == ""
    assert "input_len=200" in row["assumed"]
    assert "engine=vllm" in row["assumed"]
    assert "input_len" not in only(input_len="200")["assumed"]


def test_what_was_measured_is_not_read():
    measured = {"power_w_per_accel": "1", "j_per_output_token": "2", "output_tokens_per_s": "3", "itl_p50_ms": "4"}
    assert {name: only(**measured)[name] for name in (WATTS, JOULES)} == {name: only()[name] for name in (WATTS, JOULES)}
    trained = {"kind": "train", "energy_mwh": "1", "gross_tco2e": "2"}
    assert only(**trained, power_w_per_accel="9999")[MWH] == only(kind="train")[MWH]


def test_ranks_of_experts_share_the_attention_of_all():
    row = only(model="Qwen/Qwen3-30B-A3B-Instruct-2507", n_accel="2", tp="1", dp="1", ep="2")
    assert row["reason"] == ""
    assert row[WATTS] > 0


def test_training_energy_is_hours_times_watts():
    """1,024 chips for 720 hours at what their like drew; an assumed wattage is an input of the row's own arithmetic."""
    row = only(kind="train")
    hours = 1024 * 720
    assert row["basis"] == "calibrated"
    assert 250 < row[MWH] / hours * 1e6 < 330
    assert row["low"] < row[MWH] < row["high"]
    assumed = only(kind="train", accelerator="A100-80GB", power_basis="TDP", power_w_per_accel="400", pue="1.1")
    assert (assumed[MWH], assumed["basis"], assumed["low"]) == (pytest.approx(hours * 400 / 1e6), "identity", "")
    both = {"kind": "train", "accelerator": "A100-80GB", "power_basis": "TDP", "pue": "1.1", "energy_includes_pue": "yes"}
    assert only(**both)[MWH] == pytest.approx(1.1 * hours * 400 / 1e6), "TDP without a figure is the card's"
    unknown = only(kind="train", accelerator="A100-80GB", power_basis="measured_gpu")
    assert (unknown["basis"], unknown[MWH]) == ("transferred", pytest.approx(0.75 * hours * 400 / 1e6))


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"task": "image-chat"}, "task = 'image-chat'"),
        ({"avg_output_len": ""}, "avg_output_len = ''"),
        ({"avg_output_len": "many"}, "avg_output_len = 'many'"),
        ({"model": "nvidia/NVIDIA-Nemotron-Nano-9B-v2"}, "Mamba-2"),
        ({"kind": "power"}, "kind = 'power'"),
        ({"kind": "train", "train_days": ""}, "train_days = ''"),
        ({"kind": "train", "train_days": "-1"}, "train_days = '-1'"),
        ({"kind": "train", "accelerator": ""}, "accelerator = ''"),
        ({"kind": "train", "pue": "0", "energy_includes_pue": "yes"}, "pue = '0'"),
    ],
)
def test_a_row_that_cannot_be_answered_says_why(cells, reason):
    row = only(**cells)
    assert reason in row["reason"]
    assert all(row[name] == "" for name in (*FURTHER_COLUMNS, "predicted", "low", "high"))
