"""From typed workloads, accelerators and number formats to the plain numbers of a calibrated serving pass."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any, cast

from mlsysim.calibration import attention, collectives, gemm
from mlsysim.calibration import siblings as stated
from mlsysim.calibration.attention import decode_kernel, prefill_kernel
from mlsysim.calibration.collectives import collective_coefficients, fabric_coefficients, link_behind_Bps
from mlsysim.calibration.engines import Engine, EngineDevice, engine_device
from mlsysim.calibration.gemm import FORMATS, WEIGHT_ONLY, as_engines_unpack, gemm_kernel, measured_formats, weight_only_kind
from mlsysim.calibration.shared import shared_coefficients
from mlsysim.calibration.shared_kernels import shared_constants, shared_names
from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.core.identity_cache import identity_cache
from mlsysim.core.precision import bytes_per_element, number_format
from mlsysim.hardware.registry import Hardware
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.work import served_shape
from mlsysim.physics.kernels.alpha_beta import distinct_targets
from mlsysim.physics.kernels.attention import AttentionDevice, DecodeKernel
from mlsysim.physics.kernels.gemm import GemmKernel, SharedGemm
from mlsysim.physics.numeric import deviations_of_largest
from mlsysim.physics.serving.deployment import WORD_B, EngineKernels, Product, ServingKernels, Shards, SharedServing
from mlsysim.physics.serving.expert_ranks import token_B
from mlsysim.physics.serving.schedule import EnginePasses
from mlsysim.physics.serving.torus import TorusDeployment
from mlsysim.physics.serving.torus_partition import Torus, padded_heads, torus_axes
from mlsysim.systems.fleets import usual_node

# 32-bit products run on the 16-bit kernels' coefficients, at their own peak and width.
_WIDE = ("fp32", "tf32")
# Bytes of scales beside an 8-bit element that is dispatched to an expert: 32 bits for 128 (DeepEP, docs/legacy.md).
_DISPATCH_SCALE_B = 4 / 128
# Measured products whose activations kernels of their own quantise.
_SCALED = ("nvfp4", "sq")
# The format whose experts some engines multiply by kernels of their own, with a time a layer of its own.
_BLOCKS = "fp8_block"
_LINE_RATE_Bps = 25e9


@dataclass(frozen=True, slots=True)
class KernelFormats:
    """Number formats of a deployment: of the arithmetic, of weights in memory, of the cache, of routed experts in memory."""

    precision: str
    weights: str
    cache: str
    experts: str = ""

    @classmethod
    def of(cls, setting: Deployment) -> KernelFormats:
        """The formats of a deployment; experts are named where theirs is not that of the other weights."""
        experts = "" if setting.experts == setting.weights else setting.experts
        return cls(setting.arithmetic, setting.weights, setting.cache, experts)


def serving_kernels(
    accelerator: HardwareNode,
    formats: KernelFormats,
    nic_Bps: float = _LINE_RATE_Bps,
    device: EngineDevice | None = None,
    has: EngineKernels | None = None,
    link_Bps: float = math.inf,
) -> ServingKernels:
    """The fitted kernels of ``accelerator`` at ``formats``, at its own datasheet's rates.

    ``has``: of an engine that brings some of its own. A fit brings a ``device`` of its own. ``link_Bps``: of an accelerator
    within its node, one direction; infinite where none is used.

    Raises:
        UnknownNameError: no kernels stand for it.
        InconsistentError: the registry does not say how many multiprocessors it has.
    """
    device = device or engine_device(accelerator.name)
    units = stated.own_fact(device.gemm, "matrix_units", cores := accelerator.compute.multiprocessors)
    if units is None:
        raise InconsistentError("accelerator", accelerator.name, "one with multiprocessors: kernels need them")
    has, shared = has or EngineKernels(), shared_constants(SharedServing)
    own = has.own_products
    arithmetic = number_format(formats.precision).arithmetic_on(accelerator.compute.precision_flops)
    wide, integer = arithmetic in _WIDE, arithmetic == "int8"
    output_B = 4.0 if wide else has.integer_output_B if integer else 2.0
    if own:
        head = _lent_kernel(device)
        layer = Product(head, 2.0, bytes_per_element(formats.weights), _rate16(accelerator, sums=True), output_B)
        experts = replace(layer, weight_B=bytes_per_element(formats.experts)) if formats.experts else None
    else:
        head = _head_kernel(device)
        layer = _vendor_product(accelerator, formats.precision, formats.weights, device, output_B)
        experts = _vendor_product(accelerator, formats.experts, formats.experts, device, output_B) if formats.experts else None
    memory_Bps = accelerator.memory_bandwidth_Bps * (1.0 if own else device.memory_share)
    own_memory_share = device.own_memory_share if own else 1.0
    multiplied = own and _multiplies_integers(accelerator, formats, has)
    unpacks_cache = bool(has.narrow_cache_on) and device.name not in has.narrow_cache_on
    dispatched_B = min(WORD_B, (experts or layer).input_B)
    peak = layer.peak_flops_per_s
    peak16 = peak if wide or own else accelerator.rate_flops_per_s("fp16")
    score_peak = peak if integer and has.integer_flash else peak16
    flash, array = prefill_kernel(device.attention), stated.fact(device.attention, "array", 1.0)
    links = collective_coefficients(device.collectives)
    links = replace(links, **cast("dict[str, Any]", device.link)) if device.link else links
    if link_Bps < math.inf:
        links = links.on_link(link_Bps / _link_behind_Bps(accelerator.name, device.collectives, bool(device.link)))
    links = replace(
        links,
        bandwidth_Bps=links.bandwidth_Bps * device.link_share,
        pair_bandwidth_Bps=links.pair_bandwidth_Bps * device.link_share,
    )
    return ServingKernels(
        gemm=layer.kernel,
        gemm_peak_flops_per_s=peak,
        input_B=layer.input_B,
        weight_B=layer.weight_B,
        output_B=output_B,
        experts=experts,
        lends=own and device.lends,
        element_B=2.0 if own else 4.0 if wide else has.integer_element_B if integer else 2.0,
        scales=not own and _product_format(accelerator, formats.precision, formats.weights, device.gemm)[0] in _SCALED,
        head_gemm=head,
        head_peak_flops_per_s=peak16,
        head_weight_B=layer.weight_B if own else 4.0 if wide else 2.0,
        prefill=replace(flash, floor_s=0.0, matmul_efficiency=flash.matmul_efficiency * device.attention_share),
        decode=_decode_kernel(device.attention, array),
        attention=AttentionDevice(score_peak, memory_Bps * own_memory_share, float(cores or units), accelerator.cache_B, array),
        # A narrow cache that attention unpacks first takes as long to read as one of 16 bits.
        kv_B=max(bytes_per_element(formats.cache), WORD_B if unpacks_cache else 0.0),
        collectives=links,
        crossing_share=device.crossing_share,
        fabric=fabric_coefficients("ib_ndr"),
        nic_Bps=nic_Bps,
        memory_Bps=memory_Bps,
        multiprocessors=float(units),
        cache_B=accelerator.cache_B,
        own_peak_flops_per_s=accelerator.rate_flops_per_s("int8") if multiplied else _rate16(accelerator),
        own_compute_share=device.clock if multiplied else min(device.own_compute_share, 1.0),
        own_memory_share=own_memory_share,
        core_clock=_core_clock(accelerator, device.fp32_lanes, float(units), shared.core_clock_Hz),
        streaming=float(shared_coefficients().streaming),
        shared=shared,
        byte_experts=dispatched_B == 1,
        block_experts=dispatched_B == 1 and (formats.experts or formats.weights) == _BLOCKS,
        dispatch_B=dispatched_B + (_DISPATCH_SCALE_B if dispatched_B == 1 else 0.0),
    )


@functools.cache
def _link_behind_Bps(accelerator: str, collectives: str, own_link: bool) -> float:
    """The link that a device's coefficients of collectives stand for: where they are its own, that of its usual node."""
    return usual_node(Hardware.get(accelerator)).intra_bandwidth_Bps if own_link else link_behind_Bps(collectives)


