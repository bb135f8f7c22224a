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
    time_column: Annotated[
        str | None, typer.Option("--time", metavar="NAME", help="Column of the time; else the one named t or time.")
    ] = None,
    state: Annotated[
        str | None, typer.Option("--state", metavar="A,B", help="Columns that are the state; else all that are nothing else.")
    ] = None,
    trajectory: Annotated[
        str | None, typer.Option("--trajectory", metavar="NAME", help="Column that tells trajectories apart; else run, id, ….")
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
    inputs, states = _names(control), _names(state)
    began, started = time.perf_counter(), provenance.now()
    from residyn.dynamics import read_csv
    from residyn.dynamics.assessment import assess

    with one_thread(), share("fit") as progress:
        data = read_csv(file, time=time_column, state=states, control=inputs, trajectory=trajectory)
        model, section = assess(data, name=file, target=target, seed=seed, progress=progress)
    if model_out is not None:
        model.save(model_out)
        say(f"model written to {model_out}")
    seconds = time.perf_counter() - began
    named = {"time": time_column, "state": state, "trajectory": trajectory}
    line = command("dynamics fit", [file], {"target": target, "seed": seed, "control": control} | named)
    section = replace(section, seconds=seconds)
    result = Result("dynamics", section.title, [section], line, seed, provenance.versions("safetensors"), started, seconds)
    deliver(result, output, as_json=as_json)
    leave(result)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


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
