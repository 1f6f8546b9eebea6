"""Serving engines and the kernels that stand for devices, fitted to measurements of language models (``anchors/serving``)."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlsysim.calibration.engines import COEFFICIENTS, FORMAT_SHARES, EngineDevice, engine, engine_device
from mlsysim.fitting.bounded import Coefficient
from mlsysim.fitting.calibration import Calibration, Entry, Key, Place, Runs, cases
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.serving_kernels import Formats, engine_kernels, network_Bps, serving_kernels, serving_shape
from mlsysim.lowering.serving_memory import room
from mlsysim.lowering.work import inference_work
from mlsysim.physics.records import stacked
from mlsysim.physics.serving.deployment import EngineCoefficients, ServingShape, Shards
from mlsysim.physics.serving.schedule import EnginePasses, Served, continuous_batch, most_throughput, static_batch, streamed
from mlsysim.tables.serving import METRICS, serving_question
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.kernels.errors import Times

# Physically meaningful ranges; a coefficient that ends at one is reported.
RANGES = {
    "engine": {
        "layer_s": Coefficient(6e-5, 0.0, 5e-4),
        "scaling_s": Coefficient(1e-5, 0.0, 1e-4),
        "fused_s": Coefficient(5e-6, 0.0, 2.5e-5),
        "latency_share": Coefficient(0.7, 0.0, 8.0),  # 36-44 us a call in some harnesses, where the best have 5
        "step_s": Coefficient(5e-4, 0.0, 1e-2),
        "sequence_s": Coefficient(1e-5, 1e-7, 2e-2, log=True),
        "layer_sequence_s": Coefficient(1e-4, 0.0, 1e-3),
        "request_s": Coefficient(2e-2, 0.0, 3e-1),
        "compute_share": Coefficient(0.85, 0.2, 1.2),
        "memory_share": Coefficient(0.95, 0.4, 1.1),
        "attention_share": Coefficient(0.9, 0.2, 1.5),
        "passes": Coefficient(1.0, 0.3, 5.0),
        "interleave": Coefficient(0.9, 0.2, 1.5),
        "core_Bps": Coefficient(1.2e10, 2e9, 4e10),
        "hop_s": Coefficient(1e-4, 0.0, 1e-3),
    },
    "device": {
        "compute_share": Coefficient(1.0, 0.3, 1.8),
        "memory_share": Coefficient(1.0, 0.4, 1.3),
        "attention_share": Coefficient(1.0, 0.3, 2.0),
        "sustained_share": Coefficient(0.5, 0.1, 0.99),
        "fp32_share": Coefficient(1.0, 0.3, 1.8),
        "tf32_share": Coefficient(1.0, 0.3, 1.2),
        "int8_share": Coefficient(1.0, 0.5, 1.8),
        "link_share": Coefficient(1.0, 0.1, 4.0),
        "crossing_share": Coefficient(0.8, 0.2, 1.0),
        "own_compute_share": Coefficient(0.5, 0.05, 2.0),
        "own_memory_share": Coefficient(0.9, 0.4, 1.0),
    },
}
# The error that a coefficient costs a whole range away from where its range is entered: what no figure places stays there.
PULL = 0.03
# Metrics of prompts; the others are of decode steps and whole batches.
FIRST_TOKEN = ("ttft", "prompt_tokens_per_second", "prefill_mfu")
_SHARES = tuple(part.name for part in fields(EngineDevice) if part.name.endswith("_share"))


@dataclass(frozen=True, eq=False)
class Figures:
    """Figures of one engine on one accelerator at one set of formats under one schedule, as arrays."""

    stack: str
    accelerator: HardwareNode
    formats: Formats
    nic_Bps: float
    schedule: str
    shape: ServingShape
    shards: Shards
    settings: Mapping[str, Times]
    most: Times
    keyed: Times
    encoder: bool
    metrics: tuple[str, ...]
    first_excluded: Times

    @np.errstate(divide="ignore")  # models of experts have a product of no columns, weighed by 0
    def predicted(self, entries: Mapping[str, Entry]) -> Times:
        """The metric of every row; coefficients of the engine that are columns give a line each."""
        own = self.settings
        found = engine(self.stack)
        device = _device(self.accelerator, entries.get("device", {}))
        passes = EnginePasses(
            shape=self.shape,
            shards=self.shards,
            kernels=serving_kernels(self.accelerator, self.formats, self.nic_Bps, device, found.has),
            engine=EngineCoefficients(**{part: entries["engine"][part] for part in COEFFICIENTS if part in entries["engine"]}),
            has=engine_kernels(found, self.accelerator, self.formats, causal=not self.encoder),
            step_tokens=found.step_tokens,
            padding=own["padded"] / own["prompt"],
        )
        prompt, output = own["prompt"], own["output"]
        if self.schedule == "static":
            served = static_batch(passes, own["batch"], prompt, output, own["context"])
        elif self.schedule == "offline":
            served = most_throughput(passes, self.most, prompt, output, own["requests"], found.step_tokens)
        else:
            served = continuous_batch(passes, own["batch"], self.most, prompt, output, own["rounds"])
        return self._metric(streamed(served, output, own["stream_interval"]))

    def _metric(self, served: Served) -> Times:
        batch, prompt, output, replicas = (self.settings[name] for name in ("batch", "prompt", "output", "replicas"))
        decode_rate = batch / np.asarray(served.step.total_s)
        tokens = np.where(output > 0, np.asarray(served.tokens_per_s), decode_rate) * replicas
        by_name = {
            "ttft": served.ttft_s,
            "token_gap": served.tpot_s,
            "tpot": np.where(self.first_excluded, served.tpot_s, served.request_s / np.maximum(output, 1.0)),
            "request_latency": served.request_s,
            "tokens_per_second": tokens,
            "requests_per_second": tokens / np.maximum(output, 1.0),
            "prompt_tokens_per_second": np.where(self.schedule == "static", batch, 1.0) * prompt * replicas / served.ttft_s,
            "prefill_mfu": self.keyed / served.ttft_s,
        }
        return np.stack([np.asarray(by_name[name])[..., row] for row, name in enumerate(self.metrics)], axis=-1)


def _device(accelerator: HardwareNode, entry: Entry) -> EngineDevice:
    """The kernels that stand for an accelerator, with the shares of ``entry``."""
    shares: dict[str, Any] = {part: float(entry[part]) for part in _SHARES if part in entry}
    if "compute_share" in shares:
        shares.setdefault("own_compute_share", shares["compute_share"])
    return replace(engine_device(accelerator.name), **shares)


def runs_of(anchors: Iterable[Anchor]) -> list[Runs]:
    """Serving cases, grouped so that each group shares its kernels."""
    groups: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for anchor in anchors:
        question = serving_question(anchor.case.run)
        setting = prepared(question.workload, question.hardware, question.arguments)
        if setting.stack is not None and setting.stack.has.torus:
            continue  # nothing of such engines is fitted
        work = inference_work(setting.workload, setting.weights, setting.cache)
        formats = Formats(setting.arithmetic, setting.weights, setting.cache)
        assert setting.stack is not None
        node = setting.accelerator
        group = (
            *(setting.stack.name, node.name, formats, network_Bps(setting), setting.schedule),
            *(setting.workload.causal, node.compute.multiprocessors, node.memory_bandwidth_Bps),
        )
        flops = setting.prompts * setting.prompt * (work.matmul_flops + work.attention_flops_per_key * setting.keys)
        rate = setting.tp * setting.pp * node.rate_flops_per_s(setting.rated)
        name, _ = METRICS[question.metric]
        most = max(1.0, room(setting, work).most_sequences)
        excluded = question.arguments["tpot_excludes_first_token"]
        row = (setting, most, flops / rate, name, excluded, _measured(anchor), anchor.source.key)
        groups.setdefault(group, []).append(row)
    return [_together(group, rows) for group, rows in groups.items()]


def _measured(anchor: Anchor) -> float:
    """What the case measured, in seconds, counts a second, or as a share."""
    value = float(anchor.case.value or 0.0)
    return value * {"ms": 1e-3, "percent": 1e-2}.get(anchor.case.unit, 1.0)


def prepared(workload: Any, hardware: Any, arguments: Mapping[str, Any]) -> Deployment:
    """A question checked, as ``ServingModel.solve`` does."""
    asked = {name: value for name, value in arguments.items() if name != "tpot_excludes_first_token"}
    return Deployment.of(workload, hardware, **asked)


_NUMBERS = ("prompt", "padded", "output", "context", "batch", "rounds", "requests", "stream_interval", "replicas")


def _together(group: tuple[Any, ...], rows: list[tuple[Any, ...]]) -> Runs:
    settings, most, keyed, metrics, excluded, measured, sources = zip(*rows, strict=True)
    stack, _, formats, nic_Bps, schedule, *_ = group
    first: Deployment = settings[0]

    def numbers(name: str) -> Times:
        return np.array([float(getattr(setting, name) or 0.0) for setting in settings])

    figures = Figures(
        stack=stack,
        accelerator=first.accelerator,
        formats=formats,
        nic_Bps=nic_Bps,
        schedule=schedule,
        shape=stacked([serving_shape(setting.workload) for setting in settings]),
        shards=Shards(*(numbers(name) for name in ("tp", "pp", "per_node", "attention_ranks"))),
        settings={name: numbers(name) for name in _NUMBERS},
        most=np.array(most),
        keyed=np.array(keyed),
        encoder=not first.workload.causal,
        metrics=metrics,
        first_excluded=np.array(excluded),
    )
    device = engine_device(first.accelerator.name).name
    return Runs(
        on={"engine": stack, "device": device},
        measured=np.array(measured),
        sources=sources,
        predict=figures.predicted,
        together="engine",
        decides=functools.partial(_decides, stack, formats.precision),
        metrics=metrics,
    )


def _decides(stack: str, precision: str, key: Key) -> bool:
    """What figures of an engine say something of: what is fitted of it, not of the one that it is like, and of the device.

    Of a device they decide its own shares where the engine brings its products, else the others, and the share of a number
    format where they compute in it.
    """
    if key.kind == "engine":
        return key.entry == stack
    others = [f"{fmt}_share" for fmt in FORMAT_SHARES if fmt != precision]
    return key.part.startswith("own_") == engine(stack).has.own_products and key.part not in others


def gathered(root: Path, role: str) -> list[Runs]:
    """The figures of ``role`` under ``root``."""
    return runs_of(cases(root, ("serving",), role))


ENGINES = Calibration(
    name="engines",
    files={"engine": Place("engines.toml"), "device": Place("engine_devices.toml")},
    range_of=lambda key, _: RANGES[key.kind][key.part],
    gathered=gathered,
    pull=PULL,
    rows_at_full_weight=40.0,
)
