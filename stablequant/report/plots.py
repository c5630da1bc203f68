"""Plots as SVG for a page: no scripts, no fonts of their own, in the page's colours, light or dark.

matplotlib writes colours as numbers; those of PALETTE stand for the page's, which are CSS variables.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ..quantization.observation.histogram import Histogram
from ..quantization.plan.choice import InputChoice

PALETTE = {"#000001": "currentColor", "#000002": "var(--line)", "#000003": "var(--one)", "#000004": "var(--two)"}
INK, LINE, *SERIES = PALETTE
WIDTH = 4.4  # inches, of 72 points: that wide is readable on a phone
SETTINGS: dict[str, object] = {
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # names may hold a dollar sign
    "font.family": ["sans-serif"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LINE,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


def bars(
    title: str,
    names: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    notes: Sequence[str],
    limit: float | None = None,
) -> str:
    """Horizontal bars, the first name on top, one bar per series.

    Each name's last bar ends with a note; a line marks the `limit`.
    """
    with style.context(["default", SETTINGS]):
        figure, axes = _axes(0.7 + 0.2 * len(names) * (0.4 + 0.6 * len(series)))
        height = 0.8 / len(series)
        for place, (label, values) in enumerate(series.items()):
            known = [0.0 if value is None else value for value in values]
            at = np.arange(len(names)) + (place - (len(series) - 1) / 2) * height
            drawn = axes.barh(at, known, height, label=label, color=SERIES[place])
        axes.bar_label(drawn, [_label(note) for note in notes], padding=3, fontsize=8)
        axes.set_yticks(range(len(names)), [_label(name) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.margins(x=0.25)
        axes.grid(axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        if limit is not None:
            axes.axvline(limit, color=INK, linestyle="--", linewidth=1)
        if len(series) > 1:
            figure.legend(loc="outside lower center", ncols=len(series), fontsize=8)
        return _svg(figure, _printable(title))


def histogram(title: str, values: Histogram, read: InputChoice) -> str:
    """Shares of a site's input values in %, on a logarithmic scale, and its range shaded."""
    index = np.flatnonzero(values.counts)
    places = np.arange(index[0], index[-1] + 1)
    edges = (np.arange(index[0], index[-1] + 2) - len(values.counts) // 2) * values.width
    shares = 100 * values.counts[places] / values.total
    floor = shares[shares > 0].min() / 2
    with style.context(["default", SETTINGS]):
        figure, axes = _axes(1.6)
        axes.axvspan(read.low, read.high, color=SERIES[1], alpha=0.2, linewidth=0)
        for limit in (read.low, read.high):
            axes.axvline(limit, color=SERIES[1], linewidth=1)
        axes.stairs(np.maximum(shares, floor), edges, baseline=floor, fill=True, color=SERIES[0])
        axes.set_yscale("log")
        axes.set_ylim(bottom=floor)
        axes.yaxis.set_major_locator(LogLocator(numticks=5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.minorticks_off()
        axes.set_ylabel("% of values")
        return _svg(figure, _printable(title))


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _printable(text: str) -> str:
    """Names come from the data, and may contain characters that no font draws or no page may contain."""
    return "".join(each if each.isprintable() else " " for each in text)


def _label(text: str) -> str:
    clean = _printable(text)
    return clean if len(clean) <= 26 else f"{clean[:12]}…{clean[-12:]}"


def _svg(figure: Figure, title: str) -> str:
    """The figure as an <svg> element with a title, the same for the same figure."""
    file = io.StringIO()
    with warnings.catch_warnings(), style.context({"svg.hashsalt": title}):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # only its width is needed, the browser has the font
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    drawing = file.getvalue().replace("xlink:href", "href")
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub("<(metadata|style).*?</\\1>", "", drawing, flags=re.DOTALL)  # such a style is the whole page's
    drawing = re.sub(r'(<g|<path) id="\w+_\d+"', r"\1", drawing)  # the page has several figure_1
    drawing = re.sub("(fill|stroke): (#00000[1-4])", lambda found: f"{found[1]}: {PALETTE[found[2]]}", drawing)
    shape = re.search('viewBox="[^"]*"', drawing)
    head = f'<svg role="img" {shape[0] if shape else ""}><title>{html.escape(title)}</title>'
    return head + drawing[drawing.index(">") + 1 :]
