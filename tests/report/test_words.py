"""Numbers and words for readers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from residyn.report.words import clean, duration, number


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (-0.25, "−0.25"), (1e-3, "0.001"), (9.99e-4, "9.99×10⁻⁴"), (1e20, "10²⁰"), (-1e6, "−1×10⁶"), (99999.5, "100000"),
     (math.nan, "not a number"), (-math.inf, "−∞"), (1e308, "10³⁰⁸"), (5e-324, "4.941×10⁻³²⁴")],
)  # fmt: skip
def test_number(value, text):
    assert number(value) == text


@given(st.floats(-1e308, 1e308))
def test_number_keeps_four_digits(value):
    table = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻−", "0123456789--")
    text = number(value).replace("×10", "e")
    text = f"1e{text[2:]}" if text.startswith("10") and any(c in text for c in "⁰¹²³⁴⁵⁶⁷⁸⁹") else text
    assert float(text.translate(table)) == pytest.approx(value, rel=5.1e-4, abs=1e-323)


@given(st.text())
def test_clean_can_be_printed_and_saved(text):
    clean(text).encode("utf-8")
    assert "\x1b" not in clean(text)
    assert len(clean(text)) == len(text)


def test_duration_of_nonsense():
    assert duration(math.inf) == duration(math.nan) == "unknown"
