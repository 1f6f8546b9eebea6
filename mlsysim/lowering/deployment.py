"""Arguments of all serving solvers, checked once and in plain numbers: what is served, on what, and how."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Self, Unpack

from mlsysim.calibration.engines import Engine
from mlsysim.core.checks import (
    by_either_name,
    fraction,
    instance,
    needed,
    one_of,
    real_number,
    request_rate_per_s,
    strict_keywords,
    whole_number,
)
from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.core.options import with_defaults
from mlsysim.core.precision import BYTES_PER_ELEMENT, UNPACKED, number_format, precision_name
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.expert_plan import ExpertPlan, attention_groups, check_experts
from mlsysim.lowering.offload import Offload, check_offload
from mlsysim.lowering.options import ServingOptions, drafting, held_back, limited, named_engine, spread
from mlsysim.models.types import TransformerWorkload
from mlsysim.physics.layer.attention import cached_tokens, keys_seen
from mlsysim.physics.serving.schedule import met_output
from mlsysim.physics.serving.speculation import rounds_of
from mlsysim.systems.fleets import usual_nodes
from mlsysim.systems.types import Fleet, Node

EXPERT_ARGUMENTS = ("ep_size", "redundant_experts", "routing_imbalance", "two_batch_overlap")
SCHEDULES = ("static", "continuous", "offline")


@dataclass(frozen=True)
class Deployment:
    """A model on its accelerators and the load on it, checked and in plain numbers: every serving solver asks about one.

    Attributes:
        workload: the model.
        accelerator: what each rank runs on.
        prompt: tokens of a prompt, mean.
        padded: tokens of the longest prompt of a batch.
        output: tokens that a request generates, mean; 0 where the caller left them out.
        output_cv: standard deviation of these tokens over their mean.
        batch: sequences of a fixed batch, or requests in flight, of one replica.
        arithmetic: number format of the arithmetic.
        rated: the number format whose peak rate bounds the arithmetic.
        weights: number format of the weights in memory.
        experts: number format of routed experts in memory.
        cache: number format of the KV cache.
        efficiency: share of peak arithmetic that the caller owns.
        stack: the engine, on the calibrated basis.
        tp: ranks that share each layer.
        pp: stages.
        replicas: copies of the model.
        schedule: one of ``SCHEDULES``.
        rounds: requests that each place in flight serves; None in the steady state.
        requests: requests of an offline run; None for a run without end.
        batch_wait_iters: steps that the scheduler holds prompts back.
        recv_interval: decode steps between the scheduler's looks at the requests that arrived.
        attention_dp: groups of a stage's ranks that attend for sequences of their own; 1: all share every sequence.
        expert_plan: how the routed experts are divided over ranks.
        prefix_hit: share of a prompt whose cache is there already.
        block_tokens: tokens of a block of the KV cache.
        draft_len, draft: tokens that are drafted a round (0: none), and the model that drafts (None: a module of its own).
        round_tokens: tokens that a round yields of each sequence, mean; 1 without drafts.
        offload: what lies in the host's memory.
        per_node: accelerators of a node.
        link_Bps: bandwidth that tensor parallelism has within a node.
        network_Bps: bandwidth between nodes.
    """

    workload: TransformerWorkload
    accelerator: HardwareNode
    prompt: float
    padded: float
    output: float
    output_cv: float
    batch: float
    arithmetic: str
    rated: str
    weights: str
    experts: str
    cache: str
    efficiency: float | None
    stack: Engine | None
    tp: int
    pp: int
    replicas: int
    schedule: str
    rounds: int | None
    requests: int | None
    batch_wait_iters: int
    recv_interval: int
    attention_dp: int
    expert_plan: ExpertPlan
    prefix_hit: float
    block_tokens: int
    draft_len: int
    draft: TransformerWorkload | None
    round_tokens: float
    offload: Offload
    per_node: int
    link_Bps: float
    network_Bps: float

    @classmethod
    @strict_keywords
    def of(cls, workload: object, hardware: object, **options: Unpack[ServingOptions]) -> Self:
        """The deployment that the arguments of ``ServingModel.solve`` describe.

        Args:
            workload: a decoder or an encoder.
            hardware: one accelerator, a node or a fleet.
            **options: see ``ServingOptions``.

        Raises:
            InputError: one is out of range, or two contradict each other.

        Example:
            >>> from mlsysim import Hardware, Models
            >>> found = Deployment.of(Models.Language.Llama3_8B, Hardware.Cloud.H100, input_len=1024, output_len=256)
            >>> found.context, found.cache, found.basis
            (1152.0, 'fp16', 'bound')
        """
        asked: dict[str, Any] = with_defaults(ServingOptions, dict(options))
        model = instance("workload", workload, TransformerWorkload, "a transformer such as Models.Language.Llama3_8B")
        stack, efficiency, output_len = asked["stack"], asked["efficiency"], asked["output_len"]
        served_by = named_engine(stack, asked)
        if efficiency is not None and stack is not None:
            raise InconsistentError(
                "efficiency", efficiency, f"none beside stack = {stack!r}: a stack knows its own efficiency"
            )
        prompt, batch = prompt_tokens(asked["input_len"], asked["seq_len"]), whole_number("batch_size", asked["batch_size"])
        padded = prompt if asked["padded_len"] is None else whole_number("padded_len", asked["padded_len"])
        if padded < prompt:
            called = "input_len" if asked["seq_len"] is None else "seq_len"
            raise InconsistentError("padded_len", padded, f"at least the mean length, {called} = {prompt}")
        output = 0 if output_len is None else whole_number("output_len", output_len)
        if not model.causal and output:
            raise InputError("workload", model.name, f"a decoder with output_len = {output}: an encoder generates no tokens")
        schedule = one_of("schedule", asked["schedule"], SCHEDULES)
        if schedule != "static" and not output:
            raise InconsistentError("output_len", output_len, f'a whole number >= 1 with schedule = "{schedule}"')
        hit = real_number("prefix_hit", asked["prefix_hit"], 0.0, 1.0)
        if hit and not model.causal:
            raise InconsistentError("prefix_hit", hit, f"0: {model.name} reads both ways, so that nothing is reused")
        share = None if efficiency is None else fraction("efficiency", efficiency)
        tp, pp = whole_number("tp_size", asked["tp_size"]), whole_number("pp_size", asked["pp_size"])
        apart = attention_groups(asked["attention_dp"], tp)
        device, per_node, link_Bps, network_Bps = _machine(hardware, tp, pp)
        _check_division(model, served_by, tp, pp, apart)
        drafts = drafting(model, asked)
        if drafts["draft"] is not None:
            _check_division(drafts["draft"], served_by, tp, pp, apart)
        arithmetic, weights, experts = _formats(model, served_by, asked["precision"], asked["weight_precision"])
        rated = _rated(arithmetic, experts, device, served_by)
        cache, rounds, requests = (asked[name] for name in ("kv_precision", "rounds", "requests"))
        divided = check_experts(model, tp, per_node, apart, **{name: asked[name] for name in EXPERT_ARGUMENTS})
        whole_number("stream_interval", asked["stream_interval"])  # not kept: no time depends on it
        return cls(
            workload=model,
            accelerator=device,
            prompt=float(prompt),
            padded=float(padded),
            output=float(output),
            output_cv=spread(asked["output_cv"], schedule),
            batch=float(batch),
            arithmetic=arithmetic,
            rated=rated,
            weights=weights,
            experts=experts,
            cache=_cache(asked["precision"], arithmetic, device) if cache is None else precision_name("kv_precision", cache),
            efficiency=share,
            stack=None if served_by is None else limited(served_by, device, asked),
            tp=tp,
            pp=pp,
            replicas=whole_number("replicas", asked["replicas"]),
            schedule=schedule,
            rounds=None if rounds is None else whole_number("rounds", rounds),
            requests=None if requests is None else whole_number("requests", requests),
            batch_wait_iters=held_back("batch_wait_iters", asked["batch_wait_iters"], schedule, 0),
            recv_interval=held_back("recv_interval", asked["recv_interval"], schedule, 1),
            attention_dp=apart,
            prefix_hit=hit,
            block_tokens=whole_number("page_size", asked["page_size"]),
            **drafts,
            expert_plan=divided,
            offload=check_offload(asked["offload"], asked["host_memory"], hardware, device, calibrated=served_by is not None),
            per_node=per_node,
            link_Bps=link_Bps,
            network_Bps=network_Bps,
        )

    @property
    def ranks(self) -> int:
        """Accelerators of one replica."""
        return self.tp * self.pp

    @property
    def formats(self) -> str:
        """The number formats as people say them: of the arithmetic, and of weights and experts that have others.

        What nobody names has 16 bits, as the checkpoint has them, be they fp16 or bf16: their rates and bytes are the same.
        """
        arithmetic, beside = "16 bits" if self.arithmetic == UNPACKED else self.arithmetic, []
        if self.weights != self.arithmetic:
            beside.append(f"{self.weights} weights")
        if self.experts != self.weights:
            beside.append(f"{self.experts} experts")
        return f"{arithmetic} ({', '.join(beside)})" if beside else arithmetic

    @property
    def ahead(self) -> float:
        """Steps that its host has scheduled by the time a step runs, beside it."""
        return 0.0 if self.stack is None else float(self.stack.has.ahead)

    @property
    def context(self) -> float:
        """Tokens that a sequence in flight holds at the decode step that is timed: half of the mean output lies behind it."""
        return self.prompt + self._met_output / 2

    @property
    def rounds_each(self) -> float:
        """Decode steps of a request, its prompt's pass among them; of its tokens, each is one without drafts."""
        return float(rounds_of(self.output, self.round_tokens)) if self.draft_len and self.output else self.output

    @property
    def reach(self) -> float:
        """Tokens of a whole sequence whose keys and values are kept."""
        return float(cached_tokens(self.workload.layer_shape, int(self.prompt + self._met_output)))

    @property
    def _met_output(self) -> float:
        """Tokens that a sequence in flight generates in all, mean over them."""
        return float(met_output(self.output, self.output_cv))

    @property
    def occupied(self) -> float:
        """Tokens that a running sequence occupies, mean over its life unless the cache is reserved for all of it."""
        grows = self.schedule != "static" and (self.stack is None or not self.stack.reserves)
        return float(cached_tokens(self.workload.layer_shape, self.context)) if grows else self.reach

    @property
    def held(self) -> float:
        """Tokens of the blocks that a running sequence occupies: half of the last one is empty, mean over its life."""
        return self.occupied + (self.block_tokens - 1) / 2

    @property
    def keys(self) -> float:
        """Mean number of keys that a query of the prompt sees."""
        return float(keys_seen(self.workload.layer_shape, int(self.prompt), causal=self.workload.causal))

    @property
    def prompts(self) -> float:
        """Prompts that the time to first token covers: those of a fixed batch, else one."""
        return self.batch if self.schedule == "static" else 1.0

    @property
    def attention_ranks(self) -> int:
        """Ranks that share attention's heads."""
        return self.tp // self.attention_dp

    @property
    def kv_shards(self) -> float:
        """Ranks that divide the KV cache: in each group with sequences of its own, as many as there are key heads.

        A latent cache is one for all heads.
        """
        heads = 1 if self.workload.mla is not None else self.workload.kv_head_count
        return float(self.attention_dp * min(self.attention_ranks, heads) * self.pp)

    @property
    def basis(self) -> str:
        """The basis of the answer: a bound, the caller's share, or a calibrated engine."""
        return "calibrated" if self.stack is not None else "bound" if self.efficiency is None else "efficiency"


