"""What was measured of runs like a given one: errors of validation runs, and of runs predicted without what they are of.

``data/evidence.csv`` has a row for each validation run, and one without an error for what else calibration runs are of;
``data/left_out.csv`` has the errors of runs that were predicted by a fit
without their source, stack, engine, device or model; ``data/assumed.csv`` says how far off runs are that leave a fact out. All
are written by ``python -m mlsysim.fitting refresh``.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from importlib import resources
from typing import NamedTuple

from mlsysim.calibration.names import unknown
from mlsysim.core.csv_file import table_lines
from mlsysim.core.toml import file_text, packaged_toml, reads

RUNS_FILE = "evidence.csv"
LEFT_OUT_FILE = "left_out.csv"
SOURCES_FILE = "evidence_sources.csv"
ASSUMED_FILE = "assumed.csv"
NAMES_FILE = "source_names.toml"
# Prompts are predicted less well than what follows them, and are judged apart.
FIRST_TOKEN = "first token"
WHOLE = "whole"
# Power has its own measurements, and the interval of energy those of power and of time.
POWER = "power"
ENERGY = "energy"
# Bases of results that rest on fitted coefficients, and so have measurements to be compared with.
FITTED_BASES = ("calibrated", "transferred")
FIRST_TOKEN_FIELDS = frozenset(("ttft", "prompt_tokens_per_second", "prefill_mfu"))


class RunFacts(NamedTuple):
    """What a run is of, by the names of the registries: by it runs like it are found.

    ``kind`` is "dense", "moe" or the workload's architecture; ``stack`` is the training stack or serving engine, "" for none.
    """

    model: str
    kind: str
    accelerator: str
    stack: str
    accelerators: float


class MeasuredRun(NamedTuple):
    """A published figure beside its prediction.

    Attributes:
        id: of the anchor's case.
        run: the same for all figures of one run.
        source: key of the publication.
        solver: whose prediction it is.
        quantity: ``WHOLE`` or ``FIRST_TOKEN``.
        facts: what the run is of.
        error: ln(predicted / measured).
        assumed: columns of its table that it leaves out, and that defaults stand for.
    """

    id: str
    run: str
    source: str
    solver: str
    quantity: str
    facts: RunFacts
    error: float
    assumed: tuple[str, ...] = ()

    @property
    def citation(self) -> str:
        """Who published it."""
        return publications()[self.source].citation

    @property
    def url(self) -> str:
        """Where it was published."""
        return publications()[self.source].url


class PublishedRun(NamedTuple):
    """A published run by which something is supported, those that coefficients were fitted to included."""

    source: str
    run: str
    solver: str
    kind: str
    accelerator: str
    stack: str


class LeftOut(NamedTuple):
    """|ln(predicted / measured)| of the runs that a fit without ``name`` predicted; ``study`` says what kind of thing it is."""

    study: str
    name: str
    solver: str
    quantity: str
    errors: tuple[float, ...]


class Assumed(NamedTuple):
    """What it costs that a fact is left out: how far off nine in ten runs are that state it, as they are and without it.

    Attributes:
        solver: whose predictions they are.
        quantity: ``WHOLE`` or ``FIRST_TOKEN``.
        fact: the column of the table.
        runs: how many validation runs state it.
        stated, missing: what 90 % of their |ln(predicted / measured)| are within, with it and without.
    """

    solver: str
    quantity: str
    fact: str
    runs: int
    stated: float
    missing: float


class Publication(NamedTuple):
    """Where a source of measurements was published."""

    key: str
    citation: str
    url: str


def quantity_of(field: str) -> str:
    """Tell whether a result's field speaks of prompts alone, of the whole run, of power or of energy.

    Example:
        >>> quantity_of("ttft"), quantity_of("tokens_per_second"), quantity_of("power")
        ('first token', 'whole', 'power')
    """
    if field in (POWER, ENERGY):
        return field
    return FIRST_TOKEN if field in FIRST_TOKEN_FIELDS else WHOLE


@reads("calibration", RUNS_FILE)
def measured_runs() -> tuple[MeasuredRun, ...]:
    """All validation runs with a number, in the order of their sources."""
    return tuple(
        MeasuredRun(
            id=row["id"],
            run=row["run"],
            source=row["source"],
            solver=row["solver"],
            quantity=row["quantity"],
            facts=_facts(row),
            error=float(row["error"]),
            assumed=tuple(row["assumed"].split()),
        )
        for row in _rows(RUNS_FILE)
        if row["error"]
    )


@reads("calibration", RUNS_FILE)
def measured_facts(solver: str) -> frozenset[RunFacts]:
    """What runs of a solver were measured of, those that coefficients were fitted to included."""
    return frozenset(_facts(row) for row in _rows(RUNS_FILE) if row["solver"] == solver)


@reads("calibration", RUNS_FILE)
def published_runs() -> frozenset[PublishedRun]:
    """All published runs, each once however many figures it has."""
    return frozenset(PublishedRun(*(row[name] for name in PublishedRun._fields)) for row in _rows(RUNS_FILE))


def _facts(row: Mapping[str, str]) -> RunFacts:
    # What stands for all that nobody knows is no stack of which one run tells something of another.
    stack = "" if row["stack"] == unknown()["stack"] else row["stack"]
    return RunFacts(row["model"], row["kind"], row["accelerator"], stack, float(row["accelerators"] or 1))


@reads("calibration", LEFT_OUT_FILE)
def left_out() -> tuple[LeftOut, ...]:
    """The errors of each study of what was left out of a fit."""
    return tuple(
        LeftOut(row["study"], row["name"], row["solver"], row["quantity"], tuple(map(float, row["errors"].split())))
        for row in _rows(LEFT_OUT_FILE)
    )


@reads("calibration", ASSUMED_FILE)
def assumed_facts() -> tuple[Assumed, ...]:
    """What each fact costs where it is left out."""
    return tuple(
        Assumed(row["solver"], row["quantity"], row["fact"], int(row["runs"]), float(row["stated"]), float(row["missing"]))
        for row in _rows(ASSUMED_FILE)
    )


@reads("calibration", SOURCES_FILE)
def publications() -> Mapping[str, Publication]:
    """Where each source was published, by its key."""
    return {row["key"]: Publication(row["key"], row["citation"], row["url"]) for row in _rows(SOURCES_FILE)}


def is_known_source(text: str) -> bool:
    """Tell whether a table's ``source`` cell names a publication that has measurements here.

    Example:
        >>> is_known_source("mosaicml/llm-foundry"), is_known_source("somebody/cluster")
        (True, False)
    """
    lowered = text.lower()
    return any(word in lowered for word in _source_words())


@reads("calibration", NAMES_FILE)
def _source_words() -> tuple[str, ...]:
    words = packaged_toml("calibration", NAMES_FILE)["words"]
    return tuple(word.lower() for word in words if word != "source")


@functools.cache
def _rows(file: str) -> list[dict[str, str]]:
    name = f"mlsysim/calibration/data/{file}"
    text = io.StringIO(file_text(resources.files("mlsysim.calibration") / "data" / file, name), newline="")
    (_, columns), *lines = table_lines(text, name)
    return [dict(zip(columns, cells, strict=True)) for _, cells in lines]
