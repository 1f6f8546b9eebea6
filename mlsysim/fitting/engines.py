"""Fits serving engines and the kernels that stand for devices: ``python -m mlsysim.fitting.engines anchors``.

A second argument names the engines to fit (``llama.cpp``: all whose names begin so), the others stay as they are. Reads the
calibration cases of ``anchors/serving`` and no others; writes ``engines.toml`` and
``engine_devices.toml``. What is fitted of an entry is named in it (``fit``); everything else there is stated and stays.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlsysim.calibration.engines import COEFFICIENTS, FORMAT_SHARES, EngineDevice, engine, engine_device
from mlsysim.calibration.stacks import resolved
from mlsysim.core.toml import packaged_toml
from mlsysim.fitting.bounded import Coefficient, fit
from mlsysim.fitting.engine_tables import Calibration, Tables, coefficients_of, device_of, varied
from mlsysim.fitting.toml_text import write_tables
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.serving_kernels import Formats, engine_kernels, network_Bps, serving_kernels, serving_shape
from mlsysim.lowering.serving_memory import room
from mlsysim.lowering.work import inference_work
from mlsysim.physics.serving.deployment import EngineCoefficients, ServingShape, Shards
from mlsysim.physics.serving.schedule import EnginePasses, Served, continuous_batch, most_throughput, static_batch, streamed
from mlsysim.tables.serving import METRICS, serving_question
from mlsysim.tables.training_steps import stacked
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.loading import anchor_files, load
from mlsysim.validation.kernels.errors import ErrorStatistics, Times

# Physically meaningful ranges; a coefficient that ends at one is reported.
RANGES = {
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
}
DEVICE_RANGES = {
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
}
RANGES_OF = {"engine": RANGES, "device": DEVICE_RANGES}
# The error that a coefficient costs a whole range away from where its range is entered: what no figure places stays there.
PULL = 0.03
_FULL_WEIGHT_ROWS = 40.0


@dataclass
class Runs:
    """Figures of one stack on one accelerator at one set of formats under one schedule, as arrays."""

    stack: str
    device: str
    accelerator: HardwareNode
    formats: Formats
    nic_Bps: float
    schedule: str
    shape: ServingShape
    shards: Shards
    prompt: Times
    padded: Times
    output: Times
    context: Times
    batch: Times
    most: Times
    rounds: Times
    requests: Times
    stream_interval: Times
    replicas: Times
    keyed: Times
    encoder: bool
    metrics: tuple[str, ...]
    first_excluded: Times
    measured: Times
    sources: tuple[str, ...]
    solved: dict[tuple[Any, ...], Times] = field(default_factory=dict)

    def predicted(self, coefficients: EngineCoefficients, device: EngineDevice) -> Times:
        """The metric of every row; a fit changes few coefficients at a time, so that most answers are known."""
        key = (coefficients, *(getattr(device, part) for part in DEVICE_RANGES))
        if key not in self.solved:
            if len(self.solved) > 2:
                self.solved.pop(next(iter(self.solved)))
            self.solved[key] = self._metric(self._served(coefficients, device))
        return self.solved[key]

    def together(self, coefficients: Sequence[EngineCoefficients], device: EngineDevice) -> Times:
        """The metric of every row, a line a choice of coefficients: what differs stands below each other, computed at once."""
        listed = {part: [getattr(choice, part) for choice in coefficients] for part in COEFFICIENTS}
        changed: dict[str, Any] = {part: np.array(own)[:, None] for part, own in listed.items() if min(own) < max(own)}
        lines = self._metric(self._served(replace(coefficients[0], **changed), device))
        return np.broadcast_to(lines, (len(coefficients), len(self.metrics)))

    @np.errstate(divide="ignore")  # models of experts have a product of no columns, weighed by 0
    def _served(self, coefficients: EngineCoefficients, device: EngineDevice) -> Served:
        found = engine(self.stack)
        passes = EnginePasses(
            shape=self.shape,
            shards=self.shards,
            kernels=serving_kernels(self.accelerator, self.formats, self.nic_Bps, device, found.has),
            engine=coefficients,
            has=engine_kernels(found, self.accelerator, self.formats, causal=not self.encoder),
            step_tokens=found.step_tokens,
            padding=self.padded / self.prompt,
        )
        if self.schedule == "static":
            served = static_batch(passes, self.batch, self.prompt, self.output, self.context)
        elif self.schedule == "offline":
            served = most_throughput(passes, self.most, self.prompt, self.output, self.requests, found.step_tokens)
        else:
            served = continuous_batch(passes, self.batch, self.most, self.prompt, self.output, self.rounds)
        return streamed(served, self.output, self.stream_interval)

    def _metric(self, served: Served) -> Times:
        decode_rate = self.batch / np.asarray(served.step.total_s)
        tokens = np.where(self.output > 0, np.asarray(served.tokens_per_s), decode_rate) * self.replicas
        prompts = np.where(self.schedule == "static", self.batch, 1.0) * self.prompt * self.replicas / served.ttft_s
        by_name = {
            "ttft": served.ttft_s,
            "token_gap": served.tpot_s,
            "tpot": np.where(self.first_excluded, served.tpot_s, served.request_s / np.maximum(self.output, 1.0)),
            "request_latency": served.request_s,
            "tokens_per_second": tokens,
            "requests_per_second": tokens / np.maximum(self.output, 1.0),
            "prompt_tokens_per_second": prompts,
            "prefill_mfu": self.keyed / served.ttft_s,
        }
        return np.stack([np.asarray(by_name[name])[..., row] for row, name in enumerate(self.metrics)], axis=-1)


def serving_anchors(root: Path, role: str) -> list[Anchor]:
    """The serving cases of ``role`` that come from tables of measurements."""
    files = [path for path in anchor_files(root) if path.parent.name == "serving"]
    return [anchor for path in files for anchor in load(path) if anchor.case.run and anchor.case.role == role]


def gathered(anchors: Iterable[Anchor]) -> list[Runs]:
    """The figures of ``anchors``, grouped so that each group shares its kernels."""
    groups: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for anchor in anchors:
        asked = serving_question(anchor.case.run)
        setting = prepared(asked.workload, asked.hardware, asked.arguments)
        if setting.stack is not None and setting.stack.has.torus:
            continue  # nothing of such engines is fitted
        work = inference_work(setting.workload, setting.weights, setting.cache)
        formats = Formats(setting.arithmetic, setting.weights, setting.cache)
        assert setting.stack is not None
        key = (
            *(setting.stack.name, setting.accelerator.name, formats, network_Bps(setting), setting.schedule),
            *(setting.workload.causal, setting.accelerator.compute.multiprocessors, setting.accelerator.memory_bandwidth_Bps),
        )
        flops = setting.prompts * setting.prompt * (work.matmul_flops + work.attention_flops_per_key * setting.keys)
        rate = setting.tp * setting.pp * setting.accelerator.rate_flops_per_s(setting.rated)
        name, _ = METRICS[asked.metric]
        most = max(1.0, room(setting, work).most_sequences)
        excluded = asked.arguments["tpot_excludes_first_token"]
        row = (setting, most, flops / rate, name, excluded, _measured(anchor), anchor.source.key)
        groups.setdefault(key, []).append(row)
    return [_runs(key, rows) for key, rows in groups.items()]


def _measured(anchor: Anchor) -> float:
    """What the case measured, in seconds, counts a second, or as a share."""
    value = float(anchor.case.value or 0.0)
    return value * {"ms": 1e-3, "percent": 1e-2}.get(anchor.case.unit, 1.0)


def prepared(workload: Any, hardware: Any, arguments: Mapping[str, Any]) -> Deployment:
    """A question checked, as ``ServingModel.solve`` does."""
    asked = {name: value for name, value in arguments.items() if name != "tpot_excludes_first_token"}
    return Deployment.of(workload, hardware, **asked)


def _runs(key: tuple[Any, ...], rows: list[tuple[Any, ...]]) -> Runs:
    settings, most, keyed, metrics, excluded, measured, sources = zip(*rows, strict=True)
    first: Deployment = settings[0]

    def numbers(name: str) -> Times:
        return np.array([float(getattr(setting, name) or 0.0) for setting in settings])

    return Runs(
        stack=key[0],
        device=engine_device(first.accelerator.name).name,
        accelerator=first.accelerator,
        formats=key[2],
        nic_Bps=key[3],
        schedule=key[4],
        shape=stacked([serving_shape(setting.workload) for setting in settings]),
        shards=Shards(numbers("tp"), numbers("pp"), numbers("per_node"), numbers("attention_ranks")),
        prompt=numbers("prompt"),
        padded=numbers("padded"),
        output=numbers("output"),
        context=numbers("context"),
        batch=numbers("batch"),
        most=np.array(most),
        rounds=numbers("rounds"),
        requests=numbers("requests"),
        stream_interval=numbers("stream_interval"),
        replicas=numbers("replicas"),
        keyed=np.array(keyed),
        encoder=not first.workload.causal,
        metrics=metrics,
        first_excluded=np.array(excluded),
        measured=np.array(measured),
        sources=sources,
    )


def fit_all(root: Path, only: str = "") -> tuple[Tables, Tables]:
    """Entries of ``engines.toml`` and ``engine_devices.toml``, fitted to the calibration cases under ``root``.

    With ``only``, engines whose name begins so, and what they share a coefficient with; the others stay.
    """
    tables, runs = stated(), gathered(serving_anchors(root, "calibration"))
    at_bound = fitted(runs, tables, keys_of((run for run in runs if run.stack.startswith(only)), tables))
    _note(tables["engine"], tables["device"], at_bound, root)
    return tables["engine"], tables["device"]


def stated() -> Calibration:
    """Both files as they stand, by kind of entry."""
    return {"engine": _stated("engines.toml"), "device": _stated("engine_devices.toml")}


def fitted(
    runs: list[Runs], tables: Calibration, only: Collection[str] | None = None, tolerance: float = 1e-8
) -> dict[str, bool]:
    """Fits ``tables`` to ``runs`` in place (``only``: groups that use one of these keys); whether each ended at its bound."""
    engines, devices = tables["engine"], tables["device"]
    weights = _weights(runs)
    at_bound: dict[str, bool] = {}
    for together in _components(runs, engines, devices):
        chosen = [runs[index] for index in together]
        names = sorted({key for run in chosen for key in _free(run, engines, devices)})
        if only is not None and not set(names) & set(only):
            continue
        free = {key: _start(tables, key) for key in names}
        weighed = np.concatenate([weights[index] for index in together])
        predict, columns = functools.partial(_predicted, chosen, engines, devices), functools.partial(varied, chosen, tables)
        found = fit(predict, measured(chosen), free, weighed, PULL, tolerance, columns)
        for key, value in found.values.items():
            kind, name, part = key.split(" ")
            tables[kind][name][part] = free[key].written(value)
        at_bound |= {key: key in found.at_bound for key in found.values}
    return at_bound


def measured(runs: Iterable[Runs]) -> Times:
    """The figures of all ``runs``."""
    return np.concatenate([run.measured for run in runs])


def predicted(runs: Iterable[Runs], tables: Calibration) -> Times:
    """What ``tables`` give for all ``runs``, in the order of ``measured``."""
    return _predicted(runs, tables["engine"], tables["device"], {})


def keys_of(runs: Iterable[Runs], tables: Calibration) -> set[str]:
    """Of all that is fitted to ``runs``: as in "engine vllm-2025 layer_s" and "device b200_sxm memory_share"."""
    return {key for run in runs for key in _free(run, tables["engine"], tables["device"])}


def keys_beside(runs: list[Runs], tables: Calibration, keys: Collection[str]) -> set[str]:
    """Of all that is fitted to ``runs`` together with any of ``keys``."""
    found = [keys_of((runs[i] for i in part), tables) for part in _components(runs, tables["engine"], tables["device"])]
    return {key for part in found if part & set(keys) for key in part}


def _free(run: Runs, engines: Mapping[str, Mapping[str, Any]], devices: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The fitted coefficients that a group of figures hangs on.

    A device's own shares where the engine brings its products, and the share of a number format where it computes in it.
    """
    own = engine(run.stack).has.own_products
    others = [f"{fmt}_share" for fmt in FORMAT_SHARES if fmt != run.formats.precision]
    parts = [part for part in devices[run.device].get("fit", ()) if part.startswith("own_") == own and part not in others]
    return [
        *(f"engine {run.stack} {part}" for part in engines[run.stack].get("fit", ())),
        *(f"device {run.device} {part}" for part in parts),
    ]


