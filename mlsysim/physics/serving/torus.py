"""Passes of a transformer whose layers all chips of a torus share, in the layout that sends least for the tokens of the pass.

Attention is divided by heads, or, where the engine can, by sequences: with one key head for all query heads (multi-query)
division by heads leaves each chip the whole cache to read.

Source: Pope et al., "Efficiently Scaling Transformer Inference", 2022, arXiv:2211.05102, sections 3.2 (feed-forward) and 3.3
(attention).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

from mlsysim.physics.numeric import Num, maximum, minimum, somewhere, where
from mlsysim.physics.serving.activations import elementwise_layer_s
from mlsysim.physics.serving.deployment import (
    EngineCoefficients,
    EngineKernels,
    ServedModel,
    ServingKernels,
    ServingShape,
    Shards,
)
from mlsysim.physics.serving.passes import PassTime, decode_layer_attention_s, prefill_layer_attention_s
from mlsysim.physics.serving.products import Product, product_s, scaled
from mlsysim.physics.serving.schedule import Step
from mlsysim.physics.serving.torus_partition import Divided, Torus, divided, exchange_s


@dataclass(frozen=True, slots=True)
class TorusDeployment:
    """A dense model on a torus. ``by_sequence``: attention may be divided by sequences; ``pp``: tori in a row."""

    shape: ServingShape
    torus: Torus
    pp: Num
    by_sequence: bool
    kernels: ServingKernels
    engine: EngineCoefficients
    has: EngineKernels
    step_tokens: Num

    def layout(self, tokens: Num) -> Divided:
        """Of a pass over ``tokens`` tokens."""
        shape = self.shape
        into = (shape.ffn_matrices - 1) * shape.ffn + shape.qkv_width
        out = shape.ffn + shape.attention_width
        args = (shape.hidden, shape.ffn, into, out, shape.reductions, self.kernels.weight_B)
        return divided(self.torus, tokens, *args)

    def decode(self, batch: Num, context: Num) -> PassTime:
        """One token of each of ``batch`` sequences that hold ``context`` tokens."""
        share = maximum(batch / self.pp, minimum(batch, 1.0))

        def attention_s(shards: Shards, sequences: Num) -> Num:
            return decode_layer_attention_s(self._divided(shards), sequences, context) / self.engine.attention_share

        return self._pass(share, share, self._attention(share, share, attention_s), batch)

    def prefill(self, batch: Num, prompt: Num) -> PassTime:
        """The prompts of ``batch`` sequences, to their first token."""
        parts = minimum(self.pp, maximum(batch, 1.0))
        share = batch / parts
        whole = self._pass(share * prompt, share, self._prompts(share, prompt), batch)
        filled = (parts + self.pp - 1) / self.pp
        return replace(
            whole,
            weights_s=whole.weights_s * filled,
            attention_s=whole.attention_s * filled,
            elementwise_s=whole.elementwise_s * filled,
            reductions_s=whole.reductions_s * filled,
            host_s=whole.host_s + self.engine.request_s,
        )

    def prefill_s(self, batch: Num, prompt: Num) -> Num:
        """All parts of it."""
        return self.prefill(batch, prompt).total_s

    def joining_s(self, step: Step, batch: Num, prompt: Num, tokens_a_step: Num) -> Num:
        """What one prompt adds to the decode ``step`` of ``batch`` sequences: of the longer pass, what the step has not."""
        alone = cast("PassTime", step)
        tokens = maximum(minimum(prompt, self.step_tokens), tokens_a_step)
        added = self._prompts(tokens / prompt / self.pp, prompt)
        joined = self._pass((batch + tokens) / self.pp, batch / self.pp, added, batch)
        products_s = joined.weights_s + joined.elementwise_s - alone.weights_s - alone.elementwise_s
        added_s = products_s + joined.attention_s + joined.layer_reductions_s - alone.layer_reductions_s
        return self.engine.interleave * maximum(added_s, 0.0) * prompt / tokens

    def _divided(self, shards: Shards) -> ServedModel:
        return ServedModel(self.shape, shards, self.kernels, self.engine, self.has)

    def _prompts(self, batch: Num, prompt: Num) -> tuple[Num, Num]:
        def attention_s(shards: Shards, sequences: Num) -> Num:
            return prefill_layer_attention_s(self._divided(shards), sequences, prompt)

        return self._attention(batch, batch * prompt, attention_s)

    def _attention(self, batch: Num, tokens: Num, of: Callable[[Shards, Num], Num]) -> tuple[Num, Num]:
        """Attention of one layer, and what is exchanged for it, in the faster of both divisions; a chip has whole sequences."""
        chips = float(self.torus.chips)
        heads_s = of(Shards(chips, self.pp, chips, chips), batch)
        if not self.by_sequence:
            return heads_s, 0.0 * heads_s
        sequences_s = of(Shards(chips, self.pp, chips, 1.0), maximum(batch, chips * minimum(batch, 1.0)))
        sent_s = 2 * exchange_s(self.torus, tokens, (self.shape.qkv_width + self.shape.attention_width) / 2)
        faster = sequences_s + sent_s < heads_s
        return where(faster, sequences_s, heads_s), where(faster, sent_s, 0.0 * heads_s)

    def _pass(self, tokens: Num, sequences: Num, attention: tuple[Num, Num], batch: Num) -> PassTime:
        shape, kernels, engine, chips = self.shape, self.kernels, self.engine, float(self.torus.chips)
        layout = self.layout(tokens)
        layer_s, exposed_s = self._covered(tokens, layout)
        alone = self._divided(Shards(1.0, 1.0, 1.0, 1.0))
        moved_s = elementwise_layer_s(alone, tokens / chips)
        head_s: Num = 0.0 * tokens
        if somewhere(shape.vocab > 0):
            head = scaled(Product(kernels.head_gemm, 2.0, kernels.head_weight_B, kernels.head_peak_flops_per_s), engine)
            width = maximum(shape.vocab, 1.0) / chips
            head_s = product_s(alone, sequences, width, shape.hidden, head)
        hops_s = (self.pp - 1) * (engine.hop_s + tokens * shape.hidden * 2.0 / chips / kernels.nic_Bps)
        sent_s = exposed_s + layout.waits_s + attention[1]
        layer_host_s = engine.layer_s + (engine.scaling_s if kernels.scales else 0.0)
        return PassTime(
            weights_s=shape.layers * layer_s,
            attention_s=shape.layers * attention[0],
            elementwise_s=shape.layers * moved_s,
            reductions_s=shape.layers * sent_s + hops_s,
            head_s=head_s,
            host_s=shape.layers * layer_host_s + engine.step_s + engine.sequence_s * batch,
            hops_s=hops_s,
        )

    def _covered(self, tokens: Num, layout: Divided) -> tuple[Num, Num]:
        """A layer's products and the transfers that outlast them, in the number of pieces in which both are least.

        More pieces leave less of a transfer bare, and make products of shorter operands.
        """
        products_s = self._products_s(tokens, layout, 1.0)
        exposed_s = layout.exposed_s(products_s, 1.0)
        most = 2.0
        while somewhere(layout.pieces >= most):
            pieces = minimum(most, layout.pieces)
            cut_s = self._products_s(tokens, layout, pieces)
            left_s = layout.exposed_s(cut_s, pieces)
            less = cut_s + left_s < products_s + exposed_s
            products_s, exposed_s = where(less, cut_s, products_s), where(less, left_s, exposed_s)
            most *= 2
        return products_s, exposed_s

    def _products_s(self, tokens: Num, layout: Divided, pieces: Num) -> Num:
        """Matrix products of one layer; parallel blocks read the residual stream in one product and write it in one.

        Of activations that arrive in pieces each is multiplied on its own (a part of the inner dimension), of those that leave,
        and of weights, each is a part of the outputs.
        """
        shape, kernels, alone = self.shape, self.kernels, self._divided(Shards(1.0, 1.0, 1.0, 1.0))
        kind = scaled(Product(kernels.gemm, kernels.input_B, kernels.weight_B, kernels.gemm_peak_flops_per_s), self.engine)
        rows = self.torus.chips / (layout.columns * layout.among)
        own, hidden = tokens / layout.among, shape.hidden / layout.columns
        deep = where(layout.among > 1, 1.0, pieces)
        wide = pieces / deep

        def both(into: Num, out: Num) -> Num:
            arriving = product_s(alone, own, into / rows / wide, hidden / deep, kind)
            return pieces * (arriving + product_s(alone, own, hidden / pieces, out / rows, kind))

        up = (shape.ffn_matrices - 1) * shape.ffn
        together = both(up + shape.qkv_width, shape.ffn + shape.attention_width)
        if not somewhere(shape.reductions > 1):
            return together
        apart = both(up, shape.ffn) + both(shape.qkv_width, shape.attention_width)
        return where(shape.reductions > 1, apart, together)
