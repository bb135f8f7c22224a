"""Calibration error without bins: the residuals smoothed by a Gaussian whose width the error itself sets."""

from __future__ import annotations

import torch
from torch import Tensor

from residyn.statistics.binning import statements
from residyn.statistics.inputs import Kind, Labels, Scores

_GRID = 4096
"""Points on [0, 1]; samples are shared out linearly between neighbours, which moves each by 1/4096 at most."""
_BISECTIONS = 40


def smooth_ece(logits_or_probs: Scores, labels: Labels, *, kind: Kind = "auto") -> float:
    """Smooth calibration error: ∫ |r_σ(t)| dt at the σ that equals it.

    r_σ(t) = mean over samples of (y - p)·K_σ(t, p), with K a Gaussian of width σ reflected at 0 and 1. The integral
    falls as σ grows, so there is one σ that equals it, and no bin to choose. It is Lipschitz in the probabilities,
    where a binned error jumps.

    Args:
        logits_or_probs: As in `ece`.
        labels: As in `ece`.
        kind: As in `ece`.

    Returns:
        The error, in [0, 1].

    Raises:
        InputError: As in `ece`.

    Reference:
        Błasiok & Nakkiran (2023), "Smooth ECE", arXiv:2309.12236.

    >>> round(smooth_ece(torch.tensor([[0.2, 0.8], [0.4, 0.6]]), torch.tensor([1, 1])), 2)
    0.3
    """
    p, y = statements(logits_or_probs, labels, kind)
    spectrum = _spectrum(p, y)
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _error(spectrum, middle) > middle else (low, middle)
        if high - low < 1e-9:
            break
    return (low + high) / 2


def _spectrum(p: Tensor, y: Tensor) -> Tensor:
    """Fourier coefficients of the mean residual on [0, 2), even about 0 and 1: reflection made periodic."""
    place = p.clamp(0, 1) * _GRID
    left = place.floor().clamp(max=_GRID - 1).long()
    share = place - left
    mass = torch.zeros(_GRID + 1, dtype=torch.float64, device=p.device)
    residual = (y - p) / len(p)
    mass.index_add_(0, left, residual * (1 - share)).index_add_(0, left + 1, residual * share)
    even = torch.cat([mass, mass[1:-1].flip(0)])
    even[0], even[_GRID] = 2 * mass[0], 2 * mass[-1]  # an end is its own image
    return torch.fft.rfft(even)


def _error(spectrum: Tensor, sigma: float) -> float:
    """∫ |r_σ| over [0, 1], by the trapezoid rule on the grid."""
    frequency = torch.arange(len(spectrum), dtype=torch.float64, device=spectrum.device)
    # The period is 2: harmonic k has angular frequency πk, which a Gaussian damps by exp(-(πkσ)²/2).
    smooth = torch.fft.irfft(spectrum * torch.exp(-0.5 * (torch.pi * frequency * sigma) ** 2), n=2 * _GRID)
    r = smooth[: _GRID + 1].abs()  # one grid cell's mass each
    return float(r.sum() - (r[0] + r[-1]) / 2)
