"""One accelerator, one batch, or a fleet of them that each hold the whole model: ``SingleNodeModel``."""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.calibration.data_parallel import ReplicaStack, replica_stack
from mlsysim.calibration.inference import InferenceStack, inference_stack
from mlsysim.core.checks import boolean, fraction, instance, real_number, strict_keywords, whole_number
from mlsysim.core.choices import Precision
from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.core.precision import bytes_per_element, precision_name
from mlsysim.core.units import Quantity, with_unit, with_units
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.data_parallel import CalibratedRun, Samples, replica_run
from mlsysim.lowering.feasibility import over_budget
from mlsysim.lowering.forward import inference_run
from mlsysim.lowering.training_setting import filled_tokens, lone_accelerators, lone_plan
from mlsysim.lowering.work import training_work
from mlsysim.models.types import CNNWorkload, Workload
from mlsysim.physics.kernels.roofline import roofline_s
from mlsysim.physics.layer.work import NONE, LayeredWork
from mlsysim.physics.machine import Machine
from mlsysim.physics.training.memory import training_memory
from mlsysim.physics.training.roofline_step import training_step
from mlsysim.physics.training.step import Overlap
from mlsysim.solvers.result import SampledResult, run_facts
from mlsysim.systems.types import Fleet


@dataclass(frozen=True, kw_only=True)
class SingleNodeResult(SampledResult):
    """Time of one batch and the rate it gives.

    Attributes:
        latency: time of the batch.
        memory: what one accelerator holds.
    """

    HEADLINE = ("throughput", "latency", "mfu", "memory")
    INTERVAL_OF = "throughput"

    latency: Quantity
    memory: Quantity


