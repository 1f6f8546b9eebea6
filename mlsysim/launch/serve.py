"""A server's command line, such as ``vllm serve ...``, as a deployment: ``serving_launch``.

``serving_launch(text)`` takes a pasted command line, or the path of a script or a manifest that has one;
``answer_serving(launch, hardware, input_len=..., output_len=...)`` (``launch/answers.py``) answers about it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlsysim.calibration.names import engine_called, unknown
from mlsysim.core.errors import InputError, MissingArgumentError, NotModelledError
from mlsysim.core.toml import packaged_toml, reads
from mlsysim.launch.documents import container_commands, handed_text, is_manifest, text_of
from mlsysim.launch.options import LaunchNotes, Stated, read_options
from mlsysim.launch.serve_plans import merged_file, plan_of, served_model, stated_formats
from mlsysim.launch.shell import read_script, resolved
from mlsysim.launch.shell_words import MARK, Command, Script
from mlsysim.models.types import TransformerWorkload

_FILE = "serve_options.toml"
# The words by which a command line is a server's: an engine's table, and the words that begin it.
_COMMANDS = {
    ("vllm", "serve"): "vllm",
    ("-m", "vllm.entrypoints.openai.api_server"): "vllm",
    ("-m", "sglang.launch_server"): "sglang",
    ("sglang", "serve"): "sglang",
    ("trtllm-serve", "serve"): "trtllm",
    ("trtllm-serve",): "trtllm",
    ("llama-server",): "llama",
}
# A container that starts vLLM's server with the words after it.
_IMAGE = re.compile(r"(?:\S+/)?vllm-openai(?:[-:@]\S*)?")
_OTHERS = ("text-generation-launcher", "text-generation-inference", "lmdeploy", "ollama", "tritonserver", "nim_llm")
_EXPECTED = "vllm serve, python -m sglang.launch_server, trtllm-serve or llama-server"


@dataclass(frozen=True)
class ServingLaunch(LaunchNotes):
    """A deployment as a server's command line states it.

    Attributes:
        engine: what the line starts: vllm, sglang, trtllm or llama.cpp.
        stack: the calibrated engine that stands for it.
        model: what the line calls the model.
        workload: the model.
        accelerators: of all copies together.
        arguments: keywords of ``ServingModel.solve`` that the line decides; the load is the caller's.
        max_model_len: the longest sequence that it takes, in tokens; None: the model's own.
        prefix_caching: whether prompts share what they have in common; None: the engine's default.
        sequences: that the engine decodes together by default, of each group of ranks with sequences of its own.
        drafts_by: what drafts tokens, such as mtp or eagle; empty: nothing does.
        role: of a disaggregated pair, prefill or decode; empty: it does both.
        prefill: the pool that computes the prompts, where a search found one beside this, which decodes.
        assumed, ignored, unknown: as ``LaunchNotes`` has them.
    """

    engine: str
    stack: str
    model: str
    workload: TransformerWorkload
    accelerators: int
    arguments: dict[str, Any]
    max_model_len: int | None = None
    prefix_caching: bool | None = None
    sequences: int | None = None
    drafts_by: str = ""
    role: str = ""
    prefill: ServingLaunch | None = None


def serving_launch(
    source: str | Path, *, files: Mapping[str, str] | None = None, workload: TransformerWorkload | None = None
) -> ServingLaunch:
    """The deployment that a server's command line describes.

    Args:
        source: a command line (``vllm serve``, ``python -m sglang.launch_server``, ``trtllm-serve``, ``llama-server``) as text,
            or the path of a shell script, of a manifest of Kubernetes or of a file of Docker Compose that has one. Nothing of
            it is run.
        files: texts of files that the line names and that are not there to be read, by their names.
        workload: the model, where the line names one that the registry does not have, or a path.

    Raises:
        InputError: the text has no server's command line, or an option's value is none that it takes.
        NotModelledError: an option, or the model's layers, are of a kind that is not modelled.
        UnknownNameError: no registered model is called so, and it is no path of a ``config.json``.

    Example:
        >>> launch = serving_launch("vllm serve Qwen/Qwen3-32B --tensor-parallel-size 2 --max-num-seqs 64 --kv-cache-dtype fp8")
        >>> launch.stack, launch.workload.name, launch.accelerators
        ('vllm-2025', 'Qwen3-32B', 2)
        >>> {name: launch.arguments[name] for name in ("tp_size", "max_num_seqs")}
        {'tp_size': 2, 'max_num_seqs': 64}
        >>> serving_launch("vllm serve Qwen/Qwen3-Next-80B-A3B-Instruct")
        Traceback (most recent call last):
        mlsysim.core.errors.NotModelledError: model = 'Qwen/Qwen3-Next-80B-A3B-Instruct': expected a transformer: most \
