"""Plain fixed-point iteration."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.roots.base import Map, RootFinder, Update


@dataclass(frozen=True)
class FixedPoint(RootFinder):
    """x ← x + damping·(g(x) - x): the residual step with branch g(x) - x; converges where g contracts.

    Args:
        damping: In (0, 1]; 1 is the plain iteration.

    Raises:
        InputError: If a value breaks its rule.

    >>> root = FixedPoint(tol=1e-6).solve(torch.cos, torch.ones(1, 1))
    >>> round(float(root.x), 4)
    0.7391
    """

    damping: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.damping <= 1:
            raise InputError(f"`damping` must lie in (0, 1], got {self.damping!r}; 1 is the plain iteration")

    def start(self, g: Map, x: Tensor) -> Update:
        """Nothing is kept."""
        return _Damped(g, self.damping)


class _Damped(Update):
    def __init__(self, g: Map, damping: float) -> None:
        super().__init__(g)
        self.damping = damping

    def next(self, x: Tensor, gx: Tensor, r: Tensor) -> Tensor:
        """A step of size `damping` along the residual."""
        return gx if self.damping == 1.0 else torch.add(x, r, alpha=self.damping)
