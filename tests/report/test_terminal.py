"""The result as text."""

import io

from rich.console import Console

from residyn import report
from residyn.results import Result, Section


def test_text_has_verdicts_in_words_values_and_fixes(pleasant):
    text = report.text(pleasant)
    for part in (
        "✕ 3 systems, 6 findings",
        "✓ pass",
        "▲ warning",
        "✕ fail",
        "11.2 dB",
        "fix: Use float64.",
        "broke off",
        "x⁺ = x + a·x",
    ):
        assert part in text, part
    assert max(map(len, text.splitlines())) <= 100
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_text_carries_no_escape_code(hostile):
    text = report.text(hostile)
    assert text.count("\x1b") == 0
    assert text.count("[bold]b[/bold]") > 0  # what looks like markup is text


def test_in_colour_only_our_own_escape_codes(hostile):
    page = io.StringIO()
    report.render(hostile, Console(file=page, force_terminal=True, color_system="standard", width=80))
    assert page.getvalue().count("\x1b[31mred") == 0


def test_incomplete_is_said_first():
    lines = report.text(Result("atlas", "A", [], complete=False, note="Go on with: --resume")).splitlines()
    assert lines[2] == "Incomplete. Go on with: --resume"


def test_headline_counts():
    sections = [Section("a", "A", error="no"), Section("b", "B")]
    assert report.headline(Result("batch", "A", sections)) == "2 sections, 0 findings; 1 broke off"
