"""Figures become SVG that stands inside a page: always, and the same each time."""

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from residyn.report import plot
from residyn.results import Figure, Series

LINE = Series("theory", [1.0, 10.0, 100.0], [1.0, 0.1, 0.01])
POINTS = Series("measured", [1.0, 10.0, 100.0], [1.1, 0.09, 0.011], "points")


def figure(*series, xscale="log", yscale="log", **more):
    return Figure("Title", "x", "y", list(series), xscale, yscale, **more)


def tree(drawing):
    return ElementTree.fromstring(drawing.svg)


def test_it_is_one_svg_element_with_name_and_description():
    root = tree(plot.draw(figure(LINE, POINTS, caption="See."), "u"))
    assert root.tag == "svg"
    assert root.find("title").text == "Title"
    assert root.find("desc").text == "y against x. theory (line, 3 values); measured (points, 3 values). See."
    assert root.attrib["aria-labelledby"] == "u-title u-desc"


def test_same_figure_same_bytes():
    assert plot.draw(figure(LINE, POINTS), "u") == plot.draw(figure(LINE, POINTS), "u")


def test_ids_are_unique_within_a_page():
    pages = [plot.draw(figure(LINE, POINTS), uid).svg for uid in ("a", "b")]
    ids = [name for svg in pages for name in re.findall(r'\bid="([^"]*)"', svg)]
    assert len(set(ids)) == len(ids)
    targets = {name for svg in pages for name in re.findall(r'(?:href="#|url\(#)([^")]*)', svg)}
    assert targets <= set(ids)


def test_no_fixed_colour_font_or_outside_reference():
    svg = plot.draw(
        figure(LINE, POINTS, Series("band", [1, 2], [1, 2], "band", [2, 3]), Series("bars", [1, 2], [1, 2], "bars")), "u"
    ).svg
    assert not re.search(r"#[0-9a-fA-F]{6}\b", svg)
    assert "font-family" not in svg
    assert "http" not in svg
    assert "var(--ink)" in svg


def test_theory_and_measurement_that_pair_up_share_a_colour_but_not_a_mark():
    svg = plot.draw(figure(LINE, POINTS, LINE, POINTS), "u").svg
    assert svg.count("var(--c0)") >= 2
    assert svg.count("var(--c1)") >= 2
    assert "var(--c2)" not in svg
    assert "stroke-dasharray" in svg  # the second line differs in more than colour


def test_one_theory_beside_many_measurements_is_drawn_in_ink():
    svg = plot.draw(figure(LINE, POINTS, POINTS), "u").svg
    assert re.search(r"stroke: var\(--ink\); stroke-width: 1\.7", svg)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e308])
@pytest.mark.parametrize("scale", ["linear", "log", "symlog"])
@pytest.mark.parametrize("mark", ["line", "points", "band", "bars"])
def test_values_that_cannot_be_drawn_are_left_out_and_named(mark, scale, value):
    series = Series("odd", [1.0, 2.0, 3.0], [1.0, value, 3.0], mark, [2.0, 2.0, 4.0] if mark == "band" else None)
    drawing = plot.draw(figure(series, xscale=scale, yscale=scale), "u")
    assert drawing.note == "Not drawn, because not finite or not positive on a logarithmic axis: 1 value of “odd”."
    tree(drawing)


def test_zero_on_a_log_axis_is_left_out_and_named():
    assert "2 values of “theory”" in plot.draw(figure(Series("theory", [0.0, 1.0, 2.0], [1.0, -1.0, 1.0])), "u").note


@pytest.mark.parametrize(
    "series",
    [[], [Series("empty", [], [])], [Series("none", [math.nan], [1.0], "bars")], [Series("uneven", [1.0, 2.0], [1.0])]],
)
def test_nothing_to_draw_is_no_error(series):
    tree(plot.draw(figure(*series), "u"))


def test_text_is_never_markup_nor_mathematics():
    text = "<b>&\"' $x^ \\frac{ --> _a"
    drawing = plot.draw(
        Figure(text, text, text, [Series(text, [1.0], [1.0]), Series("_hidden", [1.0], [2.0])], caption=text), "u"
    )
    texts = "".join(tree(drawing).itertext())
    assert texts.count(text) >= 4
    assert "_hidden" in texts


def test_equal_axes():
    assert 'viewBox="0 0 360 360"' in plot.draw(figure(LINE, xscale="linear", yscale="linear", equal=True), "u").svg


@pytest.mark.parametrize(("value", "label"), [(1e-5, "10⁻⁵"), (1.0, "1"), (0.0, "0"), (-100.0, "−10²"), (2e6, "2×10⁶")])
def test_tick_labels_of_log_axes(value, label):
    assert plot._power(value) == label


def test_nan_in_x_and_y_alike_lifts_the_pen_and_is_not_missed():
    pen = Series("strokes", [0.0, 1.0, math.nan, 2.0, 3.0], [0.0, 1.0, math.nan, 0.0, 1.0])
    assert plot.draw(figure(pen, xscale="linear", yscale="linear"), "u").note == ""


def test_an_axis_of_whole_numbers_has_no_ticks_between_them():
    """Blocks, epochs and steps are counted."""
    svg = plot.draw(figure(Series("one", [1.0, 2.0, 3.0], [10.0, 20.0, 30.0]), xscale="linear", yscale="linear"), "u").svg
    found = ["".join(text.itertext()).strip() for text in ElementTree.fromstring(svg).iter("text")]
    assert {"1", "2", "3"} <= set(found)
    assert not {"1.25", "1.5", "1.50", "2.5", "2.50"} & set(found)
