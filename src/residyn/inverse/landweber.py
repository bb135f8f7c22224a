"""Gradient descent on ½‖H·x - b‖²: k equal residual blocks, in closed form where H is diagonal, and when to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.inverse.filters import landweber_gain
from residyn.inverse.frame import Frame
from residyn.inverse.operators.blur import Blur, Boundary, crop, squared
from residyn.inverse.restoration import Forecast
from residyn.inverse.spectrum_model import SpectrumModel
from residyn.inverse.steps import DataStep

MOST = 1000
"""Steps at which the discrepancy gives up."""


@dataclass(frozen=True)
class Descent:
    """Where gradient descent ended."""

    x: Tensor
    residuals: list[float]
    steps: int
    step: float
    filter: Tensor | None
    transfer: Tensor
    notes: tuple[str, ...]


def run(
    field: Tensor,
    kernel: Tensor,
    boundary: Boundary,
    model: SpectrumModel,
    frame: Frame,
    framed: Blur,
    steps: int | None,
    step: float | None,
) -> Descent:
    """`steps` blocks from x = 0; by the discrepancy principle, ‖H·x - b‖ ≤ σ√N, where `steps` is not given.

    Args:
        field: b, `(C, *shape)`.
        kernel: The PSF.
        boundary: Of the picture.
        model: Noise and spectrum, for stopping and forecast.
        frame: A periodic frame of the picture, for the forecast.
        framed: The blur on it.
        steps: k.
        step: α.

    Returns:
        The picture, residuals, and notes where k is past its best.

    Raises:
        InputError: If the step is too long: then the blocks diverge.

    Reference:
        Morozov (1966), "On the solution of functional equations by the method of regularization".
    """
    op = Blur(kernel, tuple(field.shape[1:]), boundary)
    norm = float(op.norm_bound())
    alpha = 1 / norm**2 if step is None else step
    if alpha * norm**2 >= 2 * (1 + 1e-6):
        raise InputError(f"`step` must be below 2/‖H‖² = {2 / norm**2:.6g}, got {step}; longer steps diverge")
    diagonal = op.spectrum is not None
    descend = _in_closed_form if diagonal else _by_blocks
    x, residuals, k = descend(op, field, alpha, steps, model.sigma)
    spectrum = op.spectrum
    gain = None
    if spectrum is not None:
        gain = landweber_gain(squared(spectrum), alpha, k) * spectrum.conj()
    notes = _notes(Forecast(model, framed._transfer, frame.size, alpha), k, steps, residuals[-1])
    return Descent(_cropped(op, x), residuals, k, alpha, gain, framed._transfer if spectrum is None else spectrum, notes)


def _in_closed_form(op: Blur, b: Tensor, alpha: float, steps: int | None, sigma: float) -> tuple[Tensor, list[float], int]:
    """All k blocks as one multiplier between two changes of basis; the residual falls by (1 - αP)^k at each frequency."""
    spectrum = op.spectrum
    coefficients = op.analyse(b)
    power = squared(spectrum) if spectrum is not None else coefficients.real
    energy = squared(coefficients).sum(0).double()
    if op.boundary == "circular":  # the half space stands for the whole: all columns but the first and the middle one twice
        energy = energy * 2
        energy[..., 0] /= 2
        if op.range[-1] % 2 == 0:
            energy[..., -1] /= 2
        energy /= math.prod(op.range)
    shrink = (1 - alpha * power.double()).square()
    residuals = [math.sqrt(float(energy.sum()) / b.numel())]
    while len(residuals) <= (MOST if steps is None else steps) and not (steps is None and residuals[-1] <= sigma):
        energy.mul_(shrink)
        residuals.append(math.sqrt(float(energy.sum()) / b.numel()))
    k = len(residuals) - 1
    gain = landweber_gain(power, alpha, k) * (spectrum.conj() if spectrum is not None else 1)
    return op.synthesise(coefficients * gain), residuals, k


def _by_blocks(op: Blur, b: Tensor, alpha: float, steps: int | None, sigma: float) -> tuple[Tensor, list[float], int]:
    """Block after block."""
    branch = DataStep(op, b)
    x = b.new_zeros(len(b), *op.domain)
    residuals = [_rms(b)]
    while len(residuals) <= (MOST if steps is None else steps) and not (steps is None and residuals[-1] <= sigma):
        x = torch.add(x, branch(x), alpha=alpha)
        residuals.append(_rms(op(x) - b))
    return x, residuals, len(residuals) - 1


def _notes(forecast: Forecast, k: int, asked: int | None, residual: float) -> tuple[str, ...]:
    """What the forecast has to say of k steps."""
    sigma = forecast.model.sigma
    if asked is None:
        if residual > sigma * (1 + 1e-6):
            return (f"the residual {residual:.4g} did not reach the noise {sigma:.4g} in {k} steps; method auto needs none",)
        return ()
    best = forecast.best(max(2, k))
    error, least, before = forecast.after(k), forecast.after(best), forecast.blurred()
    if best >= k or error <= 1.05 * least:
        return ()
    loss = 10 * math.log10(error / least)
    end = "; the picture is now further from the truth than before" if error > before else ""
    return (f"{k} steps are past the best, about {best}: noise grows, predicted {loss:.1f} dB lost{end}; use fewer steps",)


def _cropped(op: Blur, x: Tensor) -> Tensor:
    """The part of x that the measurement lies over."""
    if op.boundary != "unknown":
        return x
    return crop(x, [left for left, _ in op.margins], op.range)


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())
