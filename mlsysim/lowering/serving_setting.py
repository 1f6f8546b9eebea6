"""What ``ServingModel`` was asked, checked and in plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.calibration.engines import Engine, engine
from mlsysim.core.checks import boolean, fraction, instance, one_of, whole_number
from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.core.precision import bytes_per_element, precision_name
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.offload import Offload, check_offload
from mlsysim.lowering.work import cached_tokens, keys_seen
from mlsysim.models.types import TransformerWorkload
from mlsysim.systems.types import Fleet, Node

SCHEDULES = ("static", "continuous", "offline")
# Weights that have a format for storage only: their arithmetic is 16-bit, or that of the format named here.
_ARITHMETIC = {"fp8_block": "fp8", "nvfp4": "fp4"}


@dataclass(frozen=True)
class ServingSetting:
    """A checked question. ``output`` is 0 where the caller left it out; ``rated``: the precision of the arithmetic's peak.

    ``padded`` is the longest prompt of a batch, ``prompt`` the mean.
    """

    workload: TransformerWorkload
    accelerator: HardwareNode
    prompt: float
    padded: float
    output: float
    batch: float
    arithmetic: str
    rated: str
    weights: str
    cache: str
    efficiency: float | None
    stack: Engine | None
    tp: int
    pp: int
    replicas: int
    schedule: str
    rounds: int | None
    requests: int | None
    stream_interval: int
    attention_dp: bool
    offload: Offload
    per_node: int
    link_Bps: float
    network_Bps: float

    @property
    def context(self) -> float:
        """Tokens that a sequence holds at the decode step that is timed."""
        return self.prompt + self.output / 2

    @property
    def reach(self) -> float:
        """Tokens of a whole sequence whose keys and values are kept."""
        return cached_tokens(self.workload, int(self.prompt + self.output))

    @property
    def occupied(self) -> float:
        """Tokens that a running sequence occupies, mean over its life unless the cache is reserved for all of it."""
        grows = self.schedule != "static" and (self.stack is None or not self.stack.reserves)
        return cached_tokens(self.workload, self.context) if grows else self.reach

    @property
    def keys(self) -> float:
        """Mean number of keys that a query of the prompt sees."""
        return keys_seen(self.workload, int(self.prompt), causal=self.workload.causal)

    @property
    def prompts(self) -> float:
        """Prompts that the time to first token covers: those of a fixed batch, else one."""
        return self.batch if self.schedule == "static" else 1.0

    @property
    def attention_ranks(self) -> int:
        """Ranks that share attention's heads."""
        return 1 if self.attention_dp else self.tp

    @property
    def kv_shards(self) -> float:
        """Ranks that divide the KV cache: as many as there are key heads, or all where each keeps sequences of its own.

        A latent cache is one for all heads.
        """
        if self.attention_dp:
            return float(self.tp * self.pp)
        return (1.0 if self.workload.mla is not None else float(min(self.tp, self.workload.kv_head_count))) * self.pp

    @property
    def basis(self) -> str:
        """What the answer rests on."""
        return "calibrated" if self.stack is not None else "bound" if self.efficiency is None else "efficiency"


