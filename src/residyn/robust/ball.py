"""The ball an attack may move in: steepest directions, and projections that hold in floating point."""

from __future__ import annotations

import torch
from torch import Tensor

from residyn.robust.inputs import Box, Norm


class Ball:
    """All x + δ with ‖δ‖ ≤ ε, inside a box; one radius a sample.

    Args:
        x: Centres, `(B, …)`.
        eps: ε, float64 `(B,)`.
        norm: `"l2"` or `"linf"`.
        box: Range of the values of x, or none.
    """

    def __init__(self, x: Tensor, eps: Tensor, norm: Norm, box: Box) -> None:
        self.x, self.eps, self.norm, self.box = x, eps, norm, box

    def rows(self, index: Tensor) -> Ball:
        """The balls of some samples."""
        return Ball(self.x[index], self.eps[index], self.norm, self.box)

    def spread(self, value: Tensor) -> Tensor:
        """One number a sample, in the shape and dtype of x."""
        return value.to(self.x.dtype).reshape(-1, *[1] * (self.x.ndim - 1))

    def length(self, delta: Tensor) -> Tensor:
        """‖δ‖, float64 `(B,)`."""
        flat = delta.double().flatten(1)
        return flat.norm(dim=1) if self.norm == "l2" else flat.abs().amax(1)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The direction of norm 1 along which a linear function with this gradient rises fastest."""
        if self.norm == "linf":
            return gradient.sign()
        scale = gradient.flatten(1).abs().amax(1)  # before squares, which would underflow
        gradient = gradient / self.spread(scale.double().clamp(min=torch.finfo(gradient.dtype).tiny))
        return gradient / self.spread(gradient.flatten(1).norm(dim=1).clamp(min=1e-12))

    def random(self, generator: torch.Generator) -> Tensor:
        """A point of the ball: on the sphere for L2, uniform for L∞."""
        draw = torch.rand(self.x.shape, generator=generator, dtype=torch.float64).to(self.x.device)
        if self.norm == "l2":
            draw = torch.randn(self.x.shape, generator=generator, dtype=torch.float64).to(self.x.device)
            return self.project(self.x + self.spread(self.eps) * self.steepest(draw).to(self.x.dtype))
        return self.project(self.x + self.spread(self.eps) * (2 * draw - 1).to(self.x.dtype))

    def project(self, z: Tensor) -> Tensor:
        """The nearest point of the ball, moved inwards by the roundings it takes to be inside in floating point.

        For L2 with a box: the ball first, then the box, which shortens δ as x lies in it.
        """
        delta = torch.nan_to_num(z - self.x)
        if self.norm == "l2":
            return self._shrunk(delta)
        limit = self.spread(self.eps)
        z = self._boxed(self.x + torch.maximum(torch.minimum(delta, limit), -limit))
        for _ in range(4):
            outside = (z.double() - self.x.double()).abs() > self.eps.reshape(limit.shape)
            if not bool(outside.any()):
                return z
            z = torch.where(outside, torch.nextafter(z, self.x), z)
        return torch.where(outside, self.x, z)

    def _shrunk(self, delta: Tensor) -> Tensor:
        factor = (self.eps / self.length(delta).clamp(min=1e-300)).clamp(max=1.0)
        z, inside = self.x, torch.zeros_like(factor, dtype=torch.bool)
        for less in (0.0, 1e-7, 1e-6, 1e-5, 1e-3, 1e-2, 0.1, 1.0):
            trial = self._boxed(self.x + self.spread(factor * (1 - less)) * delta)
            moved = trial - self.x
            fits = (self.length(trial.double() - self.x.double()) <= self.eps) & (
                moved.flatten(1).norm(dim=1) <= self.eps.to(moved.dtype)
            )
            z = torch.where(self.spread((fits & ~inside).double()) > 0, trial, z)
            inside = inside | fits
            if bool(inside.all()):
                break
        return z

    def _boxed(self, z: Tensor) -> Tensor:
        return z if self.box is None else z.clamp(*self.box)
