"""What the reader of docstrings cannot see in the code: what is written out when a module is imported.

Doctests stand under ``Example:``, which the reader knows as ``Examples:`` alone; the arguments that solvers share are in the
signature and the docstring of each (``strict_keywords``), but not in its text.
"""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import griffe

_SHARED = re.compile(r"^    \*\*\w+: ", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Gives each docstring its examples, and those of solvers the arguments that they share."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Amends the docstring of one object."""
        if obj.docstring is None:
            return
        if isinstance(obj, griffe.Function) and obj.path.startswith("mlsysim.solvers.") and _SHARED.search(obj.docstring.value):
            _written_out(obj)
        obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)


def _written_out(method: griffe.Function) -> None:
    module, _, names = method.path.rpartition(".")[0].rpartition(".")
    function = getattr(getattr(importlib.import_module(module), names), method.name)
    assert method.docstring is not None
    method.docstring.value = inspect.cleandoc(function.__doc__ or "")
    method.parameters = griffe.Parameters(
        *(
            griffe.Parameter(
                one.name,
                kind=griffe.ParameterKind[one.kind.name.lower()],
                annotation=None if one.annotation is one.empty else str(one.annotation),
                default=None if one.default is one.empty else repr(one.default),
            )
            for one in inspect.signature(function).parameters.values()
        )
    )
