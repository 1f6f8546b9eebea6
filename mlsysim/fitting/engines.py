"""Serving engines, their clients and the kernels that stand for devices, fitted to measurements of language models."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlsysim.calibration.device_entries import DEVICES
from mlsysim.calibration.engines import COEFFICIENTS, FORMAT_SHARES, engine, engine_device, shares_of
from mlsysim.calibration.harnesses import CLIENT, FILE
from mlsysim.fitting.calibration import Calibration, Entry, Key, Place, Runs, cases
from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.serving_kernels import KernelFormats, network_Bps, serving_kernels
from mlsysim.physics.records import stacked
from mlsysim.physics.serving.deployment import EngineCoefficients
from mlsysim.physics.serving.schedule import EnginePasses, Load
from mlsysim.solvers.serving.replica import ServingReplica, scheduled
from mlsysim.solvers.serving.serving import checked_question
from mlsysim.solvers.serving.together import stacked_engine
from mlsysim.tables.serving import METRICS
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.inputs import call_of
from mlsysim.validation.kernels.errors import Times

# The error that a coefficient costs a whole range away from where its range is entered: what no figure places stays there.
PULL = 0.03
# What figures of results are in SI units, where their own are others.
SI = {"ms": 1e-3, "us": 1e-6, "percent": 1e-2}
# Metrics of prompts; the others are of decode steps and whole batches.
FIRST_TOKEN = ("ttft", "prompt_tokens_per_second", "prefill_mfu")


@dataclass(frozen=True, eq=False)
class Figures:
    """Figures of one engine on one accelerator at one set of formats under one schedule, as arrays.

    Attributes:
        deployment: one of theirs, for what they share.
        passes, load: of all of them.
        replicas: copies of the model.
        prompts: prompts that start together.
        keyed: what ``prefill_mfu`` is the quotient of, with the time to the first token.
        metrics: what each figure is.
        after_first: whether its time between tokens leaves out the first.
    """

    deployment: Deployment
    passes: EnginePasses
    load: Load
    replicas: Times
    prompts: Times
    keyed: Times
    metrics: tuple[str, ...]
    after_first: Times

    @np.errstate(divide="ignore")  # models of experts have a product of no columns, weighed by 0
    def predicted(self, entries: Mapping[str, Entry]) -> Times:
        """The figures; coefficients of the engine that are columns give a line each."""
        deployment, entry = self.deployment, entries["engine"]
        assert deployment.stack is not None
        shares: dict[str, Any] = shares_of(entries["device"])
        device = replace(engine_device(deployment.accelerator.name), **shares)
        coefficients = {part: entry[part] for part in COEFFICIENTS if part in entry}
        coefficients["request_s"] = coefficients.get("request_s", 0.0) + entries[CLIENT]["request_s"]
        formats = KernelFormats.of(deployment)
        passes = replace(
            self.passes,
            kernels=serving_kernels(
                *(deployment.accelerator, formats, network_Bps(deployment), device, deployment.stack.has, deployment.link_Bps)
            ),
            engine=EngineCoefficients(**coefficients),
        )
        served, output = scheduled(deployment, passes, self.load), np.asarray(self.load.output)
        decode_rate = self.load.batch / np.asarray(served.step.total_s)
        tokens = np.where(output > 0, np.asarray(served.tokens_per_s), decode_rate) * self.replicas
        by_name = {
            "ttft": served.ttft_s,
            "token_gap": served.tpot_s,
            "tpot": np.where(self.after_first, served.tpot_s, served.request_s / np.maximum(output, 1.0)),
            "request_latency": served.request_s,
            "tokens_per_second": tokens,
            "requests_per_second": tokens / np.maximum(output, 1.0),
            "prompt_tokens_per_second": self.prompts * self.load.prompt * self.replicas / served.ttft_s,
            "prefill_mfu": self.keyed / served.ttft_s,
        }
        return np.stack([np.asarray(by_name[name])[..., row] for row, name in enumerate(self.metrics)], axis=-1)


class MeasuredFigure(NamedTuple):
    """A figure of a deployment, by the field of its result and in SI units, and the source that says so.

    ``after_first`` says whether its time between tokens leaves out the first.
    """

    replica: ServingReplica
    after_first: bool
    field: str
    value: float
    source: str


def runs_of(anchors: Iterable[Anchor]) -> list[Runs]:
    """Serving cases, grouped so that each group shares its kernels; engines on a torus have nothing that is fitted."""
    return grouped(map(figure_of, anchors))


def figure_of(anchor: Anchor) -> MeasuredFigure:
    """The figure of a serving case."""
    call = call_of(anchor)
    asked = checked_question(call.inputs, call.keywords)
    unit, field = SI.get(anchor.case.unit, 1.0), METRICS[anchor.case.run["metric"]][0]
    return MeasuredFigure(*asked, field, unit * float(anchor.case.value or 0.0), anchor.source.key)


def grouped(figures: Iterable[MeasuredFigure]) -> list[Runs]:
    """Measured figures, grouped so that each group shares its kernels; engines on a torus have nothing that is fitted."""
    groups: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for figure in figures:
        replica = figure.replica
        deployment, passes = replica.deployment, replica.passes
        if deployment.stack is None or not isinstance(passes, EnginePasses):
            continue
        stack = deployment.stack
        group = (stack.name, stack.client, id(passes.kernels), deployment.schedule, deployment.workload.causal)
        groups.setdefault(group, []).append(figure)
    return [_together(rows) for rows in groups.values()]


def _together(rows: Sequence[tuple[Any, ...]]) -> Runs:
    replicas, after_first, metrics, measured, sources = zip(*rows, strict=True)
    deployments = [replica.deployment for replica in replicas]
    deployment: Deployment = deployments[0]
    assert deployment.stack is not None
    figures = Figures(
        deployment=deployment,
        passes=stacked_engine([replica.passes for replica in replicas]),
        load=stacked(replica.load for replica in replicas),
        replicas=np.array([each.replicas for each in deployments]),
        prompts=np.array([each.prompts for each in deployments]),
        keyed=np.array([_peaks_of_prompt(replica) for replica in replicas]),
        metrics=metrics,
        after_first=np.array(after_first),
    )
    return Runs(
        on={
            "engine": deployment.stack.name,
            "device": engine_device(deployment.accelerator.name).name,
            CLIENT: deployment.stack.client,
        },
        measured=np.array(measured),
        sources=sources,
        predict=figures.predicted,
        together="engine",
        decides=functools.partial(_decides, deployment.stack.name, deployment.arithmetic),
        metrics=metrics,
    )


def _peaks_of_prompt(replica: ServingReplica) -> float:
    """Seconds that the arithmetic of the prompts takes at the peak of all accelerators."""
    deployment, work = replica.deployment, replica.work
    flops = deployment.prompts * deployment.prompt * (work.matmul_flops + work.attention_flops_per_key * deployment.keys)
    return float(flops / (deployment.ranks * deployment.accelerator.rate_flops_per_s(deployment.rated)))


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
    files={
        "engine": Place("engines.toml"),
        "device": Place(DEVICES, within=("serving",)),
        CLIENT: Place(FILE, around=(CLIENT,)),
    },
    gathered=gathered,
    pull=PULL,
    rows_at_full_weight=40.0,
)
