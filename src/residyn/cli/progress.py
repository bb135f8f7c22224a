"""Progress on standard error: bars where that is a terminal; and one thread, as jobs on small matrices want."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from residyn.atlas import Progress
from residyn.atlas.runner import DONE
from residyn.cli.output import say

Share = Callable[[float, str], None]
"""Takes the share that is done, in [0, 1], and what is being done."""


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


@contextmanager
def share(task: str, *, lines: bool = False) -> Iterator[Share | None]:
    """Show how far one job is.

    Args:
        task: Its name.
        lines: Whether to say so every tenth, where standard error is no terminal.

    Yields:
        What the job calls; `None` where nobody watches.
    """
    if sys.stderr is None or not (sys.stderr.isatty() or lines):
        yield None
        return
    if not sys.stderr.isatty():
        yield _tenths()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(task), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True, highlight=False), transient=True) as progress:
        line = progress.add_task("", total=1.0)
        yield lambda done, text: progress.update(line, completed=done, description=text)


def _tenths() -> Share:
    last = 0.0

    def advance(done: float, text: str) -> None:
        nonlocal last
        if last + 0.1 <= done < 1:
            last = done
            with contextlib.suppress(OSError):
                say(f"{done:.0%}, {text}")

    return advance


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread: on small matrices more are slower, they make sums depend on their number, and files share the cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
