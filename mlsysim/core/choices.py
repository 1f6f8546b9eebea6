"""Texts that arguments choose from, as types that editors complete; a test holds them to what the code accepts.

Every spelling of a number format is read (``core/data/formats.toml``); ``Precision`` has those in which products are computed.
"""

from __future__ import annotations

from typing import Literal

Precision = Literal["fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp6", "fp4", "fp8_block", "mxfp8", "mxfp4", "nvfp4"]
GradientFormat = Literal["bf16", "fp16", "fp32"]
Recomputation = Literal["none", "selective", "full"]
AttentionKernel = Literal["flash", "flash-1", "unfused", "fused-softmax"]
PipelineSchedule = Literal["gpipe", "1f1b", "interleaved"]
ServingSchedule = Literal["static", "continuous", "offline"]
BatchSchedule = Literal["static", "continuous"]
Arrivals = Literal["random", "even"]
ServiceTimes = Literal["exponential", "deterministic"]
SearchSpace = Literal["tp-pp-dp", "full"]
Objective = Literal["step_time", "mfu", "tokens_per_dollar", "tokens_per_joule", "time_to_train"]
Basis = Literal["bound"]
