"""Passes of a model of which a part lies in the host's memory: no faster than that part arrives. Passes with drafts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from mlsysim.core.errors import InconsistentError
from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.prefix_cache import PrefixedDeployment, computed, prefixed
from mlsysim.lowering.serving_bound import BoundPasses
from mlsysim.lowering.serving_kernels import calibrated_passes
from mlsysim.lowering.work import inference_work
from mlsysim.physics.layer.attention import cached_tokens
from mlsysim.physics.numeric import Num, maximum, minimum
from mlsysim.physics.serving.drafts import DraftedPasses
from mlsysim.physics.serving.inference import InferenceWork, weights_read_B
from mlsysim.physics.serving.offload import beyond_s, joining_beyond_s, streamed_weights_s
from mlsysim.physics.serving.schedule import EnginePasses, Passes, PassesOver, Step


@dataclass(frozen=True, slots=True)
class OffloadedStep:
    """A decode step that waits ``waiting_s`` for the host."""

    alone: Step
    waiting_s: Num

    def parts(self) -> tuple[dict[str, float], str]:
        """Seconds by name, and what limits the step."""
        parts, binding = self.alone.parts()
        waiting_s = float(self.waiting_s)
        return {**parts, "host transfers beyond them": waiting_s}, "host transfers" if waiting_s > 0 else binding

    @property
    def total_s(self) -> Num:
        """The longer of computation and transfers."""
        return self.alone.total_s + self.waiting_s


@dataclass(frozen=True, slots=True)
class OffloadedPasses(PassesOver):
    """``whole``, were all of it on the accelerators.

    Attributes:
        work: of the model.
        setting: its ``offload`` is what lies in the host's memory.
        weights_B: all weights of one accelerator, wherever they are.
        hit: share of a prompt whose cache is there already.
    """

    work: InferenceWork
    setting: Deployment
    weights_B: float
    hit: float

    def decode(self, batch: Num, context: Num) -> OffloadedStep:
        """One token of ``batch`` sequences; the stages of a pipeline fetch their weights for each part of the batch."""
        step = self.whole.decode(batch, context)
        pp = float(self.setting.pp)
        micro = maximum(batch / pp, minimum(batch, 1.0))
        transferred_s = self._weights_s(micro, pp) + self._cache_s(batch, context)
        return OffloadedStep(step, beyond_s(step.total_s, transferred_s))

    def prefill_s(self, batch: Num, prompt: Num) -> Num:
        """The prompts of ``batch`` sequences; their cache leaves while weights arrive, in the link's other direction."""
        computed_s = self.whole.prefill_s(batch, prompt)
        pp = float(self.setting.pp)
        parts = minimum(pp, maximum(batch, 1.0))
        tokens = batch * prompt * (1 - self.hit) / parts
        arriving_s = self._weights_s(tokens, parts + pp - 1) + self._cache_s(batch, prompt * self.hit)
        leaving_s = self._cache_s(batch, prompt * (1 - self.hit))
        return computed_s + beyond_s(computed_s, maximum(arriving_s, leaving_s))

    def joining_s(self, step: Step, batch: Num, prompt: Num, beside: Num, hidden: Num) -> Num:
        """Seconds that one prompt adds to steps that it joins."""
        waits = cast("OffloadedStep", step)
        joined_s = self.whole.joining_s(waits.alone, batch, prompt, beside, hidden)
        return joining_beyond_s(joined_s, waits.waiting_s, 1 + beside / prompt)

    def _weights_s(self, tokens: Num, passes: Num) -> Num:
        """Seconds to fetch weights, of routed experts those that ``tokens`` touch; each chunk of a long pass fetches anew."""
        setting = self.setting
        if setting.stack is not None and setting.stack.has.chunk:
            passes = passes * maximum(tokens / setting.stack.has.chunk, 1.0)
        read = weights_read_B(self.work, tokens) / self.work.resident_B
        return streamed_weights_s(setting.offload.weights * self.weights_B * read, passes, setting.offload.link_Bps)

    def _cache_s(self, batch: Num, tokens: Num) -> Num:
        setting = self.setting
        reach = cached_tokens(setting.workload.layer_shape, float(tokens))
        return setting.offload.cache * batch * reach * self.work.kv_B / setting.kv_shards / setting.offload.link_Bps


def whole_passes(deployment: Deployment, work: InferenceWork) -> Passes:
    """The passes of a deployment, were no prompt cached and all of the model on its accelerators."""
    return BoundPasses.of(deployment, work) if deployment.stack is None else calibrated_passes(deployment)


def drafted(passes: Passes, deployment: Deployment) -> Passes:
    """``passes`` as they are, or in rounds where the deployment drafts.

    Raises:
        InconsistentError: passes whose rounds are not modelled, such as those with a part in the host's memory.
    """
    if not deployment.draft_len:
        return passes
    plain = passes.whole if isinstance(passes, PrefixedDeployment) else passes
    if deployment.offload or not (deployment.stack is None or isinstance(plain, EnginePasses)):
        raise InconsistentError("draft_len", deployment.draft_len, "0 with an offload or on a torus")
    proposing = None
    if deployment.draft is not None:
        proposer = replace(deployment, workload=deployment.draft, draft=None, draft_len=0)
        work = inference_work(proposer.workload, proposer.weights, proposer.cache)
        proposing = prefixed(whole_passes(proposer, work), proposer)
    layers = float(deployment.workload.layers)
    return DraftedPasses(passes, proposing, float(deployment.draft_len), deployment.context, layers)


def streamed_passes(whole: Passes, deployment: Deployment, work: InferenceWork, weights_B: float) -> Passes:
    """The ``whole`` passes without what the prefix cache has, and with the wait for what lies in the host's memory."""
    passes = prefixed(whole, deployment)
    if not deployment.offload:
        return passes
    return OffloadedPasses(passes, work, deployment, weights_B, 1 - computed(deployment)[0] / deployment.prompt)
