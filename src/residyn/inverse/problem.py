"""A blurred picture on its periodic frame, with noise and spectrum as they were estimated."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from residyn.inverse.completion import complete as posterior
from residyn.inverse.frame import Frame
from residyn.inverse.operators.blur import Blur, Boundary, crop, squared, transfer
from residyn.inverse.operators.border import smooth_size
from residyn.inverse.spectrum_model import SpectrumModel, fit_spectrum, squared_frequencies

FLOOR = 4e-3
"""Least noise assumed where there is a border, as a share of the picture's standard deviation; 8-bit rounding alone is
about that, and a border is never known better."""

ROUNDS = {"symmetric": (30, 30), "unknown": (100, 100)}
"""Conjugate gradient iterations at most, before the spectrum is estimated again from the completed frame, and after."""


@dataclass(frozen=True)
class Problem:
    """A blurred picture on its periodic frame.

    Args:
        field: b, `(C, *shape)`.
        observed: b on the frame, `(C, *size)`.
        coefficients: Its Fourier coefficients.
        frame: Where the picture lies.
        op: H on the frame, periodic.
        power: |H|².
        model: Noise and spectrum.
        least: The least σ that a filter reckons with.
        x: Coefficients of the solution that completed the frame; `None` where the frame is the picture, or was not completed.
    """

    field: Tensor
    observed: Tensor
    coefficients: Tensor
    frame: Frame
    op: Blur
    power: Tensor
    model: SpectrumModel
    least: float = 0.0
    x: Tensor | None = None

    @property
    def transfer(self) -> Tensor:
        """H."""
        return self.op._transfer

    def penalty(self) -> Tensor:
        """σ²/S(f), 0 at f = 0, where the mean is kept as it is."""
        f2 = squared_frequencies(self.frame.size).to(self.power)
        spectrum = self.model.power(f2).clamp(min=torch.finfo(self.power.dtype).tiny)
        penalty = max(self.model.sigma, self.least) ** 2 / spectrum
        penalty[(0,) * penalty.ndim] = 0
        return penalty

    def gain(self) -> Tensor:
        """The Wiener filter H̄/(P + σ²/S)."""
        gain = self.transfer.conj() / (self.power + self.penalty())
        gain[(0,) * gain.ndim] = 1 / self.transfer[(0,) * gain.ndim]
        return gain

    def solution(self) -> Tensor:
        """x on the frame: that of the free border, or the Wiener filter's."""
        return self.op.synthesise(self.coefficients * self.gain() if self.x is None else self.x)

    def completed(self, most: int) -> Problem:
        """The same with the gap filled by what the picture predicts there, and how x does so."""
        start = self.coefficients * self.gain() if self.x is None else self.x
        sigma = max(self.model.sigma, self.least)
        x, _ = posterior(
            self.op, self.frame, self.field, start, self.penalty(), self.power, sigma=sigma, most=most
        )  # fmt: skip
        observed = self.frame.refill(self.op.synthesise(x * self.transfer), self.field)
        return replace(self, observed=observed, coefficients=self.op.analyse(observed), x=x)


def frame_problem(field: Tensor, kernel: Tensor, boundary: Boundary, noise: float | None, *, complete: bool = True) -> Problem:
    """Put a picture into a frame, estimate noise and spectrum, and complete the frame.

    The mirrored frame is only near to what lies beyond the border, and what it is wrong by passes for detail that the
    filter of a picture with little noise blows up. So the frame is solved for.

    Args:
        field: b, `(C, *shape)`.
        kernel: The PSF, of sum one.
        boundary: As in `deblur`.
        noise: σ, if it is known.
        complete: Whether a frame that is more than the picture is completed.

    Returns:
        The problem.
    """
    frame = Frame.around(tuple(field.shape[1:]), tuple(kernel.shape), boundary)
    op = Blur(kernel, frame.size, "circular")
    observed = frame.place(field)
    coefficients = op.analyse(observed)
    power = squared(op._transfer)
    if boundary == "circular":
        model = fit_spectrum(coefficients, op._transfer, frame.size, sigma=noise)
        return Problem(field, observed, coefficients, frame, op, power, model)
    least = FLOOR * float(field.std(correction=0))
    model = _windowed(field, kernel, noise)
    if model.sigma < least:  # what is below is no picture's spectrum
        model = replace(_windowed(field, kernel, least), sigma=model.sigma)
    problem = Problem(field, observed, coefficients, frame, op, power, model, least)
    if not complete or model.amplitude <= 0:
        return problem
    first, last = ROUNDS[boundary]
    problem = problem.completed(first)
    # the whole picture now tells the spectrum, with the noise that the window told
    refined = fit_spectrum(problem.coefficients, op._transfer, frame.size, sigma=max(model.sigma, least))
    return replace(problem, model=replace(refined, sigma=model.sigma)).completed(last)


def _windowed(field: Tensor, kernel: Tensor, noise: float | None) -> SpectrumModel:
    """Noise and spectrum of a picture that is not periodic: under a Hann window its borders leak nothing.

    The window sees the middle; the amplitude is that of the whole picture.
    """
    shape = tuple(field.shape[1:])
    size = tuple(max(k, _smooth(n)) for n, k in zip(shape, kernel.shape, strict=True))
    x = crop(field, [(n - m) // 2 for n, m in zip(shape, size, strict=True)], size)
    window = torch.ones((), dtype=field.dtype, device=field.device)
    for n in size:
        line = torch.hann_window(n + 1, periodic=False, dtype=field.dtype, device=field.device)
        window = window[..., None] * (line[:n] + line[1:]) / 2
    axes = tuple(range(1, x.ndim))
    mean = (x * window).sum(axes, keepdim=True) / window.sum()
    seen = (x - mean) * window / window.square().mean().sqrt()
    model = fit_spectrum(torch.fft.rfftn(seen, dim=axes), transfer(kernel, size), size, sigma=noise)
    whole, middle = (max(float(v) - model.sigma**2, 0.0) for v in (field.var(axes, correction=0).mean(), seen.square().mean()))
    return replace(model, amplitude=model.amplitude * whole / middle) if middle > 0 and whole > 0 else model


def _smooth(n: int) -> int:
    """The largest number ≤ n that the FFT likes, or n where that is far below."""
    return next((m for m in range(n, n * 9 // 10, -1) if smooth_size(m) == m), n)
