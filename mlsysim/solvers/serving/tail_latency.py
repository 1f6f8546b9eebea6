"""Latency under requests that arrive at random, mean and tail: ``TailLatencyModel``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Unpack

from mlsysim.calibration.evidence import RunFacts
from mlsysim.core.checks import (
    needed,
    one_of,
    percentile_share,
    positive_quantity,
    real_number,
    strict_keywords,
    whole_number,
)
from mlsysim.core.choices import Arrivals, Basis, ServiceTimes
from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.core.units import Quantity, with_unit, with_units
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.arrivals import ALMOST, paces
from mlsysim.lowering.deployment import Deployment, prompt_tokens, requests_per_s
from mlsysim.lowering.options import DeploymentOptions
from mlsysim.lowering.prefix_cache import conversation
from mlsysim.lowering.serving_kernels import coefficients_used
from mlsysim.models.types import TransformerWorkload
from mlsysim.physics.queues import queueing
from mlsysim.physics.queues.constant_service import ConstantService
from mlsysim.physics.queues.open_loop import OpenLoop
from mlsysim.solvers.recommended import recommended_engine
from mlsysim.solvers.result import Result, beyond_context, run_facts
from mlsysim.systems.types import Fleet, Node

SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
ARRIVALS = ("random", "even")
DISTRIBUTIONS = {"exponential": 1.0, "deterministic": 0.0}
_MOST_SERVERS = 1_000_000  # Erlang's recursion takes a step each
_NO_QUEUE = 1e-12  # below this load hardly one arrival in 1e12 waits


@dataclass(frozen=True, kw_only=True)
class TailLatencyResult(Result):
    """Latencies of requests; None throughout where the queue is unstable or the model does not fit.

    ``utilization``: arrivals over what the servers can complete (``capacity``). ``wait``: before a server is free, or a place
    in the batch, and the step begins that computes the prompt; ``wait_probability``: that there is any. ``latency``: the whole
    request. ``ttft``, ``tpot``: time to first token of a server with requests in flight, wait included, and per output token
    after it; of a deployment only.
    ``requests_in_flight``: being served, mean, all servers. ``wait_within``: share of requests that wait no longer than the
    ``wait_limit`` that was given. ``at_percentile``: of "wait", "ttft", "tpot" and "latency", what the share ``percentile`` of
    the requests does not exceed.
    """

    INTERVAL_OF = "capacity"
    MEASURED_AS = "ServingModel"
    INTERVALS_OF_ALL = False
    COUNTED: ClassVar[Mapping[str, str]] = {"capacity": "requests", "arrival_rate": "requests"}
    HEADLINE = ("utilization", "capacity", "wait_p99", "ttft_p99", "latency_p50", "latency_p99")

    arrival_rate: Quantity
    capacity: Quantity
    utilization: float
    servers: int
    wait_probability: float | None = None
    wait_within: float | None = None
    requests_in_flight: float | None = None
    wait_mean: Quantity | None = None
    wait_p50: Quantity | None = None
    wait_p90: Quantity | None = None
    wait_p99: Quantity | None = None
    ttft_mean: Quantity | None = None
    ttft_p50: Quantity | None = None
    ttft_p90: Quantity | None = None
    ttft_p99: Quantity | None = None
    tpot_mean: Quantity | None = None
    tpot_p50: Quantity | None = None
    tpot_p90: Quantity | None = None
    tpot_p99: Quantity | None = None
    latency_mean: Quantity | None = None
    latency_p50: Quantity | None = None
    latency_p90: Quantity | None = None
    latency_p99: Quantity | None = None
    percentile: float = 0.99
    at_percentile: Mapping[str, Quantity] | None = None


class TailLatencyModel:
    """Waiting, first token and whole request at P50, P90 and P99 where requests arrive at random (open loop).

    Exact for M/M/k and M/D/1; other M/G/k by Allen-Cunneen and an exponential tail; a serving engine as a birth-death chain of
    the requests in flight (``physics.open_loop``).
    """

    @strict_keywords
    def solve(
        self,
        workload: TransformerWorkload | None = None,
        hardware: HardwareNode | Node | Fleet | None = None,
        *,
        request_rate: Quantity | str | None = None,
        arrival_rate: Quantity | str | None = None,
        service_time: Quantity | str | None = None,
        service_rate: Quantity | str | None = None,
        servers: int | None = None,
        distribution: ServiceTimes | str | None = None,
        service_cv2: float | None = None,
        wait_limit: Quantity | str | None = None,
        output_len: int | None = None,
        batch_size: int | None = None,
        replicas: int | None = None,
        prefix_hit: float | None = None,
        shared_len: int | None = None,
        turns: int | None = None,
        arrivals: Arrivals | str = "random",
        percentile: float = 0.99,
        basis: Basis | str | None = None,
        **options: Unpack[DeploymentOptions],
    ) -> TailLatencyResult:
        """Latencies at ``request_rate``, of servers that are described or of a serving deployment.

        Args:
            workload: a decoder to serve; without it ``service_time`` or ``service_rate`` say how long a request takes.
            hardware: what it runs on, as for ``ServingModel``.
            request_rate: requests a time, all servers together.
            arrival_rate: another name of ``request_rate``.
            service_time: mean time that a server needs for a request.
            service_rate: requests a time that one server completes, instead.
            servers: that share one queue, one request each at a time; 1 if not given.
            distribution: of service times, "exponential" (if nothing is given) or "deterministic".
            service_cv2: squared coefficient of variation of service times, instead; of a serving deployment, of the time that
                requests hold a place in the batch (if not given, that of the output lengths, ``output_cv``).
            wait_limit: a wait whose share of requests is asked (``wait_within``).
            output_len: tokens that a request generates.
            batch_size: most requests in flight of one replica; as many as fit if not given.
            replicas: copies of the model, each with an equal share of the requests at random.
            prefix_hit: share of a prompt's tokens that the prefix cache has, so that no prefill computes them; if not given,
                what ``shared_len`` and earlier turns are of it.
            shared_len: tokens of ``input_len`` that begin all prompts (a system prompt), which the prefix cache has.
            turns: requests of a conversation, each of which holds the questions and answers before it; 1 if not given.
            arrivals: "random" (Poisson), or "even": at equal intervals, as load generators send at a constant rate.
            percentile: share of the requests that do not exceed the times of ``at_percentile``, beside P50, P90 and P99.
            basis: "bound" for the speed of light; by default, without ``stack`` or ``efficiency``, the engine that is best
                supported on the accelerator is taken, and named.
            **options: see ``DeploymentOptions``.

        Raises:
            InputError: an argument out of range, or two that contradict each other.

        Example:
            >>> calls = TailLatencyModel().solve(request_rate="200 request/hour", service_time="3 min", servers=14)
            >>> f"{calls.wait_probability:.6f}", f"{calls.wait_p99.to('s').magnitude:.1f} s"
            ('0.174132', '128.6 s')
            >>> TailLatencyModel().solve(request_rate="12 request/s", service_rate="10 request/s").reason
            'unstable: load 1.2 of capacity (12 arrivals a second, 10 can be served)'
        """
        arrival_per_s = needed("request_rate", requests_per_s(request_rate, arrival_rate), "a rate, such as 20 count/s")
        limit_s = None if wait_limit is None else positive_quantity("wait_limit", wait_limit, "second")
        cv2 = None if service_cv2 is None else real_number("service_cv2", service_cv2, 0.0)
        share, evenly = percentile_share("percentile", percentile), one_of("arrivals", arrivals, ARRIVALS) == "even"
        # Here None says of every argument that it is left out.
        served: dict[str, Any] = {
            **options,
            "output_len": output_len,
            "batch_size": batch_size,
            "replicas": replicas,
            "prefix_hit": prefix_hit,
            "shared_len": shared_len,
            "turns": turns,
            "basis": basis,
        }
        described: dict[str, Any] = {
            "service_time": service_time,
            "service_rate": service_rate,
            "servers": servers,
            "distribution": distribution,
        }
        if workload is None and hardware is None:
            _refuse_beside(served, "nothing without a workload and hardware")
            service_s, k = _service_s(service_time, service_rate), 1 if servers is None else _servers(servers)
            if evenly:
                raise InconsistentError("arrivals", arrivals, '"random" without a workload and hardware')
            return _of_servers(arrival_per_s, service_s, k, _variation(distribution, cv2), limit_s, share)
        _refuse_beside(described, "nothing beside a workload: its deployment says how long a request takes")
        most = None if batch_size is None else whole_number("batch_size", batch_size)
        stated = {name: value for name, value in served.items() if value is not None and name != "basis"}
        engine = recommended_engine(workload, hardware, stated, basis)
        asked = {**engine.added_to(_with_history(stated)), "schedule": "continuous"}
        deployment = Deployment.of(workload, hardware, **asked)
        variation = deployment.output_cv**2 if cv2 is None else cv2
        seen = of_deployment(deployment, most, arrival_per_s, share, variation, limit_s, evenly=evenly)
        return replace(seen, diagnostics=(*engine.notes, *seen.diagnostics)) if engine.notes else seen


def _with_history(stated: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a deployment whose prompts hold what all share and the turns before them, mean over the turns."""
    asked = dict(stated)
    shared, turns = asked.pop("shared_len", None), asked.pop("turns", None)
    if shared is None and turns is None:
        return asked
    prompt, output = prompt_tokens(asked.pop("input_len", None), asked.pop("seq_len", None)), asked.get("output_len")
    begun = 0 if shared is None else whole_number("shared_len", shared, 0)
    if begun >= prompt:
        raise InconsistentError("shared_len", begun, f"less than the {prompt} tokens of a prompt")
    answer = needed("output_len", None if output is None else whole_number("output_len", output), "a whole number >= 1")
    asked["input_len"], hit = conversation(prompt, answer, begun, 1 if turns is None else whole_number("turns", turns))
    return {"prefix_hit": hit} | asked


