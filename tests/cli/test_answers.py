"""What commands answer: the figures of the solvers that they ask, in text, with their options."""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path

import pytest
from repository import TESTS
from test_command import CAPACITY

from mlsysim.calibration.evidence import measured_runs
from mlsysim.calibration.intervals import conformal_quantile
from mlsysim.cli.exits import BAD_INPUT, HOLDS, INFEASIBLE
from mlsysim.cli.main import main
from mlsysim.launch import answer_serving, answer_training, serving_launch, training_launch
from mlsysim.models.registry import Models
from mlsysim.solvers.recommended import recommended_engine
from mlsysim.solvers.serving.serving import ServingModel
from mlsysim.solvers.training.distributed import DistributedModel
from mlsysim.systems.fleet_text import fleet_called, machine_called

LAUNCH = TESTS / "data" / "launch"


@pytest.mark.usefixtures("typer")
def test_trust_counts_the_runs_of_a_stack(capsys):
    assert main(shlex.split("trust Llama-3-70B --on H100 --stack Megatron-Core --json")) == HOLDS
    told = json.loads(capsys.readouterr().out)
    runs = [
        run
        for run in measured_runs()
        if (run.solver, run.facts.stack, run.facts.kind) == ("DistributedModel", "megatron-core", "dense")
    ]
    (dense,) = (one for one in told["measured"] if one["shared"] == {"stack": "megatron-core", "kind": "dense"})
    assert dense["figures"] == len(runs)
    assert dense["p90_error"] == pytest.approx(conformal_quantile([abs(math.expm1(abs(run.error))) for run in runs]))
    assert {one["stack"] for one in told["nearest"]} == {"megatron-core"}
    assert 0.5 < dense["in_interval"] <= 1


@pytest.mark.usefixtures("typer")
def test_trust_takes_an_accelerator_for_any_number_of_it_and_a_count_for_that_one(capsys):
    def nearest(on):
        assert main(shlex.split(f'trust Llama-3.1-8B --on "{on}" --stack megatron-core-2024 --json')) == HOLDS
        told = json.loads(capsys.readouterr().out)
        return told["accelerators"], [one["accelerators"] for one in told["nearest"] if one["accelerator"].startswith("H100")]

    (alone, of_any), (one, of_one), (many, of_many) = nearest("H100"), nearest("1 x H100"), nearest("1,024 x H100")
    assert (alone, one, many) == (None, 1, 1024)
    assert len(of_any) == 3, "what costs most is another stack or accelerator, not another number"
    assert max(of_one) < 1024 <= max(of_many)
    assert main(shlex.split("trust Llama-3.1-8B --on H100 --stack megatron-core-2024")) == HOLDS
    assert "on any number of H100 SXM5 80GB with" in capsys.readouterr().out


@pytest.mark.usefixtures("typer")
def test_trust_knows_a_model_by_the_name_that_a_publication_has_for_it(capsys):
    assert main(shlex.split("trust Llama-3-8B --on H100 --json")) == HOLDS
    stacks = {one["stack"]: one["figures_of_model"] for one in json.loads(capsys.readouterr().out)["stacks"]}
    called = [
        run.facts.model for run in measured_runs() if run.facts.stack == "megatron-core" and "H100" in run.facts.accelerator
    ]
    assert "LLAMA3_8B" in called
    assert stacks["megatron-core"] >= 1


@pytest.mark.usefixtures("typer")
def test_a_list_holds_what_the_registry_does_and_a_word_narrows_it(capsys):
    assert main(["list", "hardware", "--json"]) == HOLDS
    every = json.loads(capsys.readouterr().out)["entries"]
    assert main(["list", "hardware", "h100-SXM", "--json"]) == HOLDS
    few = json.loads(capsys.readouterr().out)["entries"]
    assert 1 <= len(few) < len(every)
    assert all(one in every for one in few)
    assert next(one for one in every if one["name"] == "H100")["memory GiB"] == 80


def asked(capsys, line):
    """What a line tells a program, and its exit code."""
    code = main([*shlex.split(line), "--json"])
    return json.loads(capsys.readouterr().out), code


