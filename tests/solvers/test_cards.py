"""What people read of results: units as they write them, HTML, tables of pandas, two results side by side."""

from __future__ import annotations

import builtins
import re
from html.parser import HTMLParser

import pytest

import mlsysim
from mlsysim import (
    CapacityPlanner,
    DistributedModel,
    Fleet,
    Hardware,
    InputError,
    MLSysError,
    Models,
    ParallelismOptimizer,
    ServingModel,
    SingleNodeModel,
    Systems,
    TailLatencyModel,
    compare,
)
from mlsysim.core.errors import InconsistentError
from mlsysim.core.units import Q_
from mlsysim.solvers.shown import shown

LLAMA, H100, H200 = Models.Language.Llama3_8B, Hardware.Cloud.H100, Hardware.Cloud.H200
FLEET = Fleet(name="16 H100", node=Systems.Nodes.DGX_H100, count=2)
ASKED = {"batch_size": 32, "seq_len": 4096, "stack": "megatron-core"}
SERVED = {"input_len": 512, "output_len": 64, "stack": "vllm-2025"}


def search(**given):
    return ParallelismOptimizer().solve(LLAMA, FLEET, **ASKED, space="full", fixed={"pp": (1, 2)}, **given)


@pytest.mark.parametrize(
    ("quantity", "counted", "text"),
    [
        (Q_("80 GiB"), "", "80 GiB"),
        (Q_("0.0125 s"), "", "12.5 ms"),
        (Q_("2.5 hour"), "", "2.5 h"),
        (Q_("30 day"), "", "30 days"),
        (Q_("12.5 USD/hour"), "", "$12.5/h"),
        (Q_("0.42 USD"), "", "$0.42"),
        (Q_("187.7 count/s"), "requests", "187.7 requests/s"),
        (Q_("2.5e6 count/s"), "tokens", "2.5 M tokens/s"),
        (Q_("3 count"), "accelerators", "3 accelerators"),
        (Q_("3350 GB/s"), "", "3.35 TB/s"),
        (
            {"tp": 8, "pp": 1, "cp": 1, "batch": 1, "sequence_parallel": True, "idle": False, "left": 0},
            "",
            "tp 8, batch 1, sequence parallel",
        ),
    ],
)
def test_values_are_as_people_write_them(quantity, counted, text):
    assert shown(quantity, counted) == text


def test_cards_count_what_they_count():
    tail = str(TailLatencyModel().solve(LLAMA, H200, request_rate="2 count/s", **SERVED))
    assert re.search(r"capacity +[\d.]+ requests/s \(", tail)
    plan = str(CapacityPlanner().solve(LLAMA, [H200], request_rate="2 count/s", prices={H200.name: "2.5 USD/hour"}, **SERVED))
    assert re.search(r"cost per hour +\$2\.5/h\n", plan)
    assert re.search(r"decode +1 accelerators +100\.0%", plan)
    step = str(DistributedModel().solve(LLAMA, FLEET, **ASKED))
    assert re.search(r"tokens per second +[\d,]+ tokens/s \(", step)
    assert re.search(r"memory free +[\d.]+ GiB\n", step)
    assert re.search(
        r"throughput +at most [\d,]+ samples/s: no real run",
        str(SingleNodeModel().solve(Models.Vision.ResNet50, H100, batch_size=8)),
    )
    for card in (tail, plan, step):
        assert not re.search(r"\bcount\b|\bsecond\)|[\d.] second\b", card)
        assert "basis     calibrated, " in card


def test_parts_that_are_nothing_are_left_out():
    step = DistributedModel().solve(LLAMA, FLEET, **ASKED)
    nothing = [name for name, part in step.breakdown.items() if not part.magnitude]
    assert nothing
    assert not any(f"    {name.replace('_', ' ')} " in str(step) for name in nothing)


