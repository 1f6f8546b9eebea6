"""What guards every answer: text that is a number and a unit, arguments of their kind and size, results that can be."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from mlsysim import (
    Q_,
    BatchingOptimizer,
    BatchServerModel,
    CapacityPlanner,
    DistributedModel,
    Fleet,
    FleetOptimizer,
    Hardware,
    KVTransferModel,
    Models,
    ParallelismOptimizer,
    PlacementOptimizer,
    ScalingModel,
    ServingModel,
    SingleNodeModel,
    SustainabilityModel,
    Systems,
    TokenServerModel,
    predict_table,
)
from mlsysim.core.errors import InconsistentError, InputError, MissingArgumentError, UnitError, UnsoundError
from mlsysim.physics.numeric import added_in_norm

LLAMA, H100, DGX = Models.Language.Llama3_8B, Hardware.Cloud.H100, Systems.Nodes.DGX_H100
FLEET = Fleet(name="f", node=DGX, count=1)
SLOW = H100.compute.model_copy(update={"precision_flops": {"fp16": "1e-300 flop/s"}})
LOAD = {"seq_len": 128, "output_len": 64}
RUN = {
    "model": "in-house",
    "layers": 32,
    "hidden": 4096,
    "heads": 32,
    "ffn_hidden": 16384,
    "vocab": 51200,
    "seq_len": 2048,
    "params_b": 6.7,
    "accelerator": "A100-SXM-80GB",
    "n_accel": 8,
    "global_batch_seqs": 64,
    "micro_batch": 1,
    "framework": "Megatron-LM",
    "metric": "step_time_s",
}


def plan(**changes):
    return CapacityPlanner().solve(LLAMA, [H100], request_rate="1 count/s", input_len=8, output_len=8, **changes)


@pytest.mark.parametrize(
    ("text", "unit", "number"),
    [
        ("80 GB", "byte", 80e9),
        ("80GB", "byte", 80e9),
        (" .5 TB / s ", "byte/second", 5e11),
        ("+1.5e3 W", "watt", 1500),
        ("3.6 gCO2e/kWh", "gCO2e/joule", 1e-6),
        ("4 GB*s^-1", "byte/second", 4e9),
        ("5 1/s", "1/second", 5),
        ("9 flop/s**1", "flop/second", 9),
    ],
)
def test_a_quantity_is_a_number_and_a_unit(text, unit, number):
    assert Q_(text).m_as(unit) == pytest.approx(number)


@pytest.mark.parametrize(
    "text",
    [
        *("1,5 GB", "80 GB + 80 GB", "9**9**9 flop", "10^12 flop", "2*3 GB", "1e3*2 W", "80 GB 80 GB", "GB", "GB 80", "nan GB"),
        *("inf W", "1e400 GB", "80 GB/", "1 s**99", "0x10 GB", "1_000 GB", "(1 GB)", "1 GB;", "__import__('os') s", "9" * 9999),
    ],
)
def test_text_is_not_evaluated(text):
    start = time.process_time()
    for ask in (lambda: Q_(text), lambda: ScalingModel().solve(compute_budget=text)):
        with pytest.raises(UnitError):
            ask()
    with pytest.raises(UnitError, match=r"HardwareNode\.tdp"):
        H100.model_copy(update={"tdp": text})
    assert time.process_time() - start < 0.5


def test_a_decimal_comma_is_explained_and_no_text_hides_in_a_number_or_a_unit():
    with pytest.raises(UnitError, match=r"'1,5 GB': expected a point before decimals"):
        Q_("1,5 GB")
    for value, unit in (("9**9**9", "flop"), (1.0, "9**9**9 flop"), (b"1", "GB")):
        with pytest.raises(UnitError):
            Q_(value, unit)


@pytest.mark.parametrize(
    ("argument", "ask"),
    [
        ("quantity", lambda: Q_(10**400, "flop")),
        ("quantity", lambda: Q_(f"{10**400} flop")),
        ("straggler_factor", lambda: DistributedModel().solve(LLAMA, FLEET, batch_size=8, straggler_factor=10**400)),
        ("batch_size", lambda: ParallelismOptimizer().solve(LLAMA, FLEET, batch_size=2**63 - 1)),
        ("input_len", lambda: ServingModel().solve(LLAMA, H100, input_len=10**5000)),
        ("Fleet.count", lambda: Fleet(name="f", node=DGX, count=10**400)),
        ("prices", lambda: FleetOptimizer().solve([LLAMA], [FLEET], batch_size=8, prices=3.0)),
        ("workloads", lambda: FleetOptimizer().solve(LLAMA, [FLEET], batch_size=8)),
        ("fleets", lambda: FleetOptimizer().solve([LLAMA], FLEET, batch_size=8)),
        ("search", lambda: FleetOptimizer().solve([LLAMA], [FLEET], batch_size=8, search=["x"])),
        ("batch_size", lambda: FleetOptimizer().solve([LLAMA], [FLEET], batch_size="8")),
        ("prices", lambda: plan(prices=3.0)),
        ("precisions", lambda: plan(precisions=8)),
        ("tp_sizes", lambda: TokenServerModel().solve(LLAMA, DGX, accelerators=8, tp_sizes=8, **LOAD)),
        ("tp_sizes", lambda: TokenServerModel().solve(LLAMA, DGX, accelerators=8, tp_sizes=[0], **LOAD)),
        ("harness_name", lambda: TokenServerModel().solve(LLAMA, DGX, accelerators=8, harness_name=["x"], **LOAD)),
        ("fixed", lambda: ParallelismOptimizer().solve(LLAMA, FLEET, batch_size=8, fixed=float("inf"))),
        ("sites", lambda: PlacementOptimizer().solve(FLEET, duration_hours=1, sites=3.0)),
        ("stack", lambda: DistributedModel().solve(LLAMA, FLEET, batch_size=8, stack=["x"])),
        ("stack", lambda: SingleNodeModel().solve(Models.Vision.ResNet50, H100, batch_size=8, stack=["x"])),
        ("stack", lambda: BatchServerModel().solve(Models.Vision.ResNet50, H100, stack=["x"])),
        ("percentile", lambda: TokenServerModel().solve(LLAMA, DGX, accelerators=8, max_ttft="2 s", percentile=1.0, **LOAD)),
        ("percentile", lambda: BatchServerModel().solve(Models.Vision.ResNet50, H100, percentile=99)),
        ("Fleet.node", lambda: Fleet.model_validate({"name": "x"})),
        ("Fleet", lambda: Fleet.model_validate(3)),
        ("Fleet", lambda: Fleet.model_validate_json("{")),
        ("rows", lambda: predict_table(None)),
        ("rows", lambda: predict_table("rows")),
        ("rows", lambda: predict_table([RUN, None])),
    ],
)
def test_what_is_of_the_wrong_kind_or_size_is_refused_by_name(argument, ask):
    with pytest.raises(InputError) as caught:
        ask()
    assert caught.value.argument == argument
    assert len(str(caught.value)) < 400


def test_one_where_a_list_is_meant_is_called_by_its_name():
    with pytest.raises(InputError, match=r"^fleets = 'f': expected Fleets in a list$"):
        FleetOptimizer().solve([LLAMA], FLEET, batch_size=8)


def test_a_missing_keyword_and_one_that_is_nothing_are_named():
    with pytest.raises(MissingArgumentError, match=r"^input_len = None: expected a whole number >= 1$"):
        ServingModel().solve(LLAMA, H100)


@pytest.mark.parametrize(
    ("argument", "ask"),
    [
        ("tokens_per_parameter", lambda: ScalingModel().solve(compute_budget="1e23 flop", tokens_per_parameter=1e-300)),
        ("duration_days", lambda: SustainabilityModel().solve(FLEET, duration_days=1e300, grid="0 gCO2e/kWh")),
        ("request_rate", lambda: KVTransferModel().solve(LLAMA, DGX, request_rate="1e308 count/s", seq_len=128)),
        ("efficiency", lambda: DistributedModel().solve(LLAMA, FLEET, batch_size=2**30, seq_len=2**10, efficiency=1e-308)),
        ("efficiency", lambda: BatchingOptimizer().solve(LLAMA, H100, efficiency=1e-308, max_itl="1 s", **LOAD)),
        (
            "hardware.compute.precision_flops['fp16']",
            lambda: ServingModel().solve(LLAMA, H100.model_copy(update={"compute": SLOW}), **LOAD),
        ),
    ],
)
def test_no_answer_is_infinite_or_nan_and_the_argument_whose_size_explains_it_is_named(argument, ask):
    with pytest.raises(InputError, match="expected a size that is met in practice: ") as caught:
        ask()
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    "wrong",
    [
        {"mfu": 1.01},
        {"mfu": -0.1},
        {"mfu": float("nan")},
        {"step_latency_total": Q_(float("inf"), "second")},
        {"breakdown": {"compute": Q_(-1e-20, "second")}},
        {"plan": {"tp": 1, "best": ({"slower": -2.0},)}},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_result_that_cannot_be_is_never_made(wrong):
    sound = DistributedModel().solve(LLAMA, FLEET, batch_size=8)
    with pytest.raises(UnsoundError, match=r"would be .* \(of DistributedModel\)"):
        replace(sound, **wrong)


def test_a_guard_that_finds_no_argument_out_of_the_ordinary_says_what_is_wrong(monkeypatch):
    monkeypatch.setattr("mlsysim.solvers.operations.scaling.with_unit", lambda number, unit: Q_(-number, unit))
    with pytest.raises(UnsoundError, match="optimal_parameters would be"):
        ScalingModel().solve(compute_budget="1e23 flop")


def test_a_decode_step_is_no_shorter_than_one_read_of_the_weights(monkeypatch):
    """16 GB of weights take 4.8 ms of 3.35 TB/s; a kernel that claimed five times the bandwidth would be told."""
    run = ServingModel().solve(LLAMA, H100, stack="vllm-2025", **LOAD)
    assert run.itl.m_as("ms") > 15 / 3.35
    monkeypatch.setattr("mlsysim.solvers.serving.serving.weights_read_B", lambda work, batch: 5 * work.resident_B)
    with pytest.raises(UnsoundError, match=r"itl would be .* less than one read of 74.7 GiB of weights"):
        ServingModel().solve(LLAMA, H100, stack="vllm-2025", **LOAD)


def test_memory_without_a_stack_is_said_to_be_the_textbooks():
    """16 bytes a parameter of Mixtral's 46.7 G are 93 GB on each of 8: no plan fits, and at 14, as a stack keeps, some do."""
    model, asked = Models.Language.Mixtral_8x7B, {"batch_size": 2, "seq_len": 512, "space": "full"}
    bases = {"basis": "bound"}, {"stack": "megatron-core", "gradient_precision": "bf16", "margin": 0.0}
    alone, on_stack = (ParallelismOptimizer().solve(model, FLEET, **asked, **basis) for basis in bases)
    assert not alone.feasible
    assert alone.diagnostics == ("memory is the textbook's, 16 bytes a parameter and what a layer keeps: a stack has its own",)
    assert on_stack.feasible


