"""What must hold of every prediction, whatever the workload, the fleet and the plan.

Faster hardware never slows a step; parts sum to the whole; nothing beats the bound; arrays of plans give what each plan
gives alone; the search finds what trying every plan finds.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from mlsysim.core.errors import InputError
from mlsysim.core.units import Q_
from mlsysim.hardware.types import ComputeCore, HardwareNode, MemoryHierarchy
from mlsysim.lowering.work import inference_work, training_work
from mlsysim.models.parameters import embedding_width, total_parameters
from mlsysim.models.registry import Models
from mlsysim.models.types import MixtureOfExperts, TransformerWorkload
from mlsysim.physics.layer.work import FULL, NONE, SELECTIVE
from mlsysim.physics.machine import Machine
from mlsysim.physics.plan import GPIPE, INTERLEAVED, ONE_F_ONE_B, Plan
from mlsysim.physics.training.memory import MEMORY_PARTS, training_memory
from mlsysim.physics.training.roofline_step import training_step
from mlsysim.physics.training.step import STEP_PARTS, Overlap, StepParts, assemble_step
from mlsysim.solvers.operations.scaling import ScalingModel
from mlsysim.solvers.operations.sustainability import SustainabilityModel
from mlsysim.solvers.serving.serving import ServingModel
from mlsysim.solvers.training.distributed import DistributedModel
from mlsysim.solvers.training.parallelism import PAPER_OVERLAP, ParallelismOptimizer
from mlsysim.solvers.training.single_node import SingleNodeModel
from mlsysim.systems.types import Fleet, NetworkFabric, Node

ROUNDING = 1e-9
# Each run draws the same examples; a failing one is made smaller, but not explained (which takes minutes).
PHASES = (Phase.explicit, Phase.generate, Phase.shrink)
FEW = settings(max_examples=25, deadline=None, derandomize=True, phases=PHASES)
MANY = settings(FEW, max_examples=50)

KNOBS = ("peak", "memory", "intra", "inter")


@st.composite
def transformers(draw, experts=True):
    heads, width = draw(st.sampled_from([8, 12, 32, 64])), draw(st.sampled_from([64, 128]))
    hidden = heads * width
    ffn = hidden * draw(st.sampled_from([2, 4]))
    moe = None
    if experts and draw(st.booleans()):
        routed = draw(st.sampled_from([4, 8, 16]))
        chosen, shared = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([0, 1]))
        moe = MixtureOfExperts(experts=routed, experts_per_token=chosen, ffn_hidden=ffn // 2, shared_experts=shared)
    sizes = {
        "name": "model",
        "layers": draw(st.integers(1, 40)),
        "hidden_dim": hidden,
        "heads": heads,
        "kv_heads": draw(st.sampled_from([None, 4, heads])),
        "ffn_hidden": ffn,
        "ffn_matrices": draw(st.sampled_from([2, 3])),
        "vocab_size": draw(st.sampled_from([0, 32000, 128256])),
        "tied_embeddings": draw(st.booleans()),
        "causal": draw(st.booleans()),
        "parallel_block": draw(st.booleans()),
        "sliding_window": draw(st.sampled_from([None, 256])),
        "moe": moe,
    }
    count = total_parameters(TransformerWorkload.model_construct(**sizes), ffn)
    return TransformerWorkload(parameters=Q_(count, "count"), **sizes)


def decoders():
    return transformers().map(lambda model: model.model_copy(update={"causal": True}))


@dataclass(frozen=True)
class Hardware:
    """Plain SI figures, so that a test can scale one of them."""

    peak: float
    memory: float
    intra: float
    inter: float
    capacity: float = 80 * 2**30

    def device(self):
        peak = Q_(self.peak, "flop/s")
        rates = {"fp32": peak / 2, "bf16": peak, "fp8": peak * 2}
        return HardwareNode(
            name="chip",
            release_year=2024,
            compute=ComputeCore(peak_flops=peak, precision_flops=rates),
            memory=MemoryHierarchy(capacity=Q_(self.capacity, "byte"), bandwidth=Q_(self.memory, "byte/s")),
            tdp="700 W",
        )

    def node(self, per_node):
        link = Q_(2 * self.intra, "byte/s")
        return Node(name="node", accelerator=self.device(), accelerators_per_node=per_node, intra_node_bw=link)

    def fleet(self, per_node, count):
        fabric = NetworkFabric(name="net", bandwidth=Q_(self.inter, "byte/s"), oversubscription_ratio=2.0)
        return Fleet(name="fleet", node=self.node(per_node), count=count, fabric=fabric)

    def faster(self, knob, factor):
        return replace(self, **{knob: getattr(self, knob) * factor})


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


@st.composite
def trainings(draw):
    model, chip = draw(transformers()), draw(hardware())
    tp = draw(st.sampled_from([d for d in (1, 2, 4, 8) if model.heads % d == 0]))
    pp = draw(st.sampled_from([p for p in (1, 2, 3, 4, 8) if p <= model.layers]))
    dp = draw(st.sampled_from([1, 2, 3, 8, 64]))
    ranks = tp * pp * dp
    per_node = draw(st.sampled_from(divisors(ranks, most=16)))
    deepest = model.layers // pp if pp > 1 else 1
    chunks = draw(st.sampled_from([1, *range(2, min(deepest, 4) + 1)]))
    schedules = ["interleaved"] if chunks > 1 else ["gpipe", "1f1b"]
    passes = draw(st.integers(1, 6)) * (pp if chunks > 1 else 1)
    sequences, parts = draw(st.sampled_from([(1, 1), (2, 1), (3, 1), (1, 2), (1, 4)]))  # of or in a micro-batch
    asked = {
        "batch_size": dp * passes * sequences,
        "microbatch_count": passes * parts,
        "seq_len": draw(st.sampled_from([32, 512, 2048, 8192])),
        "precision": draw(st.sampled_from(["bf16", "fp16", "fp8", "fp32"])),
        "efficiency": draw(st.none() | st.floats(0.05, 1.0)),
        "tp_size": tp,
        "pp_size": pp,
        "ep_size": draw(st.sampled_from(divisors(math.gcd(model.moe.experts, dp) if model.moe else 1))),
        "virtual_stages": chunks,
        "schedule": draw(st.sampled_from([None, *schedules])),
        "zero_stage": draw(st.integers(0, 3)),
        "sequence_parallel": draw(st.sampled_from([None, True, False])),
        "recompute": draw(st.sampled_from([None, "none", "selective", "full"])),
        "gradient_precision": draw(st.sampled_from([None, "fp32"])),
        "straggler_factor": draw(st.sampled_from([1.0, 1.2])),
        "congestion_factor": draw(st.sampled_from([1.0, 3.0])),
        **draw(st.sampled_from([{}, {"overlap_comm": False}, *({"overlap_efficiency": s} for s in (0.0, 0.5, 0.85, 1.0))])),
    }
    return Training(model, chip, per_node, ranks // per_node, asked)


def seconds(result):
    return result.step_latency_total.m_as("second")


def numbers(value):
    """Every number of an export."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def assert_sound(result, main):
    """Nothing negative, nan or infinite; the parts sum to the quantity named ``main``, which is positive."""
    whole = getattr(result, main).m_as("second")
    assert whole > 0
    assert all(math.isfinite(number) and number >= -ROUNDING * whole for number in numbers(result.to_dict()))
    assert sum(part.m_as("second") for part in result.breakdown.values()) == pytest.approx(whole, rel=ROUNDING)


