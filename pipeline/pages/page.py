"""The shell of every page: text, tables and pictures in one HTML file that needs no network."""

from __future__ import annotations

import base64
import json
import math
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from io import BytesIO
from numbers import Integral
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

LARGEST_DRAWING = 400_000  # bytes of SVG; a figure of more points than that is sent as pixels
LARGEST_PICTURE = 640  # pixels along an edge
DPI = 160  # of figures that are sent as pixels: sharp on a screen of double density
# Nothing is loaded from anywhere: the browser itself holds the page to that.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


class Html(str):
    """Text that is HTML already; any other text that comes into a page is escaped."""

    __slots__ = ()


@dataclass(frozen=True)
class Cell:
    """A table's cell that sorts by a number and shows a text, such as "0.91 [0.89, 0.93]"."""

    value: float | None
    text: str


def page(title: str, sections: Sequence[str], subtitle: str = "") -> Html:
    """Return a whole document: title, a list of its sections' headings, and the sections."""
    contents = "".join(f'<a href="#s{number}">{_heading(part)}</a>' for number, part in enumerate(sections, 1))
    body = "\n".join(f'<div id="s{number}">{_safe(part)}</div>' for number, part in enumerate(sections, 1))
    return Html(
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<style>\n{_asset("style.css")}</style>\n</head>\n<body>\n'
        f"<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p><nav>{contents}</nav></header>\n"
        f"<main>\n{body}\n</main>\n{script('table.js')}\n</body>\n</html>\n"
    )


def section(heading: str, *parts: str) -> Html:
    """Return a heading and what stands below it."""
    return Html(f"<section><h2>{escape(heading)}</h2>\n{''.join(map(_safe, parts))}\n</section>")


def text(paragraph: str) -> Html:
    """Return a paragraph."""
    return Html(f"<p>{escape(paragraph)}</p>\n")


def subheading(words: str) -> Html:
    """Return a heading inside of a section."""
    return Html(f"<h3>{escape(words)}</h3>\n")


def beside(*parts: str, least: int = 300, most: int = 580) -> Html:
    """Return parts side by side, each `least` pixels wide or more, as many as the screen has room for.

    A drawing among them is at most `most` pixels wide.
    """
    inner = "".join(f"<div>{_safe(part)}</div>" for part in parts)
    return Html(f'<div class="beside" style="--least: {least}px; --most: {most}px">{inner}</div>\n')


def legend(colours: Mapping[str, Sequence[float]]) -> Html:
    """Return what colours (red, green, blue in 0..1) stand for."""
    spots = []
    for name, colour in colours.items():
        code = ", ".join(str(round(255 * part)) for part in colour)
        spots.append(f'<span><i style="background: rgb({code})"></i>{escape(name)}</span>')
    return Html(f'<p class="legend">{"".join(spots)}</p>\n')


def folded(summary: str, *parts: str) -> Html:
    """Return parts that a click on their summary shows."""
    return Html(f"<details><summary>{escape(summary)}</summary>\n{''.join(map(_safe, parts))}</details>\n")


def glance(numbers: Mapping[str, str]) -> Html:
    """Return a few numbers in large type, each above its name."""
    tiles = (f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in numbers.items())
    return Html(f'<div class="glance">{"".join(tiles)}</div>\n')


def facts(entries: Mapping[str, Any]) -> Html:
    """Return names and what they stand for, one beneath the other."""
    lines = (f"<dt>{escape(str(name))}</dt><dd>{_shown(value)}</dd>" for name, value in entries.items())
    return Html(f"<dl>{''.join(lines)}</dl>\n")


