"""Averages over rings of equal distance from frequency zero."""

from __future__ import annotations

import torch
from torch import Tensor


class Rings:
    """Rings in the half plane of frequencies that `torch.fft.rfft2` gives, one a cycle per shorter side.

    A frequency between two rings counts for both, by linear weights; the half plane's columns count twice where they
    stand for two.

    Args:
        height: H of the picture.
        width: W of the picture.

    >>> rings = Rings(8, 8)
    >>> bool(torch.allclose(rings.mean(torch.ones(8, 5)), torch.ones(len(rings)).double()))
    True
    """

    def __init__(self, height: int, width: int) -> None:
        rows = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
        columns = torch.fft.rfftfreq(width, dtype=torch.float64)
        place = torch.hypot(rows, columns) * min(height, width)
        self._low = place.floor().long()
        self._share = place - self._low
        twice = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64)
        twice[0] = 1.0
        if width % 2 == 0:
            twice[-1] = 1.0
        self._index = torch.cat([self._low.flatten(), self._low.flatten() + 1])
        self._weight = torch.cat([(twice * (1 - self._share)).flatten(), (twice * self._share).flatten()])
        self.total = torch.bincount(self._index, weights=self._weight)
        """Weight of each ring; their sum is H·W."""
        squares = torch.bincount(self._index, weights=self._weight**2 / twice.expand(height, -1).flatten().repeat(2))
        self.count = self.total**2 / squares.clamp(min=1e-12)
        """How many independent real coefficients each ring's mean is worth."""
        self.frequency = torch.arange(len(self.total), dtype=torch.float64) / min(height, width)
        """Frequency of each ring, in cycles a pixel."""

    def __len__(self) -> int:
        return len(self.total)

    def mean(self, values: Tensor) -> Tensor:
        """Mean of values `(H, W//2 + 1)` over each ring."""
        total = torch.bincount(self._index, weights=self._weight * values.double().flatten().repeat(2))
        return total / self.total.clamp(min=1e-12)

    def spread(self, means: Tensor) -> Tensor:
        """Values a ring laid out on the half plane, linear between rings: `(H, W//2 + 1)`."""
        return means[self._low] * (1 - self._share) + means[self._low + 1] * self._share
