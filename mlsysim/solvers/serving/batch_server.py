"""Queries to a model that one accelerator holds whole, as they arrive or one at a time: ``BatchServerModel``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mlsysim.calibration.harnesses import Harness, harness_fitted_names, query_harness
from mlsysim.calibration.inference import inference_fitted_names, inference_stack
from mlsysim.core.checks import (
    instance,
    percentile_share,
    positive_quantity,
    real_number,
    strict_keywords,
    whole_number,
)
from mlsysim.core.choices import Precision
from mlsysim.core.errors import InconsistentError
from mlsysim.core.precision import precision_name
from mlsysim.core.units import Quantity, with_unit, with_units
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.batches import BATCHES, Batches, bound_batches, engine_batches, loaded, lone_s
from mlsysim.lowering.data_parallel import Samples
from mlsysim.lowering.training_setting import filled_tokens, lone_accelerators
from mlsysim.models.types import Workload
from mlsysim.physics.queues.batch_queue import BatchLoad
from mlsysim.solvers.result import Result, run_facts
from mlsysim.systems.types import Fleet

# At the speed of light nothing stands between a query and the pass.
_NO_HARNESS = Harness(0.0, 1.0, 1.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class BatchServerResult(Result):
    """The highest load within a limit, or the pace of lone queries.

    ``throughput`` counts samples of all accelerators; ``latency`` is that which the asked share of queries does not exceed;
    ``batch`` is the mean batch of one accelerator.
    """

    HEADLINE = ("throughput", "latency", "batch")
    INTERVAL_OF = "throughput"
    COUNTED: ClassVar[Mapping[str, str]] = {"throughput": "samples"}

    throughput: Quantity
    latency: Quantity
    batch: float


class BatchServerModel:
    """Batches of whatever arrived: the highest Poisson load whose latency keeps a limit, or lone queries one after another.

    An accelerator works on one batch while the next gathers. With a limit, single samples arrive at random and are spread over
    all accelerators. Without one, a query of ``query_size`` samples follows the answer to the last, on one accelerator.
    """

    @strict_keywords
    def solve(
        self,
        workload: Workload,
        hardware: HardwareNode | Fleet,
        *,
        latency_limit: str | Quantity | None = None,
        percentile: float = 0.99,
        query_size: int = 1,
        precision: Precision | str = "fp16",
        seq_len: int | None = None,
        mean_tokens: float | None = None,
        token_spread: float = 0.0,
        stack: str | None = None,
        harness_name: str = "lwis",
    ) -> BatchServerResult:
        """The highest load on ``hardware``, or the latency of a lone query.

        Args:
            workload: a transformer (``seq_len`` tokens a sample) or a network of known FLOP a sample.
            hardware: the accelerator, or a fleet of them that each hold the whole model.
            latency_limit: of a query that arrives at random; none: queries come one at a time.
            percentile: share of the queries that keep the limit.
            query_size: samples of a query; 1 where they arrive at random.
            precision: number format of weights and arithmetic.
            seq_len: tokens of one sample; transformers only, 4096 by default.
            mean_tokens: of them, those that are no padding: in the mean, or of the query that is asked about.
            token_spread: standard deviation of a sample's tokens over their mean.
            stack: an engine such as "tensorrt-mlperf"; without it the result is the bound.
            harness_name: what gathers queries before the engine, "lwis" or "triton" (stack only).

        Raises:
            InputError: an argument out of range, or a workload, accelerator or stack that is not calibrated.

        Example:
            >>> from mlsysim import Hardware, Models
            >>> asked = {"precision": "int8", "stack": "tensorrt-mlperf"}
            >>> model, card = Models.Vision.ResNet50, Hardware.Cloud.A100
            >>> tight = BatchServerModel().solve(model, card, latency_limit="5 ms", **asked)
            >>> loose = BatchServerModel().solve(model, card, latency_limit="15 ms", **asked)
            >>> tight.throughput < loose.throughput, loose.basis, round(loose.latency.m_as("ms"))
            (True, 'calibrated', 15)
        """
        accelerator, count = lone_accelerators(workload, hardware)
        fmt = precision_name("precision", precision)
        size = whole_number("query_size", query_size)
        share = percentile_share("percentile", percentile)
        spread = real_number("token_spread", token_spread, 0)
        limit_s = None if latency_limit is None else positive_quantity("latency_limit", latency_limit, "second")
        if limit_s is not None and size > 1:
            raise InconsistentError("query_size", size, "1 beside latency_limit: samples that arrive at random come one by one")
        tokens, filled = filled_tokens(workload, seq_len, mean_tokens)
        if stack is not None:
            instance("stack", stack, str, "the name of an engine")
        front = _NO_HARNESS if stack is None else query_harness(instance("harness_name", harness_name, str, "a harness's name"))
        sizes = (float(size),) if limit_s is None else BATCHES
        if stack is None:
            batches = bound_batches(workload, accelerator, sizes, precision=fmt, mean_tokens=filled)
        else:
            batches = engine_batches(
                workload,
                accelerator,
                stack,
                sizes,
                Samples(fmt, tokens, filled, 0.0),
                lone_clock=front.lone_clock if limit_s is None else None,
            )
        coefficients: tuple[str, ...] = ()
        if stack is not None:
            engine = inference_stack(stack).name
            coefficients = (*inference_fitted_names(engine, accelerator.name, fmt), *harness_fitted_names(harness_name))
        load, reason = _load(batches, front, limit_s, share, spread)
        replicas = 1 if limit_s is None else count
        parts = {"wait": max(0.0, load.latency_s - load.batch_s - front.query_s), "batch": load.batch_s, "query": front.query_s}
        where = accelerator.name if count == 1 else f"{count} x {accelerator.name}"
        asked = f"queries of {size}" if limit_s is None else f"{share:.0%} within {1e3 * limit_s:g} ms"
        return BatchServerResult(
            solver="BatchServerModel",
            subject=f"{workload.name}, {asked}, in {fmt} on {where}",
            basis="bound" if stack is None else "calibrated",
            reason=reason,
            binding="latency limit" if limit_s is not None else "batch",
            breakdown=with_units(parts, "second"),
            coefficients=coefficients,
            facts=run_facts(workload, accelerator, None if stack is None else inference_stack(stack), count),
            throughput=with_unit(replicas * load.load_per_s, "count/second"),
            latency=with_unit(load.latency_s, "second"),
            batch=load.batch,
        )


def _load(batches: Batches, front: Harness, limit_s: float | None, share: float, spread: float) -> tuple[BatchLoad, str]:
    """The load, and why it is none within the limit."""
    alone_s = float(lone_s(batches, front)[0])
    alone = BatchLoad(float(batches.samples[0]) / alone_s, float(batches.samples[0]), alone_s - front.query_s, alone_s)
    if limit_s is None:
        return alone, ""
    load = loaded(batches, front, limit_s, share, spread)
    if load is not None:
        return load, ""
    return alone, f"one sample at a time takes {1e3 * alone_s:.3g} ms: no load keeps {1e3 * limit_s:g} ms"
