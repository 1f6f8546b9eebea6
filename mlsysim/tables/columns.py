"""Columns of tables that are called otherwise: which one each is, and what a table lacks."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable

from mlsysim.core.errors import InputError, UnknownNameError, nearest
from mlsysim.core.names import folded
from mlsysim.core.toml import packaged_toml, reads

_RUN_TOTALS = ("accel_hours", "train_days")


def wrong_metric(metric: str, metrics: Collection[str]) -> str:
    """Say why ``metric`` is none of a table's; empty where it is one.

    Example:
        >>> wrong_metric("mfu_pct", ["mfu_pct"]), wrong_metric("mfu", ["mfu_pct"])
        ('', "metric = 'mfu': expected one of mfu_pct; did you mean 'mfu_pct'?")
    """
    if metric in metrics:
        return ""
    if metric in _RUN_TOTALS:
        return str(InputError("metric", metric, "a rate or a time of one step: run totals are not predicted"))
    return str(UnknownNameError.among("metric", metric, metrics))


def renamed(columns: Iterable[str]) -> dict[str, str]:
    """Return the columns that people call otherwise, and what each is called here; none whose own name is there too.

    Example:
        >>> renamed(["gpu", "num_gpus", "seq_len", "mbs", "micro_batch"])
        {'gpu': 'accelerator', 'num_gpus': 'n_accel'}
        >>> renamed(["engine", "batch_size", "TP"]), renamed(["framework", "batch_size"])
        ({'batch_size': 'batch_or_concurrency', 'TP': 'tp'}, {'batch_size': 'global_batch_seqs'})
    """
    names = list(map(str, columns))
    called = _called(served="engine" in names)
    known = {name: called.get(folded(name)) for name in names}
    return {name: meant for name, meant in known.items() if meant is not None and meant not in names}


def no_such_table(columns: Collection[str], kinds: Iterable[Collection[str]]) -> InputError:
    """Return the error for columns that are those of none of the ``kinds``: what to call them, or what is missing.

    Example:
        >>> print(no_such_table(["model", "gpu", "framework"], [["model", "accelerator", "metric"], ["benchmark", "round"]]))
        columns = 'model, gpu, framework': expected accelerator in place of gpu, and metric
    """
    names, kinds = list(map(str, columns)), [sorted(kind) for kind in kinds]
    other = renamed(names)

    def lacking(kind: Collection[str]) -> list[str]:
        return [column for column in kind if column not in (*names, *other.values())]

    def unlike(kind: Collection[str]) -> tuple[float, bool]:
        return len(lacking(kind)) / len(kind), "metric" not in kind  # most tables are of runs, whose rows name a metric

    best = min(kinds, key=unlike)
    wanted = [f"{meant} in place of {name}" for name, meant in other.items() if meant in best]
    missing = lacking(best)
    for column in list(missing):
        near = nearest(column, [name for name in names if name not in best])
        if near is not None:
            missing.remove(column)
            wanted.append(f"{column} in place of {near}")
    if len(missing) == len(best):
        known = "; or ".join(", ".join(kind) for kind in kinds)
        return InputError("columns", ", ".join(names), f"those of a table of runs: {known}")
    told = ", ".join(wanted + ([f"and {', '.join(missing)}" if wanted else ", ".join(missing)] if missing else []))
    return InputError("columns", ", ".join(names), told)


@functools.cache
@reads("tables", "columns.toml")
def _called(*, served: bool) -> dict[str, str]:
    """What a column is by its name, folded; of a table of a server's runs some names mean others."""
    known = packaged_toml("tables", "columns.toml")
    called: dict[str, str] = known["called"] | (known["served"] if served else {})
    own = {name: name for name in (*known["own"]["names"], *called.values())}
    return {folded(name): column for name, column in (called | own).items()}