layers are linear attention (gated delta net)
    """
    text, name = text_of(source, "command line", line="command line")
    script, copies = _script(text, name)
    engine, words, environment = _command(script, name)
    table = serving_facts()[engine]
    stated = read_options(words, table)
    stated = merged_file(stated, table, script, files or {}) if stated.get("file") else stated
    called = _model_name(stated, engine)
    stated.unknown += [word.replace(MARK, "")[:80] for word in stated.others if word != called]
    model, notes = (workload, ()) if workload is not None else served_model(called)
    assumed = [*notes, *stated.assumed]
    arguments: dict[str, Any] = {"stack": engine_called(table["engine"]) or str(unknown()["stack"])}
    plan_of(engine, stated, model, arguments, assumed)
    stated_formats(stated, called, model, serving_facts(), arguments)
    if _names_no_file(called, table, model, arguments):
        arguments["precision"] = table["unnamed"]
        assumed.append(f"{table['unnamed']}: of a repository the file that is fetched where none is named")
    arguments["replicas"] *= copies
    arguments["page_size"] = stated.get("block") or table["block"]
    arguments |= {name: stated.get(key) for name, key in _AS_STATED.items() if stated.get(key) is not None}
    assumed += [f"{key}={value}: kernels are those of the engine's default" for key, value in environment.items()]
    assumed += [f"line {line}: every side of a branch of the script was read" for line in script.branches]
    return ServingLaunch(
        engine=str(table["engine"]),
        stack=arguments["stack"],
        model=called,
        workload=model,
        accelerators=arguments["tp_size"] * arguments["pp_size"] * arguments["replicas"],
        arguments=arguments,
        max_model_len=stated.get("length") or None,
        prefix_caching=_prefix_caching(stated),
        sequences=int(table["sequences"]),
        drafts_by=_drafts_by(stated),
        role=_role(stated),
        assumed=tuple(assumed),
        ignored=tuple(stated.ignored),
        unknown=tuple(stated.unknown),
    )


# Arguments that are what an option states, as the plan left them in the stated values.
_AS_STATED = {
    "max_num_seqs": "most",
    "max_num_batched_tokens": "step_tokens",
    "stream_interval": "stream",
    "batch_wait_iters": "wait_steps",
    "recv_interval": "looks_after",
    "memory_share": "memory",
}


@reads("launch", _FILE)
def serving_facts() -> dict[str, Any]:
    """Give the document ``serve_options.toml``."""
    return packaged_toml("launch", _FILE)


def _script(text: str, name: str) -> tuple[Script, int]:
    """The commands of a text, and how many copies of them run: of a manifest's first container that starts a server."""
    if not is_manifest(text):
        return read_script(text, name), 1
    scripts = [(read_script(line, name), copies) for line, copies in container_commands(text, name)]
    return next((one for one in scripts if _begun(one[0], name)), scripts[0] if scripts else (Script(), 1))


def _command(script: Script, name: str) -> tuple[str, list[str], dict[str, str]]:
    """The engine's table, the words after the command, and the variables set before it, of the first server of a script."""
    if begun := _begun(script, name):
        return begun
    words = [word for command in _commands(script, name) for word in command.words]
    if other := next((word for word in words if re.split("[:@]", word.rsplit("/", 1)[-1])[0] in _OTHERS), None):
        raise NotModelledError(name, other, _EXPECTED)
    raise InputError(name, " ".join(words)[:60].replace(MARK, ""), f"a line with {_EXPECTED}")


def _begun(script: Script, name: str) -> tuple[str, list[str], dict[str, str]] | None:
    """What ``_command`` gives; None where the script starts no server."""
    for command in _commands(script, name):
        words = list(command.words)
        for begun, engine in _COMMANDS.items():
            for place in range(len(words) - len(begun) + 1):
                first = words[place].rsplit("/", 1)[-1]
                if (first, *words[place + 1 : place + len(begun)]) == begun:
                    settings = {key: value for key, value in command.environment.items() if MARK not in value}
                    settings.pop("CUDA_VISIBLE_DEVICES", None)
                    return engine, words[place + len(begun) :], settings
        image = next((place for place, word in enumerate(words) if _IMAGE.fullmatch(word)), None)
        if image is not None:
            return "vllm", words[image + 1 :], {}
    return None


def _commands(script: Script, name: str) -> Iterator[Command]:
    """The commands of a script, and after each those of the text that it hands to a shell (``bash -c "..."``)."""
    for command in script.commands:
        yield command
        if text := handed_text(command.words).replace(MARK, ""):
            known = {key: value for key, value in script.variables.items() if isinstance(value, str)}
            yield from read_script(text, name, known).commands


def _model_name(stated: Stated, engine: str) -> str:
    """What the line calls its model: an option, or its first word that belongs to none."""
    named = stated.get("model") or next(iter(stated.others), None)
    if not named:
        raise MissingArgumentError("model", None, f"a model's name on the line of {engine}")
    return resolved("model", str(named)).strip()


def _names_no_file(called: str, table: Mapping[str, Any], model: TransformerWorkload, arguments: Mapping[str, Any]) -> bool:
    """Whether the line leaves the number format to the engine, which then chooses a file of the repository."""
    published = model.weight_format or model.expert_format
    return "unnamed" in table and called.count("/") == 1 and "precision" not in arguments and not published


def _prefix_caching(stated: Stated) -> bool | None:
    if stated.get("no_prefix_caching"):
        return False
    value = stated.get("prefix_caching")
    return None if value is None else bool(value)


def _drafts_by(stated: Stated) -> str:
    table = stated.get("speculation") or {}
    named = table.get("method") or stated.get("drafts_by") or ("draft_model" if table or stated.get("draft_model") else "")
    return {"nextn": "mtp"}.get(str(named).lower(), str(named).lower())


def _role(stated: Stated) -> str:
    table = stated.get("transfer") or {}
    named = {"kv_consumer": "decode", "kv_producer": "prefill"}.get(str(table.get("kv_role")), "")
    role = str(stated.get("role") or named).lower()
    named = {"context": "prefill", "generation": "decode"}.get(role, role)
    return "" if named in ("null", "both", "none", "mixed") else named
