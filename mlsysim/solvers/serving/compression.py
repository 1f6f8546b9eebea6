"""Weights in fewer bytes: ``CompressionModel``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Unpack

from mlsysim.core.checks import instance, one_of, real_number, strict_keywords
from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.core.precision import bytes_per_element
from mlsysim.core.units import Quantity, with_unit, with_units
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.options import ServingOptions
from mlsysim.models.types import TransformerWorkload
from mlsysim.physics.operations.compression import masked_B, structured_B
from mlsysim.solvers.result import Result
from mlsysim.solvers.serving.serving import ServingModel
from mlsysim.systems.types import Fleet, Node

METHODS = ("quantization", "pruning", "n_m")


@dataclass(frozen=True, kw_only=True)
class CompressionResult(Result):
    """A deployment before and after compression; what has no predicted speed has None.

    Attributes:
        weights: bytes of the weights after compression.
        weights_before: bytes of the weights as they were.
        ratio: the one over the other.
        fits_before: whether the deployment fits without compression.
        itl: time of a decode step after compression; None of sparse weights, whose kernels are not modelled.
        itl_before: time of a decode step as it was.
        speedup: of the decode step; None with ``itl``.
        tokens_per_second: after compression.
        memory_per_accelerator: what each then holds.
    """

    HEADLINE = ("weights", "weights_before", "ratio", "speedup", "itl", "tokens_per_second", "memory_per_accelerator")

    weights: Quantity
    weights_before: Quantity
    ratio: float
    fits_before: bool
    itl: Quantity | None = None
    itl_before: Quantity
    speedup: float | None = None
    tokens_per_second: Quantity | None = None
    memory_per_accelerator: Quantity


class CompressionModel:
    """Bytes, fit and predicted speed of a number format or of zeros in the weights. What it does to answers it does not say.

    How accuracy falls with the bits is a table of each model and method: no first principle gives it.
    """

    @strict_keywords
    def solve(
        self,
        workload: TransformerWorkload,
        hardware: HardwareNode | Node | Fleet,
        *,
        method: str = "quantization",
        sparsity: float | None = None,
        pattern: str | None = None,
        **options: Unpack[ServingOptions],
    ) -> CompressionResult:
        """Compare a deployment with the same one of compressed weights.

        Args:
            workload: a transformer; before, its weights are in the format that it is published in.
            hardware: one accelerator, a node or a fleet.
            method: "quantization" (to ``weight_precision``, or to ``precision`` with its arithmetic), "pruning" (to
                ``sparsity``) or "n_m" (to ``pattern``).
            sparsity: share of the weights that are zeros, below 1; of pruning.
            pattern: values kept of how many, such as "2:4".
            **options: see ``ServingOptions``.

        Raises:
            InputError: an argument out of range, one that belongs to another method, or a format that is no narrower.

        Example:
            >>> from mlsysim import Hardware, Models
            >>> inputs = (Models.Language.Llama3_8B, Hardware.Cloud.H100)
            >>> four = CompressionModel().solve(*inputs, weight_precision="int4", input_len=1024)
            >>> f"{four.ratio:.2f} x smaller, {four.speedup:.2f} x faster"
            '3.88 x smaller, 3.78 x faster'
        """
        named = one_of("method", method, METHODS)
        instance("workload", workload, TransformerWorkload, "a transformer such as Models.Language.Llama3_8B")
        before_options: dict[str, Any] = {**options, "weight_precision": None, "precision": None}
        kept = _kept(named, sparsity, pattern, dict(options))
        before = ServingModel().solve(workload, hardware, **before_options)
        deployed = Deployment.of(workload, hardware, **before_options)
        before_B = float(before.weights.m_as("byte"))
        if kept is None:
            after = ServingModel().solve(workload, hardware, **options)
            after_B = float(after.weights.m_as("byte"))
            if not after_B < before_B:
                expected = f"a format narrower than the {deployed.weights} of {workload.name}"
                raise InconsistentError(
                    "weight_precision", options.get("weight_precision") or options.get("precision"), expected
                )
            reason, memory, notes = after.reason, after.memory_per_accelerator, after.diagnostics
        else:
            each_B = bytes_per_element(deployed.weights)
            zeros, of = kept
            elements = before_B / each_B
            after_B = masked_B(elements, each_B, zeros) if of is None else structured_B(elements, each_B, *of)
            ranks = deployed.ranks
            held_B = float(before.memory_per_accelerator.m_as("byte")) - (before_B - after_B) / ranks
            capacity_B = deployed.accelerator.memory_capacity_B
            memory = with_unit(max(0.0, held_B), "byte")
            reason = "" if held_B <= capacity_B else f"{held_B / 1e9:.3g} GB of the {capacity_B / 1e9:.3g} GB of an accelerator"
            notes = ("kernels of sparse weights are not modelled: no speed is predicted",)
            after = None
        speed = {} if after is None else after.taken("basis", "binding", "coefficients", "facts", "itl", "tokens_per_second")
        if after is not None:
            speed["speedup"] = float(before.itl.m_as("second")) / float(after.itl.m_as("second"))
        if reason:
            speed["binding"] = "memory capacity"
        return CompressionResult(
            solver="CompressionModel",
            subject=f"{workload.name}: {_told(named, options, kept)}, on {getattr(hardware, 'name', 'hardware')}",
            reason=reason,
            breakdown=with_units({"weights": after_B, "saved": before_B - after_B}, "byte"),
            diagnostics=(*notes, "what compression does to answers is not in this"),
            weights=with_unit(after_B, "byte"),
            weights_before=before.weights,
            ratio=before_B / after_B,
            fits_before=before.feasible,
            itl_before=before.itl,
            memory_per_accelerator=memory,
            **({"basis": before.basis, "binding": "bytes of weights"} | speed),
        )


def _kept(
    method: str, sparsity: float | None, pattern: str | None, options: dict[str, Any]
) -> tuple[float, tuple[int, int] | None] | None:
    """The share of zeros, and what is kept of how many places; None of quantization."""
    formats = [name for name in ("weight_precision", "precision") if options.get(name) is not None]
    if method == "quantization":
        for name, value in (("sparsity", sparsity), ("pattern", pattern)):
            if value is not None:
                raise InconsistentError(
                    name, value, f'nothing with method = "quantization", or another of {", ".join(METHODS)}'
                )
        if not formats:
            raise InputError("weight_precision", None, "the format of the compressed weights, such as fp8 or int4")
        return None
    if formats:
        raise InconsistentError(formats[0], options[formats[0]], f'nothing with method = "{method}": bytes of zeros are saved')
    if method == "pruning":
        if pattern is not None:
            raise InconsistentError("pattern", pattern, 'nothing with method = "pruning", which has no pattern')
        share = real_number("sparsity", sparsity, 0.0, above=True)
        if share >= 1:
            raise InputError("sparsity", sparsity, "a share below 1: some weights remain")
        return share, None
    n, m = _places(pattern)
    if sparsity is not None and real_number("sparsity", sparsity, 0.0, 1.0) != 1 - n / m:
        raise InconsistentError("sparsity", sparsity, f"{1 - n / m:g}, which pattern {n}:{m} is")
    return 1 - n / m, (n, m)


def _places(pattern: str | None) -> tuple[int, int]:
    kept, _, of = pattern.partition(":") if isinstance(pattern, str) else ("", "", "")
    if kept.isdecimal() and of.isdecimal() and len(of) <= 3 and len(kept) <= 3 and 0 < int(kept) < int(of):
        return int(kept), int(of)
    raise InputError("pattern", pattern, 'values kept of how many, such as "2:4"')


def _told(method: str, options: Any, kept: tuple[float, tuple[int, int] | None] | None) -> str:
    if kept is None:
        return f"weights in {options.get('weight_precision') or options.get('precision')}"
    zeros, of = kept
    return f"{100 * zeros:.3g} % zeros" + (f", {of[0]} kept of {of[1]}" if of else "") + f" ({method})"
