"""Launch files of training runs: each example as its note says, options by hand, exports read back, and no traceback."""

from __future__ import annotations

import contextlib
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_values import with_wrong_value
from repository import TESTS

from mlsysim import DistributedModel, Fleet, Hardware, Models, ParallelismOptimizer, Systems
from mlsysim.core.errors import InputError, NotModelledError
from mlsysim.launch import answer_training, export_training, planned_training, training_launch

DATA = TESTS / "data" / "launch"
# What a file leaves to its surroundings, as its note or comment says it.
AROUND = {
    "deepspeed_llama2_13b_zero3.json": {"workload": Models.Language.Llama2_13B, "seq_len": 4096, "recompute": "full"},
    "llmfoundry_mpt_7b.yaml": {"accelerators": 32},
    "torchtitan_llama3_8b.toml": {"accelerators": 8},
}
FILES = sorted(path.name for path in DATA.iterdir() if path.suffix in (".sh", ".toml", ".yaml") or path.name in AROUND)
SIZES = {"layers": "layers", "hidden": "hidden_dim", "heads": "heads", "kv_heads": "kv_head_count", "ffn": "ffn_width"}
MODELS = {"Llama-3-8B": Models.Language.Llama3_8B, "Llama-3-70B": Models.Language.Llama3_70B}


def launched(name):
    if name.endswith(".yaml"):
        pytest.importorskip("yaml")
    return training_launch(DATA / name, **AROUND.get(name, {}))


def meant(name):
    """The plan that a file's note states, by its words."""
    note = DATA / name.replace(".json", ".note.md")
    line = re.search(r"expected plan: (.*)", note.read_text("utf-8"))[1]
    return dict(re.findall(r"(\w+)=([^\s(]+)", line))


@pytest.mark.parametrize("name", FILES)
def test_an_example_is_read_as_its_note_says(name):
    launch, plan = launched(name), meant(name)
    step = answer_training(launch, Hardware.Cloud.H100)
    found = {**step.plan, "world": launch.accelerators, "accumulation": step.plan["micro_batches"]}
    numbers = {key: int(value) for key, value in plan.items() if value.isdigit()}
    assert {key: found[key] for key in ("tp", "pp", "cp", "ep", "dp", "world")} == {
        key: numbers[key] for key in ("tp", "pp", "cp", "ep", "dp", "world")
    }
    assert launch.arguments["batch_size"] == numbers["global_batch"]
    assert launch.arguments["seq_len"] == numbers["seq_len"]
    # In a pipeline of torchtitan the micro-batches of a step are counted beside the accumulation.
    assert found["accumulation"] == numbers.get("microbatches", 1) * numbers["accumulation"]
    assert step.plan["virtual_stages"] == numbers.get("vpp", 1)
    # FSDP beside a pipeline: its ZeRO-2 keeps gradients whole until the last micro-batch, which is counted as ZeRO-1.
    assert step.plan["zero_stage"] == (1 if plan["zero"] == "2" else numbers.get("zero", step.plan["zero_stage"]))
    assert launch.arguments["precision"] == plan["precision"]
    assert launch.arguments["recompute"] == plan["recompute"].removesuffix("-op")
    kept = {"2": "bf16", "4": "fp32"}[plan["reduce_B"]] if "grad_accumulation" not in plan else plan["grad_accumulation"]
    assert launch.arguments["gradient_precision"] == kept
    if "sequence_parallel" in plan:
        assert step.plan["sequence_parallel"] == (plan["sequence_parallel"] == "true")
    for key, value in plan.items():
        if key in SIZES:
            assert getattr(launch.workload, SIZES[key]) == int(value), key
    if "model" in plan:
        assert launch.workload is MODELS[plan["model"]]
    assert step.feasible
    assert step.interval is not None
    assert launch.unknown == ()


