"""What every solver refuses: misspelt keywords, arguments out of range or of another kind, units, and contradictions."""

from __future__ import annotations

import pint
import pytest
from bad_calls import (
    H100,
    INF,
    NAN,
    RESNET,
    assert_refused,
    assert_sound,
    core,
    fleet,
    memory,
    scale,
    search,
    serve,
    single,
    train,
    transformer,
)

from mlsysim.core.constants import Q_
from mlsysim.core.errors import (
    InconsistentError,
    InputError,
    UnitError,
    UnknownArgumentError,
    UnknownNameError,
)
from mlsysim.hardware.registry import Hardware
from mlsysim.models.registry import Models
from mlsysim.models.types import CNNWorkload
from mlsysim.solvers.operations.sustainability import SustainabilityModel
from mlsysim.solvers.training.single_node import SingleNodeModel
from mlsysim.systems.registry import Systems
from mlsysim.systems.types import Fleet, Node

SOLVES = {
    "SingleNodeModel": single,
    "ServingModel": serve,
    "DistributedModel": train,
    "ParallelismOptimizer": search,
}


@pytest.mark.parametrize("solver", SOLVES)
@pytest.mark.parametrize(("typo", "meant"), [("batchsize", "batch_size"), ("precison", "precision"), ("seqlen", "seq_len")])
def test_a_misspelt_keyword_is_named_with_the_nearest(solver, typo, meant):
    error = assert_refused(lambda: SOLVES[solver](**{typo: 1}), typo, rf"{solver}\.solve\(\) takes no argument '{typo}'")
    assert isinstance(error, UnknownArgumentError)
    assert isinstance(error, TypeError)
    assert error.suggestion == meant


