"""Scenarios, their scorecards and the command that checks them; and the walls, each with what proves it."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path

import pytest
from repository import ROOT

import mlsysim
from mlsysim import Fleet, Hardware, InputError, Scenario, Systems, load_config
from mlsysim.cli.exits import BAD_INPUT, FAILS, HOLDS, INFEASIBLE
from mlsysim.cli.main import main
from mlsysim.core.errors import UnitError, UnknownNameError
from mlsysim.core.units import Q_
from mlsysim.scenarios.files import scenarios_in
from mlsysim.scenarios.limits import Limit
from mlsysim.scenarios.walls import DOMAINS, walls
from mlsysim.solvers.operations.power import PowerModel
from mlsysim.solvers.operations.time_to_train import time_to_train
from mlsysim.solvers.serving.serving import ServingModel
from mlsysim.solvers.training.distributed import DistributedModel
from mlsysim.systems.hire import hire_price

LLAMA = mlsysim.Models.Language.Llama3_8B
FLEET = Fleet(name="16 H100", node=Systems.Nodes.DGX_H100, count=2)
TRAIN = {"batch_size": 128, "seq_len": 8192, "tp_size": 2, "stack": "megatron-core", "tokens": "1e12 count"}
SERVE = {"input_len": 1000, "output_len": 300, "batch_size": 32}


def training(**given):
    return Scenario(**{"model": LLAMA, "on": FLEET, "train": TRAIN, **given})


def serving(**given):
    return Scenario(**{"model": "Llama-3-8B", "on": "H100", "serve": SERVE, **given})


def test_a_training_run_in_days_dollars_and_tonnes():
    """By hand from the solver's own speed: D / speed, hours x accelerators x price, and energy x grid."""
    scenario = training(place={"price": "2 USD/hour", "grid": "400 gCO2e/kWh", "pue": 1.2})
    step = DistributedModel().solve(LLAMA, FLEET, **{name: value for name, value in TRAIN.items() if name != "tokens"})
    seconds = 1e12 / step.tokens_per_second.m_as("count/s")
    figures = scenario.figures
    assert scenario.answer == step
    assert figures["days"].value.m_as("s") == pytest.approx(seconds)
    assert figures["cost"].value.m_as("USD") == pytest.approx(seconds / 3600 * 16 * 2)
    assert figures["carbon"].value.m_as("gCO2e") == pytest.approx(figures["run_energy"].value.m_as("kWh") * 400)
    watts = PowerModel().solve(step).node_power.m_as("watt") / 8
    assert figures["run_energy"].value.m_as("J") == pytest.approx(16 * watts * 1.2 * seconds)
    low, high = figures["days"].low, figures["days"].high
    assert low < figures["days"].value < high
    assert (low * figures["tokens_per_second"].high).m_as("count") == pytest.approx(1e12)


def test_a_run_with_failures_takes_longer():
    """As ``time_to_train`` says, of which a scenario tells days, failures and money."""
    plain = training(place={"price": "2 USD/hour"}).figures
    failing = training(train=TRAIN | {"checkpoint_time": "30 s"}, place={"price": "2 USD/hour"})
    run = time_to_train(failing.answer, "1e12 count", checkpoint_time="30 s", price="2 USD/hour")
    assert failing.figures["days"].value == run.duration > plain["days"].value
    assert failing.figures["cost"].value == run.cost > plain["cost"].value
    assert failing.figures["failures"].low < run.failures < failing.figures["failures"].high
    assert "failures" not in plain
    with pytest.raises(InputError, match="checkpoint_time"):
        training(train=TRAIN | {"restart_time": "10 min"})


def test_serving_costs_what_its_tokens_do():
    scenario = serving(serve=SERVE | {"stack": "vllm-2025"}, place={"price": "3.6 USD/hour"})
    run = ServingModel().solve(LLAMA, Hardware.Cloud.H100, **SERVE, stack="vllm-2025")
    per_s = run.tokens_per_second.m_as("count/s")
    assert scenario.figures["cost_per_million"].value.m_as("USD") == pytest.approx(1e-3 / per_s * 1e6)
    assert "days" not in scenario.figures
    queue = serving(
        serve={"input_len": 1000, "output_len": 300, "request_rate": "2 count/s"}, place={"price": "3.6 USD/hour"}
    ).figures
    assert queue["cost_per_million"].value.m_as("USD") == pytest.approx(1e-3 / 600 * 1e6)
    rented = serving(serve=SERVE | {"stack": "vllm-2025"}).figures["cost_per_hour"]
    assert rented.value.m_as("USD/hour") == pytest.approx(hire_price(Hardware.Cloud.H100.name).median)
    assert "2025" in rented.note
    assert queue["ttft_p99"].value > queue["ttft_p50"].value


