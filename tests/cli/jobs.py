"""Work for the batch tests; in a module of its own, so that worker processes can import it."""

import os
import signal
from pathlib import Path

from residyn.errors import InputError
from residyn.results import Finding, Section


def measure(file):
    """Size of a file; some names misbehave."""
    name = Path(file).name
    if name.startswith("bad"):
        raise InputError(f"`file` must be good, got {name!r}; choose another")
    if name.startswith("fault"):
        raise ZeroDivisionError("of ours")
    mark = Path(file).with_suffix(".mark")
    if name.startswith("kills") or (name.startswith("once") and not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("stop") and not mark.exists():
        mark.touch()
        raise KeyboardInterrupt
    return Section(file, name, findings=[Finding("size", "bytes", "info", float(Path(file).stat().st_size))])
