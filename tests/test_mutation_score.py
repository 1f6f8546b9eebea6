"""What docs/mutation.md says of the tests: it is written by a run of an hour (``tox -e mutation``), and read here."""

import pytest
from repository import ROOT

PAGE = ROOT / "docs" / "mutation.md"
AIM = 0.9  # of all mutants


@pytest.fixture
def killed():
    """Mutants of each module, and how many of them are killed."""
    rows = [line.strip("| \n").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return {name: (int(mutants.replace(",", "")), int(dead.replace(",", ""))) for name, mutants, dead, _ in rows[2:]}


def test_nine_of_ten_mutants_of_the_physics_are_killed(killed):
    mutants, dead = map(sum, zip(*killed.values(), strict=True))
    assert dead >= AIM * mutants
