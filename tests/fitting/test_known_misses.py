"""The command that brings known misses up to date clears, tells, and invents no reason."""

from pathlib import Path

import pytest

from mlsysim.validation.anchors import known_misses
from mlsysim.validation.anchors.loading import load

SOURCE = """
[source]
key = "mm1"
citation = "M/M/1"
url = "https://example.org"
year = 1917
locator = "T ~ Exp(mu - lambda)"
solver = "TailLatencyModel"
definition = "response time"
unit = "s"
metric = "latency_mean"
tolerance = 0.01
tolerance_reason = "an identity"
table = "mm1.csv"

[defaults]
role = "exact"
evidence = "computed"
responds = false
responds_not = "no hardware"
solve = { service_time = "1 s" }
"""
# The right value is 2 s: the first is a miss that is no more, the second one that nobody knows of.
ROWS = "id,value,known_miss,solve.arrival_rate\npasses,2.0,slow,0.5 count/second\nmisses,9.0,,0.5 count/second\n"


@pytest.fixture
def anchors(tmp_path: Path) -> Path:
    """A folder of one family with one source."""
    folder = tmp_path / "anchors" / "queueing"
    folder.mkdir(parents=True)
    (folder / "mm1.toml").write_text(SOURCE)
    (folder / "mm1.csv").write_text(ROWS)
    return folder.parent


def missed(anchors: Path, reason: str) -> list[str]:
    """What is left to a person, once the source's table is brought up to date."""
    return known_misses.updated(known_misses.standing(load(anchors / "queueing" / "mm1.toml")), reason)


def test_clears_what_passes_and_tells_what_misses(anchors: Path) -> None:
    """A reason that no longer holds goes; a new miss waits for a person."""
    assert missed(anchors, "") == ["mm1: case 'misses' misses: it needs a known_miss"]
    assert (anchors / "queueing" / "mm1.csv").read_text() == ROWS.replace("slow", "")


def test_gives_a_stated_reason(anchors: Path) -> None:
    """With a reason for the source, its new misses are known; then nothing is left to do."""
    assert missed(anchors, "a typing error") == []
    table = (anchors / "queueing" / "mm1.csv").read_text()
    assert "misses,9.0,a typing error," in table
    assert missed(anchors, "") == []
    assert (anchors / "queueing" / "mm1.csv").read_text() == table


def test_a_case_outside_a_table_is_told_not_edited(anchors: Path) -> None:
    """TOML files belong to people."""
    path = anchors / "queueing" / "mm1.toml"
    path.write_text(
        SOURCE + '\n[[case]]\nid = "own"\nvalue = 2.0\nknown_miss = "slow"\nsolve = { arrival_rate = "0.5 count/second" }\n'
    )
    text = path.read_text()
    assert missed(anchors, "a typing error") == ["mm1: case 'own' passes now: clear its known_miss"]
    assert path.read_text() == text
