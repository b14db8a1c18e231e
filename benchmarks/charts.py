"""A comparison drawn as SVG: a bar for each contender's median, a line for its quartiles.

The picture takes its colours from the reader's light or dark scheme. It is plain text, so that a
change of figures is a change that can be read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

__all__ = ["chart", "file_name"]

_WIDTH, _LABELS, _FIGURES = 840, 350, 150
_BARS = _WIDTH - _LABELS - _FIGURES
_ROW, _TOP = 26, 44
_TOO_FAR = 30
"""From this ratio of the greatest to the least on, bars grow by powers of ten."""

_STYLE = """\
text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-weight:600}.note{fill:#6e7781}
.page{fill:#fff}.ours{fill:#4051b5}.other{fill:#b6bdc7}
.whisker{stroke:#24292f;stroke-width:1.5}.axis{stroke:#d0d7de}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.note{fill:#9198a1}
.page{fill:#0d1117}.ours{fill:#8b9cf7}.other{fill:#484f58}
.whisker{stroke:#e6edf3}.axis{stroke:#3d444d}}"""


def file_name(title: str) -> str:
    """The name of a comparison's picture."""
    return f"bench-{re.sub('[^a-z0-9]+', '-', title.lower()).strip('-')}.svg"


def chart(comparison: Mapping[str, Any]) -> str:
    """The picture of a comparison, of rates in operations a second."""
    results = comparison["results"]
    place, logarithmic = _scale(results)
    height = _TOP + _ROW * len(results) + 12
    unit = "a second, by powers of ten" if logarithmic else "a second"
    title = escape(comparison["title"])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>{title}: {unit}</title>\n<style>\n{_STYLE}\n</style>",
        f'<rect class="page" width="{_WIDTH}" height="{height}" rx="6"/>',
        f'<text class="title" x="12" y="24">{title}</text>',
        f'<text class="note" x="{_WIDTH - 12}" y="24" text-anchor="end">{unit} (ratio)</text>',
        f'<line class="axis" x1="{_LABELS}" x2="{_LABELS}" y1="{_TOP - 6}" y2="{height - 8}"/>',
        *(_row(number, result, place) for number, result in enumerate(results)),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _scale(results: Sequence[Mapping[str, Any]]) -> tuple[Callable[[float], float], bool]:
    """Where a rate lies, and whether the scale is logarithmic."""
    least, most = min(r["lower"] for r in results), max(r["upper"] for r in results)
    if most < _TOO_FAR * least:
        return lambda rate: _LABELS + _BARS * rate / most, False
    lowest = math.floor(math.log10(least))
    decades = math.log10(most) - lowest
    return lambda rate: _LABELS + _BARS * (math.log10(rate) - lowest) / decades, True


def _row(number: int, result: Mapping[str, Any], place: Callable[[float], float]) -> str:
    top = _TOP + _ROW * number
    middle = top + _ROW // 2 - 2
    lower, median, upper = (place(result[each]) for each in ("lower", "median", "upper"))
    kind = "ours" if result["name"].startswith("pgsync") else "other"
    figure = f"{result['median']:,.0f} ({result['ratio']:.2f})"
    bar = f'x="{_LABELS}" y="{top}" width="{median - _LABELS:.1f}" height="{_ROW - 6}"'
    name = escape(result["name"])
    return (
        f'<text x="{_LABELS - 8}" y="{middle + 4}" text-anchor="end">{name}</text>'
        f'<rect class="{kind}" {bar}/>'
        f'<line class="whisker" x1="{lower:.1f}" x2="{upper:.1f}" y1="{middle}" y2="{middle}"/>'
        f'<text x="{upper + 8:.1f}" y="{middle + 4}">{figure}</text>'
    )
