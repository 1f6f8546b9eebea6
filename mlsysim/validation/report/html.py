"""The report as one HTML page that needs nothing beside it. What it looks like stands in ``page/``; this says what is in it.

Its plots are drawn by Vega-Lite, whose script comes from vl-convert-python (the ``plot`` extra) and stands in the page.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from mlsysim.core.errors import MLSysError
from mlsysim.validation.report import coefficients, estimates, judgement, misses, summary, tables
from mlsysim.validation.report.findings import Findings
from mlsysim.validation.report.report import Table, corrections, of_paper, paper_rows, said, shown, standing
from mlsysim.validation.report.statistics import Row, kernels_by_family, kernels_by_table, total

_FOLDER = Path(__file__).with_name("page")
_DIGITS = 5
# What the page knows of a case under the same name.
_COPIED = (
    *("family", "role", "model", "accelerator", "stack", "plan", "metric", "unit", "basis", "locator", "known_miss"),
    *("source", "measured", "predicted", "error"),
)


def render(findings: Findings) -> str:
    """The page of a run.

    Raises:
        MLSysError: vl-convert-python is missing.
    """
    text = {name: (_FOLDER / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js", "plots.json")}
    return Template(text["page.html"]).substitute(
        style=text["page.css"],
        report=_json(_content(findings)),
        plots=_json(json.loads(text["plots.json"])),
        vega=_vega(),
        script=text["page.js"],
    )


@functools.cache
def _vega() -> str:
    """The script of Vega, Vega-Lite and Vega-Embed."""
    try:
        import vl_convert
    except ImportError:
        raise MLSysError("a page with plots needs vl-convert-python: pip install 'mlsysim-anchors[plot]'") from None
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return script.replace("</script", "<\\/script")


def _json(content: Any) -> str:
    r"""JSON in which nothing ends the script element that it stands in.

    Example:
        >>> _json({"a": "</script>"})
        '{"a":"\\u003c/script>"}'
    """
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _content(findings: Findings) -> dict[str, Any]:
    rows = findings.rows
    return {
        "verdict": findings.verdict,
        "total": total(rows, findings.kernels),
        "sections": {name: {"said": said, "tables": _told(parts)} for name, (said, parts) in _sections(findings).items()},
        "sources": {str(row["source"]): {name: row[name] for name in ("citation", "url")} for row in rows},
        "cases": _columns(rows),
    }


def _told(parts: Sequence[Table]) -> list[dict[str, Any]]:
    return [part._asdict() for part in parts if part.body]


def _sections(findings: Findings) -> Mapping[str, tuple[str, Sequence[Table]]]:
    """What is said in each section of the page, and its tables."""
    rows, kernels, targets = findings.rows, findings.kernels, findings.targets
    moved = judgement.judged(findings)
    met = sum(bool(row["held"]) for row in targets)
    origins = coefficients.origins([*rows, *kernels])
    fitted = [
        (one.name, "-" if one.value is None else f"{one.value:.4g}", f"{one.cases:,}", one.file, one.source) for one in origins
    ]
    return {
        "moved": (moved.head, moved.tables) if moved is not None else ("", ()),
        "paper": ("", (of_paper(rows), _primary(rows))),
        "families": ("", (summary.families(rows, kernels),)),
        "estimators": ("", (estimates.of_estimators(rows),)),
        "misses": (said("misses").replace("`", ""), (misses.by_kind(rows), misses.by_source(rows))),
        "aims": (f"{met} of {len(targets)} aims are met.", (tables.of_aims(targets),)),
        "intervals": (said("intervals"), (tables.of_intervals(rows, whole=bool(targets)),)),
        "kernels": (
            "",
            (tables.of_kernels("Family", kernels_by_family(kernels)), tables.of_kernels("Table", kernels_by_table(kernels))),
        ),
        "coefficients": (
            f"{len(fitted):,} coefficients",
            (Table(("Coefficient", "Value", "Cases", "File", "Source"), fitted),),
        ),
    }


def _primary(rows: Sequence[Row]) -> Table:
    """What the primary source of each of the paper's rows says, and what is predicted for that."""
    body: list[tuple[str, ...]] = []
    for row in paper_rows(rows):
        body.append((f"{row['row']}: {row['title']}", row["primary"], "", ""))
        for right in corrections(row, rows):
            figures = (shown(right[name], right["unit"]) for name in ("measured", "predicted"))
            body.append((str(right["id"]), *figures, standing(right)))
    return Table(("Anchor", "Primary source", "Predicted", "Standing"), body, left=4)


def _columns(rows: Sequence[Row]) -> dict[str, Any]:
    """The cases by column: a table of thousands, each name once."""
    columns: dict[str, list[Any]] = {name: [_number(row[name]) for row in rows] for name in _COPIED}
    columns["case"] = [str(row["id"]).removeprefix(f"{row['source']}-") for row in rows]
    columns["low"] = [_number(row["expected_low"]) for row in rows]
    columns["high"] = [_number(row["expected_high"]) for row in rows]
    told = misses.reasons(rows)
    columns["reason"] = [told[key].text if (key := (row["file"], row["id"])) in told else "" for row in rows]
    columns["standing"] = [misses.standing(row) for row in rows]
    return {name: _compact(column) for name, column in columns.items()}


def _number(value: Any) -> Any:
    """A number with as many digits as anyone reads."""
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) and math.isfinite(value) else value


def _compact(column: list[Any]) -> Any:
    """A column of few texts as the texts and the place of each.

    Example:
        >>> _compact(["a", "b", "a", "a"])
        {'texts': ['a', 'b'], 'places': [0, 1, 0, 0]}
    """
    if not all(isinstance(value, str) for value in column):
        return column
    texts = {text: place for place, text in enumerate(dict.fromkeys(column))}
    return {"texts": list(texts), "places": [texts[text] for text in column]} if 2 * len(texts) <= len(column) else column
