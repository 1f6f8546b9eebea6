"""Units, typed quantities, errors and provenance: what every other room stands on."""

from mlsysim.core import constants, errors

__all__ = ["constants", "errors"]
