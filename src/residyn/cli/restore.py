"""What `deblur` and `denoise` share: where outcomes go, batches, and the page."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residyn import provenance, report
from residyn.cli.output import emit, say
from residyn.errors import InputError, ResidynError, require
from residyn.results import Result, Section

if TYPE_CHECKING:
    from residyn.inverse.jobs import Wish

Images = Annotated[list[str], typer.Argument(metavar="IMAGE…", help="PNG, JPEG, TIFF or NumPy (.npy) files.")]
Target = Annotated[
    str | None,
    typer.Option(
        "-o", "--output", metavar="FILE|FOLDER", help="Where it goes; its ending says the form. Several pictures: a folder."
    ),
]
Page = Annotated[str | None, typer.Option("--report", metavar="PAGE.html", help="Before and after, spectrum, filter, residual.")]
Truth = Annotated[str | None, typer.Option("--truth", metavar="FILE", help="The true picture: PSNR and SSIM are told.")]
Sigma = Annotated[
    float | None, typer.Option("--noise", metavar="SIGMA", help="Standard deviation of the noise, in pixel units; else estimated.")
]
Weights = Annotated[
    str | None, typer.Option("--weights", metavar="FILE", help="A network of one's own for --method unrolled (safetensors).")
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
MaxPixels = Annotated[int | None, typer.Option("--max-pixels", metavar="N", help="Read pictures up to this size.")]
Jobs = Annotated[int, typer.Option("--jobs", metavar="N", help="Pictures at once; -1 for one a core.")]
Backend = Annotated[str, typer.Option("--backend", help="Where jobs run: loky, dask or ray.")]


def run(
    verb: str,
    images: list[str],
    make: Callable[[], Wish],
    *,
    output: str | None,
    page: str | None,
    jobs: int,
    backend: str,
    as_json: bool,
    words: list[str],
) -> None:
    """Restore the pictures, write them, tell how it went, and end with the exit code that says so.

    Args:
        verb: `"deblur"` or `"denoise"`.
        images: Their files.
        make: Gives what is asked of each, once all that is cheap to check has been.
        output: File or folder; beside each picture if not given.
        page: File of the report.
        jobs: Processes.
        backend: Of joblib.
        as_json: Whether the result goes to standard output.
        words: Options, for the command in the report.
    """
    if backend not in ("loky", "dask", "ray"):
        raise InputError(f"`--backend` must be one of loky, dask, ray, got {backend!r}; loky uses this machine's cores")
    if jobs == 0 or jobs < -1:
        raise InputError(f"`--jobs` must be at least 1, or -1 for one a core, got {jobs}")
    if page is not None:
        report.check(page)
    images = list(dict.fromkeys(images))
    targets = _targets(images, output, verb)
    wish = make()
    wish = _asked(targets, wish)
    began, started = time.perf_counter(), provenance.now()
    sections = _one(images[0], targets[0], wish) if len(images) == 1 else _batch(verb, images, targets, wish, jobs, backend)
    shown = images if len(images) <= 20 else [*images[:20], "…"]
    title = f"{'Deblurred' if verb == 'deblur' else 'Denoised'}: {sections[0].title if len(images) == 1 else f'{len(images)} pictures'}"
    result = Result(
        verb, title, sections, shlex.join(["residyn", verb, *shown, *words]), None,
        provenance.versions("pillow", "scikit-image"), started, time.perf_counter() - began,
    )  # fmt: skip
    for section in sections if len(images) > 1 else []:
        if section.error:
            say(f"residyn: {section.error}")
    if page is not None:
        report.write(result, page)
        say(f"report written to {page}")
    if as_json:
        emit(result.to_json())
    else:
        _tell(sections)
    raise typer.Exit(1 if any(section.error for section in sections) else 0)


def _tell(sections: list[Section]) -> None:
    """A line a picture, and what is to be known of it."""
    for section in sections:
        if section.error:
            continue
        say(f"{section.title}: {section.summary}")


def _targets(images: list[str], output: str | None, verb: str) -> list[str]:
    """Where each outcome goes."""
    ending = "deblurred" if verb == "deblur" else "denoised"
    if output is not None and (len(images) > 1 or Path(output).is_dir()):
        folder = Path(output)
        if not folder.is_dir():
            raise InputError(f"`-o` must be a folder that exists, for {len(images)} pictures, got {output!r}; mkdir -p {output}")
        targets = [str(folder / Path(image).name) for image in images]
    elif output is not None:
        targets = [output]
    else:
        targets = [str(Path(image).with_name(f"{Path(image).stem}.{ending}{Path(image).suffix}")) for image in images]
    double = next((target for target in targets if targets.count(target) > 1), None)
    if double is not None:
        raise InputError(f"`IMAGE` must not have the same name twice, got two for {double!r}; run them one folder at a time")
    return targets


def _asked(targets: list[str], wish: Wish) -> Wish:
    """On a terminal, ask before files are replaced; elsewhere `check_target` refuses."""
    from dataclasses import replace

    there = [target for target in targets if Path(target).is_file()]
    if there and not wish.force and sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty():
        what = there[0] if len(there) == 1 else f"{len(there)} files that exist, {there[0]} and others"
        if not typer.confirm(f"Replace {what}?", err=True):
            raise InputError(f"`-o` must not exist already, got {there[0]!r}; choose another name")
        return replace(wish, force=True)
    return wish


def _one(image: str, target: str, wish: Wish) -> list[Section]:
    from residyn.inverse.jobs import restore

    return [restore(image, target, wish)]


def _batch(verb: str, images: list[str], targets: list[str], wish: Wish, jobs: int, backend: str) -> list[Section]:
    """Every picture, in order; those that fail say why in their own section, and the others go on."""
    done: dict[str, Section] = {}
    with _bar(verb, len(images)) as advance:
        for part in _run(list(zip(images, targets, strict=True)), wish, jobs, backend):
            done[part.id] = part
            advance(part.id)
    return [done[image] for image in images]


def _run(pairs: list[tuple[str, str]], wish: Wish, jobs: int, backend: str) -> Iterable[Section]:
    """Sections as they are finished."""
    if jobs == 1:
        return (safely(image, target, wish) for image, target in pairs)
    joblib = require("joblib", "cluster")
    if backend == "ray":
        require("ray.util.joblib", "cluster").register_ray()
    found: Iterable[Section] = joblib.Parallel(n_jobs=jobs, backend=backend, return_as="generator_unordered")(
        joblib.delayed(safely)(image, target, wish, threads=1) for image, target in pairs
    )
    return found


def safely(image: str, target: str, wish: Wish, *, threads: int | None = None) -> Section:
    """A picture's section, or one that says why there is none.

    Args:
        image: The picture.
        target: Where it goes.
        wish: How.
        threads: Threads of torch; as they are if not given.
    """
    import torch

    from residyn.inverse.jobs import restore

    if threads is not None:
        torch.set_num_threads(threads)
    try:
        return restore(image, target, wish)
    except ResidynError as error:
        return Section(image, Path(image).name, error=str(error))
    except MemoryError:
        return Section(image, Path(image).name, error=f"`{image}` needs more memory than there is; cut it into parts")


@contextmanager
def _bar(verb: str, total: int) -> Iterator[Callable[[str], None]]:
    """How far a batch is, on a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda image: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True, highlight=False), transient=True) as progress:
        task: Any = progress.add_task(verb, total=total)
        yield lambda image: progress.update(task, advance=1, description=Path(image).name)
