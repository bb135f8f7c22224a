"""Rows of cells, the darker the larger: many numbers over depth at one glance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from residyn.report.svg import COLOURS, INK, RULE
from residyn.report.words import clean, number
from residyn.results import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WRITTEN = 14  # as many columns still have room for numbers


def draw(axes: Axes, figure: Figure) -> None:
    """Draw every series as a row of cells; a cell without a number stays empty.

    Shades are relative to the smallest and largest of their row, by logarithm where all are positive and span a decade. Numbers
    stand in the cells where they have room, so that colour is not the only sign.

    Args:
        axes: Where.
        figure: What; its series have the mark `"heat"`.
    """
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator

    places = sorted({x for one in figure.series for x in one.x})
    for row, one in enumerate(figure.series):
        for x, y, shade in zip(one.x, one.y, shades(one.y), strict=False):
            corner = (x - 0.5, row - 0.42)
            axes.add_patch(Rectangle(corner, 1.0, 0.84, facecolor="none", edgecolor=RULE, lw=0.4))
            if not np.isfinite(shade):
                continue
            axes.add_patch(Rectangle(corner, 1.0, 0.84, facecolor=COLOURS[0], alpha=0.06 + 0.6 * float(shade), lw=0))
            if len(places) <= _WRITTEN:
                axes.text(x, row, number(float(f"{y:.2g}")), ha="center", va="center", fontsize=7.5, color=INK)
    axes.set_xlim(min(places, default=0.0) - 0.5, max(places, default=1.0) + 0.5)
    axes.set_ylim(len(figure.series) - 0.5, -0.5)
    axes.set_yticks(range(len(figure.series)), [clean(one.label) for one in figure.series])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    axes.set_xlabel(clean(figure.xlabel))
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def shades(values: list[float]) -> np.ndarray:
    """Each number's place between the smallest and the largest, 0 to 1; nan stays nan.

    >>> shades([1.0, 10.0, 100.0]).tolist(), shades([2.0, 2.0]).tolist()
    ([0.0, 0.5, 1.0], [0.5, 0.5])
    """
    x = np.asarray(values, dtype=np.float64)
    good = x[np.isfinite(x)]
    if good.size and good.min() > 0 and good.max() > 10 * good.min():
        x, good = np.log(np.where(x > 0, x, np.nan)), np.log(good)
    if not good.size or np.ptp(good) == 0:
        return np.where(np.isfinite(x), 0.5, np.nan)
    shade: np.ndarray = (x - good.min()) / np.ptp(good)
    return np.where(np.isfinite(x), shade, np.nan)
