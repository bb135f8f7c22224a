"""Two languages, one result: no text without its translation, no number that differs."""

import ast
import json
import re
from importlib import resources
from pathlib import Path

import pytest

from residyn import report
from residyn.atlas import catalog, plane
from residyn.atlas.context import Context
from residyn.errors import InputError
from residyn.report import language as module
from residyn.report.language import CATALOGUES, Language, language, sentences, shape
from residyn.report.plot import draw
from residyn.results import Figure, Finding, Result, Section, Series

SOURCE = Path(module.__file__).parents[1]
ATLAS = SOURCE / "atlas"
HOUSE = {"__init__", "catalog", "context", "data", "fit", "runner", "single", "store", "workers"}
ZH = language("zh")
PAIRS = sorted(ZH.catalogue.items())


@pytest.mark.parametrize("package", CATALOGUES)
def test_a_catalogue_has_each_id_once(package):
    text = resources.files(package).joinpath("languages", "zh.po").read_text("utf-8")
    ids = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("msgid ")]
    assert len(ids) == len(set(ids)) == text.count("\nmsgstr ")


def test_every_translation_names_each_number_once_and_adds_none():
    for english, chinese in PAIRS:
        holes = english.count("#")
        values = [str(91000 + k) for k in range(holes)]
        literal = re.findall(r"\d+", english)
        told = re.findall(r"\d+", Language("zh", {english: chinese})._fill(chinese, values))
        assert sorted(told) == sorted([*values, *literal]), english


def test_a_sentence_is_filled_in_the_order_that_the_translation_asks():
    zh = Language("zh", {"# of # at #": "{3}：{1}/{2}", "It is #.": "是 #。"})
    assert zh("2 of 16 at 1,5 dB") == "2 of 16 at 1,5 dB"  # not this sentence: it stays English
    assert zh("2 of 16 at Euler") == "Euler：2/16"
    assert zh("It is 3×10⁻⁵. It is 1, 2, 3.") == "是 3×10⁻⁵。是 1, 2, 3。"
    assert zh("It is −0.5.\n\nIt is ∞.") == "是 −0.5。\n\n是 ∞。"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("MNIST L2 x_0 W₁ 1EJG", "MNIST L2 x_0 W₁ 1EJG"),
        ("5,000 of 28×28", "# of #×#"),
        ("camera, moon and RK4", "# and #"),
        ("1e-05 a.u. and 10⁶", "# a.u. and #"),
    ],
)
def test_what_counts_as_a_number_or_a_name(text, found):
    assert shape(text) == found


def test_what_the_page_and_the_terminal_say_themselves_is_translated():
    template = (SOURCE / "report" / "assets" / "page.html.j2").read_text("utf-8")
    terminal = (SOURCE / "report" / "terminal.py").read_text("utf-8")
    said = re.findall(r'_\("([^"]+)"\)', template) + re.findall(r"""tr\(["']([^"'{]+)["']\)""", terminal)
    assert len(said) > 25
    assert [text for text in said if text not in ZH.catalogue] == []


def literals(tree):
    """Texts in a module that reach a reader: no docstrings, no progress, no errors, no code."""
    left_out = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            left_out.add(id(node.value))
        if isinstance(node, ast.Call) and re.search(r"advance$|Error$|watch$", ast.unparse(node.func)):
            left_out.update(id(inner) for inner in ast.walk(node))
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "CODE":
            left_out.add(id(node.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in left_out:
            yield node.value


@pytest.mark.parametrize("path", sorted(p for p in ATLAS.glob("*.py") if p.stem not in HOUSE), ids=lambda path: path.stem)
def test_every_phrase_in_the_source_of_an_entry_has_a_translation(path):
    """Those of verdicts that did not come about as well: each piece between two values is part of an id."""
    ids = "\n".join(ZH.catalogue)
    pieces = [
        piece.strip(" :;,.()")
        for text in literals(ast.parse(path.read_text("utf-8")))
        for paragraph in text.split("\n\n")
        for sentence in sentences(paragraph)
        for piece in shape(sentence).split("#")
    ]
    phrases = [piece for piece in pieces if re.search(r"[^\W\d_]{2,} [^\W\d_]{2,}", piece)]
    openings = {"The claim holds", "The claim holds in part", "does not hold as stated", "holds in part", "fails in part"}
    assert [phrase for phrase in phrases if phrase not in ids and phrase not in openings] == []


def test_titles_of_all_entries_and_the_overview_are_translated():
    assert ZH.missing([entry.title for entry in catalog.ENTRIES]) == []
    assert ZH.missing(plane.run(Context())) == []


RESULT = Result(
    "atlas",
    "The Residyn atlas",
    [
        Section(
            "graph",
            "Residual graph networks against oversmoothing",
            summary="The claim holds.",
            code="print('Findings')",
            findings=[Finding("graph.x", "Passes within 0.125.", "warn", 0.125, 3.0, why="Theory: depth costs nothing.")],
            figures=[Figure("Energy by depth", "step k", "Dirichlet energy, share of the first", [Series("plain, theory", [0.0, 1.0], [1.0, 2.0]), Series("plain, measured", [0.0, 1.0], [1.0, 2.0], "points")])],
        )
    ],
)  # fmt: skip


def test_only_texts_differ():
    there = ZH.result(RESULT)
    section, was = there.sections[0], RESULT.sections[0]
    assert section.title == "残差图网络对抗过平滑"
    assert section.findings[0].title == "相差 0.125 之内则通过。"
    assert (section.findings[0].value, section.findings[0].theory) == (0.125, 3.0)
    assert (section.id, section.code, section.findings[0].id) == (was.id, was.code, was.findings[0].id)
    assert [series.y for series in section.figures[0].series] == [series.y for series in was.figures[0].series]
    assert language("en").result(RESULT) is RESULT


def test_page_and_text_in_chinese():
    page = report.html(RESULT, "zh")
    assert '<html lang="zh-CN">' in page
    assert "1 个系统，1 条结论：1 条警告" in page
    assert "▲ 警告" in page
    assert "普通，理论</text>" in page  # the stand-ins of the layout are gone again
    assert not re.search(r"[☀-⛿✀-➿䷀-䷿]", page.replace("✓", "").replace("✕", ""))
    text = report.text(RESULT, lang="zh")
    assert "原因: 理论值：深度不付代价。" in text
    numbers = re.compile(r"\d+\.\d+")
    assert sorted(numbers.findall(text)) == sorted(numbers.findall(report.text(RESULT)))


def test_letters_that_the_font_lacks_are_laid_out_without_a_warning():
    figure = Figure("图", "误差", "深度", [Series("测量得到的误差随深度的变化" * 8, [0.0, 1.0], [1.0, 2.0])])
    svg = draw(figure, "f").svg
    assert "误差" in svg
    assert svg.count("测量得到") >= 1


def test_an_unknown_language():
    with pytest.raises(InputError, match="`--lang` must be one of en, zh, got 'fr'; en is English, zh Chinese"):
        report.html(RESULT, "fr")
