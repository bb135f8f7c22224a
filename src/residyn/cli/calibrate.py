"""`residyn calibrate`: are a model's probabilities to be believed, and what one residual step on its logits mends."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from residyn import provenance, report
from residyn.cli.options import Debug, Json, Output, Seed, among, command
from residyn.cli.output import deliver, leave
from residyn.errors import check_choice
from residyn.results import Result

_KINDS = ("auto", "logits", "probabilities")


def calibrate(
    file: Annotated[str, typer.Argument(metavar="FILE", help="npz with `logits` and `labels`, or CSV with a column a class.")],
    output: Output = None,
    test: Annotated[
        str | None, typer.Option("--test", metavar="FILE", help="Judge on this file; else half of FILE is held out.")
    ] = None,
    labels: Annotated[str | None, typer.Option("--labels", metavar="NAME", help="Array or column of class numbers.")] = None,
    scores: Annotated[str | None, typer.Option("--scores", metavar="NAME", help="Array of scores in an npz file.")] = None,
    kind: Annotated[
        str, typer.Option("--kind", autocompletion=among(*_KINDS), help="What the scores are: auto, logits or probabilities.")
    ] = "auto",
    bins: Annotated[int, typer.Option("--bins", metavar="N", help="Bins of the calibration error.")] = 15,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fit λ of z⁺ = (1-λ)·z on one half of the samples and judge it on the other."""
    check_choice("--kind", kind, _KINDS)
    if output is not None:
        report.check(output)
    began, started = time.perf_counter(), provenance.now()
    from residyn.calibrate.assessment import assess
    from residyn.calibrate.reading import read

    given = read(file, scores=scores, labels=labels)
    other = None if test is None else read(test, scores=scores, labels=labels)
    _, section = assess(given, name=Path(file).name, test=other, bins=bins, kind=kind, seed=seed)  # type: ignore[arg-type]
    seconds = time.perf_counter() - began
    options = {"test": test, "labels": labels, "scores": scores, "kind": kind, "bins": bins, "seed": seed}
    line = command("calibrate", [file], options)
    section = replace(section, seconds=seconds)
    result = Result("calibrate", section.title, [section], line, seed, provenance.versions(), started, seconds)
    deliver(result, output, as_json=as_json)
    leave(result)
