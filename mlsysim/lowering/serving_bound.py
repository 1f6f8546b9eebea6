"""Passes at the speed of light, or at an efficiency that the caller owns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self, cast

from mlsysim.lowering.deployment import Deployment
from mlsysim.physics.kernels.alpha_beta import distinct_targets
from mlsysim.physics.layer.attention import cached_tokens
from mlsysim.physics.numeric import Num, maximum
from mlsysim.physics.serving.inference import (
    InferenceWork,
    ServingMachine,
    decode_step_s,
    prefill_s,
    reductions_s,
    weights_read_B,
)
from mlsysim.physics.serving.schedule import Step


@dataclass(frozen=True, slots=True)
class BoundStep:
    """A decode step: its reads and its arithmetic overlap, what remains of ``total_s`` is communication."""

    total_s: Num
    weights_s: Num
    cache_s: Num
    arithmetic_s: Num

    def checking(self, alone: BoundStep) -> BoundStep:
        """The pass over k + 1 tokens of each of B sequences, of whom ``alone`` is a decode step: each cache is read once."""
        sent_s = self.total_s - maximum(self.weights_s + self.cache_s, self.arithmetic_s)
        total_s = maximum(self.weights_s + alone.cache_s, self.arithmetic_s) + sent_s
        return replace(self, total_s=total_s, cache_s=alone.cache_s)

    def parts(self) -> tuple[dict[str, float], str]:
        """Seconds by name, and what limits the step."""
        weights, cache, arithmetic = float(self.weights_s), float(self.cache_s), float(self.arithmetic_s)
        reads = weights + cache
        communication = max(0.0, float(self.total_s) - max(reads, arithmetic))
        parts = {
            "weight reads": weights,
            "KV reads": cache,
            "arithmetic beyond them": max(0.0, arithmetic - reads),
            "tensor-parallel communication": communication,
        }
        if communication > max(reads, arithmetic):
            return parts, "tensor-parallel communication"
        if arithmetic > reads:
            return parts, "arithmetic"
        return parts, "weight reads" if weights >= cache else "KV reads"


@dataclass(frozen=True, slots=True)
class BoundPasses:
    """Weights and KV cache read from memory, or the arithmetic, whichever is longer."""

    work: InferenceWork
    machine: ServingMachine
    setting: Deployment

    @classmethod
    def of(cls, setting: Deployment, work: InferenceWork) -> Self:
        """The passes of a setting without a stack; stages of a pipeline all work at once, on their own part of the layers.

        Ranks that attend for themselves exchange nothing but the tokens of routed experts: one goes once to each rank that has
        some of its own, and back.
        """
        device = setting.accelerator
        if setting.attention_dp > 1:
            reached = float(distinct_targets(setting.tp, work.experts_per_token)) / setting.tp
            work = replace(work, reductions=float(setting.workload.layer_shape.routed.layers) * reached)
        rate = device.rate_flops_per_s(setting.rated) * (setting.efficiency or 1.0)
        tp, ranks = float(setting.tp), float(setting.ranks)
        # Only the ranks of a stage reduce, each stage its own layers, all stages at once.
        link_Bps = setting.link_Bps * setting.pp * (1 - 1 / ranks) / (1 - 1 / tp) if tp > 1 else float("inf")
        machine = ServingMachine(ranks, setting.kv_shards, rate, device.memory_bandwidth_Bps, link_Bps)
        return cls(work, machine, setting)

    @property
    def front_s(self) -> Num:
        """Nothing."""
        return 0.0

    def decode(self, batch: Num, context: Num) -> BoundStep:
        """Time one token of each of ``batch`` sequences."""
        work, machine = self.work, self.machine
        reach = cached_tokens(self.setting.workload.layer_shape, float(context))
        flops = batch * (work.matmul_flops + work.decode_flops_per_key * reach + work.head_flops)
        return BoundStep(
            total_s=decode_step_s(work, batch, reach, machine),
            weights_s=weights_read_B(work, batch) / machine.tp / machine.memory_Bps,
            cache_s=work.kv_B * batch * reach / machine.kv_shards / machine.memory_Bps,
            arithmetic_s=flops / machine.tp / machine.rate_flops_per_s,
        )

    def prefill_s(self, batch: Num, prompt: Num) -> Num:
        """The prompts of ``batch`` sequences."""
        return prefill_s(self.work, batch, prompt, self.setting.keys, self.machine)

    def joining_s(self, step: Step, batch: Num, prompt: Num, beside: Num, hidden: Num) -> Num:
        """Seconds that one prompt adds to the decode ``step`` of ``batch`` sequences."""
        prompts = 1 + beside / prompt
        return self.prompts_beside_s(step, batch, prompts, prompt, self.setting.keys) / prompts

    def prompts_beside_s(self, step: Step, batch: Num, prompts: Num, new: Num, keys: Num, cached: Num = 0.0) -> Num:
        """Seconds that ``prompts`` prompts of ``new`` tokens add to the decode ``step`` of ``batch`` sequences.

        Both read the weights once, and the arithmetic of the prompts fills what memory leaves idle.
        """
        work, machine, alone, tokens = self.work, self.machine, cast("BoundStep", step), prompts * new
        flops = tokens * (work.matmul_flops + work.attention_flops_per_key * keys) + prompts * work.head_flops
        arithmetic_s = alone.arithmetic_s + flops / machine.tp / machine.rate_flops_per_s
        weights_s = weights_read_B(work, batch + tokens) / machine.tp / machine.memory_Bps
        moved_s = work.kv_B * (tokens + prompts * cached) / machine.kv_shards / machine.memory_Bps
        alone_s = maximum(alone.weights_s + alone.cache_s, alone.arithmetic_s)
        return maximum(weights_s + alone.cache_s + moved_s, arithmetic_s) - alone_s + reductions_s(work, tokens, machine)
