"""``Models``: published workloads by kind.

Example:
    >>> Models.Language.Llama2_70B.kv_head_count
    8
    >>> Models.Vision.ResNet50.inference_flops.m_as("GFLOP")
    8.178
"""

from __future__ import annotations

import functools

from mlsysim.core.registry import Registry
from mlsysim.core.toml import packaged_toml
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

    def weight_format(self, name: str) -> str:
        """The number format of a checkpoint's weights, where its name says it; empty where it does not.

        Example:
            >>> Models.weight_format("Qwen/Qwen3-32B-FP8"), Models.weight_format("Qwen2.5-7B-Instruct-AWQ")
            ('fp8_block', 'awq')
            >>> Models.weight_format("Llama-3.1-8B")
            ''
        """
        told = self._store.names().qualifier(name, "format")
        return "" if told is None else _weight_formats()[told]

    def not_modelled(self, name: str) -> str:
        """What a transformer of this name would have to be, where its layers are of a kind that is not modelled; else empty.

        Example:
            >>> Models.not_modelled("Qwen/Qwen3-Next-80B-A3B-Instruct")
            'a transformer: most layers are linear attention (gated delta net)'
            >>> Models.not_modelled("Qwen/Qwen3-32B")
            ''
        """
        return self._store.left_out(name)


@functools.cache
def _weight_formats() -> dict[str, str]:
    listed: dict[str, str] = packaged_toml("models", "names.toml")["weight_formats"]
    return listed


Models = ModelRegistry()
