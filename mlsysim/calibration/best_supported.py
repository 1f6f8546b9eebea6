"""The training stack, or the serving engine, that measurements support best on an accelerator.

It is what solvers that recommend something take where the caller names none. The rule reads the runs of ``evidence.csv`` alone:
what more publications have measured comes first, then what has more runs. A release that another one followed
(``followed_by`` of ``names.toml``) is never the answer; its runs count for the one that followed where that has none.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import NamedTuple

from mlsysim.calibration.device_entries import device_file
from mlsysim.calibration.devices import measured_device
from mlsysim.calibration.engines import engine, engine_device
from mlsysim.calibration.evidence import PublishedRun, published_runs
from mlsysim.calibration.names import follower, todays_engines, todays_stacks
from mlsysim.core.errors import UnknownNameError
from mlsysim.hardware.registry import Hardware

STACK, ENGINE = "stack", "engine"
# The solver whose runs are of training stacks; those of others are of serving engines, or of stacks that neither list names.
_TRAINED = "DistributedModel"


class Supported(NamedTuple):
    """A stack or an engine, and what supports it.

    Attributes:
        name: the stack or engine.
        where: the accelerators that its runs were measured on, in words.
        publications: how many published them.
        runs: how many they are.
    """

    name: str
    where: str
    publications: int
    runs: int

    @property
    def evidence(self) -> str:
        """The measurements in words, such as "18 runs of 6 publications on H100 SXM5 80GB"."""
        of = f"{self.publications} publication{'s'[: self.publications > 1]}"
        return f"{self.runs} run{'s'[: self.runs > 1]} of {of} on {self.where}"


@functools.lru_cache(maxsize=1024)
def most_supported(what: str, accelerator: str, kind: str = "dense") -> Supported | None:
    """Return the training stack, or the serving engine, that measurements support best on an accelerator.

    Args:
        what: ``STACK`` or ``ENGINE``.
        accelerator: its name in the registry.
        kind: "dense" or "moe"; what was measured with such models comes first.

    Returns:
        The stack or the engine; None where no measured kernels stand for the accelerator, so that only bounds are known.

    Example:
        >>> [most_supported(STACK, name).name for name in ("H100 SXM5 80GB", "TPU v5p")]
        ['megatron-core', 'maxtext']
        >>> most_supported(ENGINE, "Instinct MI300X").name, most_supported(ENGINE, "somebody's chip")
        ('vllm-2025', None)
    """
    if _entry(what, accelerator) is None:
        return None
    runs = _runs(what)
    for where, alike in (
        (accelerator, lambda name: name),
        (f"those that share the kernels of {accelerator}", functools.partial(_entry, what)),
        ("accelerators of its generation", functools.partial(_generation, what)),
        ("other accelerators of its vendor", _vendor),
        ("other accelerators", lambda _: ""),
    ):
        near = [run for run in runs if alike(run.accelerator) == alike(accelerator) and _can_run(what, run.stack, kind)]
        for kinds in ((kind,), tuple({run.kind for run in near})):
            best = _most_measured(what, [run for run in near if run.kind in kinds], where)
            if best is not None:
                return best
    return None


def _most_measured(what: str, runs: Collection[PublishedRun], where: str) -> Supported | None:
    """The one with the most publications, then runs; with those of the releases before it only where it has none.

    Far from the accelerator, what was measured on the chips of more vendors comes first: it is bound to none.
    """
    todays = todays_stacks() if what == STACK else todays_engines()
    candidates = []
    for name in {follower(run.stack) for run in runs} & todays:
        its_runs = [run for run in runs if run.stack == name]
        counted = its_runs or [run for run in runs if follower(run.stack) == name]
        supported = Supported(name, where, len({run.source for run in counted}), len({run.run for run in counted}))
        vendors = len({_vendor(run.accelerator) for run in counted})
        candidates.append((vendors, bool(its_runs), supported.publications, supported.runs, name, supported))
    return max(candidates)[-1] if candidates else None


@functools.cache
def _runs(what: str) -> tuple[PublishedRun, ...]:
    """The runs of all stacks, or of all engines, on accelerators that have an entry."""
    return tuple(
        run for run in published_runs() if (run.solver == _TRAINED) == (what == STACK) and _entry(what, run.accelerator)
    )


@functools.cache
def _entry(what: str, accelerator: str) -> str | None:
    """The entry of the kernels that stand for an accelerator."""
    try:
        return measured_device(accelerator) if what == STACK else engine_device(accelerator).name
    except UnknownNameError:
        return None


def _generation(what: str, accelerator: str) -> tuple[str, str]:
    """The file of the accelerator's entry, which has those of its generation, and its vendor: some files have several."""
    return device_file(str(_entry(what, accelerator))), _vendor(accelerator)


@functools.cache
def _can_run(what: str, name: str, kind: str) -> bool:
    """Whether an engine can run models of a kind: one that divides layers over a torus runs dense ones alone."""
    return what == STACK or kind != "moe" or name not in todays_engines() or not engine(name).has.torus


@functools.cache
def _vendor(accelerator: str) -> str:
    card = Hardware.find(accelerator)
    return "" if card is None else card.vendor
