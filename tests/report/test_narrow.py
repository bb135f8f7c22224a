"""Tables in a text: whatever its width, no word is cut and no number is lost."""

import pytest

from residyn.report import text
from residyn.results import Result, Section, Table

NAMES = ["depth", "block", "skip", *(f"quantity{k} (estimate)" for k in range(9))]
ROWS = [[k, f"layer.{k}", "identity", *(0.1234 + k + j for j in range(9))] for k in range(4)]


def shown(width):
    return text(Result("demo", "A demo", [Section("a", "A", tables=[Table("Blocks", NAMES, ROWS)])]), width)


@pytest.mark.parametrize("width", [60, 80, 100, 140, 400])
def test_every_word_and_number_is_whole(width):
    page = shown(width)
    assert "…" not in page
    assert max(map(len, page.splitlines())) <= width
    words = page.split()
    for k in range(9):
        assert f"quantity{k}" in words
    for row in range(4):
        assert all(word in words for word in (f"layer.{row}", *(f"{0.1234 + row + j:.4g}" for j in range(9))))


def test_what_fits_is_one_table_and_what_does_not_begins_with_the_first_column_again():
    assert sum(line.split()[:1] == ["depth"] for line in shown(400).splitlines()) == 1
    heads = [line for line in shown(80).splitlines() if line.split()[:1] == ["depth"]]
    assert len(heads) > 1


def test_a_word_wider_than_the_line_is_cut_rather_than_that_the_line_breaks():
    table = Table("Long", ["name", "value"], [["x" * 90, 1.5]])
    page = text(Result("demo", "A demo", [Section("a", "A", tables=[table])]), 60)
    assert max(map(len, page.splitlines())) <= 60
    assert "1.5" in page
