"""A step of plain kernels: a product of 64^3 takes 1 s at the peak, here 2 s at half the clock; 16,384 bytes take 1 s."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from plain import PEAK, PRODUCTS, UNIT
from plain_trained import DEVICE, MODEL, NET, ROUTED, SHAPE, SHARED, SPLIT

from mlsysim.physics.kernels.gemm import GemmKernel, SharedGemm, gemm_s
from mlsysim.physics.layer.adapters import NO_ADAPTERS, Adapters
from mlsysim.physics.layer.products import ROUTED as ROUTED_PART
from mlsysim.physics.layer.products import LayerProduct
from mlsysim.physics.layer.shape import LatentShape
from mlsysim.physics.records import stacked
from mlsysim.physics.training.kernel_step import layer_times
from mlsysim.physics.training.layer_products import OF_INPUTS, OF_WEIGHTS, RESULT, call_s
from mlsysim.physics.training.step_inputs import StackCoefficients

# Residual stream 128 x 128 elements, feed-forward block 128 x 256 / 2, queries, keys and values 128 x 256: 1, 1 and 2 s a byte.
FORWARD_S = 96 + 22 + 6 + 2 * 5
# ... and 10 bytes to accumulate each of 16384 / 2 weight gradients.
BACKWARD_S = 192 + 42 + 10 + 2 * 10 + 5
# Fused: 2 sequences x 2 heads x 64 x 64 / 2 scores of 4 x 64 FLOP are 4 units: 8 s; backward 2.5 / 0.5 times as long.
ATTENTION_S, ATTENTION_BACK_S = 8.0, 40.0


def layer(shape=SHAPE, split=SPLIT, net=NET, device=DEVICE, model=MODEL, **stack):
    return layer_times(model, shape, split, net, device, StackCoefficients(**{"loss_B": 3.0} | stack))


def test_a_layer():
    found = layer()
    assert found.forward_s == pytest.approx(FORWARD_S + ATTENTION_S)
    assert found.backward_s == pytest.approx(BACKWARD_S + ATTENTION_BACK_S)
    assert found.selective_s == pytest.approx(8)
    assert (found.ring_window_s, found.unrepeated_s) == (0, 0)
    assert (found.sent_forward_s, found.sent_backward_s) == (0, 0)
    # An all-reduce of 3 x 128 bytes between two: 2 x 1/2 x 384 / 96.
    assert found.reduction_s == pytest.approx(4)
    # The head: three products of 2 x 2 x 2 at twice the peak, half the clock: 24 s; 3 bytes of each of 128 x 128 logits.
    assert found.head_s == pytest.approx(24 + 3)


@pytest.mark.parametrize(
    ("changed", "forward", "backward"),
    [
        # A plain block: up alone 2 x 2 x 2 instead of 2 x 4 x 2; 4 and 8 bytes instead of 6 and 10.
        ({"ffn_matrices": 2.0}, -16 - 2, -32 - 2),
        # One key head on both ranks: 4 x 64 = 2 x 2 x 64 of queries and 2 x 64 of keys and values: as many.
        ({"kv_heads": 1.0}, 0, 0),
        # Keys as wide as queries: two more units of outputs: 2 x 2 x 2, and 128 x 128 elements of 5 and 10 bytes.
        ({"kv_heads": 4.0}, 16 + 5, 32 + 10),
        # FlashAttention-1 at 0.4 of the rate; FlashAttention-2 on Hopper at 0.8.
        ({"flash_1": 1.0}, 8 / 0.4 - 8, 40 / 0.4 - 40),
        ({"older_on_hopper": 1.0}, 8 / 0.8 - 8, 40 / 0.8 - 40),
        ({"flash_1": 1.0, "older_on_hopper": 1.0}, 8 / 0.32 - 8, 40 / 0.32 - 40),
        # A quarter of the layers sees 32 of 64 keys: 32 x (1 - 32/128) = 24 on average instead of 32.
        ({"window": 32.0, "windowed": 0.25}, -0.25 * 2, -0.25 * 10),
        # Stored scores: 2 x 2 x 64 x 64 of 4 x 64 FLOP are 8 units, which take 2 s each; 16384 scores of 10 and 30 bytes.
        ({"flash": 0.0}, 16 + 10 - 8, 32 + 30 - 40),
    ],
)
def test_other_layers(changed, forward, backward):
    found = layer(replace(SHAPE, **changed))
    assert found.forward_s == pytest.approx(FORWARD_S + ATTENTION_S + forward)
    assert found.backward_s == pytest.approx(BACKWARD_S + ATTENTION_BACK_S + backward)


def test_stored_scores_of_heads_that_no_tensor_core_loads_at_once():
    """Heads of 60: no multiple of eight, so that a unit takes 4 s: 30 s and 60; 10 and 30 bytes of 16384 scores.

    QKV of 4 x 60 is as many tiles; 240 instead of 256 elements a token are moved. The output product is 8 of 128 less deep, 0.5
    units, and the one that makes the gradient of QKV's input 16 of 256, a unit.
    """
    found = layer(replace(SHAPE, flash=0.0, head_dim=60.0))
    assert found.forward_s == pytest.approx(FORWARD_S + 30 + 10 - 128 * 16 * 5 / 16384 - 1)
    assert found.backward_s == pytest.approx(BACKWARD_S + 60 + 30 - 128 * 16 * 10 / 16384 - 2)


@pytest.mark.parametrize(
    ("stack", "forward", "backward"),
    [
        ({"norm_B": 3.0}, 3, 3),
        ({"accumulated_B": 4.0}, 0, 2 - 5),
        ({"host_layer_s": 7.0}, 7, 7),
        ({"attention_rate": 2.0}, -4, -20),
        ({"backward_rate": 1.0}, 0, -20),
    ],
)
def test_what_a_stack_adds_to_a_layer(stack, forward, backward):
    found = layer(**stack)
    assert found.forward_s == pytest.approx(FORWARD_S + ATTENTION_S + forward)
    assert found.backward_s == pytest.approx(BACKWARD_S + ATTENTION_BACK_S + backward)
    assert found.head_s == pytest.approx(27 + 3 * stack.get("host_layer_s", 0))


def test_host_and_device_run_beside_each_other():
    """A norm of 2: 142 s of kernels and 142 s of launches take sqrt(2) x 142."""
    device = replace(DEVICE, shared=replace(SHARED, launch_norm=2.0))
    assert layer(device=device, host_layer_s=142.0).forward_s == pytest.approx(2**0.5 * 142)


@pytest.mark.parametrize(("tokens", "launches"), [(2 * UNIT, 1), (3 * UNIT, 5), (2.5 * UNIT, 5)])
def test_a_fused_softmax_takes_score_matrices_by_fours(tokens, launches):
    """2 sequences x 4 heads / 2 = 4 matrices are one block; 3 x 2 and 2.5 x 2 take five times the launches."""
    shape, split = replace(SHAPE, flash=0.0), replace(SPLIT, micro_batch_tokens=tokens)
    quiet, busy = layer(shape, split).forward_s, layer(shape, split, host_layer_s=7.0).forward_s
    assert busy - quiet == pytest.approx(7 * launches)
    flash = replace(SPLIT, micro_batch_tokens=3 * UNIT)
    assert layer(SHAPE, flash, host_layer_s=7.0).forward_s - layer(SHAPE, flash).forward_s == pytest.approx(7)


def test_sequence_parallelism_divides_the_residual_stream():
    found = layer(split=replace(SPLIT, sequence_parallel=1.0))
    assert found.forward_s == pytest.approx(FORWARD_S + ATTENTION_S - 22 / 2)
    assert found.backward_s == pytest.approx(BACKWARD_S + ATTENTION_BACK_S - 42 / 2)


def test_a_ring_merges_its_outputs_and_hides_under_attention_and_while_the_host_launches():
    """8 bytes of 128 x 128 outputs, 6 for each of two more ranks, backward 4 and 6; the host adds 5 s to each pass."""
    found = layer(split=replace(SPLIT, cp=3.0))
    assert found.forward_s == pytest.approx(FORWARD_S + ATTENTION_S + 8 + 2 * 6)
    assert found.backward_s == pytest.approx(BACKWARD_S + ATTENTION_BACK_S + 4 + 2 * 6)
    assert found.ring_window_s == pytest.approx(8 + 40)
    assert layer(split=replace(SPLIT, cp=2.0), host_layer_s=5.0).ring_window_s == pytest.approx(8 + 40 + 2 * 5)
    assert layer(split=replace(SPLIT, cp=3.0), merged_B=38.0).forward_s == pytest.approx(FORWARD_S + ATTENTION_S + 8 + 2 * 38)
    # 12 bytes of keys and values a token, between two ranks of tensor parallelism: 3 x 128 elements, of 8 bytes and of 15.
    keyed = layer(split=replace(SPLIT, cp=3.0), model=replace(MODEL, key_value_B=12.0))
    assert keyed.forward_s - found.forward_s == pytest.approx(3 * 128 * 8 / 16384)
    assert keyed.backward_s - found.backward_s == pytest.approx(3 * 128 * 15 / 16384)


def test_queries_of_a_ring_go_through_a_kernel_of_each_rank():
    """What a query costs beside 32 scores is that of 16 more, in a ring of two of 32; where keys are gathered, of 16."""
    slow = replace(DEVICE, attention=replace(DEVICE.attention, tile_keys=16.0))
    found = [
        layer(device=slow, split=replace(SPLIT, cp=cp), keys_gathered=gathered) for cp, gathered in ((1, 0), (2, 0), (2, 1))
    ]
    assert [one.ring_window_s or one.forward_s - FORWARD_S for one in found] == pytest.approx([12, 16 + 80, 12])


def test_ranks_that_gather_all_keys_merge_nothing_and_hide_nothing():
    found = layer(split=replace(SPLIT, cp=3.0), keys_gathered=1.0)
    assert (found.forward_s, found.ring_window_s) == (pytest.approx(FORWARD_S + ATTENTION_S), 0)


def test_collectives_run_on_the_links_of_the_node():
    """3 x 128 bytes between two, 2 x 1/2 of them sent: 4 s at 96 B/s, 8 s at 48."""
    slower = DEVICE.in_node(48.0)
    assert layer(device=slower, net=replace(NET, intra_Bps=48.0)).reduction_s == pytest.approx(8)
    assert (slower.link_Bps, slower.in_node(48.0)) == (48, slower)
    assert slower.collectives.tuner.link_Bps == 0.5 * DEVICE.collectives.tuner.link_Bps


def test_links_and_clock_of_a_cluster():
    """A third of 96 B/s, and four fifths of three quarters of a clock of a half: the slowest accelerator's."""
    found = DEVICE.under(StackCoefficients(link_share=1 / 3, compute_share=0.8), replace(NET, slowest_clock=0.75))
    assert (found.link_Bps, found.clock) == (pytest.approx(32), pytest.approx(0.3))
    assert found.collectives.bandwidth_Bps == pytest.approx(32)
    assert DEVICE.under(StackCoefficients(), NET) == DEVICE