class Texts(HTMLParser):
    """The cells of a page, and whether all that opens is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.texts = [], []

    def handle_starttag(self, tag, attrs):
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_a_notebook_shows_what_a_terminal_shows():
    step = DistributedModel().solve(LLAMA, FLEET, **ASKED)
    page = Texts()
    page.feed(step._repr_html_())
    assert page.open == []
    seen = " ".join(page.texts)
    for line in str(step).splitlines():
        for cell in re.split(r"  +", line.strip()):
            assert cell in seen or cell == "breakdown", cell


def test_what_a_page_says_is_escaped():
    model = LLAMA.model_copy(update={"name": "<b>llama</b>"})
    page = ServingModel().solve(model, H100, **SERVED)._repr_html_()
    assert "<b>llama" not in page
    assert "&lt;b&gt;llama" in page


def test_a_search_tells_of_its_best_plan():
    found = search(tokens=10**12, price="2 USD/hour")
    best = found.best
    for name in ("step_time", "mfu", "tokens_per_second", "memory_per_accelerator", "memory_free"):
        assert getattr(found, name) == getattr(best, name), name
    days = 10**12 / best.tokens_per_second.m_as("count/s") / 86400
    assert found.duration.m_as("day") == pytest.approx(days)
    assert found.cost.m_as("USD") == pytest.approx(days * 24 * 16 * 2)
    card = str(found)
    for said in ("duration", "cost", "memory free", "faster", "mfu", "tokens per second"):
        assert re.search(rf"^  {said} ", card, re.MULTILINE), said
    alone = search()
    assert alone.duration is None is alone.cost
    assert "duration" not in str(alone)


def test_the_best_config_makes_the_best_plan():
    found = search()
    assert DistributedModel().solve(LLAMA, FLEET, **ASKED, **found.best_config) == found.best
    mixture = Models.Language.Mixtral_8x7B
    asked = {"batch_size": 32, "seq_len": 4096, "stack": "megatron-core", "expert_tp_size": 1}
    best = ParallelismOptimizer().solve(mixture, FLEET, **asked, space="full", fixed={"pp": 2})
    again = DistributedModel().solve(mixture, FLEET, **{**asked, **best.best_config})
    assert again == best.best


def test_a_plan_is_told_by_short_names_too():
    long = DistributedModel().solve(LLAMA, FLEET, **ASKED, tp_size=2, pp_size=2, microbatch_count=4)
    short = DistributedModel().solve(LLAMA, FLEET, **ASKED, tp=2, pp=2, micro_batches=4, micro_batch_tokens=8192, dp=4)
    assert long == short
    by_size = DistributedModel().solve(LLAMA, FLEET, **ASKED, tp=2, pp=2, micro_batch=long.plan["micro_batch_tokens"] // 4096)
    assert by_size.plan["micro_batch_tokens"] == long.plan["micro_batch_tokens"]
    for wrong in (
        {"tp": 2, "tp_size": 4}, {"tp": 2, "dp": 4}, {"micro_batch_tokens": 1}, {"micro_batch": 3},
        {"micro_batch": 2, "microbatch_count": 7},
    ):  # fmt: skip
        with pytest.raises(InputError):
            DistributedModel().solve(LLAMA, FLEET, **ASKED, **wrong)


def test_names_of_tokens_and_prices_agree_with_objectives():
    dear = search(price="2 USD/hour", objective="tokens_per_dollar")
    assert dear.objective_value == search(accelerator_price="2 USD/hour", objective="tokens_per_dollar").objective_value
    with pytest.raises(InconsistentError, match="both name the same"):
        search(price="2 USD/hour", accelerator_price="3 USD/hour", objective="tokens_per_dollar")
    failing = {"accelerator_mtbf": "5 year", "checkpoint_time": "1 min", "restart_time": "5 min"}
    whole = search(tokens=10**12, objective="time_to_train", **failing)
    assert whole.duration.m_as("s") == pytest.approx(whole.objective_value.m_as("s")), "failures are part of the time"
    for tokens in (0, -5, True, "3 s"):
        with pytest.raises(InputError, match="tokens"):
            search(tokens=tokens)


def test_what_would_be_faster_names_the_largest_parts():
    found = DistributedModel().solve(LLAMA, FLEET, **ASKED, tp_size=2, pp_size=4, microbatch_count=16, recompute="full")
    best = ParallelismOptimizer().solve(
        LLAMA,
        FLEET,
        **ASKED,
        space="full",
        zero_stage=1,
        fixed={
            "tp": 2,
            "pp": 4,
            "cp": 1,
            "micro_batch": 1,
            "recompute": "full",
            "virtual_stages": 1,
            "sequence_parallel": True,
            "schedule": "1f1b",
        },
    )
    whole = sum(part.m_as("s") for part in found.breakdown.values())
    bubble = found.breakdown["bubble"].m_as("s") / whole
    assert f"bubble {100 * bubble:.1f} %" in best.faster
    assert f"by {100 * found.breakdown['recompute'].m_as('s') / whole:.1f} % if nothing were recomputed" in best.faster


def test_results_become_tables():
    pandas = pytest.importorskip("pandas")
    frame = ServingModel().solve(LLAMA, H100, **SERVED).to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == 1
    assert frame["itl [second]"][0] == ServingModel().solve(LLAMA, H100, **SERVED).itl.m_as("s")
    found = search(top_k=4)
    ranked = found.to_frame()
    assert list(ranked["tp"]) == [row["tp"] for row in found.ranking]
    assert list(ranked["step_latency [second]"]) == [row["step_latency"].m_as("s") for row in found.ranking]


def test_without_pandas_it_is_said(monkeypatch):
    usual = builtins.__import__

    def without(name, *rest, **more):
        if name == "pandas":
            raise ImportError(name)
        return usual(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MLSysError, match="needs pandas: pip install pandas"):
        ServingModel().solve(LLAMA, H100, **SERVED).to_frame()


def test_two_results_are_compared_term_by_term():
    one, other = (DistributedModel().solve(LLAMA, FLEET, **ASKED, pp_size=pp, microbatch_count=8) for pp in (2, 4))
    found = compare(one, other)
    changes = {term.name: term.change for term in found.terms}
    assert changes["step_latency_total"] == pytest.approx(other.step_time / one.step_time - 1)
    parts = [term for term in found.terms if term.kind == "part"]
    assert sum(term.change for term in parts) == pytest.approx(changes["step_latency_total"])
    assert {term.name for term in parts} == {name for name in one.breakdown if one.breakdown[name] or other.breakdown[name]}
    entries = {term.name: (term.first, term.second) for term in found.terms}
    assert entries["pp"] == (2, 4)
    assert "tp" not in entries, "what is the same of a plan is left out"
    told = str(found)
    assert "of the whole" in told
    assert re.search(r"^  step latency total +[\d.]+ \w+ +[\d.]+ \w+ +[+-][\d.]+ %$", told, re.MULTILINE)
    assert "-0.0 %" not in told
    page = Texts()
    page.feed(found._repr_html_())
    assert page.open == []
    assert "step latency total" in page.texts
    assert found.to_dict()["changes"] == changes
    assert mlsysim.compare is compare


def test_only_answers_to_one_question_are_compared():
    step, run = DistributedModel().solve(LLAMA, FLEET, **ASKED), ServingModel().solve(LLAMA, H100, **SERVED)
    with pytest.raises(InputError, match="a result of DistributedModel"):
        compare(step, run)
    with pytest.raises(InputError, match="first"):
        compare(None, run)
