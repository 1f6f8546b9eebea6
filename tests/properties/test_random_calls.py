"""Random calls of every public solver, with usual, extreme and odd arguments: a sound result or an error of ours, and soon.

The calls come from the solvers' own signatures. A sample runs by default; ``pytest -m exhaustive tests/properties``
runs them all. What one call was is shown by its number: ``described(NUMBER)``.
"""

import inspect
import json
import random
import re
import signal
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import mlsysim
from mlsysim import Fleet, Hardware, Infra, Models, NetworkFabric, Node, Systems, TransformerWorkload
from mlsysim.calibration.engines import engine_names
from mlsysim.calibration.stacks import stack_names
from mlsysim.core.errors import MLSysError, UnsoundError
from mlsysim.core.precision import BYTES_PER_ELEMENT
from mlsysim.core.units import ureg

CALLS, SAMPLE, SECONDS = 3000, 150, 5.0
# What a library answers that may not be installed has its arguments in tests/solvers/operations/test_privacy.py.
SOLVERS = [
    name
    for name in mlsysim.__all__
    if name.endswith(("Model", "Optimizer", "Planner")) and name != "ResponsibleEngineeringModel"
]
LLAMA, H100, DGX = Models.Language.Llama3_8B, Hardware.Cloud.H100, Systems.Nodes.DGX_H100
FLEET = Fleet(name="fleet", node=DGX, count=4)
RUN = mlsysim.ServingModel().solve(LLAMA, H100, input_len=512, output_len=64, stack="vllm-2025")
# Text of the inside that no message shows.
INTERNALS = re.compile(r"pint\.|pydantic|cannot convert|traceback|\bat 0x|validation error|object is not", re.IGNORECASE)

# A call of each solver that is answered.
USUAL = {
    "BatchServerModel": {"workload": Models.Vision.ResNet50, "hardware": H100},
    "BatchingOptimizer": {"workload": LLAMA, "hardware": H100, "input_len": 512},
    "CapacityPlanner": {
        "workload": LLAMA,
        "hardware": [H100],
        "request_rate": "2 count/s",
        "input_len": 512,
        "output_len": 64,
        "tp_sizes": [1],
        "pp_sizes": [1],
    },
    "ContinuousBatchingModel": {"workload": LLAMA, "hardware": H100, "input_len": 512},
    "DistributedModel": {"workload": LLAMA, "fleet": FLEET, "batch_size": 64},
    "EconomicsModel": {"hardware": FLEET, "duration_days": 30, "price": "2 USD/hour"},
    "FleetOptimizer": {"workloads": [LLAMA], "fleets": [FLEET], "batch_size": 64},
    "KVTransferModel": {"workload": LLAMA, "hardware": DGX, "input_len": 512},
    "ParallelismOptimizer": {"workload": LLAMA, "fleet": FLEET, "batch_size": 64},
    "PlacementOptimizer": {"fleet": FLEET, "duration_hours": 24},
    "CheckpointModel": {"workload": LLAMA, "fleet": FLEET, "storage_bandwidth": "10 GB/s"},
    "ReliabilityModel": {"fleet": FLEET, "duration": "30 day", "checkpoint_time": "60 s"},
    "PowerModel": {"run": RUN},
    "ScalingModel": {"compute_budget": "1e23 flop"},
    "ServingModel": {"workload": LLAMA, "hardware": H100, "input_len": 512, "output_len": 64},
    "SingleNodeModel": {"workload": Models.Vision.ResNet50, "hardware": H100, "batch_size": 32},
    "CompressionModel": {"workload": LLAMA, "hardware": H100, "input_len": 512, "weight_precision": "int4"},
    "DataModel": {"sample_rate": "900 count/s", "record_size": "100 kB", "storage_bandwidth": "10 GB/s"},
    "EfficiencyModel": {"workload": LLAMA, "hardware": H100, "work": "decode"},
    "InferenceScalingModel": {"workload": LLAMA, "hardware": H100, "input_len": 512, "output_len": 64, "samples": 4},
    "OrchestrationModel": {"arrival_rate": "20 count/day", "job_duration": "8 hour", "accelerators": 64},
    "TopologyModel": {"topology": "fat-tree", "accelerators": 64, "link_bandwidth": "50 GB/s"},
    "TransformationModel": {"batch_size": 256, "worker_rate": "300 count/s"},
    "WeightStreamingModel": {"workload": LLAMA, "hardware": H100, "input_len": 512},
    "SpeculativeDecodingModel": {
        "workload": Models.Language.Llama2_70B,
        "draft": LLAMA,
        "hardware": DGX,
        "input_len": 512,
        "acceptance": 0.7,
        "tp_size": 8,
    },
    "SustainabilityModel": {"fleet": FLEET, "duration_days": 30, "grid": "429 gCO2e/kWh"},
    "TailLatencyModel": {"arrival_rate": "10 count/s", "service_time": "20 ms"},
    "TokenServerModel": {"workload": LLAMA, "hardware": DGX, "accelerators": 8, "input_len": 512, "output_len": 64},
}
UNITS = ("second", "byte", "byte/second", "count", "count/second", "flop", "USD/hour", "watt", "gCO2e/kWh", "USD/tCO2e", "MWh")
CHOICES = ("static", "continuous", "offline", "full", "weights", "carbon", "mfu", "tokens_per_dollar", "time_to_train", "none")
NAMES = (*BYTES_PER_ELEMENT, *engine_names(), *stack_names(), *CHOICES)
ODD = (
    *(None, True, False, "", "x", " ", b"x", "nan", "1,5 GB", "9**9**9 flop", "80 GB + 80 GB", "1e400 s", "GB", "0 s", "-1 s"),
    *(0, -1, 2.5, 0.0, -0.0, 10**400, -(10**400), 2**63 - 1, 10**12, float("nan"), float("inf"), 1e300, 1e-300, 1j),
    *([], (), {}, set(), [None], ["x"], [[8]], (8, "8"), {"x": 1}, {1: "x"}, range(3), [10**400], {"tp": 0}, {"tp": [8, 2]}),
    *(ureg.Quantity(float("nan"), "second"), ureg.Quantity(10**400, "flop"), ureg.Quantity([1.0, 2.0], "byte")),
    *(np.float64(2.0), np.int64(4), np.array([1, 2]), object(), len, LLAMA, H100, DGX, FLEET, Models.Vision.ResNet50),
)


