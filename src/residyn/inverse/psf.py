"""Point spread functions: by name, from a file's array, and made fit for use."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from residyn.errors import InputError, ResidynWarning
from residyn.inverse.operators.blur import check_kernel

FORMS = "gaussian:SIGMA, motion:LENGTH,ANGLE, disk:RADIUS, for a volume gaussian:SIGMA_Z,SIGMA_Y,SIGMA_X"
_FINE = 8


LARGEST = 2000
"""Pixels; a blur that is wider leaves nothing of a picture."""


def gaussian(*sigma: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """A Gaussian of standard deviation σ pixels, cut at 4σ, of sum one.

    Args:
        sigma: One number for a picture, or one an axis: `(σ_y, σ_x)`, for a volume `(σ_z, σ_y, σ_x)`.
        dtype: Of the kernel.

    Raises:
        InputError: If there are more than three, or one is not positive or is absurdly large.

    >>> gaussian(1.0).shape, gaussian(2.0, 1.0, 1.0).shape
    (torch.Size([9, 9]), torch.Size([17, 9, 9]))
    """
    widths = sigma * 2 if len(sigma) == 1 else sigma
    if not 1 < len(widths) <= 3 or not all(0 < width <= LARGEST / 8 for width in widths):
        got = ", ".join(map(str, sigma))
        raise InputError(
            f"`sigma` of a gaussian must be > 0 pixels and at most {LARGEST / 8:g}, once or once an axis, got {got}"
        )
    kernel = torch.ones((), dtype=torch.float64)
    for width in widths:
        radius = max(1, math.ceil(4 * width))
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
        line = torch.exp(-(offsets**2) / (2 * width**2))
        kernel = kernel[..., None] * (line / line.sum())
    return kernel.to(dtype)


def motion(length: float, angle: float, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """A straight line of this length in pixels at this angle in degrees, anticlockwise from the rows, of sum one.

    >>> motion(3.0, 0.0).sum(0).round(decimals=2)
    tensor([0.3300, 0.3300, 0.3300], dtype=torch.float64)
    """
    if not 1 <= length <= LARGEST or not math.isfinite(angle):
        raise InputError(f"`length` of a motion must be 1 to {LARGEST} pixels and `angle` finite, got {length} and {angle}")
    count = 64 * math.ceil(length)
    place = (torch.arange(count, dtype=torch.float64) + 0.5) / count * length - length / 2
    turn = math.radians(angle)
    points = torch.stack([-place * math.sin(turn), place * math.cos(turn)], -1)
    reach = [math.floor(length / 2 * abs(part) + 0.5 - 1e-9) for part in (math.sin(turn), math.cos(turn))]
    return _counted(points, reach).to(dtype)


def disk(radius: float, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """A disk of this radius in pixels, the blur of a lens out of focus, its edge in shares of a pixel, of sum one.

    >>> disk(1.0).shape
    torch.Size([3, 3])
    """
    if not 0 < radius <= LARGEST / 2:
        raise InputError(f"`radius` of a disk must be > 0 pixels and at most {LARGEST // 2}, got {radius}")
    reach = math.ceil(radius - 0.5) if radius > 0.5 else 0
    fine = (torch.arange((2 * reach + 1) * _FINE, dtype=torch.float64) + 0.5) / _FINE - reach - 0.5
    inside = (fine[:, None] ** 2 + fine[None] ** 2 <= radius**2).double()
    side = 2 * reach + 1
    shares = inside.reshape(side, _FINE, side, _FINE).mean((1, 3))
    return (shares / shares.sum()).to(dtype)


def parse(text: str) -> Tensor:
    """A PSF from its name: `gaussian:2`, `motion:15,30`, `disk:3`.

    Raises:
        InputError: If the text is no such name.

    >>> parse("disk:2").shape
    torch.Size([5, 5])
    """
    name, _, rest = text.partition(":")
    makers: dict[str, tuple[Any, tuple[int, ...]]] = {
        "gaussian": (gaussian, (1, 2, 3)),
        "motion": (motion, (2,)),
        "disk": (disk, (1,)),
    }
    try:
        numbers = [float(part) for part in rest.split(",")]
    except ValueError:
        numbers = []
    if name not in makers or len(numbers) not in makers[name][1]:
        raise InputError(f"`--psf` must be one of {FORMS}, or a file, got {text!r}; e.g. gaussian:2")
    kernel: Tensor = makers[name][0](*numbers)
    return kernel


def normalised(psf: Any, *, shape: tuple[int, ...] | None = None) -> Tensor:
    """A PSF of sum one, which keeps the brightness of a picture; where it had another sum a warning says so.

    Args:
        psf: The kernel, centred in its array (at k//2 on an even side).
        shape: Shape of the picture, which it must not exceed.

    Returns:
        The kernel, in its own precision.

    Raises:
        InputError: If it is not finite, zero, sums to zero, or is larger than the picture.

    >>> normalised(torch.full((3, 3), 1 / 9)).sum()
    tensor(1.)
    """
    kernel = check_kernel(psf)
    if shape is not None and (len(shape) != kernel.ndim or any(k > n for k, n in zip(kernel.shape, shape, strict=True))):
        raise InputError(
            f"`psf` must have {len(shape)} axes and be no larger than the picture, {tuple(shape)}, got {tuple(kernel.shape)}; "
            "crop it to where it is not negligible"
        )
    total = float(kernel.double().sum())
    if abs(total) <= 1e-6 * float(kernel.double().abs().sum()):
        raise InputError("`psf` must not sum to zero, got one that does; it would take all brightness from the picture")
    if total < 0:
        raise InputError(
            f"`psf` must have a sum > 0, got {total:.4g}; a spread of light is positive: is it negated, or shifted?"
        )
    if abs(total - 1) > 1e-3:
        warnings.warn(f"`psf` sums to {total:.6g}, not to one; it was divided by its sum", ResidynWarning, stacklevel=3)
    return (kernel.double() / total).to(kernel.dtype)


def unit(psf: Tensor) -> Tensor:
    """A PSF over its sum, without a word.

    >>> unit(torch.tensor([1.0, 3.0]))
    tensor([0.2500, 0.7500])
    """
    return psf / psf.sum()


def _counted(points: Tensor, reach: list[int]) -> Tensor:
    """The share of points in each pixel."""
    sides = [2 * r + 1 for r in reach]
    cells = [(points[:, axis] + 0.5).floor().long().clamp(-reach[axis], reach[axis]) + reach[axis] for axis in range(2)]
    counts = torch.bincount(cells[0] * sides[1] + cells[1], minlength=sides[0] * sides[1]).double().reshape(sides)
    return counts / counts.sum()
