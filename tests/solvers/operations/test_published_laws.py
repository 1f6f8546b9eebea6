"""Published figures of scaling laws, energy and carbon, by hand."""

from __future__ import annotations

import pytest

from mlsysim.core.units import Q_
from mlsysim.physics.operations.energy import emissions_g, facility_energy_J
from mlsysim.physics.operations.scaling import compute_optimal_parameters


@pytest.mark.parametrize(
    ("budget", "billions", "billion_tokens"),
    [(1.92e19, 0.4, 8.0), (1.21e20, 1, 20.2), (1.23e22, 10, 205.1), (5.76e23, 67, 1500), (3.85e24, 175, 3700)],
)
def test_chinchilla(budget, billions, billion_tokens):
    """Hoffmann et al. 2022, table 3, against the rule of 20 tokens a parameter: within 5 %."""
    parameters = compute_optimal_parameters(budget)
    assert parameters / 1e9 == pytest.approx(billions, rel=0.05)
    assert 20 * parameters / 1e9 == pytest.approx(billion_tokens, rel=0.08)
    assert compute_optimal_parameters(budget, 5.0) == pytest.approx(2 * parameters)


@pytest.mark.parametrize(
    ("chips", "watts", "days", "pue", "megawatt_hours"),
    [
        (10_000, 330, 14.8, 1.10, 1287),  # GPT-3 on V100
        (1024, 289, 30, 1.09, 232),  # Meena on TPUv3
        (1024, 245, 27, 1.10, 179),  # Switch Transformer
        (1024, 288, 3.1, 1.09, 24.1),  # GShard 600B
        (512, 310, 20, 1.12, 85.7),  # T5
    ],
)
def test_patterson_energy(chips, watts, days, pue, megawatt_hours):
    """Patterson et al. 2021, table 4: accelerators x mean power x time x PUE."""
    joules = facility_energy_J(chips * watts, days * 86400, pue)
    assert Q_(joules, "J").m_as("MWh") == pytest.approx(megawatt_hours, rel=0.01)


def test_patterson_carbon():
    """Patterson et al. 2021, table 4: 1287 MWh at 0.429 kg/kWh are 552 t."""
    assert emissions_g(1287 * 3.6e9, 429 / 3.6e6) / 1e6 == pytest.approx(552, rel=1e-3)
