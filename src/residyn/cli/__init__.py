"""The command line: `residyn VERB`. One file a verb; nothing here loads torch before a job starts."""

from __future__ import annotations

import errno
import io
import logging
import sys
from collections.abc import Sequence

__all__ = ["main"]

INTERRUPTED, USAGE = 130, 2


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        args: The words after `residyn`; those of the process if `None`.

    Returns:
        The exit code: 0 fine, 1 the check found something or a job did not converge, 2 usage or input error, 130 interrupted.

    >>> main(["explain", "oed"])
    2
    """
    words = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in words
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale that lacks a letter must not end the program
            stream.reconfigure(errors="replace")
    if debug:
        logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
        logging.getLogger("residyn").setLevel(logging.DEBUG)
    try:
        return _run(words, debug=debug)
    except KeyboardInterrupt:  # while the verbs were loaded, or an error was told
        sys.stderr.write("residyn: interrupted\n")
        return INTERRUPTED


def _run(words: Sequence[str], *, debug: bool) -> int:
    """Run, and turn what went wrong into a line and an exit code."""
    import typer

    from residyn.cli.app import app
    from residyn.cli.output import Stopped, abandon, complain
    from residyn.errors import ResidynError, SolveError

    try:
        code = app(words, prog_name="residyn", standalone_mode=False)
    except Stopped as stop:
        complain(str(stop))
        return INTERRUPTED
    except typer.TyperException as error:
        if debug:
            raise
        complain(error.format_message(), hint=_help_hint(words))
        return USAGE
    except ResidynError as error:
        if debug:
            raise
        complain(str(error))
        return 1 if isinstance(error, SolveError) else USAGE
    except MemoryError as error:
        if debug:
            raise
        complain(f"there is not enough memory ({str(error) or 'none is left'})", hint="take a smaller input, or fewer --jobs")
        return 1
    except Exception as error:
        if _pressed(error):
            complain("interrupted")
            return INTERRUPTED
        if debug:
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            abandon(sys.stdout)
            complain(f"it could not be written: {error.strerror}")
            return USAGE
        complain(f"{type(error).__name__}: {error}", hint="this is a fault of Residyn; `--debug` shows where")
        return 1
    if code == INTERRUPTED:  # typer turns the key press into this code itself, without a word
        complain("interrupted")
    return code if isinstance(code, int) else 0


def _pressed(error: BaseException | None) -> bool:
    """Whether an error comes of Ctrl-C: a module in C that it stops while it is loaded calls it an import that failed."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _help_hint(words: Sequence[str]) -> str:
    """Where to read on after a usage error."""
    from residyn.cli.app import app

    verbs = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    verb = next((word for word in words if word in verbs), "")
    return f"see `residyn {verb} --help`" if verb else "see `residyn --help`"
