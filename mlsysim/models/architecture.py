"""The shape of a transformer: its layers, heads, experts and embeddings, before anything is counted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import Field, StrictInt, model_validator

from mlsysim.core.errors import InconsistentError, NotModelledError
from mlsysim.core.provenance import Provenance
from mlsysim.core.quantities import Count
from mlsysim.core.spec import Spec
from mlsysim.core.units import in_unit

# Sizes of models: ten times what anybody has built.
MOST_LAYERS, MOST_WIDE = 10_000, 10**9


class MixtureOfExperts(Spec):
    """Expert layers of a transformer. ``shared_experts`` see every token; ``every`` = 2 alternates dense and expert layers."""

    experts: StrictInt = Field(ge=1, le=MOST_WIDE)
    experts_per_token: StrictInt = Field(ge=1, le=MOST_WIDE)
    ffn_hidden: StrictInt = Field(ge=1, le=MOST_WIDE)
    shared_experts: StrictInt = Field(default=0, ge=0)
    shared_ffn_hidden: StrictInt | None = Field(default=None, ge=1)
    first_dense_layers: StrictInt = Field(default=0, ge=0)
    every: StrictInt = Field(default=1, ge=1)

    @property
    def shared_width(self) -> int:
        """Width of all shared experts together."""
        each = self.ffn_hidden if self.shared_ffn_hidden is None else self.shared_ffn_hidden
        return self.shared_experts * each

    @model_validator(mode="after")
    def _routable(self) -> Self:
        if self.experts_per_token > self.experts:
            raise InconsistentError("experts_per_token", self.experts_per_token, f"at most the {self.experts} experts")
        return self


def expert_places(with_experts: Sequence[bool], name: str, stated: Any) -> tuple[int, int]:
    """``first_dense_layers`` and ``every`` of a model of which each layer says whether it has experts, as one at least does.

    Raises:
        NotModelledError: experts come and go otherwise.

    Example:
        >>> expert_places([False, True, True], "", ""), expert_places([False, True, False, True], "", "")
        ((1, 1), (0, 2))
    """
    layers, first = len(with_experts), with_experts.index(True)
    if all(with_experts[first:]):
        return first, 1
    for every in range(2, layers + 1):
        if all(has == ((number + 1) % every == 0) for number, has in enumerate(with_experts)):
            return 0, every
    raise NotModelledError(name, stated, "experts after dense layers, or in every n-th layer")


class LatentAttention(Spec):
    """Multi-head latent attention (DeepSeek-V2): keys and values from one compressed vector a token."""

    kv_lora_rank: StrictInt = Field(ge=1)
    q_lora_rank: StrictInt = Field(default=0, ge=0)
    nope_head_dim: StrictInt = Field(ge=1)
    rope_head_dim: StrictInt = Field(ge=0)
    v_head_dim: StrictInt = Field(ge=1)


class Workload(Spec):
    """Fields that all workloads have."""

    name: str = Field(min_length=1)
    architecture: str
    parameters: Count
    provenance: Provenance | None = None

    @cached_property
    def parameter_count(self) -> float:
        """Published parameters, as a plain number."""
        return in_unit(self.parameters, "count")

    @property
    def kind(self) -> str:
        """What measurements are told apart by: the architecture."""
        return self.architecture


class Architecture(Workload):
    """The fields of a transformer that its parameters, its work and its memory are counted from."""

    layers: StrictInt = Field(ge=1, le=MOST_LAYERS)
    hidden_dim: StrictInt = Field(ge=1, le=MOST_WIDE)
    heads: StrictInt = Field(ge=1, le=MOST_WIDE)
    kv_heads: StrictInt | None = Field(default=None, ge=1)
    head_dim: StrictInt | None = Field(default=None, ge=1)
    ffn_hidden: StrictInt | None = Field(default=None, ge=1, le=MOST_WIDE)
    ffn_matrices: Literal[2, 3] = 2
    vocab_size: StrictInt = Field(default=0, ge=0)
    tied_embeddings: bool = False
    positions: StrictInt = Field(default=0, ge=0)
    bias: bool = False
    qkv_bias: bool = False
    relative_positions: bool = False
    parallel_block: bool = False
    causal: bool = True
    sliding_window: StrictInt | None = Field(default=None, ge=1)
    full_attention_every: StrictInt | None = Field(default=None, ge=1)
    embedding_dim: StrictInt | None = Field(default=None, ge=1)
    cross_attention_layers: StrictInt = Field(default=0, ge=0)
    prediction_layers: StrictInt = Field(default=0, ge=0)
    max_seq_len: StrictInt | None = Field(default=None, ge=1)
    moe: MixtureOfExperts | None = None
    mla: LatentAttention | None = None
    training_tokens: Count | None = None
    weight_format: str = ""
    expert_format: str = ""

    @property
    def kind(self) -> str:
        """What measurements are told apart by: "moe" with experts, else "dense"."""
        return "dense" if self.moe is None else "moe"

    @property
    def kv_head_count(self) -> int:
        """The number of key/value heads: ``heads`` unless grouped-query attention says fewer."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def head_width(self) -> int:
        """Elements of one head."""
        return self.hidden_dim // self.heads if self.head_dim is None else self.head_dim

    @property
    def windowed_layers(self) -> int:
        """The number of layers whose attention sees no further back than ``sliding_window``."""
        if self.sliding_window is None:
            return 0
        return self.layers - (self.layers // self.full_attention_every if self.full_attention_every else 0)
