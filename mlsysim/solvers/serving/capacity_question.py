"""A question to ``CapacityPlanner`` in plain numbers, and every way to serve that it opens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from mlsysim.core.errors import InputError
from mlsysim.lowering.arrivals import paces
from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.options import EngineOptions
from mlsysim.models.types import TransformerWorkload
from mlsysim.solvers.recommended import recommended_engine
from mlsysim.solvers.serving.capacity_space import Demand, Offer, Way, plans, ways


@dataclass(slots=True)
class Asked:
    """A question in plain numbers, and what is counted and noted while its plans are laid out.

    ``tried_on`` has the plans by the number of their hardware among ``offers``.
    """

    model: TransformerWorkload
    offers: list[Offer]
    precisions: list[str]
    tp_sizes: list[int] | None
    pp_sizes: list[int] | None
    demand: Demand
    disaggregated: tuple[bool, ...]
    input_len: int
    output_len: int
    prefix_hit: float
    options: EngineOptions
    basis: str | None
    priced: bool
    notes: list[str] = field(default_factory=list)
    tried_on: dict[int, list[Deployment]] = field(default_factory=dict)
    refused: list[InputError] = field(default_factory=list)
    fit: int = 0
    cut: bool = False

    @property
    def tried(self) -> list[Deployment]:
        """All plans, those of the first hardware first."""
        return [setting for settings in self.tried_on.values() for setting in settings]


def all_ways(asked: Asked) -> Iterator[Way]:
    """All ways to serve, by hardware and number format; plans are counted on the way."""
    most = asked.demand.max_batch
    for number, offer in enumerate(asked.offers):
        engine = recommended_engine(asked.model, offer.hardware, asked.options, asked.basis)
        options: Any = engine.added_to(asked.options)
        asked.notes.extend(engine.notes)
        legal = plans(asked.model, offer, asked.tp_sizes, asked.pp_sizes)
        for which, precision in enumerate(asked.precisions):
            try:
                settings = [
                    Deployment.of(
                        asked.model,
                        offer.hardware,
                        **options,
                        precision=precision,
                        tp_size=tp,
                        pp_size=pp,
                        ep_size=ep,
                        attention_dp=ep,
                        output_len=asked.output_len,
                        prefix_hit=asked.prefix_hit,
                        schedule="continuous",
                    )
                    for tp, pp, ep in legal
                ]
                # One more than is tried tells whether more fit.
                fullest = [paces(setting, most + 1) for setting in settings]
            except InputError as error:
                if error.argument != "precision":
                    raise
                asked.refused.append(error)
                asked.notes.append(f"{precision} is left out on {offer.hardware.name}: {error}")
                continue
            fitting = [pace for pace in fullest if not pace.reason]
            asked.tried_on.setdefault(number, []).extend(settings)
            asked.fit += len(fitting)
            asked.cut |= any(pace.places > most for pace in fitting)
            limited = [replace(pace, places=min(pace.places, most)) for pace in fitting]
            yield from ways(limited, offer, (number, which), asked.demand, asked.disaggregated)
