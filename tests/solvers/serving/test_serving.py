"""Calibrated serving: what must hold whatever the coefficients are."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from repository import ANCHOR_TREE

from mlsysim import Fleet, Hardware, Models, NetworkFabric, ServingModel, Systems
from mlsysim.calibration.engines import engine, engine_device, engine_names
from mlsysim.calibration.evidence import FITTED_BASES
from mlsysim.calibration.harnesses import reached_through
from mlsysim.core.errors import InconsistentError, InputError, UnknownNameError
from mlsysim.fitting import engines
from mlsysim.fitting.calibration import Key, cases
from mlsysim.fitting.search import fitted, predicted
from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.serving_kernels import KernelFormats, calibrated_passes, serving_kernels
from mlsysim.lowering.work import served_shape
from mlsysim.physics.serving.deployment import ServedModel, Shards
from mlsysim.physics.serving.micro_batches import passes_of_micro_batches
from mlsysim.physics.serving.passes import prefill_pass
from mlsysim.tables.serving import METRICS, serving_question

LLAMA8, LLAMA70 = Models.get("llama3p1_8b"), Models.get("llama3p1_70b")
H100, DGX = Hardware.Cloud.H100, Systems.Nodes.DGX_H100
ENGINES = [name for name in engine_names() if not engine(name).has.own_products]
OWN = [name for name in engine_names() if engine(name).has.own_products]


def serve(workload=LLAMA8, hardware=H100, **given):
    asked = {"seq_len": 1024, "output_len": 256, "batch_size": 8, "stack": "vllm-2025", **given}
    return ServingModel().solve(workload, hardware, **asked)


def ms(quantity):
    return quantity.m_as("ms")


@pytest.mark.parametrize("name", engine_names())
def test_every_engine_is_slower_than_the_bound_and_its_parts_add(name):
    run, bound = serve(stack=name), serve(stack=None)
    assert run.basis in FITTED_BASES
    assert ms(bound.itl) < ms(run.itl) < 20 * ms(bound.itl)
    assert ms(bound.ttft) < ms(run.ttft)
    assert sum(ms(part) for part in run.breakdown.values()) == pytest.approx(ms(run.itl))
    assert len(run.coefficients) == len(set(run.coefficients)) >= 3


@pytest.mark.parametrize("name", ["vllm-2025", "tensorrt-llm-0.9", "llama.cpp-2024"])
def test_more_work_never_takes_less_time(name):
    batches = [ms(serve(stack=name, batch_size=batch).itl) for batch in (1, 2, 8, 32, 128)]
    contexts = [ms(serve(stack=name, seq_len=tokens).itl) for tokens in (128, 1024, 4096, 16384)]
    prompts = [ms(serve(stack=name, seq_len=tokens).ttft) for tokens in (128, 1024, 4096, 16384)]
    for times in (batches, contexts, prompts):
        assert times == sorted(times)


@pytest.mark.parametrize("name", ["vllm-2025", "fastertransformer", "llama.cpp-2024"])
def test_faster_memory_never_slows_a_step(name):
    def device(factor):
        memory = H100.memory.model_copy(update={"bandwidth": H100.memory.bandwidth * factor})
        return H100.model_copy(update={"memory": memory})

    times = [ms(serve(hardware=device(factor), stack=name).itl) for factor in (1.0, 1.1, 2.0)]
    assert times == sorted(times, reverse=True)
    assert times[0] > times[-1]


def test_one_accelerator_sends_nothing_and_two_do():
    assert ms(serve(tp_size=1).breakdown["communication"]) == 0
    assert ms(serve(hardware=DGX, tp_size=2).breakdown["communication"]) > 0


def test_tensor_parallelism_shortens_a_step_and_pipeline_stages_do_not():
    one, two = (ms(serve(LLAMA70, DGX, tp_size=tp, precision="fp8", batch_size=1).itl) for tp in (1, 4))
    assert two < one
    staged = serve(LLAMA70, DGX, tp_size=1, pp_size=4, precision="fp8", batch_size=1)
    assert ms(staged.itl) >= one


def staged_prompts_s(stages, queue, tokens=8192, precision="fp16"):
    """Seconds of a prompt of a 70B model on so many GPUs, by an engine whose launches queue as deep as said."""
    question = {"seq_len": tokens, "output_len": None, "batch_size": 1, "precision": precision}
    plan = {"tp_size": 1, "pp_size": stages, "replicas": 1, "schedule": "static", "stack": "llama.cpp-2024"}
    setting = Deployment.of(LLAMA70, DGX if stages > 1 else H100, **question, **plan)
    passes = calibrated_passes(setting)
    return replace(passes, has=replace(passes.has, queue=queue)).prefill_s(1.0, float(tokens))


def test_micro_batches_of_a_long_prompt_follow_each_other_through_the_stages_until_queues_are_full():
    alone, deep = staged_prompts_s(1, 1024.0), staged_prompts_s(4, 1e9)
    assert deep < alone / 2.5
    shallower = [staged_prompts_s(4, queue) for queue in (1e9, 1500.0, 1024.0, 500.0, 1.0)]
    assert shallower == sorted(shallower)
    assert alone * 0.95 < shallower[-1] < alone * 1.2


def test_one_micro_batch_is_not_hastened_by_stages():
    assert staged_prompts_s(4, 1024.0, tokens=512) >= staged_prompts_s(1, 1024.0, tokens=512)


def test_unpacking_weights_takes_launches_of_the_queue():
    unpacked, plain = (staged_prompts_s(4, 1e9, precision=precision) for precision in ("int4", "fp16"))
    held = [staged_prompts_s(4, 1024.0, precision=precision) for precision in ("int4", "fp16")]
    assert held[0] / unpacked > 1.3 * held[1] / plain > 1.3


@given(
    count=st.floats(1, 64),
    layers=st.integers(8, 128),
    stages=st.integers(1, 8),
    in_flight=st.sampled_from([0.0, 1.0, 5.0]),
    queued=st.floats(0.01, 50),
)
def test_micro_batches_take_one_pass_to_one_each_and_never_less_where_less_is_held(count, layers, stages, in_flight, queued):
    free = passes_of_micro_batches(count, float(layers), float(stages))
    held = passes_of_micro_batches(count, float(layers), float(stages), in_flight, queued)
    assert 1 <= free <= held <= count + 1e-9
    assert passes_of_micro_batches(count, float(layers), 1.0, in_flight, queued) == pytest.approx(count)
    arrays = [np.array([value], dtype=float) for value in (count, layers, stages)]
    assert passes_of_micro_batches(*arrays, in_flight, np.array([queued])) == pytest.approx(held)


@pytest.mark.parametrize("name", OWN)
def test_experts_run_on_engines_with_products_of_their_own(name):
    run = serve(Models.get("mixtral_8x7b"), Hardware.get("h200_sxm"), stack=name, batch_size=1, precision="fp16")
    assert 0 < ms(run.itl) < ms(run.ttft) < 1e4


def test_an_engine_with_products_of_its_own_sums_in_16_bits_where_a_card_is_faster_at_it():
    slower = Hardware.get("rtx4090")
    summed = slower.compute.model_copy(update={"fp16_sum_flops": None})
    question = {"seq_len": 512, "output_len": 1, "batch_size": 1, "precision": "fp16", "stack": "llama.cpp-2024"}
    both = [serve(hardware=card, **question).ttft for card in (slower, slower.model_copy(update={"compute": summed}))]
    assert ms(both[0]) < 0.9 * ms(both[1])


def test_narrower_caches_hold_more_and_narrower_weights_weigh_less():
    wide, narrow = serve(kv_precision="fp16"), serve(kv_precision="fp8")
    assert wide.kv_cache.m_as("byte") == pytest.approx(2 * narrow.kv_cache.m_as("byte"))
    assert narrow.max_batch > wide.max_batch
    sizes = [serve(precision=name).weights.m_as("byte") for name in ("fp16", "fp8", "awq")]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(("stack", "share"), [("tensorrt-llm-0.5", 0.85), ("tensorrt-llm-0.14", 0.9)])
def test_a_scheduler_fills_a_share_of_free_memory_and_a_fixed_batch_all(stack, share):
    fixed, scheduled = (serve(stack=stack, schedule=schedule).max_batch for schedule in ("static", "continuous"))
    assert scheduled == pytest.approx(share * fixed, abs=1)


@pytest.mark.parametrize(("card", "share"), [(Hardware.Cloud.H100, 1.0), (Hardware.Cloud.B200, 0.5)])
def test_a_narrow_cache_is_read_as_its_engine_can(card, share):
    """vLLM unpacks a cache of 8 bits to 16 on Hopper; between two steps no keys stay in the last-level cache."""
    wide, narrow = (
        calibrated_passes(Deployment.of(LLAMA8, card, stack="vllm-2025", input_len=512, kv_precision=name)).kernels
        for name in ("fp16", "fp8")
    )
    assert narrow.kv_B == share * wide.kv_B
    assert wide.decode.l2_share == 0


def test_experts_that_a_batch_touches_are_read():
    mixtral = Models.get("mixtral_8x7b")
    one, many = (serve(mixtral, DGX, tp_size=2, batch_size=batch) for batch in (1, 64))
    products = [ms(run.breakdown["matrix products"]) for run in (one, many)]
    assert 2 < products[1] / products[0] < 6  # 2 of 8 experts, then all


def test_a_request_is_its_first_token_and_the_others():
    run = serve()
    assert ms(run.request_latency) == pytest.approx(ms(run.ttft) + 255 * ms(run.tpot))
    assert run.tokens_per_second.m_as("count/second") == pytest.approx(8 * 256 / (ms(run.request_latency) / 1e3))


def test_the_definition_of_tpot_is_stated():
    after, whole = serve(), serve(tpot_excludes_first_token=False)
    assert (after.tpot_excludes_first_token, whole.tpot_excludes_first_token) == (True, False)
    assert ms(after.tpot) == ms(after.token_gap) == ms(whole.token_gap)
    assert ms(whole.tpot) == pytest.approx(ms(whole.request_latency) / 256)
    assert ms(whole.tpot) > ms(after.tpot)


def test_a_cached_prefix_saves_its_prefill_and_nothing_else():
    plain, half, all_of_it = (serve(seq_len=4096, prefix_hit=hit) for hit in (0.0, 0.5, 1.0))
    assert ms(plain.ttft) > ms(half.ttft) > ms(all_of_it.ttft)
    assert ms(half.itl) == pytest.approx(ms(plain.itl))
    assert half.memory_per_accelerator == plain.memory_per_accelerator


def test_prefills_of_others_lengthen_the_time_between_tokens():
    static, served = serve(batch_size=32), serve(batch_size=32, schedule="continuous")
    assert ms(served.tpot) > ms(static.tpot)
    assert ms(served.itl) == pytest.approx(ms(static.itl))


def test_requests_beyond_the_cache_wait():
    fits = serve(batch_size=8, schedule="continuous", seq_len=8192)
    waits = serve(batch_size=4 * fits.max_batch, schedule="continuous", seq_len=8192)
    assert waits.batch <= waits.max_batch
    assert ms(waits.ttft) > 10 * ms(fits.ttft)


def test_the_most_throughput_is_more_than_that_of_a_small_batch():
    most, small = serve(schedule="offline"), serve(schedule="continuous", batch_size=2)
    assert most.batch == most.max_batch
    assert most.tokens_per_second.m > small.tokens_per_second.m


def rate(**given):
    return serve(schedule="offline", **given).tokens_per_second.m_as("count/second")


def test_finitely_many_requests_come_in_waves():
    endless, places = rate(), serve(schedule="offline").max_batch
    assert rate(requests=10_000 * places) == pytest.approx(endless, rel=0.02)
    whole, begun = rate(requests=3 * places), rate(requests=3 * places + 1)
    assert begun < 0.99 * whole < 0.99 * endless, "one request more takes another wave"
    assert rate(requests=4 * places) > begun
    few = serve(schedule="offline", requests=5)
    assert few.batch == 5
    assert few.tokens_per_second.m < whole


@pytest.mark.parametrize("schedule", ["static", "continuous"])
def test_tokens_that_reach_the_client_in_bunches_keep_their_first_and_their_last(schedule):
    each, bunched = (serve(schedule=schedule, stream_interval=interval) for interval in (1, 20))
    assert (bunched.ttft, bunched.tpot, bunched.request_latency) == (each.ttft, each.tpot, each.request_latency)


def test_an_engine_starts_with_smaller_limits_on_a_smaller_card():
    """vLLM: 2048 tokens and 256 sequences below 70 GiB and on any A100; SGLang's chunk by memory alone."""
    cards = [Hardware.get(name) for name in ("l40s", "a100_sxm", "h100_sxm", "b200_sxm")]
    started = {
        stack: [Deployment.of(LLAMA8, card, stack=stack, input_len=64).stack for card in cards]
        for stack in ("vllm-2025", "sglang-2025")
    }
    assert [one.step_tokens for one in started["vllm-2025"]] == [2048, 2048, 8192, 8192]
    assert [one.most_sequences for one in started["vllm-2025"]] == [256, 256, 2048, 2048]
    assert [one.step_tokens for one in started["sglang-2025"]] == [4096, 8192, 8192, 16384]
    stated = Deployment.of(LLAMA8, cards[0], stack="vllm-2025", input_len=64, max_num_seqs=512).stack
    assert (stated.step_tokens, stated.most_sequences) == (2048, 512)