def _lent_kernel(device: EngineDevice) -> GemmKernel:
    """The vendor's 16-bit kernel that an engine with products of its own calls where it has no better one."""
    if not device.lends:
        return GemmKernel(1.0, 0.0, 1.0, 1.0, 0.0, shared_constants(SharedGemm))  # never evaluated but for what all share
    kernel = gemm_kernel(device.gemm)
    return replace(kernel, efficiency=kernel.efficiency * device.own_compute_share, launch_s=0.0)


def _multiplies_integers(accelerator: HardwareNode, formats: KernelFormats, has: EngineKernels) -> bool:
    """Whether an engine multiplies narrow weights as they are; what its kernels reach of the integer peak is its own share."""
    own = has.own_rows > 0 and not has.unpacks and bytes_per_element(formats.experts or formats.weights) < WORD_B
    return own and "int8" in accelerator.compute.precision_flops


def _rate16(accelerator: HardwareNode, *, sums: bool = False) -> float:
    """The peak of an engine's own products of 16 bits, summed in as many too: slower cores have their 32 bits."""
    rate32 = accelerator.rate_flops_per_s("fp32") if "fp32" in accelerator.compute.precision_flops else 0.0
    return max(accelerator.fp16_sum_flops_per_s if sums else accelerator.rate_flops_per_s("fp16"), rate32)


