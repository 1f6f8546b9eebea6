"""Command lines of servers as deployments: each example as its comment says, options by hand, and no traceback or hang."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from repository import TESTS

from mlsysim import CapacityPlanner, Hardware, Models
from mlsysim.calibration.memory import usable_memory_B
from mlsysim.core.errors import InputError, NotModelledError
from mlsysim.launch import answer_serving, export_serving, planned_serving, serving_launch
from mlsysim.launch.shell import read_script
from mlsysim.launch.shell_words import MARK

TEXT = (TESTS / "data" / "launch" / "serve_examples.txt").read_text("utf-8")
LINES = [line for line in TEXT.splitlines() if line and not line.startswith("#")]
# extra.yaml and serve.yaml stand in comments under their line.
FILES = {
    name: re.sub(r"\n#", "\n", body)
    for name, body in re.findall(r"^# (\w+\.yaml): (\{.*?\})\n# engine", TEXT, re.DOTALL | re.MULTILINE)
}
# What the comment under each line says, in our names.
VLLM, SGLANG, TRTLLM = {"stack": "vllm-2025"}, {"stack": "sglang-2025"}, {"stack": "tensorrt-llm-1.2"}
MEANT = [
    VLLM
    | {"tp_size": 4, "pp_size": 1, "replicas": 1, "precision": "fp8", "kv_precision": "fp8", "max_num_seqs": 256}
    | {"max_num_batched_tokens": 8192, "page_size": 16, "memory_share": 0.92},
    VLLM
    | {"tp_size": 16, "attention_dp": 16, "ep_size": 16, "redundant_experts": 32, "two_batch_overlap": True, "draft_len": 1}
    | {"max_num_seqs": 256, "kv_precision": "bf16"},
    VLLM | {"tp_size": 2, "max_num_seqs": 512, "stream_interval": 20, "max_num_batched_tokens": 8000, "kv_precision": "bf16"},
    VLLM | {"tp_size": 1, "pp_size": 2, "precision": "awq", "kv_precision": "fp16"},
    SGLANG
    | {"tp_size": 72, "attention_dp": 72, "ep_size": 72, "redundant_experts": 32, "two_batch_overlap": True}
    | {"max_num_seqs": 256},
    SGLANG
    | {"tp_size": 4, "precision": "fp8", "kv_precision": "fp8", "draft_len": 3, "max_num_batched_tokens": 4096}
    | {"max_num_seqs": 64},
    SGLANG
    | {"tp_size": 1, "replicas": 8, "precision": "int8", "kv_precision": "bf16", "max_num_batched_tokens": 2048}
    | {"stream_interval": 8},
    TRTLLM
    | {"tp_size": 8, "ep_size": 8, "attention_dp": True, "precision": "nvfp4", "kv_precision": "fp8", "max_num_seqs": 512}
    | {"max_num_batched_tokens": 4096, "draft_len": 3, "stream_interval": 10},
    TRTLLM
    | {"tp_size": 4, "precision": "fp8", "kv_precision": "fp8", "max_num_seqs": 1024, "page_size": 32}
    | {"max_num_batched_tokens": 8192, "batch_wait_iters": 20, "stream_interval": 20},
]
CARDS = (Hardware.Cloud.H200, Hardware.Cloud.A100)
COUNTS = (4, 16, 2, 2, 72, 4, 8, 8, 4)
LENGTHS = (16384, None, None, 8192, None, None, None, 9236, None)
CACHING = (False, None, None, None, False, None, None, False, None)


def launched(number):
    if "yaml" in LINES[number]:
        pytest.importorskip("yaml")
    return serving_launch(LINES[number], files=FILES)


@pytest.mark.parametrize("number", range(len(MEANT)))
def test_an_example_is_read_as_its_comment_says(number):
    launch, meant = launched(number), MEANT[number]
    assert {name: launch.arguments[name] for name in meant} == meant
    assert (launch.accelerators, launch.max_model_len, launch.prefix_caching) == (
        COUNTS[number],
        LENGTHS[number],
        CACHING[number],
    )
    assert launch.unknown == ()


@pytest.mark.parametrize("number", range(len(MEANT)))
def test_an_example_is_answered(number):
    launch = launched(number)
    chance = {"acceptance": 0.7} if launch.drafts_by == "eagle" else {}
    run = answer_serving(launch, Hardware.Cloud.H200, input_len=1000, output_len=300, **chance)
    assert run.feasible
    assert run.interval is not None
    assert any(note.startswith("assumed: ") for note in run.diagnostics)


def test_the_last_example_is_refused_by_the_name_of_its_option():
    with pytest.raises(NotModelledError, match="n-cpu-moe"):
        serving_launch(LINES[-1])
    plain = LINES[-1].replace("--n-cpu-moe 4", "")
    launch = serving_launch(plain)
    assert (launch.arguments["pp_size"], launch.arguments["max_num_seqs"], launch.arguments["kv_precision"]) == (2, 8, "q8_0")
    assert launch.max_model_len == 131072 // 8


def test_the_acceptance_of_the_issue():
    launch = serving_launch("vllm serve Qwen/Qwen3-32B --tensor-parallel-size 2 --max-num-seqs 64")
    run = answer_serving(launch, Hardware.Cloud.H200, input_len=1000, output_len=300)
    assert (run.feasible, run.batch, run.basis) == (True, 64, "calibrated")
    queue = answer_serving(launch, Hardware.Cloud.H200, input_len=1000, output_len=300, request_rate="2 count/s")
    assert 0 < queue.utilization < 1
    short = serving_launch("vllm serve Qwen/Qwen3-32B --max-model-len 1K")
    with pytest.raises(InputError, match="at most the 1024 tokens"):
        answer_serving(short, Hardware.Cloud.H200, input_len=1000, output_len=300)


@pytest.mark.parametrize(
    ("line", "error", "said"),
    [
        ("vllm serve Qwen/Qwen3-32B -tp two", InputError, "-tp = 'two'"),
        ("vllm serve Qwen/Qwen3-32B -tp 0", InputError, "-tp = 0"),
        ("vllm serve Qwen/Qwen3-32B -tp", InputError, "-tp = None"),
        ("vllm serve Qwen/Qwen3-32B -tp $TP", InputError, "does not say what $TP is"),
        ("vllm serve Qwen/Qwen3-32B -dcp 2", NotModelledError, "decode context parallelism"),
        ("vllm serve Qwen/Qwen3-32B --kv-cache-dtype fp9", InputError, "fp8"),
        ("vllm serve Qwen/Qwen3-33B", InputError, "Qwen3_32B"),
        ("vllm serve --port 80", InputError, "model"),
        ("vllm serve Qwen/Qwen3-32B --quantization --max-num-seqs 8", InputError, "--quantization = None"),
        ("vllm serve Qwen/Qwen3-32B-AWQ --quantization fp8", InputError, "quantization = 'fp8': expected awq"),
        ("llama-server -m Qwen3-8B-Q4_K_M.gguf -fa -ngl 10", NotModelledError, "n-gpu-layers = '10'"),
        ("python train.py", InputError, "vllm serve"),
        ("trtllm-serve nvidia/Llama-3.3-70B-Instruct-FP8 --config gone.yaml", InputError, "gone.yaml"),
        ("""vllm serve Qwen/Qwen3-32B --speculative-config '{"method": "mtp"'""", InputError, "line 1, column 17"),
    ],
)
def test_a_wrong_line_is_told_by_its_option(line, error, said):
    with pytest.raises(error) as caught:
        serving_launch(line)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ("docker run --gpus all vllm/vllm-openai:latest --model Qwen/Qwen3-32B -tp 2", {"tp_size": 2, "stack": "vllm-2025"}),
        ("python3 -m vllm.entrypoints.openai.api_server --model Qwen/Qwen3-32B --max_num_seqs=8", {"max_num_seqs": 8}),
        ("llama-server -m /m/qwen2.5-7b-instruct-q4_k_m.gguf -np 4", {"precision": "q4_k_m", "max_num_seqs": 4}),
        ("llama-server -hf bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M", {"precision": "q4_k_m"}),
        ("vllm serve Qwen/Qwen3-30B-A3B -tp 2 -ep", {"tp_size": 2, "ep_size": 2}),
        ("TP=2; docker run --entrypoint bash nvcr.io/nvidia/vllm -c 'vllm serve Qwen/Qwen3-32B -tp $TP'", {"tp_size": 2}),
        ("vllm serve Qwen/Qwen3-30B-A3B -tp 2 -dp 2", {"tp_size": 4, "attention_dp": 2}),
        (
            "vllm serve deepseek-ai/DeepSeek-V3 --speculative-config.method mtp --speculative-config.num_speculative_tokens 2",
            {"draft_len": 2},
        ),
    ],
)
def test_other_ways_to_start_a_server(line, arguments):
    launch = serving_launch(line)
    assert {name: launch.arguments.get(name) for name in arguments} == arguments
    assert launch.unknown == ()


MANIFESTS = {
    "an image with arguments, beside a service": """apiVersion: v1
