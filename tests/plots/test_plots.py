"""What plots show: bars that sum to the step, points where the results are, bands that are the intervals."""

from __future__ import annotations

import io
import shlex
import sys
from dataclasses import replace

import pytest

from mlsysim import CapacityPlanner, DistributedModel, Fleet, Hardware, Models, ScalingModel, ServingModel, Systems, plots
from mlsysim.core.errors import InconsistentError, InputError, MLSysError, UnknownNameError

H100, H200, NODE = Hardware.Cloud.H100, Hardware.Cloud.H200, Systems.Nodes.DGX_H100
LLAMA_8B, LLAMA_70B = Models.Language.Llama3_8B, Models.Language.Llama3_70B
TRAINING = {"batch_size": 256, "seq_len": 8192, "stack": "megatron-core", "tp_size": 8, "pp_size": 4}
SERVING = {"input_len": 1000, "batch_size": 32, "stack": "vllm-2025"}


@pytest.fixture(autouse=True, scope="module")
def matplotlib():
    return pytest.importorskip("matplotlib", reason="plots need matplotlib: pip install 'mlsysim-anchors[plot]'")


@pytest.fixture(scope="module")
def steps():
    """A step of Llama-3-70B on 32 to 128 accelerators."""
    fleets = [Fleet(name=f"{count} nodes", node=NODE, count=count) for count in (4, 8, 16)]
    return [DistributedModel().solve(LLAMA_70B, fleet, **TRAINING) for fleet in fleets]


@pytest.fixture(scope="module")
def found():
    """A search of two kinds of accelerators, with prices."""
    prices = {H100.name: "2 USD/hour", H200.name: "2.5 USD/hour"}
    load = {"request_rate": "20 count/s", "input_len": 1000, "output_len": 300, "stack": "vllm-2025"}
    return CapacityPlanner().solve(LLAMA_8B, [H100, H200], max_itl="40 ms", max_ttft="2 s", prices=prices, **load)


def png(figure):
    """The bytes of the picture: drawing it lays out all that it holds."""
    target = io.BytesIO()
    figure.savefig(target)
    return target.getvalue()


def title(figure):
    return " ".join(figure.get_suptitle().split())


def bars(axes):
    """(begin, width) of each bar."""
    return [(patch.get_x(), patch.get_width()) for patch in axes.patches]


def labels(axes):
    return [text.get_text() for text in axes.get_yticklabels()]


# Waterfall.


def test_bars_of_a_waterfall_sum_to_the_step(steps):
    step = steps[1]
    figure = plots.waterfall(step)
    (axes,) = figure.axes
    *parts, (begin, whole) = bars(axes)
    seconds = step.step_latency_total.m_as("second")
    assert (begin, whole) == (0, pytest.approx(seconds))
    seen = [name for name, part in step.breakdown.items() if part.magnitude > 5e-4 * seconds]
    assert len(parts) == len(seen) < len(step.breakdown)
    assert sum(width for _, width in parts) == pytest.approx(seconds, rel=2e-3)
    ends = [begin + width for begin, width in parts]
    assert [begin for begin, _ in parts] == pytest.approx([0, *ends[:-1]]), "each begins where the one before ends"
    assert axes.get_xlabel().startswith("time of a step (s")
    share = step.breakdown["compute"].magnitude / seconds
    assert labels(axes)[0].split() == ["compute", f"{share * seconds:.3g}", f"{share:.1%}"]
    assert labels(axes)[-1].startswith("the whole")
    assert title(figure) == f"{step.subject}: {share:.0%} is compute"
    assert any(step.interval.range in text.get_text() for text in axes.texts)
    assert png(figure).startswith(b"\x89PNG")


def test_two_waterfalls_share_their_axis_and_say_what_differs():
    fleet = Fleet(name="64", node=NODE, count=8)
    one, other = (DistributedModel().solve(LLAMA_70B, fleet, **TRAINING | {"pp_size": pp}) for pp in (4, 8))
    figure = plots.waterfall(one, other)
    first, second = figure.axes
    assert first.get_xlim() == second.get_xlim()
    assert [len(bars(axes)) for axes in figure.axes] == [len(bars(first))] * 2
    assert bars(second)[-1][1] / bars(first)[-1][1] == pytest.approx(other.step_latency_total / one.step_latency_total)
    assert first.get_title(loc="left").startswith("pp 4")
    assert "pp 8" in second.get_title(loc="left")
    ratio = float(other.step_latency_total / one.step_latency_total)
    assert f"{ratio:.2f} of the first" in second.get_title(loc="left")


