"""What an anchor is: its rules, its comparison, its statistics, the response to faster hardware."""

import json
import tomllib

import pytest
from repository import ANCHOR_TREE

import mlsysim
from mlsysim.core.errors import DataError, InputError
from mlsysim.validation.anchors import loading, runner
from mlsysim.validation.anchors.comparison import compare
from mlsysim.validation.anchors.runner import faster, hardware_response, predict
from mlsysim.validation.anchors.schema import Case, Gate
from mlsysim.validation.report import export, report, statistics
from mlsysim.validation.report.findings import Findings

CASE = {
    "id": "x",
    "role": "validation",
    "evidence": "seen",
    "locator": "Table 1",
    "metric": "optimal_parameters",
    "definition": "parameters",
    "unit": "Gcount",
    "tolerance": 0.1,
    "tolerance_reason": "printed to one digit",
    "value": 67.0,
    "solve": {"compute_budget": "5.76e23 flop"},
    "responds": False,
    "responds_not": "a law",
}
PAPER = {**CASE, "role": "paper", "paper": 65, "reported": 70}


def source(**changes):
    """The text of a scaling source with one case."""
    head = {
        "key": "s",
        "citation": "c",
        "url": "u",
        "year": 2022,
        "solver": "ScalingModel",
        "metric": "optimal_parameters",
        "definition": "d",
        "unit": "Gcount",
        "locator": "l",
    }
    return "[source]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in (head | changes).items())


def table(case):
    """A [[case]] in TOML."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in case.items() if name != "solve"]
    return "\n[[case]]\n" + "\n".join(lines) + '\nsolve = { compute_budget = "5.76e23 flop" }\n'


def test_case_of_the_paper_keeps_its_fudge_factors_and_nobody_else():
    assert Case(**{**PAPER, "factors": {"replicas": 8}}).hand_picked == ("replicas",)
    with pytest.raises(InputError, match="only role"):
        Case(**{**CASE, "factors": {"replicas": 8}})


@pytest.mark.parametrize("role", ["calibration", "validation"])
def test_case_that_proves_something_picks_no_efficiency(role):
    with pytest.raises(InputError, match="no hand-picked number"):
        Case(**{**CASE, "role": role, "solve": {"efficiency": 0.4}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"range": [1, 2]}, "exactly one of value, range, choice and outcome"),
        ({"value": None}, "exactly one of value, range, choice and outcome"),
        ({"value": 0.0}, "other than 0"),
        ({"value": float("nan")}, "finite"),
        ({"tolerance": 0.51}, "<= 0.5"),
        ({"tolerance": 0.0}, "> 0"),
        ({"tolerance_reason": ""}, "why the band"),
        ({"evidence": "recalled"}, "evidence"),
        ({"responds_not": ""}, "a reason with responds = false"),
        ({"responds": True}, "a reason with responds = false"),
        ({"unit": "furlong"}, "furlong"),
        ({"id": "Not an id"}, "id"),
        ({"hardware": "H100", "fleet": {}}, "one of hardware, node and fleet"),
    ],
)
def test_case_breaking_a_rule_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        Case(**{**CASE, **change})


def outcome_case(**changes):
    """A case that says whether a plan fits, and nothing else."""
    figure = ("value", "unit", "tolerance", "tolerance_reason")
    kept = {name: value for name, value in CASE.items() if name not in figure}
    return Case(**kept | {"unit": "", "outcome": "fits"} | changes)


def test_outcome_is_the_figure():
    assert outcome_case().feasible
    assert not outcome_case(outcome="OOM").feasible
    assert outcome_case().band is None
    with pytest.raises(InputError, match="exactly one of"):
        outcome_case(range=[1, 2])
    with pytest.raises(InputError, match="fits"):
        outcome_case(outcome="perhaps")


@pytest.mark.parametrize("beside", [{"expect_feasible": False}, {"known_infeasible": "why"}])
def test_outcome_says_alone_whether_it_fits(beside):
    with pytest.raises(InputError, match="it says itself"):
        outcome_case(**beside)


def test_known_infeasible_is_of_a_plan_that_ran():
    assert Case(**{**CASE, "known_infeasible": "why"}).feasible
    with pytest.raises(InputError, match="nothing with expect_feasible"):
        Case(**{**CASE, "known_infeasible": "why", "expect_feasible": False})


def test_gate_has_figures_or_outcomes():
    assert Gate(balanced_accuracy=0.9, reason="r").median is None
    for given in ({}, {"median": 0.1}, {"median": 0.1, "p90": 0.2, "balanced_accuracy": 0.9}):
        with pytest.raises(InputError, match="median, p90 and bias together"):
            Gate(reason="r", **given)


def test_range_refuses_its_ends_reversed():
    with pytest.raises(InputError, match="low < high"):
        Case(**{**CASE, "value": None, "range": [50, 40]})


def test_metric_of_another_dimension_names_file_and_case(tmp_path):
    path = tmp_path / "a.anchor.toml"
    path.write_text(source() + table({**CASE, "unit": "ms"}), encoding="utf-8")
    (anchor,) = loading.load(path)
    with pytest.raises(DataError, match=r"a\.anchor\.toml: case 'x': unit = 'ms'"):
        predict(anchor)


def test_metric_that_the_result_lacks_names_the_near_one(tmp_path):
    path = tmp_path / "a.anchor.toml"
    path.write_text(source() + table({**CASE, "metric": "optimal_parameter"}), encoding="utf-8")
    (anchor,) = loading.load(path)
    with pytest.raises(DataError, match="did you mean 'optimal_parameters'"):
        predict(anchor)


def test_ids_must_differ_across_files(tmp_path):
    paths = [tmp_path / "a.anchor.toml", tmp_path / "b.anchor.toml"]
    for path in paths:
        path.write_text(source() + table(CASE), encoding="utf-8")
    with pytest.raises(DataError, match="'s-x' is also in"):
        loading.load_all(paths)


def test_cases_can_stand_in_a_table_beside_the_head(tmp_path):
    path = tmp_path / "many.anchor.toml"
    shared = "".join(f"{name} = {json.dumps(CASE[name])}\n" for name in ("role", "evidence", "responds", "responds_not"))
    path.write_text(source(table="many.csv", tolerance=0.1, tolerance_reason="r") + "\n[defaults]\n" + shared, encoding="utf-8")
    cells = "id,value,note,solve.compute_budget\n67b,67,as printed,5.76e23 flop\n1b,1.0,,1.21e20 flop\n"
    (tmp_path / "many.csv").write_text(cells, encoding="utf-8")
    first, second = loading.load(path)
    assert (first.id, first.case.note, second.case.note) == ("s-67b", "as printed", "")
    assert compare(second).error == pytest.approx((1.21e20 / 120) ** 0.5 / 1e9 - 1)


def test_prediction_is_the_solvers_own_times_the_stated_factors(tmp_path):
    path = tmp_path / "a.anchor.toml"
    path.write_text(source() + table(PAPER) + "factors = { shards = 0.5, overhead = 3 }\n", encoding="utf-8")
    (anchor,) = loading.load(path)
    own = (5.76e23 / 120) ** 0.5 / 1e9
    assert predict(anchor).unfactored == pytest.approx(own)
    assert predict(anchor).predicted == pytest.approx(1.5 * own)


@pytest.mark.parametrize(
    ("bounds", "error", "inside"), [([60, 70], 0.0, True), ([70, 80], -0.0102, False), ([50, 60], 0.1547, False)]
)
def test_error_of_a_range_is_to_the_nearer_edge(tmp_path, bounds, error, inside):
    path = tmp_path / "a.anchor.toml"
    case = {name: value for name, value in CASE.items() if name != "value"} | {"range": bounds}
    path.write_text(source() + table(case), encoding="utf-8")
    (anchor,) = loading.load(path)
    found = compare(anchor)
    assert found.error == pytest.approx(error, abs=1e-4)
    assert found.in_band is inside


def row(error, **changes):
    """A comparison's row with this error."""
    plain = {
        "family": "f",
        "role": "validation",
        "basis": "bound",
        "error": error,
        "measured": 1.0,
        "in_band": abs(error or 0) < 0.1,
        "known_miss": "",
        "feasible": True,
        "coefficients": (),
        "hand_picked": (),
    }
    return plain | changes


