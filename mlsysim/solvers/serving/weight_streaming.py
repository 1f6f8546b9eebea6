"""Weights that arrive as layers need them: ``WeightStreamingModel``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Unpack

from mlsysim.core.checks import instance, one_of, positive_quantity, strict_keywords
from mlsysim.core.errors import InconsistentError
from mlsysim.core.precision import bytes_per_element
from mlsysim.core.units import Q_, Quantity, with_unit, with_units
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.options import FormatOptions
from mlsysim.models.types import TransformerWorkload
from mlsysim.physics.operations.pipelines import balanced_tokens
from mlsysim.solvers.result import Result
from mlsysim.solvers.serving.serving import ServingModel

PHASES = ("decode", "prefill")


@dataclass(frozen=True, kw_only=True)
class WeightStreamingResult(Result):
    """The least time of a pass.

    Attributes:
        latency: of the pass: a decode step, or a prefill.
        stream_time: in which the weights arrive.
        stream_bandwidth: bytes a second at which they do.
        balanced_batch: tokens of a pass with which arithmetic takes as long as the stream.
        tokens_per_second: of all sequences.
    """

    HEADLINE = ("latency", "tokens_per_second", "stream_time", "stream_bandwidth", "balanced_batch")

    latency: Quantity
    stream_time: Quantity
    stream_bandwidth: Quantity
    balanced_batch: float
    tokens_per_second: Quantity


class WeightStreamingModel:
    """The bound of a chip that keeps no weights: each layer takes the longer of its arithmetic and its bytes over the link.

    It is ``ServingModel(offload="weights")`` with a stated link, and the batch at which the two balance: B* = b R / (2 BW).
    """

    @strict_keywords
    def solve(
        self,
        workload: TransformerWorkload,
        hardware: HardwareNode,
        *,
        phase: str = "decode",
        batch_size: int = 1,
        stream_bandwidth: Quantity | str | None = None,
        **options: Unpack[FormatOptions],
    ) -> WeightStreamingResult:
        """One pass of a model whose weights stream in.

        Args:
            workload: a decoder.
            hardware: one accelerator, whose memory holds the cache and a part of the weights.
            phase: "decode" (a step) or "prefill" (the pass over the prompts).
            batch_size: sequences.
            stream_bandwidth: of the link that weights arrive over; by default the accelerator's own to its host.
            **options: see ``FormatOptions``.

        Raises:
            InputError: an argument out of range, or an accelerator without a link to a host and no ``stream_bandwidth``.

        Example:
            >>> from mlsysim import Hardware, Models
            >>> run = WeightStreamingModel().solve(
            ...     Models.Language.Llama2_70B, Hardware.Cloud.Cerebras_WSE3, stream_bandwidth="150 GB/s", input_len=2048
            ... )
            >>> f"{run.latency.m_as('s'):.2f} s", run.binding, f"{run.balanced_batch:.0f} tokens"
            ('0.92 s', 'stream', '833333 tokens')
        """
        named = one_of("phase", phase, PHASES)
        device = instance("hardware", hardware, HardwareNode, "an accelerator such as Hardware.Cloud.H100")
        stated = stream_bandwidth is not None
        if stated:
            link_Bps = positive_quantity("stream_bandwidth", stream_bandwidth, "byte/second")
            device = device.model_copy(update={"host_link_bw": Q_(link_Bps, "byte/second")})
        elif device.host_link_bw is None:
            raise InconsistentError("stream_bandwidth", None, f"a bandwidth: {device.name} lists no link to a host")
        else:
            link_Bps = float(device.host_link_bw.m_as("byte/second"))
        output = 1 if named == "decode" else None
        asked: dict[str, Any] = {"batch_size": batch_size, "output_len": output, **options}
        deployment = Deployment.of(workload, device, offload="weights", **asked)
        run = ServingModel().solve(workload, device, offload="weights", **asked)
        seconds = float((run.itl if named == "decode" else run.ttft).m_as("second"))
        tokens = deployment.batch * (1.0 if named == "decode" else deployment.prompt)
        stream_s = min(seconds, float(run.host_memory_per_accelerator.m_as("byte")) / link_Bps)
        rate = device.rate_flops_per_s(deployment.rated, deployment.arithmetic) * (deployment.efficiency or 1.0)
        element_B = bytes_per_element(deployment.weights)
        streams = stream_s >= seconds * (1 - 1e-6)
        return WeightStreamingResult(
            solver="WeightStreamingModel",
            subject=f"{named} of {deployment.batch:.0f} sequences of {deployment.workload.name} on {device.name}",
            binding="memory capacity" if run.reason else "stream" if streams else "arithmetic and memory",
            breakdown=with_units({"stream": stream_s, "arithmetic and memory beyond it": seconds - stream_s}, "second"),
            diagnostics=(*run.diagnostics, *(() if stated else (f"weights stream over the host link of {device.name}",))),
            latency=with_unit(seconds, "second"),
            stream_time=with_unit(stream_s, "second"),
            stream_bandwidth=with_unit(link_Bps, "byte/second"),
            balanced_batch=float(balanced_tokens(element_B, link_Bps, rate)),
            tokens_per_second=with_unit(tokens / seconds, "count/second"),
            **run.taken("basis", "reason", "coefficients"),
        )
