"""`residyn atlas`: run systems on real data and write the page."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Annotated

import typer

from residyn import report
from residyn.atlas import Interrupted, Store, runner
from residyn.cli.options import Debug, Json, Output, Seed, entries
from residyn.cli.output import Stopped, deliver, leave, say
from residyn.cli.progress import bar
from residyn.errors import InputError
from residyn.report.language import language


def atlas(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", autocompletion=entries, help="Which systems; all if none.")
    ] = None,
    output: Output = None,
    fast: Annotated[bool, typer.Option("--fast", help="Less data, fewer repetitions: a first look.")] = False,
    seed: Seed = 0,
    jobs: Annotated[int, typer.Option("--jobs", metavar="N", help="Systems at once; -1 for what cores and memory allow.")] = -1,
    lang: Annotated[str, typer.Option("--lang", help="Language of page and text: en or zh.")] = "en",
    as_json: Json = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run of the same -o.")] = False,
    debug: Debug = False,
) -> None:
    """Run systems of the atlas on real data, with theory beside measurement."""
    chosen = ids or None
    tr = language(lang)
    entries = [entry.id for entry in runner.select(chosen)]
    if output is not None:
        report.check(output)
    if jobs < -1 or jobs == 0:
        raise InputError(f"`--jobs` must be at least 1, or -1 for what cores and memory allow, got {jobs}")
    store = _store(output, fast=fast, seed=seed, resume=resume)
    in_ = "" if lang == "en" else f" --lang {lang}"
    with bar(entries) as progress:
        try:
            result = runner.run(chosen, fast=fast, seed=seed, jobs=jobs, progress=progress, keep=store)
        except Interrupted as stop:
            result = replace(stop.result, note=f"{stop.result.note} {_go_on(stop.result.command + in_, output)}")
    result = replace(result, command=result.command + in_)
    deliver(result, output, as_json=as_json, tr=tr)
    if not result.complete:
        raise Stopped(result.note)
    if store:
        store.remove()
    leave(result)


def _store(output: str | None, *, fast: bool, seed: int, resume: bool) -> Store | None:
    """Where finished sections are kept: a file beside the output; nowhere without one."""
    if output is None:
        if resume:
            raise InputError("`--resume` needs `-o FILE`, got none; give the file of the run to go on with")
        return None
    store = Store(f"{output}.partial.jsonl", runner.conditions(fast=fast, seed=seed))
    if resume:
        reason = store.resume()
        kept = ", ".join(store.sections) or "nothing"
        say(f"starting anew: {reason}" if reason else f"taken from the interrupted run: {kept}")
        return store
    if store.path.exists():
        say(f"starting anew; what an interrupted run left in {store.path} would have been taken with `--resume`")
    store.start()
    return store


def _go_on(command: str, output: str | None) -> str:
    """How to go on after an interruption."""
    if output is None:
        return "With `-o FILE`, an interrupted run can be taken up again."
    return f"Go on with: {command} -o {shlex.quote(output)} --resume"
