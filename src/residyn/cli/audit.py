"""`residyn audit`: the residual blocks of any model, and what is wrong with them."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from residyn import provenance, report
from residyn.cli import batch
from residyn.cli.options import Debug, Json, Output, Seed, among, command
from residyn.cli.output import Stopped, deliver, leave
from residyn.cli.progress import share
from residyn.errors import InputError, ResidynError, check_choice, require
from residyn.results import Result, Section


@dataclass(frozen=True)
class Wish:
    """What one audit of a batch is to do; plain, so that it can go to another process."""

    model: str
    weights: str | None
    shapes: tuple[str, ...]
    labels: str | None
    budget: float | None
    size: int
    normalise: str
    length: int
    seed: int


def audit(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="package.module:factory, FILE.pt2, or hf:DIRECTORY.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[INPUT]…", help="npz, npy, safetensors, picture or text; several are audited one by one."),
    ] = None,
    output: Output = None,
    weights: Annotated[str | None, typer.Option("--weights", metavar="FILE", help="Weights, as safetensors.")] = None,
    shape: Annotated[
        list[str] | None, typer.Option("--shape", metavar="2,3,224,224", help="Make up an input; 2,64:1000 for whole numbers.")
    ] = None,
    labels: Annotated[str | None, typer.Option("--labels", metavar="FILE", help="Labels of the batch.")] = None,
    budget: Annotated[float | None, typer.Option("--budget", metavar="SECONDS", help="0 finds the blocks only.")] = None,
    size: Annotated[int, typer.Option("--size", metavar="PIXELS", help="Side that pictures are cut to.")] = 224,
    normalise: Annotated[
        str,
        typer.Option(
            "--normalise", autocompletion=among("imagenet", "half", "none"), help="Of pictures: imagenet, half or none."
        ),
    ] = "imagenet",
    length: Annotated[int, typer.Option("--length", metavar="N", help="Most tokens of a text.")] = 128,
    jobs: Annotated[int, typer.Option("--jobs", metavar="N", help="Inputs at once; -1 for one a core.")] = 1,
    backend: batch.Backend = "loky",
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the residual blocks of a model, measure them, and say what is wrong."""
    _check(output, jobs, backend, budget)
    if inputs and shape:
        raise InputError("`--shape` must come without INPUT, got both; it makes an input up")
    began, started = time.perf_counter(), provenance.now()
    wish = Wish(model, weights, tuple(shape or ()), labels, budget, size, normalise, length, seed)
    files: list[str | None] = list(dict.fromkeys(inputs)) if inputs else [None]
    try:
        parts = [_one(wish, files[0])] if len(files) == 1 else _batch(wish, files, jobs, backend)
    except KeyboardInterrupt:
        raise Stopped("interrupted; nothing was written") from None
    title = parts[0][0] if len(parts) == 1 else f"Audit of {model} on {len(parts)} inputs"
    sections = [section for _, some in parts for section in some]
    seconds = time.perf_counter() - began
    versions = provenance.versions(*(["transformers"] if model.startswith("hf:") else []))
    result = Result("audit", title, sections, _command(wish, inputs or []), seed, versions, started, seconds)
    deliver(result, output, as_json=as_json, write=_write)
    leave(result)


def _check(output: str | None, jobs: int, backend: str, budget: float | None) -> None:
    check_choice("--backend", backend, batch.BACKENDS, "loky uses this machine's cores")
    if jobs == 0 or jobs < -1:
        raise InputError(f"`--jobs` must be at least 1, or -1 for one a core, got {jobs}")
    if budget is not None and not budget >= 0:
        raise InputError(f"`--budget` must be seconds >= 0, got {budget:g}; 0 finds the blocks only")
    if output is not None:
        report.check(output)


Part = tuple[str, list[Section]]


def _one(wish: Wish, file: str | None, prefix: str = "", *, quiet: bool = False) -> Part:
    """Load, run, and make sections."""
    from residyn.audit import inputs as reading
    from residyn.audit import loading, page
    from residyn.audit.auditing import audit as run

    check_choice("--normalise", wish.normalise, reading.STATISTICS)
    model = loading.load(wish.model, wish.weights)
    home = wish.model[3:] if wish.model.startswith("hf:") else ""
    if file is None:
        given = reading.made(list(wish.shapes), model, wish.seed)
    else:
        given = reading.read(file, model, home=home, size=wish.size, normalise=wish.normalise, length=wish.length)
    truth = given.labels if wish.labels is None else reading.labels(wish.labels)
    with share("audit", quiet=quiet) as progress:
        found = run(model, *given.args, targets=truth, budget=wish.budget, seed=wish.seed, progress=progress, **given.kwargs)
    title = page.result(found).title
    return title, page.sections(found, data=given.where, prefix=prefix)


def _batch(wish: Wish, files: list[str | None], jobs: int, backend: str) -> list[Part]:
    """Every input, in order; those that fail say why in a section of their own, and the others go on."""
    names = [str(file) for file in files]
    if jobs == 1:
        found: Iterable[Part] = (_safely(wish, name) for name in names)
    else:
        joblib = require("joblib", "cluster")
        if backend == "ray":
            require("ray.util.joblib", "cluster").register_ray()
        found = joblib.Parallel(n_jobs=jobs, backend=backend)(joblib.delayed(_safely)(wish, name) for name in names)
    return list(found)


def _safely(wish: Wish, file: str) -> Part:
    try:
        title, sections = _one(wish, file, f"{Path(file).name}: ", quiet=True)
    except ResidynError as error:
        return file, [Section(file, f"Audit on {Path(file).name}", error=str(error))]
    return title, [replace(s, title=f"{Path(file).name}: {s.title}") for s in sections]


def _command(wish: Wish, files: list[str]) -> str:
    fresh = Wish("", None, (), None, None, 224, "imagenet", 128, -1)
    options: dict[str, object] = {"shape": wish.shapes}
    for name in ("weights", "labels", "budget", "size", "normalise", "length", "seed"):
        value = getattr(wish, name)
        options[name] = None if value == getattr(fresh, name) else value
    return command("audit", [wish.model, *files], options)


def _write(result: Result, output: str) -> None:
    if Path(output).suffix.lower() == ".csv":
        report.put(output, _csv(result))
    else:
        report.write(result, output)


def _csv(result: Result) -> str:
    """The blocks of all inputs, a line each; the columns that any of them has."""
    tables = [(s.id.rpartition(": ")[0], t) for s in result.sections for t in s.tables]
    columns = list(dict.fromkeys(column for _, t in tables for column in t.columns))
    page = io.StringIO()
    out = csv.DictWriter(page, ["input", *columns], lineterminator="\n", restval="")
    out.writeheader()
    for name, t in tables:
        for row in t.rows:
            cells = {c: int(v) if c == "depth" and isinstance(v, float) else v for c, v in zip(t.columns, row, strict=True)}
            out.writerow({"input": name} | cells)
    return page.getvalue()
