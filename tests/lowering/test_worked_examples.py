"""Worked examples: the published formula, its numbers by hand, and what the physics gives."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mlsysim.hardware.registry import Hardware
from mlsysim.lowering.work import cached_B, inference_work, training_work
from mlsysim.models.registry import Models
from mlsysim.models.types import TransformerWorkload
from mlsysim.physics.kernels.alpha_beta import all_reduce_s, all_to_all_s, reduce_scatter_s, ring_bandwidth_Bps
from mlsysim.physics.kernels.roofline import roofline_s
from mlsysim.physics.layer.attention import cached_tokens, keys_seen
from mlsysim.physics.layer.work import FULL, NONE, SELECTIVE, kept_activation_B, recomputed_flops
from mlsysim.physics.machine import Machine
from mlsysim.physics.plan import GPIPE, INTERLEAVED, ONE_F_ONE_B, Plan, held_by_first_stage, held_by_last_stage
from mlsysim.physics.serving.inference import largest_batch, touched_experts
from mlsysim.physics.training.memory import training_memory
from mlsysim.physics.training.roofline_step import training_step
from mlsysim.physics.training.step import Overlap
from mlsysim.solvers.serving.serving import ServingModel
from mlsysim.solvers.training.distributed import DistributedModel

# GPT-3 as Narayanan et al. 2021 count it: l, h, V, s.
LAYERS, HIDDEN, VOCABULARY, SEQUENCE = 96, 12288, 51200, 2048
GPT3 = TransformerWorkload(
    name="GPT-3",
    parameters="174.6e9 count",
    layers=LAYERS,
    hidden_dim=HIDDEN,
    heads=96,
    ffn_hidden=4 * HIDDEN,
    vocab_size=VOCABULARY,
    tied_embeddings=True,
    positions=SEQUENCE,
    bias=True,
    causal=False,  # the paper's formulas count attention in full
)
# Layers alone: 12 h^2 parameters each, no head, so that every stage is alike.
BARE = TransformerWorkload(name="layers", parameters="7.5e9 count", layers=32, hidden_dim=4096, heads=32)
NO_OVERLAP = Overlap.of_all(0.0)


def plan(**given):
    """One accelerator, one micro-batch, no ZeRO; 16-bit weights and gradients, Adam's 12 bytes."""
    usual = dict.fromkeys(("tp", "pp", "dp", "ep", "virtual_stages", "micro_batches"), 1.0)
    usual |= {"micro_batch_tokens": 4096.0, "zero_stage": 0.0, "sequence_parallel": 0.0, "recompute": float(NONE)}
    usual |= {"schedule": float(ONE_F_ONE_B), "weight_B": 2.0, "gradient_B": 2.0, "optimizer_B": 12.0}
    usual |= {"cp": 1.0, "expert_tp": 0.0, "shard_copies": 1.0}
    return Plan(**{**usual, **given})


def machine(**given):
    """1 PFLOP/s; links and memory do not limit."""
    usual = {"rate_flops_per_s": 1e15, "memory_Bps": math.inf, "intra_Bps": math.inf, "inter_Bps": math.inf, "per_node": 8.0}
    return Machine(**{**usual, **given})


def test_parameters_of_gpt3():
    """Narayanan et al. 2021, equation 2: P = 12 l h^2 (1 + 13/(12 h) + (V + s)/(12 l h)) = 174.6e9."""
    shape = 1 + 13 / (12 * HIDDEN) + (VOCABULARY + SEQUENCE) / (12 * LAYERS * HIDDEN)
    published = 12 * LAYERS * HIDDEN**2 * shape
    assert published == pytest.approx(174.6e9, rel=1e-3)
    assert GPT3.computed_parameters == pytest.approx(published, rel=5e-3)
    assert training_work(GPT3, SEQUENCE).parameters == pytest.approx(published, rel=5e-3)


