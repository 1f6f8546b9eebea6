"""The source of a fact, which every registry entry and every anchor carries."""

from __future__ import annotations

from typing import Literal

from mlsysim.core.spec import Spec

Evidence = Literal["seen", "recalled", "computed", "stated"]


class Provenance(Spec):
    """The source of a fact, and how well it is known.

    ``evidence`` is ``seen`` (read in the source or a copy of it), ``recalled`` (quoted from memory, to be confirmed),
    ``computed`` (follows from other facts) or ``stated`` (the caller says so).

    Example:
        >>> Provenance(source="NVIDIA H100 datasheet", evidence="seen").evidence
        'seen'
    """

    source: str
    locator: str = ""
    evidence: Evidence = "stated"
    notes: str = ""
