"""What the search for replicas leaves out without solving it: nothing that would keep the limits."""

import pytest
from test_queueing import H100, LLAMA

from mlsysim.lowering.arrivals import Limits, paces
from mlsysim.lowering.deployment import Deployment
from mlsysim.solvers.serving.fewest_replicas import held, hopeless


@pytest.fixture(scope="module", params=[1, 20], ids="{} tokens".format)
def pace(request):
    asked = {"seq_len": 30, "output_len": request.param, "stack": "sglang-2025", "schedule": "continuous"}
    return paces(Deployment.of(LLAMA, H100, **asked), 128)


@pytest.mark.parametrize("share", [0.5, 0.99])
@pytest.mark.parametrize("times", [1.6, 2.2, 3.0])
def test_what_is_hopeless_does_not_keep_the_limits(pace, share, times):
    """With no number of places that is left out do the solved queues keep some times a lone request's first token."""
    limits = Limits(share, times * pace.alone_s, float("inf"), float("inf"))
    for part in (0.05, 0.2, 0.5, 0.8, 0.95):
        arrival_per_s = part * pace.best_per_s
        left_out = hopeless(pace, limits, arrival_per_s)
        kept = [held(pace.with_places(places), limits, arrival_per_s) for places in (1, 2, 4, 16, 64, 128)]
        for places, seen in zip((1, 2, 4, 16, 64, 128), kept, strict=True):
            assert seen is None or not left_out[places - 1]


def test_late_first_tokens_are_left_out(pace):
    """A limit that only a lone request keeps is hopeless with places for all who come, and without limit none is."""
    busy = 0.1 * pace.best_per_s
    late = hopeless(pace, Limits(0.99, 1.01 * pace.alone_s, float("inf"), float("inf")), busy)
    assert late[-1]
    assert not late[0]
    assert not hopeless(pace, Limits(0.99, float("inf"), float("inf"), float("inf")), busy).any()
