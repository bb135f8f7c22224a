"""Equal steps on a branch that knows its eigenvalues: N steps are one function of it."""

from __future__ import annotations

import torch
from torch import Tensor

from residyn.branch import Spectral
from residyn.schemes.base import Scheme


def collapse(branch: Spectral, scheme: Scheme, h: float, steps: int, x: Tensor) -> Tensor:
    """N steps of a scheme on F(x) = A·x + b: R(hA)^N·x + ((R(hA)^N - 1)/A)·b, two changes of basis for any N.

    The second factor is computed as expm1(N·log1p(R - 1))/λ where R is near 1, the form that does not cancel.

    Args:
        branch: A and b.
        scheme: Its stability function is R.
        h: Step size.
        steps: N.
        x: The state before.

    Returns:
        The state after N steps, equal to the loop's up to rounding.
    """
    result = branch.function(lambda values: scheme.stability(h * values) ** steps, x)
    if branch.offset is None:
        return result

    def gain(values: Tensor) -> Tensor:
        z = h * values
        less_one = scheme.growth(z)
        small = less_one.abs() < 0.5
        inner = torch.where(small, less_one, torch.zeros_like(less_one))
        total = torch.where(small, torch.expm1(steps * torch.log1p(inner)), (1 + less_one) ** steps - 1)
        at_zero = values == 0
        return torch.where(
            at_zero, torch.full_like(values, h * steps), total / torch.where(at_zero, torch.ones_like(values), values)
        )

    return result + branch.function(gain, branch.offset)
