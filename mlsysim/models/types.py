"""Types of workloads: transformers by architecture, others by their operation count."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Self

from pydantic import Field, StrictInt, model_validator

from mlsysim.core.errors import InconsistentError
from mlsysim.core.quantities import Count, Flops
from mlsysim.core.units import in_unit, with_unit
from mlsysim.models import parameters as counting
from mlsysim.models.architecture import MOST_LAYERS, MOST_WIDE, Architecture, LatentAttention, MixtureOfExperts, Workload
from mlsysim.models.layers import layer_shape
from mlsysim.physics.layer.shape import LayerShape

__all__ = [
    "CNNWorkload",
    "DiffusionWorkload",
    "LatentAttention",
    "MixtureOfExperts",
    "RecommendationWorkload",
    "StateSpaceWorkload",
    "TransformerWorkload",
    "Workload",
]

# Published counts are often nominal ("1.3B" for 1.316e9): beyond this they name another architecture.
PARAMETER_TOLERANCE = 0.10


class TransformerWorkload(Architecture):
    """A transformer. Without ``ffn_hidden`` the feed-forward width is solved from ``parameters``.

    ``sliding_window`` holds in all layers, or, given ``full_attention_every`` = n, in all but every n-th.
    ``prediction_layers`` are trained with it beyond ``layers`` to predict further tokens, each with its own pass through the
    output head; ``parameters`` leaves them out.
    ``weight_format`` is the number format of its published weights, where it is none of 16 bits, and ``expert_format`` that of
    its routed experts, where only these have one of their own.
    ``embedding_dim`` is the width of the token embeddings where it is projected to ``hidden_dim`` (OPT-350M).
    ``parameters`` may differ from the count of the architecture by ``parameter_tolerance``; ``parameter_note`` says why.

    Example:
        >>> llama = TransformerWorkload(name="Llama-3 405B", parameters="405e9 count", layers=126, hidden_dim=16384, heads=128)
        >>> llama.kv_head_count, llama.ffn_width
        (128, 65323)
        >>> TransformerWorkload(name="typo", parameters="70 count", layers=80, hidden_dim=8192, heads=64)
        Traceback (most recent call last):
        mlsysim.core.errors.InconsistentError: parameters = 70 count: expected more than the 2.15e+10 of 80 layers of \
attention at hidden_dim 8192 and vocab_size 0
    """

    architecture: str = "Transformer"
    parameter_note: str = ""
    parameter_tolerance: float = Field(default=PARAMETER_TOLERANCE, gt=0, lt=1)

    @classmethod
    def of_architecture(cls, **fields: Any) -> Self:
        """A workload whose parameters are counted from its other fields (``ffn_hidden`` must be given).

        Example:
            >>> model = TransformerWorkload.of_architecture(
            ...     name="GPT", layers=24, hidden_dim=2048, heads=16, ffn_hidden=8192, vocab_size=51200, tied_embeddings=True
            ... )
            >>> f"{model.parameter_count:.3g}"
            '1.31e+09'
        """
        uncounted = cls.model_construct(**fields)
        return cls(**fields, parameters=with_unit(counting.total_parameters(uncounted, fields["ffn_hidden"]), "count"))

    @cached_property
    def ffn_width(self) -> int:
        """Width of the dense feed-forward blocks, given or solved from ``parameters``."""
        if self.ffn_hidden is not None:
            return self.ffn_hidden
        return round(counting.solved_ffn_width(self, self.parameter_count))

    @cached_property
    def layer_shape(self) -> LayerShape:
        """Its layers as plain numbers: what training, serving, memory and bounds go by."""
        return layer_shape(self, float(self.ffn_width))

    @cached_property
    def computed_parameters(self) -> float:
        """Parameters counted from the architecture."""
        return counting.total_parameters(self, self.ffn_width)

    @cached_property
    def active_parameters(self) -> float:
        """Parameters one token passes through (all of them unless there are experts)."""
        return counting.active_parameters(self, self.ffn_width)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.head_dim is None and self.hidden_dim % self.heads:
            raise InconsistentError("heads", self.heads, f"a divisor of hidden_dim {self.hidden_dim}, or head_dim given")
        if self.heads % self.kv_head_count:
            raise InconsistentError("kv_heads", self.kv_heads, f"a divisor of the {self.heads} heads")
        if self.ffn_hidden is None:
            if self.ffn_width < 1:
                least = counting.total_parameters(self, 0.0)
                expected = (
                    f"more than the {least:.3g} of {self.layers} layers of attention at hidden_dim {self.hidden_dim}"
                    f" and vocab_size {self.vocab_size}"
                )
                raise InconsistentError("parameters", self.parameters, expected)
        elif abs(self.computed_parameters / self.parameter_count - 1) > self.parameter_tolerance:
            expected = f"within {self.parameter_tolerance:.0%} of the {self.computed_parameters:.4g} count of its layers"
            raise InconsistentError("parameters", self.parameters, expected)
        return self


class CNNWorkload(Workload):
    """A network known by its forward operation count per sample (2 FLOP a multiply-accumulate).

    ``activations`` is the number of stored feature-map elements of one sample's forward pass, where known.

    Example:
        >>> resnet = CNNWorkload(name="ResNet-50", parameters="25.6e6 count", inference_flops="8.2 GFLOP")
        >>> f"{resnet.forward_flops:.2e}"
        '8.20e+09'
    """

    architecture: str = "CNN"
    inference_flops: Flops
    activations: Count | None = None
    input_shape: str = ""

    @cached_property
    def forward_flops(self) -> float:
        """FLOP of one sample's forward pass."""
        return in_unit(self.inference_flops, "flop")


class DiffusionWorkload(CNNWorkload):
    """A diffusion network; ``inference_flops`` is one denoising step."""

    architecture: str = "Diffusion"


class RecommendationWorkload(CNNWorkload):
    """A recommender: embedding tables and small dense layers; ``inference_flops`` is the dense part of one sample."""

    architecture: str = "Recommendation"


class StateSpaceWorkload(Workload):
    """A state-space model (Mamba)."""

    architecture: str = "StateSpace"
    layers: StrictInt = Field(ge=1, le=MOST_LAYERS)
    hidden_dim: StrictInt = Field(ge=1, le=MOST_WIDE)
    inner_dim: StrictInt = Field(ge=1, le=MOST_WIDE)
    state_dim: StrictInt = Field(default=16, ge=1)
    vocab_size: StrictInt = Field(default=0, ge=0)
    training_tokens: Count | None = None
