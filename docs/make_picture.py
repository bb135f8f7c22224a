"""Draw the two pictures of the documentation as stand-alone SVG files that follow the reader's theme.

`img/atlas.svg` is the first figure of the atlas entry `ode`; `img/plane.svg` is the figure that the atlas begins with: a panel
for each system. Run from the checkout:  python docs/make_picture.py [atlas] [plane]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from residyn import atlas
from residyn.atlas import Context, plane
from residyn.report.plot import draw

FOLDER = Path(__file__).parent / "img"
NAMESPACE = 'xmlns="http://www.w3.org/2000/svg"'
STYLE = """<style>
svg { --ink:#1d1c1a; --muted:#6a665f; --rule:#e2ded6; --paper:#fff; --c0:#1f6fb2; --c1:#c2501a; --c2:#2e7d4f; --c3:#7a4fb0;
  --c4:#97700c; --c5:#0f7c80; --c6:#8a3b52; --c7:#555; font-family: system-ui, sans-serif; }
@media (prefers-color-scheme: dark) { svg { --ink:#e8e4dc; --muted:#9d9a93; --rule:#31353b; --paper:#0d1117; --c0:#6db3f2;
  --c1:#f29562; --c2:#74c795; --c3:#bb9bea; --c4:#dcb54a; --c5:#5fc3c7; --c6:#e08aa0; --c7:#aaa; } }
</style>"""
ACROSS, SIDE, HEAD, FOOT = 4, 166.0, 18.0, 26.0
"""Panels in a row; points that a panel, its name and its caption take."""


def trained() -> str:
    """Error against depth of a trained residual network, run as eight schemes."""
    svg = draw(atlas.run(["ode"]).sections[0].figures[0], "readme").svg
    head, _, rest = svg.partition(">")
    names = f'{NAMESPACE} width="720"'
    return f"{head.replace('<svg', f'<svg {names}', 1)}>{STYLE}{rest}\n"


def panels() -> str:
    """Every system in the plane of hλ."""
    figures = plane.run(Context()).figures
    rows = -(-len(figures) // ACROSS)
    parts = []
    for place, figure in enumerate(figures):
        x, y = (place % ACROSS) * (SIDE + 14), (place // ACROSS) * (SIDE + HEAD + FOOT)
        svg = re.sub(r'style="max-width: [^"]*"', "", draw(figure, f"p{place}", small=True).svg, count=1)
        svg = svg.replace("<svg", f'<svg x="{x:g}" y="{y + HEAD:g}" width="{SIDE:g}" height="{SIDE:g}"', 1)
        name = f'<text x="{x + 30:g}" y="{y + 12:g}" font-size="12" font-weight="600" fill="var(--ink)">{figure.title}</text>'
        note = figure.caption.replace(", drawn", ",\ndrawn").split("\n")
        below = "".join(
            f'<text x="{x + 4:g}" y="{y + HEAD + SIDE + 10 + 11 * k:g}" font-size="9.5" fill="var(--muted)">{line}</text>'
            for k, line in enumerate(note)
        )
        parts.append(name + svg + below)
    width, height = ACROSS * (SIDE + 14), rows * (SIDE + HEAD + FOOT)
    return f'<svg {NAMESPACE} viewBox="0 0 {width:g} {height:g}" width="{width:g}">{STYLE}{"".join(parts)}</svg>\n'


def main(names: list[str]) -> None:
    """Write the pictures asked for; both if none is named."""
    for name, make in {"atlas": trained, "plane": panels}.items():
        if not names or name in names:
            FOLDER.mkdir(exist_ok=True)
            (FOLDER / f"{name}.svg").write_text(make(), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