def test_products_of_another_kernel_than_the_vendors():
    """At half the rate, products of 96 units take 192 s: forward, and twice that backward; the head keeps its own."""
    found = layer(device=DEVICE.under(StackCoefficients(product_rate=0.5), NET))
    assert found.forward_s == pytest.approx(FORWARD_S + ATTENTION_S + 96)
    assert found.backward_s == pytest.approx(BACKWARD_S + ATTENTION_BACK_S + 192)
    assert found.head_s == pytest.approx(27)


def test_reductions_over_links_and_network():
    assert layer(split=replace(SPLIT, tp=1.0)).reduction_s == 0
    # One of a torus' two axes has half of the links.
    assert layer(device=replace(DEVICE, torus_axes=2.0)).reduction_s == pytest.approx(8)
    # Two ranks on two nodes: 384 bytes at one card's 24 B/s.
    assert layer(net=replace(NET, per_node=1.0)).reduction_s == pytest.approx(16)
    four = replace(SPLIT, tp=4.0)
    assert layer(split=four).reduction_s == pytest.approx(2 * 3 / 4 * 4)
    assert layer(split=four, device=replace(DEVICE, torus_axes=2.0)).reduction_s == pytest.approx(12)
    # A node's own links, as long as they reach: two axes make them half, the roofline's ring would not.
    full_node = replace(NET, per_node=2.0)
    assert layer(net=full_node, device=replace(DEVICE, torus_axes=2.0)).reduction_s == pytest.approx(8)


