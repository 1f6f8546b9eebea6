"""What callers may rely on: names, arguments, result fields, keys of results, registry, engine and harness names, as data.

``public_api.toml`` only grows: a name that stands in it keeps working, with its type and its default.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
from repository import ROOT, TESTS

import mlsysim
from mlsysim.core.errors import InputError, UnknownNameError
from mlsysim.core.registry import Group

API = tomllib.loads((TESTS / "public_api.toml").read_text("utf-8"))
LLAMA, LLAMA_70B = mlsysim.Models.Language.Llama3_8B, mlsysim.Models.Language.Llama2_70B
H100, NODE = mlsysim.Hardware.Cloud.H100, mlsysim.Systems.Nodes.DGX_H100
FLEET = mlsysim.Fleet(name="16 H100", node=NODE, count=2)
TOKENS = {"seq_len": 1024, "output_len": 128}
ENGINE = {"stack": "vllm-2025"}
TRAINING = {"batch_size": 64, "seq_len": 4096, "stack": "megatron-2021"}
# Questions whose results show the keys of each solver's mappings.
EXAMPLES: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {
    "BatchServerModel": [((mlsysim.Models.Vision.ResNet50, H100), {"latency_limit": "10 ms"})],
    "BatchingOptimizer": [((LLAMA, H100), TOKENS | limit) for limit in ({}, {"basis": "bound"}, ENGINE | {"max_itl": "20 ms"})],
    "CapacityPlanner": [
        (
            (LLAMA, [NODE, FLEET]),
            {"input_len": 1024, "output_len": 128, "request_rate": "50 count/s", "max_batch": 8, "tp_sizes": [1, 2]}
            | {"pp_sizes": [1], "disaggregated": apart, "prices": {NODE.name: "2 USD/hour", FLEET.name: "3 USD/hour"}},
        )
        for apart in (True, False)
    ],
    "ContinuousBatchingModel": [((LLAMA, H100), TOKENS | engine) for engine in ({}, ENGINE)],
    "CompressionModel": [((LLAMA, H100), {"input_len": 1024, "weight_precision": "int4"})],
    "DataModel": [
        (
            (),
            {"sample_rate": "900 count/s", "record_size": "100 kB", "storage_bandwidth": "1 GB/s"}
            | {"preparation_rate": "9e3 count/s", "network_bandwidth": "1 GB/s"},
        )
    ],
    "DistributedModel": [((LLAMA, FLEET), TRAINING | given) for given in ({}, {"stack": None}, {"tp_size": 2, "pp_size": 2})],
    "EconomicsModel": [
        ((FLEET,), {"duration_days": 30} | given)
        for given in (
            {"price": "2 USD/hour"},
            {"capex": "40000 USD", "amortization_years": 4, "power": "1 kW", "electricity_price": "0.09 USD/kWh"}
            | {"staff": "1e6 USD/year"},
        )
    ],
    "FleetOptimizer": [(([LLAMA], [FLEET]), {"batch_size": 64, "search": {"efficiency": 0.5}})],
    "InferenceScalingModel": [((LLAMA, H100), TOKENS | {"samples": 4, "reasoning_tokens": 512})],
    "KVTransferModel": [((LLAMA, NODE), {"seq_len": 1024})],
    "OrchestrationModel": [((), {"arrival_rate": "20 count/day", "job_duration": "8 hour", "accelerators": 64})],
    "ParallelismOptimizer": [((LLAMA, FLEET), TRAINING | {"recompute": "full"})],
    "PlacementOptimizer": [((FLEET,), {"duration_hours": 24, "sites": ["Quebec"]})],
    "CheckpointModel": [((LLAMA, FLEET), {"storage_bandwidth": "10 GB/s"})],
    "ReliabilityModel": [((FLEET,), {"duration": "30 day", "checkpoint_time": "60 s"})],
    "PowerModel": [((mlsysim.ServingModel().solve(LLAMA, H100, **TOKENS, **ENGINE),), {})],
    "ScalingModel": [((), {"compute_budget": "1e23 flop"})],
    "ServingModel": [
        ((LLAMA, H100), TOKENS | given)
        for given in ({}, ENGINE, ENGINE | {"offload": "weights"}, {"schedule": "offline"}, ENGINE | {"schedule": "continuous"})
    ]
    + [((LLAMA, NODE), TOKENS | ENGINE | {"tp_size": 2})],
    "SingleNodeModel": [
        ((mlsysim.Models.Vision.ResNet50, H100), {"batch_size": 64} | given) for given in ({}, {"is_training": True})
    ],
    "ResponsibleEngineeringModel": [((), {"examples": 60000, "batch_size": 256, "noise_multiplier": 1.1, "epochs": 1})],
    "SpeculativeDecodingModel": [((LLAMA_70B, LLAMA, NODE), TOKENS | {"acceptance": 0.7, "tp_size": 8})],
    "SustainabilityModel": [((FLEET,), {"duration_days": 30, "grid": "429 gCO2e/kWh"})],
    "TailLatencyModel": [
        ((LLAMA, H100), TOKENS | ENGINE | {"arrival_rate": "1 count/s"}),
        ((), {"arrival_rate": "1 count/s", "service_time": "0.5 s"}),
    ],
    "TokenServerModel": [((LLAMA, H100), TOKENS | {"accelerators": 8, "max_ttft": "2 s", "max_tpot": "50 ms"})],
    "TopologyModel": [(("fat-tree",), {"accelerators": 64, "link_bandwidth": "50 GB/s"})],
    "TransformationModel": [((), {"batch_size": 256, "worker_rate": "300 count/s"})],
    "WeightStreamingModel": [((LLAMA, H100), {"input_len": 1024})],
}
# A question to each solver that takes a stack, and to each that takes a harness: whatever else they say, they know the name.
TAKES_STACK: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "ServingModel": ((LLAMA, H100), {"seq_len": 128}),
    "DistributedModel": ((LLAMA, FLEET), {"batch_size": 64}),
    "SingleNodeModel": ((mlsysim.Models.Vision.ResNet50, H100), {"batch_size": 64, "is_training": True}),
    "BatchServerModel": ((mlsysim.Models.Vision.ResNet50, H100), {}),
}
TAKES_HARNESS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "BatchServerModel": ((mlsysim.Models.Vision.ResNet50, H100), {"stack": "tensorrt-mlperf"}),
    "TokenServerModel": ((LLAMA, H100), TOKENS | ENGINE | {"accelerators": 8}),
    "ServingModel": ((LLAMA, H100), TOKENS | ENGINE),
}
REGISTRIES = {
    f"{room}.{name}": group
    for room in ("Hardware", "Models", "Systems", "Infra")
    for name, group in vars(getattr(mlsysim, room)).items()
    if isinstance(group, Group)
}


def solve_signature(solver):
    return inspect.signature(getattr(mlsysim, solver).solve)


def result_type(solver):
    """The class that the solver's ``solve`` says it returns."""
    solve = inspect.unwrap(getattr(mlsysim, solver).solve)
    return solve.__globals__[solve.__annotations__["return"]]


