"""Collectives: the formula's properties, and those of its fit. ``anchors/`` judges the errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from repository import KERNELS

from mlsysim.calibration.collectives import collective_coefficients, entries, fabric_coefficients, measured_devices
from mlsysim.core.errors import DataError
from mlsysim.fitting.kernels import COLLECTIVE
from mlsysim.fitting.written import refit
from mlsysim.physics.kernels.collectives import KINDS, collective_s, hierarchical_all_reduce_s
from mlsysim.validation.kernels.tables import KernelTable, role_of

MULTINODE = KERNELS / "collectives_multinode.csv"
NVLINK = [device for device, link in measured_devices().items() if link.startswith("nvlink")]
FABRICS = sorted({row["fabric"] for row in KernelTable.read(MULTINODE).rows})
MIB = 2.0**20


def tables(group):
    return {name: entry for name, entry in entries()[group].items() if name != "source"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", measured_devices())
def test_no_larger_message_is_faster(device, kind):
    """NCCL stays too long with LL over PCIe, and engines have latencies of their own: the protocols meet all the same."""
    size_B = 2.0 ** np.arange(3, 34, 0.05)
    measured = collective_coefficients(device)
    for latency_share in (0.1, 1.0, 2.5):
        latencies = {name: latency_share * getattr(measured, name) for name in ("launch_s", "ll_step_s", "simple_step_s")}
        for ranks in (2.0, 3.0, 4.0, 6.0, 8.0, 64.0):
            times = collective_s(kind, size_B, ranks, replace(measured, **latencies))
            assert (times > 0).all()
            assert (np.diff(times) >= -1e-12 * times[1:]).all()


def test_a_message_before_the_switch_waits_no_longer_than_the_first_after_it():
    """Over PCIe NCCL believes in Simple from (1.8 us + 14 x 4.7 us) / (1/24 - 1/48) GB/s = 3.24 MB over the wire on."""
    device = collective_coefficients("rtx_pro_6000_server")
    first_B = (1.8e-6 + 14 * 4.7e-6) / (1 / 24e9 - 1 / 48e9) * 8 / 14
    slow, last, first = (collective_s("all_reduce", share * first_B, 8.0, device) for share in (0.7, 0.999, 1.001))
    assert slow < last == pytest.approx(first, rel=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_scalar_is_array(kind):
    device = collective_coefficients("h100_sxm")
    sizes, ranks = np.array([64.0, 1e5, 3e6, 2e7, 1e9]), np.array([2.0, 4.0, 8.0, 8.0, 1.0])
    single = [collective_s(kind, float(s), float(n), device) for s, n in zip(sizes, ranks, strict=True)]
    assert all(type(time) is float for time in single)
    assert collective_s(kind, sizes, ranks, device) == pytest.approx(single, rel=1e-12)
    assert single[-1] == 0.0  # one rank


def test_hierarchical_scalar_is_array():
    device, fabric = collective_coefficients("gb200"), fabric_coefficients("ib_ndr")
    sizes, domains = np.array([8.0, 1e6, 1e9]), np.array([2.0, 5.0, 20.0])
    points = zip(sizes, domains, strict=True)
    single = [hierarchical_all_reduce_s(float(s), float(d), 72.0, 50e9, device, fabric) for s, d in points]
    assert all(type(time) is float for time in single)
    assert hierarchical_all_reduce_s(sizes, domains, 72.0, 50e9, device, fabric) == pytest.approx(single, rel=1e-12)


@pytest.mark.parametrize("fabric", FABRICS)
def test_hierarchical_grows(fabric):
    device, network = collective_coefficients("h100_sxm"), fabric_coefficients(fabric)
    by_size = hierarchical_all_reduce_s(2.0 ** np.arange(3, 34, 0.1), 4.0, 8.0, 50e9, device, network)
    by_domains = hierarchical_all_reduce_s(1e8, 2.0 ** np.arange(1, 12), 8.0, 50e9, device, network)
    assert (np.diff(by_size) > 0).all()
    assert (np.diff(by_domains) > 0).all()


@pytest.mark.parametrize("device", NVLINK)
def test_not_faster_than_the_wire(device):
    """A ring cannot exceed the link; the switch can, by its reduction, but not twice the link."""
    coefficients = collective_coefficients(device)
    wire = 1.1 * coefficients.tuner.link_Bps  # the tuner's figure is what it believes, 78-82 % of the data sheet
    for n in (2.0, 4.0, 8.0):
        assert collective_s("all_gather", 2.0**33, n, coefficients) > (n - 1) / n * 2.0**33 / wire
        assert collective_s("all_reduce", 2.0**33, n, coefficients) > (n - 1) / n * 2.0**33 / wire


def test_switch_reduction_pays():
    device = collective_coefficients("h100_sxm")
    ranks = np.array([4.0, 8.0])
    ring = collective_s("all_reduce", 2.0**30, ranks, device, switch_reduces=False)
    switch = collective_s("all_reduce", 2.0**30, ranks, device)
    assert switch[0] == ring[0]  # NCCL keeps the ring at 4 GPUs
    assert switch[1] < ring[1]


def test_more_bandwidth_is_faster():
    device = collective_coefficients("h100_sxm")
    faster = replace(device, bandwidth_Bps=1.1 * device.bandwidth_Bps, pair_bandwidth_Bps=1.1 * device.pair_bandwidth_Bps)
    for kind in KINDS:
        assert collective_s(kind, 1e9, 8.0, faster) < collective_s(kind, 1e9, 8.0, device)


@pytest.mark.parametrize("call", [lambda: collective_coefficients("groq_lpu_v1"), lambda: fabric_coefficients("slingshot")])
def test_unknown_says_what_is_known(call):
    with pytest.raises(DataError, match="calibrated for"):
        call()


def test_unknown_kind():
    with pytest.raises(ValueError, match="expected one of all_reduce"):
        collective_s("broadcast", 1e6, 8, collective_coefficients("h100_sxm"))


@pytest.mark.parametrize("device", measured_devices())
def test_roles_follow_from_the_inputs(device):
    for row in KernelTable.read(KERNELS / f"collectives_{device}.csv").rows:
        assert row["role"] == role_of([device, *(row[name] for name in ("kind", "dtype", "ranks", "elements", "size_B"))])


def test_multinode_roles_follow_from_the_inputs():
    for row in KernelTable.read(MULTINODE).rows:
        ranks = int(row["domains"]) * int(row["ranks_per_domain"])
        assert row["role"] == role_of([row["system"], ranks, row["size_B"]])
        assert row["source"]
        assert row["locator"]


@pytest.fixture(scope="module")
def refitted(other_validation):
    """The fit of a copy whose validation rows are nonsense."""
    pytest.importorskip("scipy")
    return refit(COLLECTIVE, other_validation("collectives"))


@pytest.mark.parametrize("group", ["device", "fabric"])
def test_fit_reads_calibration_rows_only(refitted, group):
    values = {key: pair for key, pair in refitted.values.items() if key.kind == group}
    assert {key.entry for key in values} == set(tables(group))
    for key, (written, again) in values.items():
        assert again == pytest.approx(written, rel=1e-3), key


def test_coefficients_are_few_and_inside_their_bounds():
    assert max(len(entry["fitted"]) for entry in tables("device").values()) <= 6
    assert [name for name, entry in tables("device").items() if entry["at_bound"]] == []
    assert [name for name, entry in tables("fabric").items() if entry["at_bound"]] == []
    # p6-B200 reaches the line rate of its cards (99 %), which no efficiency can exceed: it is stated.
    assert tables("fabric")["efa_v4"]["efficiency"] == 1
