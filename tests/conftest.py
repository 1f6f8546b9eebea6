"""Fixtures that several test modules share."""

from __future__ import annotations

import pytest

from mlsysim.hardware.registry import Hardware
from mlsysim.systems.types import Fleet, NetworkFabric, Node


@pytest.fixture
def make_fleet():
    """Builds a fleet of H100 nodes; keyword arguments replace the parts."""

    def make(count=4, accelerator=None, per_node=8, intra="900 GB/s", inter="50 GB/s", **fabric):
        node = Node(
            name="node",
            accelerator=accelerator or Hardware.Cloud.H100,
            accelerators_per_node=per_node,
            intra_node_bw=intra,
        )
        return Fleet(name="fleet", node=node, count=count, fabric=NetworkFabric(name="net", bandwidth=inter, **fabric))

    return make