def test_context_parallelism_without_a_stack_is_said_to_slow_no_kernel():
    asked = {"batch_size": 8, "seq_len": 8192, "cp_size": 4}
    for basis, said in (({"efficiency": 0.4}, True), ({"stack": "megatron-core"}, False)):
        notes = DistributedModel().solve(LLAMA, FLEET, **asked, **basis).diagnostics
        assert any("however finely cp_size = 4 cuts them" in note for note in notes) == said


def test_a_host_that_is_much_faster_than_the_device_adds_little_and_never_less_than_nothing():
    assert added_in_norm(3.0, 4.0, 2.0) == pytest.approx(2.0)
    for host_s in (0.0, 1e-12, 1e-6, 1e-3):
        added_s = added_in_norm(0.1, host_s, 3.0)
        assert added_s == pytest.approx((host_s / 0.1) ** 3 * 0.1 / 3, rel=1e-2, abs=0)


def test_a_search_with_an_enormous_batch_or_duration_ends_soon():
    start = time.process_time()
    found = ParallelismOptimizer().solve(LLAMA, FLEET, batch_size=963_761_198_400, space="full", fixed={"micro_batch": 1})
    assert found.total_legal > 0
    day, century = (PlacementOptimizer().solve(FLEET, duration_hours=hours, latest_end_hour=2e6) for hours in (24, 1e6))
    assert century.energy.m_as("kWh") == pytest.approx(day.energy.m_as("kWh") * 1e6 / 24)
    assert time.process_time() - start < 3


