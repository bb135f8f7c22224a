"""What the pages say that a command prints is what it prints."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
SPEC = importlib.util.spec_from_file_location("expected", DOCS / "expected.py")
EXPECTED = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(EXPECTED)
without = EXPECTED.without

BLOCKS = [
    pytest.param(commands, shown, id=f"{page.stem}: {commands[-1]}")
    for page in sorted(DOCS.glob("*.md"))
    for commands, shown in EXPECTED.pairs(page)
]


@pytest.mark.slow
@pytest.mark.parametrize(("commands", "shown"), BLOCKS)
def test_what_a_command_prints_is_what_the_page_says(commands, shown):
    assert EXPECTED.differences(shown, EXPECTED.printed(commands)) == [], "run: python docs/expected.py"


def test_every_job_has_its_output():
    jobs = {"adapt", "audit", "calibrate", "deblur", "denoise", "disulfide", "dynamics", "graph", "segment", "spectrum"}
    assert {block.values[0][-1].split()[1] for block in BLOCKS} >= jobs


def test_differences_are_seen():
    same = "With λ = 0.5875 the error falls to 2.1×10⁻³ s\nOne ✓ pass 1,024\n"
    assert EXPECTED.differences(same, same.replace("\n", "\n   ")) == []
    assert EXPECTED.differences(same, same.replace("0.5875", "0.6")) == []
    assert EXPECTED.differences(same, same.replace("0.5875", "0.9")) == ["0.5875 on the page, 0.9 printed"]
    assert EXPECTED.differences(same, same.replace("⁻³", "⁻²")) == ["0.0021 on the page, 0.021 printed"]
    assert EXPECTED.differences(same, same.replace("pass", "fail")) == ["'pass #' on the page, 'fail #' printed"]
    assert EXPECTED.differences(same, same + "more\n") == ["'' on the page, 'more' printed"]


def test_times_and_versions_are_no_part_of_it():
    said = (
        "Title\ndata: a file; 3 figures in the .html report; 1.8 s\n\nresidyn graph a b\n--seed 0\n"
        "python 3.11.7, residyn 0.1.0\n2026-11-28T22:02:20+00:00, 1.8 s\n"
    )
    assert EXPECTED.settled(said) == "Title\ndata: a file; 3 figures in the .html report\n"
