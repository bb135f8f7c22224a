"""The page: whole in itself, escaped, accessible, the same each time."""

import re
from html.parser import HTMLParser

import pytest

from residyn import report
from residyn.results import Result, Section


class Reader(HTMLParser):
    """Collects what a browser would act on."""

    VOID = frozenset({"meta", "link", "img", "path", "use", "br", "rect"})

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page(pleasant):
    return report.html(pleasant)


@pytest.fixture(scope="module")
def hostile_page(hostile):
    return report.html(hostile)


def test_elements_are_balanced(page, hostile_page):
    assert Reader(page).open == Reader(hostile_page).open == []


def test_nothing_is_requested_from_outside(page, hostile_page):
    for text in (page, hostile_page):
        for tag, name, value in Reader(text).attributes:
            if name in ("src", "href", "xlink:href", "action", "srcset", "data", "poster"):
                assert value.startswith(("#", "data:")), (tag, name, value)
        assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
        assert not re.search(r"@import|url\((?!#)", text)


def test_hostile_text_adds_no_element(hostile_page):
    reader = Reader(hostile_page)
    assert reader.tags.count("script") == 1
    assert "b" not in reader.tags
    assert not [name for _, name, _ in reader.attributes if name.startswith("on")]
    assert "49" not in re.findall(r"`(\d+)\{%", hostile_page)  # {{ 7*7 }} was not evaluated
    assert "{{ 7*7 }}" in "".join(reader.text)


def test_no_control_code_survives(hostile_page):
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", hostile_page)


def test_ids_are_unique_and_links_lead_somewhere(page, hostile_page):
    for text in (page, hostile_page):
        attributes = Reader(text).attributes
        ids = [value for _, name, value in attributes if name == "id"]
        assert len(set(ids)) == len(ids)
        assert {value[1:] for tag, name, value in attributes if tag == "a" and name == "href"} <= set(ids)
        named = [value.split() for _, name, value in attributes if name == "aria-labelledby"]
        assert {name for names in named for name in names} <= set(ids)


def test_verdict_comes_first_and_in_words(page):
    body = "".join(Reader(page[page.index("<body>") : page.index("</html>")]).text)
    assert body.index("fail") < body.index("Contents") < body.index("Findings")
    assert "3 systems, 6 findings: 1 fail, 1 warning, 3 pass, 1 info; 1 broke off" in body


def test_every_section_tells_all(page):
    text = " ".join("".join(Reader(page).text).split())
    for part in ("x⁺ = x + a·x", "camera, 512 × 512", "clean = rd.inverse.denoise", "12.3 s", "Fix: Give the SNR", "11.2 dB",
                 "12 dB", "wiener.blind", "residyn atlas --seed 0", "2.13.0", "This section broke off."):  # fmt: skip
        assert part in text, part


def test_pictures_have_alternative_texts(page):
    images = [dict(re.findall(r'(\w+)="([^"]*)"', tag)) for tag in re.findall(r"<img[^>]*>", page)]
    assert [image["alt"] for image in images] == ["a noisy picture", "the restored picture"]


def test_same_result_same_page(page, pleasant):
    assert report.html(pleasant) == page


def test_an_incomplete_result_says_how_to_go_on():
    page = report.html(Result("atlas", "A", [], complete=False, note="Go on with: residyn atlas --resume"))
    assert "This page is incomplete." in page
    assert "Go on with: residyn atlas --resume" in page
    assert "There is nothing in this result." in page


def test_sections_of_one_name_get_anchors_of_their_own():
    page = report.html(Result("batch", "A", [Section("a.pdb", "A"), Section("a pdb", "A"), Section("", "")]))
    assert re.findall(r'<section id="([^"]*)"', page) == ["a-pdb", "a-pdb-2", "section"]
