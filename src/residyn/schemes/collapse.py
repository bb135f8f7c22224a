"""Equal steps on a branch that knows its eigenvalues: N steps are one function of it."""

from __future__ import annotations

import torch
from torch import Tensor

from residyn.branch import Spectral
from residyn.schemes.base import Scheme


def collapse(branch: Spectral, scheme: Scheme, h: float, steps: int, x: Tensor) -> Tensor:
    """N steps of a scheme on F(x) = A·x + b: R^N·x + h·q·(1 + R + … + R^(N-1))·b with R = R(hA), q = (R - 1)/(hA).

    Two changes of basis for any N. Nothing is divided by an eigenvalue, so values and gradients are right at zero, too.

    Args:
        branch: A and b.
        scheme: Its stability function is R.
        h: Step size.
        steps: N.
        x: The state before.

    Returns:
        The state after N steps, equal to the loop's up to rounding.
    """
    result = branch.function(lambda values: _powers(scheme.stability(h * values), steps)[0], x)
    if branch.offset is None:
        return result

    def gain(values: Tensor) -> Tensor:
        z = h * values
        return h * scheme.growth_over(z) * _powers(scheme.stability(z), steps)[1]

    return result + branch.function(gain, branch.offset)


def _powers(r: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """(rⁿ, 1 + r + … + rⁿ⁻¹), by doubling: r²ᵐ = (rᵐ)², and the sum to 2m is the sum to m times 1 + rᵐ."""
    power, total = r, torch.ones_like(r)
    for bit in f"{n:b}"[1:]:
        total = total * (1 + power)
        power = power * power
        if bit == "1":
            total = total + power
            power = power * r
    return power, total
