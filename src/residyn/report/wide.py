"""Letters that matplotlib's own font lacks, Chinese ones above all: laid out by stand-ins of about their width, then put back.

An SVG carries text as text, and the reader's browser has the fonts; only the layout must know how wide a letter is.
"""

from __future__ import annotations

import functools
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator

from residyn.errors import require

_SYMBOLS = (range(0x2600, 0x26A0), range(0x2700, 0x27C0), range(0x4DC0, 0x4E00))
"""Blocks of DejaVu whose symbols are nearly as wide as a Chinese letter."""


class StandIn:
    """Stand-ins for the letters of some texts that the font lacks, one for each.

    Args:
        texts: All texts of a drawing.

    >>> swap = StandIn(["误差 x"])
    >>> swap.of("误差 x") == "误差 x", swap.back(swap.of("误差 x"))
    (False, '误差 x')
    """

    def __init__(self, texts: Iterable[str]) -> None:
        letters = dict.fromkeys(letter for text in texts for letter in text)
        lacking = [letter for letter in letters if ord(letter) > 0x7F and ord(letter) not in _glyphs()]
        free = [symbol for symbol in _symbols() if symbol not in letters]
        there = dict(zip(lacking, free, strict=False))
        self._there = str.maketrans(dict[str, str | int | None](there))
        self._here = str.maketrans(dict[str, str | int | None]({symbol: letter for letter, symbol in there.items()}))

    def of(self, text: str) -> str:
        """A text with its stand-ins."""
        return text.translate(self._there)

    def back(self, text: str) -> str:
        """The text itself again."""
        return text.translate(self._here)


def width(text: str) -> int:
    """Columns that a text takes, two for a wide letter or its stand-in.

    Args:
        text: One line or more; the widest counts.

    Returns:
        The columns.

    >>> width("误差 x")
    6
    """
    return max((sum(1 + _is_wide(letter) for letter in line) for line in text.split("\n")), default=0)


def wrap(text: str, columns: int) -> list[str]:
    """Lines of a text; between wide letters a line may end anywhere.

    Args:
        text: The text.
        columns: Columns of a line.

    Returns:
        The lines.

    >>> wrap("误差随深度", 6)
    ['误差随', '深度']
    """
    if not any(map(_is_wide, text)):
        return textwrap.wrap(text, columns)
    lines = [""]
    for piece in _pieces(text):
        if width(lines[-1] + piece.rstrip()) > columns and lines[-1]:
            lines.append("")
        lines[-1] += piece if lines[-1] else piece.lstrip()
    return [line.rstrip() for line in lines]


def _pieces(text: str) -> Iterator[str]:
    """What must stay on one line: a wide letter, or a word with the space behind it."""
    word = ""
    for letter in text:
        if _is_wide(letter):
            yield from filter(None, (word, letter))
            word = ""
        else:
            word += letter
            if letter == " ":
                yield word
                word = ""
    if word:
        yield word


def _is_wide(letter: str) -> bool:
    return unicodedata.east_asian_width(letter) in "WF" or letter in _symbols()


@functools.cache
def _glyphs() -> frozenset[int]:
    """Code points of matplotlib's font."""
    fonts = require("matplotlib.font_manager", "report")
    return frozenset(fonts.get_font(fonts.findfont("DejaVu Sans")).get_charmap())


@functools.cache
def _symbols() -> dict[str, None]:
    return dict.fromkeys(chr(code) for block in _SYMBOLS for code in block if code in _glyphs())
