"""One entry of the atlas, run by itself: its own randomness, its own threads, its failure a section that says so."""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from residyn.atlas.catalog import Entry
from residyn.atlas.context import Context
from residyn.errors import ResidynError
from residyn.results import Section

Progress = Callable[[str, float, str], None]

_log = logging.getLogger(__name__)


def run_entry(entry: Entry, *, fast: bool, seed: int, progress: Progress | None) -> Section:
    """Run one entry.

    Args:
        entry: Which.
        fast: Whether to take the smaller version.
        seed: The user's seed; what the entry draws follows from it and the entry's id.
        progress: Called as `progress(id, fraction, text)`.

    Returns:
        Its section; one with `error` set if it raised.
    """

    def advance(fraction: float, text: str) -> None:
        if progress:
            progress(entry.id, min(max(float(fraction), 0.0), 1.0), text)

    began = time.perf_counter()
    advance(0.0, "loading")
    try:
        with _own_randomness(f"{seed}:{entry.id}"), _few_threads():
            section = importlib.import_module(entry.module).run(Context(fast, seed, advance))
        if not isinstance(section, Section):
            raise ResidynError(f"`{entry.module}.run` must return a Section, got {type(section).__name__}")
    except Exception as error:  # noqa: BLE001 - one broken entry must not take the others with it
        _log.debug("the atlas entry %r failed", entry.id, exc_info=True)
        cause = (str(error).strip().splitlines() or [""])[0]
        section = Section(entry.id, entry.title, error=f"{entry.id}: {type(error).__name__}: {cause}".rstrip(": "))
    return replace(section, id=entry.id, seconds=time.perf_counter() - began)


@contextmanager
def _own_randomness(name: str) -> Iterator[None]:
    """Seed every global generator from `name`, and give the caller's states back afterwards."""
    import numpy as np
    import torch

    value = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - third-party code draws from it
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(value)
        np.random.seed(value % 2**32)  # noqa: NPY002
        random.seed(value)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


@contextmanager
def _few_threads() -> Iterator[None]:
    """One thread unless OMP_NUM_THREADS asks for more.

    The entries' matrices are small: more threads are slower on a shared machine, and make sums depend on their number.
    """
    import torch

    before = torch.get_num_threads()
    asked = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(int(asked) if asked.isdecimal() and int(asked) > 0 else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