class SingleNodeModel:
    """The roofline of one accelerator: inference or a training step of one batch.

    Time is the longer of arithmetic (peak x efficiency) and memory traffic; a training step adds the optimizer. On a
    ``stack``, training time comes from calibrated kernels, layer by layer, and a fleet of data-parallel accelerators
    exchanges its gradients.
    """

    @strict_keywords
    def solve(
        self,
        workload: Workload,
        hardware: HardwareNode | Fleet,
        *,
        batch_size: int,
        precision: Precision | str = "fp16",
        efficiency: float | None = None,
        is_training: bool = False,
        seq_len: int | None = None,
        mean_tokens: float | None = None,
        masked_share: float = 0.15,
        microbatch_count: int = 1,
        stack: str | None = None,
    ) -> SingleNodeResult:
        """Time of ``batch_size`` samples on ``hardware``.

        Args:
            workload: a transformer (``seq_len`` tokens a sample) or a network of known FLOP a sample.
            hardware: the accelerator, or a fleet of them that each hold the whole model.
            batch_size: samples of a step, all accelerators together.
            precision: number format of weights and arithmetic.
            efficiency: the share of peak that the caller owns; without it the result is the bound.
            is_training: forward, backward and Adam, instead of forward.
            seq_len: tokens of one sample; transformers only, 4096 by default.
            mean_tokens: of them, those that are no padding, in the mean: what is computed where padding is left out (the
                bound, and stacks that do so). By default all.
            masked_share: share of the tokens that BERT's output head is trained on; 0 without that head (stack only).
            microbatch_count: micro-batches that gradients are accumulated over before they are exchanged (stack only).
            stack: a software stack: time from calibrated kernels. One that trains, such as "nvidia-mxnet", or an engine such as
                "tensorrt-mlperf" for the forward pass alone.

        Raises:
            InputError: an argument out of range, or a workload that this solver does not take.

        Example:
            >>> from mlsysim import Hardware, Models
            >>> run = SingleNodeModel().solve(Models.Vision.ResNet50, Hardware.Cloud.A100, batch_size=256)
            >>> run.basis, run.feasible, run.binding
            ('bound', True, 'compute')
        """
        accelerator, count = lone_accelerators(workload, hardware)
        batch = whole_number("batch_size", batch_size)
        share = 1.0 if efficiency is None else fraction("efficiency", efficiency)
        fmt = precision_name("precision", precision)
        training = boolean("is_training", is_training)
        peak = accelerator.rate_flops_per_s(fmt)
        micro_batches = whole_number("microbatch_count", microbatch_count)
        if batch % (count * micro_batches):
            raise InputError("batch_size", batch, f"a multiple of accelerators x microbatch_count = {count * micro_batches}")
        if stack is not None and efficiency is not None:
            raise InconsistentError("stack", stack, "nothing beside efficiency: a stack's kernels are calibrated")
        if stack is not None:
            instance("stack", stack, str, "the name of a software stack")
        tokens, filled = filled_tokens(workload, seq_len, mean_tokens)
        masked = real_number("masked_share", masked_share, 0, 1)
        computed = max(1, round(filled))
        work = training_work(workload, computed)
        solve = _training if training else _inference
        each = batch // count
        once, memory_B, flops = solve(work, accelerator, each // micro_batches, computed, fmt, peak * share)
        run = CalibratedRun({name: part * (1 if name == "optimizer" else micro_batches) for name, part in once.items()}, ())
        used: InferenceStack | ReplicaStack | None = None
        samples = Samples(fmt, tokens, filled, masked if training else 0.0)
        if stack is not None and not training:
            used, run = inference_stack(stack), inference_run(workload, accelerator, stack, each, samples)
        elif stack is not None:
            used = replica_stack(stack)
            run = replica_run(workload, hardware, stack, batch=batch, micro_batches=micro_batches, samples=samples)
        parts, seconds = run.parts, sum(run.parts.values())
        reason = over_budget(memory_B, accelerator, "this batch on one" if count == 1 else "each")
        notes: tuple[str, ...] = ()
        if training and isinstance(workload, CNNWorkload) and workload.activations is None:
            notes = (f"activation memory is not counted: {workload.name} does not say how many it keeps",)
        bound = _binding(parts) if stack is None else max(parts, key=lambda name: parts[name]).replace("_", " ")
        basis = "calibrated" if stack is not None else "bound" if efficiency is None else "efficiency"
        where = hardware.name if isinstance(hardware, HardwareNode) else f"{count} x {accelerator.name}"
        return SingleNodeResult(
            solver="SingleNodeModel",
            subject=f"{workload.name}, batch {batch}, {'training' if training else 'inference'} in {fmt} on {where}",
            basis=basis,
            reason=reason,
            binding="memory capacity" if reason else bound,
            breakdown=with_units(parts, "second"),
            diagnostics=notes,
            coefficients=run.coefficients,
            facts=run_facts(workload, accelerator, used, count),
            latency=with_unit(seconds, "second"),
            throughput=with_unit(batch / seconds, "count/second"),
            mfu=flops * micro_batches / (seconds * peak),
            memory=with_unit(memory_B, "byte"),
        )


def _binding(parts: dict[str, float]) -> str:
    """Name the limit: traffic sets the time as soon as it outlasts the arithmetic, of which it shows only the rest."""
    pass_s = parts["compute"] + parts["memory traffic"]
    if parts.get("optimizer", 0.0) > pass_s:
        return "optimizer"
    return "memory traffic" if parts["memory traffic"] > 0 else "compute"


_Solved = tuple[dict[str, float], float, float]


def _training(work: LayeredWork, hardware: HardwareNode, batch: int, tokens: int, precision: str, rate: float) -> _Solved:
    """Seconds of the parts, bytes and model FLOP of one step."""
    plan = lone_plan(float(batch * tokens), precision, NONE)
    machine = Machine(rate, hardware.memory_bandwidth_Bps, float("inf"), float("inf"), 1.0)
    step = training_step(work, plan, machine, Overlap())
    flops = work.training_flops * batch * tokens
    seconds, optimizer = float(step.total_s), float(step.optimizer_s)
    arithmetic = flops / rate
    parts = {"compute": arithmetic, "memory traffic": max(0.0, seconds - optimizer - arithmetic), "optimizer": optimizer}
    return parts, float(training_memory(work, plan).total_B), flops


def _inference(work: LayeredWork, hardware: HardwareNode, batch: int, tokens: int, precision: str, rate: float) -> _Solved:
    """Seconds of the parts, bytes and FLOP of one forward pass with the logits of every token."""
    flops = batch * tokens * (work.layers * work.layer_flops + work.head_flops)
    weights_B = bytes_per_element(precision) * work.parameters
    seconds = float(roofline_s(flops, weights_B, rate, hardware.memory_bandwidth_Bps))
    arithmetic = flops / rate
    # One layer's activations at a time are alive.
    alive_B = batch * tokens * max((work.kept_split_B + work.kept_residual_B), work.logits_B)
    return {"compute": arithmetic, "memory traffic": max(0.0, seconds - arithmetic)}, weights_B + alive_B, flops
