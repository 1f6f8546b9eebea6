"""Prompts of which a part lies in the prefix cache: only the rest is computed, and attends to all of it.

Sources: Zheng et al., "SGLang", NeurIPS 2024 (reuse of shared prefixes); Kwon et al., "PagedAttention", SOSP 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.serving_bound import BoundPasses
from mlsysim.physics.layer.attention import cached_tokens, keys_seen
from mlsysim.physics.numeric import Num, maximum, minimum
from mlsysim.physics.serving.inference import prefill_s
from mlsysim.physics.serving.passes import even_groups
from mlsysim.physics.serving.schedule import EnginePasses, Passes, PassesOver, Step
from mlsysim.physics.serving.step_room import StepRoom
from mlsysim.physics.serving.torus import TorusDeployment


@dataclass(frozen=True, slots=True)
class PrefixedDeployment(PassesOver):
    """Calibrated passes of prompts of which a share ``hit`` is cached.

    Causal attention over P tokens is that within the cached part, that within the new one, and that of the new on the cached:
    the last is what the other two lack of the whole.
    """

    whole: EnginePasses | TorusDeployment
    hit: Num

    def prefill_s(self, batch: Num, prompt: Num) -> Num:
        """The new tokens of ``batch`` prompts."""
        return self.whole.prefill_s(batch, prompt * (1 - self.hit)) + self._across_s(batch, prompt)

    def joining_s(self, step: Step, batch: Num, prompt: Num, beside: Num, hidden: Num) -> Num:
        """Seconds that the new tokens of one prompt add to the steps that they join."""
        new, others = prompt * (1 - self.hit), beside * (1 - self.hit)
        joined_s = self.whole.joining_s(step, batch, new, others, hidden)
        return joined_s + self.whole.engine.interleave * self._across_s(1.0 / self._at_once(new, others), prompt)

    def _at_once(self, new: Num, beside: Num) -> Num:
        """Prompts that are attended to at once: each stage of a pipeline has its own, and each group of ranks with any."""
        if isinstance(self.whole, TorusDeployment):
            return self.whole.pp
        stages, longest = self.whole.shards.pp, minimum(new, self.whole.step_tokens)
        return stages * even_groups(self.whole, (longest + beside) / stages / longest, self.whole.step_tokens / longest)

    def _across_s(self, batch: Num, prompt: Num) -> Num:
        parts_s = self._attention_s(batch, prompt * self.hit) + self._attention_s(batch, prompt * (1 - self.hit))
        return maximum(self._attention_s(batch, prompt) - parts_s, 0.0)

    def _attention_s(self, batch: Num, prompt: Num) -> Num:
        return self.whole.prefill(batch, prompt).attention_s


@dataclass(frozen=True, slots=True)
class PrefixedBound(PassesOver):
    """Passes at the speed of light, with ``new`` uncached tokens of a prompt, each of which sees ``keys`` on average."""

    whole: BoundPasses
    new: float
    keys: float

    def prefill_s(self, batch: Num, prompt: Num) -> Num:
        """The new tokens of ``batch`` prompts."""
        return prefill_s(self.whole.work, batch, self.new, self.keys, self.whole.machine, self._cached)

    def joining_s(self, step: Step, batch: Num, prompt: Num, beside: Num, hidden: Num) -> Num:
        """Seconds that the new tokens of one prompt add to the decode ``step`` of ``batch`` sequences."""
        prompts = 1 + beside / prompt
        return self.whole.prompts_beside_s(step, batch, prompts, self.new, self.keys, self._cached) / prompts

    @property
    def _cached(self) -> float:
        """Tokens of a prompt whose keys and values are read from the cache."""
        return float(cached_tokens(self.whole.setting.workload.layer_shape, self.whole.setting.prompt - self.new))


def prefixed(passes: Passes, deployment: Deployment) -> Passes:
    """``passes`` of prompts of which the prefix cache has the deployment's share; at least one token is always computed."""
    new, keys = computed(deployment)
    if new == deployment.prompt:
        return passes
    if isinstance(passes, (EnginePasses, TorusDeployment)):
        return PrefixedDeployment(passes, 1 - new / deployment.prompt)
    if isinstance(passes, BoundPasses):
        return PrefixedBound(passes, new, keys)
    raise TypeError(type(passes).__name__)


def computed(deployment: Deployment) -> tuple[float, float]:
    """Tokens of a prompt that are computed, whole and at least one, and the keys that each sees on average."""
    prompt = deployment.prompt
    cached = float(int(minimum(prompt * deployment.prefix_hit + _ROUNDING, prompt - 1)))
    if cached <= 0:
        return prompt, deployment.keys
    new = prompt - cached
    seen = float(keys_seen(deployment.workload.layer_shape, float(int(cached)), causal=True))
    return new, (deployment.keys * prompt - seen * cached) / new


def step_room(deployment: Deployment, beams: int = 1) -> StepRoom:
    """The room of a step in tokens of prompts, of which those that the prefix cache has take none.

    Groups of ranks that attend for sequences of their own start prompts each. A request decodes ``beams`` sequences, and with
    each step checks what was drafted for them.
    """
    new_share = computed(deployment)[0] / deployment.prompt
    return StepRoom(
        tokens=inf if deployment.stack is None else deployment.stack.step_tokens / new_share,
        groups=float(deployment.attention_dp),
        sequence_tokens=beams * (deployment.draft_len + 1) / new_share,
        prompt=deployment.prompt,
        output=deployment.rounds_each,
    )


def conversation(prompt: int, output: int, shared: int, turns: int) -> tuple[int, float]:
    """Tokens of a prompt with the turns before it, mean over all turns, and the share of them that the cache has.

    Turn k holds k - 1 questions and answers: prompt + (k - 1)(prompt - shared + output) tokens, of which those of its own
    question are new.

    Args:
        prompt: tokens of the first turn's prompt.
        output: tokens of an answer.
        shared: tokens that begin all prompts, which the cache has from the first turn on.
        turns: requests of a conversation.

    Example:
        >>> conversation(500, 200, 100, 1), conversation(500, 200, 100, 3)
        ((500, 0.2), (1100, 0.6363636363636364))
    """
    question = prompt - shared
    mean = round(prompt + (turns - 1) / 2 * (question + output))
    return mean, (mean - question) / mean


# A share that a caller divided out is the whole number of tokens it stands for.
_ROUNDING = 1e-6
