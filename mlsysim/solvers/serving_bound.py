"""Passes at the speed of light, or at an efficiency that the caller owns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from mlsysim.physics.inference import InferenceWork, ServingMachine, decode_step_s, prefill_s, weights_read_B
from mlsysim.physics.numeric import Num
from mlsysim.solvers.lowering import cached_tokens
from mlsysim.solvers.serving_input import ServingSetting


@dataclass(frozen=True, slots=True)
class BoundPasses:
    """Weights and KV cache read from memory, or the arithmetic, whichever is longer."""

    work: InferenceWork
    machine: ServingMachine
    setting: ServingSetting

    @classmethod
    def of(cls, setting: ServingSetting, work: InferenceWork) -> Self:
        """The passes of a setting without a stack; stages of a pipeline all work at once, on their own part of the layers."""
        device = setting.accelerator
        rate = device.rate_flops_per_s(setting.rated) * (setting.efficiency or 1.0)
        ranks = float(setting.tp * setting.pp)
        machine = ServingMachine(ranks, setting.kv_shards, rate, device.memory_bandwidth_Bps, setting.link_Bps)
        return cls(work, machine, setting)

    def decode_s(self, batch: Num, context: Num) -> Num:
        """One token of ``batch`` sequences."""
        return decode_step_s(self.work, batch, self._reach(context), self.machine)

    def prefill_s(self, batch: Num, prompt: Num) -> Num:
        """The prompts of ``batch`` sequences."""
        return prefill_s(self.work, batch, prompt, self.setting.keys, self.machine)

    def joining_s(self, batch: Num, prompt: Num, tokens_a_step: Num) -> Num:
        """What one prompt adds to the steps that it joins: its arithmetic."""
        work, machine = self.work, self.machine
        flops = prompt * (work.matmul_flops + work.attention_flops_per_key * self.setting.keys)
        return flops / machine.tp / machine.rate_flops_per_s

    def parts(self, batch: float, context: float) -> tuple[dict[str, float], str]:
        """What one decode step consists of, and what limits it."""
        work, machine, reach = self.work, self.machine, self._reach(context)
        weights = float(weights_read_B(work, batch) / machine.tp / machine.memory_Bps)
        cache = float(work.kv_B * batch * reach / machine.kv_shards / machine.memory_Bps)
        flops = batch * (work.matmul_flops + work.decode_flops_per_key * reach + work.head_flops)
        arithmetic = float(flops / machine.tp / machine.rate_flops_per_s)
        reads = weights + cache
        communication = float(self.decode_s(batch, context)) - max(reads, arithmetic) if machine.tp > 1 else 0.0
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

    def _reach(self, context: Num) -> float:
        return cached_tokens(self.setting.workload, float(context))
