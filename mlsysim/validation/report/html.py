"""The report as one HTML page: tables, and a parity plot for each family as inline SVG. No script, no network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from mlsysim.validation.report import report
from mlsysim.validation.report.statistics import Row

_SIDE, _MARGIN = 320, 46
_COLOURS = {"paper": "#8a6d00", "exact": "#555555", "calibration": "#1b6ca8", "validation": "#b03a2e"}
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222; }
pre { overflow-x: auto; background: #f6f6f4; padding: 1rem; font-size: 12.5px; }
figure { display: inline-block; margin: 0 1.5rem 1.5rem 0; } figcaption { font-size: 13px; }
.role { display: inline-block; width: .8em; height: .8em; border-radius: 50%; margin: 0 .3em 0 1em; }
"""


def render(rows: Sequence[Row], moves: Sequence[Row], kernels: Sequence[Row] = ()) -> str:
    """The page of ``rows``, of predictions that moved and of kernel tables, as HTML."""
    families = sorted({row["family"] for row in rows})
    plots = "\n".join(parity_plot(family, [row for row in rows if row["family"] == family]) for family in families)
    legend = "".join(f'<span class="role" style="background:{colour}"></span>{role}' for role, colour in _COLOURS.items())
    text = escape("\n".join(report.lines(rows, moves, kernels)))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>mlsysim anchors</title><style>{_STYLE}</style></head><body>
<h1>mlsysim anchors</h1>
<pre>{text}</pre>
<h2>Predicted against measured</h2>
<p>On the diagonal they are equal; the dashed lines are a factor of two. Open circles are outside their band.{legend}</p>
{plots}
</body></html>
"""


def parity_plot(family: str, rows: Sequence[Row]) -> str:
    """An SVG plot of predicted over measured, both logarithmic, in each case's unit; empty without positive numbers."""
    points = [row for row in rows if _positive(row["predicted"]) and _positive(row["measured"])]
    if not points:
        return ""
    numbers = [float(row[name]) for row in points for name in ("predicted", "measured")]
    low, high = math.floor(math.log10(min(numbers)) - 0.2), math.ceil(math.log10(max(numbers)) + 0.2)

    def place(number: float) -> float:
        return _MARGIN + (math.log10(number) - low) / (high - low) * (_SIDE - 2 * _MARGIN)

    near, far = _MARGIN, _SIDE - _MARGIN
    shift = math.log10(2) / (high - low) * (far - near)
    marks = [f'<rect x="{near}" y="{near}" width="{far - near}" height="{far - near}" fill="none" stroke="#bbb"/>']
    marks += [_line(near, _SIDE - near, far, _SIDE - far, "")]
    marks.append(_line(near, _SIDE - near - shift, far - shift, _SIDE - far, "4"))
    marks.append(_line(near + shift, _SIDE - near, far, _SIDE - far + shift, "4"))
    for decade in range(low, high + 1):
        at = place(10.0**decade)
        marks.append(f'<text x="{at:.1f}" y="{far + 16}" font-size="10" text-anchor="middle">1e{decade}</text>')
        marks.append(f'<text x="{near - 6}" y="{_SIDE - at + 3:.1f}" font-size="10" text-anchor="end">1e{decade}</text>')
    marks += [_point(row, place) for row in points]
    label, middle = 'font-size="11" text-anchor="middle"', _SIDE / 2
    marks.append(f'<text x="{middle}" y="{_SIDE - 8}" {label}>measured</text>')
    marks.append(f'<text x="12" y="{middle}" {label} transform="rotate(-90 12 {middle})">predicted</text>')
    title = escape(family)
    svg = f'<svg width="{_SIDE}" height="{_SIDE}" role="img" aria-label="{title}">{"".join(marks)}</svg>'
    return f"<figure>{svg}<figcaption>{title}: {len(points)} of {len(rows)} cases</figcaption></figure>"


def _point(row: Row, place: Callable[[float], float]) -> str:
    x, y = place(float(row["measured"])), _SIDE - place(float(row["predicted"]))
    colour = _COLOURS[row["role"]]
    fill = colour if row["in_band"] else "none"
    measured, predicted = (report.shown(row[name], row["unit"]) for name in ("measured", "predicted"))
    about = escape(f"{row['id']}: measured {measured}, predicted {predicted}")
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{colour}"><title>{about}</title></circle>'


def _line(x1: float, y1: float, x2: float, y2: float, dash: str) -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#999"{dashes}/>'


def _positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
