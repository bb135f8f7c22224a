"""Wavelets: an orthonormal transform, the branch of λ·‖W·x‖₁ with its exact proximal map, and a learned shrinkage."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from residyn.branch import Gradient
from residyn.errors import InputError

_ROOT3 = math.sqrt(3.0)
FILTERS: dict[int, tuple[float, ...]] = {
    2: (math.sqrt(0.5), math.sqrt(0.5)),
    4: tuple(c / (4 * math.sqrt(2.0)) for c in (1 + _ROOT3, 3 + _ROOT3, 3 - _ROOT3, 1 - _ROOT3)),
}
"""Low-pass filters by length: Haar's, and Daubechies' of four taps, which is blind to ramps."""


def analyse(x: Tensor, axes: int, levels: int, taps: int = 4) -> tuple[Tensor, list[list[Tensor]]]:
    """The orthonormal wavelet transform over the last axes, periodic borders.

    An axis takes part in a level as long as it is even there and no shorter than the filter.

    Args:
        x: `(…, *shape)`.
        axes: How many axes.
        levels: How often the low part is split again.
        taps: 2 (Haar) or 4 (Daubechies).

    Returns:
        The low part, and for each level its details.

    Raises:
        InputError: If there are no such filters, or less than one level.

    Reference:
        Daubechies (1988), doi:10.1002/cpa.3160410705; Mallat (1989), doi:10.1109/34.192463.

    >>> low, details = analyse(torch.ones(4, 4), 2, 1, taps=2)
    >>> low, float(sum(d.abs().sum() for d in details[0]))
    (tensor([[2., 2.],
             [2., 2.]]), 0.0)
    """
    _check(levels, taps)
    found: list[list[Tensor]] = []
    for _ in range(levels):
        parts = [x]
        for axis in _taking_part(x, axes, taps):
            parts = [half for part in parts for half in _split(part, axis, taps)]
        if len(parts) == 1:
            break
        x = parts[0]
        found.append(parts[1:])
    return x, found


def synthesise(low: Tensor, details: list[list[Tensor]], shape: torch.Size, axes: int, taps: int = 4) -> Tensor:
    """The inverse of `analyse`, and its transpose.

    Args:
        low: The low part.
        details: The details of each level.
        shape: Shape of x.
        axes: As there.
        taps: As there.

    Returns:
        x.

    >>> x = torch.randn(6, 8)
    >>> bool(torch.allclose(synthesise(*analyse(x, 2, 2), x.shape, 2), x, atol=1e-5))
    True
    """
    sizes = [shape]
    for _ in details[:-1]:
        like = torch.empty(sizes[-1], device="meta")
        halved = list(sizes[-1])
        for axis in _taking_part(like, axes, taps):
            halved[axis] //= 2
        sizes.append(torch.Size(halved))
    for size, parts in zip(reversed(sizes[: len(details)]), reversed(details), strict=True):
        whole = [low, *parts]
        for axis in reversed(_taking_part(torch.empty(size, device="meta"), axes, taps)):
            whole = [_join(whole[i], whole[i + 1], axis, taps) for i in range(0, len(whole), 2)]
        low = whole[0]
    return low


class Wavelet(Gradient):
    """The branch of λ·‖W·x‖₁ over the details of an orthonormal wavelet transform; its prox shrinks each of them.

    Args:
        weight: λ > 0.
        axes: Axes of the picture; leading ones are a batch.
        levels: Of the transform.
        taps: 2 (Haar) or 4 (Daubechies).
        shifts: Over how many diagonal shifts of the picture the prox is averaged: more than 1 leaves fewer blocks, and then it
            is the prox of no function any more, but firmly non-expansive as one.

    Raises:
        InputError: If the weight is not positive, or a number is out of range.

    Reference:
        Donoho (1995), doi:10.1109/18.382009; Coifman & Donoho (1995), doi:10.1007/978-1-4612-2544-7_9 (shifts).

    >>> Wavelet(1.0, levels=1, taps=2).prox(torch.tensor([[1.0, 1.2], [1.0, 1.2]]), 1.0)
    tensor([[1.1000, 1.1000],
            [1.1000, 1.1000]])
    """

    def __init__(self, weight: float, *, axes: int = 2, levels: int = 4, taps: int = 4, shifts: int = 1) -> None:
        if not 0 < weight < math.inf:
            raise InputError(f"`weight` must be > 0 and finite, got {weight}")
        if not isinstance(shifts, int) or shifts < 1:
            raise InputError(f"`shifts` must be a whole number >= 1, got {shifts!r}")
        _check(levels, taps)
        self.weight, self.axes, self.levels, self.taps, self.shifts = weight, axes, levels, taps, shifts
        super().__init__(self._energy, self._shrunk)

    def _energy(self, x: Tensor) -> Tensor:
        _, details = analyse(x, self.axes, self.levels, self.taps)
        lead = x.ndim - self.axes
        parts = [part.abs().flatten(lead).sum(-1) for level in details for part in level]
        return self.weight * torch.stack(parts).sum(0) if parts else 0.0 * x.flatten(lead).sum(-1)

    def _shrunk(self, x: Tensor, h: float) -> Tensor:
        around = tuple(range(-self.axes, 0))
        total = torch.zeros_like(x)
        for shift in range(self.shifts):
            moved = x.roll([shift] * self.axes, around)
            low, details = analyse(moved, self.axes, self.levels, self.taps)
            cut = [[nn.functional.softshrink(part, self.weight * h) for part in level] for level in details]
            total = total + synthesise(low, cut, x.shape, self.axes, self.taps).roll([-shift] * self.axes, around)
        return total / self.shifts


class WaveletBranch(nn.Module):
    """A learned proximal branch for `Unrolled`, R(x) = Wᵀ·shrink(W·x, θ) - x, one threshold θ a level; zero at first.

    Args:
        levels: Of the transform.
        taps: 2 (Haar) or 4 (Daubechies).

    >>> WaveletBranch()(torch.ones(1, 1, 16, 16)).abs().max() < 1e-5
    tensor(True)
    """

    def __init__(self, levels: int = 3, taps: int = 4) -> None:
        super().__init__()
        _check(levels, taps)
        self.levels, self.taps = levels, taps
        self.threshold = nn.Parameter(torch.zeros(levels))

    def forward(self, x: Tensor) -> Tensor:
        """R(x), `(B, 1, H, W)`."""
        low, details = analyse(x, 2, self.levels, self.taps)
        # x - Wᵀ·shrink(W·x) = Wᵀ·clip(W·x, ±θ)
        cut = [
            [torch.maximum(torch.minimum(part, theta), -theta) for part in level]
            for level, theta in zip(details, self.threshold.clamp(min=0), strict=False)
        ]
        return -synthesise(torch.zeros_like(low), cut, x.shape, 2, self.taps) if cut else torch.zeros_like(x)


def _check(levels: int, taps: int) -> None:
    if not isinstance(levels, int) or levels < 1:
        raise InputError(f"`levels` must be a whole number >= 1, got {levels!r}")
    if taps not in FILTERS:
        raise InputError(f"`taps` must be one of {', '.join(map(str, FILTERS))}, got {taps!r}")


def _taking_part(x: Tensor, axes: int, taps: int) -> list[int]:
    return [axis for axis in range(-axes, 0) if x.shape[axis] % 2 == 0 and x.shape[axis] >= taps]


def _split(x: Tensor, axis: int, taps: int) -> tuple[Tensor, Tensor]:
    """Low and high half: Σ_k h[k]·x[2i + k], Σ_k (-1)^k·h[K-1-k]·x[2i + k]."""
    low_pass = FILTERS[taps]
    phases = [x.roll(-k, axis)[_every_second(x, axis)] for k in range(taps)]
    low = sum(c * part for c, part in zip(low_pass, phases, strict=True))
    high = sum((-1) ** k * low_pass[taps - 1 - k] * part for k, part in enumerate(phases))
    return torch.as_tensor(low), torch.as_tensor(high)


def _join(low: Tensor, high: Tensor, axis: int, taps: int) -> Tensor:
    low_pass = FILTERS[taps]
    shape = list(low.shape)
    shape[axis] *= 2
    x = low.new_zeros(shape)
    where = _every_second(x, axis)
    for k in range(taps):
        part = low.new_zeros(shape)
        part[where] = low_pass[k] * low + (-1) ** k * low_pass[taps - 1 - k] * high
        x = x + part.roll(k, axis)
    return x


def _every_second(x: Tensor, axis: int) -> tuple[slice, ...]:
    return tuple(slice(None, None, 2) if i == x.ndim + axis else slice(None) for i in range(x.ndim))
