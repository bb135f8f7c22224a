"""What survives an interruption, and what is refused afterwards."""

import json
import math

import pytest

from residyn.atlas import Store
from residyn.errors import ResidynError
from residyn.results import Figure, Finding, Section, Series

CONDITIONS = {"seed": 0, "fast": False, "versions": {"torch": "2.13.0"}}
WHOLE = Section(
    "a",
    "A",
    findings=[Finding("a.x", "x", "pass", math.nan, -math.inf)],
    figures=[Figure("f", "x", "y", [Series("s", [1.0], [math.inf])])],
)


@pytest.fixture
def path(tmp_path):
    store = Store(tmp_path / "r.html.partial.jsonl", CONDITIONS)
    store.start()
    store.add(WHOLE)
    store.add(Section("b", "B", error="b: it broke"))
    return store.path


def test_whole_sections_come_back_equal_and_broken_ones_do_not(path):
    store = Store(path, CONDITIONS)
    assert store.resume() == ""
    assert list(store.sections) == ["a"]
    assert repr(store.sections["a"]) == repr(WHOLE)  # by repr, as nan is not equal to itself


def test_a_line_cut_short_is_dropped_and_does_not_swallow_the_next(path):
    with path.open("a") as file:
        file.write('{"id": "c", "tit')
    store = Store(path, CONDITIONS)
    store.resume()
    store.add(Section("d", "D"))
    again = Store(path, CONDITIONS)
    again.resume()
    assert list(again.sections) == ["a", "d"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 1}, "it was made with seed 0, now 1"),
        ({"fast": True}, "it was made with fast False, now True"),
        ({"versions": {"torch": "9"}}, "it was made with torch 2.13.0, now 9"),
        ({"versions": {}}, "it was made with other versions"),
    ],
)
def test_other_conditions_begin_anew_and_say_why(path, change, reason):
    store = Store(path, CONDITIONS | change)
    assert store.resume() == reason
    assert store.sections == {}


@pytest.mark.parametrize("content", ["", "\x00\xff", "[]\n", '{"schema": "other"}\n', "{}"])
def test_foreign_files_are_not_taken(tmp_path, content):
    path = tmp_path / "x"
    path.write_text(content, "latin-1")
    assert "no readable file" in Store(path, CONDITIONS).resume()


def test_header_says_under_which_conditions(path):
    header = json.loads(path.read_text().splitlines()[0])
    assert header == {"schema": "residyn.atlas.partial/1", **CONDITIONS}


def test_remove(path):
    store = Store(path, CONDITIONS)
    store.remove()
    store.remove()
    assert not path.exists()


def test_unwritable(tmp_path):
    with pytest.raises(ResidynError, match="finished sections cannot be kept in .*choose another folder with `-o`"):
        Store(tmp_path / "nowhere" / "x", CONDITIONS).start()
