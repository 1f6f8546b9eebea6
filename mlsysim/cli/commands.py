"""The commands of ``mlsysim``: where each stands, and the examples that its help shows and a test runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from mlsysim.core.errors import UnknownNameError


class Command(NamedTuple):
    """A command.

    Attributes:
        name: what is typed; of one in a group, the group first.
        place: its module among those of the command, and its function there.
        examples: lines that run as they are, the plainest first.
        settings: of its context, as click has them.
    """

    name: str
    place: str
    examples: tuple[str, ...]
    settings: dict[str, Any] | None = None

    def function(self) -> Callable[..., Any]:
        """Import its module, and return its function."""
        module, _, name = self.place.partition(".")
        function: Callable[..., Any] = getattr(import_module(f"mlsysim.cli.{module}"), name)
        return function

    @property
    def group(self) -> str:
        """The group that it is in; empty for none."""
        return self.name.rpartition(" ")[0]


COMMANDS = (
    Command(
        "train",
        "train.train",
        (
            'mlsysim train Llama-3-70B --on "64 x DGX H100" --batch 1024 --seq 8192 --tp 8 --pp 4 --stack megatron-core',
            'mlsysim train Llama-3-8B --on "64 x H100, 64 x B200" --batch 256 --seq 8192 --tp 2',
            "mlsysim train --from run.sh --on H100",
        ),
    ),
    Command(
        "serve",
        "serve.serve",
        (
            "mlsysim serve Qwen/Qwen3-32B --on H200 --tp 2 --batch 32 --prompt 1000 --output 300 --engine vllm",
            "mlsysim serve Qwen/Qwen3-32B-FP8 --on H100,H200 --batch 32 --prompt 1000 --output 300",
            "mlsysim serve --from 'vllm serve Qwen/Qwen3-32B -tp 2 --max-num-seqs 64' --on H200 --prompt 1000 --output 300",
        ),
    ),
    Command(
        "plan",
        "plan.plan",
        (
            'mlsysim plan Llama-3-70B --on "64 x DGX H100" --batch 1024 --seq 8192 --tokens 15T --price 2.5',
            "mlsysim plan --from run.sh --on H100",
            'mlsysim plan Llama-3-8B --on "64 x H100" --batch 256 --seq 8192 --tp 1,2 --export megatron',
        ),
    ),
    Command(
        "capacity",
        "capacity.capacity",
        (
            "mlsysim capacity Qwen/Qwen3-32B --on H200,H100 --rate 20 --prompt 1000 --output 300 --ttft 2s --itl 40ms",
            "mlsysim capacity Qwen/Qwen3-8B --on H200 --rate 1200/min --prompt 1000 --output 300 --ttft 1s --price H200=2.5",
        ),
    ),
    Command(
        "why",
        "why.why",
        (
            "mlsysim why Llama-3-8B --on 'DGX H100' --batch 64 --seq 8192 --tp 2",
            "mlsysim why Llama-3-8B --on 'DGX H100' --batch 64 --seq 8192 --tp 2 --against '--tp 1 --recompute full'",
            "mlsysim why Qwen/Qwen3-32B --on H200 --batch 32 --prompt 1000 --output 300 --against '--precision fp8'",
        ),
        {"allow_extra_args": True, "ignore_unknown_options": True},
    ),
    Command(
        "trust",
        "trust.trust",
        (
            "mlsysim trust Llama-3-70B --on H100 --stack megatron-core",
            "mlsysim trust Qwen/Qwen3-32B --on H200",
        ),
    ),
    Command(
        "list",
        "registries.entries",
        ("mlsysim list hardware h100", "mlsysim list models qwen3", "mlsysim list engines"),
    ),
    Command(
        "check",
        "check.check",
        ("mlsysim check scenario.toml", "mlsysim check scenario.toml --changes"),
    ),
    Command(
        "predict",
        "predict.main",
        ("mlsysim predict --example training", "mlsysim predict runs.csv -o out.csv"),
    ),
    Command(
        "anchor new",
        "anchor.new",
        ("mlsysim anchor new training", "mlsysim anchor new serving -o my.anchor.toml"),
    ),
    Command("calibrate", "calibrate.calibrate", ("mlsysim calibrate runs.csv -o my-stack.toml",)),
)
# What the groups among them are about.
GROUPS = {"anchor": "Your own measurements as tests of pytest."}
# The one that needs no extra, by its first word; all others need the extra ``cli``.
ALONE = "predict"


def commands_named(words: Sequence[str]) -> tuple[Command, ...]:
    """Find the commands that a line may mean by its first word: those of a group, or all where it begins with an option.

    Raises:
        UnknownNameError: no command and no group begins so; the message has the nearest.

    Example:
        >>> [command.name for command in commands_named(["anchor", "new"])]
        ['anchor new']
    """
    if not words or words[0].startswith("-"):
        return COMMANDS
    named = tuple(command for command in COMMANDS if command.name.split()[0] == words[0])
    if not named:
        raise UnknownNameError.among("command", words[0], dict.fromkeys(command.name.split()[0] for command in COMMANDS))
    return named