kind: Service
---
kind: Deployment
spec:
  replicas: 3
  template:
    spec:
      initContainers:
        - {name: wait, image: busybox, command: [sh, -c, "until nslookup x; do sleep 1; done"]}
      containers:
        - name: server
          image: docker.io/vllm/vllm-openai:v0.10.1
          args: [--model, Qwen/Qwen3-32B, --tensor-parallel-size=2]
""",
    "a shell's text, with a variable": """kind: Deployment
spec:
  replicas: 3
  template:
    spec:
      containers:
        - image: lmsysorg/sglang:latest
          command: [/bin/bash, -lc]
          env: [{name: TP, value: "2"}, {name: TOKEN, valueFrom: {secretKeyRef: {name: a, key: b}}}]
          args:
            - |
              pip install x && python3 -m sglang.launch_server --model-path Qwen/Qwen3-32B \\
                --tp ${TP} && echo "*"
""",
    "Docker Compose": """services:
  proxy: {image: nginx}
  server:
    image: vllm/vllm-openai
    command: >
      --model Qwen/Qwen3-32B
      -tp $(TP)
    environment: {TP: 2}
    deploy: {replicas: 3}
""",
}


@pytest.mark.parametrize("manifest", MANIFESTS.values(), ids=MANIFESTS)
def test_the_container_of_a_manifest_that_starts_a_server(manifest):
    pytest.importorskip("yaml")
    launch = serving_launch(manifest)
    assert (launch.workload.name, launch.arguments["tp_size"], launch.arguments["replicas"]) == ("Qwen3-32B", 2, 3)
    assert (launch.accelerators, launch.unknown) == (6, ())


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("containers:\n- image: nginx\n", InputError, "'nginx': expected a line with vllm serve"),
        ("- image: nginx\n", InputError, "command line = [{'image': 'nginx'}]: expected a table"),
        ("a: &a {image: nginx}\nb: [*a, *a]\n", InputError, "YAML without anchors and references"),
        ("containers:\n- image: nginx\n  args: 5\n", InputError, "args = 5: expected a list of words"),
        ("spec: {replicas: -1}\ncontainers:\n- image: vllm/vllm-openai\n", InputError, "command line: replicas = -1"),
        ("containers:\n- image: vllm/vllm-openai\n  env: 5\n", InputError, "env = 5: expected a list or a table"),
        ("services:\n  a:\n    image: b\n    command: 'x\n", InputError, "YAML"),
        ("docker run ghcr.io/huggingface/text-generation-inference:3.0 --model-id m", NotModelledError, "inference:3.0'"),
    ],
)
def test_a_manifest_of_no_server_is_told(text, error, said):
    pytest.importorskip("yaml")
    with pytest.raises(error) as caught:
        serving_launch(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("line", "precision"),
    [
        ("llama-server -hf unsloth/Qwen3-8B-GGUF -fa", "q4_k_m"),
        ("llama-server -hf unsloth/Qwen3-8B-GGUF:Q8_0", "q8_0"),
        ("llama-server -hf ggml-org/gpt-oss-120b-GGUF", None),  # published in one format alone
        ("llama-server -m /models/Qwen3-8B-Q8_0-00001-of-00002.gguf", "q8_0"),
        ("vllm serve nvidia/Llama-3.3-70B-Instruct-NVFP4 --quantization modelopt", "nvfp4"),
    ],
)
def test_the_format_of_a_file_that_the_line_half_names(line, precision):
    assert serving_launch(line).arguments.get("precision") == precision


def test_a_second_model_is_told():
    assert serving_launch("vllm serve Qwen/Qwen3-8B Qwen/Qwen3-32B").unknown == ("Qwen/Qwen3-32B",)


def test_as_many_requests_as_the_engine_lets_in_by_default():
    launch = serving_launch("vllm serve meta-llama/Llama-3.1-8B-Instruct")
    runs = {card.name: answer_serving(launch, card, input_len=100, output_len=100).batch for card in CARDS}
    assert list(runs.values()) == [1024, 256]


def test_a_stated_share_of_the_memory_holds_as_many_sequences():
    line = "vllm serve meta-llama/Llama-3.1-8B-Instruct --gpu-memory-utilization "
    load = {"input_len": 4000, "output_len": 400}
    runs = [answer_serving(serving_launch(f"{line}{share}"), Hardware.Cloud.H100, **load) for share in (0.3, 0.5, 0.9)]
    most = [run.max_batch for run in runs]
    # A token's cache is 131,072 bytes; a sequence holds 4,200 tokens, mean over its life, and half a block of 16.
    assert (most[1] - most[0]) * 4207.5 == pytest.approx(0.2 * usable_memory_B(80 * 2**30) / 131072, abs=4208)
    assert not answer_serving(serving_launch(f"{line}0.1"), Hardware.Cloud.H100, **load).feasible
    own = answer_serving(serving_launch("vllm serve meta-llama/Llama-3.1-8B-Instruct"), Hardware.Cloud.H100, **load)
    assert own.max_batch == most[2]


def test_an_option_that_nobody_described_is_told():
    launch = serving_launch("vllm serve Qwen/Qwen3-32B --enable-magic --magic-level 9 --port 80")
    assert launch.unknown == ("--enable-magic", "--magic-level 9")
    run = answer_serving(launch, Hardware.Cloud.H200, input_len=100, output_len=10)
    assert "not understood, and left out: --magic-level 9" in run.diagnostics


def test_a_script_writes_the_file_that_its_server_reads():
    pytest.importorskip("yaml")
    script = "TP=4\ncat > extra.yaml <<EOF\nstream_interval: 10\nkv_cache_config:\n  dtype: fp8\nEOF\n" + (
        "trtllm-serve meta-llama/Llama-3.1-8B-Instruct --tp_size $TP \\\n  --extra_llm_api_options extra.yaml\n"
    )
    arguments = serving_launch(script).arguments
    assert (arguments["tp_size"], arguments["stream_interval"], arguments["kv_precision"]) == (4, 10, "fp8")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("A=1; B=$((A * 4 + 2))\nx $B", ("x", "6")),
        ('x ${C:-d e} "${C:-d e}"', ("x", "d", "e", "d e")),
        ("X=(a 'b c')\nX+=(d)\nx pre\"${X[@]}\"post", ("x", "prea", "b c", "dpost")),
        ("A='1 2'\nA+=' 3'\nx $A # 4", ("x", "1", "2", "3")),
        ("export N=8\nx -n=$N > log 2>&1", ("x", "-n=8")),
        ("x $(nvidia-smi) $Y", ("x", f"{MARK}$(...){MARK}", f"{MARK}$Y{MARK}")),
        ("x a\\\n  b", ("x", "a", "b")),
    ],
)
def test_assignments_are_put_in_and_nothing_is_run(script, words):
    assert read_script(script, "script").commands[-1].words == words


ENDLESS = ["A=aa\n" + "A=$A$A\n" * 60, "B='x y z'\n" + "x " + "$B " * 30_000, "x ${" * 5000, "cat <<E\nx"]


@pytest.mark.parametrize("script", ENDLESS)
def test_a_script_cannot_grow_without_end(script):
    with pytest.raises(InputError):
        read_script(script, "script")


WORDS = [*" ".join(LINES).split(), "${A[@]}", "$((1/0))", "<<E", "'", '"', "(", "-tp=0", "--", "-", "A=(", "${x:-", "\0"]


@settings(max_examples=30, deadline=None)
# Without surrogates it is what UTF-8 can encode: hypothesis finds it out by trying all, unless it is told.
@given(st.lists(st.one_of(st.sampled_from(WORDS), st.text(st.characters(exclude_categories=("Cs",)), max_size=8)), max_size=12))
def test_any_words_are_a_deployment_or_an_error_of_ours(words):
    for begun in ("vllm serve", "python -m sglang.launch_server", "trtllm-serve"):
        with contextlib.suppress(InputError):
            serving_launch(f"{begun} {' '.join(words)}", files=FILES)


@pytest.mark.parametrize("target", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize(
    ("model", "plan"),
    [
        ("Qwen/Qwen3-32B", {"tp_size": 2, "max_num_seqs": 64, "kv_precision": "fp8", "max_num_batched_tokens": 4096}),
        ("meta-llama/Llama-3.1-8B-Instruct", {"precision": "fp8", "max_num_seqs": 32, "kv_precision": "fp8"}),
        ("deepseek-ai/DeepSeek-V3", {"tp_size": 8, "attention_dp": 8, "ep_size": 8, "max_num_seqs": 128}),
    ],
)
def test_a_line_that_is_written_is_read_back_as_the_same_plan(target, model, plan):
    workload = serving_launch(f"vllm serve {model}").workload
    if target == "trtllm" and "precision" in plan:  # of a checkpoint in that format alone
        with pytest.raises(InputError, match="precision = 'fp8'"):
            export_serving(planned_serving(workload, plan, model=model), target)
        model = "nvidia/Llama-3.1-8B-Instruct-FP8"
    line = export_serving(planned_serving(workload, plan, model=model), target)
    back = serving_launch(line)
    assert back.workload is workload
    wanted = dict(plan)
    if back.arguments.get("attention_dp") is True:
        wanted["attention_dp"] = True
    assert {name: back.arguments.get(name) for name in wanted} == wanted
    assert back.unknown == ()


@pytest.mark.parametrize(
    ("target", "plan", "said"),
    [
        ("vllm", {"tp_size": 4, "attention_dp": 4}, "attention_dp = 4: expected 1 of a dense model"),
        ("trtllm", {"memory_share": 0.7}, "memory_share = 0.7"),
        ("trtllm", {"stream_interval": 4}, "stream_interval = 4"),
        ("trtllm", {"page_size": 64}, "page_size = 64"),
    ],
)
def test_what_a_line_cannot_say_is_not_left_out_of_it(target, plan, said):
    launch = planned_serving(Models.Language.Qwen3_32B, {"stack": "tensorrt-llm-1.2", **plan}, model="Qwen/Qwen3-32B")
    with pytest.raises(InputError, match=re.escape(said)):
        export_serving(launch, target)


@pytest.mark.parametrize("target", ["vllm", "sglang"])
def test_blocks_of_the_cache_go_out_and_come_back(target):
    launch = planned_serving(Models.Language.Qwen3_32B, {"page_size": 64}, model="Qwen/Qwen3-32B")
    assert serving_launch(export_serving(launch, target)).arguments["page_size"] == 64


def test_a_deployment_that_a_search_found_goes_out_and_comes_back():
    load = {"request_rate": "20 count/s", "input_len": 1000, "output_len": 300, "max_itl": "40 ms", "stack": "vllm-2025"}
    found = CapacityPlanner().solve(Models.Language.Qwen3_32B, [Hardware.Cloud.H200], disaggregated=False, **load)
    launch = planned_serving(Models.Language.Qwen3_32B, found.best_config, model="Qwen/Qwen3-32B")
    back = serving_launch(export_serving(launch, "vllm"))
    assert back.accelerators == found.accelerators
    named = {"tp_size": "tp", "pp_size": "pp", "replicas": "replicas", "max_num_seqs": "batch"}
    assert {name: back.arguments[name] for name in named} == {name: found.best_config[part] for name, part in named.items()}
    manifest = export_serving(launch, "kubernetes")
    assert f"replicas: {found.best_config['replicas']}" in manifest
    assert f"nvidia.com/gpu: {found.best_config['tp'] * found.best_config['pp']}" in manifest
    yaml = pytest.importorskip("yaml")
    command = yaml.safe_load(manifest)["spec"]["template"]["spec"]["containers"][0]["command"]
    assert serving_launch(" ".join(command)).arguments["max_num_seqs"] == found.best_config["batch"]
    assert serving_launch(manifest) == back


@pytest.mark.parametrize("target", ["vllm", "sglang", "kubernetes"])
def test_pools_apart_have_a_line_each(target):
    plan = {"stack": "vllm-2025", "precision": "fp16", "disaggregated": True, "tp": 2, "pp": 1, "ep": 1, "attention_dp": 1}
    plan |= {"batch": 118, "replicas": 3, "prefill_replicas": 2, "prefill_tp": 1, "prefill_pp": 1, "prefill_ep": 1}
    launch = planned_serving(Models.Language.Qwen3_32B, {**plan, "accelerators": 8}, model="Qwen/Qwen3-32B")
    assert (launch.accelerators, launch.prefill.accelerators) == (6, 2)
    text = export_serving(launch, target)
    if target == "kubernetes":
        assert text.count("kind: Deployment") == 2
        assert "qwen3-32b-prefill" in text
        return
    prefill, decode = (serving_launch(line) for line in text.splitlines())
    assert (prefill.role, prefill.accelerators, decode.role, decode.accelerators) == ("prefill", 2, "decode", 6)
    assert decode.arguments["max_num_seqs"] == 118


def test_a_pool_of_prompts_has_groups_of_its_own():
    """What was planned is what is started: experts dealt out to ranks, each of which attends to prompts of its own."""
    model, load = Models.get("Qwen3-235B-A22B"), {"request_rate": "20 count/s", "input_len": 2000, "output_len": 500}
    found = CapacityPlanner().solve(model, [Hardware.get("B200")], **load, max_ttft="2 s", max_itl="50 ms", stack="vllm-2025")
    best = {**found.best_config, "prefill_tp": 4, "prefill_ep": 4, "prefill_attention_dp": 4, "disaggregated": True}
    first = serving_launch(export_serving(planned_serving(model, best), "vllm").splitlines()[0]).arguments
    assert (first["tp_size"], first["ep_size"], first["attention_dp"]) == (4, 4, 4)
    assert found.best_config["prefill_attention_dp"] in (0, found.best_config["prefill_ep"])
