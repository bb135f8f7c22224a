"""A restoration in pictures: before and after, spectrum, effective filter, residual."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from residyn.inverse.files import Photo
from residyn.inverse.files.png import png_bytes
from residyn.inverse.filters import landweber_gain
from residyn.inverse.operators.blur import squared, transfer
from residyn.inverse.psf import unit
from residyn.inverse.restoration import Restoration
from residyn.inverse.rings import Rings
from residyn.results import Figure, Picture, Series

WIDE, CROP = 640, 192
"""Pixels of a picture on a page, and of the part of it that is shown magnified."""
_POINTS = 160


@dataclass(frozen=True)
class Drawn:
    """What is to be drawn: the picture before and after, and what is known of the way between."""

    before: np.ndarray
    after: np.ndarray
    psf: Tensor
    found: Restoration[np.ndarray] | None
    sigma: float
    span: float
    truth: np.ndarray | None
    boundary: str


def pictures(drawn: Drawn) -> list[Picture]:
    """Before and after, whole and a part in large; the truth and the error where it is known."""
    parts = [("Before", drawn.before), ("After", drawn.after)]
    if drawn.truth is not None:
        parts.append(("Truth", drawn.truth))
    planes = [(title, _plane(image, drawn.psf.ndim)) for title, image in parts]
    low = min(float(planes[0][1].min()), 0.0)
    found = [picture(plane, title, low, drawn.span) for title, plane in planes]
    row, column = _busiest(planes[1][1])
    if max(planes[0][1].shape[:2]) > CROP:
        for title, plane in planes:
            part = np.repeat(np.repeat(plane[row : row + CROP, column : column + CROP], 2, 0), 2, 1)
            found.append(picture(part, f"{title}, a part of {CROP} pixels twice as large", low, drawn.span))
    return found


def picture(plane: np.ndarray, title: str, low: float, high: float) -> Picture:
    """Intensities as an image of a report, thinned by averages to what a page shows.

    Args:
        plane: `(H, W)` or `(H, W, C)`.
        title: What it is.
        low: Drawn black.
        high: Drawn white.

    Returns:
        The image.

    >>> picture(np.zeros((4, 4)), "Black", 0.0, 1.0).alt
    'Black: 4 × 4 pixels'
    """
    height, width = plane.shape[:2]
    every = max(1, math.ceil(max(height, width) / WIDE))
    thin = plane[: height // every * every, : width // every * every].astype(np.float64)
    thin = thin.reshape(height // every, every, width // every, every, -1).mean((1, 3))
    grey = np.clip(np.rint(255 * (thin - low) / max(high - low, 1e-300)), 0, 255).astype(np.uint8)
    grey = grey[..., 0] if grey.shape[2] != 3 else grey
    png = png_bytes(grey, Photo(grey))
    return Picture(title, base64.b64encode(png).decode(), f"{title}: {width} × {height} pixels")


def figures(drawn: Drawn) -> list[Figure]:
    """Spectrum and effective filter for a picture; the residual where there were steps."""
    found: list[Figure] = []
    if drawn.psf.ndim == 2:
        found += _spectra(drawn)
    if drawn.found is not None and len(drawn.found.residuals) > 2:
        residuals = drawn.found.residuals
        steps = [float(k) for k in range(len(residuals))]
        log = "log" if len(residuals) > 60 else "linear"
        start = 1 if log == "log" else 0
        series = [Series("‖H·x - b‖, root mean square", steps[start:], residuals[start:], "points")]
        if drawn.sigma > 0:
            series.append(Series("noise σ", [steps[start], steps[-1]], [drawn.sigma, drawn.sigma]))
        found.append(
            Figure("Residual", "step", "pixel units", series, log, "log", "Steps below the noise bring back noise, not detail.")  # type: ignore[arg-type]
        )
    return found


def _spectra(drawn: Drawn) -> list[Figure]:
    before, after = (_grey(image) for image in (drawn.before, drawn.after))
    size = (before.shape[0], before.shape[1])
    rings = Rings(*size)
    kept = ((rings.count >= 4) & (rings.frequency > 0)).nonzero()[:, 0]
    kept = kept[:: max(1, len(kept) // _POINTS)]
    f = rings.frequency[kept]
    blurred, restored = (rings.mean(_periodogram(plane))[kept] for plane in (before, after))
    kernel = unit(drawn.psf.double())
    h = transfer(kernel, size)
    power = rings.mean(squared(h))[kept].clamp(min=1e-30)
    model = drawn.found.model if drawn.found is not None else None
    x = f.tolist()
    lines = [Series("before", x, blurred.clamp(min=1e-30).tolist(), "points")]
    lines.append(Series("after", x, restored.clamp(min=1e-30).tolist(), "points"))
    noise = drawn.sigma**2
    if model is not None and model.amplitude > 0:
        expected = power * model.power(f**2) + noise
        lines.append(Series("model of the blurred picture, |H|²·S + σ²", x, expected.tolist()))
    if noise > 0:
        lines.append(Series("noise, σ²", [x[0], x[-1]], [noise, noise]))
    caption = "Mean over rings of equal frequency, of the picture under a Hann window; grey, or the mean of its channels."
    spectrum = Figure("Spectrum", "frequency (cycles a pixel)", "power a pixel", lines, "log", "log", caption)
    return [spectrum, _filter(drawn, x, power, (restored / blurred.clamp(min=1e-30)).sqrt())]


def _filter(drawn: Drawn, x: list[float], power: Tensor, measured: Tensor) -> Figure:
    """What was done to each frequency, measured, and what theory says."""
    f = torch.tensor(x, dtype=torch.float64)
    found, lines = drawn.found, [Series("measured, √(power after/before)", x, measured.tolist(), "points")]
    inverse = power.rsqrt()
    shown = inverse <= max(10.0, 3 * float(measured.max()))
    if bool((power < 0.999).any()):
        lines.append(Series("inverse filter, 1/|H|", f[shown].tolist(), inverse[shown].tolist()))
    if found is not None and found.method == "landweber" and found.step:
        gain = landweber_gain(power, found.step, found.steps) * power.sqrt()
        lines.append(Series(f"{found.steps} blocks, (1-(1-α|H|²)^k)/|H|", x, gain.tolist()))
    elif found is not None and found.model.amplitude > 0:
        gain = power.sqrt() / (power + found.model.sigma**2 / found.model.power(f**2))
        lines.append(Series("Wiener filter, |H|/(|H|² + σ²/S)", x, gain.tolist()))
    caption = "Where the filter leaves the inverse and falls, noise begins to outweigh what the blur has left."
    return Figure("Effective filter", "frequency (cycles a pixel)", "gain", lines, "linear", "linear", caption)


def _periodogram(plane: Tensor) -> Tensor:
    """|FFT|² a pixel under a Hann window, its power made good."""
    windows = [torch.hann_window(n, periodic=False, dtype=torch.float64) for n in plane.shape]
    window = torch.outer(*windows)
    weight = float(window.square().mean())
    mean = float((plane * window).sum() / window.sum())
    return squared(torch.fft.rfft2((plane - mean) * window, norm="ortho")) / weight


def _grey(image: np.ndarray) -> Tensor:
    values = torch.from_numpy(image.astype(np.float64))
    return values.mean(-1) if values.ndim == 3 else values


def _plane(image: np.ndarray, axes: int) -> np.ndarray:
    """A picture, or the middle slice of a volume."""
    return image if axes == 2 else image[image.shape[0] // 2]


def _busiest(plane: np.ndarray) -> tuple[int, int]:
    """The corner of the part with the steepest slopes, on a coarse grid: there is something to see in it."""
    grey = plane.astype(np.float64)
    grey = grey.mean(-1) if grey.ndim == 3 else grey
    height, width = grey.shape
    slope = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    places = [
        (row, column)
        for row in range(0, max(1, height - CROP + 1), CROP // 2)
        for column in range(0, max(1, width - CROP + 1), CROP // 2)
    ]
    return max(places, key=lambda at: float(slope[at[0] : at[0] + CROP, at[1] : at[1] + CROP].mean()))
