"""Prefill and decode passes of a transformer from measured kernels: matrix products by shape, attention, all-reduces, host.

A pass computes some tokens of some sequences through all layers: in a prefill all tokens of the prompts, in a decode step one
token a sequence. Its layers cost their kernels, and on top a constant that belongs to the engine: decode overhead is additive
per layer, not a factor.

Sources: Pope et al., "Efficiently Scaling Transformer Inference", 2022 (what a pass reads and sends); Shoeybi et al. 2019
(two all-reduces a layer); Kwon et al., "PagedAttention", 2023 (continuous batching).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from mlsysim.physics.kernels.attention import AttentionHeads, decode_attention_s, prefill_attention_s
from mlsysim.physics.layer.attention import attention_heads
from mlsysim.physics.numeric import Num, ceil, everywhere, floor, maximum, minimum, once_for_floats, somewhere, sqrt, where
from mlsysim.physics.serving.activations import WIDE_B, stored_score_s
from mlsysim.physics.serving.deployment import WORD_B, ServedModel
from mlsysim.physics.serving.layer_time import layer_time
from mlsysim.physics.serving.micro_batches import passes_of_micro_batches
from mlsysim.physics.serving.products import head_product, launches, product_s

_ROUNDING = 1e-9  # of a room that is full: tokens of parts that fill it add to no more


@dataclass(frozen=True, slots=True)
class PassTime:
    """Seconds of the parts of a pass through all layers; they add up (``hops_s`` is a part of ``reductions_s``)."""

    weights_s: Num
    attention_s: Num
    elementwise_s: Num
    reductions_s: Num
    head_s: Num
    host_s: Num
    hops_s: Num

    @property
    def layer_reductions_s(self) -> Num:
        """Seconds of all-reduces, without the hand-overs between stages."""
        return self.reductions_s - self.hops_s

    @property
    def total_s(self) -> Num:
        """Seconds of the whole pass."""
        return self.weights_s + self.attention_s + self.elementwise_s + self.reductions_s + self.head_s + self.host_s

    def checking(self, alone: PassTime) -> PassTime:
        """The pass that checks k + 1 tokens of each of B sequences, of whom ``alone`` is a decode step.

        Its products, its logits and its communication are those of all tokens, as here; tokens of one sequence share a read of
        its keys, and the engine schedules B sequences.
        """
        return replace(self, attention_s=alone.attention_s, host_s=alone.host_s)

    def repeated(self, passes: Num, request_s: Num) -> PassTime:
        """Parts of prompts, of which this is one, in as many passes through the layers; ``request_s`` is the server's own."""
        return replace(
            self,
            weights_s=self.weights_s * passes,
            attention_s=self.attention_s * passes,
            elementwise_s=self.elementwise_s * passes,
            reductions_s=self.reductions_s * passes,
            host_s=self.host_s + request_s,
        )

    def parts(self) -> tuple[dict[str, float], str]:
        """Give the seconds of each part by name, and the name of the longest."""
        seconds = {
            "matrix products": float(self.weights_s),
            "attention": float(self.attention_s),
            "element-wise passes": float(self.elementwise_s),
            "communication": float(self.reductions_s),
            "logits": float(self.head_s),
            "engine overhead": float(self.host_s),
        }
        return seconds, max(seconds, key=lambda part: seconds[part])


def decode_pass(model: ServedModel, batch: Num, context: Num) -> PassTime:
    """Time one token of each of ``batch`` sequences that hold ``context`` tokens.

    Pipeline stages work on a ``pp``-th of the batch each, at the same time: a token still passes all layers. The last stage has
    the head besides its layers, and as many parts of the batch as there are stages wait for it, each for the part before.
    """
    stage_batch = sequences_of_stage(model, batch)
    model = with_idle_groups(model, stage_batch)

    def attention_s(share: float) -> Num:
        return decode_layer_attention_s(model, share * stage_batch, context) / model.engine.attention_share

    step, pp = _pass(model, stage_batch, stage_batch, attention_s, batch, decoding=True), model.shards.pp
    if not somewhere(pp > 1):
        return step
    engine, shape, each_s = model.engine, model.shape, step.head_s + model.engine.step_s
    layers_s = step.total_s - step.hops_s - each_s - engine.sequence_s * batch / model.shards.own
    last_stage_s = layers_s * ceil(shape.layers / pp) / shape.layers + each_s
    waited_s = minimum(pp, maximum(batch, 1.0)) * last_stage_s - (layers_s + step.hops_s + each_s)
    return replace(step, head_s=step.head_s + where(pp > 1, maximum(waited_s, 0.0), 0.0))