class TookTooLong(BaseException):
    """No ``except Exception`` of the package may catch it."""


def _late(*_):
    raise TookTooLong


def shut():
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    return executor


def quantity(rng, unit=None):
    exponent = rng.choice((rng.uniform(-3, 3), rng.uniform(-3, 25), rng.uniform(-320, 310)))
    return f"{rng.uniform(1, 10):.3f}e{exponent:.0f} {unit or rng.choice(UNITS)}"


def whole(rng):
    return int(10 ** rng.uniform(0, rng.choice((2, 5, 12))))


def model(rng):
    if rng.random() < 0.7:
        return rng.choice(list(rng.choice((Models.Language, Models.Vision))))
    heads, wide = 2 ** rng.randrange(8), rng.choice((1, 64, 128, 4096))
    sizes = {"layers": rng.choice((1, 3, 80, 10_000)), "hidden_dim": heads * wide, "heads": heads}
    return TransformerWorkload.of_architecture(name="any", ffn_hidden=rng.choice((1, 4 * heads * wide, 10**9)), **sizes)


def device(rng):
    if rng.random() < 0.7:
        return rng.choice(list(Hardware.Cloud))
    core = H100.compute.model_copy(update={"precision_flops": {"fp16": quantity_of(rng, "flop/second")}})
    memory = H100.memory.model_copy(update={"capacity": quantity_of(rng, "byte"), "bandwidth": quantity_of(rng, "byte/second")})
    return H100.model_copy(update={"compute": core, "memory": memory})


def quantity_of(rng, unit):
    return f"1e{rng.choice((rng.randrange(9, 16), rng.randrange(-300, 300)))} {unit}"


def fleet(rng):
    node = Node(
        name="node",
        accelerator=device(rng),
        accelerators_per_node=rng.choice((1, 3, 8, 72, 100_000)),
        intra_node_bw=quantity_of(rng, "byte/second"),
    )
    network = NetworkFabric(name="net", bandwidth=quantity_of(rng, "byte/second"))
    return Fleet(name="any", node=node, count=rng.choice((1, 2, 127, 1024, 10_000_000)), fabric=network)


