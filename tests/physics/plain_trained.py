"""A trained model with plain kernels, of which the tests of layers and steps work times by hand."""

from plain import CHIP, PEAK, PREFILL, PRODUCTS, UNIT, links, machine, plan, work

from mlsysim.physics.layer.shape import ExpertShape
from mlsysim.physics.training.step_inputs import KernelDevice, SharedCoefficients, TrainedShape

SHARED = SharedCoefficients(
    streaming=0.5,
    unfused_share=0.5,
    unaligned_share=0.25,
    unfused_forward_B=10.0,
    unfused_backward_B=30.0,
    attention_backward=0.5,
    flash_1=0.4,
    flash_2_on_hopper=0.8,
    launch_norm=1.0,  # host and device take turns, so that both can be seen
    launch_head=3.0,
    launch_fallback=5.0,
    async_tp_hidden=0.5,
)
DEVICE = KernelDevice(
    gemm=PRODUCTS,
    gemm_peak_flops_per_s=PEAK,
    gemm_input_B=2.0,
    head_gemm=PRODUCTS,
    head_peak_flops_per_s=2 * PEAK,
    attention=PREFILL,
    attention_device=CHIP,
    collectives=links(96.0),
    link_Bps=96.0,
    memory_Bps=32768.0,
    multiprocessors=1.0,
    cache_B=0.0,
    clock=0.5,
    shared=SHARED,
)
# 128 tokens of two sequences; two ranks. Products of a rank, in units of 64: QKV 2 x 4 x 2, output 2 x 2 x 2, up and gate
# 2 x 4 x 2, down 2 x 2 x 2: 48, 96 s forward and twice that backward.
SHAPE = TrainedShape(
    layers=4.0,
    hidden=2 * UNIT,
    heads=4.0,
    kv_heads=2.0,
    head_dim=UNIT,
    ffn=4 * UNIT,
    ffn_matrices=3.0,
    vocab=4 * UNIT,
    seq_len=UNIT,
)
SPLIT = plan(tp=2.0, micro_batch_tokens=2 * UNIT)
MODEL = work(layers=4.0, reductions=2.0, boundary_B=3.0, layer_parameters=16384.0)
NET = machine(memory_Bps=32768.0, intra_Bps=96.0, inter_Bps=24.0)
# Experts: 4, of which a token visits two; two on each of two ranks; one matrix is 128 x 64 (of two ranks that split it).
ROUTED = ExpertShape(experts=4.0 * UNIT, per_token=2.0, ffn=2 * UNIT, layers=0.5)
