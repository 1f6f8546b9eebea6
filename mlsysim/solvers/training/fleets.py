"""The best plan of a model on each of several fleets, in one call: ``FleetOptimizer``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlsysim.core.checks import listed, mapping, one_of, strict_keywords
from mlsysim.core.choices import Basis, Objective
from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.core.units import Quantity
from mlsysim.models.types import Workload
from mlsysim.solvers.recommended import recommended_stack
from mlsysim.solvers.training.objective import HIGHER_IS_BETTER, OBJECTIVES
from mlsysim.solvers.training.parallelism import ParallelismOptimizer, ParallelismResult
from mlsysim.solvers.training.search_rows import COUNTS, SearchedResult
from mlsysim.systems.types import Fleet


@dataclass(frozen=True, kw_only=True)
class FleetResult(SearchedResult):
    """The best fleet of each workload.

    Attributes:
        rows: one a workload and fleet, the best fleet of each workload first: objective value, step time, memory, plan, and how
            many plans there were; those that nothing fits on come last and say why.
        best: name of the best fleet of each workload that fits on one.
        results: the full search of each, by workload and fleet.
        total_space, total_legal, total_evaluated, total_feasible, total_searched: of all searches together.
    """

    ROWS_OF = "rows"
    HEADLINE = ("best", "total_evaluated")

    rows: tuple[dict[str, Any], ...]
    best: dict[str, str]
    results: dict[tuple[str, str], ParallelismResult]


class FleetOptimizer:
    """Searches the plans of several workloads on several fleets at several prices, by ``ParallelismOptimizer``."""

    @strict_keywords
    def solve(
        self,
        workloads: Sequence[Workload],
        fleets: Sequence[Fleet],
        *,
        batch_size: int | Mapping[str, int],
        prices: Mapping[str, Quantity | str] | None = None,
        objective: Objective | str = "step_time",
        search: Mapping[str, Any] | None = None,
        basis: Basis | str | None = None,
    ) -> FleetResult:
        """The best plan of each workload on each fleet, and the best fleet.

        Args:
            workloads: of distinct names.
            fleets: of distinct names.
            batch_size: samples of a step, or those of each workload by its name.
            prices: of one accelerator, by the name of the fleet (for objective="tokens_per_dollar").
            objective: as ``ParallelismOptimizer.solve`` takes it.
            basis: "bound" for the speed of light; where ``search`` has neither stack nor efficiency, the stack that is
                best supported on each fleet's accelerator is taken, and named.
            search: its other arguments, the same for all: ``space``, ``stack``, ``executor``, ...

        Raises:
            InputError: as ``ParallelismOptimizer.solve``; a name that is not unique; a price or a batch that is missing.

        Example:
            >>> from mlsysim import Models, Systems
            >>> nodes = Systems.Nodes.DGX_A100_80GB, Systems.Nodes.DGX_H100
            >>> fleets = [Fleet(name=node.name, node=node, count=4) for node in nodes]
            >>> prices = {fleets[0].name: "1.3 USD/hour", fleets[1].name: "2.5 USD/hour"}
            >>> found = FleetOptimizer().solve(
            ...     [Models.Language.Llama3_8B], fleets, batch_size=64, prices=prices, objective="tokens_per_dollar",
            ...     search={"efficiency": 0.4},
            ... )
            >>> found.best
            {'Llama-3-8B': 'DGX H100'}
        """
        models = _named("workloads", workloads, Workload)
        systems = _named("fleets", fleets, Fleet)
        objective = one_of("objective", objective, OBJECTIVES)
        needs_price = objective == "tokens_per_dollar"
        expected = f"a price for each of {', '.join(systems)}" if needs_price else f"nothing beside objective {objective!r}"
        if prices is not None and set(mapping("prices", prices, expected)) != (set(systems) if needs_price else None):
            raise InconsistentError("prices", list(prices), expected)
        searched = {} if search is None else mapping("search", search, "arguments of ParallelismOptimizer by their names")
        by_name = "samples of a step, or those of each workload by its name"
        results, notes = {}, list[str]()
        for model_name, model in models.items():
            batch = batch_size if isinstance(batch_size, int) else mapping("batch_size", batch_size, by_name).get(model_name)
            if batch is None:
                raise InconsistentError("batch_size", batch_size, f"one for {model_name}")
            for fleet_name, fleet in systems.items():
                chosen = recommended_stack(model, fleet, searched, basis)
                asked = {**chosen.added_to(searched), "objective": objective, "batch_size": batch, "basis": basis}
                if prices is not None:
                    asked["accelerator_price"] = prices[fleet_name]
                notes.extend(chosen.notes)
                results[model_name, fleet_name] = ParallelismOptimizer().solve(model, fleet, **asked)
        rows = sorted(
            (_row(*names, result) for names, result in results.items()), key=lambda row: _order(row, objective, models)
        )
        best = {row["workload"]: row["fleet"] for row in reversed(rows) if row["feasible"]}
        some = next(iter(results.values()))
        lost = [name for name in models if name not in best]
        return FleetResult(
            solver="FleetOptimizer",
            subject=f"{', '.join(models)} on {', '.join(systems)}",
            basis=some.basis,
            reason=f"no plan fits for {', '.join(lost)} on any fleet" if lost else "",
            binding="memory capacity" if lost else objective,
            diagnostics=tuple(dict.fromkeys(notes)),
            rows=tuple(rows),
            best={name: best[name] for name in models if name in best},
            results=results,
            **{count: sum(getattr(result, count) for result in results.values()) for count in COUNTS},
        )


def _named(argument: str, values: Sequence[Any], kind: type[Any]) -> dict[str, Any]:
    items = listed(argument, values, kind, f"{kind.__name__}s")
    named = {item.name: item for item in items}
    if len(named) < len(items):
        raise InputError(argument, [item.name for item in items], "each with a name of its own")
    return named


def _row(model: str, fleet: str, result: ParallelismResult) -> dict[str, Any]:
    row: dict[str, Any] = {"workload": model, "fleet": fleet, "feasible": result.feasible, "reason": result.reason}
    row["objective_value"] = result.objective_value
    row["step_latency"] = None if result.best is None else result.best.step_latency_total
    row["memory"] = None if result.best is None else result.best.memory_per_accelerator
    return {**row, "plan": result.best_config, **{count: getattr(result, count) for count in COUNTS}}


def _order(row: dict[str, Any], objective: str, models: Mapping[str, Any]) -> tuple[int, bool, float]:
    value = row["objective_value"]
    number = 0.0 if value is None else float(getattr(value, "magnitude", value))
    return list(models).index(row["workload"]), not row["feasible"], -number if objective in HIGHER_IS_BETTER else number