# Training.


@MANY
@given(trainings())
def test_a_step_is_the_sum_of_its_parts_and_no_better_than_its_efficiency(training):
    step = training.solve()
    assert_sound(step, "step_latency_total")
    assert sum(part.m_as("byte") for part in step.memory.values()) == pytest.approx(
        step.memory_per_accelerator.m_as("byte"), rel=ROUNDING
    )
    efficiency = training.asked["efficiency"]
    assert 0 < step.mfu <= (efficiency or 1.0) * (1 + ROUNDING)
    assert step.mfu <= step.mfu_full_attention * (1 + ROUNDING)
    assert step.scaling_efficiency == pytest.approx(step.mfu / (efficiency or 1.0))
    assert step.basis == ("bound" if efficiency is None else "efficiency")
    assert step.feasible == (not step.reason)
    plan = step.plan
    assert plan["tp"] * plan["pp"] * plan["dp"] == training.per_node * training.nodes
    assert plan["dp"] * plan["micro_batches"] * plan["micro_batch_tokens"] == (
        training.asked["batch_size"] * training.asked["seq_len"]
    )


@MANY
@given(trainings(), st.floats(1.01, 10.0))
def test_faster_hardware_never_slows_a_step(training, factor):
    before = seconds(training.solve())
    for knob in KNOBS:
        after = seconds(training.solve(training.hardware.faster(knob, factor)))
        assert after <= before * (1 + ROUNDING), f"{knob} x {factor}"
    everything = training.hardware
    for knob in KNOBS:
        everything = everything.faster(knob, factor)
    assert seconds(training.solve(everything)) == pytest.approx(before / factor), "time scales with speed"