def _components(runs: list[Runs], engines: Any, devices: Any) -> list[list[int]]:
    """Groups of figures that share no fitted coefficient are fitted apart."""
    found: list[tuple[set[str], list[int]]] = []
    for index, run in enumerate(runs):
        keys = set(_free(run, engines, devices))
        touching = [part for part in found if part[0] & keys]
        found = [part for part in found if not part[0] & keys]
        found.append((keys.union(*(part[0] for part in touching)), [*(i for part in touching for i in part[1]), index]))
    return [sorted(part[1]) for part in found if part[0]]


def _start(tables: Calibration, key: str) -> Coefficient:
    """Where the fit begins: what the entry has, within the range. It is pulled to its prior."""
    kind, name, part = key.split(" ")
    known, value = RANGES_OF[kind][part], resolved(tables[kind], name).get(part)
    known = replace(known, prior=known.start)
    reach = known.high - known.low
    if value is None:
        return known
    inside = 1.1 * known.low if known.log else known.low + 0.02 * reach
    return replace(known, start=min(max(float(value), inside), known.high - 0.02 * reach))


def _stated(file: str) -> dict[str, dict[str, Any]]:
    return packaged_toml("calibration", file)


def _predicted(runs: Iterable[Runs], engines: Any, devices: Any, values: Mapping[str, float]) -> Times:
    trial = {"engine": {name: dict(entry) for name, entry in engines.items()}}
    trial["device"] = {name: dict(entry) for name, entry in devices.items()}
    for key, value in values.items():
        kind, name, part = key.split(" ")
        trial[kind][name][part] = value
    coefficients = {name: coefficients_of(trial["engine"], name) for name in engines}
    return np.concatenate([run.predicted(coefficients[run.stack], device_of(run, trial["device"])) for run in runs])


