"""The arguments that serving solvers share: two names of one quantity, one set of defaults, written out for a reader."""

import inspect
import re

import pytest

from mlsysim import (
    BatchingOptimizer,
    CapacityPlanner,
    ContinuousBatchingModel,
    Hardware,
    KVTransferModel,
    Models,
    ServingModel,
    SpeculativeDecodingModel,
    Systems,
    TailLatencyModel,
    TokenServerModel,
)
from mlsysim.calibration.stacks import stack
from mlsysim.core.errors import InconsistentError, InputError, MissingArgumentError, UnknownArgumentError
from mlsysim.core.options import options
from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.options import ServingOptions
from mlsysim.lowering.serving_kernels import KernelFormats, serving_kernels
from mlsysim.lowering.training_kernels import kernel_device

LLAMA, H100, NODE = Models.Language.Llama3_8B, Hardware.Cloud.H100, Systems.Nodes.DGX_H100
# What each solver needs besides the length of a prompt, and besides the rate of requests where it takes one.
NEEDS = {
    BatchingOptimizer: ((LLAMA, H100), {}),
    CapacityPlanner: ((LLAMA, [NODE]), {"output_len": 64, "max_batch": 4, "tp_sizes": [1], "pp_sizes": [1]}),
    ContinuousBatchingModel: ((LLAMA, H100), {}),
    KVTransferModel: ((LLAMA, NODE), {}),
    ServingModel: ((LLAMA, H100), {}),
    SpeculativeDecodingModel: ((LLAMA, LLAMA, H100), {"acceptance": 0.5, "draft_len": 2}),
    TailLatencyModel: ((LLAMA, H100), {"output_len": 64}),
    TokenServerModel: ((LLAMA, H100), {"accelerators": 1, "output_len": 64}),
}
NEED_RATE = (CapacityPlanner, TailLatencyModel)
TAKE_RATE = (*NEED_RATE, BatchingOptimizer, KVTransferModel, TokenServerModel)


def solve(model, **given):
    inputs, needed = NEEDS[model]
    rate = {"request_rate": "1 count/s"} if model in NEED_RATE and "arrival_rate" not in given else {}
    return model().solve(*inputs, **needed, **{**rate, **given})


@pytest.mark.parametrize("model", NEEDS)
def test_a_prompt_is_as_long_by_either_name(model):
    one, other, both = (
        solve(model, **dict.fromkeys(names, 512)) for names in (["input_len"], ["seq_len"], ["input_len", "seq_len"])
    )
    assert one.to_dict() == other.to_dict() == both.to_dict()


@pytest.mark.parametrize("model", NEEDS)
def test_two_lengths_of_one_prompt_contradict_each_other(model):
    with pytest.raises(InconsistentError, match="seq_len = 512: expected 256, as input_len says"):
        solve(model, input_len=256, seq_len=512)


@pytest.mark.parametrize("model", NEEDS)
def test_a_prompt_without_a_length_is_refused_as_a_missing_argument_is(model):
    with pytest.raises(MissingArgumentError, match="input_len = None: expected a whole number >= 1") as caught:
        solve(model)
    assert isinstance(caught.value, InputError)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("model", TAKE_RATE)
def test_requests_arrive_at_one_rate_by_either_name(model):
    rates = (
        {"request_rate": "2 count/s"},
        {"arrival_rate": "2 count/s"},
        {"request_rate": "2 count/s", "arrival_rate": "7200 count/hour"},
    )
    answers = [solve(model, input_len=512, **rate).to_dict() for rate in rates]
    assert answers[0] == answers[1] == answers[2]
    with pytest.raises(InconsistentError, match="arrival_rate = '3 count/s': expected 2 count/s, as request_rate says"):
        solve(model, input_len=512, request_rate="2 count/s", arrival_rate="3 count/s")


@pytest.mark.parametrize("model", NEED_RATE)
def test_a_load_without_a_rate_is_refused(model):
    with pytest.raises(MissingArgumentError, match="request_rate"):
        solve(model, input_len=512, request_rate=None)


@pytest.mark.parametrize("model", NEEDS)
def test_every_shared_argument_stands_in_the_signature_and_the_docstring(model):
    shown, doc = inspect.signature(model().solve), inspect.getdoc(model.solve)
    assert not any(argument.kind is argument.VAR_KEYWORD for argument in shown.parameters.values())
    assert not re.search(r"^ *\*\*", doc, re.MULTILINE)
    for name in shown.parameters:
        assert f"\n    {name}: " in doc, name
    shared = {name for name in shown.parameters if name in options(ServingOptions)}
    assert shared >= {"input_len", "seq_len"}


