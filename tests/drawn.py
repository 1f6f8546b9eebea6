"""Models, machines and training runs that hypothesis draws, and what a sound answer is."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import pytest
from bad_calls import numbers
from hypothesis import settings
from hypothesis import strategies as st
from random_systems import PHASES, ROUNDING, either

from mlsysim.core.units import Q_
from mlsysim.hardware.types import ComputeCore, HardwareNode, MemoryHierarchy
from mlsysim.models.parameters import total_parameters
from mlsysim.models.types import MixtureOfExperts, TransformerWorkload
from mlsysim.solvers.training.distributed import DistributedModel
from mlsysim.systems.types import Fleet, NetworkFabric, Node

FEW = settings(max_examples=25, deadline=None, derandomize=True, phases=PHASES)
MANY = settings(FEW, max_examples=50)
KNOBS = ("peak", "memory", "intra", "inter")
EFFICIENCIES = st.none() | st.floats(0.05, 1.0)
OVERLAPPED = st.sampled_from([{}, {"overlap_comm": False}, *({"overlap_efficiency": s} for s in (0.0, 0.5, 0.85, 1.0))])


@functools.cache
@st.composite
def transformers(draw, experts=True):
    heads, width = draw(either(8, 12, 32, 64)), draw(either(64, 128))
    hidden = heads * width
    ffn = hidden * draw(either(2, 4))
    moe = None
    if experts and draw(st.booleans()):
        routed = draw(either(4, 8, 16))
        chosen, shared = draw(either(1, 2, 4)), draw(either(0, 1))
        moe = MixtureOfExperts(experts=routed, experts_per_token=chosen, ffn_hidden=ffn // 2, shared_experts=shared)
    sizes = {
        "name": "model",
        "layers": draw(st.integers(1, 40)),
        "hidden_dim": hidden,
        "heads": heads,
        "kv_heads": draw(either(None, 4, heads)),
        "ffn_hidden": ffn,
        "ffn_matrices": draw(either(2, 3)),
        "vocab_size": draw(either(0, 32000, 128256)),
        "tied_embeddings": draw(st.booleans()),
        "causal": draw(st.booleans()),
        "parallel_block": draw(st.booleans()),
        "sliding_window": draw(either(None, 256)),
        "moe": moe,
    }
    count = total_parameters(TransformerWorkload.model_construct(**sizes), ffn)
    return TransformerWorkload(parameters=Q_(count, "count"), **sizes)


@functools.cache
def decoders():
    return transformers().map(lambda model: model.model_copy(update={"causal": True}))


@dataclass(frozen=True)
class Hardware:
    """Plain SI figures, so that a test can scale one of them; what they make is kept, for a test asks of it several times."""

    peak: float
    memory: float
    intra: float
    inter: float
    capacity: float = 80 * 2**30

    def device(self):
        return _device(self)

    def node(self, per_node):
        return _node(self, per_node)

    def fleet(self, per_node, count):
        return _fleet(self, per_node, count)

    def faster(self, knob, factor):
        return replace(self, **{knob: getattr(self, knob) * factor})


@functools.lru_cache(maxsize=256)
def _device(figures):
    peak = Q_(figures.peak, "flop/s")
    rates = {"fp32": peak / 2, "bf16": peak, "fp8": peak * 2}
    return HardwareNode(
        name="chip",
        release_year=2024,
        compute=ComputeCore(peak_flops=peak, precision_flops=rates),
        memory=MemoryHierarchy(capacity=Q_(figures.capacity, "byte"), bandwidth=Q_(figures.memory, "byte/s")),
        tdp="700 W",
    )


@functools.lru_cache(maxsize=256)
def _node(figures, per_node):
    link = Q_(2 * figures.intra, "byte/s")
    return Node(name="node", accelerator=_device(figures), accelerators_per_node=per_node, intra_node_bw=link)


@functools.lru_cache(maxsize=256)
def _fleet(figures, per_node, count):
    fabric = NetworkFabric(name="net", bandwidth=Q_(figures.inter, "byte/s"), oversubscription_ratio=2.0)
    return Fleet(name="fleet", node=_node(figures, per_node), count=count, fabric=fabric)


@functools.cache
def hardware(capacity=80 * 2**30):
    return st.builds(
        Hardware,
        peak=st.floats(1e13, 5e15),
        memory=st.floats(1e11, 2e13),
        intra=st.floats(1e10, 1e12),
        inter=st.floats(1e9, 1e11),
        capacity=st.just(capacity),
    )


def divisors(number, most=math.inf):
    return [d for d in range(1, number + 1) if number % d == 0 and d <= most]


@dataclass(frozen=True)
class Training:
    """A legal question to ``DistributedModel``."""

    model: TransformerWorkload
    hardware: Hardware
    per_node: int
    nodes: int
    asked: dict

    def solve(self, hardware=None, **changes):
        fleet = (hardware or self.hardware).fleet(self.per_node, self.nodes)
        return DistributedModel().solve(self.model, fleet, **{**self.asked, **changes})


@functools.cache
@st.composite
def trainings(draw):
    model, chip = draw(transformers()), draw(hardware())
    tp = draw(either(*[d for d in (1, 2, 4, 8) if model.heads % d == 0]))
    pp = draw(either(*[p for p in (1, 2, 3, 4, 8) if p <= model.layers]))
    dp = draw(either(1, 2, 3, 8, 64))
    ranks = tp * pp * dp
    per_node = draw(either(*divisors(ranks, most=16)))
    deepest = model.layers // pp if pp > 1 else 1
    chunks = draw(either(1, *range(2, min(deepest, 4) + 1)))
    schedules = ["interleaved"] if chunks > 1 else ["gpipe", "1f1b"]
    passes = draw(st.integers(1, 6)) * (pp if chunks > 1 else 1)
    sequences, parts = draw(either((1, 1), (2, 1), (3, 1), (1, 2), (1, 4)))  # of or in a micro-batch
    asked = {
        "batch_size": dp * passes * sequences,
        "microbatch_count": passes * parts,
        "seq_len": draw(either(32, 512, 2048, 8192)),
        "precision": draw(either("bf16", "fp16", "fp8", "fp32")),
        "efficiency": draw(EFFICIENCIES),
        "tp_size": tp,
        "pp_size": pp,
        "ep_size": draw(either(*(divisors(math.gcd(model.moe.experts, dp) if model.moe else 1)))),
        "virtual_stages": chunks,
        "schedule": draw(either(None, *schedules)),
        "zero_stage": draw(st.integers(0, 3)),
        "sequence_parallel": draw(either(None, True, False)),
        "recompute": draw(either(None, "none", "selective", "full")),
        "gradient_precision": draw(either(None, "fp32")),
        "straggler_factor": draw(either(1.0, 1.2)),
        "congestion_factor": draw(either(1.0, 3.0)),
        **draw(OVERLAPPED),
    }
    return Training(model, chip, per_node, ranks // per_node, asked)


def seconds(result):
    return result.step_latency_total.m_as("second")


def assert_sound(result, main):
    """Nothing negative, nan or infinite; the parts sum to the quantity named ``main``, which is positive."""
    whole = getattr(result, main).m_as("second")
    assert whole > 0
    assert all(math.isfinite(number) and number >= -ROUNDING * whole for _, number in numbers(result.to_dict()))
    assert sum(part.m_as("second") for part in result.breakdown.values()) == pytest.approx(whole, rel=ROUNDING)