@pytest.mark.usefixtures("typer")
def test_serve_tells_what_the_solver_does_and_takes_the_best_engine(capsys):
    line = "serve Qwen/Qwen3-32B --on '8 x H200,DGX H100' --tp 2 --batch 32 --prompt 1000 --output 300"
    told, code = asked(capsys, line)
    assert code == HOLDS
    for answer, machine in zip(told["answers"], ("8 x H200", "DGX H100"), strict=True):
        hardware = machine_called(machine)
        load = {"tp_size": 2, "batch_size": 32, "input_len": 1000, "output_len": 300}
        best = recommended_engine(Models.get("Qwen3-32B"), hardware, {}, None)
        run = ServingModel().solve(Models.get("Qwen3-32B"), hardware, stack=best.stack, **load)
        assert answer["on"] == machine
        assert answer["itl"]["value"] == run.itl.m_as("s")
        assert best.stack in answer["notes"][0]
    bound, _ = asked(capsys, f"{line} --bound")
    assert bound["answers"][0]["basis"] == "bound"
    assert bound["answers"][0]["itl"]["value"] < told["answers"][0]["itl"]["value"]
    named, _ = asked(capsys, f"{line} --engine 'sglang 0.5'")
    assert not any("best supported" in note for note in named["answers"][0]["notes"])


@pytest.mark.usefixtures("typer")
def test_serve_answers_what_a_server_is_started_with_and_options_beside_it_win(capsys):
    started = "vllm serve Qwen/Qwen3-32B --tensor-parallel-size 2 --max-num-seqs 64"
    line = f"serve --from '{started}' --on H200 --prompt 1000 --output 300"
    told, code = asked(capsys, line)
    load = {"input_len": 1000, "output_len": 300}
    run = answer_serving(serving_launch(started), machine_called("H200"), **load)
    assert (told["answers"][0]["itl"]["value"], told["answers"][0]["batch"], code) == (run.itl.m_as("s"), 64, HOLDS)
    other, _ = asked(capsys, f"{line} --tp 4 --batch 8 --engine sglang")
    run = answer_serving(serving_launch(started), machine_called("H200"), tp_size=4, batch_size=8, stack="sglang-2025", **load)
    assert other["answers"][0]["itl"]["value"] == run.itl.m_as("s")
    bound, _ = asked(capsys, f"{line} --bound")
    assert bound["answers"][0]["basis"] == "bound"


@pytest.mark.usefixtures("typer")
@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "why Llama-3-8B --on 'DGX H100' --batch 64 --against \"'\"",
            '--against = "\'": expected options as a shell reads them',
        ),
        ("plan Llama-3-8B --on 'DGX H100' --batch 64 --tokens 1e400", "--tokens = '1e400': expected a number of tokens"),
        ("plan Llama-3-8B --on 'DGX H100' --batch 64 --tokens 0", "--tokens = '0': expected a number of tokens"),
        (
            "capacity Llama-3-8B --on H100 --rate 1 --prompt 9 --output 9 --price H100=2 --price H100=3",
            "--price = 'H100=3': expected one price",
        ),
        ("predict examples/my_runs.csv -o .", "mlsysim predict: .: Is a directory"),
        ("serve Llama-3-8B --on H100 --prompt 100 --plot gone/x.png", "path = 'gone/x.png': expected a file in a folder"),
    ],
)
def test_a_wrong_option_is_told_in_our_own_words(capsys, line, said):
    assert main(shlex.split(line)) == BAD_INPUT
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("typer")
def test_what_a_line_leaves_out_is_told(capsys):
    told, _ = asked(capsys, "serve Llama-3-8B --on '8 x H100' --prompt 100 --tp 2")
    assert any(note.startswith("2 of the 8 accelerators are used") for note in told["answers"][0]["notes"])
    told, _ = asked(capsys, "serve Llama-3-8B --on '8 x H100' --prompt 100 --tp 2 --replicas 4")
    assert not any("accelerators are used" in note for note in told["answers"][0]["notes"])
    told, _ = asked(capsys, "serve Llama-3-8B --on '8 x H100' --prompt 100 --tp 2 --replicas 100")
    assert any(note.startswith("200 accelerators are used, more than the 8 of") for note in told["answers"][0]["notes"])
    for command, machine in (("train", "8 x H100"), ("plan", "8 x H100")):
        told, _ = asked(capsys, f"{command} Llama-3-8B --on '{machine}' --batch 64")
        assert "sequences of 4,096 tokens, since no --seq is given" in told["answers"][0]["notes"]
        told, _ = asked(capsys, f"{command} Llama-3-8B --on '{machine}' --batch 64 --seq 4096")
        assert not any("sequences of" in note for note in told["answers"][0]["notes"])


