"""Data to standard output, everything else to standard error."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import NoReturn, TextIO

import typer

from residyn import report
from residyn.errors import ResidynError
from residyn.report.language import Language, language
from residyn.report.words import clean
from residyn.results import Result


class Stopped(BaseException):
    """Ctrl-C, with a line on what was kept and how to go on; not to be caught on the way, like `KeyboardInterrupt`."""


def emit(text: str) -> None:
    """Write data to standard output; a reader that has gone away (`| head`) is no error.

    Args:
        text: The data.

    Raises:
        ResidynError: If the disk behind standard output refuses it.
    """
    if sys.stdout is None:  # started with its standard output closed
        return
    try:
        typer.echo(text, nl=not text.endswith("\n"))
    except BrokenPipeError:
        abandon(sys.stdout)
    except OSError as error:
        abandon(sys.stdout)
        raise ResidynError(f"standard output could not be written: {error.strerror}; what came of it is not whole") from error


def abandon(stream: TextIO) -> None:
    """Send what Python would flush at exit nowhere, or it would complain of the same stream again.

    Args:
        stream: Standard output or error, which takes nothing any more.
    """
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def say(text: str) -> None:
    """Write a line for the person in front to standard error, if anybody is there to read it.

    Args:
        text: The line.
    """
    try:
        typer.echo("\n".join(map(clean, text.split("\n"))), err=True)
    except OSError:
        abandon(sys.stderr)


def complain(text: str, hint: str = "") -> None:
    """Write a one-line error to standard error.

    Args:
        text: What is wrong; line breaks become spaces.
        hint: What to do about it.
    """
    text = text.strip().rstrip(".")
    link = " " if text.endswith("?") else "; "
    say(" ".join(f"residyn: {text}{link + hint if hint else ''}".split()))


def show(result: Result, lang: str = "en") -> None:
    """Write the terminal report: in colour and as wide as the terminal if it is one, else plain.

    Args:
        result: What to show.
        lang: Language of its texts.
    """
    if sys.stdout is not None and sys.stdout.isatty():
        from rich.console import Console

        console = Console(highlight=False)
        with console.capture() as capture:
            report.render(result, console, lang)
        emit(capture.get())
    else:
        emit(report.text(result, lang=lang))


def deliver(
    result: Result,
    output: str | None,
    *,
    as_json: bool,
    write: Callable[[Result, str], None] | None = None,
    brief: Callable[[Result], Result] | None = None,
    more: str = "",
    tr: Language | None = None,
) -> None:
    """Hand over the outcome of a verb: the file if one is named, JSON if asked for, else the terminal report.

    Args:
        result: The outcome.
        output: The file; its ending says the form.
        as_json: Whether JSON goes to standard output.
        write: Writes the file; `report.write` if `None`.
        brief: What of it the terminal shows; all of it if `None`.
        more: Ends the line that says where it is.
        tr: Language of page and text; English if `None`.
    """
    tr = tr or language("en")
    if output is not None:
        if write:
            write(result, output)
        else:
            report.write(result, output, tr.code)
        say(f"{report.headline(result, tr)}; written to {output}{more}")
    if as_json:
        emit(result.to_json())
    elif output is None:
        show(brief(result) if brief else result, tr.code)


def leave(result: Result) -> NoReturn:
    """End the verb with the exit code that its outcome asks for: 1 if a finding failed, else 0.

    Args:
        result: The outcome.
    """
    raise typer.Exit(1 if result.verdict == "fail" else 0)
