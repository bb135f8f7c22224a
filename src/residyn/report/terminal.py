"""A result as text, for terminals and `.txt` files. Rich is loaded on first use."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

from residyn.report.language import Language, language
from residyn.report.words import ICONS, WORDS, clean, duration, number, plural, tally
from residyn.results import Finding, Result, Section, Table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red", "info": "blue"}


def text(result: Result, width: int = 100, lang: str = "en") -> str:
    """A result as plain text.

    Args:
        result: What to render.
        width: Columns of a line.
        lang: `"en"` or `"zh"`.

    Returns:
        The text, without colour codes.

    >>> "The residual step" in text(Result("demo", "The residual step", []))
    True
    """
    from rich.console import Console

    page = io.StringIO()
    render(result, Console(file=page, width=width, color_system=None, force_terminal=False, highlight=False), lang)
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines()) + "\n"


def headline(result: Result, tr: Callable[[str], str] = str) -> str:
    """The verdict of a result in one line.

    Args:
        result: What to judge.
        tr: Translates a phrase.

    Returns:
        For example `"2 systems, 9 findings: 1 fail, 8 pass"`.

    >>> headline(Result("demo", "A demo", [Section("a", "A", findings=[Finding("a.x", "x is 1", "pass")])]))
    '1 section, 1 finding: 1 pass'
    """
    broken = sum(bool(section.error) for section in result.sections)
    counts = [tr(f"{count} {WORDS[verdict]}") for verdict, count in tally(result).items() if count]
    noun = "system" if result.kind == "atlas" else "section"
    what = [tr(plural(len(result.sections), noun)), tr(plural(len(result.findings), "finding"))]
    line = tr(": ").join([tr(", ").join(what), tr(", ").join(counts)]) if counts else tr(", ").join(what)
    return f"{line}{tr('; ')}{tr(f'{broken} broke off')}" if broken else line


def render(result: Result, console: Console, lang: str = "en") -> None:
    """Print a result.

    Args:
        result: What to render.
        console: Where to; its width and colours are used.
        lang: `"en"` or `"zh"`.
    """
    from rich.text import Text

    tr = language(lang)
    result = tr.result(result)
    console.print(Text(clean(result.title), style="bold"))
    console.print(_chip(result.verdict, headline(result, tr)))
    if not result.complete:
        console.print(Text(f"{tr('Incomplete.')} {clean(result.note)}", style="yellow"))
    for section in [*([result.overview] if result.overview else []), *result.sections]:
        _section(section, console, tr)
    console.print()
    for line in _footer(result):
        console.print(Text(clean(line), style="dim"))


def _chip(verdict: str, words: str = "") -> Text:
    """Icon and word, so that colour is never the only sign."""
    from rich.text import Text

    return Text(f"{ICONS[verdict]} {words or WORDS[verdict]}", style=_STYLES[verdict])


def _section(section: Section, console: Console, tr: Language) -> None:
    from rich.rule import Rule
    from rich.text import Text

    console.print()
    console.print(Rule(Text(clean(f"{section.id}  {section.title}"), style="bold"), align="left", style="dim"))
    if section.equation:
        console.print(Text(f"  {clean(section.equation)}", style="italic"))
    if section.summary:
        console.print(Text(clean(section.summary)))
    if section.error:
        console.print(Text(f"✕ {tr('broke off:')} {clean(section.error)}", style="bold red"))
    if section.findings:
        _findings(section.findings, console, tr)
    elif section.tables and (section.summary or section.equation):
        console.print()
    for table in section.tables:
        _table(table, console)
    console.print(Text("; ".join([*_facts(section, tr), duration(section.seconds)]), style="dim"))


def _facts(section: Section, tr: Language) -> list[str]:
    """Where the data came from, and how much more the page shows."""
    facts = [f"{tr('data:')} {clean(section.data)}"] if section.data else []
    if section.figures:
        facts.append(tr(f"{plural(len(section.figures), 'figure')} in the .html report"))
    return facts


def _findings(findings: list[Finding], console: Console, tr: Language) -> None:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    grid.add_column(tr("verdict"), no_wrap=True)
    grid.add_column(tr("finding"), ratio=1)
    grid.add_column(tr("measured"), justify="right")
    grid.add_column(tr("theory"), justify="right")
    for finding in findings:
        words = Text(clean(finding.title))
        if finding.verdict in ("warn", "fail"):
            for label, note in (("why", finding.why), ("fix", finding.fix)):
                words.append(f"\n{tr(label)}: {clean(note)}" if note else "", style="dim")
        measured, theory = (_value(value, finding.unit) for value in (finding.value, finding.theory))
        grid.add_row(_chip(finding.verdict, tr(WORDS[finding.verdict])), words, measured, theory)
    console.print(grid)


def _value(value: float | str | None, unit: str) -> Text:
    from rich.text import Text

    shown = number(value)
    return Text(f"{shown} {clean(unit)}" if unit and value is not None else shown)


def _table(table: Table, console: Console) -> None:
    """Side by side what fits; columns that do not stand below, behind the first one again. No word is cut that fits a line."""
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table as RichTable
    from rich.text import Text

    cells = [[clean(column), *(number(row[k]) for row in table.rows)] for k, column in enumerate(table.columns)]
    natural = [max(map(cell_len, column)) for column in cells]
    least = [max((cell_len(word) for cell in column for word in cell.split()), default=0) for column in cells]
    for part, group in enumerate(_groups(least, console.width)):
        grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", title_justify="left")
        grid.title = Text(clean(table.title)) if part == 0 else None
        widths = _shrunk([natural[k] for k in group], [least[k] for k in group], console.width)
        for k, width in zip(group, widths, strict=True):
            grid.add_column(Text(cells[k][0]), width=width)
        for row in range(len(table.rows)):
            grid.add_row(*(Text(cells[k][row + 1]) for k in group))
        console.print(grid)


_BETWEEN = 3
"""Blanks between columns."""


def _groups(least: list[int], room: int) -> list[list[int]]:
    """Columns that stand side by side; each group after the first begins with column 0 again.

    >>> _groups([5, 40, 40, 30], 80)
    [[0, 1], [0, 2], [0, 3]]
    """
    groups: list[list[int]] = [[]]
    for k in range(len(least)):
        fits = sum(least[i] + _BETWEEN for i in [*groups[-1], k]) <= room
        if not fits and groups[-1] not in ([], [0]):
            groups.append([0])
        groups[-1].append(k)
    return groups


def _shrunk(natural: list[int], least: list[int], room: int) -> list[int]:
    """Widths that fit: the widest gives way first, none below its longest word while another has more than that.

    >>> _shrunk([30, 12, 4], [10, 12, 4], 35)
    [10, 12, 4]
    """
    widths = list(natural)
    while sum(widths) + _BETWEEN * len(widths) > room:
        loose = [k for k in range(len(widths)) if widths[k] > least[k]] or [k for k in range(len(widths)) if widths[k] > 1]
        if not loose:
            break
        widest = max(loose, key=lambda k: widths[k])
        widths[widest] -= 1
    return widths


def _footer(result: Result) -> list[str]:
    """What makes the result again."""
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    lines = [result.command, versions, f"{result.started}, {duration(result.seconds)}" if result.started else ""]
    return [line for line in lines if line]
