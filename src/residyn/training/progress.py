"""Where a run is: a line on standard error for a person, and JSON lines for a program."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from residyn.errors import InputError
from residyn.placing import placed


@dataclass(frozen=True)
class Moment:
    """Where a run is.

    Args:
        step: Steps done.
        steps: Steps of the whole run.
        epoch: Number of the epoch, from 0.
        loss: Training loss of the last step.
        remaining: Seconds to the end at the speed so far; nan before it is known.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    remaining: float


@dataclass
class Line:
    r"""A line of progress with the time that is left; rewritten in place on a terminal, else a new one now and then.

    Args:
        label: What is running.
        stream: Where to; standard error if not given.
        every: Seconds between two lines where there is no terminal.

    >>> import io
    >>> page = io.StringIO()
    >>> Line("fit", page, every=0)(Moment(5, 10, 0, 0.25, 61.0))
    >>> page.getvalue()
    'fit: step 5 of 10, loss 0.25, 1:01 left\n'
    """

    label: str = "train"
    stream: TextIO | None = None
    every: float = 30.0
    _last: float = field(default=-1e9, init=False, repr=False)

    def __call__(self, moment: Moment) -> None:
        """Show where the run is."""
        stream = sys.stderr if self.stream is None else self.stream
        terminal, now = stream.isatty(), time.monotonic()
        done = moment.step >= moment.steps
        if not done and now - self._last < (0.2 if terminal else self.every):
            return
        self._last = now
        left = "" if moment.remaining != moment.remaining else f", {_clock(moment.remaining)} left"
        text = f"{self.label}: step {moment.step} of {moment.steps}, loss {moment.loss:.4g}{left}"
        stream.write(f"\r\x1b[K{text}" + ("\n" if done else "") if terminal else f"{text}\n")
        stream.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


class Log:
    """Metrics as JSON lines; what a killed run wrote after its last checkpoint is taken back when it goes on.

    Args:
        path: The file; nothing is written if `None`.

    Raises:
        InputError: If it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else Path(path)

    def start(self, step: int) -> None:
        """Keep the lines up to a step, drop those after it."""
        if self.path is None:
            return
        kept = [] if step == 0 or not self.path.exists() else [line for line in self._lines() if _step(line) <= step]
        try:
            with placed(self.path) as draft:
                draft.write_text("".join(f"{line}\n" for line in kept), "utf-8")
        except OSError as error:
            raise InputError(f"`log` must be a file that can be written, got {str(self.path)!r}: {error.strerror}") from None

    def add(self, **values: Any) -> None:
        """Append one line."""
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")

    def _lines(self) -> list[str]:
        assert self.path is not None
        return self.path.read_text("utf-8").splitlines()


def _step(line: str) -> float:
    """The step of a line; infinity for one that a kill cut off."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return float("inf")
