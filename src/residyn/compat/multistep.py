"""Adams steps over a grid, as the names explicit_adams and implicit_adams mean them."""

from __future__ import annotations

import collections
import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from residyn.compat.fixed import Explicit
from residyn.compat.implicit import NOT_CONVERGED
from residyn.compat.inputs import Inputs, Time
from residyn.compat.tableaus import RK38, adams

OPTIONS = ("max_iters", "max_order")
_LEAST, _MOST = 4, 12
_weights = functools.lru_cache(maxsize=None)(adams)


class Adams:
    """Adams–Bashforth, with an Adams–Moulton corrector by functional iteration if `implicit`; three steps of order 4 to start.

    The weights are those of equal steps, whatever the grid.

    Args:
        inputs: The call, for its tolerances and options.
        implicit: Whether to correct.
    """

    def __init__(self, inputs: Inputs, *, implicit: bool) -> None:
        self.implicit, self.rtol, self.atol = implicit, inputs.rtol, inputs.atol
        self.max_iters, self.max_order = int(inputs.options.get("max_iters", 4)), int(inputs.options.get("max_order", _MOST))
        if self.max_order > _MOST:
            raise AssertionError(f"max_order must be at most {_MOST}, got {self.max_order}")
        if self.max_order < _LEAST:
            warnings.warn(f"max_order is below {_LEAST}, so the solver reduces to `rk4`.", stacklevel=3)
        self.slopes: collections.deque[Tensor] = collections.deque(maxlen=max(self.max_order - 1, 1))

    def __call__(self, f: Callable[[Time, Tensor], Tensor], t0: Time, t1: Time, y0: Tensor, f0: Tensor) -> Tensor:
        """The state at t1; f0 joins the history."""
        self.slopes.appendleft(f0)
        order = min(len(self.slopes), self.max_order - 1)
        if order < _LEAST - 1:
            return Explicit(RK38)(f, t0, t1, y0, f0)
        h = (t1 - t0).to(y0.dtype) if isinstance(t1, Tensor) and isinstance(t0, Tensor) else t1 - t0
        change = h * _sum(_weights(order, implicit=False), self.slopes)
        if not self.implicit:
            return y0 + change
        first, *rest = _weights(order + 1, implicit=True)
        known = h * _sum(tuple(rest), self.slopes)
        for _ in range(self.max_iters):
            before, change = change, (h * first) * f(t1, y0 + change) + known
            if self._settled(before, change):
                break
        else:
            warnings.warn(NOT_CONVERGED, stacklevel=2)
            self.slopes.pop()
        return y0 + change

    @torch.no_grad()
    def _settled(self, before: Tensor, change: Tensor) -> bool:
        scale = self.atol + self.rtol * torch.maximum(before.abs(), change.abs())
        return bool(((before - change).abs() / scale).max() < 1)


def _sum(weights: tuple[float, ...], slopes: collections.deque[Tensor]) -> Tensor:
    total = weights[0] * slopes[0]
    for i in range(1, len(weights)):
        total = torch.add(total, slopes[i], alpha=weights[i])
    return total
