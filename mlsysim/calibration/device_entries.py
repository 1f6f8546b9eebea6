"""Accelerators as ``data/devices/`` has them: one entry each, in a section for each thing that is known of it.

An entry is named after the kernels that were measured on it, or after the cards that share all of a section. Its sections,
each with its ``source``, and with ``hardware``: the registry entries that it stands for.

- ``kernels``: of an accelerator without kernel tables of its own, or with some of them only: the measured sibling whose
  shares of the datasheet's rates hold (``like``; of one family alone ``gemm_like``, ``attention_like``,
  ``collectives_like``), and facts that differ: ``gemm``, ``attention``, ``collectives`` (coefficients; ``link``: "host" where
  peers are reached over the host's bus, "none" of a device that has none; ``bandwidth_share`` of the link), ``torus_axes``
  (axes of a torus of links, 1: a switch), ``torus_cube`` (chips of the smallest slice whose rings are closed), ``array``
  (rows of the systolic array), ``cores`` (that compute tiles of a kernel at the same time), ``devices`` (that a framework sees
  in it, each with its own part of the batch), ``matrix_units`` (that work on a tile of a product, where they are not the
  registry's multiprocessors, on which softmax runs), ``clock_spread`` (where it is not that of ``shared.toml``). Nothing in it
  is fitted; ``evidence`` is of its own figures: "recalled" if quoted from memory, "stated" where there are none but the choice
  of the sibling.
- ``training``: the ``clock`` that hours of training sustain on one in the middle of many (1: that of the kernel benchmarks),
  fitted or a prior (``fitted``); or the device whose clock it has as well (``like``): both are fitted as one. Without a section
  a device has that of its sibling.
- ``serving``: ``compute_share``, ``memory_share``, ``attention_share``, ... of what the kernels of ``gemm``, ``attention``
  and ``collectives`` reach (``calibration.engines.EngineDevice``); ``peers``: the devices nearest to it, whose median a share
  has that no figure places, but for ``compute_share`` of a sibling's kernels, for which the clock of ``inference`` stands;
  ``lends`` = false: an engine with products of its own calls none of the vendor's here.
- ``data_parallel``, ``inference``: ResNet and BERT in training and served: whose ``kernels``, the ``clock`` under a power
  limit (else that of training; ``as_trained``: that of ``data_parallel``, with its shares), ``int8_share`` and the like (rate
  of products in that format over that of 16 bits, as shares of their peaks), ``traffic`` (share of a convolution's bytes that
  the cache does not hold).
- ``loaded``: the clock under a language model's load, over that of its serving.
- ``power``: what activities draw, as shares of TDP (``physics.operations.power.PowerCoefficients``); accelerators without one
  have the entry ``pooled``, whose ``interval`` is stated.
- ``trained``: ``watts`` of a chip with its share of the host, mean over training runs whose meters were read; of others
  ``pooled`` states a ``share`` of TDP, and the ``interval`` of all of them.
"""

from __future__ import annotations

from typing import Any

from mlsysim.core.errors import DataError
from mlsysim.core.toml import only_keys, packaged_folder, packaged_toml, reads, table_of

DEVICES = "devices/"
SECTIONS = ("kernels", "training", "serving", "data_parallel", "inference", "loaded", "power", "trained")


@reads("calibration", DEVICES)
def device_entries(section: str) -> dict[str, dict[str, Any]]:
    """One section of every entry that has it, by the entry's name.

    Example:
        >>> device_entries("training")["a100_sxm"]["hardware"], "a100_sxm" in device_entries("kernels")
        (['A100 SXM4 80GB'], False)
    """
    return {name: entry[section] for name, (_, entry) in _entries().items() if section in entry}


def device_file(name: str) -> str:
    """The file among the calibration's data that has an entry.

    Example:
        >>> device_file("h100_sxm")
        'devices/hopper.toml'
    """
    return _entries()[name][0]


@reads("calibration", DEVICES)
def _entries() -> dict[str, tuple[str, dict[str, Any]]]:
    """The file and the sections of each entry."""
    known: dict[str, tuple[str, dict[str, Any]]] = {}
    for file in packaged_folder("calibration", DEVICES):
        for name, entry in packaged_toml("calibration", file).items():
            place = f"mlsysim/calibration/data/{file}: [{name}]"
            if name in known:
                raise DataError(f"{place} stands in {known[name][0]}, too")
            only_keys(table_of(entry, place), SECTIONS, place)
            known[name] = file, {section: table_of(value, f"{place[:-1]}.{section}]") for section, value in entry.items()}
    return known