def test_what_only_some_examples_have():
    experts = launched("megatron_mixtral_8x7b.sh")
    assert (experts.workload.moe.experts, experts.workload.moe.ffn_hidden) == (8, 14336)
    assert (experts.arguments["ep_size"], experts.arguments["expert_tp_size"]) == (8, 1)
    hybrid = launched("torchtitan_llama3_70b_3d.toml").arguments
    assert (hybrid["shard_size"], hybrid["compiled"], hybrid["async_tp"]) == (2, True, True)
    assert launched("torchtitan_llama3_8b.toml").arguments["stack"] == "torchtitan-products"
    assert launched("megatron_llama3_8b.sh").workload is Models.Language.Llama3_8B


SCRIPT = (DATA / "megatron_llama3_8b.sh").read_text("utf-8")
TITAN = (DATA / "torchtitan_llama3_70b_3d.toml").read_text("utf-8")
DEEPSPEED = (DATA / "deepspeed_llama2_13b_zero3.json").read_text("utf-8")


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        (SCRIPT.replace("--global-batch-size 128", "--global-batch-size 127"), InputError, "global batch = 127"),
        (SCRIPT.replace("--bf16", "--bf16 --optimizer-cpu-offload"), NotModelledError, "--optimizer-cpu-offload"),
        (SCRIPT.replace("--bf16", "--bf16 --hybrid-override-pattern M*M*"), NotModelledError, "Mamba"),
        (SCRIPT.replace("GPUS=8\n", ""), InputError, "accelerators"),
        (SCRIPT.replace("--vocab-size 128256", ""), InputError, "--vocab-size"),
        (SCRIPT.replace("--hidden-size 4096", "--hidden-size wide"), InputError, "--hidden-size = 'wide'"),
        (SCRIPT.replace("--tensor-model-parallel-size 2", "--tensor-model-parallel-size 3"), InputError, "tp x pp x cp = 3"),
        (
            "python run.py --model-recipe-name llama3_8b -ng 64 -tp 2 -mb 1 -gb 128",
            InputError,
            "--pipeline-model-parallel-size",
        ),
        (TITAN.replace('"70B"', '"71B"'), InputError, "model.flavor = '71B'"),
        (TITAN.replace("[training]", "[training]\nenable_cpu_offload = true"), NotModelledError, "enable_cpu_offload"),
        (TITAN.replace("8192", '"long"'), InputError, "training.seq_len = 'long'"),
        (TITAN[:300], InputError, "TOML"),
        (DEEPSPEED, InputError, "workload"),
        ("nothing of use here", InputError, "launch text"),
    ],
)
def test_what_cannot_be_read_is_named(text, error, said):
    with pytest.raises(error) as caught:
        training_launch(text)
    assert said in str(caught.value)


def test_options_of_a_recipe_and_of_slurm():
    script = "#!/bin/bash\n#SBATCH --nodes=4\n#SBATCH --gpus-per-node=8\n" + SCRIPT.split("\n", 1)[1].replace(
        "NODES=1", "NODES=$SLURM_NNODES"
    )
    assert training_launch(script).accelerators == 32
    bridge = training_launch(
        "python run.py -mr llama3_8b -ng 64 -tp 2 -pp 1 -mb 1 -gb 128 -c fp8_cs model.seq_length=8192 train.a=1",
        workload=Models.Language.Llama3_8B,
    )
    assert (bridge.accelerators, bridge.arguments["precision"], bridge.arguments["seq_len"]) == (64, "fp8", 8192)
    assert any("--a 1" in word for word in bridge.unknown)


def test_a_layout_and_layers_of_experts():
    text = SCRIPT.replace("--pipeline-model-parallel-size 1", "--pipeline-model-parallel-size 2").replace(
        "--context-parallel-size 1", "--context-parallel-size 1 --pipeline-model-parallel-layout 'Et*7|(t*8|)*2t*9L'"
    )
    assert training_launch(text).arguments["virtual_stages"] == 2
    moe = "--num-experts 8 --moe-router-topk 2 --moe-ffn-hidden-size 1024 --moe-layer-freq [0]*3+[1]*29"
    launch = training_launch(SCRIPT.replace("--num-layers 32", f"--num-layers 32 {moe.replace('(', '').replace(')', '')}"))
    assert (launch.workload.moe.first_dense_layers, launch.workload.moe.experts_per_token) == (3, 2)


