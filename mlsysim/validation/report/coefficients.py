"""Where a coefficient that predictions name comes from: its value, the file that states it, and its source there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlsysim.calibration.device_entries import DEVICES, device_entries, device_file
from mlsysim.calibration.store import tables
from mlsysim.validation.report.statistics import AsRow, Row

# The files of mlsysim/calibration/data/ that may state a coefficient whose name begins so, and the tables there above the
# rest of the name; of devices, the folder and the section. The longest beginning counts.
_PLACES: Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    **{name: ((f"{name}.toml", ()),) for name in ("attention", "collectives", "gemm", "peaks", "shared")},
    **{
        f"{name}.shared": (("shared_kernels.toml", (name,)),)
        for name in ("attention", "collectives", "data_parallel", "gemm", "serving")
    },
    "chosen": (("harnesses.toml", ("chosen",)),),
    "client": (("harnesses.toml", ("client",)),),
    "clock": ((DEVICES, ("training",)),),
    "device": ((DEVICES, ("data_parallel",)), (DEVICES, ("inference",))),
    "engine": (("engines.toml", ()),),
    "engine_device": ((DEVICES, ("serving",)),),
    "harness": (("harnesses.toml", ("queries",)), ("harnesses.toml", ("harness",))),
    "loaded_device": ((DEVICES, ("loaded",)),),
    "power": ((DEVICES, ("power",)),),
    "scaling_dataset": (("scaling_laws.toml", ("dataset",)),),
    "scaling_law": (("scaling_laws.toml", ("law",)),),
    "stack": (("stacks.toml", ()), ("data_parallel.toml", ("stack",)), ("inference.toml", ("stack",))),
}
# What is left out of a name where an entry has one coefficient alone.
_IMPLIED = ("clock", "value")


@dataclass(frozen=True)
class Origin(AsRow):
    """A coefficient and its provenance.

    Attributes:
        name: as predictions name it.
        value: in the unit that the name ends in (``_s``, ``_B``, ``_Bps``); a share or a count without one; None if not found.
        file: in ``mlsysim/calibration/data/``; "" where none has it, which a test of the anchors refuses.
        source: the publication or the measurements that it comes from, as the file says.
        cases: how many cases and kernel tables are predicted with it.
    """

    name: str
    value: float | None
    file: str
    source: str
    cases: int


def origins(records: Iterable[Row]) -> list[Origin]:
    """The coefficients that predictions used, by name.

    Example:
        >>> [(one.file, one.cases) for one in origins([{"coefficients": ("gemm.shared.overlap",)}])]
        [('shared_kernels.toml', 1)]
    """
    cases: dict[str, int] = {}
    for record in records:
        for name in record["coefficients"]:
            cases[name] = cases.get(name, 0) + 1
    return [_origin(name, cases[name]) for name in sorted(cases)]


def _origin(name: str, cases: int) -> Origin:
    beginning = max((one for one in _PLACES if name.startswith(f"{one}.")), key=len, default="")
    parts = name.removeprefix(f"{beginning}.").split(".")
    for file, above in _PLACES.get(beginning, ()):
        document: Any = device_entries(*above) if file == DEVICES else tables(file)
        head = document.get("defaults", {}).get("source", "")
        for table in above if file != DEVICES else ():
            document = document.get(table, {})
        for value, source in _values(document, parts, head):
            return Origin(name, value, device_file(parts[0]) if file == DEVICES else file, source, cases)
    return Origin(name, None, "", "", cases)


def _values(table: Mapping[str, Any], parts: list[str], source: str) -> Iterable[tuple[float, str]]:
    """The number that ``parts`` lead to, if there is one, and the ``source`` nearest to it; keys may have dots of their own."""
    source = str(table.get("source", source))
    if not parts:
        for name in _IMPLIED:
            if isinstance(table.get(name), int | float):
                yield float(table[name]), source
        return
    for length in range(len(parts), 0, -1):
        below = table.get(".".join(parts[:length]))
        if isinstance(below, Mapping):
            if "like" in below:
                below = {**table.get(below["like"], {}), **below}
            yield from _values(below, parts[length:], source)
        elif isinstance(below, int | float) and length == len(parts):
            yield float(below), source