@pytest.mark.usefixtures("typer")
def test_an_encoder_has_no_tokens_to_wait_for(capsys):
    assert main(shlex.split("serve BERT-Large --on H100 --prompt 512")) == HOLDS
    card = capsys.readouterr().out
    assert "one pass" in card
    assert "sequences/s" in card
    assert "token" not in card.split("binds")[0].partition("\n\n")[2]


@pytest.mark.usefixtures("typer")
def test_prompts_of_others_that_come_between_tokens_are_on_the_card(capsys):
    load = "--on H200 --tp 2 --batch 64 --prompt 4000 --output 300 --engine vllm"
    assert main(shlex.split(f"serve Qwen/Qwen3-32B {load} --schedule continuous")) == HOLDS
    told = dict(re.split(r"\s{2,}", line.strip())[:2] for line in capsys.readouterr().out.splitlines()[2:8])
    step, gap = (float(told[name].split(" ms")[0]) for name in ("between tokens", "with others' prompts"))
    assert gap > 1.5 * step
    assert main(shlex.split(f"serve Qwen/Qwen3-32B {load} --schedule static")) == HOLDS
    assert "with others' prompts" not in capsys.readouterr().out


@pytest.mark.usefixtures("typer")
def test_a_checkpoint_s_name_and_a_configuration_say_the_format(capsys, tmp_path):
    load = "--on H100 --batch 8 --prompt 100 --output 30"
    named, _ = asked(capsys, f"serve Qwen/Qwen3-32B-FP8 {load}")
    typed, _ = asked(capsys, f"serve Qwen/Qwen3-32B {load} --precision fp8_block --kv-precision bf16")
    assert named["answers"][0]["itl"] == typed["answers"][0]["itl"]
    other, _ = asked(capsys, f"serve Qwen/Qwen3-32B-FP8 {load} --precision bf16")
    assert other["answers"][0]["itl"]["value"] > named["answers"][0]["itl"]["value"]
    sizes = {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8}
    config = {"model_type": "llama", "intermediate_size": 8192, "vocab_size": 128256, "tie_word_embeddings": True, **sizes}
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    read, _ = asked(capsys, f"serve {tmp_path}/config.json {load}")
    known, _ = asked(capsys, f"serve Llama-3.2-1B {load}")
    assert read["answers"][0]["itl"] == known["answers"][0]["itl"]
    assert "Llama3_2_1B" in " ".join(read["answers"][0]["notes"])


@pytest.mark.usefixtures("typer")
def test_train_passes_its_options_on_and_says_what_cannot_run(capsys):
    line = (
        "train Llama-3-8B --on '2 x DGX H100' --batch 64 --seq 4096 --tp 2 --no-overlap-comm --recompute full --efficiency 0.5"
    )
    told, code = asked(capsys, line)
    fleet = fleet_called("2 x DGX H100")
    options = {"seq_len": 4096, "tp_size": 2, "overlap_comm": False, "recompute": "full", "efficiency": 0.5}
    step = DistributedModel().solve(Models.get("Llama-3-8B"), fleet, batch_size=64, **options)
    assert (told["answers"][0]["step_latency_total"]["value"], code) == (step.step_latency_total.m_as("s"), HOLDS)
    assert main(shlex.split("train Llama-3.1-405B --on '8 x H100' --batch 8 --tp 8")) == INFEASIBLE
    printed = capsys.readouterr().out
    assert "INFEASIBLE: each H100 SXM5 80GB needs" in printed
    assert main(shlex.split("train Llama-3-8B --on '8 x H100,8 x V100' --batch 8 --tp 1")) == HOLDS, "one of them runs"


