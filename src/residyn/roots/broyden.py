"""Broyden's good method with limited memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.roots.base import Map, RootFinder, Update, whole


@dataclass(frozen=True)
class Broyden(RootFinder):
    """Broyden's good method: a Newton step with an inverse Jacobian learnt, sample by sample, from the steps taken.

    With r(x) = g(x) - x, a step s that changed r by y turns the inverse H of ∂r/∂x, at first -I, into
    H + (s - H·y)·sᵀH / (sᵀH·y); the next step is -H·r. A step after which the residual is more than `growth` times the
    smallest one so far is not taken: H learns from it all the same, and from where it began a step of half the length is tried.

    Args:
        memory: Steps that H remembers; when full it starts again from -I.
        growth: How much a residual may grow, at least 1. Broyden's steps need not descend, so 1 is too strict for hard maps.

    Raises:
        InputError: If a value breaks its rule.

    Reference:
        Broyden (1965), doi:10.1090/S0025-5718-1965-0198670-6.

    >>> root = Broyden(tol=1e-6).solve(torch.cos, torch.ones(1, 1))
    >>> round(float(root.x), 4)
    0.7391
    """

    memory: int = 50
    growth: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("memory", self.memory, 1)
        if not self.growth >= 1:
            raise InputError(f"`growth` must be at least 1, got {self.growth!r}; 10 is usual")

    def start(self, g: Map, x: Tensor) -> Update:
        """Buffers for the rank-one terms of H."""
        return _Secant(g, x, min(self.memory, self.max_iterations), self.growth)


class _Secant(Update):
    def __init__(self, g: Map, x: Tensor, memory: int, growth: float) -> None:
        super().__init__(g)
        batch, n = x.shape
        self.growth, self.memory, self.used, self.first = growth, memory, 0, True
        self.u, self.v = x.new_empty(batch, memory, n), x.new_empty(batch, memory, n)  # H = -I + Σ u·vᵀ
        self.base = self.r = self.d = x  # where the step began, the residual there, and the full step -H·r
        self.length = x.new_ones(batch, 1)
        self.low = x.new_full((batch, 1), float("inf"))  # the smallest residual of each sample

    def next(self, x: Tensor, gx: Tensor, r: Tensor) -> Tensor:
        """The next trial point, `base` + length·d."""
        size = torch.linalg.vector_norm(r, dim=1, keepdim=True)
        taken = size <= self.growth * self.low  # false for nan
        self.low = torch.fmin(self.low, size)
        if self.first:
            self.first = False
            self.base, self.r, self.d = x, r, r
            return x + r
        if self.used == self.memory:
            self.used = 0
            self._move(taken, x, r)
            self.d = self.r
        else:
            self._learn(r)
            self._move(taken, x, r)
            self.d = -self._apply(self.u, self.v, self.r)
        return torch.addcmul(self.base, self.length, self.d)

    def _learn(self, r: Tensor) -> None:
        """Give H the rank-one term of the step to where the residual is r."""
        s, y = self.length * self.d, r - self.r
        v = self._apply(self.v, self.u, s)
        u = s - self._apply(self.u, self.v, y)
        u = u / (v * y).sum(dim=1, keepdim=True)
        sound = torch.isfinite(u).all(dim=1, keepdim=True)  # not so where the step was zero or g returned nan: nothing to learn
        self.u[:, self.used] = torch.where(sound, u, 0.0)
        self.v[:, self.used] = torch.where(sound, v, 0.0)
        self.used += 1

    def _move(self, taken: Tensor, x: Tensor, r: Tensor) -> None:
        self.base, self.r = torch.where(taken, x, self.base), torch.where(taken, r, self.r)
        self.length = torch.where(taken, 1.0, 0.5 * self.length)

    def _apply(self, left: Tensor, right: Tensor, z: Tensor) -> Tensor:
        """-z + Σ left·(rightᵀ·z), which is H·z, or Hᵀ·z with left and right exchanged."""
        if self.used == 0:
            return -z
        along = torch.bmm(right[:, : self.used], z.unsqueeze(2))
        return torch.baddbmm(z.unsqueeze(1), along.mT, left[:, : self.used], beta=-1).squeeze(1)
