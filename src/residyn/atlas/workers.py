"""Entries of the atlas in processes of their own, several at once, the dearest first.

A process that dies takes its own entry with it and no other; if this one dies, the others end at their next word.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path

from residyn.atlas.catalog import Entry
from residyn.atlas.single import Progress, run_entry
from residyn.results import Section

NEED = 2**30
"""Bytes that an entry may take at its peak, torch included; the largest was seen to take 0.6 GiB."""


def fitting(count: int) -> int:
    """How many entries this machine runs at once: one a core, as far as there is memory.

    Args:
        count: How many entries there are to run.

    Returns:
        A number of processes, at least 1.

    >>> fitting(1)
    1
    """
    memory = _free_memory()
    room = _cores() if memory is None else min(_cores(), memory // NEED)
    return max(1, min(count, room))


def run_entries(entries: Sequence[Entry], *, fast: bool, seed: int, jobs: int, progress: Progress | None) -> Iterator[Section]:
    """Run entries, `jobs` at a time.

    Args:
        entries: Which; those that take longest are begun first.
        fast: As for `run_entry`.
        seed: As for `run_entry`.
        jobs: How many at once.
        progress: As for `run_entry`; called in this process.

    Yields:
        Sections, as they are finished.
    """
    left = deque(sorted(entries, key=lambda entry: -entry.cost))
    workers: list[_Worker] = []
    try:
        workers += [_Worker(fast, seed) for _ in range(min(jobs, len(left)))]
        busy = {worker.pipe: worker for worker in workers}
        for worker in workers:
            worker.begin(left.popleft())
        while busy:
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]  # what wait returns are the pipes that it was given
                word = worker.hear()
                if isinstance(word, tuple):
                    if progress:
                        progress(*word)
                    continue
                yield word
                del busy[worker.pipe]
                if worker.gone and left:
                    worker = _Worker(fast, seed)
                    workers.append(worker)
                if left:
                    worker.begin(left.popleft())
                    busy[worker.pipe] = worker
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that runs one entry after the other."""

    def __init__(self, fast: bool, seed: int) -> None:
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        self.pipe, theirs = context.Pipe()
        debug = logging.getLogger("residyn").isEnabledFor(logging.DEBUG)
        self.process = context.Process(target=_serve, args=(theirs, fast, seed, debug), daemon=True)
        self.process.start()
        theirs.close()
        self.entry: Entry | None = None
        self.busy = self.gone = False

    def begin(self, entry: Entry) -> None:
        self.entry, self.busy = entry, True
        with contextlib.suppress(OSError):  # it is gone; `hear` says so
            self.pipe.send(entry)

    def hear(self) -> tuple[str, float, str] | Section:
        """Where it is, or what it found."""
        try:
            word: tuple[str, float, str] | Section = self.pipe.recv()
        except (EOFError, OSError):
            return self._lost()
        self.busy = not isinstance(word, Section)
        return word

    def _lost(self) -> Section:
        self.gone = True
        self.process.join()
        code = self.process.exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        entry = self.entry
        assert entry is not None  # nothing is heard from a process that has nothing to do
        fix = f"it may need more memory than there was: `residyn atlas {entry.id}` runs it alone"
        return Section(entry.id, entry.title, error=f"{entry.id}: its process {how}; {fix}")

    def stop(self) -> None:
        self.pipe.close()
        if not self.busy:  # it ends by itself then, and tidies up what its libraries hold
            self.process.join(10)
        self.process.terminate()
        self.process.join()


def _serve(pipe: Connection, fast: bool, seed: int, debug: bool) -> None:
    """What a process does: hear an entry, run it, tell what it found; until nobody is there."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    if debug:
        logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
        logging.getLogger("residyn").setLevel(logging.DEBUG)
    try:
        while True:
            entry = pipe.recv()
            pipe.send(run_entry(entry, fast=fast, seed=seed, progress=lambda *word: pipe.send(word)))
    except (EOFError, OSError):
        return


def _cores() -> int:
    """Cores that this process may use, the quota of a container included."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdecimal() and period.strip().isdecimal():
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def _free_memory() -> int | None:
    """Bytes that can be had without pushing others out, the limit of a container included; `None` where nobody says."""
    lines = _read("/proc/meminfo").splitlines()
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    limit, used = _read("/sys/fs/cgroup/memory.max").strip(), _read("/sys/fs/cgroup/memory.current").strip()
    if limit.isdecimal() and used.isdecimal():
        found.append(max(0, int(limit) - int(used)))
    return min(found, default=None)


def _read(path: str) -> str:
    try:
        return Path(path).read_text("ascii")
    except (OSError, UnicodeError):
        return ""