def check_setting(
    workload: object,
    hardware: object,
    *,
    seq_len: object,
    batch_size: object,
    output_len: object,
    precision: object,
    weight_precision: object,
    kv_precision: object,
    efficiency: object,
    stack: object,
    tp_size: object,
    pp_size: object,
    replicas: object,
    schedule: object,
    rounds: object,
    requests: object,
    stream_interval: object,
    attention_dp: object,
    padded_len: object = None,
    offload: object = None,
    host_memory: object = None,
) -> ServingSetting:
    """The arguments of ``ServingModel.solve``, checked.

    Raises:
        InputError: one is out of range, or two contradict each other.
    """
    model = instance("workload", workload, TransformerWorkload, "a transformer such as Models.Language.Llama3_8B")
    if efficiency is not None and stack is not None:
        raise InconsistentError("efficiency", efficiency, f"none beside stack = {stack!r}: a stack knows its own efficiency")
    found = None if stack is None else engine(instance("stack", stack, str, "the name of a serving engine"))
    prompt, batch = whole_number("seq_len", seq_len), whole_number("batch_size", batch_size)
    padded = prompt if padded_len is None else whole_number("padded_len", padded_len)
    if padded < prompt:
        raise InconsistentError("padded_len", padded, f"at least the mean length, seq_len = {prompt}")
    output = 0 if output_len is None else whole_number("output_len", output_len)
    if not model.causal and output:
        raise InputError("workload", model.name, f"a decoder with output_len = {output}: an encoder generates no tokens")
    plan = one_of("schedule", schedule, SCHEDULES)
    if plan != "static" and not output:
        raise InconsistentError("output_len", output_len, f'a whole number >= 1 with schedule = "{plan}"')
    share = None if efficiency is None else fraction("efficiency", efficiency)
    tp, pp = whole_number("tp_size", tp_size), whole_number("pp_size", pp_size)
    device, per_node, link_Bps, network_Bps = _machine(hardware, tp, pp)
    if found is not None and found.has.torus and model.moe is not None:
        raise InconsistentError(
            "stack", found.name, f"one for mixtures of experts such as {model.name}: it divides dense layers"
        )
    own = boolean("attention_dp", attention_dp)
    if model.heads % tp and not (own or (found is not None and found.has.torus)):
        raise InconsistentError("tp_size", tp, f"a divisor of the {model.heads} heads of {model.name}")
    if pp > model.layers:
        raise InconsistentError("pp_size", pp, f"at most the {model.layers} layers of {model.name}")
    arithmetic = precision_name("precision", precision)
    return ServingSetting(
        workload=model,
        accelerator=device,
        prompt=float(prompt),
        padded=float(padded),
        output=float(output),
        batch=float(batch),
        arithmetic=arithmetic,
        rated=_rated(arithmetic, device, found is not None),
        weights=arithmetic if weight_precision is None else precision_name("weight_precision", weight_precision),
        cache=_cache(arithmetic) if kv_precision is None else precision_name("kv_precision", kv_precision),
        efficiency=share,
        stack=found,
        tp=tp,
        pp=pp,
        replicas=whole_number("replicas", replicas),
        schedule=plan,
        rounds=None if rounds is None else whole_number("rounds", rounds),
        requests=None if requests is None else whole_number("requests", requests),
        stream_interval=whole_number("stream_interval", stream_interval),
        attention_dp=own,
        offload=check_offload(offload, host_memory, hardware, device, calibrated=found is not None),
        per_node=per_node,
        link_Bps=link_Bps,
        network_Bps=network_Bps,
    )


def _rated(arithmetic: str, device: HardwareNode, calibrated: bool) -> str:
    """The precision whose peak the arithmetic runs at; weights of a format that the device has no rate for are unpacked."""
    wanted = _ARITHMETIC.get(arithmetic, arithmetic)
    stored = bytes_per_element(arithmetic) < 2
    if arithmetic in _WEIGHT_ONLY or (stored and calibrated and wanted not in device.compute.precision_flops):
        return "fp16"
    return wanted


# Formats that weights are stored in and nothing is computed in.
_WEIGHT_ONLY = ("awq", "gptq", "q4_0", "q4_k_m", "q8_0")


def _cache(arithmetic: str) -> str:
    """The cache's format where nobody says: that of the arithmetic, but no narrower than 8 bits."""
    if arithmetic in (*_WEIGHT_ONLY, "int4"):
        return "fp16"
    return {"fp8_block": "fp8", "nvfp4": "fp8", "fp4": "fp8"}.get(arithmetic, arithmetic)


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
    link = device.interconnect_bandwidth_Bps
    if tp * pp > 1 and link is None:
        raise InconsistentError("tp_size", tp, f"1: {device.name} lists no link to its peers (a Node would)")
    unlimited = float("inf") if link is None else link
    return device, tp * pp, unlimited, unlimited
