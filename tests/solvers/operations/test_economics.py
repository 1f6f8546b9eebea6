"""Money, carbon and water of fleets and runs: by hand, with whose prices and which carbon they are, and what is refused."""

from __future__ import annotations

import pytest

from mlsysim import (
    EconomicsModel,
    Fleet,
    Hardware,
    InputError,
    Models,
    PowerModel,
    ServingModel,
    SustainabilityModel,
    Systems,
)

H100, TPU = Hardware.Cloud.H100, Hardware.Cloud.TPUv3
FLEET = Fleet(name="16 H100", node=Systems.Nodes.DGX_H100, count=2)


@pytest.fixture(scope="module")
def run():
    load = {"input_len": 512, "output_len": 256, "batch_size": 32, "stack": "vllm-2025", "replicas": 4}
    return ServingModel().solve(Models.Language.Llama3_8B, H100, **load)


def test_hire_is_hours_times_price_and_says_whose():
    own = EconomicsModel().solve(FLEET, duration_days=2, price="3 USD/hour")
    assert own.cost.m_as("USD") == pytest.approx(16 * 48 * 3)
    assert (own.cost_per_hour.m_as("USD/hour"), own.price_basis) == (pytest.approx(48), "the caller's")
    known = EconomicsModel().solve(H100, duration_days=1)
    assert known.cost.m_as("USD") == pytest.approx(24 * 3.62)
    assert "2025" in known.price_basis
    assert known.price_basis in str(known), "the card prints the date"
    assert EconomicsModel().solve(H100, accelerator_hours=24, price="3.62 USD/hour").cost == known.cost


def test_owning_is_capital_electricity_and_staff():
    """A year of 4 is a quarter of 40,000 dollars; 1 kW at a PUE of 1.5 for 8,760 hours is 13,140 kWh."""
    asked = {"capex": "40000 USD", "amortization_years": 4, "power": "1 kW", "electricity_price": "0.1 USD/kWh", "pue": 1.5}
    year = EconomicsModel().solve(H100, accelerator_hours=8760, staff="3 USD/hour", **asked)
    parts = {name: part.m_as("USD") for name, part in year.breakdown.items()}
    assert parts == {"capital": pytest.approx(10_000), "electricity": pytest.approx(1314), "staff": pytest.approx(3 * 8760)}
    half = EconomicsModel().solve(H100, accelerator_hours=8760, utilization=0.5, **asked)
    assert half.breakdown["capital"].m_as("USD") == pytest.approx(20_000)
    assert "released in 2022" in EconomicsModel().solve(H100, duration_days=1, amortization_years=4).price_basis


def test_a_million_tokens_of_a_run(run):
    day = EconomicsModel().solve(run, duration_days=1, price="2 USD/hour")
    tokens = run.tokens_per_second.m_as("count/second") * 86400
    assert day.cost.m_as("USD") == pytest.approx(4 * 24 * 2)
    assert day.cost_per_million_tokens.m_as("USD") == pytest.approx(4 * 24 * 2 / tokens * 1e6)
    paid = EconomicsModel().solve(run, duration_days=1, amortization_years=4, electricity_price="0.1 USD/kWh")
    watts = PowerModel().solve(run).system_power.m_as("W")
    assert paid.breakdown["electricity"].m_as("USD") == pytest.approx(watts * 24 / 1e3 * 0.1)


def test_carbon_of_a_run_by_place_and_by_contract(run):
    asked = {"duration_days": 10, "pue": 1.25, "grid": "400 gCO2e/kWh"}
    answer = SustainabilityModel().solve(run, **asked, market="100 gCO2e/kWh", wue="1.5 L/kWh", source_wue="4 L/kWh")
    kwh = PowerModel().solve(run).system_power.m_as("kW") * 240
    assert answer.energy.m_as("kWh") == pytest.approx(1.25 * kwh)
    assert (answer.carbon_basis, answer.carbon.m_as("gCO2e")) == ("location-based", pytest.approx(500 * kwh))
    assert answer.market_carbon.m_as("gCO2e") == pytest.approx(125 * kwh)
    assert answer.water_on_site.m_as("liter") == pytest.approx(1.5 * kwh), "by the equipment's energy"
    assert answer.water_at_source.m_as("liter") == pytest.approx(4 * 1.25 * kwh), "by the meter's"
    limited = SustainabilityModel().solve(PowerModel().solve(run, power_limit="400 W"), **asked)
    assert limited.energy < answer.energy


def test_embodied_carbon_is_a_share_of_a_lifetime(run):
    asked = {"duration_days": 365, "grid": "0 gCO2e/kWh"}
    answer = SustainabilityModel().solve(run, **asked, embodied="200 kgCO2e", lifetime_years=4)
    assert answer.embodied_carbon.m_as("kgCO2e") == pytest.approx(4 * 50)
    assert SustainabilityModel().solve(run, **asked).embodied_carbon is None


def test_a_chip_whose_runs_were_metered_is_not_at_its_tdp():
    fleet = Fleet(name="4 TPU v3", node=Systems.Nodes.DGX_H100.model_copy(update={"accelerator": TPU}), count=1)
    answer = SustainabilityModel().solve(fleet, duration_days=1, grid="0 gCO2e/kWh")
    assert answer.mean_power.m_as("W") / 8 < TPU.tdp.m_as("W")
    assert "meters" in answer.diagnostics[-1]


@pytest.mark.parametrize(
    ("given", "argument"),
    [
        ({}, "duration_days"),
        ({"duration_days": 1, "accelerator_hours": 24}, "accelerator_hours"),
        ({"duration_days": 1, "price": "-2 USD/hour"}, "price"),
        ({"duration_days": 1, "price": "2 USD/hour", "capex": "1 USD"}, "capex"),
        ({"duration_days": 1, "price": "2 USD/hour", "amortization_years": 4}, "price"),
        ({"duration_days": 1, "amortization_years": 4, "electricity_price": "0.1 USD/kWh"}, "power"),
        ({"duration_days": 1, "amortization_years": 4, "utilization": 1.5}, "utilization"),
        ({"duration_days": 1, "amortization_years": 4, "power": "1 kW", "pue": 0.5}, "pue"),
        ({"duration_days": 1, "accelerators": 0}, "accelerators"),
    ],
)
def test_economics_refuses(given, argument):
    with pytest.raises(InputError) as caught:
        EconomicsModel().solve(H100, **given)
    assert caught.value.argument == argument


def test_no_device_has_the_price_of_another():
    with pytest.raises(InputError, match="no rents of TPU v5p are known"):
        EconomicsModel().solve(Hardware.get("tpu_v5p"), duration_days=1)


@pytest.mark.parametrize(
    ("given", "argument"),
    [
        ({"market": "-1 gCO2e/kWh"}, "market"),
        ({"embodied": "1 kgCO2e"}, "lifetime_years"),
        ({"lifetime_years": 4}, "embodied"),
        ({"embodied": "1 kgCO2e", "lifetime_years": 0.001}, "lifetime_years"),
        ({"wue": "-1 L/kWh"}, "wue"),
        ({"source_wue": "1 kWh"}, "source_wue"),
    ],
)
def test_sustainability_refuses(given, argument):
    with pytest.raises(InputError) as caught:
        SustainabilityModel().solve(FLEET, duration_days=1, grid="400 gCO2e/kWh", **given)
    assert caught.value.argument == argument


def test_a_bound_has_no_carbon():
    run = ServingModel().solve(Models.Language.Llama3_8B, H100, input_len=512)
    with pytest.raises(InputError, match="power is known"):
        SustainabilityModel().solve(run, duration_days=1, grid="400 gCO2e/kWh")