OVERLAPS = st.builds(Overlap, *[st.sampled_from([0.0, 0.85, 1.0])] * 4, st.booleans())
SECONDS = st.sampled_from([0.0, 0.5, 1.0, 1.5, 10.0])


@settings(MANY, max_examples=300)
@given(
    st.integers(3, 9),
    st.sampled_from([1, 2, 3]),
    st.integers(1, 12),
    st.builds(StepParts, *[SECONDS] * len(fields(StepParts))),
    OVERLAPS,
    st.sampled_from([0.5, 0.9]),
)
def test_a_faster_part_never_slows_the_whole(layers, pp, passes, parts, overlap, factor):
    """Even with stages of unequal length: what hides under a stage is no more than that stage computes."""
    split = Plan(1.0, float(pp), 1.0, 1.0, 1.0, float(passes), 64.0, 0.0, 0.0, float(NONE), float(ONE_F_ONE_B), 2.0, 2.0, 12.0)
    before = assemble_step(float(layers), parts, split, overlap).total_s
    for part in fields(StepParts):
        if part.name in ("cp_window_s", "head_spread"):
            continue  # a part of the layer's own time, and no time at all
        faster = replace(parts, **{part.name: factor * getattr(parts, part.name)})
        assert assemble_step(float(layers), faster, split, overlap).total_s <= before * (1 + ROUNDING), part.name


@MANY
@given(trainings())
def test_nothing_beats_the_bound(training):
    step = training.solve()
    bound = {
        "efficiency": None,
        "overlap_comm": True,
        "overlap_efficiency": None,
        "straggler_factor": 1.0,
        "congestion_factor": 1.0,
        "recompute": step.plan["recompute"],
    }
    assert seconds(training.solve(**bound)) <= seconds(step) * (1 + ROUNDING)


@MANY
@given(trainings())
def test_twice_the_batch_takes_at_most_twice_the_time(training):
    training = replace(training, asked={**training.asked, "recompute": training.asked["recompute"] or "none"})
    once, batch = seconds(training.solve()), 2 * training.asked["batch_size"]
    passes = training.asked["microbatch_count"]
    for twice in (training.solve(batch_size=batch, microbatch_count=2 * passes), training.solve(batch_size=batch)):
        assert once * (1 - ROUNDING) <= seconds(twice) <= 2 * once * (1 + ROUNDING)


@MANY
@given(trainings())
def test_hiding_more_never_slows_a_step(training):
    asked = {key: value for key, value in training.asked.items() if not key.startswith("overlap")}
    training = replace(training, asked=asked)
    shares = [seconds(training.solve(overlap_efficiency=share)) for share in (1.0, 0.6, 0.0)]
    assert shares == sorted(shares)
    assert seconds(training.solve(overlap_comm=False)) == pytest.approx(shares[-1])


@FEW
@given(trainings())
def test_recomputation_trades_time_for_memory(training):
    asked = {key: value for key, value in training.asked.items() if not key.startswith("overlap")}
    none, selective, full = (
        DistributedModel().solve(
            training.model,
            training.hardware.fleet(training.per_node, training.nodes),
            **{**asked, "overlap_comm": False, "recompute": mode},
        )
        for mode in ("none", "selective", "full")
    )
    # Of the whole rank: with fewer activations another stage may be the fullest.
    needed = [step.memory_per_accelerator.m_as("byte") for step in (full, selective, none)]
    assert needed == sorted(needed)
    assert seconds(none) <= seconds(selective) * (1 + ROUNDING)
    assert seconds(none) <= seconds(full) * (1 + ROUNDING)


