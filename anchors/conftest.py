"""What a run of the anchors prints besides their report: no header, and no second table of times."""

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Quietens what is wider than a page; -v brings all of it back."""
    if config.get_verbosity() <= 0:
        config.option.no_header = True
        config.option.benchmark_quiet = True
