"""The forward–backward scheme: an explicit step of what is smooth, then a proximal step of what is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from residyn.branch import Gradient
from residyn.errors import InputError
from residyn.schemes.base import Field, Rational, Scheme, Step, Time
from residyn.schemes.explicit import step_size


class ForwardBackward(Scheme):
    """x⁺ = prox_{h·g}(x + h·F(t, x)), order 1: a residual step of F, then the implicit step of -∂g in closed form.

    It follows x' ∈ F(t, x) - ∂g(x). With F = -∇φ, φ convex of curvature L at most and h ≤ 1/L, φ + g never rises; this is the
    proximal gradient method, whose unrolled form is a residual network with `prox` as its activation.

    Args:
        prox: `prox(v, h)` = argmin_z g(z) + ‖z - v‖²/2h; a function, a module, or a `Gradient` branch that knows its prox.
            Where samples have their own step, h is a tensor that broadcasts to v.

    Raises:
        InputError: If `prox` cannot be called; on use, if it changes the shape of x or time runs backwards.

    Reference:
        Lions & Mercier (1979), doi:10.1137/0716071; Combettes & Wajs (2005), doi:10.1137/050626090.

    >>> from residyn.flow import solve
    >>> from residyn.schemes import Fixed
    >>> shrink = lambda v, h: torch.sign(v) * (v.abs() - h).clamp(min=0)   # g = |x|₁
    >>> solve(lambda t, x: torch.zeros_like(x), torch.tensor([2.0, -0.5]), [0, 1.0], scheme=ForwardBackward(shrink),
    ...       control=Fixed(steps=4)).x[-1]
    tensor([1., -0.])
    """

    order = 1
    linear: ClassVar[bool] = False

    def __init__(self, prox: Callable[[Tensor, Any], Tensor] | Gradient) -> None:
        if not callable(prox):
            raise InputError(f"`prox` must be callable as prox(v, h), got {prox!r}; pass the proximal map of g")
        self.owner = prox
        self.prox: Callable[[Tensor, Any], Tensor] = prox.prox if isinstance(prox, Gradient) else prox

    def step(self, f: Field, t0: Time, t1: Time, x: Tensor, state: Any) -> Step:
        """Take one step."""
        h = step_size(t0, t1, x)
        if isinstance(h, float) and h < 0:
            raise InputError(f"`t` must increase for ForwardBackward, got a step of {h:.6g}; a proximal step has no way back")
        slope = f(t0, x)

        def advance(part: Time) -> Tensor:
            forward = torch.add(x, slope, alpha=part) if isinstance(part, float) else torch.addcmul(x, slope, part)
            x1 = self.prox(forward, part)
            if x1.shape != x.shape:
                raise InputError(f"`prox` must return the shape of x, {tuple(x.shape)}, got {tuple(x1.shape)}")
            return x1

        return Step(advance(h), None, lambda theta: advance(theta * h), None)

    def callables(self) -> tuple[Callable[..., Any], ...]:
        """The proximal map, which may have parameters."""
        return (self.owner,)

    def stability(self, z: Tensor) -> Tensor:
        """R(z) = 1 + z, that of the forward half; the backward half never expands if g is convex."""
        return 1 + z

    def rational(self) -> Rational:
        """R as a polynomial."""
        return Rational((1.0, 1.0))

    def __repr__(self) -> str:
        return f"ForwardBackward({getattr(self.owner, '__name__', type(self.owner).__name__)})"