def sequences_of_stage(model: ServedModel, batch: Num) -> Num:
    """Sequences that a stage works on at a time: a stage has no less than one, where there is any."""
    return maximum(batch / model.shards.pp, minimum(batch, 1.0))


def with_idle_groups(model: ServedModel, sequences: Num) -> ServedModel:
    """The model, of whose groups of ranks some have none of so few ``sequences``: each is one group's."""
    if not somewhere(model.shards.apart):
        return model
    return _with_groups(model, maximum(sequences, 1.0))


def _with_groups(model: ServedModel, groups: Num) -> ServedModel:
    return replace(model, shards=replace(model.shards, sequences=groups))


def decode_layer_attention_s(model: ServedModel, batch: Num, context: Num) -> Num:
    """Seconds of one layer's attention in a decode step, mean over windowed and other layers.

    Without a grouped kernel each query head reads its keys for itself, from the last-level cache once the group's first has
    fetched them: max(bytes / memory, group bytes / cache bandwidth).
    """
    shape, shards, kernels, has = model.shape, model.shards, model.kernels, model.has
    batch = batch / shards.own
    each = attention_heads(shape, shards.attention, kernels.kv_B, absorbed=True)
    fused_s = partial(decode_attention_s, kernels.decode, kernels.attention, batch, context)
    attention_s = _over_layers(model, fused_s, each)
    if has.grouped_decode and not has.only_group:
        return attention_s
    repeated_Bps = kernels.attention.bandwidth_Bps if has.repeats_memory else kernels.cache_read_Bps
    keys = _over_layers(model, lambda heads: where(heads.window > 0, minimum(context, heads.window), context), each)
    repeated_B = 2 * batch * each.heads * keys * each.head_dim * kernels.kv_B
    repeated_s = kernels.decode.floor_s + repeated_B / repeated_Bps
    covered = has.grouped_decode & (each.heads == has.only_group * each.kv_heads) & (each.head_dim == has.only_head_dim)
    return where(covered, attention_s, maximum(attention_s, repeated_s))


# Whoever asks for several numbers of requests in flight asks for the same prompt again and again.
@once_for_floats
def prefill_pass(model: ServedModel, batch: Num, prompt: Num, padding: Num = 1.0) -> PassTime:
    """Time the prompts of ``batch`` sequences to their first token; parts of the batch or of a prompt fill pipeline stages.

    ``padding`` is the longest prompt over the mean ``prompt``.
    """
    shards, has = model.shards, model.has
    if has.chunk:
        tokens = minimum(batch * prompt, has.chunk)
        chunks = batch * prompt / tokens
        attention_s = prefill_layer_attention_s(model, batch, prompt) / chunks
        one_part = _pass(model, tokens, batch, lambda share: share * attention_s, batch)
        one_part = replace(one_part, host_s=one_part.host_s * _micro_batch_launches(model) / has.step_launches)
        queued = _queued_micro_batches(model)
        passes = passes_of_micro_batches(chunks, model.shape.layers, shards.pp, has.in_flight, queued)
    else:
        parts = minimum(shards.pp, maximum(batch, 1.0))
        if has.stage_tokens:
            halvings = np.ceil(np.log2(maximum(batch / parts * prompt * padding / has.stage_tokens, 1.0)))
            parts = where(shards.pp > 1, minimum(parts * 2.0**halvings, maximum(batch, 1.0)), parts)
        part_batch = batch / parts
        model = with_idle_groups(model, part_batch)
        attention_s = prefill_layer_attention_s(model, part_batch, prompt, padding)
        one_part = _pass(model, part_batch * prompt, part_batch, lambda share: share * attention_s, batch)
        passes = (parts + shards.pp - 1) / shards.pp
    return one_part.repeated(passes, model.engine.request_s)


def _micro_batch_launches(model: ServedModel) -> float:
    """The number of kernels that a layer of a micro-batch launches."""
    kernels, has = model.kernels, model.has
    unpacked = has.unpacks and kernels.lends and kernels.narrowest_B < WORD_B
    return has.launches + (has.unpack_launches if unpacked else 0.0)


