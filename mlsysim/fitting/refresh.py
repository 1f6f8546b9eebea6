"""All that follows a change of physics, coefficients or anchors, in order: ``python -m mlsysim.fitting refresh``.

Fits, what was left out of fits, the evidence of intervals, known misses, snapshots and pages. Snapshots and new known misses
are shown; they are written only with ``--accept``, and not where an aim that held is lost, unless ``--lose`` names it. Run
again, it changes nothing.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from mlsysim.core.errors import InputError, UnknownNameError
from mlsysim.fitting import evidence, left_out_serving, left_out_training
from mlsysim.fitting.families import FAMILIES
from mlsysim.fitting.toml_text import toml_tables
from mlsysim.fitting.written import Refit
from mlsysim.validation.anchors import loading, snapshots
from mlsysim.validation.anchors.anchor import Anchor, snapshot_root
from mlsysim.validation.anchors.known_misses import Standing, standing, updated
from mlsysim.validation.report import picture
from mlsysim.validation.report.left_out import SERVING_FILE, TRAINING_FILE, read_all
from mlsysim.validation.report.report import percent
from mlsysim.validation.report.targets import checks
from mlsysim.validation.suite import evidence as whole_run

T = TypeVar("T")
PAGES = ("anchors.md", "accuracy.md")
# Rounds of fits at most: some families stand on values of others that are fitted after them.
ROUNDS = 5
# The studies of what a fit was not given: the file of each, its head, and what it writes.
STUDIES = {
    TRAINING_FILE: (left_out_training.HEADER, left_out_training.entries),
    SERVING_FILE: (left_out_serving.HEADER, left_out_serving.entries),
}


@dataclass(frozen=True)
class Judgement:
    """Differences between what the folder of anchors says and what holds now.

    Attributes:
        standings: the files whose ``known_miss`` no longer says what is so.
        moved: for each file of snapshots that differs, how many cases moved, and by how much at most.
        lost: aims that held and are missed now.
        met: aims that are met now, though a known gap says that they are not.
    """

    standings: tuple[Standing, ...]
    moved: dict[Path, str]
    lost: dict[str, str]
    met: tuple[str, ...]


def apart(function: Callable[..., T], *arguments: Any) -> T:
    """A function's result from a process of its own, which has read no file before."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def fit_and_write(name: str, root: Path) -> Refit:
    """Fits a family and writes its files."""
    fit = FAMILIES[name](root)
    fit.write()
    return fit


def fitted_to_rest(names: Sequence[str], root: Path, begin: Callable[[str], None] = lambda name: None) -> Iterator[Refit]:
    """Fits families in turn, and again, until each was fitted without a move since the last value moved.

    Yields:
        Each fit, once it is written; after ``ROUNDS`` rounds no more, though values still move.
    """
    unmoved = 0
    for name in itertools.chain.from_iterable(itertools.repeat(names, ROUNDS)):
        begin(name)
        fit = apart(fit_and_write, name, root)
        yield fit
        unmoved = 0 if fit.moved else unmoved + 1
        if unmoved == len(names):
            return


def write_study(file: str, root: Path) -> bool:
    """Writes a study's file; whether it changed."""
    header, entries = STUDIES[file]
    return _written(root / file, toml_tables(entries(root), header))


def write_pages(root: Path) -> list[str]:
    """Writes the pages that would read otherwise now, and with matplotlib the README's picture; their names."""
    changed = []
    for name in PAGES:
        path, text = root.parent / "docs" / name, whole_run.page(root, name)
        old, new = (path.read_text("utf-8") if path.exists() else "").splitlines(), text.splitlines()
        same = len(old) == len(new) and all(map(whole_run.reads_the_same, old, new))
        if not same and _written(path, text):
            changed.append(name)
    path = root.parent / "docs" / picture.FILE
    rows = whole_run.rows(root)
    if find_spec("matplotlib") and not whole_run.reads_the_same(picture.title_in(path), picture.title(rows)):
        picture.draw(path, rows)
        changed.append(picture.FILE)
    return changed


def judge(root: Path) -> Judgement:
    """Compares what stands under ``root`` with what is so now, and clears the reasons of misses that are none any more."""
    files = [loading.load(path) for path in loading.anchor_files(root)]
    standings = tuple(one for one in map(standing, files) if one.passing or one.missing)
    rows, tables, entries = whole_run.rows(root), whole_run.kernel_rows(root), read_all(root)
    aims = [check.as_row(rows, entries, tables) for check in checks(root)]
    lost = {
        str(aim["id"]): f"{percent(aim['found'])}, the aim is {percent(aim['limit'])}"
        for aim in aims
        if not aim["held"] and not aim["known_gap"]
    }
    met = tuple(str(aim["id"]) for aim in aims if aim["held"] and aim["known_gap"])
    moved = {anchors[0].snapshot_path: told for anchors in files if (told := _moves(anchors))}
    return Judgement(standings, moved, lost, met)


