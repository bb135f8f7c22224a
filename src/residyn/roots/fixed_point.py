"""Plain and Anderson-accelerated fixed-point iteration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.roots.base import Best, Root, RootFinder, relative_residual


@dataclass(frozen=True)
class FixedPoint(RootFinder):
    """x ← (1-damping)·x + damping·g(x): the residual step with branch g(x) - x; converges where g contracts.

    Args:
        damping: In (0, 1]; 1 is the plain iteration.

    >>> root = FixedPoint(tol=1e-6).solve(torch.cos, torch.ones(1, 1))
    >>> round(float(root.x), 4)
    0.7391
    """

    damping: float = 1.0

    def solve(self, g: Callable[[Tensor], Tensor], x0: Tensor) -> Root:
        """Iterate until the worst sample is below the tolerance."""
        x, best, calls = x0, Best(x0), 0
        for calls in range(1, self.max_iterations + 1):  # noqa: B007 - it is what was spent
            gx = g(x)
            best.offer(gx, relative_residual(x, gx))
            if bool((best.residual <= self.tol).all()):
                break
            x = gx if self.damping == 1.0 else torch.lerp(x, gx, self.damping)
        return Root(best.x, best.residual, calls, best.residual <= self.tol)


@dataclass(frozen=True)
class Anderson(RootFinder):
    """Anderson acceleration: the next x is the combination of the last g(x) whose residual is least in norm.

    With G the differences of the last `history` values of g and D those of the residuals g(x) - x, each sample solves
    (DᵀD + ridge·tr(DᵀD)·I)·γ = Dᵀ·(g(x) - x) and steps to g(x) - G·γ.

    Args:
        history: Iterates that take part.
        ridge: Tikhonov term, relative to the trace.

    Reference:
        Anderson (1965), doi:10.1145/321296.321305; Walker & Ni (2011), doi:10.1137/10078356X.

    >>> root = Anderson(tol=1e-6).solve(torch.cos, torch.ones(1, 1))
    >>> round(float(root.x), 4)
    0.7391
    """

    history: int = 6
    ridge: float = 1e-10

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.history, int) or self.history < 1:
            raise InputError(f"`history` must be a whole number of at least 1, got {self.history!r}")

    def solve(self, g: Callable[[Tensor], Tensor], x0: Tensor) -> Root:
        """Iterate until the worst sample is below the tolerance."""
        shape, batch = x0.shape, len(x0)
        x, best, iterations = x0.reshape(batch, -1), Best(x0), 0
        values, residuals = x.new_empty(0), x.new_empty(0)
        last_g = last_r = x
        for iterations in range(1, self.max_iterations + 1):
            gx = g(x.view(shape)).reshape(batch, -1)
            r = gx - x
            best.offer(gx.view(shape), relative_residual(x, gx))
            if bool((best.residual <= self.tol).all()):
                break
            if iterations > 1:
                values = _push(values, gx - last_g, self.history)
                residuals = _push(residuals, r - last_r, self.history)
            last_g, last_r = gx, r
            x = gx if iterations == 1 else gx - torch.einsum("bm,mbn->bn", self._weights(residuals, r), values)
        return Root(best.x, best.residual, iterations, best.residual <= self.tol)

    def _weights(self, differences: Tensor, r: Tensor) -> Tensor:
        """γ of each sample, `(B, m)`."""
        d = differences.transpose(0, 1)  # (B, m, n)
        gram = d.conj() @ d.mT
        trace = gram.diagonal(dim1=-2, dim2=-1).real.sum(-1)
        shift = (self.ridge * trace + torch.finfo(trace.dtype).tiny)[:, None, None]
        gram = gram + shift * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        right = (d.conj() @ r.unsqueeze(-1)).squeeze(-1)
        weights = torch.linalg.solve_ex(gram, right).result
        return torch.where(torch.isfinite(weights).all(-1, keepdim=True), weights, 0.0)


def _push(stack: Tensor, item: Tensor, limit: int) -> Tensor:
    item = item.unsqueeze(0)
    return item if stack.numel() == 0 else torch.cat([stack, item])[-limit:]