PLANS = [
    ("megatron", {"tp_size": 2, "pp_size": 2, "virtual_stages": 4, "microbatch_count": 32, "recompute": "selective"}, "bf16"),
    ("slurm", {"tp_size": 4, "cp_size": 2, "microbatch_count": 16, "recompute": "full", "gradient_precision": "fp32"}, "fp8"),
    ("megatron", {"tp_size": 1, "microbatch_count": 4, "recompute": "none", "zero_stage": 3, "shard_size": 8}, "bf16"),
    ("torchtitan", {"microbatch_count": 2, "recompute": "none", "zero_stage": 3, "stack": "torchtitan"}, "fp8"),
    ("torchtitan", {"tp_size": 2, "pp_size": 2, "virtual_stages": 2, "microbatch_count": 8, "zero_stage": 1,
                    "recompute": "full", "stack": "torchtitan", "shard_size": 2, "async_tp": True, "compiled": True}, "bf16"),
    ("deepspeed", {"microbatch_count": 2, "zero_stage": 2, "recompute": "full"}, "bf16"),
]  # fmt: skip


@pytest.mark.parametrize(("target", "plan", "precision"), PLANS)
def test_what_is_written_is_read_back_as_the_same_plan(target, plan, precision):
    stated = {"seq_len": 8192, "precision": precision, "gradient_precision": "fp32", "stack": "megatron-core"} | plan
    launch = planned_training(Models.Language.Llama3_8B, 32, plan, batch_size=256, **stated)
    text = export_training(launch, target)
    around = {"workload": launch.workload, "seq_len": 8192, "recompute": plan["recompute"]} if target == "deepspeed" else {}
    back = training_launch(text, accelerators=32, **around)
    assert back.workload is launch.workload
    assert {name: back.arguments[name] for name in plan if name != "stack" or target == "torchtitan"} == {
        name: plan[name] for name in plan if name != "stack" or target == "torchtitan"
    }
    assert back.arguments["precision"] == precision
    assert back.arguments["gradient_precision"] == "fp32"
    assert back.arguments["batch_size"] == 256


def test_a_plan_that_a_search_found_goes_out_and_comes_back():
    fleet = Fleet(name="16 H100", node=Systems.Nodes.DGX_H100, count=2)
    stated = {"seq_len": 8192, "stack": "megatron-core"}
    best = ParallelismOptimizer().solve(Models.Language.Llama3_8B, fleet, batch_size=128, **stated)
    launch = planned_training(Models.Language.Llama3_8B, 16, best.best_config, batch_size=128, **stated)
    step = answer_training(training_launch(export_training(launch, "megatron"), accelerators=16), fleet)
    told = DistributedModel().solve(Models.Language.Llama3_8B, fleet, **launch.arguments)
    assert step.plan == told.plan
    assert step.step_latency_total.m_as("s") == pytest.approx(told.step_latency_total.m_as("s"), rel=1e-9)


def test_a_micro_batch_of_the_callers_takes_the_place_of_the_files():
    stated = {"microbatch_count": 4, "recompute": "none"}
    launch = planned_training(Models.Language.Llama3_8B, 8, stated, batch_size=128, seq_len=8192)
    text = export_training(launch, "megatron")
    assert "microbatch_count" not in training_launch(text, accelerators=8, micro_batch=2).arguments
    by_size = planned_training(
        Models.Language.Llama3_8B, 8, {"micro_batch": 4, "recompute": "none"}, batch_size=128, seq_len=8192
    )
    assert export_training(by_size, "megatron") == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trainer:\n  num_nodes: 64\nmodel:\n  tensor_model_parallel_size: 4\n", "run of NeMo by Megatron's options (--tensor"),
        ("base_model: x\nsequence_len: 8192\n", "YAML of Axolotl"),
        ("a: 1\nb: 2\n", "['a', 'b']: expected parallelism"),
    ],
)
def test_a_yaml_of_another_framework_is_told_by_its_name(text, said):
    pytest.importorskip("yaml")
    with pytest.raises(InputError) as caught:
        training_launch(text)
    assert said in str(caught.value)