def test_statistics_of_known_errors():
    errors = [-0.2, 0.1, 0.0, 0.3, -0.4]
    summary = statistics.summarise("f", "validation", [row(error) for error in errors])
    assert (summary.cases, summary.in_band) == (5, 1)
    assert summary.median == pytest.approx(0.2)
    assert summary.mean == pytest.approx(0.2)
    assert summary.p90 == pytest.approx(0.36)
    assert summary.bias == pytest.approx(-0.04)


def test_statistics_count_a_shared_coefficient_once_and_plans_without_errors():
    rows = [row(0.1, coefficients=("e", "k")), row(None, coefficients=("e",)), row(0.1, hand_picked=("efficiency",))]
    summary = statistics.summarise("f", "validation", rows)
    assert (summary.coefficients, summary.hand_picked, summary.cases) == (2, 1, 3)
    assert summary.median == pytest.approx(0.1)


def test_families_and_roles_are_kept_apart():
    rows = [row(0.1), row(0.2, role="calibration"), row(0.3, family="e")]
    found = [(summary.family, summary.role) for summary in statistics.by_family_and_role(rows)]
    assert found == [("e", "validation"), ("f", "calibration"), ("f", "validation")]


def test_faster_hardware_is_faster_in_every_rate_and_nothing_else():
    fleet = mlsysim.Fleet(
        name="16", node=mlsysim.Systems.Nodes.DGX_H100, count=2, fabric={"name": "IB", "bandwidth": "50 GB/s"}
    )
    quick = faster(fleet)
    old, new = fleet.node.accelerator, quick.node.accelerator
    rates = [
        (fleet.inter_bandwidth_Bps, quick.inter_bandwidth_Bps),
        (fleet.node.intra_bandwidth_Bps, quick.node.intra_bandwidth_Bps),
        (old.memory_bandwidth_Bps, new.memory_bandwidth_Bps),
        *((old.rate_flops_per_s(name), new.rate_flops_per_s(name)) for name in old.compute.precision_flops),
    ]
    assert [after / before for before, after in rates] == pytest.approx([1.1] * len(rates))
    assert (new.memory_capacity_B, new.tdp, quick.accelerators) == (old.memory_capacity_B, old.tdp, fleet.accelerators)


