"""Documents with one value replaced by another, wherever chance finds it."""

from __future__ import annotations

import copy
import random
from typing import Any


def with_wrong_value(document: dict[str, Any], chance: random.Random, value: object) -> dict[str, Any]:
    """Copy a document, one value of which, in it or in a table within, is ``value`` instead."""
    changed = table = copy.deepcopy(document)
    while True:
        key = chance.choice(list(table))
        if isinstance(table[key], dict) and table[key] and chance.random() < 0.8:
            table = table[key]
        else:
            table[key] = value
            return changed