def test_a_line_that_names_a_launch_file_is_told_to_give_it():
    with pytest.raises(InputError, match=r"the line names ds\.json: give that file"):
        training_launch("deepspeed --num_gpus 8 train.py --deepspeed ds.json")


def test_other_accelerators_than_the_launcher_starts_are_told():
    script = (DATA / "megatron_llama3_8b.sh").read_text("utf-8")
    assert "128 accelerators, not the" in " ".join(training_launch(script, accelerators=128).assumed)


def test_a_plan_without_its_model_takes_the_callers():
    plan = "--tensor-model-parallel-size 4 --micro-batch-size 1 --global-batch-size 64 --seq-length 8192 --bf16"
    launch = training_launch(plan, accelerators=8, workload=Models.Language.Llama3_8B)
    assert (launch.arguments["tp_size"], launch.arguments["microbatch_count"]) == (4, 32)


@pytest.mark.parametrize("changed", [{"tp_size": 4}, {"tp": 4}, {"pp_size": 1}, {"batch_size": 64}])
@pytest.mark.parametrize("name", ["megatron_llama3_8b.sh", "nanotron_llama_8b.yaml", "torchtitan_llama3_8b.toml"])
def test_a_plan_of_the_callers_keeps_the_size_of_the_files_micro_batches(name, changed):
    if name.endswith("yaml"):
        pytest.importorskip("yaml")
    stated = {} if name.endswith("yaml") else {"accelerators": 16}
    text = (DATA / name).read_text("utf-8")
    written, launch = training_launch(text, **stated), training_launch(text, **stated, **changed)
    tokens = [
        step.plan["micro_batch_tokens"] for step in (answer_training(one, Hardware.Cloud.H100) for one in (written, launch))
    ]
    assert tokens[0] == tokens[1]
    assert "microbatch_count" not in launch.arguments


@pytest.mark.parametrize(
    ("target", "plan", "said"),
    [
        ("torchtitan", {"zero_stage": 1}, "zero_stage = 1"),
        ("deepspeed", {"tp_size": 2}, "tp 2"),
        ("megatron", {"schedule": "gpipe"}, "gpipe"),
        ("nemo", {}, "target = 'nemo'"),
    ],
)
def test_a_plan_that_a_framework_does_not_have_is_not_written(target, plan, said):
    launch = planned_training(Models.Language.Llama3_8B, 8, {"microbatch_count": 4, **plan}, batch_size=128)
    with pytest.raises(InputError, match=re.escape(said)):
        export_training(launch, target)


TEXTS = [path.read_text("utf-8") for path in (DATA / name for name in FILES)]
WORDS = [*" ".join(TEXTS[2:5]).split(), "${A[@]}", "'", '"', "--num-layers", "0", "-1", "1e9", "[", "{", "]"]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(TEXTS), st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 12), st.sampled_from(WORDS)), max_size=3)
)
def test_a_changed_file_is_a_run_or_an_error_of_ours(text, changes):
    for place, gone, added in changes:
        text = text[:place] + added + text[place + gone :]
    with contextlib.suppress(InputError):
        training_launch(text, accelerators=64, seq_len=4096)


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from([None, True, -1, 0, 10**30, 1.5, "x", [], {}, [1], {"a": 1}]))
def test_a_wrong_value_of_a_json_is_no_traceback(chance, value):
    document = with_wrong_value(json.loads(DEEPSPEED), chance, value)
    with contextlib.suppress(InputError):
        training_launch(json.dumps(document), workload=Models.Language.Llama2_13B, accelerators=16, seq_len=4096)
