"""The 22 walls that bound an ML system, each with its equation, the solvers that answer and the anchors that prove them.

Example:
    >>> len(walls), walls[6].name, walls[6].solvers
    (22, 'Tail latency', ('TailLatencyModel',))
    >>> walls.called("multi-tenant").equation
    'W = C(k, a) / (k mu - lambda) x (1 + c^2) / 2'
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlsysim.core.checks import one_of
from mlsysim.core.toml import packaged_toml

DOMAINS = ("node", "data", "algorithm", "fleet", "operations", "analysis")


@dataclass(frozen=True)
class Wall:
    """One wall.

    Attributes:
        number: from 1.
        name: what it is called.
        domain: one of ``DOMAINS``.
        equation: by which it is computed.
        solvers: names of the solvers that answer, the main one first.
        anchors: files of measurements or identities below ``anchors/`` that prove them.
        no_anchor: why there are none; empty where there are.
        source: of the equation.
    """

    number: int
    name: str
    domain: str
    equation: str
    solvers: tuple[str, ...]
    anchors: tuple[str, ...]
    no_anchor: str
    source: str

    def __str__(self) -> str:
        proof = ", ".join(self.anchors) or self.no_anchor
        return f"{self.number:2} {self.name} ({self.domain}): {self.equation}; {', '.join(self.solvers)}; {proof}"


class Walls(tuple[Wall, ...]):
    """All walls, in their order."""

    __slots__ = ()

    def called(self, name: str) -> Wall:
        """Return the wall of a name.

        Raises:
            UnknownNameError: there is none of this name; the message has the nearest.
        """
        known = [wall.name for wall in self]
        return self[known.index(one_of("name", name, known))]

    def __str__(self) -> str:
        return "\n".join(map(str, self))


def _wall(entry: dict[str, Any]) -> Wall:
    lists = {name: tuple(entry.get(name, ())) for name in ("solvers", "anchors")}
    return Wall(**{"no_anchor": "", **entry, **lists})


walls = Walls(_wall(entry) for entry in packaged_toml("scenarios", "walls.toml").values())
