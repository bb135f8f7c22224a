"""`residyn dynamics fit`: learn a system from a CSV file and forecast what was held out."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated

import typer

from residyn import provenance, report
from residyn.cli.options import Debug, Json, Output, Seed, among, command, examples
from residyn.cli.output import deliver, leave, say
from residyn.cli.progress import one_thread, share
from residyn.errors import InputError, check_choice
from residyn.results import Result

app = typer.Typer(help="Learn a system from its trajectories.", no_args_is_help=True)
_TARGETS = ("auto", "derivative", "flow")


def fit(
    file: Annotated[str, typer.Argument(metavar="FILE.csv", help="Columns: t, the state's, trajectory if several.")],
    output: Output = None,
    target: Annotated[
        str, typer.Option("--target", autocompletion=among(*_TARGETS), help="What to learn: auto, derivative or flow.")
    ] = "auto",
    control: Annotated[
        str | None, typer.Option("--control", metavar="A,B", help="Columns that are inputs; else those named u, u1, u_….")
    ] = None,
    model_out: Annotated[
        str | None, typer.Option("--model-out", metavar="FILE.safetensors", help="Save the model; a JSON file goes beside it.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fit the derivative or the flow map, whichever the data call for, and forecast held-out trajectories."""
    check_choice("--target", target, _TARGETS, "auto chooses by the data")
    if output is not None:
        report.check(output)
    if model_out is not None and not model_out.endswith(".safetensors"):
        raise InputError(f"`--model-out` must end in .safetensors, got {model_out!r}; a JSON file is written beside it")
    inputs = None if control is None else [name.strip() for name in control.split(",") if name.strip()]
    began, started = time.perf_counter(), provenance.now()
    from residyn.dynamics import read_csv
    from residyn.dynamics.assessment import assess

    with one_thread(), share("fit") as progress:
        model, section = assess(read_csv(file, control=inputs), name=file, target=target, seed=seed, progress=progress)
    if model_out is not None:
        model.save(model_out)
        say(f"model written to {model_out}")
    seconds = time.perf_counter() - began
    line = command("dynamics fit", [file], {"target": target, "seed": seed, "control": control})
    section = replace(section, seconds=seconds)
    result = Result("dynamics", section.title, [section], line, seed, provenance.versions("safetensors"), started, seconds)
    deliver(result, output, as_json=as_json)
    leave(result)


@app.callback()
def _group() -> None:
    """Keep `fit` a word of its own, though it is the only one."""


app.command(
    "fit",
    epilog=examples(
        "residyn dynamics fit pendulum.csv -o report.html",
        "residyn dynamics fit pendulum.csv --target flow --model-out model.safetensors --json",
    ),
)(fit)
