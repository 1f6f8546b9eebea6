"""Writes docs/mutation.md from the mutants that ``mutmut run`` has left in ``mutants/``: ``python tests/mutation_page.py``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from repository import ROOT

MUTANTS = ROOT / "mutants" / "mlsysim" / "physics"
PAGE = ROOT / "docs" / "mutation.md"

_KILLED = {1, 3}  # exit codes of pytest: a test failed, or it could not even be collected
_ENDLESS = {-24, 24, 36, 152, 255}  # out of time
_HEAD = """# Mutants of the physics

What the tests notice: a mutant is `mlsysim/physics/` with one operator, number, argument or branch of one function changed, and
it is killed where a test of `tests/physics/` (values worked by hand, neither doctests nor anchors) fails or does not end.
Written by `tox -e mutation`, which makes and runs them with mutmut. It changes no docstrings, annotations, decorated functions
(properties) or constants of a module. A module has the figures of the run that was made of it last.

"""


def outcomes(meta: Path) -> Counter[str]:
    """How many mutants of a module came to which end."""
    codes = json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"].values()
    if None in codes:
        sys.exit(f"{meta}: not all of its mutants were run; mutmut run goes on where it stopped")
    return Counter("killed" if code in _KILLED | _ENDLESS else "left" for code in codes)


def page() -> str:
    """The page: a line a module."""
    found = {str(meta.relative_to(MUTANTS))[: -len(".py.meta")]: outcomes(meta) for meta in sorted(MUTANTS.rglob("*.meta"))}
    lines = ["| Module | Mutants | Killed | Share |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| `{name}` | {counts.total():,} | {counts['killed']:,} | {100 * counts['killed'] / counts.total():.1f} % |"
        for name, counts in found.items()
        if counts
    ]
    return _HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8").splitlines()[-1])
