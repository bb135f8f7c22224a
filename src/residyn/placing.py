"""Files that appear whole or not at all: written beside their place, then moved there."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from residyn.errors import ResidynError


@contextmanager
def placed(path: str | os.PathLike[str]) -> Iterator[Path]:
    """While this lasts, a draft beside the file; at its end the draft is on the disk and in the place of the file.

    A reader, or a run that goes on after a power cut, finds the old file or the new one. A link stays one: what it points to is
    replaced.

    Args:
        path: The file.

    Yields:
        Where to write; if that fails, the file is what it was and the draft is gone.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with placed(Path(folder, "answer.txt")) as draft:
    ...         _ = draft.write_text("42")
    ...     [file.name for file in Path(folder).iterdir()]
    ['answer.txt']
    """
    target = Path(os.path.realpath(path))
    draft = draft_of(target)
    try:
        yield draft
        with draft.open("rb+") as handle:
            os.fsync(handle.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def draft_of(target: Path) -> Path:
    """Where the draft of a file or folder stands: hidden, with a name that tells whose it is.

    What killed processes of this machine have left in that folder goes at this occasion, once a folder.

    Args:
        target: The file or folder.

    Returns:
        A path in the same folder.
    """
    _swept(str(target.parent), os.getpid())
    name = target.name if len(os.fsencode(target.name)) < _LONG else hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]
    return target.with_name(f".{name}.{_host()}-{os.getpid()}.tmp")


_LONG = 200
"""Bytes of a name, to which those of a draft are added: file systems take 255."""


@functools.cache
def _host() -> str:
    """Few letters that stand for this machine: a number of a process says nothing about those of others."""
    return hashlib.sha256(platform.node().encode("utf-8", "replace")).hexdigest()[:8]


@functools.lru_cache(maxsize=256)
def _swept(folder: str, _process: int) -> None:
    """Remove the drafts of processes of this machine that are no more."""
    own = re.compile(rf"\..*\.{_host()}-(\d+)\.tmp", re.DOTALL)
    with contextlib.suppress(OSError):
        for found in os.scandir(folder):
            named = own.fullmatch(found.name)
            if named and not _lives(int(named[1])):
                with contextlib.suppress(OSError):
                    if found.is_dir(follow_symlinks=False):
                        shutil.rmtree(found.path, ignore_errors=True)
                    else:
                        os.unlink(found.path)


def _lives(process: int) -> bool:
    """Whether there is such a process; where that cannot be told, there is."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def put(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file whole or not at all.

    Args:
        path: The file.
        content: What it is to hold; text as UTF-8.

    Raises:
        ResidynError: If the disk refuses it.
    """
    try:
        with placed(path) as draft:
            draft.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", errors="backslashreplace"))
    except OSError as error:
        raise ResidynError(f"{os.fspath(path)!r} could not be written: {error.strerror}; nothing was changed there") from error
