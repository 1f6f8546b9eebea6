"""Why a run is slow: the parts of its step, the kernels under their roof, and what another plan would change."""

from mlsysim import DistributedModel, Fleet, Models, Systems

model, fleet = Models.Language.Llama3_70B, Fleet(name="16 x DGX H100", node=Systems.Nodes.DGX_H100, count=16)
mine = {"batch_size": 64, "seq_len": 8192, "tp_size": 8, "pp_size": 8, "stack": "megatron-core"}

step = DistributedModel().solve(model, fleet, **mine)
print(step)
print()
print(DistributedModel().kernels(model, fleet, **mine))
print()
print(f"{'instead':25} {'MFU':>7}")
print(f"{'as it is':25} {step.mfu:7.1%}")
for changed in ({"pp_size": 2}, {"virtual_stages": 5}, {"batch_size": 512}, {"tp_size": 4}, {"sequence_parallel": False}):
    other = DistributedModel().solve(model, fleet, **mine | changed)
    said = ", ".join(f"{name} {value}" for name, value in changed.items())
    print(f"{said:25} {other.mfu:7.1%}{'' if other.feasible else '  ' + other.reason}")
