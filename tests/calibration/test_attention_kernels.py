"""Attention kernels: what must hold of any coefficients, and of their fit. ``anchors/`` judges the errors."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from repository import KERNELS

from mlsysim.calibration import attention
from mlsysim.calibration.attention import decode_kernel, measured_devices, prefill_kernel
from mlsysim.core.errors import UnknownNameError
from mlsysim.fitting.kernels import ATTENTION, ATTENTIONS
from mlsysim.fitting.written import refit
from mlsysim.hardware.registry import Hardware
from mlsysim.physics.kernels.attention import (
    AttentionDevice,
    AttentionHeads,
    attended_keys,
    decode_attention_s,
    prefill_attention_s,
    training_attention_s,
)
from mlsysim.validation.kernels import predictions
from mlsysim.validation.kernels.tables import VALIDATION, KernelTable, role_of

HEAD = tomllib.loads((KERNELS / "attention.toml").read_text("utf-8"))
FITTED = tomllib.loads((Path(attention.__file__).parent / "data" / "attention.toml").read_text("utf-8"))
H100 = AttentionDevice(989.4e12, 3.35e12, 132.0, 50.0 * 2**20, 1.0)
SHAPE = AttentionHeads(32.0, 8.0, 128.0, 2.0, 0.0, 0.0, 1.0)
LENGTHS = {"prefill": "seq_len", "decode": "context"}
TABLES = [(phase, name) for phase in LENGTHS for name in HEAD["device"]]


def increasing(times):
    return bool(np.all(np.diff(times) > 0))


@pytest.mark.parametrize("name", measured_devices())
def test_more_work_takes_longer(name):
    prefill, decode = prefill_kernel(name), decode_kernel(name)
    grid = np.array([1.0, 2.0, 7.0, 64.0, 500.0, 4096.0])
    assert increasing(prefill_attention_s(prefill, H100, grid, 512.0, SHAPE))
    assert increasing(prefill_attention_s(prefill, H100, 4.0, 16 * grid, SHAPE))
    assert increasing(prefill_attention_s(prefill, H100, 4.0, 2048.0, replace(SHAPE, heads=8 * grid)))
    assert increasing(decode_attention_s(decode, H100, grid, 1024.0, SHAPE))
    assert increasing(decode_attention_s(decode, H100, 16.0, 64 * grid, SHAPE))
    assert increasing(
        decode_attention_s(decode, H100, 16.0, 1024.0, replace(SHAPE, kv_heads=2.0, kv_B=np.array([0.5, 1.0, 2.0])))
    )


@pytest.mark.parametrize("kv_B", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("name", measured_devices())
def test_no_key_more_is_faster_beside_a_window(name, kv_B):
    """A window's kernel costs more; where reading all keys is faster, decoding does that."""
    tokens = np.concatenate([np.arange(1.0, 600.0), np.arange(1000.0, 5000.0, 7.0)])
    for window in (128.0, 1024.0):
        shape = replace(SHAPE, kv_B=kv_B, window=window)
        for batch in (1.0, 64.0):
            for times in (
                prefill_attention_s(prefill_kernel(name), H100, batch, tokens, shape),
                decode_attention_s(decode_kernel(name), H100, batch, tokens, shape),
            ):
                assert (np.diff(times) >= -1e-12 * times[1:]).all()
            assert np.all(times <= decode_attention_s(decode_kernel(name), H100, batch, tokens, replace(shape, window=0.0)))


@pytest.mark.parametrize("part", ["peak_flops_per_s", "bandwidth_Bps", "multiprocessors"])
def test_a_better_device_is_faster(part):
    better = replace(H100, **{part: 1.1 * getattr(H100, part)})
    work = (16.0, 8192.0, SHAPE)
    prefill, decode = prefill_kernel("h100_sxm"), decode_kernel("h100_sxm")
    assert prefill_attention_s(prefill, better, *work) < prefill_attention_s(prefill, H100, *work)
    slower = decode_attention_s(decode, H100, *work)
    assert decode_attention_s(decode, better, *work) <= slower
    assert part != "bandwidth_Bps" or decode_attention_s(decode, better, *work) < 0.95 * slower


def test_never_faster_than_the_bound():
    batch, tokens = np.array([1.0, 64.0]), np.array([16384.0, 4096.0])
    flops = 4 * batch * tokens * attended_keys(tokens) * 32 * 128
    assert np.all(prefill_attention_s(prefill_kernel("h100_sxm"), H100, batch, tokens, SHAPE) > flops / 989.4e12)
    kv_B = 2 * batch * tokens * 8 * 128 * 2
    assert np.all(decode_attention_s(decode_kernel("h100_sxm"), H100, batch, tokens, SHAPE) > kv_B / 3.35e12)


