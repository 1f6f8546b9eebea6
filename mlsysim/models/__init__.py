"""Workloads: their types, how their parameters are counted, and ``Models``, the registry of published ones."""

from mlsysim.models import types
from mlsysim.models.registry import Models
from mlsysim.models.types import (
    CNNWorkload,
    DiffusionWorkload,
    LatentAttention,
    MixtureOfExperts,
    RecommendationWorkload,
    StateSpaceWorkload,
    TransformerWorkload,
    Workload,
)

__all__ = [
    "CNNWorkload",
    "DiffusionWorkload",
    "LatentAttention",
    "MixtureOfExperts",
    "Models",
    "RecommendationWorkload",
    "StateSpaceWorkload",
    "TransformerWorkload",
    "Workload",
    "types",
]
