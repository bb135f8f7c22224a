"""A result as one HTML page: nothing requested from outside, whole without JavaScript, every text escaped."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import TYPE_CHECKING, Any

from residyn.errors import require
from residyn.report import plot, words
from residyn.report.language import Language, language
from residyn.report.terminal import headline
from residyn.results import Figure, Result, Section

if TYPE_CHECKING:
    from jinja2 import Template


@dataclass(frozen=True)
class _Part:
    """A section with its anchor and its drawn figures."""

    section: Section
    anchor: str
    figures: list[tuple[Figure, Any, str]] = field(default_factory=list)


def build(result: Result, lang: str = "en") -> str:
    """Render a result as a page.

    Args:
        result: What to render.
        lang: `"en"` or `"zh"`.

    Returns:
        The page, complete in itself.

    Raises:
        InputError: If there is no such language.
        MissingExtraError: If jinja2, or matplotlib for a result with figures, is not installed.
    """
    script = _asset("page.js")
    tr = language(lang)
    names = [figure.title for figure in result.overview.figures] if result.overview else []
    result = tr.result(result)
    parts = _parts(result.sections, tr)
    return _template().render(
        result=result,
        parts=parts,
        overview=_overview(result, names, tr),
        anchors={part.section.id: part.anchor for part in parts},
        tally=words.tally(result),
        headline=headline(result, tr),
        _=tr,
        lang="zh-CN" if lang == "zh" else lang,
        css=_markup(_asset("page.css")),
        script=_markup(script),
        # Only this very script may run: text that slipped through the escaping could not.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _parts(sections: list[Section], tr: Language) -> list[_Part]:
    """Give each section an anchor of its own, and draw its figures."""
    parts: list[_Part] = []
    taken: set[str] = set()
    for section in sections:
        base = re.sub(r"[^a-z0-9]+", "-", section.id.lower()).strip("-") or "section"
        anchor = next(name for name in (base, *(f"{base}-{i}" for i in range(2, 10**6))) if name not in taken)
        taken.add(anchor)
        drawings = [plot.draw(figure, f"{anchor}--{i}") for i, figure in enumerate(section.figures)]
        figures = [(f, _markup(d.svg), tr(d.note)) for f, d in zip(section.figures, drawings, strict=True)]
        parts.append(_Part(section, anchor, figures))
    return parts


def _overview(result: Result, names: list[str], tr: Language) -> _Part | None:
    """What stands in front, its figures drawn small under the names of the sections that they belong to."""
    section = result.overview
    if section is None:
        return None
    drawings = [plot.draw(figure, f"_overview--{i}", small=True) for i, figure in enumerate(section.figures)]
    shown = [replace(figure, title=name) for figure, name in zip(section.figures, names, strict=True)]
    figures = [(f, _markup(d.svg), tr(d.note)) for f, d in zip(shown, drawings, strict=True)]
    return _Part(section, "_overview", figures)


@functools.cache
def _template() -> Template:
    """The page's template, escaping everything and cleaning control codes out of every text."""
    environment = require("jinja2", "report").Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=require("jinja2", "report").StrictUndefined,
        finalize=_finalize,
    )
    environment.filters |= {"number": words.number, "duration": words.duration}
    environment.globals |= {"icons": words.ICONS, "words": words.WORDS, "plural": words.plural}
    template: Template = environment.from_string(_asset("page.html.j2"))
    return template


def _finalize(value: Any) -> Any:
    return words.clean(value) if type(value) is str else value


def _markup(text: str) -> Any:
    """Our own markup, not to be escaped again."""
    return require("markupsafe", "report").Markup(text)


def _asset(name: str) -> str:
    return resources.files("residyn.report").joinpath("assets", name).read_text("utf-8")
