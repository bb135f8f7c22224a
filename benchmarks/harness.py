"""How the benchmarks measure: both sides in one process and in turn, CPU time of the process, one thread, median of several."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Row:
    """A line of a table: ours and the peer's cost, their ratio peer/ours (above 1: ours is cheaper), and what was asked."""

    name: str
    ours: float
    peer: float
    unit: str
    asked: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float:
        """peer/ours."""
        return self.peer / self.ours

    @property
    def verdict(self) -> str:
        """Whether what was asked is reached."""
        return "" if self.asked is None else "reached" if self.ratio >= self.asked else "**not reached**"


def in_turn(ours: Callable[[], object], peer: Callable[[], object], repeat: int = 7) -> tuple[float, float, str]:
    """Median CPU seconds of both sides, run in turn after one run of each that does not count; and the spread of the ratio."""
    torch.set_num_threads(1)
    ours(), peer()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeat):
        for side, run in zip(times, (ours, peer), strict=True):
            start = time.process_time()
            run()
            side.append(time.process_time() - start)
    ratios = sorted(b / a for a, b in zip(*times, strict=True))
    return statistics.median(times[0]), statistics.median(times[1]), f"{ratios[0]:.2f}–{ratios[-1]:.2f}"


def once(key: str, job: Callable[[], list[float]]) -> list[float]:
    """What a long training gave; with RESIDYN_BENCH_KEEP=FOLDER kept there, so that a run that was stopped goes on."""
    folder = os.environ.get("RESIDYN_BENCH_KEEP")
    if not folder:
        return job()
    path = Path(folder, f"{key.replace(' ', '-')}.json")
    if path.exists():
        return [float(value) for value in json.loads(path.read_text("utf-8"))]
    found = job()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found), "utf-8")
    return found