def test_flop_of_gpt3():
    """Narayanan et al. 2021, equation 3: F = 96 B s l h^2 (1 + s/(6 h) + V/(16 l h)), recomputation included.

    Forward counts one, backward two, the repeated forward one: three quarters of F without it (the head is not repeated).
    """
    work, tokens = training_work(GPT3, SEQUENCE), 1536 * SEQUENCE
    with_head = SEQUENCE / (6 * HIDDEN) + VOCABULARY / (16 * LAYERS * HIDDEN)
    published = 96 * tokens * LAYERS * HIDDEN**2 * (1 + with_head)
    assert tokens * work.training_flops_full_attention == pytest.approx(0.75 * published, rel=5e-3)
    repeated = work.layers * recomputed_flops(work, FULL)
    assert tokens * (work.training_flops + repeated) == pytest.approx(published, rel=1e-3)
    attention = tokens * work.layers * recomputed_flops(work, SELECTIVE)
    assert attention == pytest.approx(4 * tokens * LAYERS * HIDDEN * SEQUENCE), "scores and values: 4 B s^2 h a layer"


def test_flop_of_palm():
    """Chowdhery et al. 2022, appendix B: 6 N + 12 L H Q T FLOP a token (N 540.35e9, L 118, H 48, Q 256, T 2048)."""
    work = training_work(Models.Language.PaLM_540B, 2048)
    assert work.training_flops_full_attention == pytest.approx(6 * 540.35e9 + 12 * 118 * 48 * 256 * 2048, rel=5e-3)
    full, causal = work.training_flops_full_attention, work.training_flops
    assert full - causal == pytest.approx(6 * 118 * 48 * 256 * 2048), "a causal mask leaves half of the attention"


@pytest.mark.parametrize(
    ("seq_len", "causal", "window", "keys"),
    [
        (4096, False, 0, 4096),
        (4096, True, 0, 2048),
        (4096, False, 1024, 1024),
        (512, True, 1024, 256),
        (2, True, 1, 0.75),
    ],
)
def test_keys_that_a_query_sees(seq_len, causal, window, keys):
    """Mean over a triangle: s/2; with a window w below s the first w queries see fewer: w (1 - w/(2 s))."""
    shape = replace(Models.Language.Llama2_70B.layer_shape, window=float(window), windowed=float(window > 0))
    assert keys_seen(shape, float(seq_len), causal=causal) == pytest.approx(keys)


def test_activations_of_a_layer():
    """Korthikanti et al. 2022, table 2: s b h (34 + 5 a s/h) bytes a layer, 16-bit.

    Attention that stores no scores leaves 34; without the masks of two dropouts 32; TP leaves 10 - 2 = 8 whole.
    """
    work, h = training_work(GPT3, SEQUENCE), HIDDEN
    assert kept_activation_B(work, NONE, 1.0, 0.0) == pytest.approx(32 * h)
    assert kept_activation_B(work, NONE, 8.0, 0.0) == pytest.approx((8 + 24 / 8) * h)
    assert kept_activation_B(work, NONE, 8.0, 1.0) == pytest.approx(32 / 8 * h)
    assert kept_activation_B(work, FULL, 8.0, 0.0) == pytest.approx(2 * h), "the layer's input"
    assert kept_activation_B(work, FULL, 8.0, 1.0) == pytest.approx(2 / 8 * h)
    assert kept_activation_B(work, FULL, 1.0, 0.0) < kept_activation_B(work, SELECTIVE, 1.0, 0.0) < 32 * h


def test_activations_in_the_pipeline():
    """Korthikanti et al. 2022, section 4.2.3: the first stage of 1F1B holds p micro-batches of L/p layers, so L layers.

    Interleaving holds L (1 + (p-1)/(p m)) with m chunks; GPipe holds all micro-batches.
    """
    work = training_work(BARE, 4096)
    layer = kept_activation_B(work, NONE, 1.0, 0.0) * 4096
    deep = plan(pp=4.0, micro_batches=16.0)
    assert training_memory(work, deep).activations_B == pytest.approx(32 * layer)
    interleaved = replace(deep, virtual_stages=2.0, schedule=float(INTERLEAVED))
    assert training_memory(work, interleaved).activations_B == pytest.approx(32 * layer * (1 + 3 / (4 * 2)))
    gpipe = replace(deep, schedule=float(GPIPE))
    assert training_memory(work, gpipe).activations_B == pytest.approx(16 * 8 * layer)
    assert (held_by_first_stage(deep), held_by_last_stage(deep)) == (4, 1)
    few = replace(deep, micro_batches=2.0)
    assert held_by_first_stage(few) == 2, "no more than there are"


