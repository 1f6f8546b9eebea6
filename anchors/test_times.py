"""How long solves and searches take: apart, so that timing a few cases collects no others."""

from dataclasses import replace
from pathlib import Path

import pytest

from mlsysim import Models, Systems
from mlsysim.lowering.arrivals import paces
from mlsysim.lowering.deployment import Deployment
from mlsysim.validation.anchors.times import against_limit, times
from mlsysim.validation.suite.suite_tests import test_time_of_a_solve, test_time_of_a_whole_search

ANCHORS = Path(__file__).parent

__all__ = ["test_time_of_a_capacity_plan", "test_time_of_a_solve", "test_time_of_a_whole_search"]

CONFIGURATIONS_PER_S = 3e5
MOST_IN_FLIGHT = 1024


def test_time_of_a_capacity_plan(request: pytest.FixtureRequest) -> None:
    """What ``CapacityPlanner`` asks of a plan, its speed with each number of requests in flight, comes at a stated rate."""
    if request.config.getoption("benchmark_disable", default=False):
        pytest.skip("nothing is timed where workers share the cores")

    def plans() -> int:
        """Lays out the plans of a model on two nodes, and counts what was answered."""
        answered = 0
        for node in (Systems.Nodes.DGX_H100, Systems.Nodes.DGX_B200):
            for tp, pp in ((1, 4), (2, 2), (2, 4), (4, 1), (4, 2), (8, 1)):
                load = {"input_len": 1024, "output_len": 256, "schedule": "continuous", "stack": "vllm-2025"}
                pace = paces(Deployment.of(Models.Language.Llama2_70B, node, tp_size=tp, pp_size=pp, **load), None)
                pace = replace(pace, places=min(pace.places, MOST_IN_FLIGHT))
                answered += min(pace.token_s.size, pace.completions_per_s.size)
        return answered

    answered, limits = plans(), times(ANCHORS)
    assert limits is not None
    assert answered > 10 * MOST_IN_FLIGHT / 2
    taken_s, limit_s = against_limit(plans, 5, answered / CONFIGURATIONS_PER_S, limits.yardstick_ms)
    assert taken_s <= limit_s, f"{answered} configurations take {taken_s:.3g} s at best, the limit is {limit_s:.3g} s"
