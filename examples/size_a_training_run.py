"""How many accelerators, how long and how much: Llama-3-70B on 2 trillion tokens, on fleets of H100."""

from mlsysim import Fleet, Models, ParallelismOptimizer, Systems

TOKENS, PRICE = 2e12, 2.50  # of the run; USD for one accelerator, an hour
BATCH, SEQ_LEN = 1024, 8192

print("accelerators  best plan                   MFU  days (nine in ten runs)  million USD")
for nodes in (32, 64, 128):
    fleet = Fleet(name=f"{nodes} x DGX H100", node=Systems.Nodes.DGX_H100, count=nodes)
    plan = ParallelismOptimizer().solve(
        Models.Language.Llama3_70B, fleet, batch_size=BATCH, seq_len=SEQ_LEN, stack="megatron-core", space="full"
    )
    steps, best = TOKENS / (BATCH * SEQ_LEN), plan.require_best()
    days, low, high = ((steps * time).m_as("day") for time in (plan.step_latency_total, plan.interval.low, plan.interval.high))
    split = "TP {tp} PP {pp} CP {cp} DP {dp}".format(**best.plan)
    cost = days * 24 * fleet.accelerators * PRICE / 1e6
    print(f"{fleet.accelerators:12}  {split:23} {best.mfu:7.1%}  {f'{days:.0f} ({low:.0f}-{high:.0f})':23} {cost:12.2f}")
