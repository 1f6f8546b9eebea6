"""What is known of a cluster's coefficients before any run of it, and which runs would place each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlsysim.core.toml import packaged_toml, reads


@dataclass(frozen=True, slots=True)
class Prior:
    """How far a coefficient may be from its shipped value on another cluster.

    Attributes:
        width: a standard deviation in the coefficient's own unit, or of its logarithm where that is fitted.
        placed_by: which run would place it.
        of_cluster: it is calibrated of every stack and engine; else only where it is fitted of the shipped one.
    """

    width: float
    placed_by: str
    of_cluster: bool = False


@reads("fitting", "priors.toml")
def priors(kind: str) -> Mapping[str, Prior]:
    """The priors of the coefficients of a ``stack`` or an ``engine``, in the order in which they are written."""
    return {name: Prior(**entry) for name, entry in packaged_toml("fitting", "priors.toml")[kind].items()}