@FEW
@given(trainings(), st.sampled_from([0.9, 0.999, 1.05, 2.0]))
def test_recomputation_is_the_cheapest_that_fits(training, room):
    """With a device that just holds, or just not, what each mode needs."""
    modes = ("none", "selective", "full")
    for needed in {training.solve(recompute=mode).memory_per_accelerator.m_as("byte") for mode in modes}:
        chip = replace(training.hardware, capacity=room * needed)
        each = [training.solve(chip, recompute=mode) for mode in modes]
        fitting = [step for step in each if step.feasible]
        assert training.solve(chip, recompute=None) == (fitting or each)[0]


@FEW
@given(trainings(), st.floats(1.0, 5.0))
def test_stragglers_and_congestion_slow_what_they_touch(training, factor):
    training = replace(training, asked={**training.asked, "recompute": "none", "straggler_factor": 1.0})
    base, late = training.solve(), training.solve(straggler_factor=factor)
    for part in ("compute", "optimizer"):
        assert late.breakdown[part].m_as("s") == pytest.approx(factor * base.breakdown[part].m_as("s"))
    assert seconds(late) >= seconds(base) * (1 - ROUNDING)
    base = training.solve(congestion_factor=1.0)
    slower = replace(training.hardware, inter=training.hardware.inter / factor)
    crowded = seconds(training.solve(congestion_factor=factor))
    assert crowded == pytest.approx(seconds(training.solve(slower, congestion_factor=1.0)))
    assert crowded >= seconds(base) * (1 - ROUNDING)


UNITS = {
    "step_latency_total": "second",
    "throughput": "count/second",
    "tokens_per_second": "count/second",
    "flops_per_accelerator": "flop/second",
    "memory_per_accelerator": "byte",
}


@FEW
@given(trainings())
def test_a_training_result_carries_its_dimensions(training):
    step = training.solve()
    for name, unit in UNITS.items():
        assert getattr(step, name).dimensionality == Q_(1, unit).dimensionality, name
    assert all(part.dimensionality == Q_("1 s").dimensionality for part in step.breakdown.values())
    assert all(part.dimensionality == Q_("1 byte").dimensionality for part in step.memory.values())
    batch, tokens = training.asked["batch_size"], training.asked["batch_size"] * training.asked["seq_len"]
    assert step.throughput.m_as("count/s") == pytest.approx(batch / seconds(step))
    assert step.tokens_per_second.m_as("count/s") == pytest.approx(tokens / seconds(step))


# Memory and vectors: physics itself.


@st.composite
def plans(draw, layers):
    pp = draw(st.sampled_from([p for p in (1, 2, 3, 4, 8) if p <= layers]))
    tp, dp = draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from([1, 2, 8, 24]))
    chunks = draw(st.sampled_from([1, 2, 3])) if pp > 1 else 1
    kind = INTERLEAVED if chunks > 1 else draw(st.sampled_from([GPIPE, ONE_F_ONE_B]))
    return Plan(
        tp=float(tp),
        pp=float(pp),
        dp=float(dp),
        ep=float(draw(st.sampled_from([e for e in (1, 2, 8) if dp % e == 0]))),
        virtual_stages=float(chunks),
        micro_batches=float(draw(st.integers(1, 8)) * pp),
        micro_batch_tokens=float(draw(st.sampled_from([64, 2048, 16384]))),
        zero_stage=float(draw(st.integers(0, 3))),
        sequence_parallel=float(tp > 1 and draw(st.booleans())),
        recompute=float(draw(st.sampled_from([NONE, SELECTIVE, FULL]))),
        schedule=float(kind),
        weight_B=draw(st.sampled_from([2.0, 4.0])),
        gradient_B=draw(st.sampled_from([2.0, 4.0])),
        optimizer_B=draw(st.sampled_from([8.0, 12.0])),
    )


@st.composite
def work_and_plans(draw, count=1):
    work = training_work(draw(transformers()), draw(st.sampled_from([128, 4096])))
    return work, draw(st.lists(plans(work.layers), min_size=count, max_size=count))


@MANY
@given(work_and_plans())
def test_splitting_a_model_further_never_adds_static_memory(case):
    work, (plan,) = case
    before = training_memory(work, plan).static_B
    assert training_memory(work, replace(plan, tp=2 * plan.tp)).static_B <= before * (1 + ROUNDING)
    if 2 * plan.pp <= work.layers:
        assert training_memory(work, replace(plan, pp=2 * plan.pp)).static_B <= before * (1 + ROUNDING)
    stages = [training_memory(work, replace(plan, zero_stage=float(stage))).static_B for stage in range(4)]
    assert all(later <= earlier * (1 + ROUNDING) for earlier, later in itertools.pairwise(stages))
    if plan.dp > 1:
        assert stages[1] < stages[0]


