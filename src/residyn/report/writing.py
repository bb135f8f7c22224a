"""Result to file: the ending picks the format, the file appears whole or not at all."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from residyn.errors import InputError, require
from residyn.placing import put
from residyn.report import terminal
from residyn.report.words import clean
from residyn.results import Result

ENDINGS = (".html", ".json", ".csv", ".txt")


def html(result: Result, lang: str = "en") -> str:
    """A result as one self-contained HTML page.

    Args:
        result: What to render.
        lang: `"en"` or `"zh"`.

    Returns:
        The page.

    Raises:
        InputError: If there is no such language.
        MissingExtraError: If jinja2, or matplotlib for a result with figures, is not installed.
    """
    from residyn.report import page

    return page.build(result, lang)


def write(result: Result, path: str | os.PathLike[str], lang: str = "en") -> None:
    """Write a result to a file whose ending says in which form: `.html`, `.json`, `.csv` (its findings) or `.txt`.

    The file is written beside its place and then moved there, so that a reader never sees half of it.

    Args:
        result: What to write.
        path: The file.
        lang: Language of a page or text; JSON and CSV are the result itself, which is English.

    Raises:
        InputError: If there is no such language, the ending is unknown or the folder is not there or not writable.
        MissingExtraError: If the page needs a package that is not installed.
        ResidynError: If the disk refuses it.
    """
    check(path)
    ending = Path(path).suffix.lower()
    if ending == ".html":
        content = html(result, lang)
    elif ending == ".txt":
        content = terminal.text(result, lang=lang)
    else:
        content = result.to_json() if ending == ".json" else _csv(result)
    put(path, content if content.endswith("\n") else content + "\n")


def check(path: str | os.PathLike[str]) -> None:
    """Refuse an output file that `write` could not write, before a long job rather than after it.

    Args:
        path: The file that is to be written.

    Raises:
        InputError: If the ending is unknown, the path is a folder, or its folder is not there or not writable.
        MissingExtraError: If the page needs a package that is not installed.

    >>> check("report.docx")
    Traceback (most recent call last):
    ...
    residyn.errors.InputError: `-o` must end in one of .html .json .csv .txt, got 'report.docx'; choose one of them
    """
    target = Path(path)
    ending = target.suffix.lower()
    if ending not in ENDINGS:
        raise InputError(f"`-o` must end in one of {' '.join(ENDINGS)}, got {str(path)!r}; choose one of them")
    folder = Path(os.path.realpath(target)).parent
    if target.is_dir():
        raise InputError(f"`-o` must be a file, got the folder {str(path)!r}; add a file name")
    if not folder.is_dir():
        raise InputError(f"`-o` must be in a folder that exists, got {str(path)!r}; make it first: mkdir -p '{folder}'")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"`-o` must be in a folder you may write to, got {str(path)!r}; choose another one")
    if ending == ".html":
        for module in ("jinja2", "matplotlib"):
            require(module, "report")


def _csv(result: Result) -> str:
    """The findings as a table, one a line."""
    page = io.StringIO()
    rows = csv.writer(page, lineterminator="\n")
    rows.writerow(("section", "id", "verdict", "title", "value", "theory", "unit", "why", "fix"))
    for section in result.sections:
        if section.error:
            rows.writerow((section.id, f"{section.id}.error", "fail", clean(section.error), *[""] * 5))
        for f in section.findings:
            cells = (section.id, f.id, f.verdict, f.title, f.value, f.theory, f.unit, f.why, f.fix)
            rows.writerow([clean(cell) if isinstance(cell, str) else cell for cell in cells])
    return page.getvalue()
