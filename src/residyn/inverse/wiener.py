"""The linear residual denoiser x⁺ = x + a·x: one strength for all, or one a frequency, which is the Wiener filter."""

from __future__ import annotations

import math
from functools import partial
from typing import TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from residyn.branch import Spectral
from residyn.errors import InputError
from residyn.inverse.inputs import as_planes, like
from residyn.inverse.noise import noise_level
from residyn.inverse.rings import Rings
from residyn.step import Residual

I = TypeVar("I", Tensor, np.ndarray)  # noqa: E741 - the field's letter for an image


@overload
def optimal_gain(snr: float) -> float: ...
@overload
def optimal_gain(snr: Tensor) -> Tensor: ...
def optimal_gain(snr: float | Tensor) -> float | Tensor:
    """The strength a* = -1/(SNR + 1) at which x⁺ = y + a·y is closest in the mean square to x, for y = x + noise.

    x has mean zero and is uncorrelated with the noise; then E(y + a·y - x)² = a²·σ_x² + (1 + a)²·σ_n², which a*
    minimises.

    Args:
        snr: σ_x²/σ_n², the ratio of powers, not decibels (SNR = 10^(dB/10)); a number or a tensor of them, 0 to
            infinity.

    Returns:
        a*, in [-1, 0].

    Raises:
        InputError: If an SNR is negative or nan.

    Reference:
        Wiener (1949), "Extrapolation, Interpolation, and Smoothing of Stationary Time Series",
        doi:10.7551/mitpress/2946.001.0001.

    >>> optimal_gain(3.0), optimal_gain(float("inf"))
    (-0.25, -0.0)
    """
    if isinstance(snr, Tensor):
        if not bool((snr >= 0).all()):
            raise InputError(f"`snr` must be >= 0, got {float(snr.min())}; it is a ratio of powers, not decibels")
        return -1 / (snr + 1)
    if not snr >= 0:
        raise InputError(f"`snr` must be >= 0, got {snr}; it is a ratio of powers, not decibels: 10**(dB/10)")
    return -1 / (snr + 1)


class Wiener(Residual):
    """The Wiener filter as a residual step: x⁺ = y + F(y), where F multiplies frequency f by a(f) = -1/(SNR(f) + 1).

    Borders are periodic; `denoise` pads before it comes here.

    Args:
        power: Power of the clean signal at each frequency, `(H, W//2 + 1)` as in `torch.fft.rfft2` with `norm="ortho"`.
        noise: Variance of the white noise.
        width: W, which the half plane of frequencies leaves open; even if not given.

    Raises:
        InputError: If a power is negative, or `noise` is not positive.

    Reference:
        Gonzalez & Woods (2018), "Digital Image Processing", section 5.8.

    >>> y = torch.randn(8, 8, dtype=torch.float64)
    >>> bool(torch.allclose(Wiener(torch.full((8, 5), 3.0), 1.0)(y), 0.75 * y))
    True
    """

    def __init__(self, power: Tensor, noise: float, *, width: int | None = None) -> None:
        if not 0 < noise < math.inf:
            raise InputError(f"`noise` must be a variance > 0, got {noise}; without noise there is nothing to filter")
        size = (power.shape[-2], 2 * (power.shape[-1] - 1) if width is None else width)
        there = partial(torch.fft.rfft2, norm="ortho")
        back = partial(torch.fft.irfft2, s=size, norm="ortho")
        super().__init__(Spectral(optimal_gain(power / noise), there, back))


def snr(image: Tensor | np.ndarray) -> float:
    """Estimate the signal-to-noise ratio of a picture with white noise, (variance - σ²)/σ² with σ by `noise_level`.

    The signal is the picture without its mean, channel by channel.

    Args:
        image: `(H, W)` or `(H, W, C)`, at least 16 pixels on each side.

    Returns:
        The ratio of powers; `inf` where no noise is seen, 0 where nothing but noise is.

    Raises:
        InputError: If it is no such picture.

    >>> g = torch.Generator().manual_seed(0)
    >>> round(snr(torch.linspace(0, 10, 64).expand(64, 64) + torch.randn(64, 64, generator=g)), 0)
    9.0
    """
    planes = as_planes(image)
    noise = noise_level(image) ** 2
    total = float(planes.var(dim=(-2, -1), correction=0).mean())
    return max(total - noise, 0.0) / noise if noise > 0 else math.inf