@functools.cache
def key_paths(solver):
    """Every key of the mappings in a solver's example results, after the name of its field."""
    paths = set()
    for inputs, arguments in EXAMPLES[solver]:
        result = getattr(mlsysim, solver)().solve(*inputs, **arguments)
        for field in dataclasses.fields(result):
            value = getattr(result, field.name)
            for item in value if isinstance(value, tuple) else (value,):
                if isinstance(item, Mapping):
                    paths |= {f"{field.name}: {key}" for key in item if isinstance(key, str)}
    return paths


def shown_default(parameter):
    return "" if parameter.default is inspect.Parameter.empty else repr(parameter.default)


def test_the_package_has_each_name():
    assert set(API["names"]["package"]) <= set(mlsysim.__all__)
    assert [name for name in API["names"]["package"] if getattr(mlsysim, name, None) is None] == []
    assert [name for name in API["names"]["constants"] if not hasattr(mlsysim.core.constants, name)] == []


@pytest.mark.parametrize("solver", API["arguments"])
def test_each_argument_keeps_its_name_its_default_and_its_type(solver):
    parameters = solve_signature(solver).parameters
    for name, (kind, default) in API["arguments"][solver].items():
        parameter = parameters[name]
        lost = set(kind.split(" | ")) - set(str(parameter.annotation).split(" | ")) - {"None"}
        assert not lost, f"{name}: {parameter.annotation} no longer takes {kind}"
        # None may say what else an argument left out means; that None itself is still taken, the next test sees.
        assert default in ("", "None", shown_default(parameter)), name
        assert default or parameter.default in (inspect.Parameter.empty, None), name


@pytest.mark.parametrize("solver", API["arguments"])
def test_an_argument_at_its_default_is_one_left_out(solver):
    defaults = {name: ast.literal_eval(default) for name, (_, default) in API["arguments"][solver].items() if default}
    if solver == "ResponsibleEngineeringModel":
        pytest.importorskip("dp_accounting", reason="the accountant is an extra: pip install mlsysim-anchors[privacy]")
    inputs, arguments = EXAMPLES[solver][0]
    positional = list(API["arguments"][solver])[: len(inputs)]
    every = {name: value for name, value in {**defaults, **arguments}.items() if name not in positional}
    solve = getattr(mlsysim, solver)().solve
    assert solve(*inputs, **every).to_dict() == solve(*inputs, **arguments).to_dict()


@pytest.mark.parametrize("solver", API["fields"])
def test_each_result_keeps_its_fields(solver):
    assert set(API["fields"][solver]) <= {field.name for field in dataclasses.fields(result_type(solver))}


@pytest.mark.parametrize("solver", API["keys"])
def test_each_mapping_of_a_result_keeps_its_keys(solver):
    assert set(API["keys"][solver]) <= key_paths(solver)


@pytest.mark.parametrize("registry", API["registries"])
def test_each_registry_keeps_its_names(registry):
    group = REGISTRIES[registry]
    assert [name for name in API["registries"][registry] if name not in group] == []


@pytest.mark.parametrize(
    ("argument", "solver"), [(argument, solver) for argument in ("stack", "harness_name") for solver in API[argument]]
)
def test_each_engine_stack_and_harness_keeps_its_name(argument, solver):
    inputs, arguments = (TAKES_STACK if argument == "stack" else TAKES_HARNESS)[solver]
    for name in API[argument][solver]:
        refused = None
        try:
            getattr(mlsysim, solver)().solve(*inputs, **{**arguments, argument: name})
        except InputError as error:
            refused = error
        # That it is not calibrated for this accelerator or workload is another matter.
        assert not (isinstance(refused, UnknownNameError) and refused.value == name), (name, refused)


def test_the_example_of_own_measurements_still_runs(pytester, imported_once, few_plugins):
    run = pytester.runpytest(ROOT / "examples" / "my_cluster.anchor.toml")
    assert run.ret == 0
