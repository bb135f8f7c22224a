"""A `Figure` as inline SVG: theory as line, measurement as points, colours left to the page's style sheet.

Matplotlib draws in sentinel colours that are then replaced by CSS variables, so one drawing serves light and dark pages.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from residyn.errors import require
from residyn.report import heat, wide
from residyn.report.svg import COLOURS, INK, MUTED, PAPER, RULE, inline
from residyn.report.words import clean, number, plural, power_text
from residyn.results import Figure, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 2)),
    (0, (1.5, 1.5)),
    (0, (6, 2, 1.5, 2)),
    (0, (9, 3)),
    (0, (3, 1, 1, 1, 1, 1)),
)
_MARKERS = "osD^vPX*"
_HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\")
_HUGE = 1e120  # beyond it the squares that layout needs overflow
_RC: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "residyn",
    "text.parse_math": False,
    "font.size": 9.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "axes.linewidth": 0.7,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Drawing:
    """A drawn figure.

    Args:
        svg: The `<svg>` element.
        note: What could not be drawn and why; empty if all of it was.
    """

    svg: str
    note: str


@dataclass(frozen=True)
class _Curve:
    """The part of a series that can be drawn; what cannot is nan, so that a line breaks there."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    y2: NDArray[np.float64] | None
    dropped: int


def draw(figure: Figure, uid: str, *, small: bool = False) -> Drawing:
    """Draw a figure.

    Values that are not finite, or not positive on a log axis, are left out and named in the note; it never raises for
    them. The same figure gives the same bytes.

    Args:
        figure: What to draw.
        uid: Prefix of every id in the SVG, unique within the page: letters, digits and hyphens.
        small: One of many side by side: a quarter of the size, no legend.

    Returns:
        The drawing.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    style = require("matplotlib.style", "report")
    canvas_of = require("matplotlib.figure", "report").Figure
    curves = [_curve(series, figure) for series in figure.series]
    stand_in = wide.StandIn([figure.xlabel, figure.ylabel, *(series.label for series in figure.series)])
    shown = replace(
        figure,
        xlabel=stand_in.of(_wrapped(figure.xlabel, 90)),
        ylabel=stand_in.of(_wrapped(figure.ylabel, 45)),
        series=[replace(one, label=stand_in.of(_wrapped(one.label, 80))) for one in figure.series],
    )
    with style.context(["default", _RC]):
        canvas = canvas_of(figsize=(5.0, 5.0) if figure.equal else (6.6, 3.7), layout="constrained")
        axes = canvas.subplots()
        if figure.series and all(one.mark == "heat" for one in figure.series):
            canvas.set_size_inches(6.6, 0.9 + 0.36 * len(figure.series))
            heat.draw(axes, shown)
        else:
            _scale(axes, figure, curves)
            handles = _draw_all(axes, figure.series, curves)
            if small:
                canvas.set_size_inches(2.3, 2.3)
            _finish(canvas, axes, shown, [] if small else handles, small=small)
        page = io.StringIO()
        canvas.savefig(page, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return Drawing(
        inline(stand_in.back(page.getvalue()), uid, clean(figure.title), _describe(figure)), _note(figure.series, curves)
    )


def _curve(series: Series, figure: Figure) -> _Curve:
    """Mask what an axis cannot show."""
    columns = [series.x, series.y, *([series.y2] if series.y2 is not None else [])]
    length = min(map(len, columns))
    values = [np.asarray(column[:length], dtype=np.float64) for column in columns]
    good = np.ones(length, dtype=bool)
    for column, scale in zip(values, (figure.xscale, figure.yscale, figure.yscale), strict=False):
        good &= np.isfinite(column) & (np.abs(column) < _HUGE)
        if scale == "log" and not (series.mark == "bars" and column is not values[0]):
            good &= column > 0
    masked = [np.where(good, column, np.nan) for column in values]
    pauses = int(np.logical_and.reduce([np.isnan(column) for column in values]).sum())  # the pen is lifted on purpose
    dropped = max(map(len, columns)) - int(good.sum()) - pauses
    return _Curve(masked[0], masked[1], masked[2] if series.y2 is not None else None, dropped)


def _note(series: list[Series], curves: list[_Curve]) -> str:
    parts = [
        f"{plural(curve.dropped, 'value')} of “{clean(one.label)}”"
        for one, curve in zip(series, curves, strict=True)
        if curve.dropped
    ]
    return f"Not drawn, because not finite or not positive on a logarithmic axis: {', '.join(parts)}." if parts else ""


def _describe(figure: Figure) -> str:
    """The figure in words, for those who do not see it."""
    axes = f"{figure.ylabel} against {figure.xlabel}"
    names = "; ".join(f"{series.label} ({series.mark}, {plural(len(series.x), 'value')})" for series in figure.series)
    return clean(f"{axes}. {names}. {figure.caption}")


def _scale(axes: Axes, figure: Figure, curves: list[_Curve]) -> None:
    """Set scales and tick labels; a log axis with nothing on it stays linear."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    sides = ((axes.xaxis, axes.set_xscale, figure.xscale), (axes.yaxis, axes.set_yscale, figure.yscale))
    for i, (axis, set_scale, scale) in enumerate(sides):
        values = [curve.y if i else curve.x for curve in curves] or [np.empty(0)]
        drawn = np.abs(np.concatenate(values))
        if scale == "linear" and i == 0 and drawn.size and bool((drawn == np.round(drawn)).all()):
            axis.set_major_locator(MaxNLocator(integer=True))  # blocks, epochs, steps: there is nothing between them
        drawn = drawn[drawn > 0]
        if scale == "linear" or not drawn.size:
            continue
        options = {"linthresh": float(drawn.min())} if scale == "symlog" else {}
        set_scale(scale, **options)
        narrow = scale == "log" and drawn.max() / drawn.min() < 30
        plain = drawn.min() >= 1e-3 and drawn.max() <= 1e4
        axis.set_major_formatter(FuncFormatter(_plain if plain else _power))
        axis.set_minor_formatter(FuncFormatter(_between) if narrow else NullFormatter())