def denoise(image: I, *, snr: float | None = None, noise: float | None = None) -> I:
    """Remove white noise from a picture by one residual step, the Wiener filter x⁺ = y + F(y).

    F multiplies each frequency by a(f) = -1/(SNR(f) + 1) = -σ²/S_y(f), with S_y the spectrum of the picture itself,
    averaged over rings and kept from falling below σ². Mean and size are kept; borders are mirrored before and cut
    after.

    Args:
        image: y, `(H, W)` or `(H, W, C)`, torch or NumPy, at least 16 pixels on each side; integers come back as
            integers.
        snr: Ratio of powers of the clean picture (its mean removed) to the noise, if it is known; estimated by
            `noise_level` otherwise. `inf` leaves the picture as it is.
        noise: σ of the noise in the units of the pixels, if that is what is known.

    Returns:
        The denoised picture, of the type, shape and dtype of `image`.

    Raises:
        InputError: If it is no such picture, `snr` or `noise` is negative, or both are given.

    Reference:
        Wiener (1949), doi:10.7551/mitpress/2946.001.0001.

    >>> g = torch.Generator().manual_seed(0)
    >>> clean = torch.linspace(0, 10, 64).expand(64, 64)
    >>> noisy = clean + torch.randn(64, 64, generator=g)
    >>> bool((denoise(noisy) - clean).square().mean() < 0.1 * (noisy - clean).square().mean())
    True
    """
    planes = as_planes(image)
    variance = planes.var(dim=(-2, -1), correction=0)
    if noise is not None and (snr is not None or not 0 <= noise < math.inf):
        raise InputError(f"`noise` must be a standard deviation >= 0, without `snr` beside it, got {noise} and snr={snr}")
    if snr == math.inf:
        return like(planes, image)
    if snr is None:
        power = torch.full_like(variance, (noise_level(image) if noise is None else noise) ** 2)
    else:
        power = variance * -optimal_gain(float(snr))
    mean = planes.mean(dim=(-2, -1), keepdim=True)
    clean = [_step(plane, float(s)) for plane, s in zip(planes - mean, power, strict=True)]
    return like(torch.stack(clean) + mean, image)


def _step(plane: Tensor, noise: float) -> Tensor:
    """One Wiener step on a plane of mean zero, mirrored at its borders."""
    height, width = plane.shape
    pad = [min(16, n - 1) for n in (width, height)]
    wide = torch.nn.functional.pad(plane[None], (pad[0], pad[0], pad[1], pad[1]), mode="reflect")[0]
    if noise <= 0:
        return plane
    rings = Rings(*wide.shape)
    power = (rings.mean(torch.fft.rfft2(wide, norm="ortho").abs() ** 2) - noise).clamp(min=0)
    # rings that scatter below the noise are cut at 0, those that scatter above it stay: hold their sum to what is known
    total = float((power * rings.total).sum() / rings.total.sum())
    signal = max(float(plane.var(correction=0)) - noise, 0.0)
    power = power * min(1.0, signal / total) if total > 0 else power
    clean: Tensor = Wiener(rings.spread(power), noise, width=wide.shape[1])(wide)
    return clean[pad[1] : pad[1] + height, pad[0] : pad[0] + width]


def ring_spectrum(plane: Tensor) -> Tensor:
    """The periodogram averaged over rings of equal distance from frequency zero, laid out as by `torch.fft.rfft2`.

    The average has the spectrum's shape without the periodogram's scatter, if the picture has no direction of its own.

    Args:
        plane: `(H, W)`.

    Returns:
        `(H, W//2 + 1)`, for `norm="ortho"`, so that white noise of variance σ² gives about σ² everywhere.

    >>> ring_spectrum(torch.zeros(8, 8)).shape
    torch.Size([8, 5])
    """
    rings = Rings(*plane.shape)
    return rings.spread(rings.mean(torch.fft.rfft2(plane, norm="ortho").abs() ** 2)).to(plane.device)
