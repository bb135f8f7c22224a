"""`residyn audit`: the residual blocks of any model, and what is wrong with them."""

from __future__ import annotations

import csv
import io
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from residyn import provenance, report
from residyn.cli import batch
from residyn.cli.options import Debug, Json, Output, Seed, among, command
from residyn.cli.output import Stopped, deliver, leave
from residyn.cli.progress import share
from residyn.errors import InputError, check_choice
from residyn.results import Result, Section

if TYPE_CHECKING:
    from torch import nn

    from residyn.audit.auditing import Audit
    from residyn.cli.progress import Share


_NORMALISE = ("imagenet", "half", "none")


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
        typer.Option("--normalise", autocompletion=among(*_NORMALISE), help="Of pictures: imagenet, half or none."),
    ] = "imagenet",
    length: Annotated[int, typer.Option("--length", metavar="N", help="Most tokens of a text.")] = 128,
    jobs: batch.Jobs = 1,
    backend: batch.Backend = "loky",
    scheduler: batch.Scheduler = None,
    resume: batch.Resume = False,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the residual blocks of a model, measure them, and say what is wrong."""
    plan = batch.Plan(jobs, backend, scheduler, resume)
    batch.check(plan, output)
    _check(output, budget, normalise, size=size, length=length)
    if inputs and shape:
        raise InputError("`--shape` must come without INPUT, got both; it makes an input up")
    began, started = time.perf_counter(), provenance.now()
    wish = Wish(model, weights, tuple(shape or ()), labels, budget, size, normalise, length, seed)
    files = list(dict.fromkeys(inputs or []))
    versions = provenance.versions(*(["transformers"] if model.startswith("hf:") else []))
    try:
        if len(files) > 1:
            _ready(wish)
            title = f"Audit of {model} on {len(files)} inputs"
            conditions = {"wish": asdict(wish), "model": _stamps(model), "versions": versions}
            conditions |= {"weights": batch.stamp(weights), "labels": batch.stamp(labels)}
            work = partial(_section, wish=wish)
            sections = batch.run(files, work, plan, output=output, conditions=conditions, title=_title)
        else:
            title, sections = _alone(wish, files[0] if files else None)
    except KeyboardInterrupt:
        raise Stopped("interrupted; nothing was written") from None
    result = Result("audit", title, sections, _command(wish, files), seed, versions, started, time.perf_counter() - began)
    deliver(result, output, as_json=as_json, write=partial(_write, many=len(files) > 1))
    leave(result)


def _check(output: str | None, budget: float | None, normalise: str, *, size: int, length: int) -> None:
    for name, value in (("--size", size), ("--length", length)):
        if value < 1:
            raise InputError(f"`{name}` must be >= 1, got {value}; it counts {'pixels' if name == '--size' else 'tokens'}")
    if budget is not None and not budget >= 0:
        raise InputError(f"`--budget` must be seconds >= 0, got {budget:g}; 0 finds the blocks only")
    if output is not None:
        report.check(output)
    check_choice("--normalise", normalise, _NORMALISE)


def _loaded(wish: Wish) -> nn.Module:
    """The model; a factory that draws its weights draws the same for every input."""
    import torch

    from residyn.audit import loading

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(wish.seed)
        return loading.load(wish.model, wish.weights)


def _ready(wish: Wish) -> None:
    """Refuse a batch whose model or labels cannot be read: what all inputs need is an error of the command."""
    from residyn.audit import inputs as reading

    _loaded(wish)
    if wish.labels is not None:
        reading.labels(wish.labels)


def _found(wish: Wish, file: str | None, progress: Share | None = None) -> tuple[Audit, str]:
    """Load and run; the audit, and what it was run on."""
    from residyn.audit import inputs as reading
    from residyn.audit.auditing import audit as run

    model = _loaded(wish)
    home = wish.model[3:] if wish.model.startswith("hf:") else ""
    if file is None:
        given = reading.made(list(wish.shapes), model, wish.seed)
    else:
        given = reading.read(file, model, home=home, size=wish.size, normalise=wish.normalise, length=wish.length)
    truth = given.labels if wish.labels is None else reading.labels(wish.labels)
    found = run(model, *given.args, targets=truth, budget=wish.budget, seed=wish.seed, progress=progress, **given.kwargs)
    return found, given.where


def _alone(wish: Wish, file: str | None) -> tuple[str, list[Section]]:
    """Title and sections of the audit of one input."""
    from residyn.audit import page

    with share("audit") as progress:
        found, where = _found(wish, file, progress)
    return page.title(found), page.sections(found, data=where)


def _section(file: str, wish: Wish) -> Section:
    """The audit of one input of many."""
    from residyn.audit import page

    found, where = _found(wish, file)
    return page.section(found, file, name=Path(file).name, data=where)


def _title(file: str) -> str:
    return f"Audit on {Path(file).name}"


def _stamps(model: str) -> list[str]:
    """Tells whether the files have changed that a model comes from; a module's code as far as its own file."""
    if model.startswith("hf:"):
        return [batch.stamp(str(part)) for part in sorted(Path(model[3:]).glob("*"))]
    module = model.partition(":")[0]
    return [batch.stamp(model), batch.stamp(f"{module.replace('.', '/')}.py")]


def _command(wish: Wish, files: list[str]) -> str:
    fresh = Wish("", None, (), None, None, 224, "imagenet", 128, -1)
    options: dict[str, object] = {"shape": wish.shapes}
    for name in ("weights", "labels", "budget", "size", "normalise", "length", "seed"):
        value = getattr(wish, name)
        options[name] = None if value == getattr(fresh, name) else value
    return command("audit", [wish.model, *files], options)


def _write(result: Result, output: str, *, many: bool) -> None:
    if Path(output).suffix.lower() == ".csv":
        report.put(output, _csv(result, many=many))
    else:
        report.write(result, output)


def _csv(result: Result, *, many: bool) -> str:
    """The blocks of all inputs, a line each; the columns that any of them has."""
    tables = [(s.id if many else "", t) for s in result.sections for t in s.tables]
    columns = list(dict.fromkeys(column for _, t in tables for column in t.columns))
    page = io.StringIO()
    out = csv.DictWriter(page, ["input", *columns], lineterminator="\n", restval="")
    out.writeheader()
    for name, t in tables:
        for row in t.rows:
            cells = {c: int(v) if c == "depth" and isinstance(v, float) else v for c, v in zip(t.columns, row, strict=True)}
            out.writerow({"input": name} | cells)
    return page.getvalue()
