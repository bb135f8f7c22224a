"""Runs the entries of the atlas: each with its own seed, each failure kept to its own section."""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from residyn import provenance
from residyn.atlas import catalog
from residyn.atlas.catalog import Entry
from residyn.atlas.single import Progress, run_entry
from residyn.atlas.store import Store
from residyn.errors import InputError
from residyn.results import Result, Section

DONE = "done"
"""What `progress` is told of an entry that is finished."""

_PACKAGES = ("matplotlib", "mlxtend", "scikit-image", "scikit-learn", "statsmodels")


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
    jobs: int = 1,
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
        jobs: How many at once. More than one takes processes of their own, so that a script that asks for them needs
            `if __name__ == "__main__":`; -1 takes what cores and memory allow.
        progress: Called as `progress(id, fraction, text)` while an entry runs.
        keep: Where finished sections are kept as they come; those it already holds are not run again.

    Returns:
        A result of kind `"atlas"` with one section an entry, in the order asked for, whichever was finished first; behind an
        overview if all were asked for.

    Raises:
        InputError: If an id is unknown, or `jobs` is no number of processes.
        Interrupted: On Ctrl-C; its `result` holds the finished sections.
        ResidynError: If `keep` cannot be written.

    >>> run([]).kind
    'atlas'
    """
    if jobs < -1 or jobs == 0:
        raise InputError(f"`jobs` must be at least 1, or -1 for what cores and memory allow, got {jobs}")
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
    done = {entry.id: keep.sections[entry.id] for entry in entries if entry.id in keep.sections} if keep else {}
    overview = catalog.OVERVIEW if ids is None else None
    if overview and keep and overview.id in keep.sections:
        done[overview.id] = keep.sections[overview.id]
    todo = [entry for entry in (*([overview] if overview else []), *entries) if entry.id not in done]
    interrupted = False
    try:
        for section in _sections(todo, fast=fast, seed=seed, jobs=jobs, progress=progress):
            if keep:
                keep.add(section)
            done[section.id] = section
            if progress:
                progress(section.id, 1.0, DONE)
    except KeyboardInterrupt:
        interrupted = True
    sections = [done[entry.id] for entry in entries if entry.id in done]
    first = done.get(overview.id) if overview else None
    result = replace(result, sections=sections, overview=first, seconds=time.perf_counter() - began)
    if interrupted:
        note = f"Interrupted after {len(sections)} of {len(entries)} systems."
        raise Interrupted(replace(result, complete=False, note=note))
    return result


def _sections(entries: Sequence[Entry], *, fast: bool, seed: int, jobs: int, progress: Progress | None) -> Iterator[Section]:
    """Sections as they are finished; in this process if only one runs at a time."""
    from residyn.atlas import workers  # multiprocessing would slow every `--help`

    jobs = workers.fitting(len(entries)) if jobs == -1 else min(jobs, len(entries))
    if jobs <= 1:
        return (run_entry(entry, fast=fast, seed=seed, progress=progress) for entry in entries)
    return workers.run_entries(entries, fast=fast, seed=seed, jobs=jobs, progress=progress)


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