@pytest.mark.usefixtures("typer")
def test_train_tells_what_larger_micro_batches_would_do_where_nobody_says_how_large_they_are(capsys):
    line = "train TinyLlama-1.1B --on '8 x A100' --batch 128 --seq 2048"
    said = "micro-batches of one sequence, since no --micro-batch is given"
    notes = asked(capsys, line)[0]["answers"][0]["notes"]
    size, told = next(note for note in notes if said in note).removeprefix(f"{said}: --micro-batch ").split(" takes ")
    larger, _ = asked(capsys, f"{line} --micro-batch {size}")
    assert larger["answers"][0]["step_latency_total"]["value"] == pytest.approx(float(told.removesuffix(" s")), rel=1e-3)
    assert larger["answers"][0]["plan"]["micro_batches"] == 16 // int(size)
    assert said not in " ".join(larger["answers"][0]["notes"])
    assert said not in " ".join(asked(capsys, f"{line} --micro-batches 16")[0]["answers"][0]["notes"])
    interleaved, code = asked(capsys, "train Llama-3-8B --on '8 x H100' --batch 32 --seq 8192 --tp 2 --pp 4 --vpp 2")
    assert (code, interleaved["answers"][0]["plan"]["micro_batches"]) == (HOLDS, 32), "one micro-batch fills no such pipeline"


@pytest.mark.usefixtures("typer")
def test_plan_is_as_fast_as_any_plan_and_tells_days_and_money(capsys):
    told, _ = asked(
        capsys, "plan Llama-3-8B --on '64 x H100' --batch 256 --seq 8192 --tokens 1T --price '$2/h' --recompute none"
    )
    (answer,) = told["answers"]
    plan, _ = asked(capsys, "train Llama-3-8B --on '64 x H100' --batch 256 --seq 8192 --tp 2 --recompute none")
    assert answer["step_latency_total"]["value"] <= plan["answers"][0]["step_latency_total"]["value"]
    hours = 1e12 / answer["best"]["tokens_per_second"]["value"] / 3600
    assert answer["days"] == pytest.approx(hours / 24)
    assert answer["usd"] == pytest.approx(2 * 64 * hours)
    fixed, _ = asked(
        capsys, "plan Llama-3-8B --on '64 x H100' --batch 256 --seq 8192 --tp 4 --vpp 1 --zero 1,2 --micro-batch 1"
    )
    best = fixed["answers"][0]["best_config"]
    assert (best["tp"], best["virtual_stages"], best["micro_batch_tokens"]) == (4, 1, 8192)
    assert best["zero_stage"] in (1, 2)


@pytest.mark.usefixtures("typer", "runs")
def test_a_launch_file_is_a_step_and_a_question_for_the_best_plan(capsys):
    for file, on in (
        ("megatron_llama3_8b.sh", "H100"),
        ("megatron_mixtral_8x7b.sh", "64 x H100"),
        ("torchtitan_llama3_8b.toml", "8 x H100"),
    ):
        told, code = asked(capsys, f"train --from {LAUNCH / file} --on '{on}'")
        fleet = fleet_called(on)
        launch = training_launch(LAUNCH / file, accelerators=None if on == "H100" else fleet.accelerators)
        step = answer_training(launch, machine_called(on))
        assert (told["answers"][0]["step_latency_total"]["value"], code) == (step.step_latency_total.m_as("s"), HOLDS)
    plan, _ = asked(capsys, "plan --from run.sh --on H100")
    step, _ = asked(capsys, "train --from run.sh --on H100")
    (best,) = plan["answers"]
    assert best["as_written"]["step_latency_total"] == step["answers"][0]["step_latency_total"]
    assert best["step_latency_total"]["value"] <= best["as_written"]["step_latency_total"]["value"]
    other, _ = asked(capsys, "train --from run.sh --on H100 --batch 64 --tp 4 --micro-batches 32 --bound")
    assert (other["answers"][0]["plan"]["tp"], other["answers"][0]["basis"]) == (4, "bound")
    for line, told in (
        ("train --from run.sh --on '16 x H100' --tp 3", "--tp"),
        (f"train --from {LAUNCH / 'deepspeed_llama2_13b_zero3.json'} --on H100", "MODEL is missing"),
        ("train --on H100", "MODEL is missing"),
        ("plan Llama-3-8B --on H100", "--batch is missing"),
        ("plan --from 'ls -l' --on H100", "launch text = 'ls -l'"),
    ):
        assert main(shlex.split(line)) == BAD_INPUT
        assert told in capsys.readouterr().err


