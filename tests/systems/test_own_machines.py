"""Machines of a caller's own: what must be said of them, fleets by name and number, and how records print."""

from __future__ import annotations

import os
from typing import get_args

import pytest
from forked import anew, forked

from mlsysim import (
    DistributedModel,
    Fleet,
    Hardware,
    HardwareNode,
    InputError,
    Models,
    NetworkFabric,
    Node,
    ServingModel,
    Systems,
)
from mlsysim.core import choices
from mlsysim.core.precision import BYTES_PER_ELEMENT, number_format
from mlsysim.lowering.deployment import SCHEDULES as SERVING_SCHEDULES
from mlsysim.lowering.training_setting import ATTENTION_KERNELS, GRADIENT_PRECISIONS
from mlsysim.physics.layer.work import RECOMPUTE_MODES
from mlsysim.physics.plan import SCHEDULES
from mlsysim.solvers.recommended import BASES
from mlsysim.solvers.serving.batching import SCHEDULES as BATCH_SCHEDULES
from mlsysim.solvers.serving.tail_latency import ARRIVALS, DISTRIBUTIONS
from mlsysim.solvers.training.objective import OBJECTIVES
from mlsysim.solvers.training.parallelism import SPACES
from mlsysim.systems.fleets import usual_fleet

H100 = Hardware.Cloud.H100
OWN = {
    "compute": {"precision_flops": {"fp8": "2 PFLOP/s", "bf16": "1 PFLOP/s"}},
    "memory": {"capacity": "96 GiB", "bandwidth": "4 TB/s"},
}


def test_an_own_chip_needs_its_rates_and_its_memory_alone():
    chip = HardwareNode(**OWN)
    assert chip.compute.peak_flops.m_as("PFLOP/s") == 1, "of 16 bits"
    run = ServingModel().solve(Models.Language.Llama3_8B, chip, input_len=512)
    named = HardwareNode(name="mine", release_year=2026, **OWN)
    assert run.itl == ServingModel().solve(Models.Language.Llama3_8B, named, input_len=512).itl
    assert (
        HardwareNode(**(OWN | {"compute": {"precision_flops": {"int8": "40 TFLOP/s"}}})).compute.peak_flops.m_as("TFLOP/s")
        == 40
    )
    for lacking in ("compute", "memory"):
        with pytest.raises(InputError, match=lacking):
            HardwareNode(**{name: value for name, value in OWN.items() if name != lacking})
    with pytest.raises(InputError, match="peak_flops"):
        HardwareNode(**(OWN | {"compute": {}}))


def test_systems_are_called_by_what_they_have():
    node = Node(accelerator=H100, accelerators_per_node=8, intra_node_bw="900 GB/s")
    fleet = Fleet(node=node, count=2, fabric=NetworkFabric(bandwidth="50 GB/s"))
    assert (node.name, fleet.name, fleet.fabric.name) == ("8 x H100 SXM5 80GB", "2 x 8 x H100 SXM5 80GB", "network")
    step = {"batch_size": 32, "efficiency": 0.4}
    called = Fleet(name="mine", node=node, count=2, fabric=NetworkFabric(name="IB", bandwidth="50 GB/s"))
    assert DistributedModel().solve(Models.Language.Llama3_8B, fleet, **step).step_time == (
        DistributedModel().solve(Models.Language.Llama3_8B, called, **step).step_time
    )
    for wrong in ({"name": ""}, {"count": "x"}, {"node": None}):
        with pytest.raises(InputError):
            Fleet(**({"node": node, "count": 1} | wrong))


def test_a_fleet_of_a_name_is_as_usual():
    fleet = Fleet.of("H100", 512)
    assert fleet == usual_fleet(H100, 512)
    assert (fleet.accelerators, fleet.node.accelerators_per_node) == (512, 8)
    assert fleet.inter_bandwidth_Bps == Systems.Nodes.DGX_H100.network_bw.m_as("byte/s")
    assert Fleet.of(H100, 12, per_node=4).node.accelerators_per_node == 4
    assert Fleet.of("GB200", 144).node.accelerators_per_node == 72
    own = Fleet.of(HardwareNode(**OWN), 16)
    assert (own.accelerators, own.node.accelerator.memory_capacity_B) == (16, 96 * 2**30)
    for wrong in (("H1000", 8), ("H100", 0), ("H100", 2.5), (7, 8)):
        with pytest.raises(InputError):
            Fleet.of(*wrong)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the package is imported anew in a fork of this process")
def test_a_fleet_of_a_name_needs_no_other_import(tmp_path):
    code = "from mlsysim.systems.types import Fleet; print(Fleet.of('H100', 16).count)"
    assert forked(anew(code), tmp_path) == (0, "2\n", "")


@pytest.mark.parametrize(
    "record", [H100, Systems.Nodes.DGX_H100, Fleet.of("H100", 16), Models.Language.DeepSeek_V3], ids=lambda one: one.name
)
def test_a_record_fits_a_screen(record):
    lines = str(record).splitlines()
    assert lines[0] == f"{type(record).__name__}: {record.name}"
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 100
    assert "Quantity(" not in str(record)
    assert "None" not in str(record)
    assert type(record)(**{name: getattr(record, name) for name in record.model_fields_set}) == record
    assert record.name in repr(record)


def test_what_is_printed_is_what_is_so():
    text = str(H100)
    for said in ("80 GiB", "3,350 GB/s", "bf16 989.4 TFLOP/s", "700 W", "NVIDIA"):
        assert said in text, said


@pytest.mark.parametrize(
    ("types", "accepted"),
    [
        (choices.GradientFormat, GRADIENT_PRECISIONS),
        (choices.Recomputation, RECOMPUTE_MODES),
        (choices.AttentionKernel, ATTENTION_KERNELS),
        (choices.PipelineSchedule, SCHEDULES),
        (choices.ServingSchedule, SERVING_SCHEDULES),
        (choices.BatchSchedule, BATCH_SCHEDULES),
        (choices.Arrivals, ARRIVALS),
        (choices.ServiceTimes, tuple(DISTRIBUTIONS)),
        (choices.SearchSpace, SPACES),
        (choices.Objective, OBJECTIVES),
        (choices.Basis, BASES),
    ],
)
def test_editors_complete_what_is_accepted(types, accepted):
    assert get_args(types) == accepted


def test_editors_complete_number_formats():
    completed = set(get_args(choices.Precision))
    assert {name for name in BYTES_PER_ELEMENT if number_format(name).arithmetic == name} <= completed <= set(BYTES_PER_ELEMENT)
