"""One file restored, as a section of a report: what a command line, a batch and a page have in common."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from residyn.errors import InputError, ResidynWarning, require
from residyn.inverse import files
from residyn.inverse.deblur import deblur
from residyn.inverse.drawing import Drawn, figures, pictures
from residyn.inverse.files import LIMIT, Photo
from residyn.inverse.noise import noise_level
from residyn.inverse.operators.blur import Boundary
from residyn.inverse.psf import parse
from residyn.inverse.restoration import Restoration
from residyn.inverse.unrolled import Unrolled
from residyn.inverse.wiener import denoise
from residyn.results import Finding, Section

EQUATIONS = {
    "auto": "x̂(f) = H̄·b/(|H|² + σ²/S),  S(f) = A·(f² + f₀²)^(-β/2) and σ² from b alone",
    "tv": "x̂ = argmin ‖H·x - b‖²/2 + λ·Σ|∇x|",
    "landweber": "x⁺ = x - α·Hᵀ(H·x - b), from x = 0",
    "unrolled": "x⁺ = z + R(z),  z = argmin ‖H·z - b‖² + r·σ²/S·|z - x|², R learned",
    "wiener": "x⁺ = y + F(y),  a(f) = -1/(SNR(f) + 1)",
}


@dataclass(frozen=True)
class Wish:
    """What a user asks of each file.

    Args:
        psf: Name or file of the point spread function; `None` to remove noise and nothing else.
        method: As in `deblur`; for noise alone `"wiener"`, `"tv"` or `"unrolled"`.
        noise: σ, in the units of the pixels.
        snr: Ratio of powers, for noise alone.
        boundary: As in `deblur`.
        steps: As in `deblur`.
        step: As in `deblur`.
        weights: File of a trained network; the one that ships if not given.
        truth: File of the true picture.
        drawn: Whether figures and pictures are wanted.
        force: Whether a file that exists may be replaced.
        max_pixels: Largest picture that is read.
    """

    psf: str | None = None
    method: str = "auto"
    noise: float | None = None
    snr: float | None = None
    boundary: Boundary = "symmetric"
    steps: int | None = None
    step: float | None = None
    weights: str | None = None
    truth: str | None = None
    drawn: bool = False
    force: bool = False
    max_pixels: int = LIMIT


@dataclass(frozen=True)
class _Outcome:
    image: np.ndarray
    sigma: float
    method: str
    found: Restoration[np.ndarray] | None
    psf: torch.Tensor
    notes: tuple[str, ...]


def restore(path: str, target: str, wish: Wish) -> Section:
    """Restore a file and write the outcome.

    Args:
        path: The picture.
        target: Where the restored one goes; its ending says the form.
        wish: How.

    Returns:
        A section: noise, residual, quality where the truth is known, and pictures where they are wanted.

    Raises:
        InputError: If picture, PSF, truth or target break a rule.
        ResidynError: If the disk refuses the outcome.
    """
    began = time.perf_counter()
    files.check_target(target, force=wish.force)
    photo = files.read(path, max_pixels=wish.max_pixels)
    files.draft(photo.pixels[:1, :1], replace(photo, alpha=_corner(photo)), target)  # the form can hold it, or says so now
    truth = None if wish.truth is None else _truth(wish.truth, photo, wish.max_pixels)
    outcome = _removed(photo, wish) if wish.psf is None else _sharpened(photo, wish.psf, wish)
    files.write(outcome.image, photo, target, force=wish.force)
    findings = [*_figures_of_merit(photo, outcome), *([] if truth is None else _against(truth, photo, outcome.image))]
    findings += [Finding("deblur.note", note, "warn") for note in (*photo.notes, *outcome.notes)]
    drawn = Drawn(photo.pixels, outcome.image, outcome.psf, outcome.found, outcome.sigma, photo.span, truth, wish.boundary)
    return Section(
        path,
        Path(path).name,
        summary=_summary(photo, outcome, target, findings),
        equation=EQUATIONS[outcome.method],
        data=f"{path}: {describe(photo)}" + (f"; truth: {wish.truth}" if wish.truth else ""),
        code=_code(path, wish),
        findings=findings,
        figures=figures(drawn) if wish.drawn else [],
        pictures=pictures(drawn) if wish.drawn else [],
        seconds=time.perf_counter() - began,
    )


def _sharpened(photo: Photo, spec: str, wish: Wish) -> _Outcome:
    psf, said = kernel(spec)
    method: Any = _network(wish.weights) if wish.method == "unrolled" else wish.method
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResidynWarning)
        found = deblur(
            photo.pixels,
            psf,
            method=method,
            noise=wish.noise,
            boundary=wish.boundary,
            steps=wish.steps,
            step=wish.step,
        )
    notes = [str(w.message) for w in caught if issubclass(w.category, ResidynWarning)]
    return _Outcome(found.image, found.sigma, found.method, found, psf, (*said, *dict.fromkeys(notes)))


def _removed(photo: Photo, wish: Wish) -> _Outcome:
    """Noise alone: the Wiener step; or any method of `deblur` with H = 1, which is also what volumes get."""
    volume = photo.pixels.ndim == 4 or (photo.pixels.ndim == 3 and photo.pixels.shape[-1] > 4)
    point = torch.ones(1, 1, 1) if volume else torch.ones(1, 1)
    if wish.method == "wiener" and not volume:
        image = denoise(photo.pixels, snr=wish.snr, noise=wish.noise)
        return _Outcome(image, _sigma(photo, wish), "wiener", None, point, ())
    method: Any = "auto" if wish.method == "wiener" else _network(wish.weights) if wish.method == "unrolled" else wish.method
    noise = wish.noise if wish.noise is not None else None if volume and wish.snr is None else _sigma(photo, wish)
    found = deblur(photo.pixels, point, method=method, noise=noise, boundary="symmetric")
    return _Outcome(found.image, found.sigma, found.method, found, point, ())


def _sigma(photo: Photo, wish: Wish) -> float:
    """σ as given, from the SNR as given, or as seen."""
    if wish.noise is not None:
        return wish.noise
    if wish.snr is not None:
        return float(photo.pixels.std()) / math.sqrt(1 + wish.snr)
    return noise_level(photo.pixels)


def _network(weights: str | None) -> Unrolled:
    from residyn.inverse.pretrained import load

    return load(weights)


def kernel(spec: str) -> tuple[torch.Tensor, tuple[str, ...]]:
    """A point spread function from its name or file, and what is to be said of it.

    Raises:
        InputError: If it is neither.

    >>> kernel("disk:1")[0].shape
    torch.Size([3, 3])
    """
    if spec.partition(":")[0] in ("gaussian", "motion", "disk") and not Path(spec).exists():
        return parse(spec), ()
    if not Path(spec).is_file():
        return parse(spec), ()  # which says what a PSF may be
    values = torch.from_numpy(files.read_psf(spec))
    even = [k for k in values.shape if k % 2 == 0]
    centre = ", ".join(str(k // 2) for k in values.shape)
    said = f"the PSF has an even side, {' × '.join(map(str, values.shape))}: its centre is taken at [{centre}], counted from 0"
    return values, (said,) if even else ()


def describe(photo: Photo) -> str:
    """Size, colours and type in words.

    >>> describe(Photo(np.zeros((4, 6, 3), np.uint8), form="png"))
    '6 × 4 pixels, 3 channels, uint8 (png)'
    """
    shape = photo.pixels.shape
    colours = len(shape) > 2 and shape[-1] <= 4
    sides = shape[:-1] if colours else shape
    what = "pixels" if len(sides) == 2 else "voxels"
    channels = f"{shape[-1]} channels" if colours else "grey"
    alpha = " with alpha" if photo.alpha is not None else ""
    return f"{' × '.join(map(str, reversed(sides)))} {what}, {channels}{alpha}, {photo.pixels.dtype} ({photo.form})"


def _corner(photo: Photo) -> np.ndarray | None:
    return None if photo.alpha is None else photo.alpha[:1, :1]


def _truth(path: str, photo: Photo, limit: int) -> np.ndarray:
    truth = files.read(path, max_pixels=limit).pixels
    if truth.shape != photo.pixels.shape:
        raise InputError(f"`--truth` must have the shape of the picture, {photo.pixels.shape}, got {truth.shape} in {path!r}")
    span = Photo(truth).span if truth.dtype.kind in "iu" else 1.0
    own = photo.span if photo.pixels.dtype.kind in "iu" else 1.0
    return truth.astype(np.float64) / span * own


def psnr(image: np.ndarray, truth: np.ndarray, span: float) -> float:
    """Peak signal-to-noise ratio, 10·log₁₀(span²/mean squared error), in decibels.

    >>> psnr(np.zeros((2, 2)), np.full((2, 2), 0.1), 1.0)
    20.0
    """
    error = float(np.mean((image.astype(np.float64) - truth) ** 2))
    return 10 * math.log10(span**2 / error) if error > 0 else math.inf


def _against(truth: np.ndarray, photo: Photo, image: np.ndarray) -> list[Finding]:
    """PSNR and SSIM before and after."""
    span = photo.span if photo.pixels.dtype.kind in "iu" else max(1.0, float(truth.max()))
    before, after = (psnr(part, truth, span) for part in (photo.pixels, image))
    findings = [
        Finding(
            "deblur.psnr", f"PSNR against the truth; before it was {before:.2f} dB", "pass" if after >= before else "warn",
            after, None, "dB", why="Passes if the picture is not further from the truth than before.",
        )
    ]  # fmt: skip
    metrics = require("skimage.metrics", "imaging")
    colours = image.ndim == 3 and image.shape[-1] <= 4
    window = min(7, *image.shape[:2], *([] if colours else image.shape[2:]))
    window -= 1 - window % 2
    if window < 3:
        return findings
    before, after = (
        float(metrics.structural_similarity(
            part.astype(np.float64), truth, data_range=span, win_size=window, channel_axis=-1 if colours else None
        ))
        for part in (photo.pixels, image)
    )  # fmt: skip
    findings.append(
        Finding(
            "deblur.ssim", f"Structural similarity to the truth; before it was {before:.4f}",
            "pass" if after >= before else "warn", after, why="1 is the truth itself (Wang et al. 2004).",
        )
    )  # fmt: skip
    return findings


def _figures_of_merit(photo: Photo, outcome: _Outcome) -> list[Finding]:
    known = f"{100 * outcome.sigma / photo.span:.2f} % of the range" if photo.span else ""
    findings = [Finding("deblur.noise", f"Noise σ that was assumed, {known}", "info", outcome.sigma, unit="pixel units")]
    found = outcome.found
    if found is not None and found.residuals:
        ratio = found.residuals[-1] / outcome.sigma if outcome.sigma > 0 else math.inf
        findings.append(
            Finding(
                "deblur.residual", "Root mean square of H·x - b, beside the noise", "info", found.residuals[-1], outcome.sigma,
                "pixel units", why=f"{ratio:.2f} of the noise: near 1, what is left of the measurement is noise and nothing "
                "else; far above, the PSF is not the one that blurred the picture.",
            )
        )  # fmt: skip
    return findings


def _summary(photo: Photo, outcome: _Outcome, target: str, findings: list[Finding]) -> str:
    parts = [f"{describe(photo)}; method {outcome.method}, noise σ = {outcome.sigma:.4g}; written to {target}."]
    quality = {finding.id: finding for finding in findings}
    if "deblur.psnr" in quality:
        parts.append(f"PSNR {quality['deblur.psnr'].value:.2f} dB ({quality['deblur.psnr'].title.split('; ')[1]}).")
    parts += [f"Note: {note}." for note in (*photo.notes, *outcome.notes)]
    return " ".join(parts)


def _code(path: str, wish: Wish) -> str:
    if wish.psf is None:
        return (
            "from residyn.inverse import denoise, files\n\n"
            f"photo = files.read({path!r})\nclean = denoise(photo.pixels)\nfiles.write(clean, photo, 'denoised.png')\n"
        )
    return (
        "from residyn.inverse import deblur, files, jobs\n\n"
        f"photo = files.read({path!r})\npsf, _ = jobs.kernel({wish.psf!r})\n"
        f"found = deblur(photo.pixels, psf, method={wish.method!r})\n"
        "print(found.sigma, found.residuals[-1])\nfiles.write(found.image, photo, 'restored.png')\n"
    )
