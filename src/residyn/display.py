"""How results show themselves in a notebook: a small table, every text escaped, nothing that acts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

_ROWS = 12


def card(title: str, rows: Iterable[tuple[str, object]], note: str = "") -> str:
    """A small HTML table for `_repr_html_`.

    Args:
        title: What it is.
        rows: Names and values; numbers are shown to four significant digits.
        note: A line below.

    Returns:
        The element, without script, style sheet or anything from outside.

    >>> card("Estimate", [("value", 2.0), ("kind", "<b>")])
    '<table><caption>Estimate</caption><tbody><tr><th>value</th><td>2</td></tr><tr><th>kind</th><td>&lt;b&gt;</td></tr></tbody></table>'
    """
    body = "".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows)
    below = f"<p>{_text(note)}</p>" if note else ""
    return f"<table><caption>{_text(title)}</caption><tbody>{body}</tbody></table>{below}"


def table(title: str, columns: list[str], rows: Sequence[tuple[object, ...]], note: str = "") -> str:
    """A table of several columns for `_repr_html_`; of many rows, the first.

    Args:
        title: What it is.
        columns: Their names.
        rows: The cells.
        note: A line below.

    Returns:
        The element.

    >>> table("Peaks", ["eV"], [(1.0,)]).count("<td>")
    1
    """
    head = "".join(f"<th>{_text(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows[:_ROWS])
    more = f"{len(rows) - _ROWS} more rows" if len(rows) > _ROWS else ""
    below = "".join(f"<p>{_text(line)}</p>" for line in (more, note) if line)
    return f"<table><caption>{_text(title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}"


def _text(value: object) -> str:
    """A value as text that is only text."""
    if isinstance(value, float):
        word = f"{value:.4g}" if math.isfinite(value) else str(value)
    else:
        word = "–" if value is None else str(value)
    shown = "".join(letter if letter.isprintable() or letter == " " else "\N{REPLACEMENT CHARACTER}" for letter in word)
    return escape(shown if len(shown) <= 300 else f"{shown[:300]}…")
