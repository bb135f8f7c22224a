"""What `deblur` and `denoise` share: where outcomes go, batches, and the page."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from residyn import provenance, report
from residyn.cli import batch
from residyn.cli.options import command
from residyn.cli.output import emit, say
from residyn.errors import InputError
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
Page = Annotated[
    str | None, typer.Option("--report", metavar="PAGE.html", help="Before and after, spectrum, filter, residual.")
]
Truth = Annotated[str | None, typer.Option("--truth", metavar="FILE", help="The true picture: PSNR and SSIM are told.")]
Sigma = Annotated[
    float | None,
    typer.Option("--noise", metavar="SIGMA", help="Standard deviation of the noise, in pixel units; else estimated."),
]
Weights = Annotated[
    str | None, typer.Option("--weights", metavar="FILE", help="A network of one's own for --method unrolled (safetensors).")
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
MaxPixels = Annotated[int | None, typer.Option("--max-pixels", metavar="N", help="Read pictures up to this size.")]

_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")


def run(
    verb: str,
    images: list[str],
    make: Callable[[], Wish],
    *,
    output: str | None,
    page: str | None,
    plan: batch.Plan,
    as_json: bool,
    options: Mapping[str, object],
) -> None:
    """Restore the pictures, write them, tell how it went, and end with the exit code that says so.

    Args:
        verb: `"deblur"` or `"denoise"`.
        images: Their files.
        make: Gives what is asked of each, once all that is cheap to check has been.
        output: File or folder; beside each picture if not given.
        page: File of the report.
        plan: How a batch runs.
        as_json: Whether the result goes to standard output.
        options: Values by the names of the options, for the command in the report.
    """
    if page is not None:
        report.check(page)
    images = list(dict.fromkeys(images))
    targets = _targets(images, output, verb)
    wish = _asked(targets, make(), plan)
    folder = Path(output) if output is not None and len(images) > 1 else Path(images[0]).parent
    began, started = time.perf_counter(), provenance.now()
    sections = _sections(verb, images, targets, wish, plan, page or str(folder / verb))
    what = sections[0].title if len(images) == 1 else f"{len(images)} pictures"
    title = f"{'Deblurred' if verb == 'deblur' else 'Denoised'}: {what}"
    result = Result(
        verb, title, sections, command(verb, images, options), None,
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
            raise InputError(
                f"`-o` must be a folder that exists, for {len(images)} pictures, got {output!r}; mkdir -p {output}"
            )
        targets = [str(folder / Path(image).name) for image in images]
    elif output is not None:
        targets = [output]
    else:
        # a file that is named as no picture is said to be none when it is read, not because of its outcome's name
        forms = [suffix if (suffix := Path(image).suffix).lower() in _PICTURES else ".png" for image in images]
        targets = [
            str(Path(image).with_name(f"{Path(image).stem}.{ending}{form}")) for image, form in zip(images, forms, strict=True)
        ]
    double = next((target for target in targets if targets.count(target) > 1), None)
    if double is not None:
        raise InputError(f"`IMAGE` must not have the same name twice, got two for {double!r}; run them one folder at a time")
    return targets


def _asked(targets: list[str], wish: Wish, plan: batch.Plan) -> Wish:
    """On a terminal, ask before files are replaced; elsewhere `check_target` refuses."""
    there = [target for target in targets if Path(target).is_file()]
    if there and not (wish.force or plan.resume) and sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty():
        what = there[0] if len(there) == 1 else f"{len(there)} files that exist, {there[0]} and others"
        if not typer.confirm(f"Replace {what}?", err=True):
            raise InputError(f"`-o` must not exist already, got {there[0]!r}; choose another name")
        return replace(wish, force=True)
    return wish


def _sections(verb: str, images: list[str], targets: list[str], wish: Wish, plan: batch.Plan, keep: str) -> list[Section]:
    """Every picture, in order; in a batch those that fail say why in their own section, and the others go on."""
    from residyn.inverse.jobs import restore

    if len(images) == 1:
        return [restore(images[0], targets[0], wish)]
    # what was written just before an interruption may stand there without its section: a run that goes on writes it again
    wish = replace(wish, force=wish.force or plan.resume)
    conditions = {
        "wish": asdict(replace(wish, force=False)),
        "targets": targets,
        "versions": provenance.versions("pillow", "scikit-image"),
    }
    work = partial(_placed, targets=dict(zip(images, targets, strict=True)), wish=wish)
    return batch.run(images, work, plan, output=keep, conditions=conditions, title=_title)


def _placed(image: str, targets: dict[str, str], wish: Wish) -> Section:
    from residyn.inverse.jobs import restore

    return restore(image, targets[image], wish)


def _title(image: str) -> str:
    return Path(image).name
