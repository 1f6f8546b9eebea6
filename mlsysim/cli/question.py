"""What people type, read: models, stacks and engines by their names."""

from __future__ import annotations


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
