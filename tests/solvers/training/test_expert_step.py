"""Experts, latent attention, context parallelism and adapters in a training step: laws of scale, and what is refused."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsysim import DistributedModel, Fleet, Models, Systems
from mlsysim.calibration.collectives import collective_coefficients
from mlsysim.core.errors import InconsistentError, InputError, UnknownNameError
from mlsysim.lowering.work import training_work
from mlsysim.models.adapters import adapters_of
from mlsysim.models.types import MixtureOfExperts, TransformerWorkload
from mlsysim.physics.kernels.alpha_beta import distinct_targets
from mlsysim.physics.layer.context_parallel import ring_passes_B
from mlsysim.physics.layer.experts import exchange_s, local_experts, routed_rows
from mlsysim.physics.layer.products import ROUTED
from mlsysim.physics.layer.shape import ExpertShape
from mlsysim.physics.layer.sharding import rank_parameters, trained_parameters
from mlsysim.physics.layer.work import FULL, NONE
from mlsysim.physics.machine import Machine
from mlsysim.physics.plan import INTERLEAVED, ONE_F_ONE_B, Plan
from mlsysim.physics.training.layer_products import trained_products

SHAPE = ExpertShape(experts=64.0, per_token=8.0, ffn=1024.0, layers=1.0)
PLAN = Plan(1.0, 1.0, 64.0, 8.0, 1.0, 4.0, 4096.0, 1.0, 0.0, float(NONE), float(ONE_F_ONE_B), 2.0, 2.0, 12.0, 1.0, 0.0, 1.0)
MACHINE = Machine(1e15, 3.35e12, 450e9, 50e9, 8.0)
H100 = collective_coefficients("h100_sxm")
MIXTRAL, LLAMA = Models.Language.Mixtral_8x7B, Models.Language.Llama2_70B
POWERS = st.sampled_from([1.0, 2.0, 4.0, 8.0])


def train(workload=MIXTRAL, count=8, **asked):
    usual = {"batch_size": 256, "seq_len": 4096, "stack": "megatron-core", "recompute": "none"}
    return DistributedModel().solve(workload, Fleet(name="fleet", node=Systems.Nodes.DGX_H100, count=count), **usual | asked)


def seconds(result):
    return result.step_latency_total.m_as("second")


def memory(result):
    return result.memory_per_accelerator.m_as("byte")


@given(ep=POWERS, split=POWERS)
def test_ranks_divide_the_experts_and_their_parameters(ep, split):
    plan = replace(PLAN, ep=ep, expert_tp=split)
    work = training_work(MIXTRAL, 4096)
    whole = rank_parameters(work, replace(PLAN, ep=1.0), 1.0, 0.0).expert
    assert rank_parameters(work, plan, 1.0, 0.0).expert * ep * split == pytest.approx(whole)
    assert local_experts(SHAPE, plan) * ep == SHAPE.experts
    assert plan.expert_copies * ep * split == plan.tp * plan.dp


@given(ep=POWERS, split=POWERS, per_token=st.sampled_from([1.0, 2.0, 8.0]))
def test_all_ranks_of_a_stage_work_on_every_copy_of_a_token_once(ep, split, per_token):
    plan, shape = replace(PLAN, tp=2.0, dp=32.0, ep=ep, expert_tp=split), replace(SHAPE, per_token=per_token)
    ranks, groups = plan.tp * plan.dp, plan.expert_split
    assert routed_rows(shape, plan) * ranks / groups == plan.micro_batch_tokens * per_token * plan.dp


@given(ep=POWERS)
def test_the_arithmetic_of_balanced_experts_does_not_depend_on_where_they_are(ep):
    products = trained_products(MIXTRAL.layer_shape, replace(PLAN, ep=ep))
    flops = sum(2 * rows * one.n * one.k * groups for one, rows, groups in products if one.part == ROUTED)
    assert flops == 2 * 4096 * 2 * 3 * 14336 * 4096


def test_an_imbalance_costs_the_busiest_rank_its_factor():
    even, uneven = (routed_rows(replace(SHAPE, imbalance=factor), PLAN) for factor in (1.0, 1.5))
    assert uneven == 1.5 * even
    assert seconds(train(ep_size=8, routing_imbalance=1.5)) > seconds(train(ep_size=8))


def test_places_are_computed_whether_tokens_take_them_or_not():
    plain, few, many = (seconds(train(ep_size=8, capacity_factor=factor)) for factor in (None, 0.5, 1.5))
    assert few < plain < many == seconds(train(ep_size=8, routing_imbalance=1.5))
    copied, masked = (seconds(train(stack="maxtext", capacity_factor=factor)) for factor in (None, 1.0))
    assert masked != copied, "MaxText puts them in order by products"


def test_one_rank_sends_no_token_anywhere():
    assert exchange_s(SHAPE, 4096.0, replace(PLAN, ep=1.0), MACHINE, H100) == 0.0
    assert exchange_s(ExpertShape(), 4096.0, PLAN, MACHINE, H100) == 0.0


@given(per_token=st.sampled_from([1.0, 2.0, 4.0, 8.0]), ep=st.sampled_from([2.0, 8.0, 16.0, 64.0]))
def test_a_token_that_is_sent_once_never_takes_longer(per_token, ep):
    shape, plan = replace(SHAPE, per_token=per_token), replace(PLAN, ep=ep)
    once, often = (exchange_s(shape, 4096.0, plan, MACHINE, H100, sent_once) for sent_once in (1.0, 0.0))
    assert 0 < once <= often * (1 + 1e-12)


def test_only_an_interleaved_schedule_hides_what_the_network_carries():
    far = replace(PLAN, ep=64.0)
    chunked = replace(far, virtual_stages=2.0, schedule=float(INTERLEAVED))
    plain, hidden = (exchange_s(SHAPE, 4096.0, plan, MACHINE, H100, 1.0, 0.9) for plan in (far, chunked))
    assert hidden < plain == exchange_s(SHAPE, 4096.0, far, MACHINE, H100, 1.0, 0.0)
    near = [exchange_s(SHAPE, 4096.0, replace(chunked, ep=8.0), MACHINE, H100, 1.0, share) for share in (0.0, 0.9)]
    assert near[0] == near[1]


@given(targets=st.floats(1.0, 1e3), draws=st.integers(1, 16))
def test_distinct_targets_are_no_more_than_targets_or_draws(targets, draws):
    found = distinct_targets(targets, float(draws))
    assert 1.0 - 1e-9 <= found <= min(targets, draws) + 1e-9


def test_one_expert_that_all_visit_is_a_dense_layer():
    shape = {"layers": 32, "hidden_dim": 4096, "heads": 32, "kv_heads": 8, "ffn_hidden": 14336, "ffn_matrices": 3}
    shape |= {"name": "model", "vocab_size": 32000}
    dense = TransformerWorkload.of_architecture(**shape)
    one = TransformerWorkload.of_architecture(**shape, moe=MixtureOfExperts(experts=1, experts_per_token=1, ffn_hidden=14336))
    asked = {"precision": "bf16", "tp_size": 1, "microbatch_count": 1}  # passes so long that the host waits
    as_dense, routed = seconds(train(dense, **asked)), seconds(train(one, **asked))
    # What remains is to route: the router's product, and tokens put in order.
    assert as_dense < routed < 1.2 * as_dense


@pytest.mark.parametrize("workload", [LLAMA, Models.Language.DeepSeek_V3])
def test_context_parallelism_of_one_changes_nothing(workload):
    asked = {"tp_size": 8, "pp_size": 2}
    assert train(workload, **asked, cp_size=1) == train(workload, **asked)


def test_a_ring_divides_the_sequence_and_costs_little():
    asked = {"tp_size": 4, "seq_len": 32768, "batch_size": 64}
    alone, shared = train(LLAMA, **asked), train(LLAMA, **asked, cp_size=4)
    assert memory(shared) < memory(alone)
    assert shared.plan["cp"] == 4
    assert shared.plan["micro_batch_tokens"] * 4 == alone.plan["micro_batch_tokens"]
    assert seconds(alone) < seconds(shared) < 1.3 * seconds(alone)


@given(cp=st.integers(1, 64), chunk=st.floats(0.0, 1e9))
@settings(max_examples=30)
def test_the_ring_sends_keys_and_values_thrice_and_four_times_with_full_recomputation(cp, chunk):
    assert ring_passes_B(chunk, cp, NONE) == pytest.approx(3 * (cp - 1) * chunk)
    assert ring_passes_B(chunk, cp, FULL) == pytest.approx(4 * (cp - 1) * chunk)


def test_a_slow_ring_is_seen():
    fast = train(LLAMA, tp_size=8, cp_size=8, batch_size=8)
    slow = train(LLAMA, tp_size=8, cp_size=8, batch_size=8, congestion_factor=100.0)
    assert slow.breakdown["cp_exposed"] > fast.breakdown["cp_exposed"]


def test_adapters_spare_weight_gradients_states_and_their_traffic():
    asked = {"tp_size": 4, "batch_size": 64}
    full, adapted = train(LLAMA, **asked), train(LLAMA, **asked, lora_rank=16)
    assert seconds(adapted) < seconds(full)
    for part in ("optimizer", "gradients"):
        assert adapted.memory[part].m_as("byte") < 0.01 * full.memory[part].m_as("byte")
    assert 0.6 < adapted.mfu * seconds(adapted) / (full.mfu * seconds(full)) < 0.7


@given(rank=st.sampled_from([4, 8, 16, 64]))
@settings(max_examples=4, deadline=None)
def test_trained_parameters_grow_with_the_rank_of_the_adapters(rank):
    work = training_work(LLAMA, 4096, adapters_of(LLAMA, rank, "attention"))
    trained = trained_parameters(work, PLAN, 1.0, 0.0).whole
    assert trained == work.adapter_parameters == pytest.approx(rank * 8192 * (1 + 1.25 + 1 + 1))
    assert trained_parameters(training_work(LLAMA, 4096), PLAN, 1.0, 0.0) == rank_parameters(
        training_work(LLAMA, 4096), PLAN, 1.0, 0.0
    )


def test_adapters_stand_where_they_are_asked_for_and_by_default_where_the_stack_has_them():
    def adapted(lora_targets, stack="megatron-core"):
        asked = train(LLAMA, tp_size=4, batch_size=64, recompute="none", lora_rank=16, lora_targets=lora_targets, stack=stack)
        return seconds(asked), asked.memory["activations"].m_as("byte"), asked.memory["gradients"].m_as("byte")

    few, attention, every, usual = map(adapted, ("linear_qkv", "attention", "all", None))
    assert usual == every
    assert few[0] < attention[0] < every[0]
    assert few[1] == attention[1] < every[1], (
        "attention keeps its output anyway; the other products' inputs are kept for adapters"
    )
    assert few[2] < attention[2] < every[2]
    assert adapted(None, stack="hf-fsdp") == adapted("q_proj,v_proj", stack="hf-fsdp")
    assert adapted("q_proj, k_proj, v_proj")[2] > few[2], "each projection reads the input for itself"
    with pytest.raises(UnknownNameError, match=r"lora_targets = 'q_prj': .*did you mean 'q_proj'"):
        adapted("q_prj")


def test_sequences_are_split_over_tp_by_default_where_the_stack_splits_them():
    asked = {"tp_size": 4, "batch_size": 64, "recompute": "none"}
    assert train(LLAMA, **asked).plan["sequence_parallel"]
    assert not train(LLAMA, **asked, stack="megatron-2021").plan["sequence_parallel"]
    assert train(LLAMA, **asked, stack="megatron-2021", sequence_parallel=True).plan["sequence_parallel"]


def test_frozen_weights_are_kept_as_the_products_take_them():
    asked = {"tp_size": 4, "batch_size": 64, "lora_rank": 16}
    wide, narrow = (train(LLAMA, **asked, precision=name).memory["weights"].m_as("byte") for name in ("bf16", "fp8"))
    assert wide == pytest.approx(2 * narrow)


@pytest.mark.parametrize(
    ("workload", "asked", "says"),
    [
        (MIXTRAL, {"ep_size": 3}, "ep_size = 3: .*the 8 experts"),
        (MIXTRAL, {"ep_size": 16}, "ep_size = 16: .*the 8 experts"),
        (MIXTRAL, {"expert_tp_size": 3}, "expert_tp_size = 3: .*the 64 ranks of a stage"),
        (MIXTRAL, {"expert_tp_size": 64, "ep_size": 2}, "ep_size = 2: .*expert_tp_size 64 leaves"),
        (LLAMA, {"expert_tp_size": 2}, "expert_tp_size = 2: .*has no experts"),
        (LLAMA, {"ep_size": 2}, "ep_size = 2: .*has no experts"),
        (LLAMA, {"routing_imbalance": 1.2}, "routing_imbalance = 1.2: .*has no experts"),
        (MIXTRAL, {"routing_imbalance": 9.0}, "routing_imbalance = 9.0: .*the 8 experts"),
        (MIXTRAL, {"routing_imbalance": 1.2, "stack": None}, "routing_imbalance = 1.2: .*without stack"),
        (LLAMA, {"capacity_factor": 1.2}, "capacity_factor = 1.2: .*has no experts"),
        (MIXTRAL, {"capacity_factor": 1.2, "routing_imbalance": 1.2}, "routing_imbalance = 1.2: .*beside capacity_factor"),
        (LLAMA, {"compiled": True}, "compiled = True: .*'megatron-core'"),
        (LLAMA, {"async_tp": True, "stack": None}, "async_tp = True: .*without stack"),
        (LLAMA, {"cp_size": 3}, "cp_size = 3: .*the 4096 tokens"),
        (LLAMA, {"cp_size": 128}, "cp_size = 128: .*the 64 ranks"),
        (LLAMA, {"lora_rank": 10**6}, "lora_rank = 1000000: .*width of its layers"),
        (LLAMA, {"lora_targets": "all"}, "lora_targets = 'all': .*without lora_rank"),
        (LLAMA, {"lora_rank": 8, "lora_targets": "linear_qkv,q_proj"}, "lora_targets = 'linear_qkv,q_proj': .*each once"),
        (MIXTRAL, {"lora_rank": 8, "lora_targets": "all"}, "lora_targets = 'all': .*experts of Mixtral"),
        (LLAMA, {"tp_size": 8, "cp_size": 2, "dp_size": 8}, "dp_size = 8: expected 4"),
    ],
)
def test_contradictions_are_refused_with_their_numbers(workload, asked, says):
    with pytest.raises(InconsistentError, match=says):
        train(workload, **asked)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cp_size", 0),
        ("cp_size", 2.0),
        ("lora_rank", 0),
        ("lora_rank", "16"),
        ("routing_imbalance", 0.9),
        ("capacity_factor", 0.0),
        ("expert_tp_size", 0),
    ],
)
def test_values_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"{name} = "):
        train(**{name: value})