def peak_flops_per_s(setting: Deployment) -> float:
    """Rate of one accelerator that the setting's arithmetic cannot pass; an engine's own products may sum in 16 bits or 8."""
    device, found = setting.accelerator, setting.stack
    rate = device.rate_flops_per_s(setting.rated)
    if found is None or not found.has.own_products:
        return rate
    formats = KernelFormats.of(setting)
    integers = device.rate_flops_per_s("int8") if _multiplies_integers(device, formats, found.has) else 0.0
    return max(rate, _rate16(device, sums=True), integers)


def _decode_kernel(device: str, array: float) -> DecodeKernel:
    """Launches follow each other; a systolic array takes all query heads of a key head at once, and has no thread blocks.

    No keys are in the last-level cache, unlike a benchmark's: between two steps of a server come all other layers' weights.
    """
    kernel = replace(decode_kernel(device), floor_s=0.0, ramp_s=0.0, l2_share=0.0)
    if array == 1:
        return kernel
    return replace(kernel, block_s=0.0, shared=replace(kernel.shared, largest_group=float("inf")))


def _head_kernel(device: EngineDevice) -> GemmKernel:
    """The 16-bit kernel of the output head, which is launched behind the kernel before."""
    if not device.gemm:
        return _lent_kernel(device)  # never evaluated: a layer's products are refused
    head = gemm_kernel(device.gemm)
    return replace(head, efficiency=head.efficiency * device.compute_share, launch_s=0.0)


def _vendor_product(accelerator: HardwareNode, precision: str, weights: str, device: EngineDevice, output_B: float) -> Product:
    """A layer's product at these formats: its kernel, the bytes of its elements, its peak.

    What a lone call waits for its launch is no part of a layer's kernels, which follow each other: the engine's time per layer
    has what is left of it. Engines also quantise within the kernel before, which the benchmark does not.
    """
    if not device.gemm:
        expected = "one whose matrix products were measured: only engines with kernels of their own (llama.cpp) run on it here"
        raise InputError("accelerator", accelerator.name, expected)
    name, peak, input_B = _product_format(accelerator, precision, weights, device.gemm)
    product, wide = gemm_kernel(device.gemm, name), gemm_kernel(device.gemm)
    arithmetic = number_format(precision).arithmetic_on(accelerator.compute.precision_flops)
    share = device.format_share(arithmetic)
    limited, clock = device.sustained_share < 1, device.kernel_clock
    product = replace(
        product,
        efficiency=product.efficiency * device.compute_share * (1.0 if limited else share),
        sustained=min(1.0, device.sustained_share * share) if limited else product.efficiency * clock if clock < 1 else 1.0,
        launch_s=0.0,
        quantise_sweeps=0.0,
    )
    if arithmetic in _WIDE:
        # A tile's fixed time counts fewer elements of k where each takes longer.
        product = replace(product, prologue_k=product.prologue_k * (peak / accelerator.rate_flops_per_s("fp16")))
    if arithmetic == "tf32":
        product = replace(product, large_tiles=True, most_splits=1.0)
    if name == "nvfp4":
        # They also choose among 4-bit kernels by shape; the benchmark ran one that cannot split k and stalls when k is long.
        product = replace(product, step_s=0.0, most_splits=wide.most_splits)
    if name in WEIGHT_ONLY:
        cores = accelerator.rate_flops_per_s("fp32") if "fp32" in accelerator.compute.precision_flops else 0.0
        own_share = device.own_memory_share if not device.fp32_lanes else 0.0
        product = as_engines_unpack(product, wide, own_share, cores)
    return Product(product, input_B, bytes_per_element(weights), peak, output_B)


