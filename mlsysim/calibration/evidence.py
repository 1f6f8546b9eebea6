"""What was measured of runs like a given one: errors of validation runs, and of runs predicted without what they are of.

``data/evidence.csv`` has a row for each validation run, and one without an error for what else calibration runs are of;
``fitted`` marks what these are of. ``data/left_out.csv`` has the errors of runs that were predicted by a fit without their
source, stack, engine, device or model; ``data/assumed.csv`` says how far off runs are that leave a fact out. All are written by
``python -m mlsysim.fitting refresh``.
"""

from __future__ import annotations

import functools
import io
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from typing import NamedTuple

from mlsysim.calibration.names import unknown
from mlsysim.calibration.own import is_own, own_stack
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
FIRST_TOKEN_FIELDS = frozenset(("prompt_tokens_per_second", "prefill_mfu"))
# Figures by which a thing is known as well as by a fit: the 90 % quantile of twenty is the second largest.
ENOUGH = 20
# What can be without a fit, in the order in which it is said, and by which facts runs are of the same.
STUDIES = ("source", "stack", "device", "model")
FACTS_OF = {
    "stack": ("stack",),
    "device": ("accelerator",),
    "pair": ("stack", "accelerator"),
    "model": ("model",),
    "source": (),
}
# The solver on whose predictions those of a server stand: an accelerator is no newer to it than to that one.
STANDS_ON = {"BatchServerModel": "SingleNodeModel", "TokenServerModel": "ServingModel", "TailLatencyModel": "ServingModel"}
# Where kernels of each engine find out other shares of a device, and each model asks for other kernels.
_ENGINES_DIFFER = "ServingModel"


class RunFacts(NamedTuple):
    """What a run is of, by the names of the registries: by it runs like it are found.

    ``kind`` is "dense", "moe" or the workload's architecture; ``stack`` is the training stack or serving engine, "" for none.
    """

    model: str
    kind: str
    accelerator: str
    stack: str
    accelerators: float

    def named(self, names: Sequence[str]) -> tuple[str, ...]:
        """Some of the facts, by their names.

        Example:
            >>> RunFacts("m", "dense", "a", "s", 8).named(("stack", "kind"))
            ('s', 'dense')
        """
        return tuple(getattr(self, name) for name in names)


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
        >>> quantity_of("ttft_p90"), quantity_of("tokens_per_second"), quantity_of("power")
        ('first token', 'whole', 'power')
    """
    if field in (POWER, ENERGY):
        return field
    return FIRST_TOKEN if field in FIRST_TOKEN_FIELDS or field.startswith("ttft") else WHOLE


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
def fitted_facts(solver: str) -> frozenset[RunFacts]:
    """What the runs of a solver are of that coefficients were fitted to."""
    return frozenset(_facts(row) for row in _rows(RUNS_FILE) if row["solver"] == solver and row["fitted"])


def unfitted(solver: str, quantity: str, facts: RunFacts, *, known_source: bool = True) -> tuple[str, ...]:
    """Name what of a run no fit was given runs of and fewer than ``ENOUGH`` were measured: of ``STUDIES``, or "pair".

    A pair is an engine on its accelerator. A stack that is not known stands for its source, too. Models and pairs matter where
    an engine's kernels were not measured for them: in serving language models.

    Example:
        >>> facts = RunFacts("Llama-3.1-405B", "dense", "H100 SXM5 80GB", "meta-2024", 16384)
        >>> [unfitted("DistributedModel", "whole", facts._replace(stack=name)) for name in ("meta-2024", "megatron-core")]
        [('stack',), ()]
    """
    facts, calibrated_on = _as_shipped(solver, facts)
    if calibrated_on is not None:
        return () if facts.accelerator in calibrated_on else ("device",)
    known = _known(solver, quantity)
    missing = []
    if not _is_of(known, facts, "stack"):
        missing.append("stack")
    elif not known_source:
        missing.append("source")
    if not _is_of(known, facts, "device"):
        missing.append("device")
    elif solver == _ENGINES_DIFFER and "stack" not in missing and not _is_of(known, facts, "pair"):
        missing.append("pair")
    if solver == _ENGINES_DIFFER and not _is_of(known, facts, "model"):
        missing.append("model")
    return tuple(missing)


def _as_shipped(solver: str, facts: RunFacts) -> tuple[RunFacts, Collection[str] | None]:
    """Facts with the shipped stack that a user's own is like; and its runs' accelerators, where they are this solver's."""
    if not is_own(facts.stack):
        return facts, None
    own = own_stack(facts.stack)
    return facts._replace(stack=own.like), own.accelerators if solver == own.solver else None


