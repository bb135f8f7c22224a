"""Draw the README's picture: the first figure of the atlas entry `ode`, as a stand-alone SVG that follows the reader's theme.

Run from the checkout:  python docs/make_picture.py
"""

from __future__ import annotations

from pathlib import Path

from residyn import atlas
from residyn.report.plot import draw

STYLE = """<style>
svg { --ink:#1d1c1a; --muted:#6a665f; --rule:#e2ded6; --paper:#fff; --c0:#1f6fb2; --c1:#c2501a; --c2:#2e7d4f; --c3:#7a4fb0;
  --c4:#97700c; --c5:#0f7c80; --c6:#8a3b52; --c7:#555; font-family: system-ui, sans-serif; }
@media (prefers-color-scheme: dark) { svg { --ink:#e8e4dc; --muted:#9d9a93; --rule:#31353b; --paper:#0d1117; --c0:#6db3f2;
  --c1:#f29562; --c2:#74c795; --c3:#bb9bea; --c4:#dcb54a; --c5:#5fc3c7; --c6:#e08aa0; --c7:#aaa; } }
</style>"""


def main() -> None:
    """Run the entry and write `docs/img/atlas.svg`."""
    section = atlas.run(["ode"]).sections[0]
    svg = draw(section.figures[0], "readme").svg
    head, _, rest = svg.partition(">")
    names = 'xmlns="http://www.w3.org/2000/svg" width="720"'
    path = Path(__file__).parent / "img" / "atlas.svg"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{head.replace('<svg', f'<svg {names}', 1)}>{STYLE}{rest}\n", "utf-8")


if __name__ == "__main__":
    main()
