"""The page in a real browser: opened, clicked, darkened, narrowed, printed; and with JavaScript switched off."""

import importlib.util
import sys
from pathlib import Path

import pytest

from residyn import report
from residyn.results import Finding, Result, Section, Table

spec = importlib.util.spec_from_file_location("chromium", Path(__file__).with_name("chromium.py"))
chromium = importlib.util.module_from_spec(spec)
spec.loader.exec_module(chromium)

BROWSER = chromium.find()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(chromium.NAMES)} is on the PATH"),
    pytest.mark.skipif(sys.platform == "win32", reason="the browser is driven over POSIX file descriptors"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    page = chromium.Page(BROWSER, tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


@pytest.fixture
def page(browser, pleasant, tmp_path):
    """The pleasant report, freshly opened in a wide light window."""
    report.write(pleasant, tmp_path / "report.html")
    return opened(browser, tmp_path / "report.html")


def opened(browser, path):
    browser.call("Emulation.setDeviceMetricsOverride", width=1200, height=800, deviceScaleFactor=1, mobile=False)
    browser.call("Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": "light"}])
    browser.console.clear()
    browser.requests.clear()
    browser.open(path.as_uri())
    return browser


def brightness(page, selector, what):
    script = f"getComputedStyle(document.querySelector('{selector}')).{what}.match(/[\\d.]+/g).slice(0, 3).map(Number)"
    return sum(page.run(script)) / 3


def test_nothing_is_requested_and_nothing_complains(page):
    page.wait("document.querySelectorAll('svg.plot').length === 4")
    assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == []
    assert page.console == []


def test_a_link_of_the_contents_leads_to_its_section(page):
    page.click('.contents a[href="#ode"]')
    page.wait("location.hash === '#ode'")
    page.wait("Math.abs(document.getElementById('ode').getBoundingClientRect().top) < 60")
    page.wait("document.querySelector('.contents a[href=\"#ode\"]').getAttribute('aria-current') === 'true'")
    assert page.run("document.querySelectorAll('.contents a[aria-current]').length") == 1


def test_findings_are_filtered_by_a_click(page):
    shown = "[...document.querySelectorAll('tr[data-verdict]')].filter((row) => row.offsetParent).length"
    assert page.run(shown) == 6
    page.click('.filter button[data-kind="fail"]')
    assert page.run(shown) == 1
    assert page.run("document.querySelector('.filter [aria-pressed=true]').textContent") == "✕ fail"
    page.click('.filter button[data-kind="all"]')
    assert page.run(shown) == 6


def test_a_table_is_sorted_by_a_click(page):
    column = "[...document.querySelector('table.plain').tBodies[0].rows].map((row) => row.cells[1].textContent).join(' ')"
    page.click("table.plain thead th:nth-child(2) button")
    assert page.run(column).startswith("3 12")
    assert page.run("document.querySelector('table.plain th:nth-child(2)').getAttribute('aria-sort')") == "ascending"
    page.click("table.plain thead th:nth-child(2) button")
    assert page.run(column).startswith("12 3")


def test_dark_mode_turns_page_and_plots(page):
    assert brightness(page, "body", "backgroundColor") > 200
    assert brightness(page, "svg.plot text", "fill") < 80
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert brightness(page, "body", "backgroundColor") < 60
    assert brightness(page, "svg.plot text", "fill") > 180


@pytest.mark.parametrize("width", [320, 390, 768, 1200])
def test_the_page_never_scrolls_sideways(page, width):
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    assert page.run("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [400, 1200])
def test_a_word_without_end_is_broken(browser, tmp_path, width):
    """A name of 2,000 letters, as a path or a sequence is: the statement of a finding made the page scroll sideways."""
    word = "a" * 2000
    section = Section(word, word, word, word, word, word, [Finding(word, word, "fail", 1.0, 2.0, "", word, word)], error=word)
    section.tables.append(Table(word, ["name", "count"], [[word, 1.0]]))
    report.write(Result(word, word, [section], command=word, note=word), tmp_path / "long.html")
    page = opened(browser, tmp_path / "long.html")
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    assert page.run("document.documentElement.scrollWidth") <= width


def test_text_has_contrast_enough(page):
    # WCAG AA asks for 4.5 : 1; checked where it is tightest, on muted text and on chips, in both colour schemes.
    script = """((selector) => {
      const paint = (name, element) => getComputedStyle(element)[name].match(/[\\d.]+/g).map(Number);
      const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
        .map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
      const element = document.querySelector(selector);
      let back = element;
      while (paint("backgroundColor", back)[3] === 0) back = back.parentElement;
      const [a, b] = [light(paint("color", element)), light(paint("backgroundColor", back))].sort((x, y) => y - x);
      return (a + .05) / (b + .05);
    })"""
    for scheme in ("light", "dark"):
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        for selector in (
            ".why",
            ".id",
            ".caption",
            ".facts dt",
            ".chip.pass",
            ".chip.warn",
            ".chip.fail",
            ".chip.info",
            "body",
        ):
            assert page.run(f"{script}({selector!r})") >= 4.5, (scheme, selector)


def test_print_shows_the_whole_page_without_controls(page):
    page.call("Emulation.setEmulatedMedia", media="print")
    assert page.run("getComputedStyle(document.querySelector('.filter')).display") == "none"
    assert brightness(page, "body", "backgroundColor") == 255
    assert len(page.call("Page.printToPDF")["data"]) > 10_000


def test_the_page_is_whole_without_javascript(browser, page, tmp_path):
    whole = page.run("document.querySelector('main').innerText")
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        opened(browser, tmp_path / "report.html")
        assert browser.run("document.querySelector('.filter')") is None
        text = browser.run("document.querySelector('main').innerText")
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert "Fitted a agrees" in text
    assert len(text) == len(whole)


def test_hostile_texts_do_nothing(browser, hostile, tmp_path):
    report.write(hostile, tmp_path / "hostile.html")
    page = opened(browser, tmp_path / "hostile.html")
    assert page.run("document.scripts.length") == 1
    assert page.run("document.querySelectorAll('main > section').length") == 3
    assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == []
    assert page.run("document.documentElement.scrollWidth") <= 1200
