"""Questions answered together have the answers that each has alone."""

from dataclasses import fields, is_dataclass

import pint
import pytest

import mlsysim
from mlsysim import Hardware, Models, Systems
from mlsysim.core.errors import MLSysError
from mlsysim.lowering.work import training_work
from mlsysim.physics.layer.work import LayeredWork
from mlsysim.physics.records import stacked, unstacked
from mlsysim.solvers.serving.together import serve_together
from mlsysim.solvers.training.together import train_together
from mlsysim.systems.types import Fleet

H100, B200 = Hardware.Cloud.H100, Hardware.Cloud.B200
NODE = Systems.Nodes.DGX_H100
FLEET = Fleet(name="64 H100", node=NODE, count=8)
SMALL, LARGE, MIXED = Models.Language.Llama3_8B, Models.Language.Llama3_70B, Models.get("mixtral_8x7b")
LOAD = {"input_len": 1024, "output_len": 256}
LONG = {"input_len": 3000, "output_len": 256, "batch_size": 16, "stack": "vllm-2025", "schedule": "continuous"}
SERVING = [
    *(((SMALL, H100), LOAD | {"batch_size": size, "stack": "vllm-2025"}) for size in (1, 16, 64)),
    ((MIXED, NODE), LOAD | {"batch_size": 8, "stack": "vllm-2025", "tp_size": 2}),
    ((LARGE, NODE), LOAD | {"batch_size": 300, "stack": "vllm-2025", "tp_size": 8, "schedule": "continuous", "rounds": 4}),
    ((SMALL, NODE), LOAD | {"batch_size": 40, "stack": "vllm-2025", "tp_size": 4, "schedule": "continuous"}),
    ((SMALL, H100), LOAD | {"stack": "tensorrt-llm-1.0", "schedule": "offline", "stream_interval": 10}),
    ((SMALL, B200), LOAD | {"stack": "tensorrt-llm-1.0", "schedule": "offline", "requests": 1000}),
    *(((SMALL, H100), LOAD | {"batch_size": 16, "stack": "vllm-2025", "prefix_hit": hit}) for hit in (0.25, 0.75)),
    *(((SMALL, H100), LONG | {"max_num_batched_tokens": tokens}) for tokens in (1024, 8192)),
    *(((SMALL, H100), LONG | {"max_num_seqs": most}) for most in (16, 256)),
    ((SMALL, H100), LOAD | {"batch_size": 16}),
    ((LARGE, H100), LOAD | {"batch_size": 16, "offload": "weights"}),
    ((SMALL, H100), LOAD | {"batch_size": 16, "stack": "vllm-2025", "weight_precision": "fp8", "precision": "fp8"}),
    ((SMALL, H100), LOAD | {"batch_size": 16, "tpot_excludes_first_token": False}),
    ((SMALL, H100), {"input_len": 1024, "tpot_excludes_first_token": False}),
    ((SMALL, H100), LOAD | {"tp_size": 3}),
    ((SMALL, "H100"), LOAD | {"batch_size": "many"}),
]
STEP = {"batch_size": 128, "seq_len": 8192}
TRAINING = [
    *(((SMALL, FLEET), STEP | {"tp_size": size, "stack": "megatron-core"}) for size in (1, 2, 8)),
    ((LARGE, FLEET), STEP | {"tp_size": 8, "pp_size": 2, "stack": "megatron-core", "recompute": "full"}),
    ((MIXED, FLEET), STEP | {"tp_size": 2, "ep_size": 4, "stack": "megatron-core", "straggler_factor": 1.1}),
    *(((SMALL, FLEET), STEP | {"tp_size": size}) for size in (2, 4)),
    ((SMALL, FLEET), STEP | {"tp_size": 2, "efficiency": 0.4}),
    ((SMALL, FLEET), STEP | {"tp_size": 2, "efficiency": 0.5, "overlap_efficiency": 0.3}),
    ((Models.Vision.ResNet50, FLEET), {"batch_size": 128, "precision": "fp16"}),
    ((SMALL, FLEET), STEP | {"tp_size": 3}),
    ((SMALL, NODE), STEP),
]


def plain(value):
    if isinstance(value, pint.Quantity):
        return float(value.magnitude), str(value.units)
    if is_dataclass(value) and not isinstance(value, type):
        value = {part.name: getattr(value, part.name) for part in fields(value)}
    return {name: plain(inner) for name, inner in value.items()} if isinstance(value, dict) else value


def alike(found, expected):
    if isinstance(expected, dict):
        return set(found) == set(expected) and all(alike(found[name], expected[name]) for name in expected)
    if isinstance(expected, tuple) and expected and isinstance(expected[0], float):
        return found[0] == pytest.approx(expected[0], rel=1e-12) and found[1:] == expected[1:]
    return found == (pytest.approx(expected, rel=1e-12) if isinstance(expected, float) else expected)


def alone(solve, inputs, arguments):
    try:
        return solve(*inputs, **arguments)
    except MLSysError as error:
        return error


def assert_as_alone(questions, answers, solve, refused):
    expected = [alone(solve, *question) for question in questions]
    assert [type(one) for one in answers] == [type(one) for one in expected]
    assert sum(isinstance(one, MLSysError) for one in expected) == refused
    for (_, arguments), found, own in zip(questions, answers, expected, strict=True):
        if isinstance(own, MLSysError):
            assert str(found) == str(own)
            continue
        for part in fields(own):
            values = [plain(getattr(result, part.name)) for result in (found, own)]
            assert alike(*values), (arguments, part.name, values)


def test_serving_questions():
    assert_as_alone(SERVING, serve_together(SERVING), mlsysim.ServingModel().solve, refused=3)


def test_training_questions():
    assert_as_alone(TRAINING, train_together(TRAINING), mlsysim.DistributedModel().solve, refused=2)


def test_no_questions_have_no_answers():
    assert serve_together([]) == train_together([]) == []


def test_records_come_back_as_they_were():
    works = [training_work(model, 4096) for model in (SMALL, LARGE, MIXED)]
    whole = stacked(works)
    assert isinstance(whole, LayeredWork)
    assert unstacked(whole, 3) == works
