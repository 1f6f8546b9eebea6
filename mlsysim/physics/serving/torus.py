"""Passes of a transformer whose layers all chips of a torus share, in the layout that sends least for the tokens of the pass.

Attention is divided by heads, or, where the engine can, by sequences: with one key head for all query heads (multi-query)
division by heads leaves each chip the whole cache to read.

Source: Pope et al., "Efficiently Scaling Transformer Inference", 2022, arXiv:2211.05102, sections 3.2 (feed-forward) and 3.3
(attention).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from mlsysim.physics.layer.products import layer_products
from mlsysim.physics.layer.shape import LayerShape
from mlsysim.physics.numeric import Num, maximum, minimum, somewhere, where
from mlsysim.physics.serving.activations import elementwise_layer_s
from mlsysim.physics.serving.deployment import (
    EngineCoefficients,
    EngineKernels,
    Product,
    ServedModel,
    ServingKernels,
    Shards,
)
from mlsysim.physics.serving.passes import PassTime, decode_layer_attention_s, prefill_layer_attention_s
from mlsysim.physics.serving.products import head_product, product_s, scaled
from mlsysim.physics.serving.schedule import Step
from mlsysim.physics.serving.torus_partition import Divided, Torus, divided, exchange_s


@dataclass(frozen=True, slots=True)
class TorusDeployment:
    """A dense model on a torus; with ``by_sequence`` attention may be divided by sequences, and ``pp`` tori stand in a row."""

    shape: LayerShape
    torus: Torus
    pp: Num
    by_sequence: bool
    kernels: ServingKernels
    engine: EngineCoefficients
    has: EngineKernels
    step_tokens: Num

    @property
    def front_s(self) -> Num:
        """Seconds of a request before its prompt is computed."""
        return self.engine.request_s

    def layout(self, tokens: Num) -> Divided:
        """Choose the layout of a pass over ``tokens`` tokens."""
        shape = self.shape
        qkv, output, up, down = layer_products(shape)
        args = (shape.hidden, shape.ffn, up.n + qkv.n, down.k + output.k, shape.reductions, self.kernels.weight_B)
        return divided(self.torus, tokens, *args)

    def decode(self, batch: Num, context: Num) -> PassTime:
        """Time one token of each of ``batch`` sequences that hold ``context`` tokens."""
        stage_batch = maximum(batch / self.pp, minimum(batch, 1.0))

        def attention_s(shards: Shards, sequences: Num) -> Num:
            return decode_layer_attention_s(self._divided(shards), sequences, context) / self.engine.attention_share

        return self._pass(stage_batch, stage_batch, self._attention(stage_batch, stage_batch, attention_s), batch)

    def prefill(self, batch: Num, prompt: Num) -> PassTime:
        """Time the prompts of ``batch`` sequences to their first token."""
        parts = minimum(self.pp, maximum(batch, 1.0))
        part_batch = batch / parts
        one_part = self._pass(part_batch * prompt, part_batch, self._prompts(part_batch, prompt), batch)
        passes = (parts + self.pp - 1) / self.pp
        return one_part.repeated(passes, self.engine.request_s)

    def prefill_s(self, batch: Num, prompt: Num) -> Num:
        """Seconds of the prompts of ``batch`` sequences, to their first token."""
        return self.prefill(batch, prompt).total_s

    def joining_s(self, step: Step, batch: Num, prompt: Num, beside: Num, hidden: Num) -> Num:
        """Seconds that one prompt adds to the decode ``step`` of ``batch`` sequences: what the pass has beyond the step."""
        alone = cast("PassTime", step)
        tokens = minimum(prompt, self.step_tokens) + beside
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

    def _attention(self, batch: Num, tokens: Num, layer_attention_s: Callable[[Shards, Num], Num]) -> tuple[Num, Num]:
        """Seconds of one layer's attention and of its exchange, in the faster division; a chip has whole sequences."""
        chips = float(self.torus.chips)
        heads_s = layer_attention_s(Shards(chips, self.pp, chips, chips), batch)
        if not self.by_sequence:
            return heads_s, 0.0 * heads_s
        sequences_s = layer_attention_s(Shards(chips, self.pp, chips, 1.0), maximum(batch, chips * minimum(batch, 1.0)))
        sent_s = 2 * exchange_s(self.torus, tokens, self.shape.query_width + self.shape.key_width)
        by_sequence_faster = sequences_s + sent_s < heads_s
        return where(by_sequence_faster, sequences_s, heads_s), where(by_sequence_faster, sent_s, 0.0 * heads_s)

    def _pass(self, tokens: Num, sequences: Num, attention: tuple[Num, Num], batch: Num) -> PassTime:
        shape, kernels, engine, chips = self.shape, self.kernels, self.engine, float(self.torus.chips)
        layout = self.layout(tokens)
        layer_s, exposed_s = self._covered(tokens, layout)
        alone = self._divided(Shards(1.0, 1.0, 1.0, 1.0))
        moved_s = elementwise_layer_s(alone, tokens / chips)
        head_s: Num = 0.0 * tokens
        if somewhere(shape.vocab > 0):
            head = head_product(kernels, engine)
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
        """Seconds of a layer's products and of the transfers that outlast them, in the number of pieces that makes both least.

        More pieces leave less of a transfer bare, and make products of shorter operands.
        """
        products_s = self._products_s(tokens, layout, 1.0)
        exposed_s = layout.exposed_s(products_s, 1.0)
        most_pieces = 2.0
        while somewhere(layout.pieces >= most_pieces):
            pieces = minimum(most_pieces, layout.pieces)
            cut_s = self._products_s(tokens, layout, pieces)
            left_s = layout.exposed_s(cut_s, pieces)
            faster = cut_s + left_s < products_s + exposed_s
            products_s, exposed_s = where(faster, cut_s, products_s), where(faster, left_s, exposed_s)
            most_pieces *= 2
        return products_s, exposed_s

    def _products_s(self, tokens: Num, layout: Divided, pieces: Num) -> Num:
        """Seconds of one layer's products; parallel blocks read the residual stream in one product and write it in one.

        Of activations that arrive in pieces each is multiplied on its own (a part of the inner dimension), of those that leave,
        and of weights, each is a part of the outputs.
        """
        shape, kernels, alone = self.shape, self.kernels, self._divided(Shards(1.0, 1.0, 1.0, 1.0))
        kernel = scaled(Product(kernels.gemm, kernels.input_B, kernels.weight_B, kernels.gemm_peak_flops_per_s), self.engine)
        rows = self.torus.chips / (layout.columns * layout.among)
        chip_tokens, hidden = tokens / layout.among, shape.hidden / layout.columns
        inner_pieces = where(layout.among > 1, 1.0, pieces)
        output_pieces = pieces / inner_pieces

        def block_s(into: Num, out: Num) -> Num:
            into_s = product_s(alone, chip_tokens, into / rows / output_pieces, hidden / inner_pieces, kernel)
            return pieces * (into_s + product_s(alone, chip_tokens, hidden / pieces, out / rows, kernel))

        qkv, output, up, down = layer_products(shape)
        parallel_s = block_s(up.n + qkv.n, down.k + output.k)
        if not somewhere(shape.reductions > 1):
            return parallel_s
        serial_s = block_s(up.n, down.k) + block_s(qkv.n, output.k)
        return where(shape.reductions > 1, serial_s, parallel_s)