def test_without_a_plan_it_is_searched_and_without_a_stack_the_best_is_taken():
    searched = training(train={"batch_size": 128, "seq_len": 8192})
    assert searched.answer.basis == "calibrated"
    assert searched.answer.plan["tp"] * searched.answer.plan["pp"] * searched.answer.plan["dp"] == 16
    assert training(train={"batch_size": 128, "basis": "bound"}).answer.basis == "bound"


def test_a_limit_holds_on_either_side():
    card = training(limits=["mfu > 0.3", "mfu > 0.99", "days < 1", "step_latency_total <= 100 s"]).scorecard()
    assert [verdict.holds for verdict in card.verdicts] == [True, False, False, True]
    assert not card.holds
    assert card.verdicts[0].sure
    near = training().figures["mfu"]
    doubtful = training(limits=[f"mfu > {(near.value + near.low) / 2}"]).scorecard().verdicts[0]
    assert doubtful.holds
    assert doubtful.sure is False


@pytest.mark.parametrize(
    ("limit", "figure", "holds"),
    [
        ("x < 2", 2.0, False),
        ("x <= 2", 2.0, True),
        ("x > 1.5 s", Q_("1600 ms"), True),
        ("x>=1.6 s", Q_("1600 ms"), True),
        ("days < 2", Q_("47 hour"), True),
        ("cost < 1e3", Q_("1001 USD"), False),
    ],
)
def test_limits(limit, figure, holds):
    assert Limit.of(limit).holds(figure) is holds


@pytest.mark.parametrize(
    ("limit", "error", "told"),
    [
        ("mffu > 0.4", UnknownNameError, "did you mean 'mfu'"),
        ("mfu = 0.4", InputError, "a name, <, <=, > or >="),
        ("mfu > 0.4 s", UnitError, "a plain number for mfu"),
        ("step_latency_total < 3", UnitError, "a value with a unit"),
        ("step_latency_total < 3 GB", UnitError, "step_latency_total < 3 GB"),
    ],
)
def test_a_wrong_limit_is_refused(limit, error, told):
    with pytest.raises(error, match=told):
        training(limits=[limit]).scorecard()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"model": "Llama-3-8C"}, "model = 'Llama-3-8C'.*did you mean"),
        ({"on": "H1000"}, "on = 'H1000'.*did you mean 'H100'"),
        ({"serve": SERVE}, "one of train and serve"),
        ({"train": TRAIN | {"tpsize": 2}}, "train = 'tpsize'.*did you mean 'tp_size'"),
        ({"train": TRAIN | {"tokens": "-1 count"}}, "tokens = '-1 count'"),
        ({"place": {"pue": 0.9}}, "pue = 0.9"),
        ({"place": {"grids": "x"}}, "place = 'grids'.*did you mean 'grid'"),
        ({"limits": "mfu > 0.4"}, "in a list"),
        ({"modle": LLAMA}, "did you mean 'model'"),
    ],
)
def test_what_a_scenario_does_not_take(given, told):
    with pytest.raises(InputError, match=told):
        training(**given)


def test_changes_are_the_solvers_own_and_the_best_come_first():
    scenario = serving(limits=["itl < 1 ms"])
    card = scenario.scorecard()
    assert 1 <= len(card.changes) <= 3
    gains = [change.gain for change in card.changes]
    assert gains == sorted(gains, reverse=True)
    assert all(change.figure == "itl" and change.after < change.before for change in card.changes)
    narrow = next(change for change in card.changes if change.text == "precision = fp8")
    again = serving(serve=SERVE | {"precision": "fp8"}).figures["itl"].value
    assert narrow.after == again


def test_what_does_not_fit_is_told_what_would():
    scenario = Scenario(model="Llama-2-70B", on="8 x H100", serve=SERVE, limits=["itl < 50 ms"])
    card = scenario.scorecard()
    assert not card.feasible
    assert not card.holds
    assert card.figures == ()
    assert card.changes
    assert all(change.before is None and math.isinf(change.gain) for change in card.changes)
    assert "INFEASIBLE" in str(card)
    assert json.loads(card.to_json())["changes"][0]["gain"] is None


