"""`residyn deblur`: pictures back from a known blur."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from residyn.cli import batch, restore
from residyn.cli.options import Debug, Json, among
from residyn.errors import InputError, check_choice

if TYPE_CHECKING:
    from residyn.inverse.jobs import Wish

_METHODS = ("auto", "tv", "landweber", "unrolled")
_BOUNDARIES = ("symmetric", "circular", "unknown")


def deblur(
    images: restore.Images,
    psf: Annotated[
        str, typer.Option("--psf", metavar="PSF", help="gaussian:SIGMA, motion:LENGTH,ANGLE, disk:RADIUS (pixels), or a file.")
    ],
    output: restore.Target = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            autocompletion=among(*_METHODS),
            help="auto (Wiener), tv (total variation), landweber, unrolled (a trained network).",
        ),
    ] = "auto",
    noise: restore.Sigma = None,
    boundary: Annotated[
        str,
        typer.Option(
            "--boundary",
            autocompletion=among(*_BOUNDARIES),
            help="Beyond the border: symmetric, circular, or unknown (slower).",
        ),
    ] = "symmetric",
    steps: Annotated[int | None, typer.Option("--steps", metavar="K", help="Steps of landweber or tv; else chosen.")] = None,
    step: Annotated[float | None, typer.Option("--step", metavar="ALPHA", help="Step size of landweber; else 1/‖H‖².")] = None,
    weights: restore.Weights = None,
    truth: restore.Truth = None,
    report: restore.Page = None,
    force: restore.Force = False,
    max_pixels: restore.MaxPixels = None,
    jobs: batch.Jobs = 1,
    backend: batch.Backend = "loky",
    scheduler: batch.Scheduler = None,
    resume: batch.Resume = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Restore pictures that were blurred by a known point spread function."""
    plan = batch.Plan(jobs, backend, scheduler, resume)
    check_choice("--method", method, _METHODS)
    check_choice("--boundary", boundary, _BOUNDARIES)
    if weights is not None and method != "unrolled":
        raise InputError(f"`--weights` must come with --method unrolled, got {method!r}")

    def make() -> Wish:
        from residyn.inverse.files import LIMIT
        from residyn.inverse.jobs import Wish, kernel

        kernel(psf)  # a wrong one is told once, and before any picture is read
        limit = LIMIT if max_pixels is None else max_pixels
        return Wish(
            psf,
            method,
            noise,
            None,
            boundary,  # type: ignore[arg-type]
            steps,
            step,
            weights,
            truth,
            drawn=report is not None,
            force=force,
            max_pixels=limit,
        )

    options = {"psf": psf, "-o": output, "method": method, "boundary": boundary, "noise": noise}
    options |= {"steps": steps, "step": step, "weights": weights, "truth": truth}
    restore.run(
        "deblur", images, make, output=output, page=report, plan=plan, as_json=as_json, options=options
    )  # fmt: skip