def _queued_micro_batches(model: ServedModel) -> Num:
    """The number of micro-batches whose launches fit the queue of the last stage, which holds the fewest layers."""
    if not model.has.queue:
        return np.inf
    layers = maximum(floor((model.shape.layers + 1) / model.shards.pp) - 1, 1.0)
    return model.has.queue / (layers * _micro_batch_launches(model))


def prefill_layer_attention_s(model: ServedModel, batch: Num, prompt: Num, padding: Num = 1.0) -> Num:
    """Seconds of one layer's attention over whole prompts; all store as many scores as the longest prompt."""
    shape, shards, has = model.shape, model.shards, model.has
    batch = batch / shards.own
    each = attention_heads(shape, shards.attention, model.kernels.kv_B)
    longest = prompt * padding
    fused = has.flash_prefill & ((has.flash_head_dim == 0) | (each.head_dim == has.flash_head_dim))
    covered = fused & ((has.flash_longest == 0) | (longest <= has.flash_longest))
    flash_s = stored_s = 0.0 * longest
    if somewhere(fused):
        covered_prompt = minimum(prompt, has.flash_longest / padding) if has.flash_longest else prompt
        flash_s = where(fused, _flash_s(model, batch, covered_prompt, each), flash_s)
    if not everywhere(covered):
        # Computed by micro-batches, a query sees the keys up to the end of its own.
        rows = minimum(longest, has.chunk) if has.chunk else longest
        # Of a windowed layer the window is kept, and a micro-batch.
        seen = (longest + rows) / 2
        keys = _over_layers(model, lambda heads: where(heads.window > 0, minimum(seen, heads.window + rows), seen), each)
        score_s = stored_score_s(model, each.heads * rows * keys)
        stored_s = batch * each.heads * longest * keys * score_s + 2 * model.kernels.gemm.launch_s
    # A prompt beyond the longest of a fused kernel is no faster than that one.
    return where(covered, flash_s, maximum(stored_s, flash_s))


def _flash_s(model: ServedModel, batch: Num, prompt: Num, each: AttentionHeads) -> Num:
    """Seconds of the fused kernel. Attention to all of s tokens is the causal half of 2 s, with half as many sequences."""
    kernels = model.kernels
    if not model.has.causal:
        batch, prompt = batch / 2, 2 * prompt
    fused_s = partial(prefill_attention_s, kernels.prefill, kernels.attention, batch, prompt)
    return _over_layers(model, fused_s, each)


def _over_layers(model: ServedModel, of_heads: Callable[[AttentionHeads], Num], heads: AttentionHeads) -> Num:
    """The mean over windowed layers and others of what attention takes, or reads, of their heads."""
    mean, windowed = of_heads(heads), model.shape.windowed
    if somewhere(windowed > 0):
        mean = (1 - windowed) * mean + windowed * of_heads(replace(heads, window=model.shape.window))
    return mean


def even_groups(model: ServedModel, prompts: Num, room: Num = np.inf) -> Num:
    """Groups of ranks that compute ``prompts`` prompts, evenly dealt, as fast as those to which they come by chance.

    All wait for the busiest: where the mean group has m prompts, by chance it has m +- sqrt(m), and one at least; no more than
    its step has ``room`` for, for the others wait in line.

    Source: NVIDIA TensorRT-LLM, tech blog 10, "ADP Balance Strategy" (evidence: recalled): ranks wait for the most loaded one,
    and the mean rank had 54 % of its prompts' tokens.
    """
    groups = model.shards.tp / model.shards.attention
    mean = prompts / groups
    by_chance = maximum(mean + model.shards.group_deviations * sqrt(mean), minimum(prompts, 1.0))
    busiest = maximum(minimum(by_chance, room), mean)
    return prompts / minimum(busiest, prompts)


