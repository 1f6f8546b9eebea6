"""What stands between requests and an engine: clients of servers, harnesses of queries and of language models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlsysim.calibration.device_entries import device_entries
from mlsysim.calibration.engines import Engine, engine
from mlsysim.calibration.store import coefficients, fitted_of, known_entry, resolved
from mlsysim.core.checks import one_of
from mlsysim.core.identity_cache import identity_cache
from mlsysim.core.toml import packaged_toml, reads

FILE = "harnesses.toml"
CLIENT = "client"  # the tables of what a server's users reach it through
QUERIES = "queries"  # the tables of harnesses that gather queries into batches
Tables = Mapping[str, dict[str, dict[str, Any]]]


@reads("calibration", "harnesses.toml")
def client_tables() -> dict[str, dict[str, Any]]:
    """What users reach a server through, as the TOML states it."""
    return dict(packaged_toml("calibration", FILE)[CLIENT])


def reached_through(engine_name: str, client: str | None = None) -> Engine:
    """The engine of any of its names with what its users' client (by default the engine's own) adds to each request.

    Raises:
        UnknownNameError: no such engine, or no such client; the message has near names.

    Example:
        >>> [reached_through("vllm-2025", client).coefficients.request_s for client in (None, "in-process")]
        [0.005, 0.0]
    """
    return _behind(engine(engine_name), client)


@identity_cache()
def _behind(served_by: Engine, client: str | None) -> Engine:
    known = client_tables()
    name = one_of("harness_name", served_by.client if client is None else client, known)
    request_s = served_by.coefficients.request_s + float(resolved(known, name)["request_s"])
    fitted = (*served_by.fitted, *fitted_of(known, name, CLIENT))
    return replace(served_by, client=name, coefficients=replace(served_by.coefficients, request_s=request_s), fitted=fitted)


@dataclass(frozen=True, slots=True)
class Harness:
    """Costs that a harness adds to an engine's passes; at most six of these are fitted to one.

    Attributes:
        copied_share: time of copies from the host that passes of other batches do not hide, over that of all copies.
        integer_share: rate of an encoder with sequences as they arrive over that of batches sorted by length, 8-bit integers.
        float_share: that rate in other number formats.
        query_s: time of a query, whatever its size: hands it over, launches, collects the answer; adds to latency.
        request_s: accelerator's time of each sample.
        lone_clock: share of the datasheet's rate while queries come one at a time: no limit of power holds it down.
    """

    copied_share: float
    integer_share: float
    float_share: float
    query_s: float
    request_s: float
    lone_clock: float


@reads("calibration", "harnesses.toml")
def served_tables() -> dict[str, dict[str, Any]]:
    """The harnesses of queries, as the TOML states them."""
    return dict(packaged_toml("calibration", FILE)[QUERIES])


@reads("calibration", "harnesses.toml")
def query_harness(name: str) -> Harness:
    """The harness of queries called ``name``.

    Raises:
        UnknownNameError: no such harness; the message lists them.

    Example:
        >>> query_harness("triton").request_s > query_harness("lwis").request_s
        True
    """
    return coefficients(Harness, known_entry("harness_name", name, served_tables()))


def harness_fitted_names(name: str) -> tuple[str, ...]:
    """Names of the fitted coefficients; one taken from the entry that it is like keeps that entry's name.

    Example:
        >>> harness_fitted_names("triton")[-1]
        'harness.triton.request_s'
    """
    return fitted_of(served_tables(), one_of("harness_name", name, served_tables()), "harness")


@dataclass(frozen=True, slots=True)
class LoadHarness:
    """The program that puts requests before an engine, and how far its submitters tuned it.

    Attributes:
        name, engine: the harness's name, and that of the engine that it runs.
        compute_share: share of the engine's rate of arithmetic that it reaches.
        sequence_s: time of each sequence of a pass, on top of the engine's.
        reserves: cache is set aside for a sequence's longest length when it starts; else it grows with it.
    """

    name: str
    engine: str
    compute_share: float
    sequence_s: float
    reserves: bool


@reads("calibration", "harnesses.toml")
def loaded_tables() -> dict[str, dict[str, dict[str, Any]]]:
    """The harnesses of language models under load, and what entries of devices say of it, as the TOML states them."""
    return {"harness": dict(packaged_toml("calibration", FILE)["harness"]), "device": device_entries("loaded")}


@reads("calibration", "harnesses.toml")
def harness(name: str) -> LoadHarness:
    """The harness of language models called ``name``.

    Raises:
        UnknownNameError: no such harness; the message lists them.

    Example:
        >>> harness("mlperf-vllm").engine
        'vllm-2025'
    """
    return harness_of(loaded_tables(), one_of("harness_name", name, loaded_tables()["harness"]))


@reads("calibration", "harnesses.toml")
def chosen_of(benchmark: str) -> dict[str, int]:
    """What no source states of a benchmark, by name, and calibration rows chose; empty for most.

    Example:
        >>> chosen_of("mixtral-8x7b"), chosen_of("gptj-99")
        ({'prompt': 450}, {})
    """
    entry = packaged_toml("calibration", FILE)["chosen"].get(benchmark, {})
    return {name: value for name, value in entry.items() if name != "source"}


def harness_of(tables: Tables, name: str) -> LoadHarness:
    """The harness of language models called ``name`` in ``tables``."""
    entry = resolved(tables["harness"], name)
    numbers = float(entry["compute_share"]), float(entry["sequence_s"]), bool(entry["reserves"])
    return LoadHarness(name, str(entry["engine"]), *numbers)


def device_of(tables: Tables, hardware_name: str) -> str:
    """The name of this accelerator's entry; empty where its clock holds under any load."""
    return next((name for name, entry in tables["device"].items() if hardware_name in entry["hardware"]), "")


def loaded_engine(engine: Engine, hardware_name: str, front: LoadHarness | None, tables: Tables | None = None) -> Engine:
    """``engine`` at its highest load on this accelerator, behind ``front`` if there is one.

    Example:
        >>> from mlsysim.calibration.engines import engine
        >>> loaded_engine(engine("vllm-2025"), "A100 SXM4 80GB", None) == engine("vllm-2025")
        True
    """
    known = tables or loaded_tables()
    device = device_of(known, hardware_name)
    clock = float(known["device"][device]["clock"]) if device else 1.0
    base = engine.coefficients
    changed = replace(
        base,
        compute_share=base.compute_share * clock * (front.compute_share if front else 1.0),
        sequence_s=base.sequence_s + (front.sequence_s if front else 0.0),
    )
    return replace(engine, coefficients=changed, reserves=front.reserves if front else engine.reserves)


def loaded_fitted_names(hardware_name: str, front: LoadHarness | None) -> tuple[str, ...]:
    """Names of the fitted coefficients behind ``loaded_engine``, besides the engine's.

    Example:
        >>> from mlsysim.calibration.harnesses import harness
        >>> loaded_fitted_names("H200 SXM 141GB", harness("mlperf-vllm"))
        ('harness.mlperf-vllm.compute_share', 'harness.mlperf-vllm.sequence_s')
    """
    tables = loaded_tables()
    device = device_of(tables, hardware_name)
    clock = [f"loaded_device.{device}.{part}" for part in tables["device"][device].get("fit", ())] if device else []
    return (*(fitted_of(tables["harness"], front.name, "harness") if front else ()), *clock)
