"""`residyn calibrate`: are a model's probabilities to be believed, and what one residual step on its logits mends."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from residyn import provenance, report
from residyn.cli import batch
from residyn.cli.options import Debug, Json, Output, Seed, among, command
from residyn.cli.output import deliver, leave
from residyn.errors import InputError, check_choice
from residyn.results import Result, Section

_KINDS = ("auto", "logits", "probabilities")


@dataclass(frozen=True)
class Wish:
    """How a file is judged; plain, so that it can go to another process."""

    test: str | None
    labels: str | None
    scores: str | None
    kind: str
    bins: int
    seed: int


def calibrate(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE…", help="npz with `logits` and `labels`, or CSV with a column a class.")
    ],
    output: Output = None,
    test: Annotated[
        str | None, typer.Option("--test", metavar="FILE", help="Judge on this file; else half of each FILE is held out.")
    ] = None,
    labels: Annotated[str | None, typer.Option("--labels", metavar="NAME", help="Array or column of class numbers.")] = None,
    scores: Annotated[str | None, typer.Option("--scores", metavar="NAME", help="Array of scores in an npz file.")] = None,
    kind: Annotated[
        str, typer.Option("--kind", autocompletion=among(*_KINDS), help="What the scores are: auto, logits or probabilities.")
    ] = "auto",
    bins: Annotated[int, typer.Option("--bins", metavar="N", help="Bins of the calibration error.")] = 15,
    jobs: batch.Jobs = 1,
    backend: batch.Backend = "loky",
    scheduler: batch.Scheduler = None,
    resume: batch.Resume = False,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fit λ of z⁺ = (1-λ)·z on one half of the samples and judge it on the other."""
    plan = batch.Plan(jobs, backend, scheduler, resume)
    batch.check(plan, output)
    check_choice("--kind", kind, _KINDS)
    if bins < 1:
        raise InputError(f"`--bins` must be a whole number >= 1, got {bins}; 15 is usual")
    if output is not None:
        report.check(output)
    began, started = time.perf_counter(), provenance.now()
    wish, names = Wish(test, labels, scores, kind, bins, seed), list(dict.fromkeys(files))
    if len(names) > 1:
        sections = _batch(names, wish, plan, output)
        title = f"Calibration of {len(names)} files"
    else:
        sections = [_section(names[0], wish)]
        title = sections[0].title
    line = command("calibrate", names, asdict(wish))
    seconds = time.perf_counter() - began
    result = Result("calibrate", title, sections, line, seed, provenance.versions(), started, seconds)
    deliver(result, output, as_json=as_json)
    leave(result)


def _section(file: str, wish: Wish) -> Section:
    """Judge a file."""
    began = time.perf_counter()
    from residyn.calibrate.assessment import assess
    from residyn.calibrate.reading import read

    given = read(file, scores=wish.scores, labels=wish.labels)
    other = None if wish.test is None else read(wish.test, scores=wish.scores, labels=wish.labels)
    _, section = assess(
        given,
        name=Path(file).name,
        test=other,
        bins=wish.bins,
        kind=wish.kind,  # type: ignore[arg-type]
        seed=wish.seed,
    )
    return replace(section, seconds=time.perf_counter() - began)


def _batch(files: list[str], wish: Wish, plan: batch.Plan, output: str | None) -> list[Section]:
    """Every file, in order; those that fail say why in their own section, and the others go on."""
    if wish.test is not None:
        from residyn.calibrate.reading import read

        read(wish.test, scores=wish.scores, labels=wish.labels)  # what all files need is an error of the command
    conditions = {"wish": asdict(wish), "test": batch.stamp(wish.test), "versions": provenance.versions()}
    return batch.run(files, partial(_named, wish=wish), plan, output=output, conditions=conditions, title=_title)


def _named(file: str, wish: Wish) -> Section:
    return replace(_section(file, wish), id=file)


def _title(file: str) -> str:
    return f"Calibration of {Path(file).name}"
