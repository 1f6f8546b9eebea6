"""Energy of a fleet and what it emits.

Source: Patterson et al., "Carbon Emissions and Large Neural Network Training", 2021, section 2.
"""

from __future__ import annotations

from mlsysim.physics.numeric import Num


def facility_energy_J(power_W: Num, duration_s: Num, pue: Num) -> Num:
    """Joules that the meter of the building reads: E = P t PUE.

    Example:
        >>> round(facility_energy_J(10_000 * 330.0, 14.8 * 86400, 1.10) / 3.6e9)
        1289
    """
    return power_W * duration_s * pue


def emissions_g(energy_J: Num, intensity_g_per_J: Num) -> Num:
    """Grams of CO2 equivalent that ``energy_J`` emits at a grid's intensity.

    Example:
        >>> round(emissions_g(1287 * 3.6e9, 429 / 3.6e6) / 1e6)
        552
    """
    return energy_J * intensity_g_per_J


def water_L(energy_J: Num, litres_per_kWh: Num) -> Num:
    """Litres of water for ``energy_J``: on site per energy of the equipment, at the source per energy at the meter.

    Example:
        >>> water_L(3.6e6 * 10, 1.15)
        11.5
    """
    return energy_J / 3.6e6 * litres_per_kWh


def embodied_g(each_g: Num, accelerators: Num, duration_s: Num, lifetime_s: Num) -> Num:
    """Grams of what making accelerators emitted that fall on a run: by its share of their lifetime.

    Example:
        >>> embodied_g(150e3, 384, 100.0, 1000.0)
        5760000.0
    """
    return each_g * accelerators * duration_s / lifetime_s
