"""Files that appear whole or not at all: written beside their place, then moved there."""

from __future__ import annotations

import os
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
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield draft
        with draft.open("rb+") as handle:
            os.fsync(handle.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


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