def mixed_prefill_s(
    model: ServedModel, step: PassTime, batch: Num, prompt: Num, tokens: Num, longest: Num = np.inf, hidden: Num = 0.0
) -> Num:
    """Seconds that ``tokens`` tokens of prompts of ``prompt`` tokens add to the decode ``step`` of ``batch`` sequences.

    The step reads its weights and pays its overheads anyhow: only what the longer products, their all-reduces and their own
    attention take beyond it is added. Groups of ranks that attend for sequences of their own have as many that decode, and
    prompts, or parts of them of ``longest`` tokens, as they come: no group has more of them than its step has room for. More
    than all groups have room for are those of whole waves, which come to groups by chance over many steps. Where no graph
    launches their step, the host does kernel by kernel, and begins when ``hidden`` of the step before is left to run.
    """
    stage_batch, added_tokens = sequences_of_stage(model, batch), tokens / model.shards.pp
    whole = prompting = model
    if somewhere(model.shards.apart):
        part = minimum(prompt, longest)
        waves = tokens > longest * model.shards.tp / model.shards.attention * (1 + _ROUNDING)
        even = even_groups(model, added_tokens / part, where(waves, np.inf, longest / part))
        busiest_tokens = stage_batch / with_idle_groups(model, stage_batch).shards.own + added_tokens / even
        prompting = _with_groups(model, even)
        whole = _with_groups(model, (stage_batch + added_tokens) / busiest_tokens)
    attention_s = step.attention_s / model.shape.layers + prefill_layer_attention_s(prompting, added_tokens / prompt, prompt)
    joined = layer_time(whole, stage_batch + added_tokens, lambda share: share * attention_s)
    step_s = step.weights_s + step.attention_s + step.elementwise_s + step.layer_reductions_s
    layers, host_s = model.shape.layers, _layer_host_s(model, batch)
    launched_s = _launched_s(with_idle_groups(model, stage_batch), stage_batch, decoding=True) - host_s
    joined_launched_s = _launched_s(whole, stage_batch + added_tokens, decoding=False) - host_s - hidden * step.total_s / layers
    return layers * maximum(joined.total_s, joined_launched_s) - maximum(step_s, layers * launched_s)


def _launched_s(model: ServedModel, tokens: Num, *, decoding: bool) -> Num:
    """Seconds in which the host launches a layer's kernels: one by one, or as the engine does where graphs have ``tokens``."""
    engine, most = model.engine, model.graph_tokens
    # Groups of ranks that attend for sequences of their own launch graphs of their own.
    one_by_one = (tokens / model.shards.own > most) & (most > 0 if decoding else True)
    if not (somewhere(engine.kernel_s > 0) and somewhere(one_by_one)):
        return engine.launch_s
    return where(one_by_one, maximum(engine.launch_s, engine.kernel_s * launches(model)), engine.launch_s)


def _layer_host_s(model: ServedModel, batch: Num) -> Num:
    """Seconds that a layer takes beside its kernels, where the host runs ahead of them."""
    engine = model.engine
    scaled_s = engine.scaling_s if model.kernels.scales else 0.0
    return engine.layer_s + engine.layer_sequence_s * batch + scaled_s - where(model.shards.tp > 1, engine.fused_s, 0.0)


def _pass(
    model: ServedModel,
    tokens: Num,
    sequences: Num,
    attention_s: Callable[[float], Num],
    batch: Num,
    *,
    decoding: bool = False,
) -> PassTime:
    shape, shards, kernels, engine, has = model.shape, model.shards, model.kernels, model.engine, model.has
    layer = layer_time(model, tokens, attention_s, decoding=decoding)
    head_s: Num = 0.0 * tokens
    if somewhere(shape.vocab > 0):
        head = head_product(kernels, engine)
        width = maximum(shape.vocab, 1.0) / shards.attention
        head_s = product_s(model, sequences / shards.own, width, shape.hidden, head)
    handed_B = tokens * shape.hidden * (WIDE_B if has.wide else 2.0) * has.crossings
    hops_s = (shards.pp - 1) * (engine.hop_s + handed_B / (kernels.nic_Bps * engine.network_share))
    # The host runs ahead of the kernels, or they wait for it.
    layer_host_s = maximum(_layer_host_s(model, batch), _launched_s(model, tokens, decoding=decoding) - layer.total_s)
    return PassTime(
        weights_s=shape.layers * layer.products_s,
        attention_s=shape.layers * layer.attention_s,
        elementwise_s=shape.layers * layer.elementwise_s,
        reductions_s=shape.layers * layer.sent_s + hops_s,
        head_s=head_s,
        host_s=shape.layers * layer_host_s + engine.step_s + engine.sequence_s * batch / shards.own,
        hops_s=hops_s,
    )
