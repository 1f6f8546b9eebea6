"""Coefficients that all devices and stacks share, read from ``shared.toml``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from mlsysim.calibration.siblings import line_of
from mlsysim.core.toml import packaged_toml, reads
from mlsysim.physics.training.step_inputs import SharedCoefficients

# How an entry came about. Those that measured steps decided are counted among a prediction's coefficients.
BASES = ("stated", "chosen", "fitted")
NAMES = tuple(field.name for field in fields(SharedCoefficients))


@reads("calibration", "shared.toml")
def shared_coefficients() -> SharedCoefficients:
    """The values of all shared coefficients.

    Example:
        >>> 0.5 < shared_coefficients().streaming < 1
        True
    """
    return SharedCoefficients(**{name: float(_table()[name]["value"]) for name in NAMES})


@reads("calibration", "shared.toml")
def runs_older_flash(device: str) -> bool:
    """True if FlashAttention-2 is slower than the vendor's own kernel on ``device``, or on a sibling of its vendor behind it.

    Example:
        >>> runs_older_flash("h100_sxm"), runs_older_flash("a100_sxm"), runs_older_flash("mi300x")
        (True, False, False)
    """
    hopper = _table()["flash_2_on_hopper"]["devices"]
    return any(relative in hopper for relative in line_of(device))


def with_usual(entry: Mapping[str, Any], shared: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entry of a stack with the coefficients that it names as usual, of those that ``shared`` has.

    Example:
        >>> with_usual({"usual": ["a", "b"], "b": 3.0}, {"a": 1.0, "b": 2.0, "c": 4.0})
        {'a': 1.0, 'b': 3.0, 'usual': ['a', 'b']}
    """
    return {**{part: shared[part] for part in entry.get("usual", ())}, **entry}


@reads("calibration", "shared.toml")
def shared_values() -> dict[str, float]:
    """The value of each entry of the file, by its name.

    Example:
        >>> 0 < shared_values()["host_layer_s"] < 0.01
        True
    """
    return {name: float(entry["value"]) for name, entry in _table().items()}


def fitted_names(usual: Iterable[str] = ()) -> tuple[str, ...]:
    """Names of the shared coefficients that measured steps decided, by a fit or by hand.

    Example:
        >>> "shared.launch_norm" in fitted_names(), "shared.host_layer_s" in fitted_names()
        (True, False)
    """
    return tuple(f"shared.{name}" for name in (*NAMES, *usual) if _table()[name]["basis"] != "stated")


@reads("calibration", "shared.toml")
def _table() -> dict[str, dict[str, Any]]:
    return packaged_toml("calibration", "shared.toml")