@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_zero_table(stage, gigabytes):
    """Rajbhandari et al. 2020, figure 1: 7.5e9 parameters, 64 ranks, K = 12: 16 P, 4 P + 12 P/64, 2 P + 14 P/64, 16 P/64."""
    work = training_work(BARE, 4096)
    used = training_memory(work, plan(dp=64.0, zero_stage=float(stage)))
    assert used.static_B / 1e9 == pytest.approx(gigabytes, rel=0.02)
    by_hand = {0: 16, 1: 4 + 12 / 64, 2: 2 + 14 / 64, 3: 16 / 64}[stage]
    assert used.static_B == pytest.approx(by_hand * work.parameters)


def test_zero_table_through_the_solver(make_fleet):
    run = DistributedModel().solve(BARE, make_fleet(count=8), batch_size=64, zero_stage=2, precision="fp16")
    static = run.memory["weights"] + run.memory["gradients"] + run.memory["optimizer"]
    assert static.m_as("GB") == pytest.approx(16.6, rel=0.02)


@pytest.mark.parametrize(
    ("name", "context", "per_token"),
    [
        ("Llama2_70B", 4096, 327_680),  # 2 x 80 layers x 8 heads x 128 x 2 B
        ("GPT3_175B", 2048, 4_718_592),  # 2 x 96 layers x 12288 x 2 B
        # DeepSeek-AI, Insights into DeepSeek-V3, ISCA 2025, table 1: 70.272, 327.680 and 516.096 KB a token.
        ("DeepSeek_V3", 4096, 70_272),  # 61 layers x (512 + 64) x 2 B
        ("Qwen2_5_72B", 4096, 327_680),
        ("Llama3_405B", 4096, 516_096),  # 2 x 126 layers x 8 heads x 128 x 2 B
    ],
)
def test_keys_and_values_of_a_token(name, context, per_token):
    model = Models.Language[name]
    assert cached_B(model, "bf16") == per_token
    assert inference_work(model, "bf16", "fp8").kv_B == per_token / 2
    run = ServingModel().solve(model, Hardware.Cloud.H100, seq_len=context, batch_size=3)
    assert run.kv_cache.m_as("byte") == pytest.approx(3 * context * per_token)


def test_windows_bound_the_cache():
    """gpt-oss: every second layer attends to 128 tokens only, the others to all (model card, 2025)."""
    model = Models.Language.GPT_OSS_120B.layer_shape
    assert cached_tokens(model, 131072) == pytest.approx((131072 + 128) / 2)
    assert cached_tokens(model, 64) == 64


@pytest.mark.parametrize("p", [2, 4, 8])
@pytest.mark.parametrize("m", [8, 64])
@pytest.mark.parametrize("v", [1, 2, 4])
def test_bubble(p, m, v):
    """Narayanan et al. 2021, section 2.2: bubble over ideal time is (p-1)/m, interleaving by v divides it by v."""
    kind = float(INTERLEAVED if v > 1 else ONE_F_ONE_B)
    split = plan(pp=float(p), micro_batches=float(m), virtual_stages=float(v), schedule=kind)
    step = training_step(training_work(BARE, 4096), split, machine(), NO_OVERLAP)
    assert step.bubble_s / step.compute_s == pytest.approx((p - 1) / m / v)
    gpipe = training_step(training_work(BARE, 4096), replace(split, schedule=float(GPIPE)), machine(), NO_OVERLAP)
    assert gpipe.total_s == pytest.approx(step.total_s), "GPipe costs memory, not time"


