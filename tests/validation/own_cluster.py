"""A user's own file of anchors, of which tests of the plugin write the cases."""

import importlib.metadata

import pytest

import mlsysim

INSTALLED = [
    pytest.mark.skipif(
        not [
            point for point in importlib.metadata.entry_points(group="pytest11") if point.value == "mlsysim.validation.plugin"
        ],
        reason="the package is not installed: pip install -e .",
    ),
    pytest.mark.usefixtures("imported_once", "few_plugins"),
]
HEAD = """
[source]
key = "my-cluster"
citation = "My cluster, measured by me"
url = "https://example.org/run/1"
year = 2026
locator = "run 1"
solver = "SingleNodeModel"
metric = "latency"
definition = "one forward batch"
unit = "ms"
tolerance = 0.05
tolerance_reason = "five repeats spread by 5 %"

[defaults]
role = "validation"
evidence = "stated"
workload = "Models.Vision.ResNet50"
hardware = "Hardware.Cloud.A100"
"""


def latency_ms(batch_size):
    run = mlsysim.SingleNodeModel().solve(mlsysim.Models.Vision.ResNet50, mlsysim.Hardware.Cloud.A100, batch_size=batch_size)
    return run.latency.m_as("ms")


def case(name, factor=1.0, extra=""):
    """A case whose figure is ``factor`` times what the solver predicts."""
    value = factor * latency_ms(256)
    return f'\n[[case]]\nid = "{name}"\nvalue = {value!r}\nsolve = {{ batch_size = 256 }}\n{extra}\n'