def _is_of(known: Mapping[str, Collection[tuple[str, ...]]], facts: RunFacts, study: str) -> bool:
    return facts.named(FACTS_OF[study]) in known[study]


@functools.cache
def _known(solver: str, quantity: str) -> dict[str, frozenset[tuple[str, ...]]]:
    """What fits were given runs of, or ``ENOUGH`` were measured of. Every calibrated solve asks."""
    given = fitted_facts(solver)
    chips = given | fitted_facts(STANDS_ON.get(solver, solver))
    known = {}
    for study, names in FACTS_OF.items():
        of_runs = Counter(run.facts.named(names) for run in measured_runs() if (run.solver, run.quantity) == (solver, quantity))
        of_fits = {one.named(names) for one in (chips if study in ("device", "model") else given)}
        known[study] = frozenset(of_fits | {values for values, count in of_runs.items() if count >= ENOUGH})
    return known


def was_fitted(solver: str, facts: RunFacts) -> bool:
    """Tell whether coefficients were fitted to runs of the same stack, and to runs on the same accelerator.

    They are the solver's, or those of the one that it stands on; of a solver that has no coefficients, all measured runs count.

    Example:
        >>> facts = RunFacts("Llama-3.1-405B", "dense", "H100 SXM5 80GB", "meta-2024", 16384)
        >>> [was_fitted("DistributedModel", facts._replace(stack=name)) for name in ("meta-2024", "megatron-core")]
        [False, True]
    """
    facts, calibrated_on = _as_shipped(solver, facts)
    if calibrated_on is not None:
        return facts.accelerator in calibrated_on
    stacks, accelerators = _fitted(solver)
    return facts.stack in stacks and facts.accelerator in accelerators


@functools.cache
def _fitted(solver: str) -> tuple[frozenset[str], frozenset[str]]:
    """The stacks and the accelerators of runs that fits were given. Every calibrated solve asks."""
    facts = fitted_facts(solver) | fitted_facts(STANDS_ON.get(solver, solver)) or measured_facts(solver)
    return frozenset(one.stack for one in facts), frozenset(one.accelerator for one in facts)


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


def scale(costs: Mapping[str, float], assumed: Collection[str]) -> float:
    """Return how many times as far off as a run that states all of its facts one is that leaves some out.

    ``costs`` say the same of each fact alone, and add as independent errors do: sqrt(1 + sum of (cost^2 - 1)). One that is not
    known, or below 1, costs nothing.

    Example:
        >>> scale({"a": 3.0, "b": 2.0, "c": 0.9}, ["a", "c"]), round(scale({"a": 3.0, "b": 2.0}, ["a", "b", "d"]) ** 2)
        (3.0, 12)
    """
    return math.sqrt(1 + sum(max(costs.get(fact, 1.0), 1.0) ** 2 - 1 for fact in assumed))


@functools.lru_cache(maxsize=1024)
def scale_of(solver: str, quantity: str, assumed: tuple[str, ...]) -> float:
    """Return ``scale`` by what each fact cost in predictions of a solver."""
    kind = solver, quantity
    return scale({one.fact: one.missing / one.stated for one in assumed_facts() if (one.solver, one.quantity) == kind}, assumed)


@reads("calibration", SOURCES_FILE)
def publications() -> Mapping[str, Publication]:
    """Where each source was published, by its key."""
    return {row["key"]: Publication(row["key"], row["citation"], row["url"]) for row in _rows(SOURCES_FILE)}


def is_known_source(text: str) -> bool:
    """Tell whether a table's ``source`` cell names a publication that coefficients were fitted to runs of.

    Example:
        >>> is_known_source("mosaicml/llm-foundry"), is_known_source("somebody/cluster")
        (True, False)
    """
    lowered = text.lower()
    return any(word in lowered for word in _source_words())


def is_known_key(key: str) -> bool:
    """Tell the same of a source by its key.

    Example:
        >>> is_known_key("llm-foundry"), is_known_key("llama3-herd")
        (True, False)
    """
    return any(key in keys for keys in _source_words().values())


@reads("calibration", NAMES_FILE)
def _source_words() -> dict[str, list[str]]:
    words = packaged_toml("calibration", NAMES_FILE)["words"]
    return {word.lower(): keys for word, keys in words.items() if word != "source"}


@functools.cache
def _rows(file: str) -> list[dict[str, str]]:
    name = f"mlsysim/calibration/data/{file}"
    text = io.StringIO(file_text(resources.files("mlsysim.calibration") / "data" / file, name), newline="")
    (_, columns), *lines = table_lines(text, name)
    return [dict(zip(columns, cells, strict=True)) for _, cells in lines]