def test_the_slowest_stage_sets_the_pace():
    """33 layers on 4 stages: 9, 8, 8, 8. Eight micro-batches: 8 x 9 for the slowest, then 24 to drain: 96 of 66 busy."""
    uneven = training_work(BARE.model_copy(update={"layers": 33}), 4096)
    step = training_step(uneven, plan(pp=4.0, micro_batches=8.0), machine(), NO_OVERLAP)
    assert step.total_s / step.compute_s == pytest.approx(96 / 66)


def test_compute_is_flop_over_rate():
    """3 x 2 x 7.5e9 x 4096 FLOP at 1 PFLOP/s: 0.184 s, and attention 3 x 4 x 32 x 4096 x 2048 x 4096 FLOP: 0.013 s."""
    step = training_step(training_work(BARE, 4096), plan(), machine(), NO_OVERLAP)
    assert step.total_s == pytest.approx(0.18432 + 0.01319, rel=2e-3)
    assert step.compute_s == step.total_s
    full = training_step(training_work(BARE, 4096), plan(recompute=float(FULL)), machine(), NO_OVERLAP)
    assert full.total_s / step.total_s == pytest.approx(4 / 3)


def test_tensor_parallel_traffic():
    """Narayanan et al. 2021, section 3.2: a layer all-reduces b s h elements twice forward and twice backward."""
    work = training_work(BARE, 4096)
    step = training_step(work, plan(tp=8.0), machine(intra_Bps=450e9), NO_OVERLAP)
    one = 2 * (7 / 8) * (4096 * 4096 * 2) / 450e9
    assert step.tp_exposed_s == pytest.approx(32 * 4 * one)
    split = training_step(work, plan(tp=8.0, sequence_parallel=1.0), machine(intra_Bps=450e9), NO_OVERLAP)
    assert split.tp_exposed_s == pytest.approx(step.tp_exposed_s), "a reduce-scatter and an all-gather: the same bytes"
    full = training_step(work, plan(tp=8.0, recompute=float(FULL)), machine(intra_Bps=450e9), NO_OVERLAP)
    assert full.tp_exposed_s == pytest.approx(1.5 * step.tp_exposed_s), "two more in the repeated forward pass"


def test_data_parallel_traffic():
    """Rajbhandari et al. 2020, section 7: 2 P elements without ZeRO and with stages 1 and 2, 3 P with stage 3."""
    work = training_work(BARE, 4096)
    steps = [
        training_step(work, plan(dp=64.0, zero_stage=float(stage)), machine(inter_Bps=50e9, intra_Bps=450e9), NO_OVERLAP)
        for stage in range(4)
    ]
    # A ring over eight nodes of eight uses all eight cards of a node: 400 GB/s, less than NVLink's 450.
    assert steps[0].dp_exposed_s == pytest.approx(2 * 63 / 64 * 2 * work.parameters / 400e9)
    assert [step.dp_exposed_s / steps[0].dp_exposed_s for step in steps] == pytest.approx([1, 1, 1, 1.5])
    several = plan(dp=64.0, zero_stage=1.0, micro_batches=4.0)
    accumulated = training_step(work, several, machine(inter_Bps=50e9, intra_Bps=450e9), NO_OVERLAP)
    assert accumulated.dp_exposed_s == pytest.approx(steps[1].dp_exposed_s), "gradients are accumulated, then reduced once"


def test_gradients_of_experts_cross_nodes_on_one_card_each():
    """Eight experts a node: eight rings, one a card; by hand 4 bytes x 7/8 of the rank's experts at 50 GB/s."""
    work = training_work(Models.Language.Mixtral_8x7B, 4096)
    links = machine(inter_Bps=50e9, intra_Bps=450e9)
    step = training_step(work, plan(dp=64.0, ep=8.0, zero_stage=1.0), links, NO_OVERLAP)
    dense = 4 * 63 / 64 * (work.parameters - 32 * work.expert_parameters) / 400e9
    assert step.dp_exposed_s == pytest.approx(dense + 4 * 7 / 8 * 32 * work.expert_parameters / 8 / 50e9)
    within = training_step(work, plan(dp=8.0, ep=4.0), links, NO_OVERLAP)
    dense = 4 * 7 / 8 * (work.parameters - 32 * work.expert_parameters) / 450e9
    assert within.dp_exposed_s == pytest.approx(dense + 4 * 1 / 2 * 32 * work.expert_parameters / 4 / 450e9)


