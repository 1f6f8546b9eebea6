"""What people type, read: models, stacks and engines by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlsysim.hardware.types import HardwareNode
    from mlsysim.models.types import TransformerWorkload, Workload
    from mlsysim.systems.types import Fleet, Node


def stack_named(name: str) -> str:
    """Read the name of a training stack or of a framework, of which it is today's.

    Args:
        name: the name, or the path of a stack of one's own.

    Raises:
        UnknownNameError: there is none of this name; the message has the nearest.

    Example:
        >>> stack_named("Megatron-LM"), stack_named("torchtitan")
        ('megatron-core', 'torchtitan')
    """
    from mlsysim.calibration.names import stack_called
    from mlsysim.calibration.stacks import stack_names
    from mlsysim.core.errors import UnknownNameError

    called = stack_called(name)
    if called is None:
        raise UnknownNameError.among("--stack", name, stack_names())
    return called


def engine_named(name: str) -> str:
    """Read the name of a serving engine, with its release or without.

    Args:
        name: the name, or the path of an engine of one's own.

    Raises:
        UnknownNameError: there is none of this name; the message has the nearest.

    Example:
        >>> engine_named("vLLM 0.12.0"), engine_named("sglang")
        ('vllm-2025', 'sglang-2025')
    """
    from mlsysim.calibration.engines import engine, engine_names
    from mlsysim.core.errors import UnknownNameError

    try:
        known = engine(name)
    except UnknownNameError:
        raise UnknownNameError.among("--engine", name, engine_names()) from None
    return known.file or known.name


def model_named(name: str) -> Workload:
    """Read a model: a name of the registry, in any published spelling.

    Args:
        name: what was typed.

    Raises:
        UnknownNameError: there is none of this name; the message has the nearest.
    """
    from mlsysim.models.registry import Models

    return Models.get(name)


def transformer_named(name: str) -> TransformerWorkload:
    """Read a model that tokens are served of.

    Args:
        name: what was typed.

    Raises:
        InputError: it is unknown, or no transformer.
    """
    from mlsysim.core.errors import InputError
    from mlsysim.models.types import TransformerWorkload

    workload = model_named(name)
    if not isinstance(workload, TransformerWorkload):
        raise InputError(
            "MODEL", name, f"a transformer, which is served token by token; this is one of {workload.architecture}"
        )
    return workload


def accelerator_of(machine: HardwareNode | Node | Fleet) -> HardwareNode:
    """The accelerator of a machine.

    Args:
        machine: an accelerator, a node or a fleet.
    """
    from mlsysim.systems.types import Fleet, Node

    if isinstance(machine, Fleet):
        machine = machine.node
    return machine.accelerator if isinstance(machine, Node) else machine
