"""Where a function of one variable changes sign, for many functions at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


@torch.no_grad()
def bracket(
    g: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, ga: Tensor, gb: Tensor, *, tol: float | None = None, limit: int = 100
) -> Tensor:
    """A root of each of B functions between a and b, where they have opposite signs.

    Chandrupatla's method: inverse quadratic interpolation where it is sure to help, bisection where it is not. It never leaves
    the bracket and never needs many more evaluations than bisection does.

    Args:
        g: Points `(B,)` → values `(B,)`.
        a: One end of each bracket, `(B,)`.
        b: The other end.
        ga: g(a).
        gb: g(b), of the other sign, or zero.
        tol: Width of the bracket at which to stop, besides rounding; 4 roundings of 1 if `None`.
        limit: Evaluations before giving up; 100 bisections leave nothing of any bracket.

    Returns:
        The end of the last bracket where |g| is less, `(B,)`.

    Reference:
        Chandrupatla (1997), doi:10.1016/S0965-9978(96)00051-8.

    >>> one = torch.ones(1, dtype=torch.float64)
    >>> bracket(lambda x: x * x - 2, one, 2 * one, -one, 2 * one)
    tensor([1.4142], dtype=torch.float64)
    """
    eps = torch.finfo(a.dtype).eps
    tol = 4 * eps if tol is None else tol
    x1, f1, x2, f2 = b, gb, a, ga
    t = torch.full_like(a, 0.5)
    best = torch.where(f2.abs() < f1.abs(), x2, x1)
    done = (f1 == 0) | (f2 == 0)
    for _ in range(limit):
        if bool(done.all()):
            break
        x = x1 + t * (x2 - x1)
        f = g(x)
        same = torch.sign(f) == torch.sign(f1)
        x3, f3 = torch.where(same, x1, x2), torch.where(same, f1, f2)
        x2, f2 = torch.where(same, x2, x1), torch.where(same, f2, f1)
        x1, f1 = x, f
        found = torch.where(f2.abs() < f1.abs(), x2, x1)
        best = torch.where(done, best, found)
        least = (2 * eps * found.abs() + tol) * 0.5 / (x2 - x1).abs()
        done = done | (least > 0.5) | (f1 == 0)
        xi, phi = (x1 - x2) / (x3 - x2), (f1 - f2) / (f3 - f2)
        smooth = (phi * phi < xi) & ((1 - phi) ** 2 < 1 - xi)
        inverse = f1 / (f2 - f1) * f3 / (f2 - f3) + (x3 - x1) / (x2 - x1) * f1 / (f3 - f1) * f2 / (f3 - f2)
        t = torch.where(smooth, inverse, 0.5).nan_to_num(0.5)
        t = torch.minimum(torch.maximum(t, least), 1 - least)
    return best
