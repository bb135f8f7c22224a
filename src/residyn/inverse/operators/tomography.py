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

    A pixel is a square that casts a trapezoid on the detectors, of widths |cos| and |sin|; each gets the share that falls on
    it, three at most, so that mass is kept and the adjoint (the back-projection) is exact. Angles turn as in scikit-image:
    at 0° the rays run down the columns.

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
        place = torch.arange(n, dtype=torch.float64) - n // 2
        self.register_buffer("_place", place, persistent=False)

    _place: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The sinogram, `(…, angles, n)`."""
        check_shape(x, self.domain, "x")
        n, flat = self.domain[0], x.flatten(-2)
        rows = []
        for angle in self.angles.tolist():
            row = flat.new_zeros(*flat.shape[:-1], n + 4)
            for bins, share in self._footprint(angle):
                row = row.index_add(-1, bins, share * flat)
            rows.append(row[..., 2:-2])
        return torch.stack(rows, -2)

    def adjoint(self, y: Tensor) -> Tensor:
        """The back-projection, `(…, n, n)`."""
        check_shape(y, self.range, "y")
        n = self.domain[0]
        x = y.new_zeros(*y.shape[:-2], n * n)
        for i, angle in enumerate(self.angles.tolist()):
            row = torch.nn.functional.pad(y[..., i, :], (2, 2))
            for bins, share in self._footprint(angle):
                x = x + share * row.index_select(-1, bins)
        return x.reshape(*x.shape[:-1], n, n)

    def norm_bound(self) -> Estimate:
        """Certified by Collatz and Wielandt: no entry is negative; a Lanczos bound where a pixel is seen by no ray."""
        return nonnegative_bound(self) or super().norm_bound()

    def _footprint(self, angle: float) -> list[tuple[Tensor, Tensor]]:
        """For each pixel the detector it falls on and the two beside it, counted from two before the first; their shares."""
        n, turn = self.domain[0], math.radians(angle)
        t = (self._place[None, :] * math.cos(turn) - self._place[:, None] * math.sin(turn)).flatten() + n // 2
        t = t.clamp(-2 + 1e-9, n + 1 - 1e-9)  # beside the detectors: all mass into bins that are cut off
        centre = t.round()
        widths = abs(math.cos(turn)), abs(math.sin(turn))
        before, upto = (_trapezoid(centre + edge - t, *widths) for edge in (-0.5, 0.5))
        middle = centre.long() + 2
        shares = ((middle - 1, before), (middle, upto - before), (middle + 1, 1 - upto))
        return [(bins.clamp(0, n + 3), share.to(self.dtype)) for bins, share in shares]


def _trapezoid(u: Tensor, a: float, b: float) -> Tensor:
    """The share left of u of a box of width a smeared by one of width b, both centred at 0."""
    a, b = max(a, b), max(min(a, b), 1e-5)
    corners = ((a + b) / 2, 1.0), ((a - b) / 2, -1.0), ((b - a) / 2, -1.0), (-(a + b) / 2, 1.0)
    total = torch.zeros_like(u)
    for corner, sign in corners:
        total += sign * (u + corner).clamp(min=0).square()
    return (total / (2 * a * b)).clamp(0, 1)