@pytest.mark.parametrize("window", [0.0, 128.0, 8192.0])
@pytest.mark.parametrize("kv_heads", [1.0, 8.0, 64.0])
def test_arrays_give_what_each_alone_gives(window, kv_heads):
    tokens = np.array([1.0, 512.0, 20000.0])
    for kernel, time_s in ((prefill_kernel("b200_sxm"), prefill_attention_s), (decode_kernel("b200_sxm"), decode_attention_s)):
        shape = replace(SHAPE, heads=64.0, kv_heads=kv_heads, window=window)
        together = time_s(kernel, H100, 4.0, tokens, shape)
        alone = [time_s(kernel, H100, 4.0, float(one), shape) for one in tokens]
        assert all(isinstance(one, float) for one in alone)
        np.testing.assert_allclose(together, alone, rtol=1e-12)
        assert np.all(together > 0)


def test_windows():
    prefill, decode = prefill_kernel("b200_sxm"), decode_kernel("b200_sxm")
    assert attended_keys(100.0, 128.0) == attended_keys(100.0) == 50.0
    for kernel, time_s in ((prefill, prefill_attention_s), (decode, decode_attention_s)):
        plain = time_s(kernel, H100, 32.0, 8192.0, SHAPE)
        assert time_s(kernel, H100, 32.0, 8192.0, replace(SHAPE, window=128.0)) < plain
        assert time_s(kernel, H100, 32.0, 8192.0, replace(SHAPE, window=8192.0)) == plain


def test_large_groups_read_for_themselves():
    decode = decode_kernel("h100_sxm")
    shapes = (replace(SHAPE, heads=heads, kv_heads=1.0) for heads in (32.0, 33.0))
    grouped, ungrouped = (decode_attention_s(decode, H100, 32.0, 4096.0, shape) for shape in shapes)
    assert ungrouped > 3 * grouped


def test_training():
    kernel, shape = prefill_kernel("h100_sxm"), replace(SHAPE, kv_heads=32.0)
    forward, backward = training_attention_s(kernel, H100, 2.0, 4096.0, shape, 0.62)
    assert forward < prefill_attention_s(kernel, H100, 2.0, 4096.0, shape)
    assert backward == pytest.approx(forward * 2.5 / 0.62)
    slower = training_attention_s(kernel, H100, 2.0, 4096.0, shape, 0.62, generation=0.5)
    assert slower == pytest.approx((2 * forward, 2 * backward))


def test_unmeasured():
    with pytest.raises(UnknownNameError, match="h100_sxm"):
        decode_kernel("h100")
    with pytest.raises(UnknownNameError, match="bfloat16"):
        prefill_kernel("a100_sxm", "fp8")


@pytest.mark.parametrize("name", HEAD["device"])
def test_shares_are_of_the_registry_figures(name):
    facts, node = HEAD["device"][name], Hardware[HEAD["device"][name]["hardware"]]
    device = predictions._device(facts)
    for dtype, precision in (("bfloat16", "bf16"), ("fp8", "fp8")):
        if dtype in facts["peak"]:
            assert predictions._peak(facts, dtype) == pytest.approx(node.compute.rate_flops_per_s(precision))
    assert device.bandwidth_Bps == pytest.approx(node.memory.bandwidth.m_as("byte/second"))
    assert device.multiprocessors == node.compute.multiprocessors
    assert device.l2_B == pytest.approx(node.memory.l2_capacity.m_as("byte"))


@pytest.mark.parametrize(("phase", "name"), TABLES)
def test_carried_rows(phase, name):
    rows = KernelTable.read(KERNELS / f"attention_{phase}_{name}.csv").rows
    assert len(rows) <= 400
    inputs = [tuple(value for column, value in row.items() if column not in ("role", "measured_s")) for row in rows]
    assert len(set(inputs)) == len(inputs)
    assert [row["role"] for row in rows] == [role_of([phase, name, *values]) for values in inputs]
    assert sum(row["role"] == VALIDATION for row in rows) > 0.4 * len(rows)


@pytest.fixture(scope="module")
def fitted_on_other_validation(other_validation):
    return refit(ATTENTIONS, other_validation("attention"))


@pytest.mark.parametrize(("phase", "name"), TABLES)
def test_the_fit_reads_no_validation_row(phase, name, fitted_on_other_validation):
    for key, (written, again) in fitted_on_other_validation.values.items():
        if key[:2] == (phase, name):  # SciPy's versions differ in the last digits
            assert again == pytest.approx(written, rel=1e-3), key
    assert fitted_on_other_validation.changes["attention.toml"][(phase, name)]["validation"]["median"] > 90


@pytest.mark.parametrize(("phase", "name"), TABLES)
def test_few_free_coefficients_none_at_its_bound(phase, name):
    entry = FITTED[phase][name]
    assert len(ATTENTION[phase]) - len(entry["held"]) <= 6
    assert entry["at_bound"] == []
