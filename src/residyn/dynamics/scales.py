"""Noise and time scales of sampled trajectories, from divided differences; irregular sampling is no special case."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from residyn.dynamics.theory import Scales

Pieces = Sequence[tuple[Tensor, Tensor]]
"""Trajectories: times `(n,)` and states `(n, d)` of each."""

_ORDERS = (2, 3, 4, 5, 6)
_TRUSTED = 4.0
"""A derivative is read off where its mean square stands out of the noise by this factor."""


def noise(pieces: Pieces) -> Tensor:
    """Standard deviation of the noise on each component, from high-order differences.

    A combination of q+1 neighbouring samples that annihilates polynomials of degree q-1, with weights of unit norm, has the
    variance σ² plus what the signal's q-th derivative leaves. The least over q is taken: more neighbours remove more signal.

    Args:
        pieces: Trajectories.

    Returns:
        σ, `(d,)`; 0 where there are too few samples to tell.

    Reference:
        von Neumann (1941), doi:10.1214/aoms/1177731677; Hall, Kay & Titterington (1990), doi:10.1093/biomet/77.3.521.

    >>> t = torch.linspace(0, 1, 9)
    >>> noise([(t, (t**2)[:, None])]).item() < 1e-6
    True
    """
    width = pieces[0][1].shape[1]
    least = torch.full((width,), math.inf, dtype=torch.float64)
    stacks = _stacked(pieces)
    for order in _ORDERS:
        squares = [_combination(t, x, order)[0].square() for t, x in stacks if t.shape[1] > order]
        if squares and sum(map(len, squares)) >= 3:
            least = torch.minimum(least, torch.cat(squares).mean(0))
    return torch.where(least.isfinite(), least, 0.0).sqrt()


def derivative_rms(pieces: Pieces, order: int, sigma: Tensor) -> Tensor:
    """Root mean square of the derivative x^(order) of each component, noise taken off.

    The smallest stride at which the divided differences stand well out of the noise is used; where none does, the largest.

    Args:
        pieces: Trajectories.
        order: Which derivative.
        sigma: Standard deviation of the noise, `(d,)`.

    Returns:
        The root mean square, `(d,)`.
    """
    stacks = _stacked(pieces)
    longest = max(len(t) for t, _ in pieces)
    result = torch.zeros_like(sigma)
    open_ = torch.ones_like(sigma, dtype=torch.bool)
    stride = 1
    while bool(open_.any()) and order * stride < longest:
        parts = [_combination(t[:, i::stride], x[:, i::stride], order) for t, x in stacks for i in range(stride)]
        # value = derivative/scale + noise of unit weights: so derivative² = (value² - σ²)·scale²
        values = torch.cat([value * scale[:, None] for value, scale in parts])
        scales = torch.cat([scale for _, scale in parts])
        if len(values) < 3:
            break
        total, disturbance = values.square().mean(0), sigma.square() * scales.square().mean()
        clear = total > _TRUSTED * disturbance
        result = torch.where(open_, (total - disturbance).clamp_min(0.0).sqrt(), result)
        open_ = open_ & ~clear
        stride *= 2
    return result


def scales(pieces: Pieces) -> Scales:
    """The scales that decide between the routes.

    Args:
        pieces: Trajectories.

    Returns:
        Scales of the data, each component divided by its standard deviation.

    >>> t = torch.linspace(0, 20, 400, dtype=torch.float64)
    >>> found = scales([(t, torch.stack([t.sin(), t.cos()], 1))])
    >>> round(found.second / found.rate, 2), round(found.third / found.rate, 2)
    (1.0, 1.0)
    """
    states = torch.cat([x for _, x in pieces])
    spread = spread_of(states)
    scaled = [(t, x / spread) for t, x in pieces]
    # rounding counts as noise, or a constant would seem to move
    sigma = noise(scaled).hypot(1e-15 * (states / spread).abs().amax(0))
    rate, second, third = (_rms(derivative_rms(scaled, k, sigma)) for k in (1, 2, 3))
    step = float(torch.cat([t.diff() for t, _ in pieces]).median())
    coarse = noise([(t[i::2], x[i::2]) for t, x in scaled for i in (0, 1)])
    growth = _rms(coarse) / _rms(sigma) if _rms(sigma) > 0 and _rms(coarse) > 0 else 1.0
    return Scales(step, _rms(sigma), _pull(states / spread, sigma), rate, second, third, growth)


def spread_of(states: Tensor) -> Tensor:
    """Standard deviation of each component, `(d,)`; 1 for one that never changes."""
    spread = states.std(0)
    return torch.where(spread > 1e-12 * states.abs().amax(0).clamp_min(1e-300), spread, 1.0)


def _pull(states: Tensor, sigma: Tensor) -> float:
    """√(tr(Σ·C⁻¹·Σ)/d) with Σ = diag(σ²): the size of σ²·∇log p for a density of covariance C."""
    width = states.shape[1]
    covariance = torch.cov(states.T).reshape(width, width) + 1e-9 * torch.eye(width, dtype=states.dtype)
    variance = torch.diag(sigma.square())
    # C holds signal and noise: it cannot be smaller than the noise in any direction
    values, axes = torch.linalg.eigh(covariance)
    inverse = axes @ torch.diag(1 / torch.maximum(values, (axes.T @ variance @ axes).diagonal())) @ axes.T
    return math.sqrt(float((variance @ inverse @ variance).trace()) / width)


def _combination(t: Tensor, x: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Unit-weight combinations `(m, d)` of order+1 neighbours, and the factor `(m,)` that makes the derivative of them.

    Times are `(k, n)`, states `(k, n, d)`.
    """
    if t.shape[1] <= order:
        return x.new_zeros(0, x.shape[2]), x.new_zeros(0)
    windows = t.unfold(1, order + 1, 1)  # (k, n-q, q+1)
    gaps = windows[..., :, None] - windows[..., None, :]
    weights = 1 / (gaps + torch.eye(order + 1, dtype=t.dtype)).prod(-1)  # (k, n-q, q+1), divided differences
    norm = weights.norm(dim=-1, keepdim=True)
    values = (x.unfold(1, order + 1, 1) * (weights / norm)[:, :, None]).sum(-1)  # (k, n-q, d)
    return values.flatten(0, 1), norm.flatten() * math.factorial(order)


def _stacked(pieces: Pieces) -> list[tuple[Tensor, Tensor]]:
    """Trajectories of equal length in one tensor each: times `(k, n)`, states `(k, n, d)`."""
    groups: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for t, x in pieces:
        groups.setdefault(len(t), []).append((t, x))
    return [(torch.stack([t for t, _ in group]), torch.stack([x for _, x in group])) for group in groups.values()]


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
