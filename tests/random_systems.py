"""Random models, accelerators, engines and deployments, and on how many of them a property is tried."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from mlsysim.calibration.engines import engine_device, engine_names
from mlsysim.core.errors import MLSysError, UnknownNameError
from mlsysim.hardware.registry import Hardware
from mlsysim.models.registry import Models
from mlsysim.systems.fleets import usual_nodes

ROUNDING = 1e-9
# Each run draws the same examples; a failing one is made smaller, but not explained (which takes minutes).
PHASES = (Phase.explicit, Phase.generate, Phase.shrink)
# Of a model, an accelerator, an engine and a format by chance, many do not go together.
CHANCE = [HealthCheck.filter_too_much, HealthCheck.too_slow]
SETTINGS = settings(deadline=None, derandomize=True, phases=PHASES, suppress_health_check=CHANCE)
FORMATS = ("fp16", "bf16", "fp8", "int8", "nvfp4", "int4", "q4_k_m", "awq")


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
SERVED_ON = sorted((accelerator for accelerator in Hardware if _has_kernels(accelerator)), key=lambda one: one.name)


@st.composite
def serving_questions(draw, stacks=None):
    """A model, the node that it runs on, and the arguments of a serving solver, legal or not."""
    accelerator = draw(st.sampled_from(SERVED_ON))
    tp, pp = draw(st.sampled_from([1, 1, 2, 4, 8])), draw(st.sampled_from([1, 1, 1, 2, 3]))
    arguments = {
        "stack": draw(st.sampled_from(sorted(engine_names()) if stacks is None else stacks)),
        "precision": draw(st.sampled_from(FORMATS)),
        "kv_precision": draw(st.sampled_from([None, None, "fp8"])),
        "tp_size": tp,
        "pp_size": pp,
        "attention_dp": draw(st.sampled_from([False, False, False, True])),
        "input_len": draw(st.sampled_from([1, 17, 512, 1024, 4096, 30000])),
        "output_len": draw(st.sampled_from([1, 8, 200, 2000])),
        "batch_size": draw(st.sampled_from([1, 2, 8, 33, 100])),
    }
    model = draw(st.sampled_from(MODELS))
    hardware = answer(usual_nodes, accelerator, tp * pp) if tp * pp > 1 else accelerator
    return model, hardware, arguments
