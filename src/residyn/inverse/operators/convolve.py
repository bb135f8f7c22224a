"""Three ways to convolve, and which is cheapest: shifted adds for separable kernels, direct for tiny ones, else the FFT."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from residyn.inverse.operators.border import smooth_size

Backend = Literal["direct", "separable", "fft"]

_TAPS = 64
"""Shifted adds, one a tap, that cost about as much as a pair of FFTs (one thread, 512×512; benchmarks/inverse.py)."""


def factors(psf: Tensor) -> list[Tensor] | None:
    """One kernel an axis whose outer product is the PSF to rounding; `None` if there are none.

    >>> [k.tolist() for k in factors(torch.tensor([[0.1, 0.3], [0.15, 0.45]]))]
    [[0.4, 0.6], [0.25, 0.75]]
    """
    top = int(psf.abs().argmax())
    index = [int(i) for i in torch.unravel_index(torch.tensor(top), psf.shape)]
    peak = psf[tuple(index)]
    lines = []
    for axis in range(psf.ndim):
        place: list[int | slice] = list(index)
        place[axis] = slice(None)
        lines.append(psf[tuple(place)] / peak)
    outer = torch.ones((), dtype=psf.dtype, device=psf.device)
    for line in lines:
        outer = outer[..., None] * line
    if not bool(((outer * peak - psf).abs() <= 8 * torch.finfo(psf.dtype).eps * peak.abs()).all()):
        return None
    first = index[0]
    lines[0] = lines[0] * (peak / lines[0][first])
    return lines if psf.ndim != 2 else _balanced(lines)


def _balanced(lines: list[Tensor]) -> list[Tensor]:
    """The scale on one of the two, as the sums say, so that kernels of sum one have factors of sum one."""
    total = lines[1].sum()
    return [lines[0] * total, lines[1] / total] if abs(float(total)) > 1e-3 * float(lines[1].abs().sum()) else lines


def choose(psf: Tensor) -> Backend:
    """The cheapest way for a kernel.

    >>> choose(torch.eye(3)), choose(torch.ones(9, 9)), choose(torch.eye(9))
    ('direct', 'separable', 'fft')
    """
    if sum(psf.shape) <= _TAPS and factors(psf) is not None:
        return "separable"
    return "direct" if max(psf.shape) <= 3 else "fft"


def direct(x: Tensor, psf: Tensor, *, full: bool = False) -> Tensor:
    """Convolution without borders, (h * x)[k - 1 ≤ i < n], or with zeros all around (`full`)."""
    d = psf.ndim
    convolve = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}[d]
    flat = x.reshape(-1, 1, *x.shape[-d:])
    padding = [k - 1 for k in psf.shape] if full else [0] * d
    y = convolve(flat, psf.flip(tuple(range(d)))[None, None], padding=padding)
    return y.reshape(*x.shape[:-d], *y.shape[2:])


def separable(x: Tensor, lines: list[Tensor], *, full: bool = False) -> Tensor:
    """The same, axis by axis, as a sum of shifted copies."""
    for axis, line in enumerate(lines, start=-len(lines)):
        taps = line.tolist()
        k = len(taps)
        if full:
            pad = [0] * (2 * (-axis - 1)) + [k - 1, k - 1]
            x = torch.nn.functional.pad(x, pad)
        n = x.shape[axis] - k + 1
        y = x.narrow(axis, k - 1, n) * taps[0]
        for j in range(1, k):
            y.add_(x.narrow(axis, k - 1 - j, n), alpha=taps[j])
        x = y
    return x


class Transform:
    """The real FFT of a fixed size over the last axes, with zeros up to it.

    Args:
        size: Size of the transform.
    """

    def __init__(self, size: tuple[int, ...]) -> None:
        self.size = size
        self.axes = tuple(range(-len(size), 0))

    @classmethod
    def smooth(cls, size: tuple[int, ...]) -> Transform:
        """A transform at least this large, on sizes the FFT likes."""
        return cls(tuple(smooth_size(n) for n in size))

    def forward(self, x: Tensor) -> Tensor:
        """Coefficients in the half space, `(…, n₁, …, n_d//2 + 1)`."""
        y: Tensor = torch.fft.rfftn(x, s=self.size, dim=self.axes)
        return y

    def backward(self, coefficients: Tensor) -> Tensor:
        """The real field of this size."""
        y: Tensor = torch.fft.irfftn(coefficients, s=self.size, dim=self.axes)
        return y
