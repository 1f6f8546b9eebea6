"""Rows of energy: joules of a served token and watts of its accelerators, and megawatt-hours of a training run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mlsysim.calibration.operations.power import TrainedPower, trained_power
from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.core.toml import packaged_toml, reads
from mlsysim.core.units import in_unit
from mlsysim.physics.operations.energy import facility_energy_J
from mlsysim.systems.fleets import COOLING, host_share
from mlsysim.tables.cells import Cells, cell_text, number_cell, whole_cell
from mlsysim.tables.names import named_accelerator
from mlsysim.tables.operations.law_answer import LawAnswer
from mlsysim.tables.question import Question
from mlsysim.tables.serving import FORMAT_COLUMNS, serving_question

ENERGY_COLUMNS = ("kind", "accelerator", "power_basis", "energy_mwh", "j_per_output_token")
# Columns that rows of energy have beside the usual ones.
WATTS, JOULES, MWH = "predicted_power_w_per_accel", "predicted_j_per_output_token", "predicted_energy_mwh"
FURTHER_COLUMNS = (WATTS, JOULES, MWH)
# What a row of a served model asks for, as tables of serving call it.
METRIC = "j_per_output_token"
_HOUR_S, _MWH_J = 3600.0, 3.6e9


def is_served(cells: Cells) -> bool:
    """Tells whether a row of energy is of a served model.

    Raises:
        InputError: it is neither of one nor of a training run.

    Example:
        >>> is_served({"kind": "inference"}), is_served({"kind": "train"})
        (True, False)
    """
    kind = cell_text(cells, "kind")
    if kind != "inference" and not kind.startswith("train"):
        raise InputError("kind", kind, "inference or train: nothing is predicted of another row")
    return kind == "inference"


@reads("tables", "energy.toml", kept=False)
def energy_serving_cells(cells: Cells) -> tuple[dict[str, str], dict[str, str]]:
    """Returns a served model's cells as a table of serving has them, and what stands for those that its row leaves out.

    What was measured (watts, joules, rates, latencies) is not read.

    Raises:
        InputError: the row's task has no length that can be guessed.

    Example:
        >>> row = {"model": "Qwen/Qwen3-8B", "accelerator": "H100", "task": "gpqa", "avg_batch": "7.9"}
        >>> asked, assumed = energy_serving_cells(row | {"avg_output_len": "900.2"})
        >>> asked["batch_or_concurrency"], asked["output_len"], assumed["input_len"]
        ('8', '900', '250')
    """
    facts = packaged_toml("tables", "energy.toml")
    assumed: dict[str, str] = {}
    asked = {column: cells.get(column) or "" for column in ("model", "accelerator", *FORMAT_COLUMNS, "year")}
    for column in ("engine", "mode"):
        asked[column] = cell_text(cells, column)
        if not asked[column]:
            asked[column] = assumed[column] = str(facts["serving"][column])
    asked["input_len"] = cell_text(cells, "input_len")
    if not asked["input_len"]:
        task = cell_text(cells, "task")
        known = {name: tokens for name, tokens in facts["prompt_tokens"].items() if name != "source"}
        if task not in known:
            expected = (
                f"a task whose prompts are text, as {', '.join(known)}, or an input_len: how long others are nobody prints"
            )
            raise InputError("task", task, expected)
        asked["input_len"] = assumed["input_len"] = str(known[task])
    asked["output_len"] = _rounded(cells, "avg_output_len")
    batch = "avg_batch" if cell_text(cells, "avg_batch") else "max_num_seqs"
    asked["batch_or_concurrency"] = _rounded(cells, batch)
    # The leaderboard counts ranks of experts apart from those of tensor parallelism: all of a replica share its attention.
    accelerators, groups = whole_cell(cells, "n_accel", 1), whole_cell(cells, "dp", 1)
    asked |= {"n_accel": str(accelerators), "tp": str(max(1, accelerators // groups)), "dp": str(groups)}
    if whole_cell(cells, "ep", 1) > 1:
        asked["ep"] = str(whole_cell(cells, "ep"))
    return asked, assumed


def energy_serving_question(asked: Mapping[str, str]) -> Question:
    """Returns the question to ``ServingModel`` that the cells of ``energy_serving_cells`` make."""
    return serving_question({**asked, "metric": METRIC})


def _rounded(cells: Cells, column: str) -> str:
    """A mean as the whole number next to it."""
    return str(max(1, round(number_cell(cells, column))))


@reads("tables", "energy.toml", kept=False)
def training_energy(cells: Cells) -> LawAnswer:
    """Returns the MWh of a training run: hours of its accelerators, times their power, times PUE where the row includes it.

    A wattage that the source assumed is an input of its own arithmetic (without a figure, TDP). One that it measured is not
    read: the power is then that of other runs on the chip, or a share of its TDP.

    Raises:
        InputError: the row has no hours, or no accelerator whose power is known.

    Example:
        >>> llama = {"accelerator": "A100-80GB", "accel_hours": "82432", "power_w_per_accel": "400", "power_basis": "TDP"}
        >>> told = training_energy(llama | {"pue": "1.1", "energy_includes_pue": "yes"})
        >>> f"{told.value:.1f}", told.basis
        ('36.3', 'identity')
    """
    words = packaged_toml("tables", "energy.toml")["basis"]
    basis, assumed = cell_text(cells, "power_basis"), dict[str, str]()
    hours = _hours(cells)
    includes, pue = cell_text(cells, "energy_includes_pue"), 1.0
    if includes == "yes":
        pue = number_cell(cells, "pue", 1.0)
    if not includes or (includes == "yes" and not cell_text(cells, "pue")):
        assumed["pue"] = f"{pue:g}"
    watts = _assumed_W(cells) if any(basis.startswith(word) for word in words["assumed"]) else None
    if watts is not None:
        return LawAnswer(_mwh(watts, hours, pue), None, "the row's own hours and watts", "", "identity", assumed)
    alone = any(basis.startswith(word) for word in words["accelerator_only"])
    chip = trained_power(named_accelerator(cells), 0.0 if alone else host_share(COOLING[0]))
    if chip is None:
        raise InputError("accelerator", cells.get("accelerator"), "one whose TDP is known")
    return _predicted(chip, hours, pue, assumed)


def _assumed_W(cells: Cells) -> float | None:
    """The wattage that a row multiplies: its own figure, else the TDP where it says so."""
    if cell_text(cells, "power_w_per_accel"):
        return number_cell(cells, "power_w_per_accel")
    tdp = named_accelerator(cells).tdp if cell_text(cells, "power_basis").startswith("tdp") else None
    return None if tdp is None else in_unit(tdp, "watt")


def _predicted(chip: TrainedPower, hours: float, pue: float, assumed: dict[str, str]) -> LawAnswer:
    mwh = _mwh(chip.watts, hours, pue)
    ends = (mwh / (1 + chip.spread), mwh * (1 + chip.spread))
    told = assumed | {"power_w_per_accel": f"{chip.watts:.0f}"}
    return LawAnswer(mwh, ends, chip.scope, "", "calibrated" if chip.measured else "transferred", told)


def _mwh(watts: float, hours: float, pue: float) -> float:
    return float(facility_energy_J(watts, hours * _HOUR_S, pue)) / _MWH_J


def _hours(cells: Cells) -> float:
    """Hours of all accelerators: as the row says, else their number times its days."""
    if cell_text(cells, "accel_hours"):
        return number_cell(cells, "accel_hours")
    missing = [column for column in ("n_accel", "train_days") if not cell_text(cells, column)]
    if missing:
        raise InconsistentError(missing[0], "", "the row's hours: accel_hours, or n_accel and train_days")
    return number_cell(cells, "n_accel") * number_cell(cells, "train_days") * 24


def further_columns(columns: Iterable[str]) -> tuple[str, ...]:
    """Returns the columns that a table with these ``columns`` gets beside the usual ones; none unless it is of energy.

    Example:
        >>> further_columns(ENERGY_COLUMNS)[-1], further_columns(["metric"])
        ('predicted_energy_mwh', ())
    """
    return FURTHER_COLUMNS if set(ENERGY_COLUMNS) <= set(columns) else ()


def served_columns(figure: Callable[[str], float | str]) -> dict[str, Any]:
    """Returns the columns of a served model, from a figure of its run by a metric's name."""
    return {WATTS: figure("power_w_per_accel"), JOULES: figure(METRIC)}
