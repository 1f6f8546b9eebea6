"""What a caller keeps in the host's memory: ``offload`` and ``host_memory`` of ``ServingModel``, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mlsysim.calibration.memory import host_link_share
from mlsysim.core.checks import positive_quantity, real_number
from mlsysim.core.errors import InconsistentError, InputError, UnknownNameError
from mlsysim.hardware.types import HardwareNode
from mlsysim.systems.types import Fleet, Node

# What can be offloaded; a text names one, or both with a plus between.
PARTS = ("weights", "kv")


@dataclass(frozen=True, slots=True)
class Offload:
    """Shares of weights and cache in host memory.

    Attributes:
        weights, cache: 0 to 1.
        link_Bps: of one accelerator to the host, one direction.
        host_B: host memory of one accelerator; infinite where nobody says.
    """

    weights: float = 0.0
    cache: float = 0.0
    link_Bps: float = math.inf
    host_B: float = math.inf

    def __bool__(self) -> bool:
        """True if anything is offloaded."""
        return self.weights > 0 or self.cache > 0


NOTHING = Offload()


def check_offload(
    offload: object, host_memory: object, hardware: object, accelerator: HardwareNode, *, calibrated: bool
) -> Offload:
    """The arguments, checked; an engine reaches a share of the link's rate, without one it runs at the datasheet's.

    Raises:
        InputError: neither a known text nor shares of known parts, or no link to a host.

    Example:
        >>> from mlsysim.hardware.registry import Hardware
        >>> found = check_offload("weights+kv", "256 GB", None, Hardware.Cloud.H100, calibrated=False)
        >>> found.weights, found.cache, found.link_Bps / 1e9, found.host_B / 1e9
        (1.0, 1.0, 63.0, 256.0)
        >>> check_offload("wieghts", None, None, Hardware.Cloud.H100, calibrated=False)
        Traceback (most recent call last):
        mlsysim.core.errors.UnknownNameError: offload = 'wieghts': expected one of weights, kv; did you mean 'weights'?
    """
    shares = _shares(offload)
    if not any(shares.values()):
        if host_memory is not None:
            raise InconsistentError("host_memory", host_memory, "none without offload: nothing would lie in it")
        return NOTHING
    if accelerator.host_link_bw is None:
        raise InconsistentError("offload", offload, f"none: {accelerator.name} lists no link to a host (host_link_bw)")
    rate_Bps = float(accelerator.host_link_bw.m_as("byte/second")) * (host_link_share() if calibrated else 1.0)
    return Offload(shares["weights"], shares["kv"], rate_Bps, _host_B(host_memory, hardware))


def _shares(offload: object) -> dict[str, float]:
    if offload is None:
        return dict.fromkeys(PARTS, 0.0)
    if isinstance(offload, str):
        named = [part.strip() for part in offload.split("+")]
        by_part: Mapping[str, object] = dict.fromkeys(named, 1.0)
    elif isinstance(offload, Mapping):
        by_part = offload
    else:
        raise InputError("offload", offload, '"weights", "kv", "weights+kv", or shares such as {"weights": 0.5}')
    for part in by_part:
        if part not in PARTS:
            raise UnknownNameError.among("offload", part, PARTS)
    return {part: real_number(f"offload[{part!r}]", by_part.get(part, 0.0), 0.0, 1.0) for part in PARTS}


def _host_B(host_memory: object, hardware: object) -> float:
    """Host memory of one accelerator: as asked, or its part of its node's."""
    if host_memory is not None:
        return positive_quantity("host_memory", host_memory, "byte")
    node = hardware.node if isinstance(hardware, Fleet) else hardware
    if isinstance(node, Node) and node.host_memory is not None:
        return float(node.host_memory.m_as("byte")) / node.accelerators_per_node
    return math.inf
