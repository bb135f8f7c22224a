"""Matplotlib's SVG made fit to stand inside a page: no prolog, own ids, colours as CSS variables, text in the page's font."""

from __future__ import annotations

import re
from html import escape

# Colours no drawing would choose; the page's style sheet gives them their light and dark values.
INK, MUTED, RULE, PAPER = "#010203", "#010204", "#010205", "#010206"
COLOURS = tuple(f"#01020{digit}" for digit in "789abcde")

_VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", PAPER: "--paper"} | {
    colour: f"--c{place}" for place, colour in enumerate(COLOURS)
}


def inline(svg: str, uid: str, title: str, description: str) -> str:
    """Turn a stand-alone SVG file of matplotlib into an element for a page.

    Args:
        svg: The file's text, drawn in the sentinel colours of this module.
        uid: Prefix of every id: letters, digits and hyphens.
        title: Name of the picture for assistive technology.
        description: What is to be seen, in words.

    Returns:
        The `<svg>` element.

    >>> inline('<?xml?><svg width="1pt" height="1pt" viewBox="0 0 1 1"><g id="a" fill="#010203"/></svg>', "f", "T", "D")
    '<svg viewBox="0 0 1 1" style="max-width: 0.1rem" class="plot" ...<g id="f-a" fill="var(--ink)"/></svg>'
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"<defs>\s*</defs>", "", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    body = re.sub(r'\bid="', f'id="{uid}-', body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{uid}-", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    opening, _, rest = body.partition(">")
    opening = re.sub(r'\s(?:width|height|version|xmlns(?::\w+)?)="[^"]*"', "", opening)
    rest = rest.replace("xlink:href", "href")
    labels = f'<title id="{uid}-title">{escape(title)}</title><desc id="{uid}-desc">{escape(description)}</desc>'
    # All drawings of a page at one scale, so that their letters have one size: 10 points of matplotlib's to a rem.
    width = float(re.search(r'viewBox="[\d.]+ [\d.]+ ([\d.]+)', opening)[1]) / 10  # type: ignore[index]
    names = f'style="max-width: {width:g}rem" class="plot" role="img" aria-labelledby="{uid}-title {uid}-desc"'
    return re.sub(r"\n\s*", "\n", f"{opening} {names}>{labels}{rest}").strip()
