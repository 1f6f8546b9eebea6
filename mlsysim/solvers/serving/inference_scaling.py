"""More computation for an answer: several samples of it, or a longer way to it: ``InferenceScalingModel``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Unpack

from mlsysim.core.checks import needed, positive_quantity, strict_keywords, whole_number
from mlsysim.core.errors import InconsistentError
from mlsysim.core.units import Quantity, with_unit, with_units
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.options import DeploymentOptions
from mlsysim.models.types import TransformerWorkload
from mlsysim.physics.operations.sampling import pass_at_k
from mlsysim.solvers.result import Result
from mlsysim.solvers.serving.serving import ServingModel
from mlsysim.systems.types import Fleet, Node

_MOST_DRAWN = 1_000_000


@dataclass(frozen=True, kw_only=True)
class InferenceScalingResult(Result):
    """What an answer costs, and the chance that it is right where samples were judged.

    Attributes:
        pass_at_k: unbiased estimate of the chance that one of ``samples`` answers is right; None where none were judged.
        latency: time of a question by itself: one prefill of the prompt, and all samples decoded together.
        tokens: tokens generated for a question.
        accelerator_time: accelerators x time of a question.
        cost: of a question at ``price``; None without one.
        times_plain: ``accelerator_time`` over that of one sample without reasoning.
        samples: answers drawn for a question.
    """

    HEADLINE = ("pass_at_k", "latency", "tokens", "accelerator_time", "cost", "times_plain")

    pass_at_k: float | None
    latency: Quantity | None
    tokens: Quantity | None
    accelerator_time: Quantity | None
    cost: Quantity | None
    times_plain: float | None
    samples: int


class InferenceScalingModel:
    """Best of n, and long reasoning: their cost by ``ServingModel``, and pass@k of answers that somebody judged.

    Pass@k of one problem extrapolates to no other: over problems the chances differ, and (1 - p)^k of their mean is wrong.
    """

    @strict_keywords
    def solve(
        self,
        workload: TransformerWorkload | None = None,
        hardware: HardwareNode | Node | Fleet | None = None,
        *,
        samples: int = 1,
        reasoning_tokens: int = 0,
        output_len: int | None = None,
        drawn: int | None = None,
        correct: int | None = None,
        price: Quantity | str | None = None,
        **options: Unpack[DeploymentOptions],
    ) -> InferenceScalingResult:
        """The cost of a question's answer, its chance to be right, or both.

        Args:
            workload: a decoder; left out, only ``pass_at_k`` is told.
            hardware: one accelerator, a node or a fleet.
            samples: answers drawn for a question (k).
            reasoning_tokens: tokens before each answer.
            output_len: tokens of an answer.
            drawn: answers that were drawn and judged (n).
            correct: how many of them were right (c).
            price: of an accelerator, such as "2 USD/hour".
            **options: see ``DeploymentOptions``.

        Raises:
            InputError: an argument out of range, or a model without hardware or the other way round.

        Example:
            >>> round(InferenceScalingModel().solve(samples=10, drawn=200, correct=20).pass_at_k, 4)
            0.6602
            >>> from mlsysim import Hardware, Models
            >>> run = InferenceScalingModel().solve(
            ...     Models.Language.Llama3_8B, Hardware.Cloud.H100, input_len=512, output_len=128, samples=8,
            ...     reasoning_tokens=1024,
            ... )
            >>> run.tokens.m_as("count"), 8 < run.times_plain < 12
            (9216.0, True)
        """
        count = whole_number("samples", samples, maximum=_MOST_DRAWN)
        chance = _chance(count, drawn, correct)
        thought = whole_number("reasoning_tokens", reasoning_tokens, minimum=0)
        if workload is None and hardware is None:
            for name, value in {"output_len": output_len, "price": price, **options}.items():
                if value is not None:
                    raise InconsistentError(name, value, "nothing without a workload and hardware")
            return _told(count, needed("drawn", chance, "answers that were judged, or a workload and hardware"))
        model: Any = needed("workload", workload, "a decoder, beside hardware")
        system: Any = needed("hardware", hardware, "an accelerator, beside a workload")
        answer = whole_number("output_len", needed("output_len", output_len, "tokens of an answer"))
        asked: dict[str, Any] = dict(options)
        plain = ServingModel().solve(model, system, output_len=answer, **asked)
        together = ServingModel().solve(model, system, output_len=answer + thought, batch_size=count, **asked)
        prompt_s = float(plain.ttft.m_as("second"))
        decoding_s = float((together.request_latency - together.ttft).m_as("second"))
        seconds, alone_s = prompt_s + decoding_s, float(plain.request_latency.m_as("second"))
        accelerators = 1.0 if together.facts is None else together.facts.accelerators
        paid = None if price is None else positive_quantity("price", price, "USD/second")
        return InferenceScalingResult(
            solver="InferenceScalingModel",
            subject=f"{count} answers of {answer + thought} tokens by {together.subject.partition(',')[0]}",
            breakdown=with_units({"prompt": prompt_s, "answers": decoding_s}, "second"),
            diagnostics=("a question has the accelerators for itself; samples share its prompt",),
            **together.taken("basis", "reason", "binding", "coefficients"),
            pass_at_k=chance,
            latency=with_unit(seconds, "second"),
            tokens=with_unit(float(count * (answer + thought)), "count"),
            accelerator_time=with_unit(accelerators * seconds, "second"),
            cost=None if paid is None else with_unit(accelerators * seconds * paid, "USD"),
            times_plain=seconds / alone_s,
            samples=count,
        )


def _chance(samples: int, drawn: int | None, correct: int | None) -> float | None:
    if drawn is None and correct is None:
        return None
    number = whole_number("drawn", needed("drawn", drawn, "answers that were judged"), maximum=_MOST_DRAWN)
    right = whole_number("correct", needed("correct", correct, "how many of drawn were right"), minimum=0)
    if right > number:
        raise InconsistentError("correct", right, f"at most the {number} answers that were judged")
    if samples > number:
        raise InconsistentError(
            "samples", samples, f"at most the {number} answers that were judged: beyond them nothing is known"
        )
    return pass_at_k(number, right, samples)


def _told(samples: int, chance: float) -> InferenceScalingResult:
    of_a_model: dict[str, Any] = dict.fromkeys(("latency", "tokens", "accelerator_time", "cost", "times_plain"))
    return InferenceScalingResult(
        solver="InferenceScalingModel",
        subject=f"the best of {samples} answers",
        basis="identity",
        binding="samples",
        pass_at_k=chance,
        samples=samples,
        **of_a_model,
    )