@pytest.mark.parametrize("solver", SOLVES)
@pytest.mark.parametrize(
    "given",
    [
        {"batch_size": True},
        {"batch_size": None},
        {"batch_size": 0},
        {"batch_size": 10**400},
        {"batch_size": INF},
        {"efficiency": "0.5"},
        {"efficiency": True},
        {"efficiency": INF},
        {"efficiency": -1e-9},
        {"efficiency": Q_("1 GB")},
        {"precision": 16},
        {"precision": "float61"},
        {"precision": ["fp16"]},
        {"seq_len": 0.5},
    ],
    ids=lambda given: next(f"{name}={str(value)[:12]}" for name, value in given.items()),
)
def test_every_solver_refuses(solver, given):
    (argument,) = given
    assert_refused(lambda: SOLVES[solver](**given), argument, f"{argument} = ")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("dp_size", 100),
        ("virtual_stages", 0),
        ("virtual_stages", 2),
        ("schedule", "zero-bubble"),
        ("zero_stage", -1),
        ("zero_stage", True),
        ("recompute", "some"),
        ("recompute", True),
        ("gradient_precision", "fp8"),
        ("sequence_parallel", 1),
        ("overlap_comm", "yes"),
        ("overlap_efficiency", 1.01),
        ("overlap_efficiency", -0.1),
        ("overlap_efficiency", NAN),
        ("straggler_factor", NAN),
        ("straggler_factor", INF),
        ("congestion_factor", 0.99),
        ("tp_size", 0),
        ("tp_size", 8.0),
        ("pp_size", "4"),
        ("ep_size", 0),
    ],
)
def test_training_refuses(argument, value):
    assert_refused(lambda: train(**{argument: value}), argument, f"{argument} = ")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"overlap_comm": False, "overlap_efficiency": 0.5}, "overlap_efficiency = 0.5: .*overlap_comm=False"),
        ({"tp_size": 4, "dp_size": 8}, "dp_size = 8: expected 64: 256 accelerators"),
        ({"pp_size": 4, "schedule": "interleaved"}, "virtual_stages = 1: .*more than 1 with schedule='interleaved'"),
        ({"pp_size": 4, "schedule": "gpipe", "virtual_stages": 4}, "virtual_stages = 4: .*1 with the others"),
        ({"pp_size": 4, "virtual_stages": 21}, "virtual_stages = 21: .*1 to 20 for 80 layers on 4 stages"),
        ({"pp_size": 4, "virtual_stages": 2, "microbatch_count": 2}, "microbatch_count = 2: .*multiple of pp_size 4"),
        ({"microbatch_count": 3}, "microbatch_count = 3: .*divisor or a multiple of the 4 sequences"),
        ({"workload": transformer(hidden_dim=6144, heads=48), "tp_size": 3}, "tp_size = 3: .*3 x 1 divides the 256"),
        ({"workload": Models.Language.Mixtral_8x7B, "ep_size": 3}, "ep_size = 3: .*the 8 experts and of dp 256"),
        ({"workload": RESNET, "seq_len": None, "tp_size": 2}, "tp_size = 2: .*no layers to split"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_contradictions_name_both_numbers(given, message):
    with pytest.raises(InconsistentError, match=message):
        train(**given)


def test_images_have_no_sequence():
    assert_refused(lambda: train(RESNET), "seq_len", "seq_len = 2048: .*has no sequence")


def test_a_micro_batch_holds_a_token_of_each_sequence_part():
    small, one = Models.Language.Llama3_8B, fleet(count=1)
    with pytest.raises(InconsistentError, match=r"microbatch_count = 1: .*at least 8 .*not 4"):
        train(small, one, batch_size=1, seq_len=4, tp_size=8)
    assert_sound(train(small, one, batch_size=1, seq_len=8, tp_size=8))
    assert_sound(train(small, one, batch_size=1, seq_len=4, tp_size=8, sequence_parallel=False))


def test_the_search_is_of_legal_plans_only():
    """With 4 tokens no plan may split a sequence over 8 ranks: the search neither counts that plan nor trips over it."""
    small, one = Models.Language.Llama3_8B, fleet(count=1)
    found = search(small, one, batch_size=1, seq_len=4)
    legal = 0
    for tp in (1, 2, 4, 8):
        for pp in (1, 2, 4, 8):
            try:
                train(small, one, batch_size=1, seq_len=4, tp_size=tp, pp_size=pp)
            except InputError:
                continue
            legal += 1
    assert found.total_searched == legal


def test_serving_refuses():
    assert_refused(lambda: serve(tp_size=0), "tp_size", "tp_size = 0: ")
    assert_refused(lambda: serve(hardware=Systems.Nodes.DGX_H100, tp_size=16), "tp_size", "tp_size = 16: .*the 8 accelerators")
    assert_refused(lambda: serve(hardware="H100"), "hardware", "hardware = 'str': .*Hardware.Cloud.H100")
    assert_refused(lambda: serve(Models.Language.BERT_Large, output_len=8), "workload", "workload = 'BERT.*: .*a decoder")
    assert_refused(lambda: serve(kv_precision="int3"), "kv_precision", "kv_precision = 'int3': .*did you mean 'int")
    assert_refused(lambda: serve("Llama2_70B"), "workload", "workload = 'str': .*transformer")


@pytest.mark.parametrize(
    ("given", "argument"),
    [
        ({"duration_days": 0}, "duration_days"),
        ({"duration_days": -30}, "duration_days"),
        ({"duration_days": NAN}, "duration_days"),
        ({"duration_days": "30"}, "duration_days"),
        ({"pue": 0.9}, "pue"),
        ({"pue": 110}, "pue"),
        ({"grid": "429 g"}, "grid"),
        ({"grid": 429}, "grid"),
        ({"grid": "-1 gCO2e/kWh"}, "grid"),
        ({"energy": "-5 MWh"}, "energy"),
        ({"energy": "5 MW"}, "energy"),
        ({"energy": "5 MWh", "pue": 1.1}, "energy"),
        ({"accelerator_power": "330 J"}, "accelerator_power"),
        ({"accelerator_power": "0 W"}, "accelerator_power"),
    ],
    ids=str,
)
def test_sustainability_refuses(given, argument):
    usual = {"duration_days": 1, "grid": "429 gCO2e/kWh"}
    assert_refused(lambda: SustainabilityModel().solve(fleet(), **{**usual, **given}), argument, f"{argument} = ")


@pytest.mark.parametrize("value", [Q_(NAN, "TB/s"), Q_(INF, "TB/s"), Q_([1.0, 2.0], "TB/s"), "", "fast", [], b"3 TB/s", None])
def test_a_bandwidth_is_one_finite_quantity(value):
    assert_refused(lambda: memory(bandwidth=value), "bandwidth", "MemoryHierarchy.bandwidth = ")


@pytest.mark.parametrize(
    ("call", "argument", "message"),
    [
        (lambda: memory(capacity="80 Gbit"), "capacity", ".*'80 Gbit': .*not bits .*10 GB"),
        (lambda: memory(capacity="80 gibibytes of HBM"), "capacity", ".*'80 gibibytes of HBM'"),
        (lambda: core("989e12 flops"), "peak_flops", ".*'989e12 flops': .*flop/second"),
        (lambda: scale("5e23"), "compute_budget", ".*'5e23'"),
        (lambda: Q_("80 GiBi"), "quantity", ".*'80 GiBi'.*'GiBi' is not one.*did you mean 'GiB'"),
        (lambda: fleet(intra="900 Gb/s"), "intra_node_bw", ".*'GB' for bytes or 'Gbit' for bits"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else None,
)
def test_units_are_explained(call, argument, message):
    assert isinstance(assert_refused(call, argument, message), UnitError)


def test_wrong_dimensions_do_not_add():
    with pytest.raises(pint.DimensionalityError):
        Q_("1 TFLOP/s") + Q_("1 TB/s")
    with pytest.raises(pint.DimensionalityError):
        Q_("1 Gcount") + Q_("1 GB")
    with pytest.raises(pint.DimensionalityError):
        Q_("1 USD") + Q_("1 gCO2e")
    with pytest.raises(pint.DimensionalityError):
        Q_("1 flop").to("count")


def test_two_nodes_need_a_network():
    node = Node(name="HGX", accelerator=H100, accelerators_per_node=8, intra_node_bw="900 GB/s")
    assert_refused(lambda: Fleet(name="two", node=node, count=2), "fabric", "fabric = None: .*2 nodes need a network")
    assert Fleet(name="one", node=node, count=1).inter_bandwidth_Bps == INF


def test_workloads_that_a_solver_does_not_take():
    mamba = Models.StateSpace.Mamba_2_8B
    for call in (lambda: single_of(mamba), lambda: train(mamba, seq_len=None), lambda: serve(mamba)):
        assert_refused(call, "workload", "workload = ")


def single_of(workload):
    return SingleNodeModel().solve(workload, H100, batch_size=1)


def test_nominal_parameters_are_not_contradicted_in_silence():
    with pytest.raises(InconsistentError, match=r"parameters = 7\S* count: expected within 10% of the 5.* count of its layers"):
        transformer(parameters="7e9 count", ffn_hidden=28672)
    with pytest.raises(InconsistentError, match=r"parameters = 70\S* count: expected more than"):
        transformer(parameters="70 count")
    with pytest.raises(InputError, match="name"):
        CNNWorkload(name="", parameters="1e6 count", inference_flops="1 GFLOP")


def test_errors_of_ours_are_what_python_expects():
    assert issubclass(InputError, ValueError)
    assert issubclass(UnknownArgumentError, TypeError)
    assert issubclass(UnknownNameError, AttributeError)
    with pytest.raises(AttributeError):
        _ = Hardware.Cloud.h100