KINDS = (
    *(model, device, fleet, quantity, lambda rng: rng.choice(list(Systems.Nodes)), lambda rng: rng.choice(list(Infra.Grids))),
    *(lambda rng: rng.choice(NAMES), lambda rng: rng.choice(ODD), lambda rng: shut()),
    *(whole, lambda rng: 2 ** rng.randrange(40)),
    *(lambda rng: 10 ** rng.uniform(-3, 3), lambda rng: 10 ** rng.uniform(-320, 308), lambda rng: rng.random()),
    lambda rng: [rng.choice(ODD) for _ in range(rng.randrange(1, 4))],
)
# What an argument usually takes, by the first pattern that its name has.
FITTING = (
    (r"^workload$|draft$", model),
    (r"^workloads$", lambda rng: [model(rng) for _ in range(rng.randrange(1, 3))]),
    (r"^hardware$", lambda rng: rng.choice((device, fleet))(rng)),
    (r"^fleet$", fleet),
    (r"^fleets$", lambda rng: [fleet(rng)]),
    (r"precision", lambda rng: rng.choice(list(BYTES_PER_ELEMENT))),
    (r"schedule|objective|recompute|space|attention$|offload", lambda rng: rng.choice(CHOICES)),
    (r"stack", lambda rng: rng.choice((*engine_names(), *stack_names()))),
    (
        r"idle|overlap_comm|sequence_parallel|attention_dp|two_batch|training|excludes|disaggregated",
        lambda rng: rng.random() < 0.5,
    ),
    (r"grid", lambda rng: quantity(rng, "gCO2e/kWh")),
    (r"tax", lambda rng: quantity(rng, "USD/tCO2e")),
    (r"price", lambda rng: quantity(rng, "USD/hour")),
    (r"^topology$", lambda rng: rng.choice(("ring", "torus_3d", "fat tree", "dragonfly", "rail-optimized"))),
    (r"bandwidth", lambda rng: quantity(rng, "byte/second")),
    (r"duration$", lambda rng: quantity(rng, "second")),
    (r"(record|message)_size", lambda rng: quantity(rng, "byte")),
    (r"rate$", lambda rng: quantity(rng, "count/second")),
    (r"max_(t|i|l)|time|mtbf|limit|latency", lambda rng: quantity(rng, "second")),
    (r"memory", lambda rng: quantity(rng, "byte")),
    (r"power", lambda rng: quantity(rng, "watt")),
    (r"energy", lambda rng: quantity(rng, "MWh")),
    (r"budget", lambda rng: quantity(rng, "flop")),
    (r"train_tokens", lambda rng: quantity(rng, "count")),
    (r"sizes", lambda rng: [2 ** rng.randrange(5) for _ in range(rng.randrange(1, 4))]),
    (r"size|accelerators", lambda rng: 2 ** rng.randrange(rng.choice((4, 12)))),
    (r"len|batch|count|concurrency|rounds|requests|interval|replicas|top_k|beams|experts", whole),
    (r".", lambda rng: rng.choice((rng.random(), 1 + rng.random(), 10 ** rng.uniform(-9, 9), 10 ** rng.uniform(-320, 308)))),
)


def call(number):
    """The solver and the arguments of a call: a usual one with one to four arguments changed or added."""
    rng = random.Random(number)
    solver = SOLVERS[number % len(SOLVERS)]
    names = [name for name in inspect.signature(getattr(mlsysim, solver).solve).parameters if name not in ("self", "options")]
    arguments = dict(USUAL[solver])
    for name in rng.sample(names, min(len(names), rng.choice((1, 1, 2, 4)))):
        fitting = next(value for pattern, value in FITTING if re.search(pattern, name))
        try:
            arguments[name] = (fitting if rng.random() < 0.85 else rng.choice(KINDS))(rng)
        except MLSysError:
            arguments[name] = rng.choice(ODD)
    return solver, arguments


def described(number):
    solver, arguments = call(number)
    usual = USUAL[solver]
    changed = {name: value for name, value in arguments.items() if name not in usual or value is not usual[name]}
    return f"call {number}: {solver}().solve(...) with {str(changed)[:2000]}"


def check(number):
    """Why the answer to a call is none, or an empty string."""
    solver, arguments = call(number)
    signal.signal(signal.SIGPROF, _late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        result = getattr(mlsysim, solver)().solve(**arguments)
        text = str(result)
        json.loads(result.to_json())
        return "" if text.startswith(solver) else f"the card begins with {text[:40]}"
    except UnsoundError as error:
        return f"a result that cannot be, which no argument explains: {error}"
    except MLSysError as error:
        message = str(error)
        shown = INTERNALS.search(message) or len(message) > 2000 or error.__cause__ is not None
        return f"a message with internals: {message}" if shown else ""
    except TookTooLong:
        return f"took more than {SECONDS:g} s"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def test_every_solver_has_a_usual_call_that_is_answered():
    assert sorted(USUAL, key=SOLVERS.index) == SOLVERS
    for solver, arguments in USUAL.items():
        assert getattr(mlsysim, solver)().solve(**arguments).solver == solver


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer of processor time on this system")
@pytest.mark.parametrize("calls", [range(SAMPLE), pytest.param(range(SAMPLE, CALLS), marks=pytest.mark.exhaustive)], ids=len)
def test_random_calls_are_answered_or_refused_in_our_own_words(calls):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        bad = [f"{described(number)}\n  {reason}" for number in calls if (reason := check(number))]
    assert not bad, f"{len(bad)} of {len(calls)}:\n" + "\n".join(bad[:20])