def table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str] | None = None,
    name: str = "",
    bars: Collection[str] = (),
    stacked: bool = False,
) -> Html:
    """Return rows that a reader sorts by a click on a column's name and filters by a text or "mean_dice<0.8".

    Args:
        rows: values by column; a number is right-aligned, None and nan are "n/a", a `Cell` sorts by its value.
        columns: which ones and in which order; by default all, as they first come.
        name: what the table is of, such as "cases".
        bars: columns of numbers within 0..1 that are drawn as bars too.
        stacked: on a narrow screen a row's cells stand one below the other, as suits long texts.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row)) if columns is None else list(columns)
    decimals = {column: _decimals([row.get(column) for row in rows]) for column in columns}
    numeric = {column for column in columns if any(_number(row.get(column)) is not None for row in rows)}
    head = "".join(
        f'<th scope="col"{_class("n", column in numeric)}><button type="button">{escape(str(column))}</button></th>'
        for column in columns
    )
    lines = []
    for row in rows:
        cells = (_cell(row.get(c), decimals[c], c in numeric, c in bars) for c in columns)
        lines.append(f"<tr>{''.join(cells)}</tr>")
    kind = "table stacked" if stacked else "table"
    return Html(
        f'<div class="{kind}" data-name="{escape(name)}"><div class="tools" hidden><input type="search" '
        f'aria-label="filter {escape(name)}" placeholder="filter: words, or column&lt;0.8"><output></output></div>'
        f'<div class="scroll" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{chr(10).join(lines)}\n'
        "</tbody></table></div></div>\n"
    )


def figure(drawn: Figure, caption: str = "") -> Html:
    """Return a figure as a drawing, or as pixels where it holds images or very many points.

    Its texts are taken as they are: a `$` in a name begins no formula.
    """
    for words in drawn.findobj(Text):
        words.set_parse_math(False)
    kind = "png" if any(axes.images for axes in drawn.axes) else "svg+xml"
    data = _png(drawn) if kind == "png" else _svg(drawn)
    if len(data) > LARGEST_DRAWING and kind != "png":
        kind, data = "png", _png(drawn)
    return _figure(kind, data, caption, f' width="{drawn.get_size_inches()[0] * 96:.0f}"')  # CSS pixels


def picture(pixels: NDArray[Any], caption: str = "") -> Html:
    """Return an image (H, W, 3) of 0..1, as wide as there is room for it."""
    image = Image.fromarray(np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8))
    image.thumbnail((LARGEST_PICTURE, LARGEST_PICTURE))
    file = BytesIO()
    image.save(file, format="jpeg", quality=88, subsampling=0)  # full resolution of colours: rims are a pixel wide
    return _figure("jpeg", file.getvalue(), caption, ' class="wide"')


def script(*files: str) -> Html:
    """Return scripts of this package as one, whose names no other script of the page sees."""
    return Html(f'<script>\n(() => {{\n"use strict";\n{"".join(map(_asset, files))}}})();\n</script>')


def data_block(name: str, value: Any) -> Html:
    """Return data for a script of the page, which finds them by `data-for`; nothing in them can end the block."""
    written = json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return Html(f'<script type="application/json" data-for="{escape(name)}">{written}</script>')


def _safe(part: str) -> str:
    return part if isinstance(part, Html) else text(part)


def _heading(part: str) -> str:
    """The heading of a section, as HTML."""
    found = re.match(r"<section><h2>(.*?)</h2>", part)
    return found[1] if found else ""


def _asset(file: str) -> str:
    return resources.files(__package__).joinpath(file).read_text(encoding="utf-8")


def _class(name: str, wanted: bool) -> str:
    return f' class="{name}"' if wanted else ""


def _cell(value: Any, decimals: int, is_numeric: bool, bar: bool) -> str:
    number = _number(value)
    attributes = _class("n", is_numeric)
    if number is not None:
        attributes += f' data-value="{number!r}"'
        if bar:
            attributes += f' style="--part:{min(max(number, 0.0), 1.0):.3f}"'
    return f"<td{attributes}>{_shown(value, decimals)}</td>"


def _shown(value: Any, decimals: int = 4) -> str:
    """A value as HTML: numbers rounded, nothing as "n/a", texts escaped."""
    if isinstance(value, Html):
        return value
    if isinstance(value, Cell):
        return escape(value.text)
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    number = _number(value)
    if number is None:
        is_missing = value is None or hasattr(value, "__float__")
        return '<span class="na">n/a</span>' if is_missing else escape(str(value))
    if not math.isfinite(number):
        return "∞" if number > 0 else "−∞"
    if isinstance(value, Integral):
        return str(value)
    return f"{number:.3g}" if 0 < abs(number) < 10**-decimals else f"{number:.{decimals}f}"


def _decimals(values: Sequence[Any]) -> int:
    """How many decimals a column needs: four below 10, one less for each further digit of its largest number."""
    numbers = [abs(value) for value in map(_number, values) if value is not None and math.isfinite(value)]
    digits = math.floor(math.log10(max(numbers, default=0) or 1)) + 1
    return min(max(5 - digits, 0), 4)


def _number(value: Any) -> float | None:
    """The number that a value sorts by; None for n/a and for what is no number."""
    value = value.value if isinstance(value, Cell) else value
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__float__"):
        return None
    number = float(value)
    return None if math.isnan(number) else number


def _figure(kind: str, data: bytes, caption: str, attributes: str) -> Html:
    words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Html(f'<figure><img src="{source}" alt="{escape(caption) or "figure"}"{attributes}>{words}</figure>\n')


def _svg(drawn: Figure) -> bytes:
    # Equal figures give equal files, and texts stay texts: a browser has more letters than matplotlib's font.
    with matplotlib.rc_context({"svg.hashsalt": "page", "svg.fonttype": "none"}):
        return _saved(drawn, format="svg", metadata={"Date": None})


def _png(drawn: Figure) -> bytes:
    return _saved(drawn, format="png", dpi=DPI)


def _saved(drawn: Figure, **options: Any) -> bytes:
    file = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        drawn.savefig(file, **options)
    return file.getvalue()
