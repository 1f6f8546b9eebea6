"""What a search for capacity found, in the field's terms: deployments, what others would cost, and what binds or lacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mlsysim.core.units import with_unit
from mlsysim.lowering.arrivals import Limits, highest_load
from mlsysim.lowering.deployment import Deployment
from mlsysim.solvers.serving.capacity_question import Asked
from mlsysim.solvers.serving.capacity_search import REACH, TOLD, Deployed, Search
from mlsysim.solvers.serving.capacity_space import AXES, Demand, Promise
from mlsysim.solvers.serving.replica import ServingReplica
from mlsysim.systems.types import Fleet

TIMES = ("itl", "ttft", "request_latency")
ROOM = ("capacity", "utilization", "headroom")
FIGURES = (*TIMES, *ROOM, "cost_per_hour", "cost_per_million_tokens", "requests_per_second")


def row_of(asked: Asked, deployed: Deployed) -> dict[str, Any]:
    """A deployment in the field's terms."""
    way, promise, rate_per_s = deployed.way, deployed.promise, asked.demand.rate_per_s
    offer, pool, setting = way.offer, way.pool, way.pace.setting
    capacity_per_s = deployed.replicas * promise.capacity_per_s
    million_tokens_per_hour = rate_per_s * asked.output_len * 3600 / 1e6
    return {
        "hardware": offer.hardware.name,
        "stack": None if setting.stack is None else setting.stack.file or setting.stack.name,
        "precision": asked.precisions[way.place[1]],
        "disaggregated": pool is not None,
        "tp": setting.tp,
        "pp": setting.pp,
        "ep": setting.expert_plan.ep,
        "attention_dp": setting.attention_dp,
        "batch": promise.batch,
        "replicas": deployed.replicas,
        "prefill_replicas": 0 if pool is None else pool.replicas,
        "prefill_tp": 0 if pool is None else pool.tp,
        "prefill_pp": 0 if pool is None else pool.pp,
        "prefill_ep": 0 if pool is None else pool.ep,
        "prefill_attention_dp": 0 if pool is None else pool.groups,
        "accelerators": deployed.accelerators,
        "requests_per_second": with_unit(promise.capacity_per_s, "count/second"),
        "capacity": with_unit(capacity_per_s, "count/second"),
        "utilization": rate_per_s / capacity_per_s,
        "headroom": capacity_per_s / rate_per_s - 1,
        "itl": with_unit(promise.itl_s, "second"),
        "ttft": with_unit(promise.ttft_s, "second"),
        "request_latency": with_unit(promise.request_s, "second"),
        "cost_per_hour": with_unit(deployed.cost, "USD/hour") if asked.priced else None,
        "cost_per_million_tokens": with_unit(deployed.cost / million_tokens_per_hour, "USD") if asked.priced else None,
    }


def alternatives(asked: Asked, result: Search) -> Iterator[dict[str, Any]]:
    """The cheapest deployment of every other value of each axis."""
    best = result.ranking[0]
    best_row = row_of(asked, best)
    for axis, name in enumerate(AXES):
        for value in sorted({values[axis] for values in result.known} - {best.way.values[axis]}):
            other = result.cheapest(axis, value)
            if other is not None:
                row = row_of(asked, other)
                yield {
                    "changed": name,
                    "value": row[name],
                    "instead_of": best_row[name],
                    "dearer": other.cost / best.cost - 1,
                    **row,
                }


def in_words(row: Mapping[str, Any]) -> str:
    """What one of the alternatives costs."""
    what = f"{row['changed']} {row['value']} instead of {row['instead_of']}"
    itl_ms = float(row["itl"].m_as("ms"))
    cost = f"{row['dearer']:.1%} dearer" if row["dearer"] > 0 else "costs the same"
    count = row["accelerators"]
    return f"{what}: {cost} at best ({count} accelerator{'s' * (count > 1)}, {itl_ms:.3g} ms between tokens)"


def bound_by(asked: Asked, best: Deployed) -> tuple[str, str]:
    """Say what the winner is closest to: a limit, or what its replicas complete."""
    used = {name: reached / limit for name, reached, limit in _reached(best.promise, asked.demand.limits)}
    used["throughput"] = asked.demand.rate_per_s / (best.replicas * best.promise.capacity_per_s)
    return max(used, key=lambda name: used[name]), ""


def _reached(promise: Promise, limits: Limits) -> list[tuple[str, float, float]]:
    """Each limit by its name, what comes of it, and how much it is."""
    return [
        ("ITL limit", promise.itl_s, limits.token_s),
        ("TTFT limit", promise.ttft_s, limits.first_s),
        ("latency limit", promise.request_s, limits.request_s),
    ]


