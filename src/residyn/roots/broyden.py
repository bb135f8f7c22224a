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
        # H = -I + Σ u·vᵀ; one term after the other in memory, so that only as many pages are touched as there are terms
        self.u, self.v = (x.new_empty(memory, batch, n).transpose(0, 1) for _ in "uv")
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
            u, v, Hr = self._learn(r)
            before = self.r
            if self._move(taken, x, r):
                self.d = torch.addcmul(-Hr, u, _dot(v, r), value=-1)
            else:
                d = torch.where(taken, -Hr, self.d)
                self.d = torch.addcmul(d, u, _dot(v, torch.where(taken, r, before)), value=-1)
        return torch.addcmul(self.base, self.length, self.d)

    def _learn(self, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give H the rank-one term u·vᵀ of the step to where the residual is r; u, v, and H·r without it."""
        s = self.length * self.d
        v = self._apply(self.v, self.u, s)
        Hr = self._apply(self.u, self.v, r)
        Hy = Hr + self.d  # y = r - self.r, and d = -H·self.r
        u = (s - Hy) / _dot(v, r - self.r)
        # not finite where the step was zero or g returned nan: nothing to learn there
        sound = torch.isfinite(u.sum(dim=1, keepdim=True)) & torch.isfinite(v.sum(dim=1, keepdim=True))
        if not bool(sound.all()):
            u, v, Hr = torch.where(sound, u, 0.0), torch.where(sound, v, 0.0), torch.where(sound, Hr, 0.0)
        self.u[:, self.used], self.v[:, self.used] = u, v
        self.used += 1
        return u, v, Hr

    def _move(self, taken: Tensor, x: Tensor, r: Tensor) -> bool:
        """Start the next step from x where it was taken; whether it was for all."""
        if bool(taken.all()):
            self.base, self.r, self.length = x, r, torch.ones_like(self.length)
            return True
        self.base, self.r = torch.where(taken, x, self.base), torch.where(taken, r, self.r)
        self.length = torch.where(taken, 1.0, 0.5 * self.length)
        return False

    def _apply(self, left: Tensor, right: Tensor, z: Tensor) -> Tensor:
        """-z + Σ left·(rightᵀ·z), which is H·z, or Hᵀ·z with left and right exchanged."""
        if self.used == 0:
            return -z
        # a row times a transposed stack is several times faster than the stack times a column
        along = torch.bmm(z.unsqueeze(1), right[:, : self.used].mT)
        return torch.bmm(along, left[:, : self.used]).squeeze(1) - z


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=1, keepdim=True)
