"""Money that a run takes: hire, or capital over its life with electricity and staff.

Source: Cottier et al., "The Rising Costs of Training Frontier AI Models", 2024, arXiv:2405.21015, section 2 (amortised
hardware, energy and staff).
"""

from __future__ import annotations

from mlsysim.physics.numeric import Num

YEAR_HOURS = 8760.0
_KWH_J = 3.6e6


def hire_usd(accelerator_hours: Num, usd_per_hour: Num) -> Num:
    """Dollars of hired accelerators.

    Example:
        >>> round(hire_usd(226.75 * 8 * 24, 2.0))
        87072
    """
    return accelerator_hours * usd_per_hour


def capital_usd(accelerator_hours: Num, capex_usd: Num, years: Num, utilization: Num = 1.0) -> Num:
    """Dollars of what accelerators cost to buy, spread evenly over the hours that they are used in their years.

    Example:
        >>> capital_usd(8760.0, 40_000.0, 4.0), capital_usd(8760.0, 40_000.0, 4.0, 0.5)
        (10000.0, 20000.0)
    """
    return accelerator_hours * capex_usd / (years * YEAR_HOURS * utilization)


def electricity_usd(energy_J: Num, usd_per_kWh: Num) -> Num:
    """Dollars of energy at the meter.

    Example:
        >>> electricity_usd(3.6e9, 0.09)
        90.0
    """
    return energy_J / _KWH_J * usd_per_kWh