def _plain(value: float, position: int | None = None) -> str:
    """A tick label of a log axis that spans few decades about 1."""
    return number(float(value))


def _power(value: float, position: int | None = None) -> str:
    """A tick label of a log axis that spans more: a power of ten."""
    if abs(value) in (0, 1):
        return number(float(value))
    exponent = round(np.log10(abs(value)))
    sign = "−" if value < 0 else ""
    return f"{sign}10{power_text(exponent)}" if np.isclose(abs(value), 10.0**exponent) else number(float(value))


def _between(value: float, position: int | None = None) -> str:
    """A minor tick label, where a log axis spans too little for powers of ten alone."""
    digit = value / 10 ** np.floor(np.log10(value))
    return number(float(value)) if round(digit) in (2, 5) else ""


def _draw_all(axes: Axes, series: list[Series], curves: list[_Curve]) -> list[Any]:
    """Draw each series in the style of its kind; a line and points that pair up share a colour."""
    count = Counter(one.mark for one in series)
    lines, points, bars = count["line"], count["points"], count["bars"]
    seen: Counter[str] = Counter()
    handles = []
    for one, curve in zip(series, curves, strict=True):
        place = seen[one.mark]
        seen[one.mark] += 1
        # One theory beside several measurements (or the reverse) belongs to none of them, so it is drawn in ink.
        alone = {"line": lines == 1 and (points > 1 or bars > 0), "points": points == 1 and lines > 1}.get(one.mark, False)
        colour = INK if alone else COLOURS[place % len(COLOURS)]
        handles.append(_MARKS[one.mark](axes, curve, place, count[one.mark], colour))
    return handles


def _line(axes: Axes, curve: _Curve, place: int, count: int, colour: str) -> Any:
    return axes.plot(curve.x, curve.y, color=colour, lw=1.7, ls=_DASHES[place % len(_DASHES)], zorder=2)[0]


def _points(axes: Axes, curve: _Curve, place: int, count: int, colour: str) -> Any:
    return axes.plot(
        curve.x,
        curve.y,
        ls="none",
        marker=_MARKERS[place % len(_MARKERS)],
        ms=5.5 if len(curve.x) <= 100 else 3.0,
        mfc=colour,
        mec=PAPER,
        mew=0.7 if len(curve.x) <= 100 else 0.2,
        zorder=3,
    )[0]


def _band(axes: Axes, curve: _Curve, place: int, count: int, colour: str) -> Any:
    upper = curve.y if curve.y2 is None else curve.y2
    hatch = _HATCHES[place % len(_HATCHES)] or None
    return axes.fill_between(curve.x, curve.y, upper, color=colour, alpha=0.18, lw=0.8, hatch=hatch, zorder=1)


def _region(axes: Axes, curve: _Curve, place: int, count: int, colour: str) -> Any:
    upper = curve.y if curve.y2 is None else curve.y2
    return axes.fill_between(curve.x, curve.y, upper, color=MUTED, alpha=0.22, lw=0, zorder=0.5)


def _bars(axes: Axes, curve: _Curve, place: int, count: int, colour: str) -> Any:
    places = np.unique(curve.x[np.isfinite(curve.x)])
    gap = float(np.diff(places).min()) if places.size > 1 else 1.0
    width = 0.84 * gap / count
    shift = (place - (count - 1) / 2) * width
    hatch = _HATCHES[place % len(_HATCHES)]
    good = np.isfinite(curve.x)
    face: dict[str, Any] = {"color": colour, "alpha": 0.75, "edgecolor": PAPER, "lw": 0.6, "hatch": hatch}
    return axes.bar(curve.x[good] + shift, curve.y[good], width, zorder=1.5, **face)


_MARKS: dict[str, Callable[[Axes, _Curve, int, int, str], Any]] = {
    "line": _line,
    "points": _points,
    "band": _band,
    "bars": _bars,
    "region": _region,
    "heat": _points,  # beside other marks a row of cells has no place of its own
}


def _finish(canvas: Any, axes: Axes, figure: Figure, handles: list[Any], *, small: bool = False) -> None:
    """Labels, legend, and a word where there is nothing to see."""
    axes.set_xlabel(figure.xlabel)
    axes.set_ylabel(figure.ylabel)
    if figure.equal:
        axes.set_aspect("equal", adjustable="datalim" if figure.xlim is None else "box")
    if figure.xlim:
        axes.set_xlim(*figure.xlim)
    if figure.ylim:
        axes.set_ylim(*figure.ylim)
    if small:
        return
    if not handles:
        axes.text(0.5, 0.5, "nothing to draw", transform=axes.transAxes, ha="center", color=MUTED)
        return
    _legend(canvas, [series.label or "–" for series in figure.series], handles)


def _legend(canvas: Any, labels: list[str], handles: list[Any]) -> None:
    # Matplotlib hides labels that begin with an underscore; a zero-width space in front keeps them.
    labels = [f"\u200b{label}" if label.startswith("_") else label for label in labels]
    columns = max(1, min(len(labels), 88 // (max(map(wide.width, labels)) + 7)))  # 88 letters are about as wide as the figure
    canvas.legend(handles, labels, loc="outside upper left", ncols=columns, fontsize=9, handlelength=2.4)


def _wrapped(text: str, width: int) -> str:
    """A label that stays within the figure."""
    return "\n".join(wide.wrap(clean(text), width))
