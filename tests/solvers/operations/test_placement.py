"""Where and when to run, and on which fleet: exhaustive, exact, and refusing what it cannot answer."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsysim import (
    Fleet,
    FleetOptimizer,
    Grid,
    InputError,
    Models,
    ParallelismOptimizer,
    PlacementOptimizer,
    Site,
    Systems,
)

FLEET = Fleet(name="2 nodes", node=Systems.Nodes.DGX_H100, count=2)
POWER = {"accelerator_power": "1 kW"}
prices = st.lists(st.floats(0, 1), min_size=4, max_size=9)


def site(name="here", carbon=400, price=0.1, **more):
    grid = Grid(name=name, carbon_intensity=f"{carbon} gCO2e/kWh")
    return Site(name=name, grid=grid, electricity_price=f"{price} USD/kWh", **more)


def hourly(values, unit):
    return tuple(f"{value} {unit}" for value in values)


def place(*sites, **asked):
    return PlacementOptimizer().solve(FLEET, **{"duration_hours": 3, "sites": sites, **POWER, **asked})


def test_the_bill_is_hire_electricity_and_tax():
    found = place(site(accelerator_price="2 USD/hour", pue=1.5), carbon_tax="100 USD/tCO2e")
    energy_kWh = 16 * 1.0 * 1.5 * 3
    parts = {name: part.m_as("USD") for name, part in found.breakdown.items()}
    assert parts == pytest.approx({"hire": 16 * 2 * 3, "electricity": energy_kWh * 0.1, "tax": energy_kWh * 0.4 / 1000 * 100})
    assert found.cost.m_as("USD") == pytest.approx(sum(parts.values()))
    assert found.carbon.m_as("kgCO2e") == pytest.approx(energy_kWh * 0.4)
    assert found.binding == "hire"


@given(prices, prices, st.floats(0.5, 4))
def test_no_other_hour_or_site_is_cheaper(first, second, hours):
    sites = [site("a", hourly_price=hourly(first, "USD/kWh")), site("b", hourly_price=hourly(second, "USD/kWh"))]
    found = place(*sites, duration_hours=hours)
    bills = {}
    for name, series in (("a", first), ("b", second)):
        for start in range(len(series) - int(np.ceil(hours)) + 1):
            shares = [max(0.0, min(1.0, hours - hour)) for hour in range(len(series) - start)]
            bills[name, start] = 16 * sum(share * price for share, price in zip(shares, series[start:], strict=True))
    assert found.cost.m_as("USD") == pytest.approx(min(bills.values()), abs=1e-9)
    assert bills[found.best_site, found.start_hour] == pytest.approx(min(bills.values()), abs=1e-9)
    assert found.total_searched == len(bills)


def test_a_tax_moves_the_job_and_carbon_can_be_the_goal():
    coal, hydro = site("coal", 820, 0.05), site("hydro", 24, 0.08)
    assert place(coal, hydro).best_site == "coal"
    assert place(coal, hydro, carbon_tax="100 USD/tCO2e").best_site == "hydro"
    assert place(coal, hydro, objective="carbon").best_site == "hydro"


def test_a_deadline_is_kept():
    series = hourly([9, 9, 9, 9, 1, 1, 1, 1], "USD/kWh")
    assert place(site(hourly_price=series)).start_hour == 4
    assert place(site(hourly_price=series), latest_end_hour=6).start_hour == 3
    with pytest.raises(InputError, match="duration_hours"):
        place(site(hourly_price=series), duration_hours=9)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"sites": ()}, "sites"),
        ({"sites": ("north",)}, "Infra.Grids has no 'north'"),
        ({"sites": (3,)}, "sites"),
        ({"duration_hours": 0}, "duration_hours"),
        ({"carbon_tax": "-1 USD/tCO2e"}, "carbon_tax"),
        ({"objective": "speed"}, "objective"),
        ({"latest_end_hour": -1}, "latest_end_hour"),
    ],
)
def test_bad_input_is_named(asked, says):
    with pytest.raises(InputError, match=says):
        PlacementOptimizer().solve(FLEET, **{"duration_hours": 3, "sites": (site(),), **POWER, **asked})


def test_hours_of_price_and_carbon_agree():
    with pytest.raises(InputError, match="hourly_carbon"):
        site(hourly_price=hourly([1, 2], "USD/kWh"), hourly_carbon=hourly([1], "gCO2e/kWh"))


def fleets(*counts):
    return [Fleet(name=f"{count} nodes", node=Systems.Nodes.DGX_H100, count=count) for count in counts]


def test_each_model_gets_the_fleet_that_is_best_for_it():
    models = [Models.Language.Llama3_8B, Models.Language.Llama3_70B]
    search = {"efficiency": 0.4}
    found = FleetOptimizer().solve(models, fleets(2, 8), batch_size=64, search=search)
    assert found.best == {model.name: "8 nodes" for model in models}
    for model, fleet in itertools.product(models, fleets(2, 8)):
        alone = ParallelismOptimizer().solve(model, fleet, batch_size=64, **search)
        assert found.results[model.name, fleet.name] == alone
    cheap = {"2 nodes": "1 USD/hour", "8 nodes": "5 USD/hour"}
    money = FleetOptimizer().solve(
        models[:1], fleets(2, 8), batch_size=64, prices=cheap, objective="tokens_per_dollar", search=search
    )
    assert money.best == {models[0].name: "2 nodes"}
    assert [row["fleet"] for row in money.rows] == ["2 nodes", "8 nodes"]


def test_a_model_that_fits_nowhere_is_said_first():
    models = [Models.Language.Llama3_8B, Models.Language.Llama3_405B]
    found = FleetOptimizer().solve(models, fleets(2), batch_size=64, search={"efficiency": 0.4})
    assert not found.feasible
    assert "Llama-3.1-405B" in found.reason
    assert found.rows[-1]["reason"].startswith("none of")


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"workloads": []}, "workloads"),
        ({"fleets": fleets(2, 2)}, "fleets"),
        ({"prices": {"2 nodes": "1 USD/hour"}}, "prices"),
        ({"batch_size": {}}, "batch_size"),
        ({"objective": "fame"}, "objective"),
    ],
)
def test_bad_questions_are_named(asked, says):
    given = {"workloads": [Models.Language.Llama3_8B], "fleets": fleets(2), "batch_size": 64, **asked}
    with pytest.raises(InputError, match=says):
        FleetOptimizer().solve(given.pop("workloads"), given.pop("fleets"), **given)
