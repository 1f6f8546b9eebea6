"""Machines as people write them: counts, names and what is near to a wrong one."""

from __future__ import annotations

import pytest

from mlsysim.core.errors import InputError, UnknownNameError
from mlsysim.hardware.registry import Hardware
from mlsysim.systems import Fleet, Node, Systems, fleet_called, machine_called, machines_listed, usual_fleet


@pytest.mark.parametrize(
    ("text", "nodes", "each", "accelerator"),
    [
        ("64 x DGX H100", 64, 8, "H100"),
        ("DGX H100 x 64", 64, 8, "H100"),
        ("512 x H100", 64, 8, "H100"),
        ("8xH200", 1, 8, "H200"),
        ("H200x8", 1, 8, "H200"),
        ("H200:8", 1, 8, "H200"),
        ("8 H200", 1, 8, "H200"),
        ("8 × H200", 1, 8, "H200"),
        ("2 x 4 x A100-80GB", 2, 4, "A100"),
        ("1,024 x H100", 128, 8, "H100"),
        ("2 x 4090", 1, 2, "RTX4090"),
        ("4090 x 2", 1, 2, "RTX4090"),
        ("MI300X x 8", 1, 8, "MI300X"),
        ("8 x MI300X", 1, 8, "MI300X"),
        ("2 x GB200 NVL72", 2, 72, "GB200"),
        ("144 x GB200", 2, 72, "GB200"),
        ("2 x DGX-2", 2, 16, "V100_SXM3"),
        ("TPU v5p x 4096", 1, 4096, "TPUv5p"),
        ("12 x H100", 2, 6, "H100"),
    ],
)
def test_counts_and_names(text, nodes, each, accelerator):
    fleet = machine_called(text)
    assert isinstance(fleet, Fleet)
    assert (fleet.count, fleet.node.accelerators_per_node) == (nodes, each)
    assert fleet.node.accelerator is Hardware.get(accelerator)
    assert fleet_called(text) is fleet or fleet_called(text) == fleet


def test_a_name_alone_is_what_it_names_and_a_fleet_of_one():
    assert machine_called("H200") is Hardware.Cloud.H200
    assert machine_called("DGX H100") is Systems.Nodes.DGX_H100
    assert fleet_called("H200").accelerators == 1
    assert fleet_called("DGX H100").accelerators == 8


def test_every_node_and_every_accelerator_is_read_with_a_count():
    for node in Systems.Nodes:
        assert isinstance(machine_called(node.name), Node)
        assert machine_called(f"3 x {node.name}").accelerators == 3 * node.accelerators_per_node
    for name in Hardware.names():
        assert machine_called(f"3 x {name}").accelerators == 3


def test_a_fleet_of_nodes_has_their_network_and_one_of_accelerators_that_of_their_usual_node():
    nodes, cards = fleet_called("4 x DGX A100"), fleet_called("32 x A100")
    assert nodes.inter_bandwidth_Bps == cards.inter_bandwidth_Bps == usual_fleet(Hardware.Cloud.A100, 32).inter_bandwidth_Bps


@pytest.mark.parametrize(
    ("text", "near"),
    [("8 x H1000", "H100"), ("64 x DGX H1000", "DGX_H100"), ("p5.48xlarge", "AWS_p5_48xlarge"), ("x8 H100", "H100")],
)
def test_a_near_miss_is_named(text, near):
    with pytest.raises(UnknownNameError, match=near) as told:
        machine_called(text, "--on")
    assert str(told.value).startswith(f"--on = {text!r}")


@pytest.mark.parametrize(
    "text", ["", " ", "8", "0 x H100", "99999999999 x H100", "2 x 3 x DGX H100", "-3 x H100", "1e3 x H100", None, 8]
)
def test_what_is_no_machine_is_refused(text):
    with pytest.raises(InputError):
        machine_called(text)


def test_a_list_is_cut_at_commas_but_not_within_numbers():
    assert machines_listed("H200,H100 ,1,024 x H100, 512 x B200") == ["H200", "H100", "1024 x H100", "512 x B200"]
    assert machines_listed("H100,512 x H100") == ["H100", "512 x H100"]
