"""Random models, accelerators, engines and deployments, and on how many of them a property is tried."""

from __future__ import annotations

import functools

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from mlsysim.calibration.engines import engine_device, engine_names
from mlsysim.calibration.stacks import stack_names
from mlsysim.core.errors import MLSysError, UnknownNameError
from mlsysim.hardware.registry import Hardware
from mlsysim.models.registry import Models
from mlsysim.systems.fleets import usual_nodes
from mlsysim.systems.types import Fleet, Node

ROUNDING = 1e-9
# Each run draws the same examples; a failing one is made smaller, but not explained (which takes minutes).
PHASES = (Phase.explicit, Phase.generate, Phase.shrink)
# Of a model, an accelerator, an engine and a format by chance, many do not go together.
CHANCE = [HealthCheck.filter_too_much, HealthCheck.too_slow]
SETTINGS = settings(deadline=None, derandomize=True, phases=PHASES, suppress_health_check=CHANCE)
FORMATS = ("fp16", "bf16", "fp8", "int8", "nvfp4", "int4", "q4_k_m", "awq")


@functools.lru_cache(maxsize=None, typed=True)
def either(*values):
    """Any of ``values``. Hypothesis looks through each strategy before it draws from it: one that is kept, only once."""
    return st.sampled_from(values)


def tried_on(few, many, **drawn):
    """Makes a property of random arguments a test on a ``few`` of them, and one on ``many`` that only runs when asked for.

    Args:
        few: examples by default.
        many: examples under the marker ``exhaustive``.
        **drawn: a strategy for each argument.
    """
    counts = [pytest.param(few, id="few"), pytest.param(many, id="many", marks=pytest.mark.exhaustive)]

    def decorate(check):
        @pytest.mark.parametrize("examples", counts)
        def test(examples):
            settings(SETTINGS, max_examples=examples)(given(**drawn)(check))()

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


def answer(solve, *inputs, **arguments):
    """What ``solve`` says, where the question is a legal one: an example that is none does not count."""
    try:
        return solve(*inputs, **arguments)
    except MLSysError:
        assume(False)


def _has_kernels(accelerator):
    try:
        return bool(engine_device(accelerator.name))
    except UnknownNameError:
        return False


MODELS = sorted(Models.Language, key=lambda model: model.name)
ACCELERATORS = sorted(Hardware, key=lambda one: one.name)
SERVED_ON = sorted((accelerator for accelerator in Hardware if _has_kernels(accelerator)), key=lambda one: one.name)


def _one_of(these):
    """Any of ``these``, by its place: hypothesis would hash all of them, with their quantities, for each that it draws."""
    return st.sampled_from(range(len(these))).map(these.__getitem__)


A_MODEL, AN_ACCELERATOR, A_SERVER = (_one_of(these) for these in (MODELS, ACCELERATORS, SERVED_ON))


@st.composite
def serving_questions(draw, stacks=None):
    """A model, the node that it runs on, and the arguments of a serving solver, legal or not."""
    accelerator = draw(A_SERVER)
    tp, pp = draw(either(1, 1, 2, 4, 8)), draw(either(1, 1, 1, 2, 3))
    arguments = {
        "stack": draw(either(*(sorted(engine_names()) if stacks is None else stacks))),
        "precision": draw(either(*FORMATS)),
        "kv_precision": draw(either(None, None, "fp8")),
        "tp_size": tp,
        "pp_size": pp,
        "attention_dp": draw(either(False, False, False, True, 2)),
        "ep_size": draw(either(1, 1, 1, tp)),
        "input_len": draw(either(1, 17, 512, 1024, 4096, 30000)),
        "output_len": draw(either(1, 8, 200, 2000)),
        "batch_size": draw(either(1, 2, 8, 33, 100)),
    }
    model = draw(A_MODEL)
    hardware = answer(usual_nodes, accelerator, tp * pp) if tp * pp > 1 else accelerator
    return model, hardware, arguments


def faster(hardware, part, factor):
    """The same accelerator, node or fleet with one of its rates ``factor`` times as high: ``PARTS``."""
    if isinstance(hardware, Fleet):
        if part == "network":
            fabric = hardware.fabric
            return hardware.model_copy(update={"fabric": fabric.model_copy(update={"bandwidth": fabric.bandwidth * factor})})
        return hardware.model_copy(update={"node": faster(hardware.node, part, factor)})
    if isinstance(hardware, Node):
        if part == "link":
            return hardware.model_copy(update={"intra_node_bw": hardware.intra_node_bw * factor})
        return hardware.model_copy(update={"accelerator": faster(hardware.accelerator, part, factor)})
    compute, memory = hardware.compute, hardware.memory
    if part == "peak":
        rates = {"peak_flops": compute.peak_flops * factor}
        rates["precision_flops"] = {name: rate * factor for name, rate in compute.precision_flops.items()}
        if compute.fp16_sum_flops is not None:
            rates["fp16_sum_flops"] = compute.fp16_sum_flops * factor
        return hardware.model_copy(update={"compute": compute.model_copy(update=rates)})
    changed = {"memory": "bandwidth", "capacity": "capacity", "cache": "l2_capacity"}.get(part)
    if changed is None or getattr(memory, changed) is None:
        return hardware
    memory = memory.model_copy(update={changed: getattr(memory, changed) * factor})
    return hardware.model_copy(update={"memory": memory})


PARTS = ("peak", "memory", "cache", "capacity", "link", "network")


@st.composite
def training_questions(draw, stacks=None):
    """A model, a fleet of the accelerator's usual nodes, and the arguments of ``DistributedModel``, legal or not."""
    model = draw(A_MODEL)
    tp, pp = draw(either(1, 1, 2, 4, 8)), draw(either(1, 1, 2, 4))
    cp, dp = draw(either(1, 1, 1, 2, 4)), draw(either(1, 2, 4, 8))
    passes, sequences = draw(either(1, 4, 8)), draw(either(1, 1, 2))
    stack = draw(either(*[None, *stack_names()] if stacks is None else stacks))
    arguments = {
        "stack": stack,
        "batch_size": dp * passes * sequences,
        "microbatch_count": passes,
        "seq_len": draw(either(128, 2048, 32768)),
        "precision": draw(either("bf16", "bf16", "fp16", "fp8")),
        "tp_size": tp,
        "pp_size": pp,
        "cp_size": cp,
        "ep_size": draw(either(1, 2, 4)) if model.moe else 1,
        "zero_stage": draw(either(0, 1, 2, 3)),
        "recompute": draw(either("none", "selective", "full")),
        "sequence_parallel": draw(either(None, True, False)),
        "lora_rank": (rank := draw(either(None, None, None, 16))),
        "lora_targets": rank and draw(either(None, "attention", "linear_qkv")),
        "efficiency": draw(either(None, 0.4)) if stack is None else None,
    }
    return model, draw(AN_ACCELERATOR), tp * pp * cp * dp, arguments
