"""Matrix products: what must hold of any coefficients, and of their fit. ``anchors/`` judges the errors."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from repository import KERNELS

from mlsysim.calibration import gemm
from mlsysim.calibration.gemm import FORMATS, gemm_kernel, measured_devices, measured_formats
from mlsysim.calibration.shared_kernels import shared_constants
from mlsysim.core.errors import UnknownNameError
from mlsysim.fitting.kernels import GEMM, PRODUCTS
from mlsysim.fitting.written import refit
from mlsysim.hardware.registry import Hardware
from mlsysim.physics.kernels.gemm import GemmKernel, SharedGemm, gemm_s
from mlsysim.validation.kernels.tables import CALIBRATION, VALIDATION, KernelTable, role_of

HEAD = tomllib.loads((KERNELS / "gemm.toml").read_text("utf-8"))
FITTED = tomllib.loads((Path(gemm.__file__).parent / "data" / "gemm.toml").read_text("utf-8"))
KINDS = [(name, dtype) for name in measured_devices() for dtype in measured_formats(name)]
H100 = {"peak_flops_per_s": 989.4e12, "bandwidth_Bps": 3.35e12, "multiprocessors": 132.0, "cache_B": 50.0 * 2**20}
SIZES = np.array(
    [1.0, 2.0, 16.0, 17.0, 64.0, 65.0, 128.0, 129.0, 256.0, 257.0, 1000.0, 1024.0, 1025.0, 4096.0, 20000.0, 65536.0]
)


def seconds(kernel, m, n, k, dtype="bfloat16", **device):
    numbers = FORMATS[dtype]
    return gemm_s(m, n, k, numbers.input_B, numbers.weight_B, numbers.output_B, kernel, **{**H100, **device})


@pytest.mark.parametrize(("name", "dtype"), KINDS)
def test_more_work_never_takes_less_time(name, dtype):
    kernel = gemm_kernel(name, dtype)
    m, n, k = np.meshgrid(SIZES, SIZES, SIZES, indexing="ij")
    times = seconds(kernel, m, n, k, dtype)
    assert np.all(times > kernel.launch_s)
    for axis in range(3):
        assert np.all(np.diff(times, axis=axis) >= -1e-12 * times.max())


@pytest.mark.parametrize(
    "kind",
    [{}, {"shallow_tiles": True, "core_flops_per_s": 6e13}, {"large_tiles": True, "sustained": 0.5}, {"whole_waves": True}],
)
@pytest.mark.parametrize(("name", "dtype"), KINDS)
def test_arrays_give_what_each_alone_gives(name, dtype, kind):
    kernel = replace(gemm_kernel(name, dtype), **kind)
    together = seconds(kernel, SIZES, 5120.0, SIZES[::-1], dtype)
    alone = [seconds(kernel, m, 5120.0, k, dtype) for m, k in zip(SIZES.tolist(), SIZES[::-1].tolist(), strict=True)]
    assert all(isinstance(one, float) for one in alone)
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_devices_broadcast_with_shapes():
    kernel = gemm_kernel("h100_sxm")
    bandwidths = np.array([3.35e12, 4.8e12])
    both = seconds(kernel, np.array([16.0, 4096.0]), 8192.0, 8192.0, bandwidth_Bps=bandwidths)
    alone = [seconds(kernel, m, 8192.0, 8192.0, bandwidth_Bps=rate) for m, rate in ((16.0, 3.35e12), (4096.0, 4.8e12))]
    np.testing.assert_allclose(both, alone, rtol=1e-12)


@pytest.mark.parametrize("part", ["peak_flops_per_s", "bandwidth_Bps", "cache_B"])
def test_a_better_device_is_faster(part):
    kernel = gemm_kernel("h100_sxm")
    better = {part: 1.1 * H100[part]}
    for m in (8.0, 512.0, 4096.0):
        assert seconds(kernel, m, 1024.0, 4096.0, **better) <= seconds(kernel, m, 1024.0, 4096.0)
    if part == "peak_flops_per_s":
        assert seconds(kernel, 8192.0, 8192.0, 8192.0, **better) < 0.95 * seconds(kernel, 8192.0, 8192.0, 8192.0)
    if part == "bandwidth_Bps":
        assert seconds(kernel, 16.0, 16384.0, 16384.0, **better) < 0.95 * seconds(kernel, 16.0, 16384.0, 16384.0)
    if part == "cache_B":  # the activations of half a cache's size
        assert seconds(kernel, 3000.0, 64.0, 6000.0, **better) < seconds(kernel, 3000.0, 64.0, 6000.0)


@pytest.mark.parametrize("name", measured_devices())
def test_never_faster_than_the_bound(name):
    m, n, k = np.meshgrid(SIZES, SIZES, SIZES, indexing="ij")
    times = seconds(gemm_kernel(name), m, n, k)
    assert np.all(times > 2 * m * n * k / H100["peak_flops_per_s"])
    assert np.all(times > 2 * (n * k + m * n) / H100["bandwidth_Bps"])  # activations may come from the cache


def test_splitting_k_helps_where_tiles_are_few():
    kernel = gemm_kernel("h100_sxm")
    unsplit = replace(kernel, most_splits=1.0)
    assert seconds(kernel, 64.0, 64.0, 65536.0) < 0.3 * seconds(unsplit, 64.0, 64.0, 65536.0)
    assert seconds(kernel, 8192.0, 8192.0, 8192.0) == seconds(unsplit, 8192.0, 8192.0, 8192.0)


def test_whole_waves_wait_for_the_last_tile():
    persistent = GemmKernel(0.9, 0.0, 5.0, 0.9, 0.0, shared_constants(SharedGemm), split_s=1.0)
    waves = replace(persistent, whole_waves=True)
    full, one_more = (64.0 * 66 * 4 * n for n in (1, 1.01))  # four waves of tiles on 132 multiprocessors
    assert seconds(waves, full, 256.0, 8192.0) == pytest.approx(seconds(persistent, full, 256.0, 8192.0))
    assert seconds(waves, one_more, 256.0, 8192.0) > 1.05 * seconds(persistent, one_more, 256.0, 8192.0)


def test_unmeasured():
    with pytest.raises(UnknownNameError, match="h100_sxm"):
        gemm_kernel("h100")
    with pytest.raises(UnknownNameError, match="bfloat16"):
        gemm_kernel("a100_sxm", "fp8")


@pytest.mark.parametrize("name", HEAD["device"])
def test_carried_rows(name):
    rows = KernelTable.read(KERNELS / f"gemm_{name}.csv").rows
    inputs = [tuple(row[column] for column in ("dtype", "m", "n", "k")) for row in rows]
    assert len(set(inputs)) == len(inputs) <= 400
    assert [row["role"] for row in rows] == [role_of([name, *values]) for values in inputs]
    assert sum(row["role"] == VALIDATION for row in rows) > 0.4 * len(rows)
    assert {values[0] for values in inputs} == set(HEAD["device"][name]["dtypes"]) == set(measured_formats(name))


@pytest.mark.parametrize(("name", "dtype"), KINDS)
def test_coefficients_are_few_and_physical(name, dtype):
    entry = FITTED[name][dtype]
    assert len(entry["fitted"]) <= 6
    for key, bounds in GEMM.items():
        assert key not in entry["fitted"] or bounds.low <= entry[key] <= bounds.high
    assert Hardware[entry["hardware"]].rate_flops_per_s(FORMATS[dtype].precision) > 0


@pytest.fixture(scope="module")
def refitted(other_validation):
    """The fit of tables whose validation rows all say another time."""
    return refit(PRODUCTS, other_validation("gemm"))


@pytest.mark.parametrize(("name", "dtype"), KINDS)
def test_the_fit_reads_no_validation_row(refitted, name, dtype):
    for key, (written, again) in refitted.values.items():
        if key[:2] == (dtype, name):
            # The last digit may differ between versions of SciPy; a few coefficients near zero hardly matter.
            assert again == pytest.approx(written, rel=2e-2, abs=1e-2 * GEMM[key.part].start), key
    errors = refitted.changes["gemm.toml"][(name, dtype)]
    assert errors[CALIBRATION]["median"] == pytest.approx(FITTED[name][dtype][CALIBRATION]["median"], abs=0.1)
    assert errors[VALIDATION]["median"] > 90
