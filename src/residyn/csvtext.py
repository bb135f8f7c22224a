"""CSV as people have it: encodings, separators, comments; and errors that name file, line, column, rule and fix."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TextIO

from residyn.errors import InputError

_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "-", "?", "."})


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """The file as text; what the disk or the encoding says becomes an input error.

    Args:
        path: UTF-8 (with or without mark) or UTF-16 with mark.

    Yields:
        The open file.

    Raises:
        InputError: If it cannot be read, or is not text.
    """
    name = str(path)
    try:
        with Path(path).open("rb") as probe:
            mark = probe.read(2)
        encoding = "utf-16" if mark in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        with Path(path).open("r", encoding=encoding, newline="") as file:
            yield file
    except UnicodeError:
        raise InputError(f"{name}: must be UTF-8 text, got bytes that are not; save it again as CSV (UTF-8)") from None
    except OSError as error:
        raise InputError(f"{name}: must be a file that can be read, got: {error.strerror}; check the path") from None


def rows(file: TextIO, name: str) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells; empty lines and comment lines (#) are skipped.

    Args:
        file: The text; separated by comma, semicolon or tab, whichever its first line has most of.
        name: The file's name, for errors.

    Yields:
        Line number, from 1, and the cells without blanks around them; a decimal comma becomes a point.

    Raises:
        InputError: If a line is no CSV.
    """
    position = file.tell()
    line = file.readline(1_000_000)
    while line and (not line.strip() or line.startswith("#")):
        line = file.readline(1_000_000)
    separator = max(",;\t", key=line.count)
    file.seek(position)
    reader = csv.reader(file, delimiter=separator, strict=True, skipinitialspace=True)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            refuse(name, reader.line_num, "must be CSV", str(error), "mend or remove the quotes and odd characters there")
        cells = [cell.strip() for cell in cells]
        if separator != ",":  # where commas do not part the cells, one within digits is the decimal sign
            cells = [cell.replace(",", ".") if "," in cell and _DECIMAL_COMMA.fullmatch(cell) else cell for cell in cells]
        if any(cells) and not cells[0].startswith("#"):
            yield reader.line_num, cells


def number(cell: str, name: str, line: int, column: str) -> float:
    """A finite number from a cell.

    Args:
        cell: Its text.
        name: The file's name, for errors.
        line: Its line.
        column: Its column's name.

    Returns:
        The number.

    Raises:
        InputError: If the cell is empty, text, or not finite.

    >>> number("2.5", "a.csv", 2, "x")
    2.5
    """
    if cell.lower() in _MISSING:
        refuse(name, line, "must have no missing value", repr(cell), "fill it in, or leave the whole line out", column)
    try:
        value = float(cell) if "_" not in cell else math.nan
    except ValueError:
        value = math.nan
    if value != value:
        comma = re.fullmatch(r"[+-]?\d+,\d+", cell)
        fix = "write the decimal sign as a point" if comma else "leave out a column of text, or correct the cell"
        refuse(name, line, "must hold numbers only", repr(cell[:40]), fix, column)
    if math.isinf(value):
        refuse(name, line, "must hold finite numbers", repr(cell[:40]), "leave the line out", column)
    return value


def refuse(name: str, line: int, rule: str, got: str, fix: str, column: str = "") -> NoReturn:
    """Raise the error for a broken rule.

    Args:
        name: The file's name.
        line: The line.
        rule: What must be.
        got: What is.
        fix: What to do.
        column: The column's name, if one is meant.

    Raises:
        InputError: Always.
    """
    where = f"line {line}" + (f", column {column!r}" if column else "")
    raise InputError(f"{name}: {where} {rule}, got {got}; {fix}")
