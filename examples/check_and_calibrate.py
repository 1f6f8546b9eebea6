"""How far off predictions are on one's own cluster, and what calibrating to its runs mends.

``my_runs.csv`` stands for your own: GPT-2 52B and 39B on 64 V100 of Jean Zay (BigScience Workshop, experiments/gpt2.md).
The command does the same: mlsysim calibrate examples/my_runs.csv -o my-stack.toml
"""

import csv
import tempfile
from pathlib import Path

from mlsysim import predict_table
from mlsysim.fitting.own.fit import calibrated
from mlsysim.fitting.own.runs import read_runs

RUNS = Path(__file__).with_name("my_runs.csv")
rows = list(csv.DictReader(RUNS.read_text("utf-8").splitlines()))

print(f"{'run':24} {'measured':>9} {'predicted':>10}  nine in ten    inside")
for run in predict_table(rows):
    measured = float(run["value"])
    inside = "yes" if run["low"] <= measured <= run["high"] else "no"
    print(f"{run['id']:24} {measured:7.0f} s {run['predicted']:8.0f} s  {run['low']:.0f}-{run['high']:.0f} s {inside:>9}")

found = calibrated(read_runs([RUNS]))
off = {
    name: [abs(ratio - 1) for ratio in ratios]
    for name, ratios in (("as shipped", found.shipped), ("calibrated", found.left_out))
}
print()
for name, errors in off.items():
    print(
        f"{name}: {sum(errors) / len(errors):.1%} off on average"
        + (", each run by a fit without it" if name == "calibrated" else "")
    )

with tempfile.TemporaryDirectory() as folder:
    stack = Path(folder) / "my-stack.toml"
    stack.write_text(found.text(), "utf-8")
    larger = rows[0] | {"n_accel": "256", "global_batch_seqs": "4096"}
    (run,) = predict_table([larger | {"framework": str(stack)}])
print(f"on 256 accelerators: {run['predicted']:.0f} s ({run['low']:.0f}-{run['high']:.0f} s)")
