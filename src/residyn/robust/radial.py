"""The heart of layer and group normalisation, c ↦ c/√(‖c‖²/n + ε), about a point: its tangent, and what that leaves out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def radial(c: Tensor, eps: float) -> Tensor:
    """c/√(‖c‖²/n + ε) along the last axis."""
    return c * (c.square().mean(-1, keepdim=True) + eps).rsqrt()


@dataclass(frozen=True)
class Tangent:
    """x̂ = J·c + o + R with J = t·(I - x̂₀x̂₀ᵀ/n) at c₀, and |R| bounded entry by entry.

    Attributes:
        scale: t = 1/√(‖c₀‖²/n + ε), `(B, …, 1)`.
        unit: x̂₀ = t·c₀, `(B, …, n)`.
        offset: o = x̂₀ - J·c₀, `(B, …, n)`.
        rest: The bound on |R|, `(B, …, n)`.
    """

    scale: Tensor
    unit: Tensor
    offset: Tensor
    rest: Tensor

    def times(self, g: Tensor, rows: Tensor | slice) -> Tensor:
        """J·g for tangents of some samples; J is symmetric."""
        unit = self.unit[rows]
        return self.scale[rows] * (g - unit * (unit * g).mean(-1, keepdim=True))

    def at_most(self, size: Tensor) -> Tensor:
        """|J|·size for size >= 0."""
        unit = self.unit.abs()
        return self.scale * (size + unit * (unit * size).mean(-1, keepdim=True))


def tangent(c0: Tensor, eps: float, apart: Tensor, length: Tensor) -> Tangent:
    """The tangent at c₀, for all c₀ + d with |d_i| <= apart_i and ‖d‖ <= length.

    With q = ‖c₀‖²/n + ε and u = (2c₀ᵀd + ‖d‖²)/(nq), x̂ = (c₀ + d)·t·(1 + u)^(-1/2), and (1 + u)^(-1/2) = 1 - u/2 + e with
    |e| <= (3/8)u²/(1 - |u|)^(5/2). What J leaves out is t·[c₀·(e - ‖d‖²/(2nq)) + d·(e - u/2)]. Where |u| may come near 1, the
    difference of x̂, at most √n, and J·d is bounded instead.

    Args:
        c0: Where, `(B, …, n)`.
        eps: ε.
        apart: Bounds on |d|, of the shape of c₀.
        length: Bounds on ‖d‖, `(B, …, 1)`.
    """
    n = c0.shape[-1]
    q = c0.square().mean(-1, keepdim=True) + eps
    scale = q.rsqrt()
    unit = scale * c0
    made = Tangent(scale, unit, unit - scale * (c0 - unit * (unit * c0).mean(-1, keepdim=True)), unit)
    most = (2 * c0.norm(dim=-1, keepdim=True) * length + length**2) / (n * q) * (1 + 1e-12)
    curved = 0.375 * most**2 / (1 - most.clamp(max=0.9)) ** 2.5
    near = scale * (c0.abs() * (curved + length**2 / (2 * n * q)) + apart * (curved + most / 2))
    far = n**0.5 + unit.abs() + made.at_most(apart)
    rest = torch.where(most < 0.9, torch.minimum(near, far), far) * (1 + 1e-12)
    return Tangent(scale, unit, made.offset, rest)
