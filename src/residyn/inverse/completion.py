"""What lies beyond the border, told by the picture: the Gaussian posterior of what was measured, by conjugate gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from residyn.inverse.frame import Frame
from residyn.inverse.operators.blur import Blur

SETTLED = 1e-3
"""Mean square change of the picture, as a share of its posterior variance, at which the iterations end."""


def complete(
    op: Blur, frame: Frame, field: Tensor, start: Tensor, penalty: Tensor, power: Tensor, *, sigma: float, most: int
) -> tuple[Tensor, int]:
    """argmin_x ‖M·H·x - b‖² + Σ_f σ²/S·|x(f)|² over the frame, M the cut to the picture.

    Nothing is assumed of b beyond its border: the gap of the frame is free, and only the spectrum S holds it. Conjugate
    gradients on the Fourier coefficients, preconditioned by P + σ²/S, one pair of FFTs an iteration; the mirrored frame's
    Wiener filter is the start.

    Args:
        op: H on the frame, periodic.
        frame: Where the picture lies.
        field: b, `(C, *shape)`.
        start: Fourier coefficients of x to begin with, `(C, *half)`.
        penalty: σ²/S.
        power: P = |H|².
        sigma: σ.
        most: Iterations at most.

    Returns:
        Coefficients of x, and the iterations that were taken.

    Reference:
        Hestenes & Stiefel (1952), doi:10.6028/jres.049.044; Reeves (2005), doi:10.1109/TIP.2005.854474 (the free border).
    """
    transfer = op._transfer
    back, inverse = transfer.conj(), 1 / (power + penalty).clamp(min=1e-12)
    inner = _inner(frame.size)
    # the variance that the data leave open, as a sum over coefficients in the units of `inner`
    open_variance = sigma**2 * float(mean_of(inverse, frame.size)) * math.prod(frame.size) ** 2 * len(field)

    def masked(coefficients: Tensor) -> Tensor:
        image = op.synthesise(transfer * coefficients)
        kept = torch.zeros_like(image)
        frame.crop(kept).copy_(frame.crop(image))
        return op.analyse(kept).mul_(back)

    wide = field.new_zeros(len(field), *frame.size)
    frame.crop(wide).copy_(field)
    x = start.clone()
    residual = op.analyse(wide).mul_(back) - masked(x) - penalty * x
    search = residual * inverse
    fall = inner(residual, search)
    for spent in range(1, most + 1):
        image = masked(search).add_(penalty * search)
        curvature = inner(search, image)
        if not curvature > 0:
            return x, spent
        step = fall / curvature
        x.add_(search, alpha=step)
        residual.sub_(image, alpha=step)
        if step**2 * inner(search, search) <= SETTLED * open_variance:
            return x, spent
        turned = residual * inverse
        before, fall = fall, inner(residual, turned)
        search.mul_(fall / before).add_(turned)
    return x, most


def _inner(size: tuple[int, ...]) -> Callable[[Tensor, Tensor], float]:
    """⟨x, y⟩ over all frequencies, of which the half space shows one of each conjugate pair."""
    even = size[-1] % 2 == 0

    def inner(x: Tensor, y: Tensor) -> float:
        lines = (torch.view_as_real(x) * torch.view_as_real(y)).sum(-1)
        total = 2 * lines.sum(dtype=torch.float64) - lines[..., 0].sum(dtype=torch.float64)
        return float(total - lines[..., -1].sum(dtype=torch.float64) if even else total)

    return inner


def mean_of(values: Tensor, size: tuple[int, ...]) -> Tensor:
    """Mean over all frequencies of a function on the half space."""
    total = 2 * values.sum(dtype=torch.float64) - values[..., 0].sum(dtype=torch.float64)
    if size[-1] % 2 == 0:
        total = total - values[..., -1].sum(dtype=torch.float64)
    return total / math.prod(size)
