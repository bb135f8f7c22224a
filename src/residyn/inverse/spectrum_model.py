"""Noise level and spectrum of a picture, told from its blurred and noisy periodogram by Whittle's likelihood."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_SAMPLES = 4096
_ITERATIONS = 30
_SETTLED = 0.02
"""Gain in log-likelihood below which the fit has arrived: parameters then move by a fifth of their standard error."""
_KNEE = 0.05
"""Largest f₀: a spectrum that is flat up to there belongs to structures of three pixels."""
_FLOOR = 1e-5
"""Least noise assumed, as a share of the picture's standard deviation: 8-bit rounding alone is more."""


@dataclass(frozen=True)
class SpectrumModel:
    """S(f) = A·(f² + f₀²)^(-β/2) for the clean picture, and σ² for white noise; frequencies in cycles a pixel.

    Powers are per pixel: white noise of standard deviation σ has power σ² at every frequency.

    Args:
        amplitude: A.
        exponent: β, about 2 for natural pictures.
        knee: f₀, below which the spectrum is flat.
        sigma: σ, in the units of the pixels.
    """

    amplitude: float
    exponent: float
    knee: float
    sigma: float

    def scaled(self, scale: float) -> SpectrumModel:
        """The model of the picture divided by `scale`.

        >>> SpectrumModel(4.0, 2.0, 0.0, 2.0).scaled(2.0)
        SpectrumModel(amplitude=1.0, exponent=2.0, knee=0.0, sigma=1.0)
        """
        return SpectrumModel(self.amplitude / scale**2, self.exponent, self.knee, self.sigma / scale)

    def power(self, frequency_squared: Tensor) -> Tensor:
        """S(f) from f².

        >>> SpectrumModel(1.0, 2.0, 0.0, 0.1).power(torch.tensor([0.25]))
        tensor([4.])
        """
        base = (frequency_squared + self.knee**2).clamp(min=1e-12)
        return torch.exp(base.log().mul_(-self.exponent / 2)).mul_(self.amplitude)


def squared_frequencies(size: tuple[int, ...]) -> Tensor:
    """f² on the half space of `rfftn`, float64.

    >>> squared_frequencies((2, 2))
    tensor([[0.0000, 0.2500],
            [0.2500, 0.5000]], dtype=torch.float64)
    """
    total = torch.fft.rfftfreq(size[-1], dtype=torch.float64).square()
    for axis, n in enumerate(reversed(size[:-1]), start=1):
        total = total + torch.fft.fftfreq(n, dtype=torch.float64).square().reshape(-1, *[1] * axis)
    return total


def fit_spectrum(coefficients: Tensor, transfer: Tensor, size: tuple[int, ...], *, sigma: float | None = None) -> SpectrumModel:
    """Maximum likelihood of A, β, f₀ and σ, for a picture whose periodogram I has E I = |H|²·S + σ² and exponential scatter.

    Minimises Σ_f log M + I/M over M = |H|²·S + σ² by damped Fisher scoring, on a sample of frequencies that keeps all low ones.
    The mean (f = 0) takes no part.

    Args:
        coefficients: rfftn(b), unscaled, `(*lead, *half)`; leading axes (channels) are averaged.
        transfer: H, on the half space of `rfftn`.
        size: Shape of the picture.
        sigma: σ, if it is known.

    Returns:
        The model.

    Reference:
        Whittle (1953), doi:10.1007/BF02590998; Field (1987), doi:10.1364/JOSAA.4.002379 (the power law of natural pictures).

    >>> f2 = squared_frequencies((64, 64))
    >>> model = fit_spectrum((64 * 64 * (1e-3 / (f2 + 1e-4) + 0.01)).sqrt(), torch.ones_like(f2), (64, 64))
    >>> round(model.sigma, 2), round(model.exponent, 1)
    (0.1, 2.0)
    """
    chosen, f2, weight = _sample(size)
    axes = tuple(range(-len(size), 0))
    picked = coefficients.detach().flatten(axes[0])[..., chosen.to(coefficients.device)]
    data = (picked.abs().double() ** 2 / math.prod(size)).reshape(-1, len(chosen)).mean(0).cpu()
    blur = (transfer.detach().flatten()[chosen.to(transfer.device)].abs().double() ** 2).cpu()
    total = float((data * weight).sum() / weight.sum())
    if not total > 0:
        return SpectrumModel(0.0, 2.0, 0.0, sigma or 0.0)
    dark = blur <= blur.max() * 1e-3
    start = float(data[dark].median()) / math.log(2) if int(dark.sum()) >= 32 else float(data[f2 > 0.2].median()) / 2
    floor = _FLOOR**2 * total
    theta = torch.tensor([math.log(total * 1e-3), 2.0, math.log((1 / max(size)) ** 2), math.log(max(start, floor))]).double()
    low = torch.tensor([-80.0, 0.5, math.log((0.25 / max(size)) ** 2), math.log(floor)]).double()
    high = torch.tensor([80.0, 5.0, math.log(_KNEE**2), math.log(4 * total)]).double()
    free = [0, 1, 2, 3]
    if sigma is not None:
        theta[3] = low[3] = high[3] = 2 * math.log(max(sigma, math.sqrt(floor)))
        free = [0, 1, 2]
    theta = _scored(theta, low, high, free, f2, data, blur, weight)
    a, beta, knee, noise = theta.tolist()
    return SpectrumModel(math.exp(a), beta, math.exp(knee / 2), math.sqrt(math.exp(noise)) if sigma is None else sigma)