def test_a_client_adds_its_time_to_the_first_token_alone():
    near, far = (serve(harness_name=name) for name in ("in-process", "inferencemax"))
    added_s = reached_through("vllm-2025", "inferencemax").coefficients.request_s
    assert far.ttft.m_as("s") == pytest.approx(near.ttft.m_as("s") + added_s)
    assert far.itl == near.itl
    assert set(far.coefficients) - set(near.coefficients) == {"client.inferencemax.request_s"}
    with pytest.raises(InconsistentError, match="nothing without a stack"):
        serve(stack=None, harness_name="http")
    with pytest.raises(InconsistentError, match='0 with schedule = "offline"'):
        serve(schedule="offline", batch_wait_iters=20)
    with pytest.raises(InconsistentError, match='1 with schedule = "static"'):
        serve(schedule="static", recv_interval=10)


def test_ranks_that_attend_for_themselves_keep_all_but_routed_experts():
    mixtral = Models.get("mixtral_8x7b")
    shared, own = (serve(mixtral, DGX, tp_size=8, attention_dp=dp) for dp in (False, True))
    attention = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024)
    tables = 2 * 32000 * 4096
    more_B = own.memory_per_accelerator.m_as("byte") - shared.memory_per_accelerator.m_as("byte")
    assert more_B == pytest.approx(7 / 8 * 2 * (attention + tables), rel=0.01)