def _core_clock(accelerator: HardwareNode, fp32_lanes: float, units: float, usual_Hz: float) -> float:
    """The clock of its cores over the usual one, from what the 32-bit lanes reach; infinite where cores limit nothing."""
    if not fp32_lanes:
        return math.inf
    return accelerator.rate_flops_per_s("fp32") / (2 * fp32_lanes * units) / usual_Hz


def _product_format(accelerator: HardwareNode, precision: str, weights: str, measured: str) -> tuple[str, float, float]:
    """The measured products that a layer's run as, their peak, and bytes of an element of their inputs.

    Narrow weights that the accelerator does not multiply as they are, or that 16-bit arithmetic was asked for, are unpacked; a
    systolic array has no kernel of its own for that.
    """
    stored = number_format(precision)
    arithmetic = stored.arithmetic_on(accelerator.compute.precision_flops)
    if arithmetic in _WIDE:
        return "bfloat16", accelerator.rate_flops_per_s(arithmetic), 4.0
    if number_format(arithmetic).bytes >= WORD_B:
        unpacked = bytes_per_element(weights) < WORD_B and stated.fact(measured, "array", 1.0) == 1
        kind = weight_only_kind(bytes_per_element(weights)) if unpacked else "bfloat16"
        return kind, accelerator.rate_flops_per_s("bf16"), WORD_B
    peak, known = accelerator.rate_flops_per_s(arithmetic), measured_formats(measured)
    name = next((kind for kind in (stored.kernel, "fp8") if kind in known), "bfloat16")
    return name, peak, FORMATS[stored.kernel].input_B if stored.kernel else 1.0


def network_Bps(setting: Deployment) -> float:
    """Between nodes; within one, what would be if there were more."""
    return setting.network_Bps if setting.ranks > setting.per_node else _LINE_RATE_Bps


@identity_cache()
def _kept_kernels(
    accelerator: HardwareNode, formats: KernelFormats, nic_Bps: float, has: EngineKernels, link_Bps: float
) -> ServingKernels:
    """Looking kernels up takes longer than a step: questions on one accelerator share them."""
    return serving_kernels(accelerator, formats, nic_Bps, has=has, link_Bps=link_Bps)


def engine_kernels(served_by: Engine, accelerator: HardwareNode, formats: KernelFormats, causal: bool) -> EngineKernels:
    """The kernels that an engine has on this accelerator at these formats: fused attention takes 16 bits or less.

    Example:
        >>> from mlsysim.calibration.engines import engine
        >>> from mlsysim.hardware.registry import Hardware
        >>> ft, v100 = engine("fastertransformer-bert"), Hardware.get("v100_sxm2_16gb")
        >>> engine_kernels(ft, v100, KernelFormats("fp16", "fp16", "fp16"), causal=False).flash_prefill
        False
    """
    has = served_by.has
    none_here = bool(has.no_flash_on) and engine_device(accelerator.name).name in has.no_flash_on
    fused = has.flash_prefill and formats.precision not in _WIDE and not none_here
    return has if (causal, fused) == (has.causal, has.flash_prefill) else replace(has, causal=causal, flash_prefill=fused)