@pytest.mark.parametrize("cells", [{"n_accel": 100_000_000_003, "accel_per_node": 99_999_999_999}, {"n_accel": 2**60}])
def test_a_row_of_more_than_anybody_has_is_refused_at_once(cells):
    start = time.process_time()
    (answer,) = predict_table([RUN | cells])
    assert answer["predicted"] == ""
    assert "expected a whole number" in answer["reason"]
    assert time.process_time() - start < 1


@pytest.mark.parametrize("cells", [{"params_b": 1e-300}, {"params_b": 20}, {"ffn_hidden": 1}, {"hidden": 1024}, {"layers": 40}])
def test_a_dense_row_whose_layers_have_other_parameters_than_it_says_is_refused(cells):
    (sound,), (answer,) = predict_table([RUN]), predict_table([RUN | cells])
    assert sound["predicted"] > 0
    assert answer["predicted"] == ""
    assert "params_b = " in answer["reason"]


@pytest.mark.parametrize("stated", [6.7, 6.7 * 1.14, 6.7 * 0.87, ""])
def test_a_rounded_count_is_no_contradiction(stated):
    (answer,) = predict_table([RUN | {"params_b": stated}])
    assert answer["predicted"] > 0


def test_an_executor_that_was_shut_down_is_refused():
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(InputError, match=r"^executor = 'ThreadPoolExecutor': expected one that takes work"):
        ParallelismOptimizer().solve(LLAMA, FLEET, batch_size=8, executor=executor)


def test_a_price_without_its_objective_and_a_price_that_is_missing_are_contradictions():
    dollars = "tokens_per_dollar"
    for prices, objective in (({"f": "1 USD/hour"}, "mfu"), ({}, dollars), ({3: "1 USD/hour"}, dollars)):
        with pytest.raises(InconsistentError, match=r"^prices = "):
            FleetOptimizer().solve([LLAMA], [FLEET], batch_size=8, prices=prices, objective=objective)
