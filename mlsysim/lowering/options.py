"""The arguments that describe a serving deployment and its load: their names, types, defaults and meanings, here alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, TypedDict

from mlsysim.core.options import Option
from mlsysim.core.units import Quantity


class PromptOptions(TypedDict, total=False):
    """The length of a prompt, by either of its two names."""

    input_len: Annotated[int | None, Option(None, "tokens of a prompt")]
    seq_len: Annotated[int | None, Option(None, "another name of ``input_len``")]


class EngineOptions(PromptOptions, total=False):
    """A prompt, and what computes it."""

    stack: Annotated[str | None, Option(None, 'a calibrated engine such as "vllm-2025": its kernels and overheads')]
    efficiency: Annotated[float | None, Option(None, "share of peak arithmetic that the caller owns; a stack knows its own")]
    kv_precision: Annotated[str | None, Option(None, "number format of the KV cache; by default that of the arithmetic")]


class FormatOptions(EngineOptions, total=False):
    """The above, and the other number formats."""

    precision: Annotated[str, Option("fp16", "number format of the arithmetic, and of weights and KV cache unless said")]
    weight_precision: Annotated[str | None, Option(None, "number format of the weights in memory")]


class LoadOptions(FormatOptions, total=False):
    """The above, and the limits that requests keep where a system is asked for its highest load."""

    max_ttft: Annotated[Quantity | str | None, Option(None, "limit on the time to the first token")]
    max_tpot: Annotated[Quantity | str | None, Option(None, "limit on the time per token after it")]
    max_latency: Annotated[Quantity | str | None, Option(None, "limit on the whole request")]
    percentile: Annotated[float, Option(0.99, "share of the requests that keep the limits")]
    output_spread: Annotated[float, Option(0.0, "standard deviation of the generated tokens over their mean")]
    beams: Annotated[int, Option(1, "sequences that are searched for one request")]
    harness_name: Annotated[
        str | None, Option(None, 'what puts requests before the engine, such as "mlperf-vllm"; by default nothing does')
    ]
    tp_sizes: Annotated[
        Sequence[int] | None,
        Option(None, "values of ``tp_size`` to try; by default powers of two that divide a node and the heads"),
    ]


class DeploymentOptions(FormatOptions, total=False):
    """The above, and how one copy of the model is divided."""

    tp_size: Annotated[int, Option(1, "accelerators that share each layer")]
    pp_size: Annotated[int, Option(1, "stages that share the layers")]
    attention_dp: Annotated[bool, Option(False, "whether each of the ``tp_size`` ranks attends for sequences of its own")]


class ServingOptions(DeploymentOptions, total=False):
    """All that can be said of a deployment and its load."""

    batch_size: Annotated[int, Option(1, "sequences of a fixed batch, or requests in flight, of one replica")]
    output_len: Annotated[int | None, Option(None, "tokens that a request generates")]
    replicas: Annotated[int, Option(1, "copies of the model, each with its own batch")]
    schedule: Annotated[
        str,
        Option("static", '"static" (a fixed batch), "continuous" (requests always in flight) or "offline" (as many as fit)'),
    ]
    rounds: Annotated[int | None, Option(None, "requests that each place in flight serves; by default the steady state")]
    requests: Annotated[int | None, Option(None, "equal requests of an offline run in all; by default it has no end")]
    stream_interval: Annotated[int, Option(1, "tokens that reach the client at a time, the first with the last of so many")]
    padded_len: Annotated[
        int | None,
        Option(None, "the longest prompt of a fixed batch, where ``input_len`` is the mean; by default all are as long"),
    ]
    prefix_hit: Annotated[float, Option(0.0, "share of a prompt's tokens that the prefix cache has: no prefill computes them")]
    page_size: Annotated[int, Option(1, "tokens of a block of the KV cache, which is given out whole")]
    offload: Annotated[
        str | Mapping[str, float] | None,
        Option(
            None,
            'what the host\'s memory keeps and every pass streams: "weights", "kv", "weights+kv", or shares of each by name',
        ),
    ]
    host_memory: Annotated[
        Quantity | str | None,
        Option(None, "host memory of one accelerator; by default its part of the node's, or what is needed if nobody says"),
    ]