def closest(result: Search, demand: Demand) -> Deployed | None:
    """The deployment that comes closest: the one that lacks fewest accelerators, or that is least late to a lone request."""
    if result.short is not None:
        return result.short
    lone = (Deployed(way, 1, None) for way in result.able or result.late)
    return min(lone, key=lambda each: _lateness(each.promise, demand.limits), default=None)


def _lateness(promise: Promise, limits: Limits) -> float:
    return max(reached / limit for _, reached, limit in _reached(promise, limits))


def lacking(asked: Asked, result: Search, nearest: Deployed | None) -> tuple[str, str]:
    """Say which limit nothing keeps, and the best that is in reach."""
    if nearest is None:
        return "memory capacity", _no_room(asked, range(len(asked.offers)))
    demand, plan = asked.demand, f"{_plan(nearest.way.pace.setting)} on {nearest.way.offer.hardware.name}"
    if result.short is not None:
        return "fleet size", f"{demand.rate_per_s:g} requests/s within the limits take {_too_few(asked, nearest)}, with {plan}"
    worst, told = _farthest(nearest, demand.limits)
    if result.able:
        only = f"only requests that meet no others keep the limits: more than {REACH[-1]} times what the load fills"
        return worst, f"{only}; at the nearest, {plan}, a lone request has {told}"
    return worst, f"not even a lone request keeps the limits on any of {asked.fit} plans: at the nearest, {plan}, {told}"


def _farthest(nearest: Deployed, limits: Limits) -> tuple[str, str]:
    """The limit that a lone request is farthest from, and what it has of those that it breaks; of none broken, of that one."""
    reached = _reached(nearest.promise, limits)
    worst = max(reached, key=lambda each: each[1] / each[2])[0]
    return worst, ", ".join(
        f"{name.removesuffix(' limit')} {time_s * 1e3:.4g} ms for a limit of {limit_s * 1e3:.4g} ms"
        for name, time_s, limit_s in reached
        if time_s > limit_s or name == worst
    )


def _plan(setting: Deployment) -> str:
    return f"TP {setting.tp} x PP {setting.pp} in {setting.formats}"


def unserved(asked: Asked, result: Search) -> Iterator[str]:
    """Say of each hardware that no deployment was found on why not, where there is one on other hardware."""
    served = {deployed.way.place[0] for deployed in result.known.values()}
    for number in sorted(asked.tried_on.keys() - served):
        name, demand = asked.offers[number].hardware.name, asked.demand
        late, able = ([way for way in ways if way.place[0] == number] for ways in (result.late, result.able))
        if not (late or able):
            yield f"{name} serves nothing: {_no_room(asked, [number])}"
        elif able:
            yield f"{name} serves nothing: no deployment of it keeps the limits at {TOLD:g} times the cost of the best"
        else:
            nearest = min((Deployed(way, 1, None) for way in late), key=lambda each: _lateness(each.promise, demand.limits))
            told = f"{_plan(nearest.way.pace.setting)}, {_farthest(nearest, demand.limits)[1]}"
            yield f"{name} serves nothing: not even a lone request keeps the limits; at the nearest, {told}"


def _no_room(asked: Asked, offers: Iterable[int]) -> str:
    """That the model fits no plan on some of the hardware, how far the nearest is from it, and where a replica must end."""
    plans = [(number, ServingReplica.of(setting)) for number in offers for setting in asked.tried_on.get(number, ())]
    number, best = min(plans, key=lambda plan: plan[1].held.needed_B(1.0) / plan[1].deployment.accelerator.memory_capacity_B)
    deployment, offer = best.deployment, asked.offers[number]
    told = f"the model fits none of {len(plans)} plans; at the nearest, {_plan(deployment)}, {best.lacking()}"
    if isinstance(offer.hardware, Fleet) or offer.most_ranks < offer.node:
        return told
    fleet = f'"{2 * offer.node} x {deployment.accelerator.name}"'
    return f"{told}; a replica stays within a node of {offer.node}: a fleet such as {fleet} lets it span several"


def _too_few(asked: Asked, nearest: Deployed) -> str:
    """How many accelerators are needed of how many, and what these take, where the open-loop model answers for the plan."""
    way, held = nearest.way, nearest.held
    available = asked.offers[way.place[0]].available
    most = f"{nearest.accelerators} accelerators of {available:.0f}"
    if held is None or way.pool is not None:
        return most
    pace = way.pace.with_places(held.batch)
    each_per_s = highest_load(pace, asked.demand.limits, pace.setting.output, 0.0).arrival_per_s
    return f"{most}, which are enough for {available // way.ranks * each_per_s:.4g}"
