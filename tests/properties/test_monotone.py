"""More work never takes less time, whatever the model, the accelerator, the engine, the formats and the division."""

from __future__ import annotations

import numpy as np
from random_systems import ROUNDING, answer, serving_questions, tried_on

from mlsysim.lowering.deployment import Deployment
from mlsysim.physics.serving.torus import TorusDeployment
from mlsysim.solvers.serving.replica import ServingReplica

# Sizes around which kernels, tiles, protocols and caches change.
COUNTS = np.unique(np.concatenate([np.arange(1.0, 40.0), np.round(np.geomspace(40, 1100, 60)), [64.0, 65.0, 128.0, 129.0]]))
LENGTHS = np.unique(np.round(np.concatenate([np.geomspace(1, 40000, 60), [128.0, 129.0, 1024.0, 1025.0, 4096.0, 4097.0]])))


def never_falls(seconds):
    return bool(np.all(np.diff(seconds) >= -ROUNDING * seconds[1:])) and bool(np.all(np.isfinite(seconds)))


@tried_on(10, 2000, question=serving_questions())
def test_no_sequence_or_token_more_makes_a_pass_faster(question):
    """A decode step and a prefill by the sequences, by their length; a step with the prompts that join it."""
    model, hardware, arguments = question
    without = {**arguments, "output_len": None} if not model.causal else arguments
    passes = answer(lambda: ServingReplica.of(Deployment.of(model, hardware, **without))).whole_passes
    if not isinstance(passes, TorusDeployment) and passes.has.stage_tokens and arguments["pp_size"] > 1:
        return  # beyond so many tokens it cuts a batch into smaller parts, which fill the stages better
    if isinstance(passes, TorusDeployment):
        return  # its layout is the one that sends least, as in Pope et al. 2022, which is not always the fastest
    for length in (16.0, 1000.0):
        lengths = np.full_like(COUNTS, length)
        assert never_falls(passes.prefill_s(COUNTS, lengths))
        if model.causal:
            step = passes.decode(COUNTS, lengths)
            joined_s = passes.joining_s(step, COUNTS, lengths, COUNTS * length / 200, 0.5)
            assert never_falls(step.total_s)
            assert np.all(joined_s >= -ROUNDING * step.total_s), "a prompt never makes the step that it joins faster"
            assert never_falls(step.total_s + COUNTS / 200 * joined_s)
    for count in (1.0, 33.0):
        counts = np.full_like(LENGTHS, count)
        assert never_falls(passes.prefill_s(counts, LENGTHS))
        if model.causal:
            assert never_falls(passes.decode(counts, LENGTHS).total_s)