def calibrated_passes(setting: Deployment) -> EnginePasses | TorusDeployment:
    """The passes of a setting's engine."""
    engine = setting.stack
    if engine is None:
        raise InconsistentError("stack", None, "an engine: passes without one are bounds")
    formats = KernelFormats.of(setting)
    shape = served_shape(setting.workload)
    kernels = _kept_kernels(setting.accelerator, formats, network_Bps(setting), engine.has, setting.link_Bps)
    has = engine_kernels(engine, setting.accelerator, formats, setting.workload.causal)
    if has.torus:
        return TorusDeployment(
            shape=replace(shape, heads=padded_heads(float(shape.heads), setting.tp)),  # empty heads even out the last chip's
            torus=_torus(setting, kernels),
            pp=float(setting.pp),
            by_sequence=setting.attention_dp > 1,
            kernels=kernels,
            engine=engine.coefficients,
            has=has,
            step_tokens=engine.step_tokens,
        )
    return EnginePasses(
        shape=shape,
        shards=_shards(setting),
        kernels=kernels,
        engine=engine.coefficients,
        has=has,
        # vLLM 0.12 to 0.19, vllm/config/vllm.py:1141: graphs for twice as many tokens as sequences decode together, or fewer.
        graph_tokens=min(2 * engine.most_sequences, has.graph_tokens),
        step_tokens=engine.step_tokens,
        padding=setting.padded / setting.prompt,
    )


def _shards(setting: Deployment) -> Shards:
    """The division of the model; nodes hold as many of its ranks as there are."""
    shared, redundant = shared_constants(SharedServing), setting.expert_plan.redundant
    return Shards(
        tp=float(setting.tp),
        pp=float(setting.pp),
        node=float(setting.per_node),
        attention=float(setting.attention_ranks),
        ep=float(setting.expert_plan.ep),
        redundant=float(redundant),
        uneven=shared.placed_spread if redundant else 0.0,
        deviations=deviations_of_largest(setting.expert_plan.ep),
        group_deviations=deviations_of_largest(setting.attention_dp),
        imbalance=setting.expert_plan.imbalance,
        overlapped=float(setting.expert_plan.overlapped),
    )


def _torus(setting: Deployment, kernels: ServingKernels) -> Torus:
    """The slice that shares a layer; a switch is one axis, whose ring is closed."""
    device, links = engine_device(setting.accelerator.name).collectives, kernels.collectives
    axes = int(stated.fact(device, "torus_axes", 1.0))
    return Torus(
        axes=torus_axes(setting.tp, axes),
        link_Bps=links.bandwidth_Bps,
        hop_s=links.simple_step_s,
        launch_s=links.launch_s,
        closed=axes == 1 or setting.tp % int(stated.fact(device, "torus_cube", 1.0)) == 0,
    )


def exchanged_B(setting: Deployment) -> tuple[float, float]:
    """Bytes of all copies of one token that a decode step sends to the experts of one layer, and back; none are sent: 0.

    Without an engine each rank with any of a token's experts is sent one copy, in 16 bits.
    """
    ep = setting.expert_plan.ep
    if ep == 1 or setting.attention_dp == 1:
        return 0.0, 0.0
    if setting.stack is None:
        moe = setting.workload.moe
        copies = float(distinct_targets(float(ep), float(moe.experts_per_token))) if moe else 0.0
        return (copies * WORD_B * setting.workload.hidden_dim,) * 2
    passes = calibrated_passes(setting)
    return (0.0, 0.0) if isinstance(passes, TorusDeployment) else token_B(passes)


def coefficients_used(setting: Deployment) -> tuple[str, ...]:
    """Names of the fitted coefficients behind an answer; none without an engine."""
    if setting.stack is None:
        return ()
    formats, own_products = KernelFormats.of(setting), setting.stack.has.own_products
    return _coefficient_names(setting.accelerator, own_products, formats, setting.tp > 1) + setting.stack.fitted


@identity_cache()
def _coefficient_names(accelerator: HardwareNode, own_products: bool, formats: KernelFormats, reduces: bool) -> tuple[str, ...]:
    device = engine_device(accelerator.name)
    if own_products:
        return (*shared_names("serving"), *device.fitted)
    parts = [(formats.precision, formats.weights)]
    if formats.experts:
        parts.append((formats.experts, formats.experts))
    gemm_formats = [_product_format(accelerator, *written, device.gemm)[0] for written in parts]
    names = list(dict.fromkeys(name for fmt in ("bfloat16", *gemm_formats) for name in gemm.fitted_names(device.gemm, fmt)))
    names += [*attention.fitted_names("prefill", device.attention), *attention.fitted_names("decode", device.attention)]
    if reduces:
        names += collectives.fitted_names("device", device.collectives)
    return (*shared_names("serving"), *names, *device.fitted)