@pytest.mark.usefixtures("typer", "runs")
def test_what_won_goes_out_as_a_framework_or_an_engine_reads_it(capsys):
    line = "plan Llama-3-8B --on '64 x H100' --batch 256 --seq 8192"
    best, _ = asked(capsys, line)
    for target, free in (("megatron", ""), ("torchtitan", "--zero 3")):
        assert main(shlex.split(f"{line} {free} --export {target}")) == HOLDS
        Path("best").write_text(capsys.readouterr().out, "utf-8")
        read, _ = asked(capsys, "train --from best --on '64 x H100'")
        if not free:
            assert read["answers"][0]["step_latency_total"]["value"] == pytest.approx(
                best["answers"][0]["step_latency_total"]["value"]
            )
        assert read["answers"][0]["feasible"]
    assert main(shlex.split(f"{line} --export megatro")) == BAD_INPUT
    assert "--export = 'megatro'" in capsys.readouterr().err
    capacity = f"{CAPACITY} --ttft 2s --engine vllm --together"
    best, _ = asked(capsys, capacity)
    assert main(shlex.split(f"{capacity} --export vllm")) == HOLDS
    Path("serve.sh").write_text(capsys.readouterr().out, "utf-8")
    assert serving_launch("serve.sh").arguments["tp_size"] == best["answers"][0]["best_config"]["tp"]
    assert main(shlex.split(f"{CAPACITY} --ttft 1us --export vllm")) == INFEASIBLE
    assert main(shlex.split("plan Llama-3.1-405B --on '8 x H100' --batch 8 --export megatron")) == INFEASIBLE


@pytest.mark.usefixtures("typer")
def test_capacity_takes_the_cheaper_machine(capsys):
    for h200, h100, cheapest in ((1, 9, "H200"), (9, 1, "H100")):
        told, code = asked(capsys, f"{CAPACITY} --ttft 2s --itl 40ms --price H200={h200} --price H100={h100}")
        assert told["answers"][0]["best_config"]["hardware"].startswith(cheapest)
        assert code == HOLDS
    told, code = asked(capsys, f"{CAPACITY} --ttft 2s --itl 40ms --price H200=2")
    priced, apart = told["answers"]
    assert (priced["on"], apart["on"], apart["cost_per_hour"]) == ("H200", "H100", None)
    assert "no price of H100" in " ".join(apart["notes"])
    _, code = asked(capsys, f"{CAPACITY} --ttft 1us")
    assert code == INFEASIBLE


@pytest.mark.usefixtures("typer")
def test_why_takes_the_options_of_train_or_serve_and_those_against_them(capsys):
    train, serve = "Llama-3-8B --on '8 x H100' --batch 64 --tp 2", "Llama-3-8B --on H100 --batch 8 --prompt 100 --output 30"
    for line, command in ((train, "train"), (serve, "serve"), (f"train {train}", "train"), (f"serve {serve}", "serve")):
        why, _ = asked(capsys, f"why {line}")
        told, _ = asked(capsys, f"{command} {line.removeprefix(command)}")
        assert why["answers"] == told["answers"]
    two, _ = asked(capsys, f"why {train} --against '--tp 4 --recompute full'")
    other, _ = asked(capsys, "train Llama-3-8B --on '8 x H100' --batch 64 --tp 4 --recompute full")
    assert two["answers"][1]["step_latency_total"] == other["answers"][0]["step_latency_total"]
    assert [answer["on"] for answer in two["answers"]] == ["as asked", "--tp 4 --recompute full"]


@pytest.mark.usefixtures("typer")
def test_a_waterfall_adds_up_and_begins_at_the_peak():
    from mlsysim.cli.results import Answer
    from mlsysim.cli.why import split_of

    step = DistributedModel().solve(
        Models.get("Llama-3-8B"), fleet_called("8 x H100"), batch_size=64, tp_size=2, stack="megatron-core"
    )
    parts = split_of(Answer("8 x H100", step))
    seconds = step.step_latency_total.m_as("s")
    assert sum(parts.values()) == pytest.approx(seconds)
    assert next(iter(parts.items())) == ("arithmetic at the peak", pytest.approx(step.mfu * seconds))
