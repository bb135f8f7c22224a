"""Runs the entries of the atlas: each with its own seed, each failure kept to its own section."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import logging
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from residyn import provenance
from residyn.atlas import catalog
from residyn.atlas.catalog import Entry
from residyn.atlas.context import Context
from residyn.atlas.store import Store
from residyn.errors import InputError, ResidynError
from residyn.results import Result, Section

Progress = Callable[[str, float, str], None]

_PACKAGES = ("matplotlib", "mlxtend", "scikit-image", "scikit-learn", "statsmodels")
_log = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run; `result` holds the entries that were finished.

    Args:
        result: The incomplete result.
    """

    def __init__(self, result: Result) -> None:
        super().__init__("interrupted")
        self.result = result


def run(
    ids: Iterable[str] | None = None,
    *,
    fast: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    keep: Store | None = None,
) -> Result:
    """Run entries of the atlas and gather what they found.

    Every entry starts from generators seeded by (`seed`, its id), so its figures do not depend on which others ran;
    the caller's generators are left as they were. An entry that raises gives a section with `error` set.

    Args:
        ids: Which entries, in this order; all of them if `None`.
        fast: Whether to take the smaller version of each.
        seed: Seed of all that is random.
        progress: Called as `progress(id, fraction, text)` while an entry runs.
        keep: Where finished sections are kept as they come; those it already holds are not run again.

    Returns:
        A result of kind `"atlas"` with one section an entry.

    Raises:
        InputError: If an id is unknown.
        Interrupted: On Ctrl-C; its `result` holds the finished sections.
        ResidynError: If `keep` cannot be written.

    >>> run([]).kind
    'atlas'
    """
    entries = select(ids)
    began = time.perf_counter()
    result = Result(
        "atlas",
        "The Residyn atlas",
        [],
        command=command(None if ids is None else [entry.id for entry in entries], fast=fast, seed=seed),
        seed=seed,
        versions=provenance.versions(*_PACKAGES),
        started=provenance.now(),
    )
    known = dict(keep.sections) if keep else {}
    for entry in entries:
        try:
            section = known.get(entry.id) or _run_entry(entry, fast=fast, seed=seed, progress=progress)
        except KeyboardInterrupt:
            note = f"Interrupted after {len(result.sections)} of {len(entries)} systems."
            seconds = time.perf_counter() - began
            raise Interrupted(replace(result, seconds=seconds, complete=False, note=note)) from None
        if keep and entry.id not in known:
            keep.add(section)
        result.sections.append(section)
        if progress:
            progress(entry.id, 1.0, "done")
    return replace(result, seconds=time.perf_counter() - began)


def select(ids: Iterable[str] | None) -> list[Entry]:
    """The entries of some ids, each once, in the order given.

    Args:
        ids: The ids; all entries if `None`.

    Returns:
        The entries.

    Raises:
        InputError: If an id is unknown; the text gives the nearest known one.

    >>> [entry.id for entry in select(["ode", "depth", "ode"])]
    ['ode', 'depth']
    """
    by_id = {entry.id: entry for entry in catalog.ENTRIES}
    if ids is None:
        return list(by_id.values())
    chosen = list(dict.fromkeys([ids] if isinstance(ids, str) else ids))
    for name in chosen:
        if name not in by_id:
            near = difflib.get_close_matches(name.lower(), by_id, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(by_id)}"
            raise InputError(f"`ID` must be an entry of the atlas, got {name!r}; {hint}")
    return [by_id[name] for name in chosen]


def command(ids: Iterable[str] | None, *, fast: bool, seed: int) -> str:
    """The command line that makes such a result.

    Args:
        ids: The entries; all if `None`.
        fast: As for `run`.
        seed: As for `run`.

    Returns:
        The command, without an output file.

    >>> command(["ode"], fast=True, seed=3)
    'residyn atlas ode --fast --seed 3'
    """
    return " ".join(["residyn atlas", *(ids or []), *(["--fast"] if fast else []), f"--seed {seed}"])


def conditions(*, fast: bool, seed: int) -> dict[str, object]:
    """What must be equal for finished sections of an earlier run to be taken again.

    Args:
        fast: As for `run`.
        seed: As for `run`.

    Returns:
        Plain values, to be compared one by one.
    """
    return {"seed": seed, "fast": fast, "versions": provenance.versions(*_PACKAGES)}


def _run_entry(entry: Entry, *, fast: bool, seed: int, progress: Progress | None) -> Section:
    """Run one entry; its failure becomes a section that says so."""

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