def test_weights_that_do_not_fit_are_said_first_with_their_bytes():
    run = serve(LLAMA70)
    assert not run.feasible
    assert "weights 131.4 GiB" in run.reason
    assert "GB" in str(run)


def test_replicas_multiply_rates_and_nothing_else():
    one, four = serve(), serve(replicas=4)
    assert four.tokens_per_second.m == pytest.approx(4 * one.tokens_per_second.m)
    assert ms(four.tpot) == ms(one.tpot)


def test_tensor_parallelism_across_nodes_costs_more():
    fleet = Fleet(name="two", node=DGX, count=2, fabric=NetworkFabric(name="IB", bandwidth="50 GB/s"))
    wide, within = serve(LLAMA70, fleet, tp_size=16), serve(LLAMA70, DGX, tp_size=8)
    assert ms(wide.breakdown["communication"]) > ms(within.breakdown["communication"])


def test_more_than_half_of_a_box_without_nvlink_meets_on_the_bus_between_its_sockets():
    pcie = Hardware.get("a100_pcie_80gb")
    formats = KernelFormats("fp16", "fp16", "fp16")
    device, found = engine_device(pcie.name), (engine("tensorrt-llm-0.14").coefficients, engine("tensorrt-llm-0.14").has)
    kernels = [serving_kernels(pcie, formats, device=replace(device, crossing_share=share)) for share in (1.0, 0.5)]
    assert kernels[0].collectives == kernels[1].collectives
    for tp in (2, 4, 8):
        times = [
            prefill_pass(ServedModel(served_shape(LLAMA70), Shards(tp, 1, 8, tp), kernel, *found), 1.0, 8192.0).reductions_s
            for kernel in kernels
        ]
        assert (times[1] > 1.5 * times[0]) == (tp == 8)


