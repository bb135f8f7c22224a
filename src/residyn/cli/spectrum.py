"""`residyn spectrum`: the absorption spectrum of a molecule in real time."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from residyn import provenance, report
from residyn.cli import batch
from residyn.cli.options import Debug, Json, among, command
from residyn.cli.output import Stopped, deliver, leave
from residyn.cli.progress import share
from residyn.errors import InputError, check_choice
from residyn.results import Result, Section

if TYPE_CHECKING:
    from residyn.quantum.assessment import Wish


def spectrum(
    files: Annotated[list[str], typer.Argument(metavar="MOL.xyz…", help="Atoms and coordinates in Å.")],
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="Its ending says the form: .html .json .csv .txt")
    ] = None,
    basis: Annotated[str, typer.Option("--basis", help="Basis set, as PySCF names it.")] = "6-31g",
    xc: Annotated[str, typer.Option("--xc", help="Functional, as libxc names it; hf for Hartree–Fock.")] = "pbe0",
    charge: Annotated[int, typer.Option("--charge", help="Charge.")] = 0,
    spin: Annotated[int, typer.Option("--spin", help="Unpaired electrons.")] = 0,
    dt: Annotated[float, typer.Option("--dt", help="Time step, atomic units.")] = 0.1,
    duration: Annotated[float, typer.Option("--duration", help="Length of each run, atomic units.")] = 600.0,
    fock: Annotated[
        str, typer.Option("--fock", autocompletion=among("linear", "full"), help="linear (exact for weak kicks) or full.")
    ] = "linear",
    max_ev: Annotated[float, typer.Option("--max-ev", help="Up to which energy, eV.")] = 25.0,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", metavar="FOLDER", help="Keep the runs here, and go on from them.")
    ] = None,
    jobs: batch.Jobs = 1,
    backend: batch.Backend = "loky",
    scheduler: batch.Scheduler = None,
    resume: batch.Resume = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output if it is there.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Kick a molecule along x, y and z, follow its dipole, and mark the lines beside linear response."""
    plan = batch.Plan(jobs, backend, scheduler, resume)
    _check(output, fock, checkpoint, force=force)
    began, started = time.perf_counter(), provenance.now()
    from residyn.quantum.assessment import Wish

    wish = Wish(basis, xc, charge, spin, dt, duration, fock=fock, max_ev=max_ev)
    todo = list(dict.fromkeys(files))
    try:
        sections = _sections(todo, wish, checkpoint, output, plan)
    except KeyboardInterrupt:
        if checkpoint is None:
            raise
        raise Stopped(f"interrupted; the runs are kept in {checkpoint}; the same command goes on from there") from None
    title = sections[0].title if len(sections) == 1 else f"Absorption of {len(sections)} molecules"
    seconds = time.perf_counter() - began
    result = Result("spectrum", title, sections, _command(todo, wish), None, provenance.versions("pyscf"), started, seconds)
    deliver(result, output, as_json=as_json, write=_write)
    leave(result)


def _check(output: str | None, fock: str, checkpoint: str | None, *, force: bool) -> None:
    check_choice("--fock", fock, ("linear", "full"), "linear is exact for weak kicks")
    if checkpoint is not None and not Path(checkpoint).is_dir():
        raise InputError(
            f"`--checkpoint` must be a folder that exists, got {checkpoint!r}; make it first: mkdir '{checkpoint}'"
        )
    if output is not None:
        report.check(output)
        if Path(output).exists() and not force:
            raise InputError(f"`-o` must be a new file, got {output!r}, which is there; add --force to overwrite it")


def _one(file: str, wish: Wish, checkpoint: str | None, progress: Callable[[float, str], None] | None = None) -> Section:
    from residyn.quantum.assessment import assess

    if not Path(file).is_file():
        raise InputError(f"`MOL.xyz` must be a file that exists, got {file!r}")
    return assess(file, wish, folder=checkpoint, progress=progress)


def _sections(files: list[str], wish: Wish, checkpoint: str | None, output: str | None, plan: batch.Plan) -> list[Section]:
    """Every molecule, in order; in a batch those that fail say why in their own section, and the others go on."""
    if len(files) == 1:
        with share("spectrum", lines=True) as progress:
            return [_one(files[0], wish, checkpoint, progress)]
    stems = [Path(file).stem for file in files]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if checkpoint is not None and twice is not None:
        raise InputError(f"`--checkpoint` must keep files of different names apart, got two named {twice!r}; rename one")
    conditions = {"wish": asdict(wish), "versions": provenance.versions("pyscf")}
    work = partial(_one, wish=wish, checkpoint=checkpoint)
    return batch.run(files, work, plan, output=output, conditions=conditions, title=_title)


def _title(file: str) -> str:
    return f"Absorption of {Path(file).name}"


def _write(result: Result, output: str) -> None:
    if Path(output).suffix.lower() != ".csv":
        report.write(result, output)
        return
    page = io.StringIO()
    out = csv.writer(page, lineterminator="\n")
    out.writerow(["file", "energy_ev", "strength", "width_ev", "response_ev", "response_strength"])
    for part in result.sections:
        for table in part.tables:
            out.writerows([part.id, *("" if cell is None else cell for cell in row)] for row in table.rows)
    report.put(output, page.getvalue())


def _command(files: list[str], wish: Wish) -> str:
    names = ("basis", "xc", "charge", "spin", "dt", "duration", "fock")
    return command("spectrum", files, {name: getattr(wish, name) for name in names} | {"max-ev": wish.max_ev})