def test_parallel_blocks_reduce_once():
    """Chowdhery et al. 2022, section 2: attention and feed-forward block share one all-reduce a pass."""
    links, split = machine(intra_Bps=450e9), plan(tp=8.0)
    serial = training_step(training_work(BARE, 4096), split, links, NO_OVERLAP)
    parallel = training_step(training_work(BARE.model_copy(update={"parallel_block": True}), 4096), split, links, NO_OVERLAP)
    assert parallel.tp_exposed_s == pytest.approx(serial.tp_exposed_s / 2)


def test_what_hides_and_what_does_not():
    """All that fits under compute hides: with links ten times too fast to matter the step is its compute."""
    work = training_work(BARE, 4096)
    links = machine(intra_Bps=450e9, inter_Bps=50e9)
    split = plan(tp=8.0, dp=8.0, micro_batches=16.0)
    hidden, shown = (training_step(work, split, links, Overlap.of_all(share, whole_step=True)) for share in (1.0, 0.0))
    half = training_step(work, split, links, Overlap.of_all(0.5, whole_step=True))
    assert hidden.compute_s == shown.compute_s
    assert half.dp_exposed_s == pytest.approx(shown.dp_exposed_s / 2)
    slow = training_step(work, split, replace(links, intra_Bps=450e7), Overlap.of_all(1.0, whole_step=True))
    window = slow.compute_s
    communication = training_step(work, split, replace(links, intra_Bps=450e7), NO_OVERLAP).tp_exposed_s
    assert slow.tp_exposed_s == pytest.approx(communication - window), "what does not fit is exposed"
    assert slow.dp_exposed_s == pytest.approx(
        training_step(work, split, replace(links, intra_Bps=450e7), NO_OVERLAP).dp_exposed_s
    ), "and leaves nothing to hide under"


def test_adam_is_memory_traffic():
    """States read and written, gradient read, weight written: (2 x 12 + 2 + 2) bytes a parameter over the bandwidth."""
    work = training_work(BARE, 4096)
    alone = training_step(work, plan(), machine(memory_Bps=3e12), NO_OVERLAP)
    assert alone.optimizer_s == pytest.approx(28 * work.parameters / 3e12)
    sharded = training_step(work, plan(dp=64.0, zero_stage=1.0), machine(memory_Bps=3e12), NO_OVERLAP)
    assert sharded.optimizer_s == pytest.approx(alone.optimizer_s / 64)


def test_roofline():
    """Williams et al. 2009: at the ridge (rate over bandwidth FLOP a byte) both take the same time."""
    assert roofline_s(1e15, 1e12, 1e15, 1e12) == 1.0
    assert roofline_s(1e15, 2e12, 1e15, 1e12) == 2.0
    np.testing.assert_array_equal(roofline_s(np.array([1e15, 3e15]), 2e12, 1e15, 1e12), [2.0, 3.0])


@pytest.mark.parametrize("n", [1, 2, 8, 1024])
def test_ring_collectives(n):
    """Thakur et al. 2005: an all-reduce moves 2 (n-1)/n S through each link in 2 (n-1) steps; half of it each half."""
    assert all_reduce_s(1e9, n, 1e11) == pytest.approx(2 * (n - 1) / n * 0.01)
    assert all_reduce_s(1e9, n, 1e11, 5e-6) == pytest.approx(2 * (n - 1) / n * 0.01 + 2 * (n - 1) * 5e-6)
    assert 2 * reduce_scatter_s(1e9, n, 1e11, 5e-6) == pytest.approx(all_reduce_s(1e9, n, 1e11, 5e-6))