@FEW
@given(
    work_and_plans(count=12),
    st.lists(st.tuples(*[st.floats(1e10, 1e15)] * 4), min_size=12, max_size=12),
    OVERLAPS,
)
def test_many_plans_at_once_give_what_each_gives_alone(case, speeds, overlap):
    work, each = case
    machines = [Machine(*speed, 8.0, 2.0) for speed in speeds]
    together = Plan(*(np.array([getattr(plan, field.name) for plan in each]) for field in fields(Plan)))
    machine = Machine(*(np.array(column) for column in zip(*speeds, strict=True)), 8.0, 2.0)
    step, memory = training_step(work, together, machine, overlap), training_memory(work, together)
    for i, (plan, own) in enumerate(zip(each, machines, strict=True)):
        one, held = training_step(work, plan, own, overlap), training_memory(work, plan)
        for result, alone, parts, whole in ((step, one, STEP_PARTS, one.total_s), (memory, held, MEMORY_PARTS, held.total_B)):
            for part in parts:
                of_array = np.broadcast_to(getattr(result, part), (len(each),))[i]
                assert of_array == pytest.approx(getattr(alone, part), rel=1e-12, abs=1e-12 * float(whole)), part
        assert step.total_s[i] == pytest.approx(one.total_s, rel=1e-12)


@pytest.mark.parametrize("model", list(Models.Language), ids=lambda model: model.name)
def test_lowering_loses_no_parameter(model):
    # Layers that predict further tokens are trained, but no part of the model's count.
    work = training_work(model.model_copy(update={"prediction_layers": 0}), 2048)
    assert work.parameters == pytest.approx(model.computed_parameters, rel=1e-9)
    head = embedding_width(model) * model.vocab_size
    assert work.head_parameters == head, "the head is as wide as the token embedding"
    assert work.head_flops == pytest.approx(2 * head)
    served = inference_work(model, "bf16", "bf16")
    assert 0 < served.always_read_B + served.expert_B <= served.resident_B * (1 + ROUNDING)


# The search.


@FEW
@given(
    transformers(),
    hardware(capacity=24 * 2**30),
    st.sampled_from([(8, 1), (8, 3), (6, 2), (4, 4), (1, 8)]),
    st.sampled_from([1, 7, 16, 48]),
    st.sampled_from([{}, {"efficiency": 0.4}, {"recompute": "full", "zero_stage": 3}, {"overlap_comm": False}]),
)
def test_the_search_finds_what_trying_every_plan_finds(model, chip, shape, batch, asked):
    per_node, nodes = shape
    fleet, ranks = chip.fleet(per_node, nodes), per_node * nodes
    asked = {**asked, "batch_size": batch, "seq_len": 1024}
    overlap = {} if "overlap_comm" in asked else {"overlap_efficiency": PAPER_OVERLAP}
    tried = []
    for tp in divisors(per_node):
        for pp in range(1, ranks + 1):
            try:
                tried.append(DistributedModel().solve(model, fleet, tp_size=tp, pp_size=pp, **asked, **overlap))
            except InputError:
                continue
    if not tried:
        with pytest.raises(InputError, match="batch_size"):
            ParallelismOptimizer().solve(model, fleet, **asked)
        return
    found = ParallelismOptimizer().solve(model, fleet, top_k=ranks**2, **asked)
    running = sorted((plan for plan in tried if plan.feasible), key=seconds)
    assert (found.total_searched, found.total_feasible) == (len(tried), len(running))
    assert found.feasible == bool(running)
    ranked = [row["step_latency"].m_as("s") for row in found.ranking]
    assert ranked == pytest.approx([seconds(plan) for plan in running], rel=ROUNDING)
    if running:
        assert seconds(found.require_best()) == pytest.approx(seconds(running[0]), rel=ROUNDING)
        assert found.best_config == found.best.plan


# Serving.


