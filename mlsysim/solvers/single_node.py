"""One accelerator, one batch: ``SingleNodeModel``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlsysim.core.checks import boolean, fraction, instance, strict_keywords, whole_number
from mlsysim.core.errors import InputError
from mlsysim.core.precision import bytes_per_element, precision_name
from mlsysim.core.units import Quantity, with_unit
from mlsysim.hardware.types import HardwareNode
from mlsysim.models.types import CNNWorkload, TransformerWorkload, Workload
from mlsysim.physics.memory import training_memory
from mlsysim.physics.roofline import roofline_s
from mlsysim.physics.step import Overlap
from mlsysim.physics.training import Machine, training_step
from mlsysim.physics.work import NONE, LayeredWork
from mlsysim.solvers.distributed_input import DEFAULT_SEQ_LEN, lone_plan
from mlsysim.solvers.feasibility import over_budget
from mlsysim.solvers.lowering import training_work
from mlsysim.solvers.result import Result


@dataclass(frozen=True, kw_only=True)
class SingleNodeResult(Result):
    """Time of one batch and the rate it gives. ``throughput`` counts samples (sequences, images)."""

    HEADLINE: ClassVar[tuple[str, ...]] = ("throughput", "latency", "mfu", "memory")

    latency: Quantity
    throughput: Quantity
    mfu: float
    memory: Quantity


class SingleNodeModel:
    """The roofline of one accelerator: inference or a training step of one batch.

    Time is the longer of arithmetic (peak x efficiency) and memory traffic; a training step adds the optimizer.
    """

    @strict_keywords
    def solve(
        self,
        workload: Workload,
        hardware: HardwareNode,
        *,
        batch_size: int,
        precision: str = "fp16",
        efficiency: float | None = None,
        is_training: bool = False,
        seq_len: int | None = None,
    ) -> SingleNodeResult:
        """Time of ``batch_size`` samples on one ``hardware``.

        Args:
            workload: a transformer (``seq_len`` tokens a sample) or a network of known FLOP a sample.
            hardware: the accelerator.
            batch_size: samples.
            precision: number format of weights and arithmetic.
            efficiency: the share of peak that the caller owns; without it the result is the bound.
            is_training: forward, backward and Adam, instead of forward.
            seq_len: tokens of one sample; transformers only, 4096 by default.

        Raises:
            InputError: an argument out of range, or a workload that this solver does not take.

        Example:
            >>> from mlsysim.hardware.registry import Hardware
            >>> from mlsysim.models.registry import Models
            >>> run = SingleNodeModel().solve(Models.Vision.ResNet50, Hardware.Cloud.A100, batch_size=256)
            >>> run.basis, run.feasible, run.binding
            ('bound', True, 'compute')
        """
        instance("workload", workload, Workload, "a workload such as Models.Vision.ResNet50")
        instance("hardware", hardware, HardwareNode, "an accelerator such as Hardware.Cloud.H100")
        batch = whole_number("batch_size", batch_size)
        share = 1.0 if efficiency is None else fraction("efficiency", efficiency)
        fmt = precision_name("precision", precision)
        training = boolean("is_training", is_training)
        peak = hardware.rate_flops_per_s(fmt)
        tokens = 1
        if isinstance(workload, TransformerWorkload):
            tokens = whole_number("seq_len", DEFAULT_SEQ_LEN if seq_len is None else seq_len)
        elif seq_len is not None:
            raise InputError("seq_len", seq_len, f"nothing: {workload.name} has no sequence")
        work = training_work(workload, tokens)
        solve = _training if training else _inference
        seconds, parts, memory_B, flops = solve(work, hardware, batch, tokens, fmt, peak * share)
        reason = over_budget(memory_B, hardware, "this batch on one")
        notes: tuple[str, ...] = ()
        if training and isinstance(workload, CNNWorkload) and workload.activations is None:
            notes = (f"activation memory is not counted: {workload.name} does not say how many it keeps",)
        bound = "memory capacity" if reason else _binding(parts)
        return SingleNodeResult(
            solver="SingleNodeModel",
            subject=f"{workload.name}, batch {batch}, {'training' if training else 'inference'} in {fmt} on {hardware.name}",
            basis="bound" if efficiency is None else "efficiency",
            feasible=not reason,
            reason=reason,
            binding=bound,
            breakdown={name: with_unit(part, "second") for name, part in parts.items()},
            diagnostics=notes,
            latency=with_unit(seconds, "second"),
            throughput=with_unit(batch / seconds, "count/second"),
            mfu=flops / (seconds * peak),
            memory=with_unit(memory_B, "byte"),
        )


def _binding(parts: dict[str, float]) -> str:
    """What limits: traffic sets the time as soon as it outlasts the arithmetic, of which it shows only the rest."""
    pass_s = parts["compute"] + parts["memory traffic"]
    if parts.get("optimizer", 0.0) > pass_s:
        return "optimizer"
    return "memory traffic" if parts["memory traffic"] > 0 else "compute"


_Solved = tuple[float, dict[str, float], float, float]


def _training(work: LayeredWork, hardware: HardwareNode, batch: int, tokens: int, precision: str, rate: float) -> _Solved:
    """Seconds, parts, bytes and model FLOP of one step."""
    plan = lone_plan(float(batch * tokens), precision, NONE)
    machine = Machine(rate, hardware.memory_bandwidth_Bps, float("inf"), float("inf"), 1.0)
    step = training_step(work, plan, machine, Overlap())
    flops = work.training_flops * batch * tokens
    seconds, optimizer = float(step.total_s), float(step.optimizer_s)
    arithmetic = flops / rate
    parts = {"compute": arithmetic, "memory traffic": max(0.0, seconds - optimizer - arithmetic), "optimizer": optimizer}
    return seconds, parts, float(training_memory(work, plan).total_B), flops


def _inference(work: LayeredWork, hardware: HardwareNode, batch: int, tokens: int, precision: str, rate: float) -> _Solved:
    """The same of one forward pass; logits of every token."""
    flops = batch * tokens * (work.layers * work.layer_flops + work.head_flops)
    weights_B = bytes_per_element(precision) * work.parameters
    seconds = float(roofline_s(flops, weights_B, rate, hardware.memory_bandwidth_Bps))
    arithmetic = flops / rate
    # One layer's activations at a time are alive.
    alive_B = batch * tokens * max((work.kept_split_B + work.kept_residual_B), work.logits_B)
    return seconds, {"compute": arithmetic, "memory traffic": max(0.0, seconds - arithmetic)}, weights_B + alive_B, flops
