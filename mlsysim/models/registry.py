"""``Models``: published workloads by kind.

Example:
    >>> Models.Language.Llama2_70B.kv_head_count
    8
    >>> Models.Vision.ResNet50.inference_flops.m_as("GFLOP")
    8.178
"""

from __future__ import annotations

from mlsysim.core.registry import Registry
from mlsysim.models.types import (
    CNNWorkload,
    DiffusionWorkload,
    RecommendationWorkload,
    StateSpaceWorkload,
    TransformerWorkload,
    Workload,
)


class ModelRegistry(Registry[Workload]):
    """Workloads: ``Language``, ``Vision``, ``Diffusion``, ``Recommendation``, ``StateSpace`` and ``Tiny``."""

    def __init__(self) -> None:
        super().__init__("models")
        self.Language = self.group("Language", TransformerWorkload)
        self.Vision = self.group("Vision", CNNWorkload)
        self.Diffusion = self.group("Diffusion", DiffusionWorkload)
        self.Recommendation = self.group("Recommendation", RecommendationWorkload)
        self.StateSpace = self.group("StateSpace", StateSpaceWorkload)
        self.Tiny = self.group("Tiny", CNNWorkload)


Models = ModelRegistry()
