"""A progress bar on standard error, where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from residyn.atlas import Progress
from residyn.atlas.runner import DONE


@contextmanager
def bar(ids: Sequence[str]) -> Iterator[Progress | None]:
    """Show how far a run over some entries is: a line for the whole, and one for each that runs.

    Args:
        ids: The entries.

    Yields:
        The callback for `residyn.atlas.run`; `None` where nobody watches.
    """
    if sys.stderr is None or not sys.stderr.isatty() or not ids:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[what]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True, highlight=False), transient=True) as progress:
        total = progress.add_task(f"0/{len(ids)}", total=len(ids), what="systems done")
        rows: dict[str, TaskID] = {}
        share = dict.fromkeys(ids, 0.0)

        def advance(entry: str, fraction: float, text: str) -> None:
            if entry not in rows:
                rows[entry] = progress.add_task(entry, total=1.0, what="")
            progress.update(rows[entry], completed=fraction, what=text, visible=text != DONE)
            share[entry] = max(share[entry], fraction)
            done = sum(not progress.tasks[row].visible for row in rows.values())
            progress.update(total, completed=sum(share.values()), description=f"{done}/{len(ids)}")

        yield advance