def test_heads():
    assert layer(replace(SHAPE, head_passes=2.0)).head_s == pytest.approx(54)
    assert layer(replace(SHAPE, vocab=0.0)).head_s == 0
    assert layer(loss_B=52.0).head_s == pytest.approx(24 + 52)
    assert layer(compiled_loss_B=8.0).head_s == pytest.approx(24 + 8)
    assert layer(replace(SHAPE, eager=1.0), compiled_loss_B=8.0).head_s == pytest.approx(24 + 3), "an eager run compiles none"
    assert layer(model=replace(MODEL, frozen=1.0)).head_s == pytest.approx(27 - 8), "no gradient of the weights"


def test_frozen_weights_have_no_gradients():
    """96 s less backward; adapters of rank 64 on QKV (64 x 4 wide, 2 deep) and output (2, 2), products at twice the peak.

    Forward 2 x 1 x 2 + 2 x 4 x 1 = 12 and 2 x 1 x 2 + 2 x 2 x 1 = 8 units: 20 s; twice that backward; and 10 bytes of 128 x 256
    and of 128 x 128 elements: 30 s, each way. 4 / 8 more launches.
    """
    frozen = replace(MODEL, frozen=1.0, adapter_parameters=1638.4)
    plain = layer(model=frozen)
    assert plain.backward_s == pytest.approx(BACKWARD_S + ATTENTION_BACK_S - 96 - 5 + 0.5), "819.2 gradients are accumulated"
    attentions = Adapters(rank=UNIT, qkv=1.0, qkv_readers=1.0, output=1.0)
    adapted = layer(replace(SHAPE, adapters=attentions), model=frozen, host_layer_s=8.0)
    neither, one = layer(replace(SHAPE, adapters=stacked([NO_ADAPTERS, attentions])), model=frozen).backward_s
    assert (neither, one) == pytest.approx((plain.backward_s, adapted.backward_s - 12))
    assert adapted.forward_s == pytest.approx(FORWARD_S + ATTENTION_S + 20 + 30 + 8 * 1.5)
    assert adapted.backward_s == pytest.approx(plain.backward_s + 40 + 30 + 12)


