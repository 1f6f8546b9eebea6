"""The command of the fits: ``python -m mlsysim.fitting [NAME ...] [--check]``, and ``python -m mlsysim.fitting refresh``.

The first fits coefficients to rows with ``role = "calibration"`` and writes them, or checks that they are written; the second
does all that follows a change of physics, coefficients or anchors.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from mlsysim.core.errors import MLSysError, UnknownNameError
from mlsysim.fitting import refresh
from mlsysim.fitting.families import FAMILIES
from mlsysim.fitting.written import Refit


def main(arguments: Sequence[str] | None = None) -> int:
    """Fits until nothing moves, prints what differs and writes it; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return refresh.main(words[1:]) if words[:1] == ["refresh"] else _fit(words)
    except MLSysError as error:
        print(error, file=sys.stderr)
        return 1


def _fit(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mlsysim.fitting",
        description="fit coefficients to calibration rows and write them; refresh --help: all that follows a change",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"families to fit, of {', '.join(FAMILIES)}; default: all")
    parser.add_argument("--anchors", type=Path, default=Path("anchors"), metavar="DIRECTORY", help="the folder of anchors")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a written value differs from a fit")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in FAMILIES:
            raise UnknownNameError.among("family", name, FAMILIES)
    names, last = options.names or [*FAMILIES], {}
    fits: Iterable[Refit]
    if options.check:
        fits = (FAMILIES[name](options.anchors) for name in names)
    else:
        fits = refresh.fitted_to_rest(names, options.anchors)
    for fit in fits:
        last[fit.name] = fit
        print(*told(fit), sep="\n", flush=True)
    moved, total = sum(len(one.moved) for one in last.values()), sum(len(one.values) for one in last.values())
    print(f"{moved} of {total} values differ")
    return 1 if options.check and moved else 0


def told(refit: Refit) -> list[str]:
    """A line for a family, and one for each of its values that moved."""
    lines = [f"{refit.name}: {len(refit.moved)} of {len(refit.values)}"]
    for key in refit.moved:
        old, new = refit.values[key]
        lines.append(f"  {key}: {'nothing' if old is None else f'{old:.4g}'} -> {new:.4g}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
