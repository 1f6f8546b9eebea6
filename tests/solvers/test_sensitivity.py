"""What an answer hangs on and what a limit needs: both are checked against the solver itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mlsysim.calibration.stacks import stack
from mlsysim.core.errors import InfeasibleError, InputError, UnknownNameError
from mlsysim.hardware.registry import Hardware
from mlsysim.lowering.training_kernels import kernel_device, stack_step
from mlsysim.models.registry import Models
from mlsysim.solvers.analysis.levers import RATES, varied
from mlsysim.solvers.analysis.sensitivity import SensitivitySolver
from mlsysim.solvers.analysis.synthesis import SynthesisSolver
from mlsysim.solvers.serving.kv_transfer import KVTransferModel
from mlsysim.solvers.serving.serving import ServingModel
from mlsysim.solvers.training.distributed import DistributedModel
from mlsysim.solvers.training.together import checked_run
from mlsysim.systems.registry import Systems
from mlsysim.systems.types import Fleet

LLAMA, LLAMA_70B, H100, DGX = Models.Language.Llama3_8B, Models.Language.Llama2_70B, Hardware.Cloud.H100, Systems.Nodes.DGX_H100
FLEET = Fleet(name="64 H100", node=DGX, count=8)
SERVED = {"input_len": 1024, "output_len": 128}
TRAINED = {"batch_size": 256, "seq_len": 4096, "tp_size": 8, "recompute": "none"}
QUESTIONS = {
    "serving": ("ServingModel", (LLAMA, H100), SERVED),
    "serving over a node": ("ServingModel", (LLAMA_70B, DGX), SERVED | {"tp_size": 8}),
    "training": ("DistributedModel", (LLAMA, FLEET), TRAINED | {"efficiency": 0.4, "overlap_comm": False}),
    "images": ("SingleNodeModel", (Models.Vision.ResNet50, H100), {"batch_size": 32}),
    "cache": (KVTransferModel, (LLAMA, DGX), {"input_len": 128}),
}
ON_A_STACK = {
    "serving": ("ServingModel", (LLAMA, H100), SERVED | {"stack": "vllm-2025", "batch_size": 16}),
    # Four sequences a micro-batch: kernels, not their launches, are most of a step.
    "training": ("DistributedModel", (LLAMA, FLEET), TRAINED | {"stack": "megatron-core", "microbatch_count": 8}),
}


def asked(question, **more):
    solver, inputs, arguments = question
    return SensitivitySolver().solve(solver, *inputs, **arguments, **more)


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_elasticities_of_a_bound_sum_to_one(question):
    """Without overheads a time is that of rates alone: all of them a per cent faster make it a per cent less."""
    found = asked(question)
    assert abs(sum(found.elasticities.values())) == pytest.approx(1, abs=1e-6)
    assert found.fixed == pytest.approx(0, abs=1e-6)
    assert set(found.elasticities) <= set(RATES)


@pytest.mark.parametrize("question", ON_A_STACK.values(), ids=ON_A_STACK)
def test_on_a_stack_what_no_rate_shortens_is_left(question):
    found = asked(question)
    assert 0.02 < found.fixed < 0.6
    assert all(-1 <= value <= 1e-9 for value in found.elasticities.values())
    assert found.fixed == pytest.approx(1 + sum(found.elasticities.values()))


@pytest.mark.parametrize("question", ON_A_STACK.values(), ids=ON_A_STACK)
def test_an_elasticity_is_what_a_faster_rate_does(question):
    """A tenth of a per cent more of everything: the sum of the elasticities, to what second differences leave."""
    solver, inputs, arguments = question
    found = asked(question)
    machine = inputs[1]
    for rate in found.elasticities:
        machine = varied(machine, rate, 1.001)
    solvers = {"ServingModel": ServingModel, "DistributedModel": DistributedModel}
    faster = solvers[solver]().solve(inputs[0], machine, **arguments)
    change = getattr(faster, found.metric) / getattr(found.answer, found.metric)
    assert np.log(change.m_as("")) / np.log(1.001) == pytest.approx(sum(found.elasticities.values()), abs=2e-3)


def scaled(record, faster):
    """A record of physics with every rate ``faster`` times and every time as many times shorter, by the names of its fields."""
    if not dataclasses.is_dataclass(record):
        return record
    changes = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = scaled(value, faster)
        elif isinstance(value, dict):
            changes[field.name] = {key: scaled(part, faster) for key, part in value.items()}
        elif isinstance(value, float) and field.name.endswith(("_Bps", "_per_s")):
            changes[field.name] = value * faster
        elif isinstance(value, float) and field.name.endswith("_s"):
            changes[field.name] = value / faster
    return dataclasses.replace(record, **changes)


def test_a_step_halves_where_rates_double_and_overheads_halve():
    """So that what is ``fixed`` is the elasticity of all overheads, and of the kernels' rates that no datasheet lists."""
    run = checked_run(LLAMA, FLEET, TRAINED | {"stack": "megatron-core"})
    known = stack("megatron-core")
    device = kernel_device(H100, "bf16", known)
    step = stack_step(run.work, run.shape, run.plan, run.setting.machine(), device, known)
    quicker = dataclasses.replace(known, coefficients=scaled(known.coefficients, 2.0))
    half = stack_step(run.work, run.shape, run.plan, scaled(run.setting.machine(), 2.0), scaled(device, 2.0), quicker)
    assert float(half.total_s) == pytest.approx(float(step.total_s) / 2, rel=1e-6)