def _refuse_beside(arguments: dict[str, Any], expected: str) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise InconsistentError(name, value, expected)


def _servers(servers: object) -> int:
    count = whole_number("servers", servers)
    if count > _MOST_SERVERS:
        raise InputError("servers", servers, f"a whole number from 1 to {_MOST_SERVERS}")
    return count


def _service_s(time: Quantity | str | None, rate: Quantity | str | None) -> float:
    if rate is None:
        if time is None:
            raise InputError("service_time", None, "a time, a service_rate, or a workload and hardware")
        return positive_quantity("service_time", time, "second")
    if time is not None:
        raise InconsistentError("service_rate", rate, "nothing beside service_time")
    return 1 / positive_quantity("service_rate", rate, "count/second")


def _variation(distribution: str | None, cv2: float | None) -> float:
    if distribution is None:
        return 1.0 if cv2 is None else cv2
    if cv2 is not None:
        raise InconsistentError("distribution", distribution, "nothing beside service_cv2")
    return DISTRIBUTIONS[one_of("distribution", distribution, DISTRIBUTIONS)]


def _unstable(load: float, arrival_per_s: float, capacity_per_s: float) -> str:
    if load < ALMOST:
        return ""
    return f"unstable: load {load:.4g} of capacity ({arrival_per_s:.4g} arrivals a second, {capacity_per_s:.4g} can be served)"


