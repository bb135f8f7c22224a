"""Anderson acceleration."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.roots.base import Map, RootFinder, Update, whole
from residyn.roots.linear import bmm, widened


@dataclass(frozen=True)
class Anderson(RootFinder):
    """Anderson acceleration: the next x is the combination of the last g(x) whose residual is least in norm.

    With G the differences of the last `history` values of g and D those of the residuals r = g(x) - x, each sample solves
    min ‖r - D·γ‖ and steps to g(x) - G·γ. The normal equations are solved with D's columns scaled to length 1.

    Args:
        history: Iterates that take part, at least 2.
        ridge: Tikhonov term on the scaled normal equations; never taken below ten roundings, where it would be none.

    Raises:
        InputError: If a value breaks its rule.

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
        whole("history", self.history, 2)
        if not 0 <= self.ridge < 1:
            raise InputError(f"`ridge` must lie in [0, 1), got {self.ridge!r}; 1e-10 is usual")

    def start(self, g: Map, x: Tensor) -> Update:
        """Ring buffers for the differences, and their products."""
        return _Mixing(g, x, self.history - 1, self.ridge)


class _Mixing(Update):
    def __init__(self, g: Map, x: Tensor, slots: int, ridge: float) -> None:
        super().__init__(g)
        batch, n = x.shape
        self.slots, self.count = slots, -1
        dtype = widened(x[:0]).dtype  # of the differences: squares of half precision overflow
        self.values, self.residuals = x.new_zeros(2, batch, slots, n, dtype=dtype)
        self.gram = x.new_zeros(batch, slots, slots, dtype=dtype)
        self.pair = x.new_zeros(batch, 2, n, dtype=dtype)  # what the differences are multiplied with: r, and its own
        self.shift = max(ridge, 10 * torch.finfo(x.dtype).eps) * torch.eye(slots, dtype=dtype, device=x.device)
        self.tiny = torch.finfo(dtype).tiny
        self.last_g = self.last_r = x

    def next(self, x: Tensor, gx: Tensor, r: Tensor) -> Tensor:
        """g(x) - G·γ."""
        self.count += 1
        last_g, last_r, self.last_g, self.last_r = self.last_g, self.last_r, gx, r
        if self.count == 0:
            return gx
        slot = (self.count - 1) % self.slots
        torch.sub(gx, last_g, out=self.values[:, slot])
        torch.sub(r, last_r, out=self.pair[:, 1])
        self.residuals[:, slot] = self.pair[:, 1]
        self.pair[:, 0] = r
        # Rows times a transposed stack is several times faster than the stack times columns; slots not yet filled are zero.
        products = bmm(self.pair, self.residuals.mT)  # (B, 2, slots): the right side, and one row of the Gram matrix
        self.gram[:, slot] = self.gram[:, :, slot] = products[:, 1]
        return gx - bmm(self._weights(products[:, 0]), self.values).squeeze(1).to(gx.dtype)

    def _weights(self, right: Tensor) -> Tensor:
        """γ of each sample, `(B, 1, slots)`; zero, the plain iteration, where the differences have degenerated."""
        scale = self.gram.diagonal(dim1=1, dim2=2).clamp_min(self.tiny).rsqrt()
        scaled = self.gram * scale.unsqueeze(1) * scale.unsqueeze(2) + self.shift
        weights, _ = torch.linalg.solve_ex(scaled, right * scale)
        return torch.nan_to_num(weights * scale, nan=0.0, posinf=0.0, neginf=0.0).unsqueeze(1).contiguous()
