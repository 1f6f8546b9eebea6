"""Which accelerators, how many and at which cost: Qwen3-32B for 20 requests a second, with limits that users notice."""

from mlsysim import CapacityPlanner, Hardware, Models

CARDS = {"H100": "2 USD/hour", "H200": "2.5 USD/hour"}

chips = [Hardware.get(name) for name in CARDS]
plan = CapacityPlanner().solve(
    Models.get("Qwen/Qwen3-32B"),
    chips,
    request_rate="20 count/s",
    input_len=1000,
    output_len=300,
    max_ttft="2 s",
    max_itl="40 ms",
    prices={chip.name: price for chip, price in zip(chips, CARDS.values(), strict=True)},
    stack="vllm-2025",
)
print(plan)
print("what else it could be:")
for choice in plan.why:
    print(" ", choice)