def test_products_read_and_write_their_operands():
    """Without arithmetic: bytes of 2 x (m k + n k + m n), here of 64 x 64: QKV 4 + 8 + 8, output 3 x 4, up 20, down 12: 64.

    The head's product of 2 x 2 x 2: 12, three times. A cache holds inputs: of 20 x 8 KiB those 4 that fit beside the rest.
    """
    reads = GemmKernel(inf, 0.0, inf, 1.0, 0.0, SharedGemm(1.0, 0.0, 0.0, 1.0), most_splits=1.0)
    device = replace(DEVICE, gemm=reads, head_gemm=reads)
    element_s = UNIT**2 / 32768
    found = layer(device=device)
    assert found.forward_s == pytest.approx(FORWARD_S + ATTENTION_S - 96 + 64 * 2 * element_s)
    assert found.head_s == pytest.approx(3 + 36 * 2 * element_s)
    narrow = layer(device=replace(device, gemm_input_B=1.0))
    assert narrow.forward_s == pytest.approx(
        FORWARD_S + ATTENTION_S - 96 + (12 + 20 + 8 + 4 + 12 + 20 + 8 + 4) / 88 * 88 * element_s
    )
    cached = layer(device=replace(device, cache_B=1e9))
    assert cached.forward_s == pytest.approx(FORWARD_S + ATTENTION_S - 96 + (64 - 16) * 2 * element_s)
    assert cached.head_s == pytest.approx(3 + (36 - 12) * 2 * element_s)


EP = replace(SPLIT, dp=2.0, ep=2.0)