def _scored(
    theta: Tensor, low: Tensor, high: Tensor, free: list[int], f2: Tensor, data: Tensor, blur: Tensor, weight: Tensor
) -> Tensor:
    """Damped Fisher scoring within bounds."""
    value, slope, fisher = _likelihood(theta, f2, data, blur, weight)
    damping = 1e-2
    for _ in range(_ITERATIONS):
        # a parameter at its bound that would leave it takes no part
        held = ((theta <= low) & (slope > 0)) | ((theta >= high) & (slope < 0))
        active = [i for i in free if not bool(held[i])]
        matrix = fisher[active][:, active]
        matrix = matrix + damping * torch.diag(matrix.diagonal().clamp(min=1e-12))
        move = torch.zeros_like(theta)
        move[active] = torch.linalg.solve(matrix, slope[active]).clamp(-2.0, 2.0)
        trial = (theta - move).clamp(low, high)
        found = _likelihood(trial, f2, data, blur, weight)
        if found[0] < value:
            settled = value - found[0] < _SETTLED and damping < 1.0
            theta, (value, slope, fisher), damping = trial, found, damping / 5
            if settled:
                break
        elif damping > 1e4:
            break
        else:
            damping *= 8
    return theta


def _likelihood(theta: Tensor, f2: Tensor, data: Tensor, blur: Tensor, weight: Tensor) -> tuple[float, Tensor, Tensor]:
    """Whittle's negative log-likelihood, its gradient, and the Fisher information, in (log A, β, log f₀², log σ²)."""
    base = f2 + theta[2].exp()
    log_base = base.log()
    signal = blur * torch.exp(theta[0] - theta[1] / 2 * log_base)
    noise = theta[3].exp()
    mean = signal + noise
    ratio = data / mean
    value = float((weight * (mean.log() + ratio)).sum())
    share = signal / mean
    # ∂ log M for each parameter
    rows = torch.stack([share, -share * log_base / 2, -share * theta[1] / 2 * (theta[2].exp() / base), 1 - share])
    slope = rows @ (weight * (1 - ratio))
    return value, slope, (rows * weight) @ rows.T


def _sample(size: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Indices into the flat half space, their f² and weights: all low frequencies, and evenly spread ones beyond."""
    half = (*size[:-1], size[-1] // 2 + 1)
    total = math.prod(half)
    if total <= 2 * _SAMPLES:
        index = torch.arange(1, total)
        f2, twice = _at(index, size)
        return index, f2, twice
    # the ball that holds a third of the sample: its volume share of the unit cube is that share of all frequencies
    share = _SAMPLES / 3 / total
    edge = {1: share / 2, 2: math.sqrt(share / math.pi), 3: (3 * share / (4 * math.pi)) ** (1 / 3)}[len(size)]
    box = [torch.arange(-reach, reach + 1) % n for n in size[:-1] for reach in [min(n // 2 - 1, math.ceil(edge * n))]]
    box.append(torch.arange(min(half[-1], math.ceil(edge * size[-1]) + 1)))
    near = torch.zeros((), dtype=torch.long)
    for axis, line in enumerate(box):
        near = near[..., None] * half[axis] + line
    near = near.flatten()
    # a golden-ratio sequence reaches all rings and directions evenly
    far = ((torch.arange(_SAMPLES, dtype=torch.float64) * 0.6180339887498949).frac() * total).long()
    f2_near, weight_near = _at(near, size)
    f2_far, weight_far = _at(far, size)
    inside, outside = (f2_near <= edge**2) & (f2_near > 0), f2_far > edge**2
    # together the far ones stand for all frequencies that the near ones do not
    weight_far = weight_far * float((math.prod(size) - weight_near[inside].sum()) / weight_far[outside].sum())
    index = torch.cat([near[inside], far[outside]])
    return index, torch.cat([f2_near[inside], f2_far[outside]]), torch.cat([weight_near[inside], weight_far[outside]])


def _at(index: Tensor, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """f² at flat indices of the half space, and how many frequencies of the whole space each stands for."""
    half = (*size[:-1], size[-1] // 2 + 1)
    places = torch.unravel_index(index, half)
    f2 = torch.zeros(len(index), dtype=torch.float64)
    for place, n in zip(places, size, strict=True):
        f2 += (torch.minimum(place, n - place).double() / n).square()
    alone = (places[-1] == 0) | (2 * places[-1] == size[-1])
    return f2, torch.where(alone, 1.0, 2.0).double()
