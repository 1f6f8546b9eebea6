"""Does it fit: a training plan and a deployment, what takes the memory, and the smallest change that makes room."""

from mlsysim import DistributedModel, Fleet, Hardware, Models, ServingModel, Systems

fleet = Fleet(name="4 x DGX H100", node=Systems.Nodes.DGX_H100, count=4)
for recompute in ("none", "selective", "full"):
    step = DistributedModel().solve(
        Models.Language.Llama3_70B,
        fleet,
        batch_size=256,
        seq_len=16384,
        tp_size=8,
        pp_size=1,
        recompute=recompute,
        stack="megatron-core",
    )
    parts = ", ".join(f"{name} {part.m_as('GB'):.0f}" for name, part in step.memory.items() if part.m_as("GB") >= 0.5)
    answer = "fits" if step.feasible else "does not fit"
    print(f"training, recompute {recompute:9} {answer:12} {step.memory_per_accelerator.m_as('GB'):4.0f} GB: {parts}")

for chip in (Hardware.Cloud.H100, Hardware.Cloud.H200):
    for precision in ("fp16", "fp8"):
        run = ServingModel().solve(
            Models.Language.Llama3_70B, chip, input_len=4000, batch_size=16, precision=precision, stack="vllm-2025"
        )
        room = f"room for {run.max_batch} sequences of 4000 tokens" if run.feasible else run.reason
        print(f"serving on one {chip.name} in {precision}: {room}")