def test_an_encoder_has_one_pass():
    bert = Models.get("bert_base")
    run = ServingModel().solve(bert, Hardware.get("a100_sxm_80gb"), seq_len=128, batch_size=8, stack="fastertransformer-bert")
    assert ms(run.request_latency) == ms(run.ttft)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"stack": "vlm-2025"}, UnknownNameError, "did you mean 'vllm-2025'"),
        ({"efficiency": 0.5}, InconsistentError, "efficiency = 0.5: .*a stack knows its own"),
        ({"schedule": "statik"}, UnknownNameError, "did you mean 'static'"),
        ({"schedule": "offline", "output_len": None}, InconsistentError, "output_len"),
        ({"tp_size": 3}, InconsistentError, "tp_size = 3"),
        ({"hardware": Hardware.get("apple_m2_ultra")}, InputError, "llama.cpp"),
        ({"hardware": Hardware.get("tpu_v1")}, UnknownNameError, "accelerator with kernels for serving"),
    ],
)
def test_what_cannot_be_served_is_refused(changes, error, text):
    with pytest.raises(error, match=text):
        serve(**changes)


@pytest.mark.parametrize("name", engine_names())
def test_an_engine_has_at_most_six_coefficients(name):
    assert len(engine(name).fitted) <= 6


def test_the_fit_and_a_solve_agree():
    for anchor in cases(ANCHOR_TREE, ("serving",), "calibration")[::97]:
        asked = serving_question(anchor.case.run)
        run = ServingModel().solve(asked.workload, asked.hardware, **asked.arguments)
        found = predicted(engines.runs_of([anchor]), engines.ENGINES.tables())
        value = getattr(run, METRICS[asked.metric][0])
        expected = value.to_base_units().m if hasattr(value, "m") else value
        assert found[0] == pytest.approx(expected, rel=1e-6), anchor.id


