"""Power and energy of results: what they are made of, how they follow a load and a limit, and what they say of their basis."""

from __future__ import annotations

import math

import pytest

from mlsysim import Q_, DistributedModel, Fleet, Hardware, InputError, Models, PowerModel, ServingModel, Systems
from mlsysim.calibration.operations.power import power_device

LLAMA, H100 = Models.Language.Llama3_8B, Hardware.Cloud.H100
FLEET = Fleet(name="16 H100", node=Systems.Nodes.DGX_H100, count=2)


def serve(hardware=H100, **asked):
    load = {"input_len": 512, "output_len": 256, "batch_size": 32, "schedule": "continuous", "stack": "vllm-2025"}
    return ServingModel().solve(LLAMA, hardware, **{**load, **asked})


def train(**asked):
    return DistributedModel().solve(LLAMA, FLEET, **{"batch_size": 64, "seq_len": 4096, "stack": "megatron-core", **asked})


def test_energy_is_power_times_time():
    run = serve(tp_size=2, replicas=2, hardware=Systems.Nodes.DGX_H100)
    assert run.energy.m_as("joule/count") == pytest.approx(4 * run.power.m_as("W") / run.tokens_per_second.m_as("count/s"))
    step = train()
    assert step.energy.m_as("joule") == pytest.approx(16 * step.power.m_as("W") * step.step_latency_total.m_as("s"))


def test_more_requests_draw_more_and_a_token_takes_less():
    runs = [serve(batch_size=size) for size in (1, 8, 64, 256)]
    watts = [run.power.m_as("W") for run in runs]
    joules = [run.energy.m_as("joule/count") for run in runs]
    assert watts == sorted(watts)
    assert joules == sorted(joules, reverse=True)
    assert all(power_device(H100.name).coefficients.idle * 700 < value < 700 for value in watts)


def test_exposed_communication_draws_less():
    """The same work in a longer step: what is exposed is waited for."""
    hidden, exposed = (train(stack=None, efficiency=0.5, overlap_efficiency=share) for share in (1.0, 0.0))
    assert exposed.step_latency_total > hidden.step_latency_total
    assert exposed.power < hidden.power


def test_small_kernels_of_an_engine_keep_a_card_busy_and_its_communication_does_not():
    one, two = (serve(Systems.Nodes.DGX_H100, tp_size=size).load.activity.busy for size in (1, 2))
    assert two < one == 1.0


def test_a_bound_has_no_power():
    run = serve(stack=None)
    assert (run.basis, run.power, run.energy, run.load) == ("bound", None, None, None)
    with pytest.raises(InputError, match="an engine or an efficiency"):
        PowerModel().solve(run)


def test_the_interval_says_whether_the_accelerator_was_measured():
    own, other = serve().interval_of("power"), serve(Hardware.Cloud.A100).interval_of("power")
    assert (own.scope, other.scope) == ("h100_sxm", "no measurement of this accelerator's power: stated")
    assert math.sqrt(other.high / other.low) == pytest.approx(1.25)
    assert own.high / own.low < other.high / other.low
    energy = serve().interval_of("energy")
    assert energy.high / energy.low > own.high / own.low, "that of the time is in it, too"
    assert "power" in str(serve())


def test_a_node_has_a_host_and_a_building():
    run = serve()
    answer = PowerModel().solve(run, host_power="1 kW", network_power="400 W", pue=1.5)
    watts = run.power.m_as("W")
    assert answer.node_power.m_as("W") == pytest.approx(8 * watts + 1000)
    assert answer.system_power.m_as("W") == pytest.approx(watts + 125 + 50)
    assert answer.facility_power.m_as("W") == pytest.approx(1.5 * (watts + 175))
    assert sum(part.m_as("W") for part in answer.breakdown.values()) == pytest.approx(1.5 * (watts + 175))
    assert answer.facility_energy.m_as("joule/count") == pytest.approx(1.5 * (watts + 175) / run.tokens_per_second.magnitude)
    immersed, fanned = (PowerModel().solve(run, cooling=way).node_power for way in ("immersion", "air"))
    assert immersed < fanned


def test_a_limit_holds_and_slows_what_computes():
    run = train()
    free, *limited = (PowerModel().solve(run, power_limit=limit) for limit in (None, "600 W", "450 W", "300 W"))
    assert free.power == run.power
    assert [answer.slowdown for answer in (free, *limited)] == sorted(answer.slowdown for answer in (free, *limited))
    assert all(answer.power < Q_(watts, "W") for answer, watts in zip(limited, (600, 450, 300), strict=True))
    assert limited[-1].binding == "power limit"
    assert limited[-1].energy.m_as("J") == pytest.approx(
        16 * limited[-1].power.m_as("W") * run.step_latency_total.m_as("s") * limited[-1].slowdown
    )


@pytest.mark.parametrize(
    ("given", "argument"),
    [
        ({"power_limit": "701 W"}, "power_limit"),
        ({"power_limit": "100 W"}, "power_limit"),
        ({"power_limit": "-1 W"}, "power_limit"),
        ({"power_limit": 400}, "power_limit"),
        ({"host_power": "0 W"}, "host_power"),
        ({"network_power": "1 J"}, "network_power"),
        ({"accelerators_per_node": 0}, "accelerators_per_node"),
        ({"cooling": "water"}, "cooling"),
        ({"pue": 0.9}, "pue"),
    ],
)
def test_bad_input_is_refused(given, argument):
    with pytest.raises(InputError) as caught:
        PowerModel().solve(serve(), **given)
    assert caught.value.argument == argument
