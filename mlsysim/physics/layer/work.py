"""The work of a model as plain numbers: what one layer computes, keeps, and sends.

A convolutional network is one layer with one "token" a sample, no attention and no head.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.physics.numeric import Num, where

# Recomputation modes, cheapest in time first.
NONE, SELECTIVE, FULL = 0, 1, 2
RECOMPUTE_MODES = ("none", "selective", "full")

# Bytes of a logit: 16-bit, and the fp32 copy of the loss.
LOGIT_B = 2.0 + 4.0

# A backward pass is two matrix products (input and weight gradients) for each one of the forward pass.
BACKWARD_OVER_FORWARD = 2.0


@dataclass(frozen=True, slots=True)
class LayeredWork:
    """One model at one sequence length. Figures per token are those of the forward pass; bytes assume 16-bit activations.

    Attributes:
        layers: number of blocks.
        tokens_per_sample: sequence length (1 for images).
        matmul_flops: one layer's FLOP per token in the weights that the token passes through.
        attention_flops: FLOP of one layer's scores and values per token, the causal half only where causal.
        full_attention_flops: FLOP of scores and values without the causal discount (PaLM's convention).
        head_flops: FLOP of the output head per token.
        layer_parameters: parameters of one layer, routed experts left out (mean over layers).
        undivided_parameters: those of them that every tensor-parallel rank has whole.
        expert_parameters: parameters of all routed experts of one layer (mean over layers).
        embedding_parameters, head_parameters: parameters at the first and last stage; a tied head is counted in both.
        tied_parameters: how many of those are one and the same where both stages share a rank.
        kept_split_B: activations kept per token and layer that tensor parallelism divides.
        kept_residual_B: activations kept per token and layer that only sequence parallelism divides.
        selective_split_B, selective_residual_B: both kinds where selective recomputation repeats the rest.
        boundary_B: bytes of one residual vector: what full recomputation keeps, pipelines send and TP reduces.
        logits: logits of one token: as many as the vocabulary has entries.
        ffn_elements: width of the feed-forward block, the chosen experts' together (mean over layers).
        scores: attention scores of one token, all heads.
        routed_copies: expert copies of a token (0 without experts).
        reductions: tensor-parallel all-reduces of a layer's forward pass (1 for parallel blocks, else 2).
        key_value_B: bytes that one token's keys and values pass around a ring of context-parallel ranks.
        frozen: 1.0 where only adapters are trained (LoRA), else 0.0.
        adapter_parameters: parameters of one layer's adapters, on top of its own.
    """

    layers: float
    tokens_per_sample: float
    matmul_flops: float
    attention_flops: float
    full_attention_flops: float
    head_flops: float
    layer_parameters: float
    undivided_parameters: float
    expert_parameters: float
    embedding_parameters: float
    head_parameters: float
    tied_parameters: float
    kept_split_B: float
    kept_residual_B: float
    selective_split_B: float
    selective_residual_B: float
    boundary_B: float
    logits: float
    ffn_elements: float
    scores: float
    routed_copies: float
    reductions: float
    key_value_B: float
    frozen: float
    adapter_parameters: float

    @property
    def logits_B(self) -> float:
        """Bytes of one token's logits and their fp32 copy."""
        return LOGIT_B * self.logits

    @property
    def parameters(self) -> float:
        """All parameters of the model, a tied head counted once."""
        body = self.layers * (self.layer_parameters + self.expert_parameters)
        return body + self.embedding_parameters + self.head_parameters - self.tied_parameters

    @property
    def layer_flops(self) -> float:
        """Forward FLOP of one layer, per token."""
        return self.matmul_flops + self.attention_flops

    @property
    def training_flops(self) -> float:
        """Model FLOP of one token's forward and backward pass (no recomputation): the numerator of MFU."""
        return self._trained(self.attention_flops)

    @property
    def trained_layer_flops(self) -> float:
        """FLOP of one layer's forward and backward pass, per token."""
        return self._trained_layer(self.attention_flops)

    @property
    def training_flops_full_attention(self) -> float:
        """Model FLOP of one token's forward and backward pass with non-causal attention (Chowdhery et al. 2022, appendix B)."""
        return self._trained(self.full_attention_flops)

    def _trained(self, attention_flops: float) -> float:
        # Frozen weights have input gradients alone.
        head = (1 + BACKWARD_OVER_FORWARD - self.frozen) * self.head_flops
        return self.layers * self._trained_layer(attention_flops) + head

    def _trained_layer(self, attention_flops: float) -> float:
        products = (1 + BACKWARD_OVER_FORWARD - self.frozen) * self.matmul_flops
        adapters = 2 * (1 + BACKWARD_OVER_FORWARD) * self.adapter_parameters
        return products + adapters + (1 + BACKWARD_OVER_FORWARD) * attention_flops


def recomputed_flops(work: LayeredWork, recompute: Num) -> Num:
    """Forward FLOP per token and layer that the backward pass repeats.

    Selective repeats the attention core (activation functions and norms have no matrix products); full repeats the layer.
    """
    return where(recompute == FULL, work.layer_flops, where(recompute == SELECTIVE, work.attention_flops, 0.0))


def kept_activation_B(work: LayeredWork, recompute: Num, tp: Num, sequence_parallel: Num) -> Num:
    """Activation bytes that one token leaves on one rank of a layer for the backward pass.

    Source: Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models", 2022, table 2 (here
    without dropout, and with attention that stores no scores).
    """
    residual_ranks = where(sequence_parallel, tp, 1.0)
    unrepeated = work.kept_split_B / tp + work.kept_residual_B / residual_ranks
    selective = work.selective_split_B / tp + work.selective_residual_B / residual_ranks
    return where(recompute == FULL, work.boundary_B / residual_ranks, where(recompute == SELECTIVE, selective, unrepeated))
