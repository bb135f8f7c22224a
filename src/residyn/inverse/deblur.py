"""`deblur`: a picture back from a blurred and noisy one, by a filter, by steps, or by a trained network."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from residyn.errors import InputError, ResidynWarning, check_choice, closest
from residyn.inverse.inputs import as_field, as_given
from residyn.inverse.landweber import run as run_landweber
from residyn.inverse.operators.blur import BOUNDARIES, Blur, Boundary
from residyn.inverse.problem import Problem, frame_problem
from residyn.inverse.psf import normalised
from residyn.inverse.restoration import Restoration
from residyn.inverse.total_variation import split, total_variation
from residyn.inverse.unrolled import Unrolled

I = TypeVar("I", Tensor, np.ndarray)  # noqa: E741 - the field's letter for an image

METHODS = ("auto", "tv", "landweber", "unrolled")
TV_STEPS = 6
QUIETEST = 0.002
"""Least noise, as a share of the range, that an unrolled network reckons with."""
TV_EVIDENCE = 2.0
"""λ = 2·σ²·γ/TV, γ the pixels' worth of data above the noise. Evidence gives the form; the factor, from seven pictures of
scikit-image (not the camera) with four blurs and three levels of noise, costs 0.08 dB on average against the best λ of each."""


def deblur(
    image: I,
    psf: Any,
    *,
    method: Literal["auto", "tv", "landweber", "unrolled"] | Unrolled = "auto",
    noise: float | None = None,
    boundary: Boundary = "symmetric",
    steps: int | None = None,
    step: float | None = None,
) -> Restoration[I]:
    """Restore a picture b = H·x + noise that was blurred by a known point spread function.

    Args:
        image: b, `(H, W)` or `(H, W, C)` with a PSF of two axes, `(D, H, W)` or `(D, H, W, C)` with one of three; torch or
            NumPy, integers or real numbers.
        psf: The point spread function, centred in its array (at k//2 on an even side). It is divided by its sum, with a
            warning where that is not one.
        method: `"auto"`: the Wiener filter H̄/(P + σ²/S), noise σ² and spectrum S by Whittle likelihood from b alone.
            `"tv"`: least squares with total variation, its weight from the same estimate. `"landweber"`: `steps` blocks
            x - step·Hᵀ(H·x - b) from x = 0. `"unrolled"`: the trained network that ships, five blocks; or an `Unrolled`
            network of one's own, with this picture's H. Both for pictures, channel by channel.
        noise: σ, standard deviation of the noise in the units of the pixels; estimated if not given.
        boundary: What lies beyond the border: `"symmetric"`: the mirrored picture to begin with, and then, but for
            `"landweber"`, what the picture itself predicts there (some ten more pairs of FFTs); `"circular"`: the picture
            again; `"unknown"`: the same as `"symmetric"`, to the end of the iterations.
        steps: Number of blocks of `"landweber"`, stopped where the residual reaches the noise if not given; iterations of
            `"tv"`, 6 if not given.
        step: α of `"landweber"`, below 2/‖H‖²; 1/‖H‖² if not given.

    Returns:
        The restored picture, with what was estimated and how the residual fell.

    Raises:
        InputError: If image, PSF, or a number breaks its rule.

    Warns:
        ResidynWarning: Where the PSF had to be normalised, or more steps make the picture worse.

    Reference:
        Wiener (1949); Whittle (1953), doi:10.1007/BF02590998; Rudin, Osher & Fatemi (1992),
        doi:10.1016/0167-2789(92)90242-F; Landweber (1951), doi:10.2307/2372313.

    >>> from residyn.inverse import Blur, gaussian
    >>> clean = torch.zeros(64, 64)
    >>> clean[20:40, 20:40] = 1.0
    >>> blurred = Blur(gaussian(1.5).float(), (64, 64))(clean)
    >>> restored = deblur(blurred, gaussian(1.5), method="tv").image
    >>> bool((restored - clean).norm() < 0.25 * (blurred - clean).norm())
    True
    """
    _check(method, noise, boundary, steps, step)
    axes = torch.as_tensor(psf).ndim
    if axes == 3 and (method == "unrolled" or isinstance(method, Unrolled)):
        raise InputError("`method` must be auto, tv or landweber for a volume, got a network of two axes")
    if axes not in (2, 3):
        raise InputError(f"`psf` must have two axes, or three for a volume, got {axes}")
    field = as_field(image, axes)
    kernel = normalised(psf, shape=tuple(field.shape[1:])).to(field)
    with torch.no_grad():
        problem = frame_problem(field, kernel, boundary, noise, complete=method != "landweber")
        if method == "unrolled":
            from residyn.inverse.pretrained import load

            method = load()
        if isinstance(method, Unrolled):
            return _unrolled(problem, image, method)
        if method == "auto":
            return _linear(problem, image)
        if method == "tv":
            return _tv(problem, image, steps or TV_STEPS)
        found = run_landweber(field, kernel, boundary, problem.model, problem.frame, problem.op, steps, step)
        for note in found.notes:
            warnings.warn(note, ResidynWarning, stacklevel=2)
        return Restoration(
            as_given(found.x, image), problem.model.sigma, found.residuals, found.filter, found.transfer, "landweber",
            found.steps, found.step, problem.model, found.notes,
        )  # fmt: skip


def _check(method: Any, noise: float | None, boundary: str, steps: int | None, step: float | None) -> None:
    if not isinstance(method, Unrolled) and method not in METHODS:
        hint = closest(method, METHODS)
        raise InputError(
            f"`method` must be one of {', '.join(METHODS)}, or an Unrolled network, got {method!r}{hint and f'; {hint}'}"
        )
    if noise is not None and not (math.isfinite(noise) and noise >= 0):
        raise InputError(f"`noise` must be a standard deviation >= 0, got {noise}; leave it out to have it estimated")
    check_choice("boundary", boundary, BOUNDARIES)
    if steps is not None and (method not in ("tv", "landweber") or not isinstance(steps, int) or steps < 1):
        raise InputError(f"`steps` must be a whole number >= 1, with method tv or landweber, got {steps!r} with {method!r}")
    if step is not None and (method != "landweber" or not 0 < step < math.inf):
        raise InputError(f"`step` must be > 0 and finite, with method landweber, got {step} with {method!r}")


def _linear(problem: Problem, image: I) -> Restoration[I]:
    """One closed-form solve where the picture is periodic, else what completed its frame."""
    x = problem.solution()
    residuals = [_rms(problem.field), _rms(problem.frame.crop(problem.op(x)) - problem.field)]
    return _done(problem, image, x, residuals, problem.gain(), "auto", 1)


def _tv(problem: Problem, image: I, steps: int) -> Restoration[I]:
    """TV from the linear solution; its weight λ = 2σ²γ/TV by evidence."""
    op, transfer, power = problem.op, problem.transfer, problem.power
    known = power + problem.penalty()
    start = op.synthesise(problem.coefficients * (transfer.conj() / known) if problem.x is None else problem.x)
    gamma = float((power / known).mean())
    variation = total_variation(start, len(op.domain)) / op.domain.numel()
    channels = len(problem.field)
    weight = TV_EVIDENCE * max(problem.model.sigma, problem.least) ** 2 * gamma * channels / max(variation, 1e-12)
    residuals = [_rms(problem.field)]
    x = start
    if weight > 0:
        iterations = split(op, problem.observed, start, weight, scale=Unrolled.scale_of(problem.field))
        for _ in range(steps):
            x, coefficients = next(iterations)
            residuals.append(_rms_between(transfer, coefficients, problem))
    return _done(problem, image, x, residuals, None, "tv", steps)


def _unrolled(problem: Problem, image: I, network: Unrolled) -> Restoration[I]:
    residuals = [_rms(problem.field)]
    frame, op = problem.frame, problem.op
    scale = network.scale_of(problem.field)
    model = problem.model.scaled(scale)
    # it was trained with no less noise than this
    model = replace(model, sigma=max(model.sigma, problem.least / scale, QUIETEST))

    observed = problem.observed / scale
    if network.dtype != op.dtype:
        op = Blur(op.psf.to(network.dtype), frame.size, "circular")
    # a channel at a time: a batch would need the memory of all at once
    x = torch.stack([network(part.to(network.dtype), op=op, model=model) for part in observed]).to(problem.field)
    residuals.append(_rms(frame.crop(problem.op(x)) * scale - problem.field))
    return _done(problem, image, x * scale, residuals, None, "unrolled", network.depth)


def _done(
    problem: Problem, image: I, x: Tensor, residuals: list[float], gain: Tensor | None, method: str, steps: int
) -> Restoration[I]:
    restored = as_given(problem.frame.crop(x), image)
    return Restoration(restored, problem.model.sigma, residuals, gain, problem.transfer, method, steps, None, problem.model)


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def _rms_between(transfer: Tensor, coefficients: Tensor, problem: Problem) -> float:
    """Root mean square of H·x - b by Parseval; over the picture alone where the frame is more than that."""
    if problem.frame.size != problem.frame.shape:
        return _rms(problem.frame.crop(problem.op.synthesise(coefficients * transfer)) - problem.field)
    gap = torch.view_as_real(coefficients * transfer - problem.coefficients)
    lines = gap.square_().flatten(0, -3).sum((0, 2))
    size = problem.frame.size
    twice = 2 * float(lines.sum()) - float(lines[0]) - (float(lines[-1]) if size[-1] % 2 == 0 else 0.0)
    return math.sqrt(twice / len(problem.field)) / math.prod(size)