def test_the_serving_model_takes_all_that_a_deployment_does():
    shown = inspect.signature(ServingModel().solve).parameters
    for name, option in options(ServingOptions).items():
        assert shown[name].default == option.default
        assert str(shown[name].annotation)


def test_a_deployment_is_checked_once_and_cannot_be_changed():
    deployment = Deployment.of(LLAMA, H100, input_len=1024, output_len=256, tp_size=1)
    with pytest.raises(AttributeError):
        deployment.tp = 2
    with pytest.raises(UnknownArgumentError, match="did you mean 'tp_size'"):
        Deployment.of(LLAMA, H100, input_len=1024, tpsize=2)


def test_blocks_of_the_cache_take_room_in_every_schedule():
    load = {"input_len": 1000, "output_len": 100, "batch_size": 8}
    for schedule in ("static", "continuous"):
        whole, blocks = (ServingModel().solve(LLAMA, H100, **load, schedule=schedule, page_size=size) for size in (1, 257))
        assert blocks.kv_cache.magnitude > whole.kv_cache.magnitude
        assert blocks.max_batch < whole.max_batch
        assert blocks.tpot == whole.tpot


def test_a_fixed_batch_and_a_server_mean_different_times_to_the_first_token():
    load = {"input_len": 1024, "output_len": 128, "batch_size": 32, "stack": "vllm-2025"}
    batch, server = (ServingModel().solve(LLAMA, H100, **load, schedule=kind) for kind in ("static", "continuous"))
    assert batch.ttft > 5 * server.ttft  # all 32 prompts at once, or each as it comes


def test_outputs_of_spread_lengths_are_met_at_longer_contexts():
    load = {"input_len": 200, "output_len": 400, "stack": "vllm-2025"}
    even, spread = (Deployment.of(LLAMA, H100, **load, schedule="continuous", output_cv=cv) for cv in (0.0, 1.0))
    assert (even.context, spread.context) == (400, 600)
    model = ContinuousBatchingModel()
    slower = model.solve(LLAMA, H100, **load, concurrency=128, output_cv=1.0)
    longer = model.solve(LLAMA, H100, **load, concurrency=128)
    assert slower.itl > longer.itl
    assert slower.max_batch < longer.max_batch
    with pytest.raises(InconsistentError, match="output_cv"):
        ServingModel().solve(LLAMA, H100, **load, output_cv=0.5)


def test_spread_outputs_wait_as_long_as_places_held_for_spread_times():
    load = {"input_len": 512, "output_len": 256, "stack": "vllm-2025", "batch_size": 8, "request_rate": "3 count/s"}
    stated = TailLatencyModel().solve(LLAMA, H100, **load, service_cv2=0.0, output_cv=1.0)
    assert TailLatencyModel().solve(LLAMA, H100, **load, output_cv=1.0).wait_p99 > stated.wait_p99


def test_micro_batches_that_a_server_is_started_with_compute_its_prompts():
    """llama.cpp's --ubatch-size: of a prompt of 2,048 tokens one micro-batch reads the weights once, not four times."""
    asked = {"input_len": 2048, "output_len": 16, "stack": "llama.cpp-2025", "precision": "q8_0"}
    told_limits: list[dict[str, int]] = [{}, {"max_num_batched_tokens": 2048}]
    model, spark = Models.Language.Qwen3_30B_A3B, Hardware.Workstation.DGX_Spark
    usual, told = (ServingModel().solve(model, spark, **asked, **limits) for limits in told_limits)
    assert told.ttft < 0.9 * usual.ttft
    assert told.token_gap == usual.token_gap


def test_attention_runs_on_the_cores_of_a_chip_whose_matrix_engines_are_few():
    """Gaudi 2 has two matrix engines, and 24 cores for softmax and reads (Intel Gaudi 2 white paper)."""
    kernels = serving_kernels(Hardware.get("Gaudi2"), KernelFormats("bf16", "bf16", "bf16"))
    assert (kernels.multiprocessors, kernels.attention.multiprocessors) == (2.0, 24.0)
    trained = kernel_device(Hardware.get("Gaudi2"), "bf16", stack("generic"))
    assert (trained.multiprocessors, trained.attention_device.multiprocessors) == (2.0, 24.0)
