"""What k linear steps amount to, frequency by frequency, written so that nothing cancels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from residyn.errors import InputError


def landweber_gain(power: Tensor, step: float, steps: int) -> Tensor:
    """q_k = (1 - (1 - αP)^k)/P, so that k blocks x - α·Hᵀ(Hx - b) from x = 0 give q_k·H̄·b at each frequency.

    In the form -expm1(k·log1p(-αP))/P, which keeps all digits where αP is tiny and is k·α at P = 0.

    Args:
        power: P = |H|², any shape.
        step: α.
        steps: k.

    Returns:
        q_k, of the shape of `power`.

    Raises:
        InputError: If the step is not positive and finite, or `steps` is not a whole number of at least 0.

    Reference:
        Landweber (1951), doi:10.2307/2372313.

    >>> landweber_gain(torch.tensor([0.0, 0.5, 1.0]), 1.0, 2)
    tensor([2.0, 1.5, 1.0])
    """
    if not 0 < step < math.inf:
        raise InputError(f"`step` must be > 0 and finite, got {step}; up to 2/‖H‖² it is stable")
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
        raise InputError(f"`steps` must be a whole number >= 0, got {steps!r}")
    z = step * power
    dark = power <= 0
    safe = torch.where(dark, torch.ones_like(power), power)
    small = z < 0.5
    gentle = -torch.expm1(steps * torch.log1p(-torch.where(small, z, torch.zeros_like(z)))) / safe
    plain = (1 - (1 - z) ** steps) / safe  # at αP >= 1/2 nothing cancels, and 1 - αP may be negative
    return torch.where(dark, torch.full_like(power, steps * step), torch.where(small, gentle, plain))


def landweber_remainder(power: Tensor, step: float, steps: int) -> Tensor:
    """(1 - αP)^k, what k blocks have not yet brought back of the picture.

    >>> landweber_remainder(torch.tensor([0.0, 0.5]), 1.0, 2)
    tensor([1.0, 0.25])
    """
    return (1 - step * power) ** steps
