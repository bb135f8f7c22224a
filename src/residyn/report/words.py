"""How verdicts and values are written, the same in every rendering. Standard library only."""

from __future__ import annotations

import math
import re
from collections import Counter

from residyn.results import Result, Verdict

ICONS: dict[str, str] = {"pass": "✓", "warn": "▲", "fail": "✕", "info": "●"}
WORDS: dict[str, str] = {"pass": "pass", "warn": "warning", "fail": "fail", "info": "info"}

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def clean(text: str) -> str:
    r"""Text without what could command a terminal or break a file: control codes, lone surrogates, direction overrides.

    Args:
        text: Any text.

    Returns:
        The text with each such character replaced by "�".

    >>> clean("a\x1b[31mb")
    'a�[31mb'
    """
    return _CONTROL.sub("�", text)


def number(value: float | str | None) -> str:
    """A value for a reader: four significant digits, powers of ten where they help.

    Args:
        value: A number, a text that stands for itself, or `None` for no value.

    Returns:
        Its text.

    >>> [number(v) for v in (0.123456, 1234567, 3e-9, 60000.0, float("inf"), None, "none")]
    ['0.1235', '1.235×10⁶', '3×10⁻⁹', '60000', '∞', '–', 'none']
    """
    if value is None:
        return "–"
    if isinstance(value, str):
        return clean(value)
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value)).replace("-", "−")
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:{'.4g' if abs(value) < 1e4 else '.0f'}}".replace("-", "−")
    return _powers(value)


def _powers(value: float) -> str:
    """A number with a power of ten."""
    mantissa, exponent = f"{value:.3e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".").replace("-", "−")
    power = f"10{power_text(int(exponent))}"
    return power if mantissa == "1" else f"{mantissa}×{power}"


def power_text(exponent: int) -> str:
    """An exponent in superscript digits.

    Args:
        exponent: A whole number.

    Returns:
        Its text.

    >>> power_text(-12)
    '⁻¹²'
    """
    return str(exponent).translate(_SUPERSCRIPT)


def duration(seconds: float) -> str:
    """A time for a reader.

    Args:
        seconds: The time in seconds.

    Returns:
        Its text.

    >>> duration(0.25), duration(75), duration(3720)
    ('0.2 s', '1 min 15 s', '1 h 2 min')
    """
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def plural(count: int, one: str, many: str = "") -> str:
    """A count with its noun.

    Args:
        count: How many.
        one: The noun for one.
        many: The noun for many; `one` and an s if empty.

    Returns:
        The phrase.

    >>> plural(1, "system"), plural(3, "system")
    ('1 system', '3 systems')
    """
    return f"{count} {one if count == 1 else many or one + 's'}"


def tally(result: Result) -> dict[Verdict, int]:
    """How many findings have which verdict.

    Args:
        result: The result.

    Returns:
        Counts by verdict, worst first, zeros included.
    """
    counts = Counter(finding.verdict for finding in result.findings)
    order: tuple[Verdict, ...] = ("fail", "warn", "pass", "info")
    return {verdict: counts[verdict] for verdict in order}
