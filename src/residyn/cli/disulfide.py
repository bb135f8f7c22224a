"""`residyn disulfide`: the bonds of a protein, and those that could be made."""

from __future__ import annotations

import csv
import io
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from residyn import provenance, report
from residyn.cli import batch
from residyn.cli.options import Debug, Json, command
from residyn.cli.output import deliver, leave
from residyn.cli.progress import one_thread
from residyn.errors import InputError
from residyn.results import Result, Section

if TYPE_CHECKING:
    from residyn.protein.assessment import Wish

ENDINGS = (".html", ".json", ".csv", ".pml", ".txt")
_PAGE_ROWS, _BATCH_ROWS, _DRAWN = 200, 10, 24


def disulfide(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="PDB or mmCIF files, gzipped or not.")],
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="FILE", help="Its ending says the form: .html .json .csv .pml .txt"),
    ] = None,
    flexible: Annotated[bool, typer.Option("--flexible/--rigid", help="Whether the backbone may move.")] = True,
    pick: Annotated[int | None, typer.Option("--pick", metavar="K", help="Choose K bonds that go together.")] = None,
    chain: Annotated[str | None, typer.Option("--chain", metavar="A,B", help="Only these chains.")] = None,
    exclude: Annotated[str, typer.Option("--exclude", metavar="A:35,A:10-20", help="Residues to leave alone.")] = "",
    assembly: Annotated[str | None, typer.Option("--assembly", metavar="N", help="Build this biological assembly.")] = None,
    jobs: batch.Jobs = 1,
    backend: batch.Backend = "loky",
    scheduler: batch.Scheduler = None,
    resume: batch.Resume = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find disulfide bonds, and rank the pairs of residues that could be bonded."""
    plan = batch.Plan(jobs, backend, scheduler, resume)
    batch.check(plan, output)
    _check(output)
    began, started = time.perf_counter(), provenance.now()
    from residyn.protein.assessment import Wish

    wish = Wish(flexible, pick, chain, assembly, exclude)
    sections = _one(files[0], wish) if len(files) == 1 else _batch(files, wish, plan, output)
    result = Result(
        "disulfide",
        sections[0].title if len(files) == 1 else f"Disulfides of {len(files)} files",
        sections,
        _command(files, wish),
        None,
        provenance.versions("gemmi"),
        started,
        time.perf_counter() - began,
    )
    brief = partial(_shortened, rows=12)
    deliver(result, output, as_json=as_json, write=_write, brief=brief, more=_reason(result))
    leave(result)


def _reason(result: Result) -> str:
    """Why the table is empty, where it is: a file of rows alone does not say."""
    empty = [part for part in result.sections if not part.error and not part.tables[-1].rows]
    if not empty:
        return ""
    if len(result.sections) > 1:
        return f"; without a row: {', '.join(Path(part.id).name for part in empty[:3])}{', …' if len(empty) > 3 else ''}"
    return f", without a row: {empty[0].summary.rpartition(chr(10))[2]}"


def _check(output: str | None) -> None:
    if output is None:
        return
    ending = Path(output).suffix.lower()
    if ending not in ENDINGS:
        raise InputError(f"`-o` must end in one of {' '.join(ENDINGS)}, got {output!r}; choose one of them")
    report.check(str(Path(output).with_suffix(".txt")) if ending == ".pml" else output)


def _one(file: str, wish: Wish) -> list[Section]:
    from residyn.protein.assessment import assess

    with one_thread():
        return [assess(file, wish)]


def _batch(files: list[str], wish: Wish, plan: batch.Plan, output: str | None) -> list[Section]:
    """Every file, in order; those that fail say why in their own section, and the others go on."""
    drawn = len(files) <= _DRAWN or Path(output or "").suffix.lower() == ".json"
    conditions = {"wish": asdict(wish), "versions": provenance.versions("gemmi"), "drawn": drawn}
    return batch.run(
        files, partial(_assessed, wish=wish, drawn=drawn), plan, output=output, conditions=conditions, title=_title
    )


def _assessed(file: str, wish: Wish, drawn: bool) -> Section:
    """A file's section, without figures where nobody will draw them."""
    from residyn.protein.assessment import assess

    part = assess(file, wish)
    return part if drawn else replace(part, figures=[])


def _title(file: str) -> str:
    return f"Disulfides of {Path(file).name}"


def _write(result: Result, output: str) -> None:
    ending = Path(output).suffix.lower()
    if ending == ".csv":
        report.put(output, _csv(result))
    elif ending == ".pml":
        from residyn.protein.pymol import script

        report.put(output, script(result.sections))
    elif ending == ".json":
        report.write(result, output)
    else:
        report.write(_shortened(result, _PAGE_ROWS if len(result.sections) == 1 else _BATCH_ROWS), output)


def _shortened(result: Result, rows: int) -> Result:
    """The best rows of each table, and figures for a few files only: a page is to be read."""
    from residyn.protein.assessment import readable

    sections = []
    for part in result.sections:
        tables = [readable(table, rows) for table in part.tables]
        sections.append(replace(part, tables=tables, figures=part.figures if len(result.sections) <= _DRAWN else []))
    return replace(result, sections=sections)


def _csv(result: Result) -> str:
    """All rows of all files."""
    from residyn.protein.assessment import CANDIDATES, COLUMNS

    page = io.StringIO()
    out = csv.writer(page, lineterminator="\n")
    out.writerow(["file", *(name for name, _ in COLUMNS)])
    for part in result.sections:
        for table in part.tables:
            if table.title == CANDIDATES:
                out.writerows([part.id, *(_cell(cell) for cell in row)] for row in table.rows)
    return page.getvalue()


def _cell(cell: float | str | None) -> str:
    if cell is None:
        return "n/a"
    if isinstance(cell, str):
        return cell
    return str(int(cell)) if cell == int(cell) else f"{cell:.4f}"


def _command(files: list[str], wish: Wish) -> str:
    named = {name: getattr(wish, name) or None for name in ("pick", "chain", "exclude", "assembly")}
    return command("disulfide", files, {"rigid": not wish.flexible} | named)
