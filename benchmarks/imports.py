"""Wall time of `import residyn`, core touched, over `import torch`, and of `residyn --help`; fresh processes, median."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.harness import Row


def wall(code: list[str], repeat: int) -> float:
    """Median wall seconds of a Python command in a fresh process."""
    times = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, *code], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def rows(quick: bool) -> list[Row]:
    """The table; here `peer` is the limit asked for, so that a ratio of 1 or more reaches it."""
    repeat = 1 if quick else 7
    clock = "import time, torch; s = time.perf_counter(); import residyn as rd; rd.solve, rd.Residual, rd.max_stable_step"
    command = [sys.executable, "-c", f"{clock}; print(time.perf_counter() - s)"]
    runs = [float(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(repeat)]
    help_ = wall(["-m", "residyn", "--help"], repeat)
    return [
        Row("`import residyn`, core loaded, on top of `import torch`; limit 0.3 s", statistics.median(runs), 0.3, "s", 1.0),
        Row("`residyn --help`; limit 0.5 s", help_, 0.5, "s", 1.0),
    ]