def test_a_fit_of_some_coefficients_leaves_the_others_as_they_are():
    before, after = engines.ENGINES.tables(), engines.ENGINES.tables()
    vulkan = [anchor for anchor in cases(ANCHOR_TREE, ("serving",), "calibration") if anchor.source.key == "llama-cpp-gpus"]
    key = Key("engine", "llama.cpp-vulkan", "layer_s")
    assert key in fitted(engines.ENGINES, engines.runs_of(vulkan), after, [key])
    assert after["engine"][key.entry].pop("layer_s") == pytest.approx(before["engine"][key.entry].pop("layer_s"), rel=0.02)
    assert after["engine"] == before["engine"]
    untouched = engines.ENGINES.tables()
    assert fitted(engines.ENGINES, engines.runs_of(vulkan), untouched, []) == {}
    assert untouched == engines.ENGINES.tables()


def test_the_first_token_does_not_vanish_beside_an_output_of_any_length():
    load = {"input_len": 512, "schedule": "continuous", "batch_size": 1}
    short, long = (
        ServingModel().solve(Models.Language.Llama3_8B, Hardware.Cloud.H100, **load, output_len=length)
        for length in (64, 10**12)
    )
    assert long.ttft == short.ttft


def test_a_card_that_is_slow_at_16_bits_is_bound_by_its_32():
    """No engine beats the bound of a Tesla P40, whose cores do 11.8 TFLOP/s in 32 bits and 0.18 in 16."""
    load = {"precision": "bf16", "input_len": 4096, "output_len": 16}
    bound, run = (
        ServingModel().solve(Models.Language.Mistral_7B_v0_2, Hardware.get("Tesla P40"), stack=stack, **load)
        for stack in (None, "llama.cpp-2025")
    )
    assert bound.ttft <= run.ttft
    assert bound.ttft.m_as("s") == pytest.approx(2 * 4096 * 7e9 / 11.8e12, rel=0.2)