def test_experts():
    """Half of the layers have 256 experts, 128 on a rank: 256 copies of tokens are two rows each, in tiles of 64.

    Each of 128 experts: 1 x 2 x 2 and 1 x 2 x 1 units, 12 s; routing 2 x 4 x 2 at twice the peak: 16 s. Bytes: 6 of 256 x 64;
    in order 4 x 128 x (128 + 256 + 2 x 256), 24 of 128 tokens x 256 experts. What remains dense: half of up and down (48 s) and
    of 6 s of the activation function.
    """
    shape = replace(SHAPE, routed=ROUTED)
    dense_s = FORWARD_S + ATTENTION_S - 24 - 3
    moved_B = 6 * 256 * 64 + 4 * 128 * (128 + 256 + 512) + 24 * 128 * 256
    experts_s = 128 * 12 + 16 + moved_B / 16384
    # Dispatch and combine, in half of the layers: two copies of 2 x 128 x 128 bytes, of which half stay; as many are gathered.
    sent_s = 2 * 0.5 * (65536 / 2 + 65536 / 2) / 96
    found = layer(shape, EP)
    assert found.sent_forward_s == pytest.approx(sent_s)
    assert found.sent_backward_s == pytest.approx(sent_s)
    assert found.forward_s == pytest.approx(dense_s + experts_s / 2)
    host = layer(shape, EP, host_expert_s=6.0)
    assert host.forward_s - found.forward_s == pytest.approx(3)
    more = layer(shape, EP, routed_B=3.0)
    assert more.forward_s - found.forward_s == pytest.approx(0.5 * 3 * 256 * 128 / 16384)
    assert more.backward_s - found.backward_s == pytest.approx(0.5 * 3 * 256 * 128 / 16384)
    biased = layer(replace(shape, biased=1.0), EP, biased_B=5.0)
    assert biased.forward_s - found.forward_s == pytest.approx(0.5 * 5 * 256 * 128 / 16384)
    assert layer(shape, EP, biased_B=5.0) == found, "experts without biases"
    beside = layer(shape, EP, exchange_units=0.25)
    assert beside.sent_forward_s == pytest.approx(2 * 0.5 * (65536 / 2 / 4 + 65536 / 2) / 96), "a quarter of the device"
    quantised = layer(shape, EP, device=replace(DEVICE, gemm_input_B=1.0))
    assert quantised.forward_s - found.forward_s == pytest.approx(0.5 * 4 * 256 * (128 + 64) / 16384)
    assert quantised.backward_s - found.backward_s == pytest.approx(0.5 * 4 * 256 * (128 + 128) / 16384)


def test_a_kernel_of_experts_reads_its_operands_for_each_tile():
    """128 experts of three rows, 128 x 128, in tiles of two rows and 64 features: 128 x 3 / 2 x 2 x 2 = 768 of them.

    A tile of results reads 64 x (2 + 64) values of two bytes at 16,384 a second, while it computes in less. One of gradients of
    weights reads 2 x (64 + 64), and all of them take as long as any product: 128 x (3 x 128 + 3 x 128 + 128 x 128) values.
    """
    quick = replace(DEVICE, gemm_peak_flops_per_s=1e12 * PEAK, gemm=replace(PRODUCTS, memory_efficiency=0.5))
    one = LayerProduct("experts up", ROUTED_PART, 1.0, 128.0, 128.0)

    def seconds(order, **tile):
        return call_s(one, 3.0, 128.0, order, replace(SHAPE, routed=replace(ROUTED, **tile)), quick)

    tiles, once_s = {"tile_rows": 2.0, "tile_width": 64.0}, 128 * 2 * (384 + 384 + 16384) / 16384
    assert seconds(RESULT) == pytest.approx(once_s)
    assert seconds(RESULT, **tiles) == seconds(OF_INPUTS, **tiles) == pytest.approx(768 * 2 * 64 * 66 / 16384)
    assert seconds(OF_WEIGHTS, **tiles) == pytest.approx(once_s)
    assert seconds(OF_WEIGHTS, **tiles, tile_step_s=0.25) == pytest.approx(once_s + 768 * 0.25)


def test_integer_products_quantise_both_operands():
    """Five times 3 x 4 and 5 x 4 narrow values, at 2 bytes a second."""
    kernel = replace(PRODUCTS, quantise_sweeps=5.0, weight_sweeps=5.0)
    plain_s, seconds = (gemm_s(3.0, 5.0, 4.0, 1.0, 1.0, 2.0, one, PEAK, 2.0, 1.0) for one in (PRODUCTS, kernel))
    assert seconds - plain_s == pytest.approx(5 * (12 + 20) / 2)


def test_biases_that_are_gathered_by_row():
    """Ordering moves 3 bytes of 256 rows of 128; biases move outputs of 64 and 64 (two matrices of half of 128) and of 128."""
    shape = replace(SHAPE, routed=ROUTED, biased=1.0)
    without, there = (layer(shape, EP, routed_B=3.0, biases_gathered=gathered) for gathered in (0.0, 1.0))
    assert there.forward_s - without.forward_s == pytest.approx(0.5 * 3 * 256 * (64 + 64 + 128) / 2 / 16384)
    assert there.backward_s - without.backward_s == pytest.approx(there.forward_s - without.forward_s)