def test_a_waterfall_of_a_pass_is_in_its_own_unit():
    run = ServingModel().solve(LLAMA_8B, H100, **SERVING)
    (axes,) = plots.waterfall(run).axes
    assert axes.get_xlabel() == "time between two tokens (ms)"
    assert bars(axes)[-1][1] == pytest.approx(run.itl.m_as("ms"))


def test_a_waterfall_says_that_a_plan_does_not_fit():
    step = DistributedModel().solve(LLAMA_70B, Fleet(name="8", node=NODE, count=1), batch_size=64, efficiency=0.5)
    assert not step.feasible
    assert "it does not fit" in title(plots.waterfall(step))


def test_a_waterfall_refuses_what_has_no_parts(steps):
    with pytest.raises(InputError, match="one with a breakdown"):
        plots.waterfall(ScalingModel().solve(compute_budget="1e23 flop"))
    with pytest.raises(InputError, match="at least one"):
        plots.waterfall()
    with pytest.raises(InconsistentError, match="the same thing"):
        plots.waterfall(steps[0], ServingModel().solve(LLAMA_8B, H100, **SERVING))


# Scaling.


def test_scaling_shows_rates_intervals_and_the_ideal(steps):
    figure = plots.scaling(steps[::-1])
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    rates = [float(step.tokens_per_second.magnitude) for step in steps]
    assert lines["predicted"].get_xdata() == pytest.approx([32, 64, 128])
    assert lines["predicted"].get_ydata() == pytest.approx(rates)
    assert lines["ideal: as on 32"].get_ydata() == pytest.approx([rates[0], 2 * rates[0], 4 * rates[0]])
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices[:, 1]
    ends = [step.interval_of("tokens_per_second") for step in steps]
    assert (corners.min(), corners.max()) == pytest.approx((ends[0].low.magnitude, ends[-1].high.magnitude))
    kept = rates[-1] / (4 * rates[0])
    assert [text.get_text() for text in axes.texts][-1] == f"{kept:.0%}"
    assert f"{kept:.0%} of ideal scaling" in title(figure)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("accelerators", "tokens a second")


def test_scaling_of_a_bound_has_no_band(steps):
    fleets = [Fleet(name=f"{count}", node=NODE, count=count) for count in (1, 2)]
    bounds = [DistributedModel().solve(LLAMA_70B, fleet, batch_size=64) for fleet in fleets]
    (axes,) = plots.scaling(bounds, of="throughput").axes
    assert not axes.collections
    assert axes.texts[0].get_text() == "does not fit"


def test_scaling_refuses_what_is_no_series(steps):
    with pytest.raises(InputError, match="another number of accelerators"):
        plots.scaling([steps[0], steps[0]])
    with pytest.raises(InputError, match="two or more"):
        plots.scaling(steps[:1])
    with pytest.raises(UnknownNameError, match="tokens_per_second"):
        plots.scaling(steps, of="tokens_per_secnd")
    with pytest.raises(UnknownNameError, match="tokens_per_second"):
        plots.scaling(steps, of="step_latency_total")
    law = ScalingModel().solve(compute_budget="1e23 flop")
    with pytest.raises(InputError, match="on how many accelerators"):
        plots.scaling([law, law])


# Pareto.


