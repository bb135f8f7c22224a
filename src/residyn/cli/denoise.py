"""`residyn denoise`: pictures without their noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from residyn.cli import batch, restore
from residyn.cli.options import Debug, Json, among
from residyn.errors import InputError, check_choice

if TYPE_CHECKING:
    from residyn.inverse.jobs import Wish

_METHODS = ("wiener", "tv", "unrolled")


def denoise(
    images: restore.Images,
    output: restore.Target = None,
    method: Annotated[
        str,
        typer.Option(
            "--method", autocompletion=among(*_METHODS), help="wiener, tv (total variation), or unrolled (a trained network)."
        ),
    ] = "wiener",
    noise: restore.Sigma = None,
    snr: Annotated[
        float | None,
        typer.Option("--snr", metavar="RATIO", help="Power of the clean picture over that of the noise, if known."),
    ] = None,
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
    """Remove white noise from pictures; how much there is, is told from each picture itself."""
    plan = batch.Plan(jobs, backend, scheduler, resume)
    check_choice("--method", method, _METHODS)
    if noise is not None and snr is not None:
        raise InputError(f"`--noise` must not stand beside --snr, got {noise} and {snr}; one follows from the other")
    if noise is not None and not 0 <= noise < float("inf"):
        raise InputError(f"`--noise` must be a standard deviation >= 0, got {noise}; leave it out to have it estimated")
    if snr is not None and not snr >= 0:
        raise InputError(f"`--snr` must be >= 0, got {snr}; it is a ratio of powers, not decibels: 10**(dB/10)")
    if weights is not None and method != "unrolled":
        raise InputError(f"`--weights` must come with --method unrolled, got {method!r}")

    def make() -> Wish:
        from residyn.inverse.files import LIMIT
        from residyn.inverse.jobs import Wish

        limit = LIMIT if max_pixels is None else max_pixels
        return Wish(
            None, method, noise, snr, weights=weights, truth=truth, drawn=report is not None, force=force, max_pixels=limit
        )  # fmt: skip

    options = {"-o": output, "method": method, "noise": noise, "snr": snr, "weights": weights, "truth": truth}
    restore.run(
        "denoise", images, make, output=output, page=report, plan=plan, as_json=as_json, options=options
    )  # fmt: skip