LATENT = LatentShape(query_rank=UNIT, key_rank=2 * UNIT, plain_dim=UNIT / 2, rotary_dim=UNIT / 2, value_dim=UNIT)


def test_latent_attention():
    """Queries to 64 and out to 4 x 64 / 2 heads, keys to 128 + 32 (three tiles of 64) and out to 4 x 96 / 2 (three tiles).

    2 x 1 x 2 + 2 x 2 x 1 + 2 x 3 x 2 + 2 x 3 x 2 + output 2 x 2 x 2 = 40 units instead of QKV's 16 and output's 8. Elements of
    a token: 4 x (2 x 64 + 64) / 2 + 64 + 128 + 32 = 608 instead of 256. The mean head is (64 + 64) / 2 wide, as before.
    """
    found = layer(replace(SHAPE, latent=LATENT))
    mixed = replace(LATENT, key_rank=np.array([0.0, 2 * UNIT]))
    for part in ("forward_s", "backward_s", "selective_s"):
        ordinary, latent = getattr(layer(replace(SHAPE, latent=mixed)), part)
        assert (ordinary, latent) == pytest.approx((getattr(layer(), part), getattr(found, part))), "row by row"
    assert found.forward_s == pytest.approx(FORWARD_S + ATTENTION_S + 2 * (40 - 24) + 128 * (608 - 256) * 5 / 16384)
    # Selective recomputation expands queries (2 x 2 x 1) and keys and values (2 x 3 x 2) again.
    assert found.selective_s == pytest.approx(2 * (4 + 12))
    wide = replace(LATENT, value_dim=2 * UNIT)
    assert layer(replace(SHAPE, latent=wide)).forward_s - found.forward_s == pytest.approx(
        4 + 2 * (2 * 2 * 2 + 2 * 2 * 2) + 128 * 128 * 5 / 16384
    ), "heads half as wide again: 4 s; 128 more outputs of keys and values, as many more inputs of the output product"


def test_a_compiler_drops_and_repeats_products():
    """Down is 2 x 2 x 2 units, up and gate 2 x 4 x 2."""
    found = layer(dropped_down=0.5, repeated_ffn=0.25)
    assert (found.unrepeated_s, found.selective_s) == (0.5 * 16, 8 + 0.25 * 32)
    latent = layer(replace(SHAPE, latent=LATENT), repeated_core=0.0, dropped_down=0.5, repeated_ffn=0.25)
    assert (latent.unrepeated_s, latent.selective_s) == (8, 8), "whatever attention's products are"
    assert layer(dropped_down=0.5).selective_s == 8
    assert layer(repeated_ffn=0.25).selective_s == 8 + 8
    # Of layers with experts half of up and gate, and all that experts do: nothing of them is dropped.
    routed = layer(replace(SHAPE, routed=ROUTED), EP, dropped_down=1.0, repeated_ffn=0.25)
    experts_s = 128 * 12 + 16 + (6 * 256 * 64 + 4 * 128 * (128 + 256 + 512) + 24 * 128 * 256) / 16384
    assert routed.unrepeated_s == 0.5 * 16
    assert routed.selective_s == pytest.approx(8 + 0.25 * (0.5 * 32 + 0.5 * experts_s))


def test_pytorch_repeats_whole_layers_or_products():
    """Every second layer but for its last product, or every second product; attention's core only where the stack says so."""
    layers = layer(repeated_core=0.0, repeated_layers=0.5, dropped_down=1.0)
    assert layers.selective_s == pytest.approx(0.5 * (FORWARD_S + ATTENTION_S - 16))
    products = layer(repeated_core=0.0, repeated_products=0.5)
    assert products.selective_s == pytest.approx(0.5 * FORWARD_S)


def test_each_operation_by_itself():
    """56 and 104 bytes of the residual stream, 4 and 8 of the gate (1 s each), 20 of 128 x 192 turned elements (1.5 s)."""
    found = layer(replace(SHAPE, eager=1.0))
    assert found.forward_s == pytest.approx(FORWARD_S + ATTENTION_S + 56 + 4 + 20 * 1.5)
    assert found.backward_s == pytest.approx(BACKWARD_S + ATTENTION_BACK_S + 104 + 8 + 20 * 1.5)
    plain = replace(SHAPE, ffn_matrices=2.0)
    assert layer(replace(plain, eager=1.0)).forward_s == layer(plain).forward_s, "LayerNorm and GELU are one kernel each"
