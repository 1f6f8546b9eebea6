"""Infrastructure: the type of an electricity grid, and ``Infra``, the registry of grids."""

from mlsysim.infra import types
from mlsysim.infra.registry import Infra
from mlsysim.infra.types import Grid, Site

__all__ = ["Grid", "Infra", "Site", "types"]
