"""The kernels of a training step one by one, with their arithmetic and traffic: what a roofline shows.

Source: Williams, Waterman, Patterson, "Roofline", CACM 2009.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from mlsysim.physics.kernels.attention import BACKWARD_FLOPS, attended_keys
from mlsysim.physics.kernels.roofline import (
    ATTENTION,
    COMPRESSION,
    DOWN,
    ELEMENT_WISE,
    EXPANSION,
    EXPERTS_DOWN,
    EXPERTS_UP,
    HEAD,
    OUTPUT,
    QKV,
    ROUTING,
    SHARED_DOWN,
    SHARED_UP,
    UP,
    KernelWork,
)
from mlsysim.physics.layer.experts import expert_backward, expert_forward
from mlsysim.physics.layer.latent_attention import latent_head_dim
from mlsysim.physics.layer.work import LayeredWork
from mlsysim.physics.machine import Machine
from mlsysim.physics.numeric import Num
from mlsysim.physics.plan import Plan
from mlsysim.physics.training.kernel_step import attention_s, head_product_s, layer_products, layer_times, product_s
from mlsysim.physics.training.step_inputs import KernelDevice, LayerShape, StackCoefficients

FORWARD, BACKWARD = "forward", "backward"
_WORD_B = 2.0
_PLAIN = (QKV, OUTPUT)
_LATENT = (COMPRESSION, EXPANSION, COMPRESSION, EXPANSION, OUTPUT)
_EXPERTS = (EXPERTS_UP, EXPERTS_DOWN, SHARED_UP, SHARED_DOWN)


def step_kernels(
    work: LayeredWork, shape: LayerShape, plan: Plan, machine: Machine, device: KernelDevice, stack: StackCoefficients
) -> tuple[KernelWork, ...]:
    """All calls of each kernel in the forward and backward passes of a step, on a rank of mean load; nothing repeated.

    Element-wise passes, the loss among them, are what the device computes beyond products and attention; the host is left out.
    """
    on_device = layer_times(work, shape, plan, machine, device, replace(stack, host_layer_s=0.0, host_expert_s=0.0))
    calls: dict[tuple[str, str], KernelWork] = {}
    for one in (*_dense(work, shape, plan, device), *_experts(shape, plan, device), *_attention(shape, plan, device, stack)):
        key = (one.name, one.direction)
        calls[key] = one if key not in calls else calls[key].beside(one)
    layer, head = list(calls.values()), list(_head(work, shape, plan, device))
    layers, passes = float(work.layers / plan.pp), float(plan.micro_batches)
    rest_s = float(on_device.forward_s + on_device.backward_s) - sum(one.seconds for one in layer)
    loss_s = float(on_device.head_s) - sum(one.seconds for one in head)
    rest = KernelWork(ELEMENT_WISE, "", 0.0, 0.0, passes * (layers * rest_s + loss_s / float(plan.pp)))
    told = [one.times(passes * layers) for one in layer] + [one.times(passes / float(plan.pp)) for one in head] + [rest]
    return tuple(one for one in told if one.seconds > 0)


def _call(m: Num, n: Num, k: Num, groups: Num, element_B: float, seconds: Num, name: str, direction: str) -> KernelWork:
    moved_B = groups * (element_B * (m * k + n * k) + _WORD_B * m * n)
    return KernelWork(name, direction, float(groups * 2 * m * n * k), float(moved_B), float(seconds))


def _dense(work: LayeredWork, shape: LayerShape, plan: Plan, device: KernelDevice) -> Iterator[KernelWork]:
    """Products of attention and of dense feed-forward blocks: forward, and the gradients of inputs and of trained weights."""
    tokens, element_B = plan.micro_batch_tokens, device.gemm_input_B
    names = (*_PLAIN, *(_LATENT if shape.latent.used else ()), UP, DOWN)
    for name, (share, n, k) in zip(names, layer_products(shape, plan), strict=True):
        gradients = [(tokens, k, n)] if work.frozen else [(tokens, k, n), (n, k, tokens)]
        for direction, sizes in ((FORWARD, [(tokens, n, k)]), (BACKWARD, gradients)):
            for size in sizes:
                seconds = product_s(*size, device)
                yield _call(*size, 1.0, element_B, seconds, name, direction).times(float(share))


def _experts(shape: LayerShape, plan: Plan, device: KernelDevice) -> list[KernelWork]:
    """Products of the experts of a layer that has them, and of its routing, as a share of all layers."""
    if not shape.routed.layers:
        return []
    calls: list[KernelWork] = []
    for direction, one_pass, each in ((FORWARD, expert_forward, 1), (BACKWARD, expert_backward, 2)):
        names = iter([name for name in _EXPERTS for _ in range(each)])

        def product(direction: str, names: Iterator[str], m: Num, n: Num, k: Num, groups: Num) -> Num:
            seconds = product_s(m, n, k, device, groups)
            calls.append(_call(m, n, k, groups, device.gemm_input_B, seconds, next(names), direction))
            return seconds

        def routing(direction: str, m: Num, n: Num, k: Num, groups: Num) -> Num:
            seconds = head_product_s(m, n, k, device, groups)
            calls.append(_call(m, n, k, groups, _WORD_B, seconds, ROUTING, direction))
            return seconds

        calls_of = partial(product, direction, names), partial(routing, direction)
        one_pass(shape.routed, shape.hidden, plan, *calls_of, quantised=device.gemm_input_B < _WORD_B)
    shared = (SHARED_UP, SHARED_DOWN)
    return [one.times(float(shape.routed.layers)) for one in calls if shape.routed.shared_ffn or one.name not in shared]


def _attention(shape: LayerShape, plan: Plan, device: KernelDevice, stack: StackCoefficients) -> tuple[KernelWork, KernelWork]:
    """Attention's own kernel, forward and backward: causal where it is fused, else with all scores stored."""
    tuned = replace(device, attention=device.attention.at_rate(stack.attention_rate))
    forward_s, backward_s = attention_s(shape, plan, tuned)
    tokens, heads = plan.micro_batch_tokens, shape.heads / plan.tp
    head_dim = latent_head_dim(shape.latent) if shape.latent.used else shape.head_dim
    near, far = attended_keys(shape.seq_len, shape.window), attended_keys(shape.seq_len)
    keys = shape.windowed * near + (1 - shape.windowed) * far if shape.flash else shape.seq_len
    flops = float(4 * tokens * heads * keys * head_dim)
    scores = 0.0 if shape.flash else tokens * heads * shape.seq_len
    moved_B = _WORD_B * tokens * (2 * heads * head_dim + 2 * shape.key_width / plan.tp)
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


def _head(work: LayeredWork, shape: LayerShape, plan: Plan, device: KernelDevice) -> Iterator[KernelWork]:
    """Products of the output head of one micro-batch."""
    if not shape.vocab:
        return
    tokens, vocab = plan.micro_batch_tokens, shape.vocab / plan.tp
    gradients = [(tokens, shape.hidden, vocab)] + ([] if work.frozen else [(vocab, shape.hidden, tokens)])
    for direction, sizes in ((FORWARD, [(tokens, vocab, shape.hidden)]), (BACKWARD, gradients)):
        calls = [_call(*size, 1.0, _WORD_B, head_product_s(*size, device), HEAD, direction) for size in sizes]
        both = calls[0] if len(calls) == 1 else calls[0].beside(calls[1])
        yield both.times(float(shape.head_passes))