def test_a_card_is_text_json_and_html():
    card = training(limits=["mfu > 0.3"], name="a <run>").scorecard()
    assert str(card).startswith("a <run>\n")
    assert "mfu > 0.3: holds" in str(card)
    told = json.loads(card.to_json())
    assert told["holds"] is True
    assert {"mfu", "days"} <= {figure["name"] for figure in told["figures"]}
    assert "<caption>a &lt;run&gt;</caption>" in card._repr_html_()


def test_the_example_has_three_questions_that_differ():
    scenarios = scenarios_in(ROOT / "examples" / "scenario.toml")
    assert [scenario.kind for scenario in scenarios] == ["serve", "serve", "train"]
    assert scenarios[0].arguments["tp_size"] == scenarios[1].arguments["tp_size"] == 2
    assert load_config(ROOT / "examples" / "scenario.toml").name == scenarios[0].name


FILE = 'model = "Llama-3-8B"\non = "H100"\nlimits = ["itl < 50 ms"]\n[serve]\ninput_len = 512\noutput_len = 64\n'


@pytest.fixture
def checked(tmp_path, monkeypatch, capsys):
    """Runs the command on a file, and gives the exit code and what was printed."""
    pytest.importorskip("typer")
    monkeypatch.chdir(tmp_path)

    def run(text, *words):
        Path("scenario.toml").write_text(text, encoding="utf-8")
        code = main(["check", "scenario.toml", *words])
        return code, capsys.readouterr()

    return run


def test_exit_codes_of_check(checked):
    code, printed = checked(FILE)
    assert code == HOLDS
    assert "holds" in printed.out
    code, printed = checked(FILE.replace("50 ms", "1 ms"))
    assert code == FAILS
    assert "FAILS" in printed.out
    code, printed = checked(FILE.replace("Llama-3-8B", "Llama-2-70B"))
    assert code == INFEASIBLE
    assert "128.5 GiB" in printed.out
    code, printed = checked(FILE.replace("input_len", "inptu_len"))
    assert code == BAD_INPUT
    assert "scenario.toml:5: serve = 'inptu_len'" in printed.err
    assert "did you mean 'input_len'" in printed.err
    code, printed = checked(FILE.replace("itl <", "ilt <"))
    assert code == BAD_INPUT
    assert "scenario.toml:3: limits = 'ilt'" in printed.err


def test_check_for_programs(checked):
    code, printed = checked(FILE + '[[question]]\nlimits = ["itl < 1 ms"]\n', "--json")
    told = json.loads(printed.out)
    assert (code, told["exit_code"], told["command"]) == (FAILS, FAILS, "check")
    assert [question["holds"] for question in told["questions"]] == [False]
    assert told["questions"][0]["limits"][0]["figure"]["low"] < told["questions"][0]["limits"][0]["figure"]["high"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("question = 3\n" + FILE, "expected tables"),
        ("nmae = 'x'\n" + FILE, "scenario.toml:1: key = 'nmae'"),
        ('model = "Llama-3-8B"\n', "on = None"),
        ("model = [", "scenario.toml"),
        ("", "model = None"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(checked, text, told):
    code, printed = checked(text)
    assert code == BAD_INPUT
    assert told in printed.err


def test_there_are_22_walls_of_known_domains():
    assert [wall.number for wall in walls] == list(range(1, 23))
    assert {wall.domain for wall in walls} == set(DOMAINS)
    assert mlsysim.walls is walls
    assert walls.called("fidelity").number == 13
    with pytest.raises(UnknownNameError, match="did you mean 'Serving'"):
        walls.called("servng")


@pytest.mark.parametrize("wall", walls, ids=lambda wall: wall.name)
def test_every_wall_has_a_solver_with_an_anchor_or_says_why_not(wall):
    assert wall.solvers
    assert all(hasattr(getattr(mlsysim, solver), "solve") for solver in wall.solvers)
    assert wall.equation
    assert wall.source
    assert bool(wall.anchors) != bool(wall.no_anchor)
    assert not wall.no_anchor or (wall.no_anchor.endswith(".") and wall.no_anchor.count(". ") == 0)
    for anchor in wall.anchors:
        source = tomllib.loads((ROOT / "anchors" / f"{anchor}.toml").read_text("utf-8"))["source"]
        assert source["solver"] in wall.solvers, anchor
