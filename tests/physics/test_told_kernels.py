"""Kernels of a step and of a pass told one by one: the same seconds as the step's, and FLOP and bytes by hand."""

from dataclasses import replace

import pytest
from plain import UNIT, plan, served_shape
from plain_served import SHAPE as SERVED
from plain_served import TWO, served, with_experts
from plain_trained import DEVICE, MODEL, NET, SHAPE, SPLIT
from test_kernel_step import ATTENTION_BACK_S, ATTENTION_S, BACKWARD_S, FORWARD_S

from mlsysim.physics.kernels.roofline import KernelWork
from mlsysim.physics.layer.shape import ExpertShape, LatentShape
from mlsysim.physics.serving.pass_kernels import decode_kernels, prefill_kernels
from mlsysim.physics.serving.passes import decode_pass, prefill_pass
from mlsysim.physics.training.kernel_step import kernel_parts, layer_times
from mlsysim.physics.training.step import Overlap, assemble_step
from mlsysim.physics.training.step_inputs import StackCoefficients
from mlsysim.physics.training.step_kernels import step_kernels

ELEMENTS = UNIT**2  # of a matrix of one unit by one


def step(shape=SHAPE, split=SPLIT, device=DEVICE, model=MODEL, **stack):
    coefficients = StackCoefficients(**{"loss_B": 3.0} | stack)
    return {(one.name, one.direction): one for one in step_kernels(model, shape, split, NET, device, coefficients)}


def test_a_kernels_figures():
    one = KernelWork("up", "forward", 8.0, 2.0, 4.0)
    assert (one.intensity, one.rate_flops_per_s) == (4.0, 2.0)
    assert one.times(3.0) == KernelWork("up", "forward", 24.0, 6.0, 12.0)
    assert one.beside(KernelWork("down", "backward", 1.0, 1.0, 1.0)) == KernelWork("up", "forward", 9.0, 3.0, 5.0)


def test_kernels_of_a_training_step():
    """Two ranks: QKV 2 x 4 x 2 units, output and down 2 x 2 x 2, up and gate 2 x 4 x 2; a unit takes 2 s. Four layers."""
    told = step()
    names = ("query, key and value", "attention output", "feed-forward up", "feed-forward down")
    assert [told[name, "forward"].seconds for name in names] == pytest.approx([4 * 32, 4 * 16, 4 * 32, 4 * 16])
    assert [told[name, "backward"].seconds for name in names] == pytest.approx([8 * 32, 8 * 16, 8 * 32, 8 * 16])
    up = told["feed-forward up", "forward"]
    assert up.flops == 4 * 2 * (2 * 4 * 2) * UNIT**3
    assert up.moved_B == 4 * 2 * (2 * 2 + 4 * 2 + 2 * 4) * ELEMENTS, "inputs, weights and outputs, 16 bits each"
    back = told["feed-forward up", "backward"]
    assert (back.flops, back.moved_B) == (2 * up.flops, 2 * up.moved_B)
    attention = told["attention", "forward"], told["attention", "backward"]
    assert [one.seconds for one in attention] == pytest.approx([4 * ATTENTION_S, 4 * ATTENTION_BACK_S])
    # Two sequences, two heads, 64 x 64 / 2 scores of 4 x 64 FLOP: as much as 4 products of 64 x 64 x 64.
    assert [one.flops for one in attention] == pytest.approx([4 * 4 * 2 * UNIT**3, 2.5 * 4 * 4 * 2 * UNIT**3])
    # Queries and outputs of two heads, keys and values of one: 128 tokens x 6 x 64 elements.
    assert attention[0].moved_B == 4 * 2 * 128 * 6 * 64
    # The head: three products of 2 x 2 x 2 units at twice the peak; once, not four times.
    assert told["output head", "forward"].seconds == pytest.approx(8)
    assert told["output head", "backward"].seconds == pytest.approx(16)
    # What is left of a layer, and 3 s of the loss.
    left = FORWARD_S - 96 + BACKWARD_S - 192
    assert told["element-wise passes", ""].seconds == pytest.approx(4 * left + 3)


