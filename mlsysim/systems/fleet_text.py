"""Machines as people write them in a line: "H200", "8 x H200", "64 x DGX H100", "2 x 4 x A100"."""

from __future__ import annotations

import math
import re

from mlsysim.core.errors import InputError, UnknownNameError, either, nearest_names
from mlsysim.hardware.registry import Hardware
from mlsysim.hardware.types import HardwareNode
from mlsysim.systems.fleets import as_fleet, usual_fleet, whole_nodes
from mlsysim.systems.registry import Systems
from mlsysim.systems.types import Fleet, Node

_TIMES = r"\s*[x×*]\s*"
# Ways to write a count beside a name, in the order in which they are tried: the first whose name a registry has.
_COUNTED = (
    re.compile(rf"(?P<count>\d+){_TIMES}(?:(?P<each>\d+){_TIMES})?(?P<name>.+)", re.IGNORECASE),
    re.compile(r"(?P<name>.*\S)(?:\s*[×*:]|\s+x|(?<=\d)x)\s*(?P<count>\d+)", re.IGNORECASE),
    re.compile(r"(?P<count>\d+)\s+(?P<name>\D.*)"),
)
_THOUSANDS = re.compile(r"(?<![\w.])\d{1,3}(?:,\d{3})+(?!\d)")
_EXPECTED = 'an accelerator, a node or a fleet, such as "H200", "DGX H100", "8 x H200" or "64 x DGX H100"'


def machine_called(text: str, argument: str = "hardware") -> HardwareNode | Node | Fleet:
    """Read what a line of text calls a machine: an accelerator or a node by its name, a fleet by a count and a name.

    A fleet of accelerators stands in the nodes that these usually sit in; with two counts, in nodes of the second.

    Args:
        text: the name that a registry has, in any published spelling, with a count before or after it, or without.
        argument: what an error calls it.

    Raises:
        InputError: it is no text, or a count is 0.
        UnknownNameError: no accelerator and no node is called so; the message has the nearest names.

    Example:
        >>> machine_called("H200").name, machine_called("DGX H100").name, machine_called("8 x H200").accelerators
        ('H200 SXM 141GB', 'DGX H100', 8)
        >>> [machine_called(text).accelerators for text in ("64 x DGX H100", "DGX H100 x 64", "2 x 4 x A100 40GB")]
        [512, 512, 8]
        >>> machine_called("H1000", "on")
        Traceback (most recent call last):
        mlsysim.core.errors.UnknownNameError: on = 'H1000': no machine is called 'H1000'; did you mean 'H100', 'V100' or 'P100'?
    """
    if not isinstance(text, str) or not text.strip():
        raise InputError(argument, text, _EXPECTED)
    plain = _without_thousands(text.strip())
    named = _named(plain)
    if named is not None:
        return named
    counted = [match for pattern in _COUNTED if (match := pattern.fullmatch(plain))]
    for match in counted:
        named = _named(match["name"])
        if named is not None:
            return _fleet_of(
                named, [int(match[name]) for name in ("count", "each") if match.groupdict().get(name)], argument, text
            )
    raise _unknown(argument, text, counted[0]["name"] if counted else plain)


def fleet_called(text: str, argument: str = "fleet") -> Fleet:
    """Read a fleet from a line of text: what ``machine_called`` reads, of which a lone accelerator or node is a fleet of one.

    Args:
        text: the fleet.
        argument: what an error calls it.

    Raises:
        InputError: as ``machine_called``.

    Example:
        >>> [fleet_called(text).accelerators for text in ("H200", "DGX H100", "512 x H100", "1,024xH100", "4090 x 2")]
        [1, 8, 512, 1024, 2]
    """
    return as_fleet(machine_called(text, argument))


def machines_listed(text: str, argument: str = "hardware") -> list[str]:
    """Split a list of machines at its commas; those within a number, as in "1,024 x H100", stay.

    Args:
        text: the list.
        argument: what an error calls it.

    Raises:
        InputError: the list is empty.

    Example:
        >>> machines_listed("H200, 1,024 x H100,DGX B200")
        ['H200', '1024 x H100', 'DGX B200']
    """
    listed = [part.strip() for part in _without_thousands(text).split(",") if part.strip()]
    if not listed:
        raise InputError(argument, text, _EXPECTED)
    return list(dict.fromkeys(listed))


def _named(name: str) -> HardwareNode | Node | None:
    """The node or the accelerator of this name; of a name that both have, the node."""
    node = Systems.Nodes.find(name)
    return Hardware.find(name) if node is None else node


def _fleet_of(named: HardwareNode | Node, counts: list[int], argument: str, text: str) -> Fleet:
    """Make a fleet of one count of nodes, or of one or two of accelerators: nodes, and accelerators in each."""
    if 0 in counts:
        raise InputError(argument, text, "a count of at least 1")
    if not isinstance(named, Node):
        return usual_fleet(named, math.prod(counts), counts[1] if len(counts) > 1 else None)
    if len(counts) > 1:
        raise InputError(argument, text, f"one count of {named.name}, which is a node already")
    return whole_nodes(named, counts[0])


def _without_thousands(text: str) -> str:
    """Take the commas out of numbers, as in "1,024 x H100"."""
    return _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)


def _unknown(argument: str, text: str, name: str) -> UnknownNameError:
    """The error for a name that no machine has, or that several have."""
    near = nearest_names(name, [*Hardware.nearest(name), *Systems.Nodes.nearest(name)], least=0.0)
    error = UnknownNameError(argument, text, _EXPECTED, next(iter(near), None))
    if near:
        error.args = (f"{argument} = {text!r}: no machine is called {name!r}; did you mean {either(near)}?",)
    return error