def test_the_line_of_a_pareto_plot_is_beaten_by_none(found):
    figure = plots.pareto(found)
    (axes,) = figure.axes
    (line,) = axes.lines
    shown = [tuple(point) for dots in axes.collections for point in dots.get_offsets()]
    front = list(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert front == sorted(front)
    for time_ms, cost in front:
        assert not any(other[0] <= time_ms and other[1] <= cost and other != (time_ms, cost) for other in shown)
    cheapest = min(shown, key=lambda point: point[1])
    assert cheapest[1] == pytest.approx(found.cost_per_million_tokens.magnitude)
    told = {(row["itl"].m_as("ms"), float(row["cost_per_million_tokens"].magnitude)) for row in (*found.front, *found.ranking)}
    assert {(round(x, 9), round(y, 9)) for x, y in shown} == {(round(x, 9), round(y, 9)) for x, y in told}
    assert axes.get_ylabel() == "USD for a million output tokens"
    assert axes.get_xlabel() == "time between two tokens that 99% of requests keep (ms)"
    assert f"{cheapest[1]:.3g} USD" in title(figure)


def test_a_pareto_plot_against_another_time(found):
    (axes,) = plots.pareto(found, against="ttft").axes
    assert axes.get_xlabel().startswith("time to first token")
    with pytest.raises(UnknownNameError, match="request_latency"):
        plots.pareto(found, against="latency")


def test_no_pareto_plot_without_a_deployment():
    load = {"request_rate": "20 count/s", "input_len": 1000, "output_len": 300, "stack": "vllm-2025"}
    none = CapacityPlanner().solve(LLAMA_70B, [H100], max_itl="0.1 ms", disaggregated=False, **load)
    with pytest.raises(InputError, match="keeps the limits"):
        plots.pareto(none)


# Parity.


def test_parity_says_how_far_off():
    """Off by 10, 20, 0 and 50 %: the median is 15, and nine in ten are within 50."""
    pairs = [(100, 110), (50, 40), (10, 10), (20, 30)]
    rows = [{"value": value, "predicted": str(told), "metric": "mfu_pct", "accelerator": "a"} for value, told in pairs]
    refused = [{"value": 3.0, "predicted": ""}, {"value": "", "predicted": 3.0}, {"value": "OOM", "predicted": "fits"}]
    figure = plots.parity([*rows, *refused])
    assert title(figure) == "4 predictions against measurements: half within 15.0%, nine in ten within 50.0%"
    (axes,) = figure.axes
    (dots,) = axes.collections
    assert sorted(map(tuple, dots.get_offsets())) == sorted(pairs)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("measured (mfu_pct)", "predicted (mfu_pct)")
    assert axes.get_xlim() == axes.get_ylim()
    diagonal = axes.lines[0]
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())


def test_parity_of_a_report_has_intervals_and_groups():
    rows = [
        {
            "measured": 10.0 * place,
            "predicted": 11.0 * place,
            "expected_low": 9.0,
            "expected_high": 99.0,
            "source": f"s{place % 8}",
        }
        for place in range(1, 17)
    ]
    (axes,) = plots.parity(rows, by="source").axes
    assert len(axes.lines) == 1 + 4 + 16, "the diagonal, errors of 10 and 25 % on both sides, and an interval each"
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names[2:] == ["s1", "s2", "s3", "s4", "s5", "3 others"]
    assert axes.get_xlabel() == "measured (no unit stated)"
    with pytest.raises(InputError, match="that was measured"):
        plots.parity([])


# Roofline.


@pytest.fixture(scope="module")
def rooflines():
    fleet = Fleet(name="64", node=NODE, count=8)
    return {
        "training": DistributedModel().kernels(LLAMA_70B, fleet, **TRAINING),
        "decode": ServingModel().kernels(LLAMA_8B, H100, **SERVING),
        "prefill": ServingModel().kernels(LLAMA_8B, H100, prefill=True, **SERVING),
    }


@pytest.mark.parametrize("kind", ["training", "decode", "prefill"])
def test_kernels_lie_under_the_roof(rooflines, kind):
    step = rooflines[kind]
    figure = plots.roofline(step)
    (axes,) = figure.axes
    peak, memory = step.peak.m_as("TFLOP/s"), step.memory_bandwidth.m_as("TB/s")
    dots = [dot.get_offsets()[0] for dot in axes.collections]
    assert len(dots) == sum(1 for one in step.kernels if one.flops and step.share(one) >= 0.002)
    for intensity, rate in dots:
        assert rate < min(peak, intensity * memory)
    roof = axes.lines[0]
    assert max(roof.get_ydata()) == pytest.approx(peak)
    assert roof.get_xdata()[1] == pytest.approx(peak / memory)
    assert axes.get_xlabel() == "arithmetic intensity (FLOP/byte of operands and results)"
    assert axes.get_ylabel() == "TFLOP/s of an accelerator"
    (legend,) = figure.legends
    shares = [float(text.get_text().rsplit(" ", 1)[1].rstrip("%")) for text in legend.get_texts()]
    assert sum(shares) == pytest.approx(100, abs=1), "kernels, passes and what waits are all of the step"
    assert ("limited by memory" if kind == "decode" else "limited by arithmetic") in title(figure)