def _of_servers(
    arrival_per_s: float, service_s: float, servers: int, cv2: float, limit_s: float | None, share: float
) -> TailLatencyResult:
    capacity_per_s = servers / service_s
    load = arrival_per_s / capacity_per_s
    reason = _unstable(load, arrival_per_s, capacity_per_s)
    kind = "M" if cv2 == 1 else "D" if cv2 == 0 else "G"
    exact = kind == "M" or (kind == "D" and servers == 1)
    notes = () if exact else (_approximate(servers),)
    told: dict[str, Any] = {
        "solver": "TailLatencyModel",
        "subject": f"M/{kind}/{servers}, {arrival_per_s:.4g} arrivals a second, {service_s:.4g} s of service each",
        "basis": "identity" if exact else "law",
        "diagnostics": notes,
        "arrival_rate": with_unit(arrival_per_s, "count/second"),
        "capacity": with_unit(capacity_per_s, "count/second"),
        "utilization": load,
        "percentile": share,
        "servers": servers,
    }
    if reason:
        return TailLatencyResult(reason=reason, binding="arrival rate", breakdown={}, **told)
    waits = float(queueing.erlang_c(arrival_per_s * service_s, servers))
    scale_s = float(queueing.delay_scale_s(service_s, servers, load, cv2))
    wait_s = waits * scale_s
    service = queueing.ServiceTime.of(service_s, cv2)
    within = None if limit_s is None else 1 - float(queueing.wait_tail(limit_s, waits, scale_s))
    times, shares = {"wait_mean": wait_s, "latency_mean": wait_s + service_s}, _shares(share)
    if kind == "D" and servers == 1 and load > _NO_QUEUE:
        constant = ConstantService.of(load)
        within = None if limit_s is None else 1 - constant.wait_tail(limit_s / service_s)
        for name, each in shares.items():
            times[f"wait_{name}"] = service_s * constant.wait_percentile(each)
            times[f"latency_{name}"] = times[f"wait_{name}"] + service_s
    else:
        for name, each in shares.items():
            times[f"wait_{name}"] = queueing.wait_percentile_s(each, waits, scale_s)
            times[f"latency_{name}"] = queueing.sojourn_percentile_s(each, service, waits, scale_s)
    asked = _asked(times, ("wait", "latency"), share)
    return TailLatencyResult(
        binding="waiting" if wait_s > service_s else "service",
        breakdown={"waiting": with_unit(wait_s, "second"), "service": with_unit(service_s, "second")},
        wait_probability=waits,
        wait_within=within,
        requests_in_flight=arrival_per_s * service_s,
        at_percentile=with_units(asked, "second"),
        **(told | with_units(times, "second")),
    )


def _shares(asked: float) -> dict[str, float]:
    """The shares that every result has, and the one that is asked, unless it is one of them."""
    return SHARES if asked in SHARES.values() else {**SHARES, "asked": asked}