@pytest.fixture(scope="module")
def rows():
    """The rows of the paper, and those that correct one: no others may have a row of its table or a macro of its script."""
    anchors = loading.load_all(loading.anchor_files(ANCHOR_TREE))
    return [compare(anchor).as_row() for anchor in anchors if anchor.case.role == "paper" or anchor.case.corrects]


def test_the_paper_has_its_seven_rows_each_with_its_right_anchor(rows):
    numbered = report.paper_rows(rows)
    assert [row["row"] for row in numbered] == [1, 2, 3, 4, 5, 6, 7]
    for paper in numbered:
        assert paper["primary"], paper["id"]
        right = report.corrections(paper, rows)
        assert right, paper["id"]
        assert not any(other["hand_picked"] for other in right)


def test_verdict_says_that_a_matching_plan_cannot_run(rows):
    verdicts = {row["row"]: report.verdict(row) for row in report.paper_rows(rows)}
    assert verdicts[2].startswith("OK (infeasible: ")
    assert verdicts[4].startswith("OK (infeasible: ")
    assert verdicts[3] == "OK"


def test_training_anchors_of_the_paper_respond_to_a_faster_peak():
    anchors = {anchor.id: anchor for anchor in loading.load_all(loading.anchor_files(ANCHOR_TREE))}
    for name in ("paper-a3-llama3-405b-mfu", "paper-a4-palm-540b-mfu"):
        assert hardware_response(anchors[name]) == pytest.approx(1 / 1.1 - 1, abs=0.02)


def test_a_load_is_judged_where_its_search_would_say_no_more(monkeypatch):
    anchor = loading.load(ANCHOR_TREE / "token_load" / "mlperf_tokens_gptj.toml")[0]
    bound, change = runner.bound_of(anchor), runner.hardware_response(anchor)
    assert (bound, change) == (anchor.case.band[0], runner.LEAST_RESPONSE)
    monkeypatch.setattr(runner, "_takes", lambda call, load: False)
    assert runner.bound_of(anchor) > bound
    assert 0.15 > runner.hardware_response(anchor) > change


# The names that the paper's script prints.
MACROS = [
    "AnchorOneThroughput",
    "AnchorOnePerGPU",
    "AnchorOneError",
    "AnchorTwoITL",
    "AnchorTwoInRange",
    "AnchorThreeMFU",
    "AnchorThreeScalingEff",
    "AnchorThreeInRange",
    "AnchorFourMFU",
    "AnchorFourError",
    "AnchorFiveParams",
    "AnchorFiveError",
    "AnchorFiveLargeP",
    "AnchorFiveLargeD",
    "AnchorSixEnergyMWh",
    "AnchorSixCarbonT",
    "AnchorSixError",
    "AnchorSevenTP",
    "AnchorSevenPP",
    "AnchorSevenDP",
    "AnchorSevenMatch",
    "AnchorSevenSearched",
]


def test_latex_defines_every_macro_of_the_papers_script(rows):
    text = export.as_latex(Findings(rows))
    assert {f"\\newcommand{{\\{name}}}" for name in MACROS} == {line.rpartition("{")[0] for line in text.splitlines()[1:]}
    assert "\\newcommand{\\AnchorSixEnergyMWh}{1287}" in text
    assert "\\newcommand{\\AnchorFiveError}{7.8}" in text


def test_no_anchor_cites_this_projects_own_folders():
    for path in [*loading.anchor_files(ANCHOR_TREE), *ANCHOR_TREE.glob("*/*.csv")]:
        assert "shared" not in path.read_text(encoding="utf-8").lower(), path


@pytest.mark.parametrize(
    "text", ["0", "-3", "+4", "1.50", "-2e-3", "1E5", "007", "1.", ".5", "1_000", "inf", "true", "A100", "[1, 2.0]"]
)
def test_a_cell_is_read_as_toml_reads_it(text):
    try:
        read = tomllib.loads(f"cell = {text}")["cell"]
    except tomllib.TOMLDecodeError:
        read = text
    found = loading._cell(text)
    assert (found, type(found)) == (read, type(read))


def test_a_row_with_more_cells_than_columns_is_named(tmp_path):
    table = tmp_path / "runs.csv"
    table.write_text("id,solve.tp_size,run.tp\na,8,\nb,8,1,2\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"runs\.csv: line 3 \('b'\) has 4 cells, the table 3 columns"):
        loading._csv_cases(table)
    table.write_text("id,solve.tp_size,run.tp\na,8,\n\nb,,1\n", encoding="utf-8")
    assert loading._csv_cases(table) == [{"id": "a", "solve": {"tp_size": 8}}, {"id": "b", "run": {"tp": "1"}}]