@pytest.mark.parametrize(
    ("shape", "split", "stack"),
    [
        ({}, {}, {}),
        ({"flash": 0.0}, {}, {}),
        ({"windowed": 0.5, "window": 16.0}, {"micro_batches": 3.0}, {}),
        ({}, {"pp": 2.0, "micro_batches": 4.0}, {"attention_rate": 0.5}),
        ({"routed": ExpertShape(4.0, 2.0, 2 * UNIT, UNIT, 0.5)}, {}, {"routed_B": 4.0}),
        ({"latent": LatentShape(32.0, 16.0, 32.0, 16.0, 32.0)}, {}, {}),
    ],
)
def test_kernels_add_up_to_the_compute_of_the_step(shape, split, stack):
    shape, split = replace(SHAPE, **shape), replace(SPLIT, **split)
    bare = StackCoefficients(**{"loss_B": 3.0} | stack, host_layer_s=0.0, host_expert_s=0.0)
    layer = layer_times(MODEL, shape, split, NET, DEVICE, bare)
    whole = assemble_step(MODEL.layers, kernel_parts(MODEL, shape, layer, split, NET, DEVICE, bare), split, Overlap.of_all(0.0))
    # The step counts the head's own all-reduce as its compute.
    reduced_s = split.micro_batches * layer.reduction_s / split.pp
    told = step(shape, split, **stack)
    assert sum(one.seconds for one in told.values()) == pytest.approx(whole.compute_s - reduced_s)
    assert all(one.seconds > 0 for one in told.values())


def test_frozen_weights_have_no_gradients():
    trained, frozen = step(), step(model=replace(MODEL, frozen=1.0))
    name = ("feed-forward up", "backward")
    assert frozen[name].flops == trained[name].flops / 2


def test_a_rank_without_head():
    assert ("output head", "forward") not in step(replace(SHAPE, vocab=0.0), plan(tp=2.0, micro_batch_tokens=2 * UNIT))


@pytest.mark.parametrize("shards", [TWO, replace(TWO, attention=1.0), replace(TWO, pp=2.0)])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"routed": with_experts(0.5, UNIT).routed},
        {"routed": with_experts().routed},
        {"window": 16.0, "windowed": 0.5},
        {"latent": LatentShape(32.0, 16.0, 32.0, 16.0, 32.0)},
    ],
)
def test_kernels_add_up_to_the_parts_of_a_decode_step(shape, shards):
    model = served(replace(SERVED, **shape), shards=shards)
    told = decode_kernels(model, 64.0, 128.0)
    whole = decode_pass(model, 64.0, 128.0)
    seconds = {one.name: one.seconds for one in told}
    assert seconds.pop("attention") == pytest.approx(whole.attention_s)
    assert seconds.pop("element-wise passes") == pytest.approx(whole.elementwise_s)
    head_s = seconds.pop("output head")
    assert head_s == pytest.approx(whole.head_s) if shards.pp == 1 else head_s < whole.head_s
    assert sum(seconds.values()) == pytest.approx(whole.weights_s)


def test_kernels_of_a_decode_step():
    """64 sequences on two ranks: QKV 1 x 4 x 2 units, up and gate 1 x 4 x 2, output and down 1 x 2 x 2, in three layers."""
    told = {one.name: one for one in decode_kernels(served(), 64.0, 128.0)}
    assert told["query, key and value"].flops == 3 * 2 * 8 * UNIT**3
    assert told["feed-forward down"].flops == 3 * 2 * 4 * UNIT**3
    assert told["feed-forward down"].moved_B == 3 * 2 * (2 + 4 + 2) * ELEMENTS
    # Two heads of 64 sequences over 128 keys of 64; one head of keys and values is read.
    assert told["attention"].flops == 3 * 4 * 64 * 2 * 128 * 64
    assert told["attention"].moved_B == 3 * 2 * 64 * 1 * 128 * 64 * 2
    assert told["output head"].flops == 2 * (1 * 2 * 2) * UNIT**3, "once"


@pytest.mark.parametrize("causal", [True, False])
def test_kernels_of_prompts(causal):
    model = served(served_shape(), has={"causal": causal})
    told = {one.name: one for one in prefill_kernels(model, 2.0, 64.0)}
    whole = prefill_pass(model, 2.0, 64.0)
    assert told["attention"].seconds == pytest.approx(whole.attention_s)
    assert told["feed-forward up"].flops == 3 * 2 * (2 * 4 * 2) * UNIT**3
    # Two sequences, two heads, 64 queries to 32 keys on average, or to all 64.
    assert told["attention"].flops == 3 * 4 * 2 * 2 * 64 * (32 if causal else 64) * 64
