"""Re-fits all kernels: ``python -m mlsysim.fitting.kernels [anchors/kernels]`` prints a line a table and writes the TOMLs.

Only rows with the role calibration are fitted. On the data that the repository carries nothing changes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlsysim.core.errors import DataError, MLSysError
from mlsysim.fitting import (
    attention as fit_attention,
)
from mlsysim.fitting import (
    collectives as fit_collectives,
)
from mlsysim.fitting import (
    gemm as fit_gemm,
)
from mlsysim.fitting import (
    peaks as fit_peaks,
)
from mlsysim.fitting.toml_text import DATA
from mlsysim.validation.kernels.tables import CALIBRATION, VALIDATION

LINE = "{:<38} {:>6} {:>12} {:>12}  {}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Fits, prints and writes; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mlsysim.fitting.kernels", description="re-fit the kernels' coefficients")
    parser.add_argument("directory", nargs="?", type=Path, default=Path("anchors/kernels"), help="of the measured tables")
    parser.add_argument("--into", type=Path, default=DATA, metavar="DIRECTORY", help="where to write, if not in the package")
    given = parser.parse_args(arguments)
    try:
        changed = refit(given.directory, given.into)
    except MLSysError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"changed: {', '.join(changed)}" if changed else "nothing changed")
    return 0


def refit(directory: Path, into: Path = DATA) -> list[str]:
    """Fits the tables in ``directory`` and writes the TOMLs ``into`` a folder; the names of those that changed.

    Raises:
        DataError: ``directory`` has no tables.
        MLSysError: SciPy is missing.
    """
    for head in ("gemm.toml", "attention.toml", "collectives_multinode.csv"):
        if not (directory / head).is_file():
            raise DataError(f"{directory}: no {head} here; expected the folder anchors/kernels")
    print(LINE.format("table", "points", "calibration", "validation", "at its bound"))
    gemm = fit_gemm.fit_gemm(directory)
    _show(_lines("gemm", gemm))
    peaks = fit_peaks.fit_peaks(directory)
    _show(_lines("peak", peaks))
    attention = fit_attention.fit_attention(directory)
    _show(_lines("attention", attention))
    collectives = fit_collectives.fit_collectives(directory)
    _show(_lines("collectives", collectives))
    stated = (DATA / "collectives.toml").read_text("utf-8")  # what NCCL's tuner believes is no fit
    texts = {
        "gemm.toml": fit_gemm.as_toml(gemm, directory),
        "peaks.toml": fit_peaks.as_toml(peaks, directory),
        "attention.toml": fit_attention.as_toml(attention),
        "collectives.toml": fit_collectives.as_toml(collectives, stated),
    }
    return [name for name, text in texts.items() if _written(into / name, text)]


def _written(path: Path, text: str) -> bool:
    """Writes ``text`` if the file has another."""
    if path.is_file() and path.read_text("utf-8") == text:
        return False
    path.write_text(text, encoding="utf-8")
    return True


def _lines(family: str, fitted: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[str]:
    for outer, tables in fitted.items():
        for inner, entry in tables.items():
            errors = (f"{_median(entry.get(role, {})):.2f} %" for role in (CALIBRATION, VALIDATION))
            bound = ", ".join(entry["at_bound"]) or "-"
            yield LINE.format(f"{family} {outer} {inner}", entry.get("points", "-"), *errors, bound)


def _median(statistics: Mapping[str, Any]) -> float:
    """Of all rows, in percent."""
    return float(statistics.get("all", statistics).get("median", float("nan")))


def _show(lines: Iterator[str]) -> None:
    for line in lines:
        print(line)


if __name__ == "__main__":
    sys.exit(main())
