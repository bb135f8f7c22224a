"""A progress bar on standard error, where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from residyn.atlas import Progress


@contextmanager
def bar(ids: Sequence[str]) -> Iterator[Progress | None]:
    """Show how far a run over some entries is.

    Args:
        ids: The entries, in the order they run.

    Yields:
        The callback for `residyn.atlas.run`; `None` where nobody watches.
    """
    if sys.stderr is None or not sys.stderr.isatty() or not ids:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[what]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True, highlight=False), transient=True) as progress:
        task = progress.add_task(ids[0], total=len(ids), what="")

        def advance(entry: str, fraction: float, text: str) -> None:
            place = ids.index(entry) + fraction
            progress.update(task, completed=place, description=f"{entry} ({ids.index(entry) + 1}/{len(ids)})", what=text)

        yield advance
