"""Experts and attention divided over ranks: which arguments go together, and what the division does to memory and time."""

import pytest

from mlsysim import Models, ServingModel
from mlsysim.core.errors import InputError
from mlsysim.hardware.registry import Hardware
from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.serving_kernels import calibrated_passes
from mlsysim.physics.serving.expert_ranks import sent_B
from mlsysim.systems.fleets import usual_nodes
from mlsysim.tables.serving import serving_question

DEEPSEEK = Models.get("deepseek_v3")
LOAD = {"input_len": 2000, "output_len": 100, "precision": "fp8_block", "stack": "sglang-2025"}
WIDE = {"tp_size": 16, "ep_size": 16, "attention_dp": True}


def serve(model=DEEPSEEK, hardware=None, **options):
    ranks = options.get("tp_size", 1)
    return ServingModel().solve(model, hardware or usual_nodes(Hardware.Cloud.H100, ranks), **LOAD | options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tp_size": 8, "ep_size": 3}, "ep_size = 3: expected a divisor of the 8 ranks"),
        ({"tp_size": 8, "attention_dp": 3}, "attention_dp = 3: expected True, False or a divisor of tp_size = 8"),
        ({"tp_size": 8, "redundant_experts": 8}, "redundant_experts = 8: expected left out with ep_size = 1"),
        ({"tp_size": 8, "ep_size": 8, "redundant_experts": 3}, "divides by ep_size = 8"),
        ({"tp_size": 8, "ep_size": 8, "redundant_experts": 512}, "redundant_experts = 512"),
        ({"tp_size": 8, "ep_size": 8, "routing_imbalance": 0.5}, "routing_imbalance = 0.5"),
        ({"tp_size": 8, "ep_size": 8, "two_batch_overlap": True}, "two_batch_overlap = True"),
        ({"tp_size": 8, "ep_size": 8, "attention_dp": True, "two_batch_overlap": "yes"}, "two_batch_overlap = 'yes'"),
        ({"tp_size": 1024, "ep_size": 1024, "attention_dp": True}, "ep_size = 1024: expected at most 512"),
    ],
)
def test_what_contradicts_itself_is_said(options, said):
    with pytest.raises(InputError) as raised:
        serve(**options)
    assert said in str(raised.value)


def test_dense_models_have_no_experts_to_deal_out():
    with pytest.raises(InputError, match="ep_size = 8: expected 1: Llama"):
        serve(Models.Language.Llama2_70B, tp_size=8, ep_size=8)
    with pytest.raises(InputError, match="ranks of a group that are a divisor of the 64 heads"):
        serve(Models.Language.Llama2_70B, usual_nodes(Hardware.Cloud.H100, 6), tp_size=6, attention_dp=2)


def test_ranks_that_share_everything_are_todays_answer():
    one = serve(tp_size=16)
    assert serve(tp_size=16, ep_size=1, attention_dp=1).itl == one.itl
    assert serve(tp_size=16, attention_dp=False).memory_per_accelerator == one.memory_per_accelerator


def test_bytes_of_a_token_on_its_way():
    """DeepEP: 7,168 elements in 8 bits, 56 scales in 32 and a header of 16 bytes; 16 bits back."""
    passes = calibrated_passes(Deployment.of(DEEPSEEK, usual_nodes(Hardware.Cloud.H100, 16), **LOAD, **WIDE))
    assert sent_B(passes, low_latency=True) == (7408, 14336)


def test_memory_of_a_rank():
    """Second copies of 32 of 256 experts are an eighth of their bytes more, on each rank."""
    few, more = (serve(**WIDE, redundant_experts=number).memory_per_accelerator.m_as("byte") for number in (0, 32))
    assert more - few == pytest.approx(58 * 32 * 3 * 7168 * 2048 / 16, rel=1e-3), "8 bits and a scale for 128 x 128"
    # Groups of ranks with sequences of their own keep attention of theirs; KV is divided by groups, a latent one no further.
    setting = Deployment.of(DEEPSEEK, usual_nodes(Hardware.Cloud.H100, 16), **LOAD, tp_size=16, ep_size=16, attention_dp=4)
    assert (setting.attention_ranks, setting.kv_shards) == (4, 4)
    halves, all_apart = (serve(tp_size=16, ep_size=16, attention_dp=groups) for groups in (8, 16))
    assert halves.memory_per_accelerator < all_apart.memory_per_accelerator


def test_what_slows_and_what_does_not():
    steps = [serve(**WIDE, batch_size=size).itl for size in (16, 64, 256, 1024, 4096)]
    assert steps == sorted(steps)
    uneven = [serve(**WIDE, batch_size=1024, routing_imbalance=imbalance).itl for imbalance in (1.0, 1.2, 2.0)]
    assert uneven == sorted(uneven)
    apart, turns = (serve(**WIDE, batch_size=4096, two_batch_overlap=overlap).itl for overlap in (False, True))
    assert turns < apart
    fleet = usual_nodes(Hardware.Cloud.H100, 16)
    slow, fast = (
        serve(hardware=fleet.model_copy(update={"fabric": fleet.fabric.model_copy(update={"bandwidth": rate})}), **WIDE).itl
        for rate in (fleet.fabric.bandwidth, 4 * fleet.fabric.bandwidth)
    )
    assert fast <= slow


def test_tables_say_how_ranks_are_divided():
    row = {"model": "DeepSeek-V3", "accelerator": "H100-SXM-80GB", "engine": "sglang", "mode": "static", "input_len": "2000"}
    row |= {"metric": "output_tokens_per_s", "batch_or_concurrency": "2048", "weight_precision": "fp8"}
    by_ranks = serving_question(row | {"tp": "1", "dp": "16", "ep": "16", "n_accel": "16"}).arguments
    assert [by_ranks[name] for name in ("tp_size", "attention_dp", "ep_size", "replicas")] == [16, 16, 16, 1]
    # SGLang counts all ranks in tp, and deals them out to dp groups.
    counted = serving_question(row | {"tp": "16", "dp": "8", "ep": "16", "n_accel": "16"}).arguments
    assert [counted[name] for name in ("tp_size", "attention_dp", "ep_size", "replicas")] == [16, 8, 16, 1]
    assert counted["precision"] == "fp8_block", "the published weights"
    plain = serving_question(row | {"tp": "8", "dp": "1", "ep": "0", "n_accel": "16"}).arguments
    assert (plain["tp_size"], plain["replicas"]) == (8, 2)
    assert not {"ep_size", "attention_dp"} & set(plain)
