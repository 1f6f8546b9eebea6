"""The fixture of the tests of the plugin."""

import pytest
from own_cluster import HEAD


@pytest.fixture
def anchors(pytester):
    """Writes my_cluster.anchor.toml and returns its path."""

    def write(*cases, head=HEAD, name="my_cluster.anchor.toml"):
        path = pytester.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + "".join(cases), encoding="utf-8")
        return path

    return write
