"""`residyn graph`: what depth does to features on a graph, how large a step may be, and what to do about it."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from residyn import provenance, report
from residyn.cli import batch
from residyn.cli.options import Debug, Json, Output, Seed, command
from residyn.cli.output import deliver, leave
from residyn.cli.progress import one_thread, share
from residyn.errors import InputError
from residyn.results import Result


def graph(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Edge list, .graphml, .mtx or .npz.")],
    output: Output = None,
    labels: Annotated[
        str | None, typer.Option("--labels", metavar="FILE", help="A node and its class a line; or a GraphML attribute.")
    ] = None,
    features: Annotated[
        str | None, typer.Option("--features", metavar="FILE", help="A node and its numbers a line; or an .npy array.")
    ] = None,
    nodes: Annotated[int | None, typer.Option("--nodes", metavar="N", help="Number of nodes, isolated ones too.")] = None,
    depth: Annotated[int, typer.Option("--depth", metavar="K", help="Steps of diffusion to look at.")] = 64,
    eta: Annotated[float, typer.Option("--eta", metavar="η", help="Size of a residual step.")] = 0.5,
    anchor: Annotated[float, typer.Option("--anchor", metavar="α", help="Pull back to the start, in (0, 1).")] = 0.1,
    implicit: Annotated[float, typer.Option("--implicit", metavar="h", help="Size of an implicit step.")] = 1.0,
    layers: Annotated[int, typer.Option("--layers", metavar="L", help="Layers of the trained network; 0: none.")] = 16,
    epochs: Annotated[int, typer.Option("--epochs", metavar="N", help="Training steps at most.")] = 200,
    jobs: batch.Jobs = 1,
    backend: batch.Backend = "loky",
    scheduler: batch.Scheduler = None,
    resume: batch.Resume = False,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Energy by depth of plain, residual, anchored and implicit steps; the largest stable step; advice; node classes."""
    _check(output, depth, eta, anchor, implicit, layers, epochs)
    plan = batch.Plan(jobs, backend, scheduler, resume)
    began, started = time.perf_counter(), provenance.now()
    from residyn.graph.assessment import Wish, assess_file
    from residyn.graph.depth import Law

    wish = Wish(depth, Law(eta, anchor, implicit), layers, epochs, seed)
    work = partial(assess_file, wish=wish, nodes=nodes, labels=labels, features=features)
    options = {"labels": labels, "features": features, "nodes": nodes, "depth": depth, "eta": eta, "anchor": anchor}
    options |= {"implicit": implicit, "layers": layers, "epochs": epochs, "seed": seed}
    if len(files) == 1 and plan.here and not resume:
        with one_thread(), share("graph") as progress:  # a file that cannot be read is an error of the command
            sections = [replace(work(files[0], progress=progress), id="graph")]
    else:
        conditions = {**options, "versions": provenance.versions()}
        sections = batch.run(files, work, plan, output=output, conditions=conditions, title=_title)
    seconds = time.perf_counter() - began
    title = sections[0].title if len(sections) == 1 else f"Depth on {len(sections)} graphs"
    result = Result("graph", title, sections, command("graph", files, options), seed, provenance.versions(), started, seconds)
    deliver(result, output, as_json=as_json)
    if any(section.error for section in sections):
        raise typer.Exit(1)
    leave(result)


def _title(file: str) -> str:
    return f"Depth on the graph {Path(file).name}"


def _check(output: str | None, depth: int, eta: float, anchor: float, implicit: float, layers: int, epochs: int) -> None:
    if output is not None:
        report.check(output)
    for name, value, least in (("depth", depth, 1), ("layers", layers, 0), ("epochs", epochs, 1)):
        if value < least:
            raise InputError(f"`--{name}` must be at least {least}, got {value}")
    if not 0 < anchor < 1:
        raise InputError(f"`--anchor` must lie in (0, 1), got {anchor:g}; 0.1 is usual")
    for name, size in (("eta", eta), ("implicit", implicit)):
        if not 0 < size < float("inf"):
            raise InputError(f"`--{name}` must be > 0, got {size:g}")