def test_all_to_all_thins_on_an_oversubscribed_fabric():
    """16 ranks, 8 a node: 8/16 of 8 GB leave the node at 50 GB/s: 80 ms; at 2:1 160; inside a node 7/8 of 8 GB at 450."""
    assert all_to_all_s(8e9, 16, 8, 450e9, 50e9) == pytest.approx(0.08)
    assert all_to_all_s(8e9, 16, 8, 450e9, 50e9, 2.0) == pytest.approx(0.16)
    assert all_to_all_s(8e9, 8, 8, 450e9, 50e9, 2.0) == pytest.approx(7e9 / 450e9)
    assert all_to_all_s(8e9, 1, 1, 450e9, 50e9) == 0


def test_a_ring_across_nodes_uses_all_their_cards():
    assert ring_bandwidth_Bps(True, 1, 450e9, 50e9) == 50e9
    assert ring_bandwidth_Bps(True, 8, 450e9, 50e9) == 400e9
    assert ring_bandwidth_Bps(True, 16, 450e9, 50e9) == 450e9, "never more than the scale-up link"
    assert ring_bandwidth_Bps(False, 8, 450e9, 50e9) == 450e9


def test_decode_reads_the_weights():
    """Pope et al. 2022: a small batch is bound by reading the weights: 138 GB at 3.35 TB/s are 41 ms."""
    run = ServingModel().solve(Models.Language.Llama2_70B, Hardware.Cloud.H100, seq_len=1)
    read = 2 * Models.Language.Llama2_70B.parameter_count / Hardware.Cloud.H100.memory_bandwidth_Bps
    assert run.itl.m_as("s") == pytest.approx(read, rel=0.01), "all but the embedding table, of which one row"
    assert run.binding == "memory capacity"
    assert run.breakdown["weight reads"] / run.itl > 0.99


def test_latent_attention_decodes_on_compressed_keys():
    """DeepSeek-V2 2024, section 2.1.2: 128 heads score 512 + 64 and sum 512 elements of each of 61 layers' cached vectors."""
    work = inference_work(Models.Language.DeepSeek_V3, "bf16", "bf16")
    assert work.decode_flops_per_key == 61 * 2 * 128 * (512 + 64 + 512)
    assert work.attention_flops_per_key == 61 * 2 * 128 * (128 + 64 + 128), "a prefill has keys and values of its own"


def test_prefill_is_arithmetic():
    """2 x 69e9 x 4096 FLOP and causal attention 4 x 80 x 8192 x 2048 x 4096 at 989.4 TFLOP/s: 0.59 s."""
    model = Models.Language.Llama2_70B
    run = ServingModel().solve(model, Hardware.Cloud.H100, seq_len=4096)
    matrices = model.parameter_count - model.hidden_dim * model.vocab_size * 2
    by_hand = 4096 * (2 * matrices + 4 * 80 * 8192 * 2048) / 989.4e12
    assert run.ttft.m_as("s") == pytest.approx(by_hand, rel=2e-3)
    half = ServingModel().solve(model, Hardware.Cloud.H100, seq_len=4096, efficiency=0.5)
    assert half.ttft / run.ttft == pytest.approx(2.0)
    assert half.itl == run.itl, "efficiency is of the arithmetic, decode reads memory"


def test_experts_that_a_batch_touches():
    """Each of n tokens leaves a given expert out with probability 1 - k/E, independently: 1 - (1 - k/E)^n."""
    assert touched_experts(8, 2, 0) == 0
    assert touched_experts(8, 2, 2) == pytest.approx(1 - 0.75**2)
    assert touched_experts(256, 8, 10_000) == pytest.approx(1)
    assert touched_experts(1, 1, 5) == 1


def test_largest_batch_is_whole():
    assert largest_batch(10.0, 1.0, 3.0) == 3
    assert largest_batch(9.0, 1.0, 3.0) == 3
    assert largest_batch(-1.0, 1.0, 3.0) == 0