def _asked(times: dict[str, float], names: Iterable[str], asked: float) -> dict[str, float]:
    """Takes the times at the share that is asked out of those at ``_shares``, or repeats them."""
    at = next((at for at, share in SHARES.items() if share == asked), None)
    return {name: times.pop(f"{name}_asked") if at is None else times[f"{name}_{at}"] for name in names}


def _approximate(servers: int) -> str:
    mean = "exact" if servers == 1 else "Allen and Cunneen's"
    return f"mean wait {mean}; percentiles by an exponential tail, and service times by their first two moments"


_FROZEN = "percentiles: as if the number in flight stayed what a request finds on arrival"
_MEAN_LENGTH = "latency: of a request whose output has the mean length"


def served_facts(setting: Deployment) -> RunFacts:
    """What a deployment is of, all replicas together: by it measured runs like it are found."""
    return run_facts(setting.workload, setting.accelerator, setting.stack, setting.replicas * setting.ranks)


def of_deployment(
    setting: Deployment,
    most: int | None,
    arrival_per_s: float,
    share: float,
    cv2: float = 0.0,
    limit_s: float | None = None,
    *,
    evenly: bool = False,
) -> TailLatencyResult:
    """The answer of ``TailLatencyModel`` about a deployment.

    Args:
        setting: with its replicas.
        most: requests in flight of one replica, at most; None for as many as fit.
        arrival_per_s: requests a second, all replicas together.
        share: of the requests that do not exceed the times of ``at_percentile``.
        cv2: squared coefficient of variation of the time that requests hold a place in the batch.
        limit_s: a wait whose share of requests is asked.
        evenly: whether requests arrive at equal intervals, and not at random.
    """
    pace = paces(setting, most)
    capacity_per_s = setting.replicas * pace.capacity_per_s
    load = arrival_per_s / capacity_per_s
    ranks = setting.ranks
    machine = f"{setting.replicas} x ({ranks} x {setting.accelerator.name})"
    told: dict[str, Any] = {
        "solver": "TailLatencyModel",
        "subject": f"{setting.workload.name}, {arrival_per_s:.4g} requests a second of {setting.prompt:.0f} + "
        f"{setting.output:.0f} tokens in {setting.formats} on {machine}, {pace.places} places each",
        "basis": setting.basis,
        "facts": served_facts(setting),
        "diagnostics": (
            _FROZEN,
            *((_MEAN_LENGTH,) if setting.output_cv else ()),
            *beyond_context(setting.workload, setting.prompt + setting.output),
        ),
        "coefficients": coefficients_used(setting),
        "arrival_rate": with_unit(arrival_per_s, "count/second"),
        "capacity": with_unit(capacity_per_s, "count/second"),
        "utilization": load,
        "percentile": share,
        "servers": setting.replicas,
    }
    reason = pace.reason or _unstable(load, arrival_per_s, capacity_per_s)
    if reason:
        binding = "memory capacity" if pace.reason else "arrival rate"
        return TailLatencyResult(reason=reason, binding=binding, breakdown={}, **told)
    each_per_s = arrival_per_s / setting.replicas
    loop = pace.under_even(each_per_s) if evenly else pace.under(each_per_s, cv2)
    return _seen(loop, arrival_per_s, setting.output, limit_s, told)


def _seen(
    loop: OpenLoop, arrival_per_s: float, output: float, limit_s: float | None, told: dict[str, Any]
) -> TailLatencyResult:
    """A request of a replica at its share of the arrivals."""
    spreads = {"wait": loop.wait(), "ttft": loop.after_wait(0.0), "latency": loop.after_wait(output - 1.0)}
    times = {f"{name}_mean": spread.mean_s for name, spread in spreads.items()}
    shares = _shares(told["percentile"])
    times |= {f"{name}_{at}": spread.percentile_s(share) for name, spread in spreads.items() for at, share in shares.items()}
    times["tpot_mean"] = loop.token_mean_s()
    times |= {f"tpot_{at}": loop.token_percentile_s(share) for at, share in shares.items()}
    asked = _asked(times, (*spreads, "tpot"), told["percentile"])
    wait_s, first_s, whole_s = (spreads[name].mean_s for name in ("wait", "ttft", "latency"))
    parts = {"waiting": wait_s, "first token": first_s - wait_s, "further tokens": whole_s - first_s}
    return TailLatencyResult(
        binding=max(parts, key=lambda part: parts[part]),
        breakdown=with_units(parts, "second"),
        wait_probability=spreads["wait"].tail(0.0),
        wait_within=None if limit_s is None else 1 - spreads["wait"].tail(limit_s),
        requests_in_flight=arrival_per_s * (whole_s - wait_s),
        at_percentile=with_units(asked, "second"),
        **(told | with_units(times, "second")),
    )