def _moves(anchors: Sequence[Anchor]) -> str:
    """Say how many cases of a file moved away from their snapshots, and by how much at most; "" if none did."""
    now = {anchor.id: snapshots.contents(anchor) for anchor in anchors}
    before = snapshots.read(anchors[0].snapshot_path)
    if now == before:
        return ""
    shares = [0.0]
    for name in now.keys() & before.keys():
        old, new = before[name]["predicted"], now[name]["predicted"]
        if old and isinstance(old, int | float) and isinstance(new, int | float):
            shares.append(abs(new / old - 1))
    count = sum(now.get(name) != before.get(name) for name in now.keys() | before.keys())
    return f"{count} of {len(now)} cases, by {percent(max(shares))} at most"


def write_snapshots(root: Path) -> None:
    """Writes the snapshots of all anchors, and removes those of sources that are gone."""
    expected = set()
    for path in loading.anchor_files(root):
        anchors = loading.load(path)
        expected.add(anchors[0].snapshot_path)
        anchors[0].snapshot_path.parent.mkdir(parents=True, exist_ok=True)
        _written(anchors[0].snapshot_path, snapshots.text_of({anchor.id: snapshots.contents(anchor) for anchor in anchors}))
    for path in snapshot_root(root).rglob("*.json"):
        if path not in expected:
            path.unlink()


def _written(path: Path, text: str) -> bool:
    if path.exists() and path.read_text("utf-8") == text:
        return False
    path.write_text(text, encoding="utf-8")
    return True


@contextmanager
def _bar(total: int) -> Iterator[Callable[[str], None]]:
    """A bar of tqdm (extra ``cli``) on a terminal, lines elsewhere; yields a function that names what comes next."""
    if not sys.stderr.isatty() or find_spec("tqdm") is None:
        yield lambda step: print(f"{step} ...", file=sys.stderr, flush=True)
        return
    from tqdm import tqdm

    with tqdm(total=total + 1, leave=False) as bar:

        def begin(step: str) -> None:
            bar.update()
            bar.set_description(step)

        yield begin


def main(arguments: Sequence[str]) -> int:
    """Does all that follows a change; 1 while something is left to a person."""
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m mlsysim.fitting refresh", description=about)
    parser.add_argument("--anchors", type=Path, default=Path("anchors"), metavar="DIRECTORY", help="the folder of anchors")
    parser.add_argument("--accept", action="store_true", help="write snapshots, and the new known misses that have a reason")
    parser.add_argument(
        "--reason", action="append", default=[], metavar="SOURCE=WHY", help="why new misses of a source miss (repeatable)"
    )
    parser.add_argument("--lose", action="append", default=[], metavar="AIM", help="an aim that may be lost (repeatable)")
    options = parser.parse_args(arguments)
    root = options.anchors.resolve()
    reasons = _reasons(options.reason, root)
    aims = [check.id for check in checks(root)]
    for aim in options.lose:
        if aim not in aims:
            raise UnknownNameError.among("--lose", aim, aims)
    with _bar(len(FAMILIES) + len(STUDIES) + 4) as begin:
        fits = {}
        for fit in fitted_to_rest([*FAMILIES], root, lambda name: begin(f"fit {name}")):
            fits[fit.name] = fit
            if fit.moved:
                print(f"fit {fit.name}: {len(fit.moved)} of {len(fit.values)} values moved")
        for file in STUDIES:
            begin(file)
            if apart(write_study, file, root):
                print(f"{file} written")
        begin("intervals")
        for file in apart(evidence.write, root):
            print(f"{file} written")
        begin("compare")
        judgement = apart(judge, root)
        refused = sorted(set(judgement.lost) - set(options.lose))
        accepted = options.accept and not refused
        left = [f"fit {name}: values still move after {ROUNDS} rounds" for name, fit in fits.items() if fit.moved]
        left += [line for one in judgement.standings for line in updated(one, reasons.get(one.source, "") if accepted else "")]
        if accepted and judgement.moved:
            begin("snapshots")
            apart(write_snapshots, root)
        begin("pages")
        pages = apart(write_pages, root)
    _tell(judgement, pages, left, refused, accepted)
    return 1 if left or refused or judgement.met or (judgement.moved and not accepted) else 0


def _reasons(typed: Sequence[str], root: Path) -> dict[str, str]:
    """The reasons of ``SOURCE=WHY`` by source.

    Raises:
        InputError: one has no reason.
        UnknownNameError: one has a source that is not there.
    """
    sources = [loading.load(path)[0].source.key for path in loading.anchor_files(root)]
    reasons = {}
    for text in typed:
        source, _, why = text.partition("=")
        if not why:
            raise InputError("--reason", text, "SOURCE=WHY")
        if source not in sources:
            raise UnknownNameError.among("source", source, sources)
        reasons[source] = why
    return reasons


def _tell(judgement: Judgement, pages: Sequence[str], left: Sequence[str], refused: Sequence[str], accepted: bool) -> None:
    for path, how in judgement.moved.items():
        print(f"{path.parent.name}/{path.name}: {how}")
    if judgement.moved:
        print("snapshots written" if accepted else "snapshots not written: see the moves, then --accept")
    for name in pages:
        print(f"docs/{name} written")
    for line in left:
        print(line)
    for aim, how in judgement.lost.items():
        print(f"aim {aim} is lost: {how}" + ("; nothing is accepted unless --lose names it" if aim in refused else ""))
    for aim in judgement.met:
        print(f"aim {aim} is met: clear its known gap in targets.toml")
    if not (judgement.moved or pages or left or judgement.lost or judgement.met):
        print("nothing else changed")
