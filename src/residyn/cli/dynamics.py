"""`residyn dynamics fit`: learn a system from a CSV file and forecast what was held out."""

from __future__ import annotations

import shlex
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from residyn import provenance, report
from residyn.cli.options import Debug, Json, Output, Seed, among, examples
from residyn.cli.output import emit, say, show
from residyn.errors import InputError, check_choice
from residyn.results import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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

    with _one_thread(), _bar() as progress:
        model, section = assess(read_csv(file, control=inputs), name=file, target=target, seed=seed, progress=progress)
    if model_out is not None:
        model.save(model_out)
        say(f"model written to {model_out}")
    seconds = time.perf_counter() - began
    command = f"residyn dynamics fit {shlex.quote(file)} --target {target} --seed {seed}"
    command += f" --control {shlex.quote(control)}" if control is not None else ""
    section = replace(section, seconds=seconds)
    result = Result("dynamics", section.title, [section], command, seed, provenance.versions("safetensors"), started, seconds)
    if output is not None:
        report.write(result, output)
        say(f"{report.headline(result)}; written to {output}")
    if as_json:
        emit(result.to_json())
    elif output is None:
        show(result)
    raise typer.Exit(1 if result.verdict == "fail" else 0)


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


@contextmanager
def _one_thread() -> Iterator[None]:
    """The matrices are small: more threads are slower, and make sums depend on their number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _bar() -> Iterator[Callable[[float, str], None] | None]:
    """A progress bar on standard error, where that is a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True, highlight=False), transient=True) as progress:
        task = progress.add_task("fit", total=1.0)
        yield lambda share, text: progress.update(task, completed=share, description=text)