def test_hollow_dots_are_the_backward_pass(rooflines):
    figure = plots.roofline(rooflines["training"])
    hollow = sum(len(dot.get_facecolor()) == 0 for dot in figure.axes[0].collections)
    told = [one for one in rooflines["training"].kernels if rooflines["training"].share(one) >= 0.002]
    assert hollow == sum(one.direction == "backward" for one in told)
    assert "hollow: backward" in figure.legends[0].get_title().get_text()


def test_kernels_of_a_step_are_a_table(rooflines):
    lines = str(rooflines["decode"]).splitlines()
    assert len(lines) == 1 + len(rooflines["decode"].kernels)
    assert lines[1].split()[:2] == ["feed-forward", "up"]
    assert "FLOP/byte" in lines[1]


def test_kernels_need_a_stack():
    with pytest.raises(InconsistentError, match="a stack"):
        DistributedModel().kernels(LLAMA_8B, Fleet(name="8", node=NODE, count=1), batch_size=64, efficiency=0.5)
    with pytest.raises(InconsistentError, match="an engine whose kernels"):
        ServingModel().kernels(LLAMA_8B, H100, input_len=1000)


def test_a_roofline_needs_kernels_that_compute(rooflines):
    passes = tuple(one for one in rooflines["decode"].kernels if not one.flops)
    with pytest.raises(InputError, match="kernels that compute"):
        plots.roofline(replace(rooflines["decode"], kernels=passes))


# All of them.


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_plot_is_saved(tmp_path, steps, ending):
    figure = plots.waterfall(steps[0])
    for name in ("one", "two"):
        plots.save(figure, tmp_path / f"{name}.{ending}")
    assert (tmp_path / f"one.{ending}").stat().st_size > 1000
    with pytest.raises(InputError, match=r"\.png, \.svg or \.pdf"):
        plots.save(figure, tmp_path / "one.jpeg")


def test_plots_need_the_extra_and_say_so(monkeypatch, steps):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MLSysError, match=r"pip install 'mlsysim-anchors\[plot\]'"):
        plots.waterfall(steps[0])


def test_a_plot_leaves_the_settings_of_matplotlib_alone(matplotlib, steps):
    before = dict(matplotlib.rcParams)
    plots.waterfall(steps[0])
    assert dict(matplotlib.rcParams) == before


def test_numbers_on_logarithmic_axes_are_plain(steps):
    (axes,) = plots.scaling(steps).axes
    assert axes.yaxis.get_major_formatter()(50000.0, 0) == "50,000"
    assert axes.yaxis.get_major_formatter()(0.05, 0) == "0.05"


# The option of commands.

TRAIN = "Llama-3-8B --on 'DGX H100' --batch 64 --seq 8192 --tp 2 --stack megatron-core"
CAPACITY = "capacity Llama-3-8B --on H200 --rate 5 --prompt 1000 --output 300 --together --tp 1 --engine vllm"


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs a line of the command in a folder; its exit code and what it said of an error."""
    pytest.importorskip("typer", reason="commands need typer: pip install 'mlsysim-anchors[cli]'")
    from mlsysim.cli.main import main

    monkeypatch.chdir(tmp_path)

    def run(line):
        return main(shlex.split(line)), capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (f"train {TRAIN} --plot step.png", "step.png"),
        (f"why {TRAIN} --against '--tp 1' --plot two.svg", "two.svg"),
        (f"{CAPACITY} --itl 40ms --plot fleet.pdf", "fleet.pdf"),
    ],
)
def test_commands_draw_their_answer(command, tmp_path, line, name):
    assert command(line) == (0, "")
    assert (tmp_path / name).stat().st_size > 5000


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"train {TRAIN} --plot step.jpg", "path = 'step.jpg': expected a name that ends in .png, .svg or .pdf"),
        (f"{CAPACITY} --itl 0.1ms --plot fleet.png", "--plot = 'fleet.png': expected a load that some deployment serves"),
    ],
)
def test_commands_say_what_cannot_be_drawn(command, tmp_path, line, told):
    code, error = command(line)
    assert code == 2
    assert told in error
    assert not list(tmp_path.iterdir())