def prompt_tokens(input_len: object = None, seq_len: object = None) -> int:
    """The length of a prompt, by whichever of its names it was given.

    Raises:
        InputError: it is no whole number, left out, or given twice with different values.
    """
    return needed("input_len", by_either_name(whole_number, input_len=input_len, seq_len=seq_len), "a whole number >= 1")


def requests_per_s(request_rate: object, arrival_rate: object) -> float | None:
    """The rate at which requests arrive, by whichever of its names it was given; None where it was left out.

    Raises:
        InputError: it is no rate, or given twice with different values.
    """
    return by_either_name(request_rate_per_s, request_rate=request_rate, arrival_rate=arrival_rate)


def _check_division(model: TransformerWorkload, served_by: Engine | None, tp: int, pp: int, groups: int) -> None:
    """Refuses ranks that cannot share the model's heads, experts or layers."""
    torus = served_by is not None and served_by.has.torus
    if served_by is not None and torus and (model.moe is not None or model.mla is not None):
        kind = "latent attention" if model.moe is None else "mixtures of experts"
        raise InconsistentError("stack", served_by.name, f"one for {kind} such as {model.name}: it divides dense layers")
    if torus and groups not in (1, tp):
        raise InconsistentError("attention_dp", groups, "True or False: chips of a slice share all sequences or none")
    if model.heads % (tp // groups) and not torus:
        named, each = ("tp_size", "") if groups == 1 else ("attention_dp", "ranks of a group that are ")
        raise InconsistentError(
            named, tp if groups == 1 else groups, f"{each}a divisor of the {model.heads} heads of {model.name}"
        )
    if pp > model.layers:
        raise InconsistentError("pp_size", pp, f"at most the {model.layers} layers of {model.name}")


def _formats(
    model: TransformerWorkload, served_by: Engine | None, precision: object, weight_precision: object
) -> tuple[str, str, str]:
    """Number formats of the arithmetic, of the weights and of routed experts: where nobody says, those of the published model.

    Where experts alone have a format of their own, who names that one means the model as it is published.
    """
    own = model.weight_format or UNPACKED
    arithmetic = own if precision is None else precision_name("precision", precision)
    weights = arithmetic if weight_precision is None else precision_name("weight_precision", weight_precision)
    as_published = precision is None and weight_precision is None
    if model.expert_format and (as_published or weights == model.expert_format):
        beside = own if served_by is None else served_by.beside_experts or own
        return own if arithmetic == model.expert_format else arithmetic, beside, model.expert_format
    return arithmetic, weights, weights


def _rated(arithmetic: str, experts: str, device: HardwareNode, served_by: Engine | None) -> str:
    """The precision whose peak the arithmetic runs at, the faster of two; narrow weights without a rate are unpacked.

    Raises:
        InputError: the engine has no kernel for it, or without an engine the device no rate.
    """
    if served_by is not None and arithmetic not in (known := _kernel_formats(served_by)):
        expected = f"one of {', '.join(known)}: {served_by.name} has no kernel for others"
        raise InputError("precision", arithmetic, expected)
    rates = device.compute.precision_flops
    rated = number_format(arithmetic).arithmetic_on(rates)
    if served_by is None:
        rate = device.rate_flops_per_s(rated, arithmetic)
        if number_format(rated).bytes == 2 and "fp32" in rates and device.rate_flops_per_s("fp32") > rate:
            return "fp32"  # cores that are slow at 16 bits multiply in 32
    of_experts = number_format(experts).arithmetic_on(rates)
    told_apart = experts != arithmetic and of_experts in rates and rated in rates
    return max(rated, of_experts, key=device.rate_flops_per_s) if told_apart else rated


def _kernel_formats(served_by: Engine) -> tuple[str, ...]:
    """Formats that an engine multiplies in or unpacks; its own kernels, and those of a torus, sum 16 bits at most."""
    return _formats_of_width(2 if served_by.has.own_products or served_by.has.torus else 4)


@functools.cache
def _formats_of_width(widest: float) -> tuple[str, ...]:
    return tuple(name for name, width in BYTES_PER_ELEMENT.items() if width <= widest)


def _cache(precision: object, arithmetic: str, device: HardwareNode) -> str:
    """The cache's format where nobody says: that of the arithmetic named, but no narrower than 8 bits; else 16 bits."""
    stored = number_format(arithmetic)
    if precision is None and stored.bytes < number_format(UNPACKED).bytes:
        return UNPACKED
    multiplied = stored.arithmetic_on(device.compute.precision_flops)
    return multiplied if multiplied != stored.arithmetic else stored.cache


def _machine(hardware: object, tp: int, pp: int) -> tuple[HardwareNode, int, float, float]:
    """The accelerator, how many share a node, the link that tensor parallelism uses, and the network between nodes."""
    if isinstance(hardware, Fleet):
        if tp * pp > hardware.accelerators:
            raise InconsistentError(
                "tp_size", tp, f"tp x pp at most the {hardware.accelerators} accelerators of {hardware.name}"
            )
        node = hardware.node
        return node.accelerator, node.accelerators_per_node, node.intra_bandwidth_Bps, hardware.inter_bandwidth_Bps
    if isinstance(hardware, Node):
        most = hardware.accelerators_per_node
        if tp * pp > most:
            what = "tp_size" if pp == 1 else "pp_size"
            raise InconsistentError(what, tp if pp == 1 else pp, f"at most the {most} accelerators of {hardware.name}")
        return hardware.accelerator, most, hardware.intra_bandwidth_Bps, hardware.intra_bandwidth_Bps
    device = instance("hardware", hardware, HardwareNode, "an accelerator such as Hardware.Cloud.H100, a Node or a Fleet")
    if tp * pp == 1:
        return device, 1, float("inf"), float("inf")
    if device.interconnect_bw is None and device.host_link_bw is None:
        raise InconsistentError("tp_size", tp, f"1: {device.name} lists no link to its peers (a Node would)")
    return _machine(usual_nodes(device, tp * pp), tp, pp)
