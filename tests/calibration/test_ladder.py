"""The ladder of evidence: what an interval rests on, by hand; less never makes it narrower; it is one by every door."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from repository import ANCHOR_TREE

from mlsysim.calibration import evidence
from mlsysim.calibration.evidence import WHOLE, LeftOut, MeasuredRun, RunFacts, left_out, measured_runs, unfitted
from mlsysim.calibration.intervals import Pool, Studies, made_up, resting_on, spread
from mlsysim.cli.trust import _told
from mlsysim.fitting.evidence import _without_device
from mlsysim.fitting.inference import INFERENCE
from mlsysim.models.registry import Models
from mlsysim.solvers.result import fitted_basis
from mlsysim.solvers.training.distributed import DistributedModel
from mlsysim.solvers.training.parallelism import ParallelismOptimizer
from mlsysim.systems.registry import Systems
from mlsysim.systems.types import Fleet
from mlsysim.tables.open_loop import METRICS
from mlsysim.tables.predict import predict_table
from mlsysim.validation.anchors import loading
from mlsysim.validation.anchors.comparison import compare
from mlsysim.validation.report.coverage import of_unfitted

KNOWN, NEW = RunFacts("m", "dense", "a", "known", 8), RunFacts("m", "dense", "a", "new", 8)


def runs_of(facts, *errors):
    return [MeasuredRun("i", "0", "source", "S", WHOLE, facts, error) for error in errors]


def studies_of(**errors):
    """Ten things of a kind with the same errors."""
    return Studies(
        LeftOut(study, f"{number}", "S", WHOLE, tuple(each)) for study, each in errors.items() for number in range(10)
    )


POOL = Pool("S", WHOLE, [*runs_of(KNOWN, *[0.1] * 18, 0.15, 0.2), *runs_of(NEW, 0.178, -0.175)])
STUDIES = studies_of(source=[0.05] * 16 + [0.12] * 4, stack=[0.05] * 16 + [0.3] * 4, device=[0.4] * 20)


def test_what_fits_were_given_rests_on_its_own_runs():
    # ceil(21 x 0.9) = 19 of 20.
    rung = resting_on(POOL, STUDIES, (), KNOWN)
    assert (rung.log_width, rung.runs, rung.scope) == (0.15, 20, "known, a, dense")


def test_a_stack_that_no_fit_was_given_rests_on_those_left_out_and_its_own():
    # 2 of its own, and 18 rows' worth of those left out: 14.4 at 0.05, 3.6 at 0.3; 0.9 x (20 + 2 / 20) = 18.09 of 20.
    rung = resting_on(POOL, STUDIES, ("stack",), NEW)
    assert rung.log_width == 0.3
    assert (rung.runs, rung.scope) == (200, "no fit to this engine or stack: interval from those left out")
    # Left out within 0.05 but for one in twenty: 17.1 below the two of its own, which end at 19.1.
    assert resting_on(POOL, studies_of(stack=[0.05] * 19 + [0.3]), ("stack",), NEW).log_width == 0.178
    # Never narrower than runs of others on its accelerator: theirs of 22 rows, its own once more.
    assert resting_on(POOL, studies_of(stack=[0.05] * 20), ("stack",), NEW).log_width == pytest.approx(0.178)


def test_few_runs_of_a_stack_count_one_each():
    # 20 rows of others and 3 of its own: 17 rows' worth of all 23; 0.9 x (20 + 3 / 20) = 18.135.
    pool = Pool("S", WHOLE, [*runs_of(KNOWN, *[0.1] * 20), *runs_of(NEW, 0.5, 0.5, 0.2)])
    # 0.1: 17 x 20 / 23 = 14.78; 0.2: + 1 + 0.74 = 16.52; 0.5 the rest.
    assert pool.closest(NEW).log_width == 0.5
    assert pool.closest(KNOWN).log_width == 0.1
    assert made_up([0.2], [[0.1] * 40]) == 0.1, "19 of 20 lie below"
    assert made_up([0.2] * 3, [[0.1] * 40]) == 0.2, "17 of 20 do"


def test_experts_of_an_engine_that_mostly_served_dense_models_count_one_each():
    experts = RunFacts("e", "moe", "b", "known", 8)
    pool = Pool("S", WHOLE, [*runs_of(KNOWN, *[0.1] * 40), *runs_of(experts, 0.6, 0.6, 0.7)])
    assert pool.closest(experts).log_width == 0.6
    assert pool.closest(KNOWN).log_width == 0.1


def test_widths_of_several_things_add():
    elsewhere = KNOWN._replace(accelerator="b")
    alone = [resting_on(POOL, STUDIES, (study,), elsewhere).log_width for study in ("source", "device")]
    assert alone == [0.15, 0.4], "a source costs 0.12, less than its known runs are off"
    both = resting_on(POOL, STUDIES, ("source", "device"), elsewhere)
    assert both.log_width == pytest.approx(math.hypot(0.12, 0.4))
    assert both.scope.startswith("no fit to this source and to this accelerator")


def test_what_was_studied_with_another_solver_adds_to_its_own():
    studies = Studies([LeftOut("device", "thing", "T", WHOLE, (0.4,) * 20)])
    assert resting_on(POOL, studies, ("device",), KNOWN._replace(accelerator="b")).log_width == pytest.approx(
        math.hypot(0.15, 0.4)
    )


def test_a_source_costs_at_most_what_its_stack_does():
    studies = studies_of(source=[0.9] * 20, stack=[0.3] * 20)
    assert [studies.cost(study, "S", WHOLE).width for study in ("source", "stack")] == [0.3, 0.3]


def test_figures_are_as_good_as_a_fit():
    """A thing is known by a run that was fitted to, or by twenty figures of its own."""
    given = {one.stack for one in evidence.fitted_facts("DistributedModel")}
    counts = {}
    for run in measured_runs():
        if (run.solver, run.quantity) == ("DistributedModel", WHOLE):
            counts[run.facts] = counts.get(run.facts, 0) + 1
    of_stack = {}
    for facts, count in counts.items():
        of_stack[facts.stack] = of_stack.get(facts.stack, 0) + count
    told = {facts.stack: "stack" in unfitted("DistributedModel", WHOLE, facts) for facts in counts}
    assert told == {stack: stack not in given and count < evidence.ENOUGH for stack, count in of_stack.items()}
    assert (told["meta-2024"], told["megatron-core"]) == (True, False)


def test_what_no_fit_was_given_runs_of_is_transferred_however_often_it_was_measured():
    """Meta's own stack has two runs and LMDeploy twenty: the interval may rest on these, coefficients are a relative's."""
    bases = {}
    for run in measured_runs():
        bases.setdefault((run.solver, run.facts.stack), set()).add(fitted_basis(run.solver, run.facts))
    given = evidence.fitted_facts("DistributedModel") | evidence.fitted_facts("ServingModel")
    for (solver, stack), basis in bases.items():
        if solver in ("DistributedModel", "ServingModel"):
            assert (basis == {"transferred"}) or stack in {one.stack for one in given}, stack
    assert bases["DistributedModel", "meta-2024"] == bases["ServingModel", "lmdeploy"] == {"transferred"}
    assert "calibrated" in bases["DistributedModel", "megatron-core"] & bases["ServingModel", "vllm-2025"]
    lone = RunFacts("GPT", "dense", "A800 SXM4 80GB", "megatron-core", 8)
    assert fitted_basis("DistributedModel", lone) == "transferred", "its kernels are those of the A100"


@pytest.mark.parametrize(("solver", "quantity"), sorted({(run.solver, run.quantity) for run in measured_runs()}))
def test_less_evidence_never_makes_it_narrower(solver, quantity):
    runs = [run for run in measured_runs() if (run.solver, run.quantity) == (solver, quantity)]
    pool, studies = Pool(solver, quantity, runs), Studies(left_out())
    for facts in sorted({run.facts._replace(accelerators=1.0) for run in runs})[::25]:
        widths = {}
        for count in range(len(evidence.STUDIES) + 1):
            for missing in itertools.combinations(evidence.STUDIES, count):
                widths[missing] = resting_on(pool, studies, missing, facts).log_width
                fewer = [widths[tuple(part for part in missing if part != one)] for one in missing]
                assert widths[missing] >= max(fewer, default=0.0) - 1e-12, (facts, missing)
        cells = {run.assumed for run in runs}
        for assumed in cells:
            assert resting_on(pool, studies, (), facts, assumed).log_width >= widths[()] - 1e-12
        known = [spread(solver, quantity, facts, known_source=known_source).log_width for known_source in (True, False)]
        assert known[0] <= known[1]


def test_the_ends_do_not_depend_on_how_many_accelerators_there_are():
    facts = measured_runs()[0].facts
    assert spread("ServingModel", WHOLE, facts) == spread("ServingModel", WHOLE, facts._replace(accelerators=3.0))


FLEET = Fleet(name="16,384 H100", node=Systems.Nodes.DGX_H100, count=2048)
LLAMA = {
    "model": "Llama-3.1-405B",
    **{"accelerator": "H100-SXM-80GB", "n_accel": 16384, "inter_bw_GBps_per_accel": 50, "seq_len": 8192},
    **{"global_batch_seqs": 2048, "micro_batch": 1, "tp": 8, "pp": 16, "vpp": 8, "dp": 128, "sharding": "zero2"},
    **{"precision": "bf16", "recompute": "none", "flash_attention": "yes", "sequence_parallel": "yes"},
    **{
        "gradient_precision": "fp32",
        "framework": "Meta internal (PyTorch FSDP+TP+PP+CP)",
        "year": 2024,
        "metric": "step_time_s",
    },
}


def test_the_llama_3_runs_have_one_interval_by_every_door_and_lie_in_it():
    anchors = [one for one in loading.load(ANCHOR_TREE / "training" / "llama3_herd.toml") if one.case.role == "validation"]
    rows = [compare(one) for one in anchors]
    assert all(row.expected_low <= row.measured <= row.expected_high for row in rows)
    plan = {
        "batch_size": 2048,
        "seq_len": 8192,
        "precision": "bf16",
        "zero_stage": 2,
        "recompute": "none",
        "stack": "meta-2024",
    }
    split = {"tp_size": 8, "pp_size": 16, "dp_size": 128, "virtual_stages": 8, "microbatch_count": 16}
    run = DistributedModel().solve(Models.Language.Llama3_405B, FLEET, **plan, **split)
    (told,) = predict_table([LLAMA])
    assert (told["stack_used"], told["assumed"]) == ("meta-2024", "")
    trusted = _told("DistributedModel", run.facts).data["intervals"][WHOLE]["known source"]
    ranked = ParallelismOptimizer().solve(Models.Language.Llama3_405B, FLEET, **plan)
    doors = [row.expected_high / row.expected_low for row in rows]
    doors += [float(one.interval.high / one.interval.low) for one in (run, ranked)]
    doors += [told["high"] / told["low"], trusted["high"] / trusted["low"]]
    assert doors == pytest.approx([doors[0]] * len(doors))
    assert trusted["scope"] == run.interval.scope
    assert told["scope"] == f"{run.interval.scope}: {run.interval.runs} runs"


@pytest.mark.parametrize(
    "file",
    [
        *(
            "training/flagperf",
            "training/torchtitan",
            "training/mlperf_llm",
            "training/nemo_automodel",
            "training/narayanan2021",
        ),
        *("serving/lmdeploy", "serving/inferencex_issues", "serving/pope2022", "serving/llama_cpp_gpus", "open_loop/blis"),
    ],
)
def test_the_suite_and_tables_have_one_interval(file):
    """What the suite expects of a case, a table with the same cells expects of its row: of known sources, and of others."""
    words = evidence.packaged_toml("calibration", evidence.NAMES_FILE)["words"]
    named = {key: word for word, keys in words.items() if word != "source" for key in keys}
    in_tables = {field: metric for metric, field in METRICS.items()}
    anchors = [one for one in loading.load(ANCHOR_TREE / f"{file}.toml") if one.case.role == "validation" and one.case.value]
    for anchor in anchors[::9]:
        cells = {"metric": in_tables.get(anchor.case.metric, ""), **anchor.case.run, "source": named.get(anchor.source.key, "")}
        (row,) = predict_table([cells])
        suite = compare(anchor)
        assert row["high"] / row["low"] == pytest.approx(suite.expected_high / suite.expected_low), anchor.id


def test_rows_of_a_source_without_itself_are_of_their_stack_where_nobody_else_ran_it():
    studies = {(one.study, one.name) for one in left_out() if one.solver == "DistributedModel"}
    assert {("stack", "hagemann2023"), ("source", "maxtext"), ("source", "megatron-2020")} <= studies
    assert not {("source", "hagemann2023"), ("stack", "maxtext"), ("stack", "megatron-2020")} & studies
    assert {("stack", "bigscience-v100"), ("source", "bigscience-v100")} <= studies, (
        "some of its rows ran a stack that others ran"
    )


def test_no_figure_of_an_accelerator_is_read_where_it_is_left_out():
    chips = ("l4", "l40s")
    given = [run for run in INFERENCE.gathered(ANCHOR_TREE, "calibration") if run.on["device"] in chips]
    slower = [replace(run, measured=run.measured * (2 if run.on["device"] == "l4" else 1)) for run in given]
    once, twice = (_without_device("l4", INFERENCE, runs, runs) for runs in (given, slower))
    assert len(once) > 2
    assert [first - math.log(2) for first in once] == pytest.approx(twice)


def test_what_no_fit_was_given_lies_in_its_intervals():
    judged = of_unfitted({run.source: "any" for run in measured_runs()})
    assert judged[0].figures > 100
    assert judged[0].covered >= 0.9
