"""What the exit codes of ``mlsysim`` mean."""

from __future__ import annotations

HOLDS, FAILS, BAD_INPUT, INFEASIBLE = range(4)
FAULT, INTERRUPTED = 70, 130  # as sysexits.h and shells have them
MEANINGS = "Exit codes: 0 holds, 1 an assertion fails, 2 bad input, 3 infeasible."
