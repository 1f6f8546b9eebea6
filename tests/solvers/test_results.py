"""What a solver hands back: a card that says infeasible first, an export, a result that travels; records that re-validate."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle

import pytest

from mlsysim.core.errors import InfeasibleError, InputError, UnknownArgumentError
from mlsysim.core.units import Q_
from mlsysim.hardware.registry import Hardware
from mlsysim.models.registry import Models
from mlsysim.solvers.operations.checkpoint import CheckpointModel
from mlsysim.solvers.operations.reliability import ReliabilityModel
from mlsysim.solvers.operations.scaling import ScalingModel
from mlsysim.solvers.operations.sustainability import SustainabilityModel
from mlsysim.solvers.result import BASES
from mlsysim.solvers.serving.serving import ServingModel
from mlsysim.solvers.training.distributed import DistributedModel
from mlsysim.solvers.training.parallelism import ParallelismOptimizer
from mlsysim.solvers.training.single_node import SingleNodeModel
from mlsysim.systems.registry import Systems
from mlsysim.systems.types import Fleet

H100, LLAMA_8B, LLAMA_70B = Hardware.Cloud.H100, Models.Language.Llama3_8B, Models.Language.Llama2_70B
FLEET = Fleet(name="64 H100", node=Systems.Nodes.DGX_H100, count=8)

RUNS = {
    "single": lambda: SingleNodeModel().solve(Models.Vision.ResNet50, H100, batch_size=256, efficiency=0.5),
    "serving": lambda: ServingModel().solve(LLAMA_8B, H100, seq_len=4096, batch_size=4),
    "training": lambda: DistributedModel().solve(LLAMA_8B, FLEET, batch_size=128, seq_len=8192, tp_size=2, efficiency=0.5),
    "search": lambda: ParallelismOptimizer().solve(LLAMA_70B, FLEET, batch_size=64, efficiency=0.5),
    "loss": lambda: ScalingModel().solve(parameters="1e9 count", tokens="30e9 count", dataset="C4", law="besiroglu"),
    "reliability": lambda: ReliabilityModel().solve(FLEET, duration="30 day", checkpoint_time="60 s"),
    "checkpoint": lambda: CheckpointModel().solve(LLAMA_70B, FLEET, storage_bandwidth="10 GB/s", mtbf="3 hour"),
    "scaling": lambda: ScalingModel().solve(compute_budget="5.76e23 flop"),
    "energy": lambda: SustainabilityModel().solve(FLEET, duration_days=30, grid="429 gCO2e/kWh", pue=1.1),
}
TOO_BIG = {
    "single": lambda: SingleNodeModel().solve(LLAMA_70B, H100, batch_size=1, is_training=True),
    "serving": lambda: ServingModel().solve(LLAMA_70B, H100, seq_len=4096),
    "training": lambda: DistributedModel().solve(LLAMA_70B, FLEET, batch_size=64),
    "search": lambda: ParallelismOptimizer().solve(LLAMA_70B, Fleet(name="8", node=FLEET.node, count=1), batch_size=8),
}


@pytest.fixture(params=RUNS, scope="module")
def run(request):
    return RUNS[request.param]()


@pytest.fixture(params=TOO_BIG, scope="module")
def too_big(request):
    return TOO_BIG[request.param]()


def test_a_result_names_its_basis_and_what_binds(run):
    assert run.basis in BASES
    assert run.binding
    assert run.solver in str(run).splitlines()[0]
    assert run.subject in str(run).splitlines()[0]
    assert run.feasible
    assert run.require_feasible() is run
    assert run.reason == ""


def test_a_result_is_frozen_and_repeatable(run, request):
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.basis = "bound"
    assert RUNS[request.node.callspec.params["run"]]() == run


@pytest.mark.parametrize("make", [lambda r: pickle.loads(pickle.dumps(r)), copy.deepcopy], ids=["pickle", "deepcopy"])
def test_a_result_travels(run, make):
    assert make(run) == run
    assert str(make(run)) == str(run)


def test_the_export_is_json(run):
    exported = json.loads(run.to_json())
    assert exported == run.to_dict()
    assert json.loads(run.to_json(indent=None)) == exported
    assert "\n" not in run.to_json(indent=None)
    of_interval = {"interval"} if run.interval else set()
    assert set(exported) == {field.name for field in dataclasses.fields(run)} - {"facts", "load"} | of_interval
    for name, value in exported.items():
        if isinstance(value, dict) and set(value) == {"value", "unit"}:
            assert Q_(value["value"], value["unit"]) == getattr(run, name), name
            assert math.isfinite(value["value"])


def test_the_card_shows_the_headline_and_the_parts(run):
    card = str(run)
    answered = [name for name in run.HEADLINE if getattr(run, name) is not None]
    parts = [name for name, part in run.breakdown.items() if part.magnitude]
    for name in (*answered, *parts):
        assert name.replace("_", " ") in card
    assert f"basis     {run.basis}" in card
    assert "INFEASIBLE" not in card
    if run.breakdown:
        shares = [float(line.split()[-1].rstrip("%")) for line in card.splitlines() if line.endswith("%")]
        assert len(shares) == len(parts), "what is nothing is left out"
        assert sum(shares) == pytest.approx(100, abs=0.1 * len(shares))


def test_infeasible_is_said_first(too_big):
    title, state, *rest = str(too_big).splitlines()
    assert too_big.solver in title
    assert state == f"  INFEASIBLE: {too_big.reason}"
    assert " GiB" in too_big.reason
    assert not any("INFEASIBLE" in line for line in rest)
    assert not too_big.feasible
    assert too_big.binding == "memory capacity"
    assert json.loads(too_big.to_json())["feasible"] is False
    with pytest.raises(InfeasibleError, match="GiB") as caught:
        too_big.require_feasible()
    assert str(caught.value) == f"{too_big.subject}: {too_big.reason}"


def test_the_reason_has_the_bytes():
    reason = TOO_BIG["serving"]().reason
    weights, cache = 2 * LLAMA_70B.parameter_count / 2**30, 327680 * 4096 / 2**30
    assert f"needs {weights + cache:.1f} GiB (weights {weights:.1f} GiB, KV cache {cache:.2g} GiB)" in reason
    assert "it has 80 GiB, of which 78.5 GiB are usable" in reason


def test_infeasible_results_travel_and_export(too_big):
    assert pickle.loads(pickle.dumps(too_big)) == too_big
    assert json.loads(too_big.to_json()) == too_big.to_dict()


def faster(chip, factor):
    core = chip.compute
    rates = {name: rate * factor for name, rate in core.precision_flops.items()}
    return chip.model_copy(
        update={"compute": core.model_copy(update={"peak_flops": core.peak_flops * factor, "precision_flops": rates})}
    )


def test_a_changed_copy_keeps_no_derived_value():
    before = H100.rate_flops_per_s("fp8")  # fills the caches
    for name in H100.compute.precision_flops:
        assert faster(H100, 1.1).rate_flops_per_s(name) == pytest.approx(1.1 * H100.rate_flops_per_s(name))
    assert H100.rate_flops_per_s("fp8") == before, "the original is as it was"
    memory = H100.memory.model_copy(update={"capacity": Q_("10 GB"), "bandwidth": Q_("1 TB/s")})
    small = H100.model_copy(update={"memory": memory})
    assert (H100.memory_capacity_B, small.memory_capacity_B) == (80 * 2**30, 10e9)
    assert small.memory_bandwidth_Bps == 1e12
    assert LLAMA_8B.ffn_width == 14336
    solved = LLAMA_8B.model_copy(update={"ffn_hidden": None, "parameters": Q_("7e9 count")})
    assert solved.ffn_width < 14336
    assert FLEET.accelerators == 64
    assert FLEET.model_copy(update={"count": 3}).accelerators == 24


def test_a_changed_copy_answers_for_its_hardware():
    run = RUNS["single"]()
    quicker = SingleNodeModel().solve(Models.Vision.ResNet50, faster(H100, 1.1), batch_size=256, efficiency=0.5)
    assert (run.latency / quicker.latency).m_as("") == pytest.approx(1.1)


def test_a_changed_copy_is_validated_again():
    with pytest.raises(InputError, match="tdp"):
        H100.model_copy(update={"tdp": Q_("-700 W")})
    with pytest.raises(InputError, match="count"):
        FLEET.model_copy(update={"count": 0})
    with pytest.raises(InputError, match="heads = 7"):
        LLAMA_8B.model_copy(update={"heads": 7})
    with pytest.raises(UnknownArgumentError, match="did you mean 'tdp'"):
        H100.model_copy(update={"tpd": Q_("700 W")})
    assert H100.model_copy() == H100
    assert H100.model_copy(deep=True) == H100


def test_records_are_frozen_and_compare_by_value():
    with pytest.raises(ValueError, match="frozen"):
        FLEET.count = 9
    assert Fleet(name="64 H100", node=Systems.Nodes.DGX_H100, count=8) == FLEET
    assert FLEET.model_copy(update={"count": 9}) != FLEET


def test_a_record_exports_as_json():
    exported = json.loads(H100.model_dump_json())
    assert Q_(exported["memory"]["capacity"]) == H100.memory.capacity
    assert type(H100)(**exported) == H100


def test_a_straggler_slows_a_calibrated_step():
    fleet = Fleet(name="fleet", node=Systems.Nodes.DGX_A100, count=8)

    def step(factor):
        asked = {"batch_size": 64, "tp_size": 8, "pp_size": 4, "stack": "megatron-core", "straggler_factor": factor}
        return DistributedModel().solve(Models.Language.Llama2_70B, fleet, **asked)

    even, late = step(1.0), step(1.5)
    assert late.breakdown["compute"] / even.breakdown["compute"] == pytest.approx(1.5)
    assert late.breakdown["tp_exposed"] == even.breakdown["tp_exposed"]
