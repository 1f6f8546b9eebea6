"""The kernels of a training step one by one, with their arithmetic and traffic: what a roofline shows.

Source: Williams, Waterman, Patterson, "Roofline", CACM 2009.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mlsysim.physics.kernels.attention import BACKWARD_FLOPS
from mlsysim.physics.kernels.roofline import ATTENTION, ELEMENT_WISE, HEAD, KernelWork, each_once
from mlsysim.physics.layer.attention import attention_heads, keys_seen
from mlsysim.physics.layer.products import ROUTER
from mlsysim.physics.layer.work import LayeredWork
from mlsysim.physics.machine import Machine
from mlsysim.physics.numeric import Num
from mlsysim.physics.plan import Plan
from mlsysim.physics.training.kernel_step import attention_s, layer_times, ring_calls
from mlsysim.physics.training.layer_products import (
    OF_INPUTS,
    OF_WEIGHTS,
    RESULT,
    call_s,
    edges,
    head_product_s,
    trained_products,
)
from mlsysim.physics.training.step_inputs import KernelDevice, StackCoefficients, TrainedShape

FORWARD, BACKWARD = "forward", "backward"
_WORD_B = 2.0


def step_kernels(
    work: LayeredWork, shape: TrainedShape, plan: Plan, machine: Machine, device: KernelDevice, stack: StackCoefficients
) -> tuple[KernelWork, ...]:
    """All calls of each kernel in the forward and backward passes of a step, on a rank of mean load; nothing repeated.

    Element-wise passes, the loss among them, are what the device computes beyond products and attention; the host is left out.
    """
    on_device = layer_times(work, shape, plan, machine, device, replace(stack, host_layer_s=0.0, host_expert_s=0.0))
    layer = each_once((*_products(work, shape, plan, device), *_attention(shape, plan, device, stack)))
    head = each_once(_head(work, shape, plan, device))
    layers, passes = float(work.layers / plan.pp), float(plan.micro_batches)
    rest_s = float(on_device.forward_s + on_device.backward_s) - sum(one.seconds for one in layer)
    loss_s = float(on_device.head_s) - sum(one.seconds for one in head)
    rest = KernelWork(ELEMENT_WISE, "", 0.0, 0.0, passes * (layers * rest_s + loss_s / float(plan.pp)))
    told = [one.times(passes * layers) for one in layer] + [one.times(passes / float(plan.pp)) for one in head] + [rest]
    return tuple(one for one in told if one.seconds > 0)


def _call(m: Num, n: Num, k: Num, groups: Num, element_B: float, seconds: Num, name: str, direction: str) -> KernelWork:
    moved_B = groups * (element_B * (m * k + n * k) + _WORD_B * m * n)
    return KernelWork(name, direction, float(groups * 2 * m * n * k), float(moved_B), float(seconds))


def _products(work: LayeredWork, shape: TrainedShape, plan: Plan, device: KernelDevice) -> Iterator[KernelWork]:
    """A layer's products forward, and the gradients of inputs and of trained weights; as a share of all layers."""
    backward = (OF_INPUTS,) if work.frozen else (OF_INPUTS, OF_WEIGHTS)
    for one, rows, groups in trained_products(shape, plan):
        element_B = _WORD_B if one.part == ROUTER else device.gemm_input_B
        for direction, orders in ((FORWARD, (RESULT,)), (BACKWARD, backward)):
            for order in orders:
                seconds = call_s(one, rows, groups, order, shape, device)
                call = _call(*edges(one, rows, order), groups, element_B, seconds, one.name, direction)
                yield call.times(float(one.share))


def _attention(
    shape: TrainedShape, plan: Plan, device: KernelDevice, stack: StackCoefficients
) -> tuple[KernelWork, KernelWork]:
    """Attention's own kernel, forward and backward: causal where it is fused, else with all scores stored."""
    forward_s, backward_s = attention_s(shape, plan, device.attending(stack), ring_calls(plan, stack))
    tokens, seen = plan.micro_batch_tokens, attention_heads(shape, plan.tp)
    keys = keys_seen(shape, shape.seq_len, causal=True) if shape.flash else shape.seq_len
    flops = float(4 * tokens * seen.heads * keys * seen.head_dim)
    scores = 0.0 if shape.flash else tokens * seen.heads * shape.seq_len
    moved_B = 2 * _WORD_B * tokens * (seen.heads + seen.kv_heads) * seen.head_dim
    return (
        KernelWork(ATTENTION, FORWARD, flops, float(moved_B + device.shared.unfused_forward_B * scores), float(forward_s)),
        KernelWork(
            ATTENTION,
            BACKWARD,
            flops * (BACKWARD_FLOPS if shape.flash else 2.0),
            float(2 * moved_B + device.shared.unfused_backward_B * scores),
            float(backward_s),
        ),
    )


def _head(work: LayeredWork, shape: TrainedShape, plan: Plan, device: KernelDevice) -> Iterator[KernelWork]:
    """Products of the output head of one micro-batch."""
    if not shape.vocab:
        return
    tokens, vocab = plan.micro_batch_tokens, shape.vocab / plan.tp
    gradients = [(tokens, shape.hidden, vocab)] + ([] if work.frozen else [(vocab, shape.hidden, tokens)])
    for direction, sizes in ((FORWARD, [(tokens, vocab, shape.hidden)]), (BACKWARD, gradients)):
        for size in sizes:
            seconds = head_product_s(*size, device)
            yield _call(*size, 1.0, _WORD_B, seconds, HEAD, direction).times(float(shape.head_passes))
