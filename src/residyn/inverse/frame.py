"""A periodic frame around a picture, so that one pair of FFTs solves what has borders."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from residyn.inverse.operators.blur import Boundary, crop
from residyn.inverse.operators.border import smooth_size


@dataclass(frozen=True)
class Frame:
    """Where a picture lies on a periodic grid: in its corner, with a gap behind it that joins its far edge to its near one.

    Args:
        shape: Of the picture.
        size: Of the grid.
    """

    shape: tuple[int, ...]
    size: tuple[int, ...]

    @classmethod
    def around(cls, shape: tuple[int, ...], psf: tuple[int, ...], boundary: Boundary) -> Frame:
        """The picture itself if it is periodic, else with a gap that the blur and its inverse can not cross.

        >>> Frame.around((100, 100), (9, 9), "symmetric").size
        (120, 120)
        """
        if boundary == "circular":
            return cls(shape, shape)
        return cls(shape, tuple(smooth_size(n + min(n, max(16, 2 * (k - 1)))) for n, k in zip(shape, psf, strict=True)))

    @property
    def noise_share(self) -> float:
        """Mean variance on the grid of white noise of variance 1 in the picture: fading two images averages their noise.

        >>> Frame((100, 100), (100, 100)).noise_share
        1.0
        """
        share = 1.0
        for n, size in zip(self.shape, self.size, strict=True):
            fade = _fade(size - n)
            share *= (n + float((fade**2 + (1 - fade) ** 2).sum())) / size
        return share

    def place(self, x: Tensor) -> Tensor:
        """Fill the gap with the mirror images of both edges, one fading into the other.

        >>> Frame((3,), (5,)).place(torch.tensor([1.0, 2.0, 3.0]))
        tensor([1.0000, 2.0000, 3.0000, 2.7500, 1.2500])
        """
        for axis, (n, size) in enumerate(zip(self.shape, self.size, strict=True), start=-len(self.shape)):
            gap = size - n
            if not gap:
                continue
            near, far = x.narrow(axis, 0, min(gap, n)).flip(axis), x.narrow(axis, n - min(gap, n), min(gap, n)).flip(axis)
            if gap > n:  # a picture smaller than the gap: its edges hold on
                reach = gap - n
                near = torch.cat([x.narrow(axis, n - 1, 1).expand(*_sized(x, axis, reach)), near], axis)
                far = torch.cat([far, x.narrow(axis, 0, 1).expand(*_sized(x, axis, reach))], axis)
            fade = _fade(gap).to(x).reshape(-1, *[1] * (-axis - 1))
            x = torch.cat([x, torch.lerp(near, far, fade)], axis)
        return x

    def crop(self, x: Tensor) -> Tensor:
        """The picture back from the grid."""
        return crop(x, [0] * len(self.shape), self.shape)

    def refill(self, x: Tensor, b: Tensor) -> Tensor:
        """A field on the grid with the picture b put where it belongs: the gap keeps what x says."""
        y = x.clone()
        self.crop(y).copy_(b)
        return y


def _fade(gap: int) -> Tensor:
    """From 1 to 0 over the gap, as a raised cosine."""
    place = (torch.arange(gap, dtype=torch.float64) + 1) / (gap + 1)
    return 0.5 + 0.5 * torch.cos(torch.pi * place)


def _sized(x: Tensor, axis: int, size: int) -> list[int]:
    shape = list(x.shape)
    shape[axis] = size
    return shape