@st.composite
def servings(draw):
    model, chip = draw(decoders()), draw(hardware())
    tp = draw(st.sampled_from([d for d in (1, 2, 4, 8) if model.heads % d == 0]))
    asked = {
        "seq_len": draw(st.sampled_from([1, 100, 2048, 32768])),
        "batch_size": draw(st.sampled_from([1, 3, 64, 1000])),
        "precision": draw(st.sampled_from(["bf16", "fp8"])),
        "weight_precision": draw(st.sampled_from([None, "int4"])),
        "kv_precision": draw(st.sampled_from([None, "fp8"])),
        "efficiency": draw(st.none() | st.floats(0.05, 1.0)),
        "tp_size": tp,
    }
    return model, chip, asked


def serve(model, chip, asked, **changes):
    return ServingModel().solve(model, chip.node(8), **{**asked, **changes})


@MANY
@given(servings(), st.floats(1.01, 10.0))
def test_faster_hardware_never_slows_serving(case, factor):
    model, chip, asked = case
    run = serve(*case)
    assert_sound(run, "itl")
    assert run.ttft.m_as("s") > 0
    assert run.tokens_per_second.m_as("count/s") == pytest.approx(asked["batch_size"] / run.itl.m_as("s"))
    for knob in KNOBS:
        faster = serve(model, chip.faster(knob, factor), asked)
        assert faster.itl <= run.itl * (1 + ROUNDING), knob
        assert faster.ttft <= run.ttft * (1 + ROUNDING), knob
    assert serve(model, chip, asked, efficiency=None).itl <= run.itl * (1 + ROUNDING)


@pytest.mark.parametrize("arithmetic_over_traffic", [0.3, 0.8, 1.25, 1.6, 4.0])
@FEW
@given(model=decoders(), chip=hardware(), batch=st.sampled_from([1, 64]))
def test_more_of_what_binds_serving_helps(arithmetic_over_traffic, model, chip, batch):
    asked = {"seq_len": 2048, "batch_size": batch, "precision": "bf16"}
    traffic = serve(model, replace(chip, peak=1e30), asked).itl
    arithmetic = serve(model, replace(chip, memory=1e30), asked).itl
    chip = chip.faster("peak", (arithmetic / traffic).m_as("") / arithmetic_over_traffic)
    run = serve(model, chip, asked)
    assume(run.feasible)
    knob = "memory" if run.binding in ("weight reads", "KV reads") else "peak"
    assert serve(model, chip.faster(knob, 1.1), asked).itl < run.itl, run.binding


@MANY
@given(servings())
def test_the_largest_batch_is_exact(case):
    model, chip, asked = case
    run = serve(*case)
    most = run.max_batch
    assert run.feasible == (asked["batch_size"] <= most)
    if most:
        assert serve(model, chip, asked, batch_size=most).feasible
    if most < 10**12:
        assert not serve(model, chip, asked, batch_size=most + 1).feasible


@MANY
@given(servings())
def test_longer_contexts_and_larger_batches_take_more(case):
    model, chip, asked = case
    run, longer = serve(*case), serve(model, chip, asked, seq_len=2 * asked["seq_len"])
    assert longer.itl >= run.itl * (1 - ROUNDING)
    assert longer.ttft >= run.ttft * (1 - ROUNDING)
    assert longer.max_batch <= run.max_batch
    if model.sliding_window is None:
        assert longer.kv_cache.m_as("byte") == pytest.approx(2 * run.kv_cache.m_as("byte"))
    else:
        assert longer.kv_cache >= run.kv_cache
    larger = serve(model, chip, asked, batch_size=2 * asked["batch_size"])
    assert larger.kv_cache.m_as("byte") == pytest.approx(2 * run.kv_cache.m_as("byte"))
    assert run.itl * (1 - ROUNDING) <= larger.itl <= run.itl * (2 + ROUNDING)
    assert larger.weights == run.weights


@FEW
@given(servings())
def test_a_serving_result_carries_its_dimensions(case):
    run = serve(*case)
    units = {"itl": "s", "ttft": "s", "tokens_per_second": "count/s", "weights": "byte", "kv_cache": "byte"}
    for name, unit in {**units, "memory_per_accelerator": "byte"}.items():
        assert getattr(run, name).dimensionality == Q_(1, unit).dimensionality, name
    assert isinstance(run.max_batch, int)


# One accelerator, scaling, energy.


