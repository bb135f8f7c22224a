"""`residyn disulfide`: the bonds of a protein, and those that could be made."""

from __future__ import annotations

import csv
import io
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residyn import provenance, report
from residyn.cli.options import Debug, Json
from residyn.cli.output import emit, say, show
from residyn.errors import InputError, ResidynError, require
from residyn.results import Result, Section

if TYPE_CHECKING:
    from residyn.atlas.store import Store
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
    jobs: Annotated[int, typer.Option("--jobs", metavar="N", help="Files at once; -1 for one a core.")] = 1,
    backend: Annotated[str, typer.Option("--backend", help="Where jobs run: loky, dask or ray.")] = "loky",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a batch that was interrupted.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find disulfide bonds, and rank the pairs of residues that could be bonded."""
    _check(output, jobs, backend, resume=resume)
    began, started = time.perf_counter(), provenance.now()
    from residyn.protein.assessment import Wish

    wish = Wish(flexible, pick, chain, assembly, exclude)
    sections = _one(files[0], wish) if len(files) == 1 else _batch(files, wish, output, jobs, backend, resume=resume)
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
    if output is not None:
        _write(result, output)
        say(f"{report.headline(result)}; written to {output}")
    if as_json:
        emit(result.to_json())
    elif output is None:
        show(_shortened(result, 12))
    raise typer.Exit(1 if result.verdict == "fail" else 0)


def _check(output: str | None, jobs: int, backend: str, *, resume: bool) -> None:
    if backend not in ("loky", "dask", "ray"):
        raise InputError(f"`--backend` must be one of loky, dask, ray, got {backend!r}; loky uses this machine's cores")
    if jobs == 0 or jobs < -1:
        raise InputError(f"`--jobs` must be at least 1, or -1 for one a core, got {jobs}")
    if resume and output is None:
        raise InputError("`--resume` must come with `-o FILE`, got none; the files that are done are kept beside it")
    if output is None:
        return
    ending = Path(output).suffix.lower()
    if ending not in ENDINGS:
        raise InputError(f"`-o` must end in one of {' '.join(ENDINGS)}, got {output!r}; choose one of them")
    report.check(str(Path(output).with_suffix(".txt")) if ending == ".pml" else output)


def _one(file: str, wish: Wish) -> list[Section]:
    from residyn.protein.assessment import assess

    with _one_thread():
        return [assess(file, wish)]


def _batch(files: list[str], wish: Wish, output: str | None, jobs: int, backend: str, *, resume: bool) -> list[Section]:
    """Every file, in order; those that fail say why in their own section, and the others go on."""
    from residyn.atlas.store import Store

    conditions = {"wish": asdict(wish), "versions": provenance.versions("gemmi")}
    store = Store(f"{output}.partial.jsonl", conditions) if output is not None else None
    if store is not None and resume:
        reason = store.resume()
        say(f"nothing is taken over: {reason}" if reason else f"{len(store.sections)} files are done already")
    elif store is not None:
        store.start()
    done: dict[str, Section] = dict(store.sections) if store is not None else {}
    todo = [file for file in dict.fromkeys(files) if file not in done]
    with _bar(len(todo)) as advance:
        for part in _run(todo, wish, jobs, backend):
            done[part.id] = part
            _keep(store, part)
            advance(part.id)
    if store is not None:
        store.remove()
    return [done[file] for file in dict.fromkeys(files)]


def _keep(store: Store | None, part: Section) -> None:
    if store is not None:
        store.add(part)


def _run(files: list[str], wish: Wish, jobs: int, backend: str) -> Iterable[Section]:
    """Sections as they are finished."""
    if jobs == 1:
        return (_safely(file, wish) for file in files)
    joblib = require("joblib", "cluster")
    if backend == "ray":
        require("ray.util.joblib", "cluster").register_ray()
    found: Iterable[Section] = joblib.Parallel(n_jobs=jobs, backend=backend, return_as="generator_unordered")(
        joblib.delayed(_safely)(file, wish) for file in files
    )
    return found


def _safely(file: str, wish: Wish) -> Section:
    """A file's section, or one that says why there is none."""
    from residyn.protein.assessment import assess

    try:
        with _one_thread():
            return assess(file, wish)
    except ResidynError as error:
        return Section(file, f"Disulfides of {Path(file).name}", error=str(error))


def _write(result: Result, output: str) -> None:
    ending = Path(output).suffix.lower()
    if ending == ".csv":
        _put(output, _csv(result))
    elif ending == ".pml":
        from residyn.protein.pymol import script

        _put(output, script(result.sections))
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


def _put(path: str, text: str) -> None:
    """Beside its place first, then moved there."""
    target = Path(os.path.realpath(path))
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(text, "utf-8", errors="backslashreplace")
        draft.replace(target)
    except OSError as error:
        raise ResidynError(f"{path!r} could not be written: {error.strerror}; nothing was changed there") from error
    finally:
        draft.unlink(missing_ok=True)


def _command(files: list[str], wish: Wish) -> str:
    words = ["residyn", "disulfide", *files[:20], *(["…"] if len(files) > 20 else [])]
    words += [] if wish.flexible else ["--rigid"]
    for name in ("pick", "chain", "exclude", "assembly"):
        value = getattr(wish, name)
        words += [f"--{name}", str(value)] if value else []
    return shlex.join(words)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The matrices are small: more threads are slower."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _bar(total: int) -> Iterator[Callable[[str], None]]:
    """How far a batch is, on standard error: a bar on a terminal, else a line each hundred files."""
    if sys.stderr is not None and sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True, highlight=False), transient=True) as progress:
            task: Any = progress.add_task("disulfide", total=total)
            yield lambda file: progress.update(task, advance=1, description=Path(file).name)
        return
    count = 0

    def advance(file: str) -> None:
        nonlocal count
        count += 1
        if count % 100 == 0 and count < total:
            say(f"{count} of {total} files")

    yield advance