def _weights(runs: list[Runs]) -> list[Times]:
    """Of every figure: a source counts as at most so many."""
    sources = [source for run in runs for source in run.sources]
    counts = {source: sources.count(source) for source in set(sources)}
    return [np.array([min(1.0, (_FULL_WEIGHT_ROWS / counts[source]) ** 0.5) for source in run.sources]) for run in runs]


def _note(
    engines: dict[str, dict[str, Any]], devices: dict[str, dict[str, Any]], at_bound: Mapping[str, bool], root: Path
) -> None:
    """Writes beside each entry what it was fitted to, how well, and what ended at its bound."""
    by_role = {role: gathered(serving_anchors(root, role)) for role in ("calibration", "validation")}
    for kind, tables, attribute in (("engine", engines, "stack"), ("device", devices, "device")):
        for name, entry in tables.items():
            kept = [
                part
                for part in entry.get("at_bound", ())
                if f"{kind} {name} {part}" not in at_bound and part in entry.get("fit", ())
            ]
            for stale in ("calibration", "validation", "at_bound"):
                entry.pop(stale, None)
            entry["at_bound"] = sorted(
                {*kept, *(key.split(" ")[2] for key, hit in at_bound.items() if hit and key.split(" ")[:2] == [kind, name])}
            )
            for role, runs in by_role.items():
                chosen = [run for run in runs if getattr(run, attribute) == name]
                if chosen:
                    measured = np.concatenate([run.measured for run in chosen])
                    errors = ErrorStatistics.of(_predicted(chosen, engines, devices, {}), measured)
                    entry[role] = {part.name: getattr(errors, part.name) for part in fields(errors)}


def main(root: Path, only: str = "") -> None:
    """Fits, and writes both files beside the code that reads them."""
    engines, devices = fit_all(root, only)
    for name, tables in (("engines.toml", engines), ("engine_devices.toml", devices)):
        quoted = {f'"{key}"' if "." in key else key: entry for key, entry in tables.items()}  # a bare dot opens a table in TOML
        write_tables(name, quoted)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
