"""What people type, read: models, stacks and engines by their names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlsysim.hardware.types import HardwareNode
    from mlsysim.launch.training_run import TrainingLaunch
    from mlsysim.models.types import TransformerWorkload, Workload
    from mlsysim.solvers.result import Result
    from mlsysim.systems.types import Fleet, Node


def name_of(option: str, typed: str) -> str:
    """Read the name of a training stack or of a framework, of which it is today's, or of an engine with its release or without.

    The option, "--stack" or "--engine", says which; the path of one's own is a name, too.

    Raises:
        UnknownNameError: there is none of this name; the message has the nearest.

    Example:
        >>> name_of("--stack", "Megatron-LM"), name_of("--engine", "vLLM 0.15.0")
        ('megatron-lm-2024', 'vllm-2025')
        >>> name_of("--stack", "vLLM")
        Traceback (most recent call last):
        mlsysim.core.errors.UnknownNameError: --stack = 'vLLM': expected a training stack, not an engine that serves
    """
    from mlsysim.calibration.engines import engine_names
    from mlsysim.calibration.names import engine_called, stack_called
    from mlsysim.calibration.stacks import stack_names
    from mlsysim.core.errors import UnknownNameError

    stack, engine = stack_called(typed), engine_called(typed, alone=True)
    trains = option == "--stack"
    called, other = (stack, engine) if trains else (engine, stack)
    if called is None and other is not None:
        expected = "a training stack, not an engine that serves" if trains else "a serving engine, not a stack that trains"
        raise UnknownNameError(option, typed, expected)
    if called is None:
        raise UnknownNameError.among(option, typed, stack_names() if trains else engine_names())
    return called


def model_named(name: str | None) -> tuple[Workload, tuple[str, ...]]:
    """Read a model: a name of the registry, in any published spelling, or the path of a ``config.json``.

    Returns:
        The model, and what was assumed of it.

    Raises:
        InputError: there is none of this name, with the nearest; or the file describes none that is modelled.
    """
    from mlsysim.core.checks import needed
    from mlsysim.models.registry import Models

    name = needed("MODEL", name, "a name of `mlsysim list models`, or the path of a config.json")
    if name.endswith(".json") or os.path.isfile(f"{name}/config.json"):  # noqa: PTH113 (a name may be no path at all)
        # The room is imported where it is needed: its import takes as long as an answer.
        from mlsysim.launch.hf_config import read_config

        reading = read_config(name)
        known = (f"{name} has the architecture of {reading.registered}",) if reading.registered else ()
        return reading.model, (*known, *reading.assumed)
    return Models.get(name), ()


def transformer_named(name: str | None) -> tuple[TransformerWorkload, tuple[str, ...]]:
    """Read a model that tokens are served of.

    Returns:
        The model, and what was assumed of it.

    Raises:
        InputError: it is unknown, or no transformer.
    """
    from mlsysim.core.errors import InputError
    from mlsysim.models.types import TransformerWorkload

    workload, assumed = model_named(name)
    if not isinstance(workload, TransformerWorkload):
        raise InputError(
            "MODEL", name, f"a transformer, which is served token by token; this is one of {workload.architecture}"
        )
    return workload, assumed


def checkpoint_formats(name: str, workload: TransformerWorkload, options: Mapping[str, Any]) -> dict[str, str]:
    """Read the number formats that a checkpoint's name says, where neither a line nor the model does.

    Returns:
        Arguments of ``ServingModel.solve``: what engines do with such a checkpoint, whose cache has 16 bits.
    """
    from mlsysim.lowering.options import Formats
    from mlsysim.models.registry import Models

    written = Models.weight_format(name)
    stated = {"precision", "weight_precision"} & options.keys()
    if not written or stated or workload.weight_format or workload.expert_format:
        return {}
    return Formats(written, cache=None if Formats.of(options).cache else "bf16").arguments()


def fleet_or_chip(machine: HardwareNode | Node | Fleet) -> HardwareNode | Fleet:
    """The machine of a launch file: of a bare accelerator the file says how many there are; a node is a fleet of one."""
    from mlsysim.systems.fleets import whole_nodes
    from mlsysim.systems.types import Node

    return whole_nodes(machine, 1) if isinstance(machine, Node) else machine


def batch_of(batch: int | None) -> int:
    """The batch of a step, which a line without a launch file says."""
    from mlsysim.core.checks import needed

    return needed("--batch", batch, "sequences of a step, or --from with a launch file that says them")


def launched(
    source: str,
    model: str | None,
    machine: HardwareNode | Node | Fleet,
    batch: int | None,
    bound: bool,
    options: Mapping[str, Any],
) -> TrainingLaunch:
    """Read a launch file of training, or its text; what is typed beside it wins.

    A fleet says how many accelerators there are where the file leaves it to its launcher, and ``model`` what is trained.

    Raises:
        InputError: what the file says is not modelled, or it leaves something out.
    """
    from mlsysim.core.errors import MissingArgumentError
    from mlsysim.launch import training_launch
    from mlsysim.systems.types import Fleet

    known = fleet_or_chip(machine)
    count = known.accelerators if isinstance(known, Fleet) else None
    stated = {**options, **({} if batch is None else {"batch_size": batch}), **({"stack": None} if bound else {})}
    workload = None if model is None else transformer_named(model)[0]
    try:
        return training_launch(source, workload=workload, accelerators=count, **stated)
    except MissingArgumentError as error:
        if error.argument == "accelerators":
            raise MissingArgumentError("--on", None, 'how many accelerators there are, such as "64 x H100"') from None
        if error.argument == "workload":
            raise MissingArgumentError("MODEL", None, "what is trained: the file names none") from None
        raise


def length_assumed(workload: Workload, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Say how long sequences are taken to be, where a line of training leaves it out."""
    from mlsysim.lowering.training_setting import DEFAULT_SEQ_LEN
    from mlsysim.models.types import TransformerWorkload

    if options.get("seq_len") is not None or not isinstance(workload, TransformerWorkload):
        return ()
    return (f"sequences of {DEFAULT_SEQ_LEN:,} tokens, since no --seq is given",)


def other_number(machine: HardwareNode | Node | Fleet, result: Result) -> tuple[str, ...]:
    """Say how many accelerators a deployment takes, where these are not all of the machine, or are more."""
    from mlsysim.systems.types import Fleet, Node

    if result.facts is None or not isinstance(machine, Fleet | Node):
        return ()
    there = machine.accelerators if isinstance(machine, Fleet) else machine.accelerators_per_node
    used = round(result.facts.accelerators)
    if used > there:
        return (f"{used} accelerators are used, more than the {there} of {machine.name}",)
    told = f"{used} of the {there} accelerators are used: --tp and --pp share the model among more, --replicas copies it"
    return (told,) if used < there else ()