@MANY
@given(
    transformers(),
    hardware(),
    st.integers(1, 64),
    st.sampled_from([1, 512, 4096]),
    st.booleans(),
    st.none() | st.floats(0.05, 1.0),
    st.floats(1.01, 10.0),
)
def test_one_accelerator(model, chip, batch, seq_len, is_training, efficiency, factor):
    asked = {"batch_size": batch, "seq_len": seq_len, "is_training": is_training, "efficiency": efficiency}

    def solve(on, **changes):
        return SingleNodeModel().solve(model, on.device(), **{**asked, **changes})

    run = solve(chip)
    assert_sound(run, "latency")
    assert 0 < run.mfu <= (efficiency or 1.0) * (1 + ROUNDING)
    assert run.throughput.m_as("count/s") == pytest.approx(batch / run.latency.m_as("s"))
    assert run.memory.dimensionality == Q_("1 byte").dimensionality
    assert all(solve(chip.faster(knob, factor)).latency <= run.latency * (1 + ROUNDING) for knob in ("peak", "memory"))
    twice = solve(chip, batch_size=2 * batch)
    assert run.latency * (1 - ROUNDING) <= twice.latency <= run.latency * (2 + ROUNDING)
    assert run.latency * (1 - ROUNDING) <= solve(chip, precision="fp32").latency


@pytest.mark.parametrize("arithmetic_over_traffic", [0.3, 0.8, 1.25, 1.6, 4.0])
@FEW
@given(model=transformers(), chip=hardware())
def test_more_of_what_binds_one_accelerator_helps(arithmetic_over_traffic, model, chip):
    def solve(on):
        return SingleNodeModel().solve(model, on.device(), batch_size=1, seq_len=64)

    ratio = solve(replace(chip, memory=1e30)).latency / solve(replace(chip, peak=1e30)).latency
    chip = chip.faster("peak", ratio.m_as("") / arithmetic_over_traffic)
    run = solve(chip)
    assume(run.feasible)
    knob = {"compute": "peak", "memory traffic": "memory"}[run.binding]
    assert solve(chip.faster(knob, 1.1)).latency < run.latency, run.binding


@FEW
@given(trainings())
def test_one_accelerator_is_a_fleet_of_one(training):
    assume(training.model.moe is None)
    asked = {"batch_size": 4, "seq_len": 512, "precision": "bf16", "efficiency": training.asked["efficiency"]}
    fleet = training.hardware.fleet(1, 1)
    alone = SingleNodeModel().solve(training.model, fleet.node.accelerator, is_training=True, **asked)
    step = DistributedModel().solve(training.model, fleet, microbatch_count=1, zero_stage=0, recompute="none", **asked)
    assert alone.latency.m_as("s") == pytest.approx(seconds(step))
    assert alone.mfu == pytest.approx(step.mfu)
    assert alone.memory.m_as("byte") == pytest.approx(step.memory_per_accelerator.m_as("byte"))
    assert alone.feasible == step.feasible


@FEW
@given(st.floats(1e15, 1e30), st.floats(0.1, 1000.0))
def test_the_budget_is_spent(budget, ratio):
    best = ScalingModel().solve(compute_budget=Q_(budget, "flop"), tokens_per_parameter=ratio)
    parameters, tokens = best.optimal_parameters.m_as("count"), best.optimal_tokens.m_as("count")
    assert 6 * parameters * tokens == pytest.approx(budget)
    assert tokens / parameters == pytest.approx(ratio)
    more = ScalingModel().solve(compute_budget=Q_(4 * budget, "flop"), tokens_per_parameter=ratio)
    assert more.optimal_parameters.m_as("count") == pytest.approx(2 * parameters)


@FEW
@given(hardware(), st.floats(0.01, 1000.0), st.floats(1.0, 3.0), st.floats(0.0, 1000.0), st.integers(1, 5000))
def test_energy_and_carbon(chip, days, pue, grams, count):
    run = SustainabilityModel().solve(chip.fleet(8, count), duration_days=days, pue=pue, grid=Q_(grams, "gCO2e/kWh"))
    joules = run.energy.m_as("J")
    assert joules == pytest.approx(8 * count * 700 * days * 86400 * pue)
    assert sum(part.m_as("J") for part in run.breakdown.values()) == pytest.approx(joules)
    assert run.carbon.m_as("gCO2e") == pytest.approx(joules / 3.6e6 * grams)
    assert run.mean_power.m_as("W") * pue * run.duration.m_as("s") == pytest.approx(joules)
