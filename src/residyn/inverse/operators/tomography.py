"""The Radon transform: projections of a slice along parallel rays, as in computed tomography."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.inverse.operators.base import Operator, check_shape, nonnegative_bound
from residyn.results import Estimate


class Radon(Operator):
    """Line integrals of an n×n slice along parallel rays, one row of n detectors an angle.

    Each pixel's mass falls on the two detectors nearest to its projection, in linear shares, so that the adjoint (the
    back-projection) is exact. Angles turn as in scikit-image: at 0° the rays run down the columns.

    Args:
        n: Pixels on a side.
        angles: In degrees.

    Raises:
        InputError: If n < 2, or the angles are not a list of finite numbers.

    Reference:
        Kak & Slaney (1988), "Principles of Computerized Tomographic Imaging", doi:10.1137/1.9780898719277.

    >>> Radon(2, [0.0])(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([[4., 6.]])
    """

    angles: Tensor

    def __init__(self, n: int, angles: Any, *, dtype: torch.dtype = torch.float32) -> None:
        turns = torch.as_tensor(angles, dtype=torch.float64).detach()
        if not isinstance(n, int) or n < 2:
            raise InputError(f"`n` must be a whole number >= 2, got {n!r}; it is the side of the slice in pixels")
        if turns.ndim != 1 or not len(turns) or not bool(torch.isfinite(turns).all()):
            raise InputError(f"`angles` must be a list of finite degrees, got shape {tuple(turns.shape)}")
        super().__init__((n, n), (len(turns), n), dtype)
        self.register_buffer("angles", turns)
        # what falls beside the detectors goes to two bins that are cut off
        place = torch.arange(n, dtype=torch.float64) - n // 2
        self.register_buffer("_place", place, persistent=False)

    _place: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The sinogram, `(…, angles, n)`."""
        check_shape(x, self.domain, "x")
        n, flat = self.domain[0], x.flatten(-2)
        rows = []
        for angle in self.angles.tolist():
            low, share = self._bins(angle)
            row = flat.new_zeros(*flat.shape[:-1], n + 2)
            high = share * flat
            row = row.index_add(-1, low, flat - high).index_add(-1, low + 1, high)
            rows.append(row[..., 1:-1])
        return torch.stack(rows, -2)

    def adjoint(self, y: Tensor) -> Tensor:
        """The back-projection, `(…, n, n)`."""
        check_shape(y, self.range, "y")
        n = self.domain[0]
        x = y.new_zeros(*y.shape[:-2], n * n)
        for i, angle in enumerate(self.angles.tolist()):
            low, share = self._bins(angle)
            row = torch.nn.functional.pad(y[..., i, :], (1, 1))
            start = row.index_select(-1, low)
            x = x + torch.lerp(start, row.index_select(-1, low + 1), share)
        return x.unflatten(-1, (n, n))

    def norm_bound(self) -> Estimate:
        """Certified by Collatz and Wielandt: no entry is negative; a Lanczos bound where a pixel is seen by no ray."""
        return nonnegative_bound(self) or super().norm_bound()

    def _bins(self, angle: float) -> tuple[Tensor, Tensor]:
        """The lower detector of each pixel, and the share of the upper one."""
        n, turn = self.domain[0], math.radians(angle)
        t = self._place[None, :] * math.cos(turn) - self._place[:, None] * math.sin(turn) + n // 2 + 1
        t = t.flatten()
        outside = (t < 0) | (t > n + 1)
        low = t.floor().clamp(0, n).long()
        share = (t - low).clamp(0, 1)
        # beside the detectors: all mass into a bin that is cut off
        share = torch.where(outside, (t > n + 1).double(), share)
        return low, share.to(self.dtype)
