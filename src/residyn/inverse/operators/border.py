"""Borders: a picture continued beyond its edges, the adjoint of that, and sizes that the FFT likes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Mode = Literal["symmetric", "circular", "zero"]


def smooth_size(n: int) -> int:
    """The least number ≥ n without a prime factor above 7.

    >>> smooth_size(529), smooth_size(11)
    (540, 12)
    """
    while True:
        rest = n
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


def extend(x: Tensor, margins: Sequence[tuple[int, int]], mode: Mode) -> Tensor:
    """Continue the last axes of x: mirrored about the edge of the border pixel, or periodically.

    >>> extend(torch.arange(3.0), [(1, 2)], "symmetric")
    tensor([0., 0., 1., 2., 2., 1.])
    """
    for axis, (left, right) in enumerate(margins, start=-len(margins)):
        n = x.shape[axis]
        parts = [x]
        if mode == "zero":
            parts = [x.new_zeros(_with(x, axis, left)), x, x.new_zeros(_with(x, axis, right))]
        elif mode == "circular":
            parts = [x.narrow(axis, n - left, left), x, x.narrow(axis, 0, right)]
        else:
            parts = [x.narrow(axis, 0, left).flip(axis), x, x.narrow(axis, n - right, right).flip(axis)]
        if left or right:
            x = torch.cat(parts, axis)
    return x


def fold(y: Tensor, margins: Sequence[tuple[int, int]], mode: Mode) -> Tensor:
    """The adjoint of `extend`: what lies in a margin is added where it was taken from.

    >>> fold(torch.ones(6), [(1, 2)], "symmetric")
    tensor([2., 2., 2.])
    """
    for axis, (left, right) in enumerate(margins, start=-len(margins)):
        n = y.shape[axis] - left - right
        x = y.narrow(axis, left, n)
        if (left or right) and mode != "zero":
            before, after = y.narrow(axis, 0, left), y.narrow(axis, left + n, right)
            x = x.clone()
            if mode == "circular":
                x.narrow(axis, n - left, left).add_(before)
                x.narrow(axis, 0, right).add_(after)
            else:
                x.narrow(axis, 0, left).add_(before.flip(axis))
                x.narrow(axis, n - right, right).add_(after.flip(axis))
        y = x
    return y


def _with(x: Tensor, axis: int, size: int) -> list[int]:
    shape = list(x.shape)
    shape[axis] = size
    return shape


def cosine_transform(x: Tensor, axis: int) -> Tensor:
    """The orthonormal DCT-II along an axis, by one complex FFT of the same length.

    It diagonalises every blur with a symmetric kernel and mirrored borders.

    Reference:
        Makhoul (1980), doi:10.1109/TASSP.1980.1163351; Ng, Chan & Tang (1999), doi:10.1137/S1064827598341384.

    >>> cosine_transform(torch.ones(4), 0)
    tensor([2., 0., 0., 0.])
    """
    n = x.shape[axis]
    even = x.index_select(axis, torch.arange(0, n, 2, device=x.device))
    odd = x.index_select(axis, torch.arange(1, n, 2, device=x.device)).flip(axis)
    turned = torch.fft.fft(torch.cat([even, odd], axis), dim=axis) * _turn(x, axis).conj()
    return turned.real * _norms(x, axis)


def inverse_cosine_transform(x: Tensor, axis: int) -> Tensor:
    """The inverse, and transpose, of `cosine_transform`.

    >>> inverse_cosine_transform(torch.tensor([2.0, 0.0, 0.0, 0.0]), 0)
    tensor([1., 1., 1., 1.])
    """
    n = x.shape[axis]
    scaled = x / _norms(x, axis)
    backward = torch.cat([torch.zeros_like(scaled.narrow(axis, 0, 1)), scaled.narrow(axis, 1, n - 1).flip(axis)], axis)
    shuffled = torch.fft.ifft(torch.complex(scaled, -backward) * _turn(x, axis), dim=axis).real
    half = (n + 1) // 2
    order = torch.empty(n, dtype=torch.long, device=x.device)
    order[0::2] = torch.arange(half, device=x.device)
    order[1::2] = torch.arange(n - 1, half - 1, -1, device=x.device)
    return shuffled.index_select(axis, order)


def _turn(x: Tensor, axis: int) -> Tensor:
    """exp(iπk/2n), laid along the axis."""
    n = x.shape[axis]
    angle = torch.arange(n, dtype=torch.float64, device=x.device) * (torch.pi / (2 * n))
    turn = torch.polar(torch.ones_like(angle), angle).to(torch.complex128 if x.dtype == torch.float64 else torch.complex64)
    return turn.reshape([-1] + [1] * (-axis - 1 if axis < 0 else x.ndim - axis - 1))


def _norms(x: Tensor, axis: int) -> Tensor:
    n = x.shape[axis]
    norms = torch.full((n,), (2 / n) ** 0.5, dtype=x.dtype, device=x.device)
    norms[0] = (1 / n) ** 0.5
    return norms.reshape([-1] + [1] * (-axis - 1 if axis < 0 else x.ndim - axis - 1))