def test_a_rate_grows_where_its_time_falls():
    served, rate = (asked(QUESTIONS["serving"], metric=name) for name in ("itl", "tokens_per_second"))
    assert served.elasticities["memory bandwidth"] == pytest.approx(-1, abs=1e-6)
    assert rate.elasticities["memory bandwidth"] > 0.9
    assert asked(ON_A_STACK["training"], metric="mfu").fixed is None


def test_what_cannot_run_has_no_sensitivity():
    with pytest.raises(InfeasibleError, match=r"one A100 SXM4 80GB needs 128\.6 GiB"):
        SensitivitySolver().solve("ServingModel", LLAMA_70B, Hardware.Cloud.A100, input_len=512)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: SensitivitySolver().solve("ServingModle", LLAMA, H100), UnknownNameError, "did you mean 'ServingModel'"),
        (lambda: SensitivitySolver().solve("ServingModel", LLAMA, input_len=8), InputError, "inputs = "),
        (
            lambda: SensitivitySolver().solve("ServingModel", LLAMA, H100, metric="itll", **SERVED),
            InputError,
            "did you mean 'itl'",
        ),
        (lambda: SensitivitySolver().solve("ServingModel", LLAMA, H100, seq_length=8), InputError, "no argument 'seq_length'"),
        (lambda: SensitivitySolver().solve(len, LLAMA, H100), InputError, "solver = "),
    ],
)
def test_wrong_questions_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def needed(lever, limit=None, *, question="serving", **more):
    solver, inputs, arguments = QUESTIONS[question]
    return SynthesisSolver().solve(solver, *inputs, lever=lever, limit=limit, **(arguments | more))


def test_what_is_needed_keeps_the_limit_and_no_less_does():
    found = needed("memory bandwidth", "2.5 ms")
    assert found.reached.m_as("ms") == pytest.approx(2.5, rel=1e-8)
    for share, holds in ((1 + 1e-6, True), (1 - 1e-6, False)):
        machine = varied(H100, "memory bandwidth", found.factor * share)
        assert (ServingModel().solve(LLAMA, machine, **SERVED).itl.m_as("ms") <= 2.5) == holds


def test_memory_that_a_model_needs():
    found = SynthesisSolver().solve("ServingModel", LLAMA_70B, H100, lever="memory capacity", input_len=1024)
    for share, fits in ((1 + 1e-6, True), (1 - 1e-6, False)):
        machine = varied(H100, "memory capacity", found.factor * share)
        assert ServingModel().solve(LLAMA_70B, machine, input_len=1024).feasible == fits
    assert found.needed.m_as("GB") == pytest.approx(139.8, abs=0.5)


def test_nodes_that_a_rate_needs():
    solver, inputs, arguments = ON_A_STACK["training"]
    found = SynthesisSolver().solve(
        solver, *inputs, lever="nodes", metric="tokens_per_second", limit="1.5e6 count/s", **(arguments | {"batch_size": 1024})
    )
    assert found.reached.m_as("count/s") >= 1.5e6
    fewer = varied(FLEET, "nodes", found.factor / 2)
    slower = DistributedModel().solve(LLAMA, fewer, **(arguments | {"batch_size": 1024}))
    assert slower.tokens_per_second.m_as("count/s") < 1.5e6


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: needed("arithmetic", "1 us"), InfeasibleError, "10000 times the arithmetic is not enough.*binds"),
        (lambda: needed("memory bandwith", "1 ms"), UnknownNameError, "did you mean 'memory bandwidth'"),
        (lambda: needed("network", "1 ms"), InputError, "lever = 'network': .*lists no network"),
        (lambda: needed("memory bandwidth"), InputError, "limit = None"),
        (lambda: needed("memory bandwidth", "0 ms"), InputError, "limit = '0 ms': .*> 0"),
        (lambda: needed("memory bandwidth", "-1 ms"), InputError, "limit = '-1 ms': .*> 0"),
        (lambda: needed("memory bandwidth", "3 GB"), InputError, "limit = '3 GB'"),
        (lambda: needed("memory bandwidth", 2.5), InputError, "limit = 2.5"),
    ],
)
def test_what_no_amount_reaches_or_nobody_can_mean_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
