"""DP-SGD through the library dp-accounting: figures that others printed, and a noise for an epsilon."""

from __future__ import annotations

import sys

import pytest

from mlsysim.core.errors import InconsistentError, InputError, MissingExtraError
from mlsysim.solvers.operations.privacy import ResponsibleEngineeringModel

MNIST = {"examples": 60000, "batch_size": 256}


def account(**given):
    return ResponsibleEngineeringModel().solve(**{**MNIST, **given})


@pytest.fixture
def _library():
    pytest.importorskip("dp_accounting", reason="the accountant is an extra: pip install mlsysim-anchors[privacy]")


@pytest.mark.usefixtures("_library")
def test_the_noise_for_an_epsilon_is_the_one_that_gives_it():
    found = account(epsilon=3.0, epochs=10)
    again = account(noise_multiplier=found.noise_multiplier, epochs=10)
    assert again.epsilon == found.epsilon == pytest.approx(3.0, rel=1e-6)
    assert again.epsilon <= 3.0


@pytest.mark.usefixtures("_library")
def test_the_classic_conversion_says_more_and_the_result_says_which():
    both = [account(noise_multiplier=1.1, epochs=5, conversion=name) for name in ("classic", "improved")]
    assert [run.conversion for run in both] == ["classic", "improved"]
    assert 1.1 < both[0].epsilon / both[1].epsilon < 1.6


@pytest.mark.usefixtures("_library")
def test_more_noise_and_fewer_steps_never_lose_more():
    losses = [account(noise_multiplier=noise, steps=1000).epsilon for noise in (0.5, 1.0, 2.0, 1000.0)]
    assert losses == sorted(losses, reverse=True)
    assert account(noise_multiplier=1.0, steps=10).epsilon < losses[1]


@pytest.mark.usefixtures("_library")
def test_an_epsilon_that_no_noise_reaches_is_refused():
    with pytest.raises(InputError, match=r"epsilon = 1e-09: expected one that a noise of 10000 reaches"):
        account(epsilon=1e-9, epochs=1, conversion="classic")


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"epochs": 1}, InconsistentError),
        ({"epochs": 1, "epsilon": 1.0, "noise_multiplier": 1.0}, InconsistentError),
        ({"noise_multiplier": 1.0}, InconsistentError),
        ({"noise_multiplier": 1.0, "epochs": 1, "steps": 5}, InconsistentError),
        ({"noise_multiplier": 0.0, "epochs": 1}, InputError),
        ({"noise_multiplier": 1.0, "epochs": 1e300}, InputError),
        ({"noise_multiplier": 1.0, "epochs": 1, "delta": 0.9}, InputError),
        ({"noise_multiplier": 1.0, "epochs": 1, "batch_size": 60001}, InconsistentError),
    ],
)
def test_what_contradicts_itself_is_refused(given, error):
    with pytest.raises(error):
        account(**given)


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(MissingExtraError, match=r"pip install mlsysim-anchors\[privacy\]"):
        account(noise_multiplier=1.0, epochs=1)
