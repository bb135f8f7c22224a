"""Implicit Runge–Kutta steps of any tableau: stages by Broyden's method, gradients by the implicit function theorem."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from residyn.compat.inputs import Time
from residyn.compat.tableaus import Implicit as ImplicitTableau
from residyn.roots.differentiate import implicit_gradient
from residyn.roots.linear import gmres

OPTIONS = ("max_iters",)
NOT_CONVERGED = "Functional iteration did not converge. Solution may be incorrect."


@dataclass(frozen=True)
class ImplicitStages:
    """One step with a full tableau; all stages are one unknown.

    Args:
        tableau: Its weights.
        max_iters: Iterations of the root finder.
    """

    tableau: ImplicitTableau
    max_iters: int = 100

    def __call__(self, f: Callable[[Time, Tensor], Tensor], t0: Time, t1: Time, y0: Tensor, f0: Tensor) -> Tensor:
        """The state at t1; `f0` is what all stages are guessed to be."""
        h = t1 - t0
        weight = h.to(y0.dtype) if isinstance(h, Tensor) else h
        count = len(self.tableau.b)
        a = torch.tensor(self.tableau.a, dtype=y0.dtype, device=y0.device)
        b = torch.tensor(self.tableau.b, dtype=y0.dtype, device=y0.device)
        times = [t0 if c == 0.0 else t1 if c == 1.0 else t0 + c * h for c in self.tableau.c]

        def pairs(v: Tensor) -> Tensor:
            return torch.view_as_real(v).reshape(1, -1) if v.is_complex() else v.reshape(1, -1)

        def back(v: Tensor) -> Tensor:
            return torch.view_as_complex(v.reshape(-1, 2)) if y0.is_complex() else v

        # complex stages as pairs of reals: f need not be holomorphic, and is then linear over the reals only
        def stages(flat: Tensor) -> Tensor:
            ks = back(flat).reshape(count, -1)
            points = y0.reshape(1, -1) + weight * (a @ ks)
            slopes = [f(t, point.view(y0.shape)) for t, point in zip(times, points, strict=True)]
            return pairs(torch.stack(slopes))

        with torch.no_grad():
            # a tenth of the finest difference a gradient check makes (1e-6) would be lost in a looser solve
            tol = 1e-12 if y0.dtype in (torch.float64, torch.complex128) else 1e-6
            guess = pairs(f0.detach().reshape(1, -1).repeat(1, count))
            ks, converged = broyden(stages, guess, tol, self.max_iters)
        if not converged:
            warnings.warn(NOT_CONVERGED, stacklevel=2)
        if torch.is_grad_enabled():

            def solve(_image: Tensor, _leaf: Tensor, pullback: Callable[[Tensor], Tensor], w: Tensor) -> Tensor:
                return gmres(lambda u: u - pullback(u), w, tol=max(tol, 1e-10)).x

            ks = implicit_gradient(stages, ks, solve)
        return y0 + weight * (b @ back(ks).reshape(count, -1)).view(y0.shape)


def broyden(g: Callable[[Tensor], Tensor], x: Tensor, tol: float, limit: int) -> tuple[Tensor, bool]:
    """x = g(x) by Broyden's good method from the Jacobian I of x - g(x), its inverse kept as rank-one terms.

    Args:
        g: Maps `(1, N)` to `(1, N)`.
        x: The guess.
        tol: On ‖x - g(x)‖/(1 + ‖g(x)‖).
        limit: Evaluations of g.

    Returns:
        x, and whether it converged.

    Reference:
        Broyden (1965), doi:10.1090/S0025-5718-1965-0198670-6.
    """
    left: list[Tensor] = []
    right: list[Tensor] = []

    def inverse(v: Tensor) -> Tensor:
        out = v
        for u, w in zip(left, right, strict=True):
            out = out + u * torch.vdot(w, v)
        return out

    def transposed(v: Tensor) -> Tensor:
        out = v
        for u, w in zip(left, right, strict=True):
            out = out + w * torch.vdot(u, v)
        return out

    gx = g(x)
    best, least, residual = gx, float("inf"), (x - gx).flatten()
    for _ in range(limit):
        size = float(torch.linalg.vector_norm(residual) / (1 + torch.linalg.vector_norm(gx)))
        if size < least:
            best, least = gx, size
        if size <= tol or not size < float("inf"):
            break
        s = -inverse(residual)
        x = x + s.view_as(x)
        gx = g(x)
        new = (x - gx).flatten()
        y, residual = new - residual, new
        hy = inverse(y)
        scale = torch.vdot(s, hy)
        if float(scale.abs()) == 0.0:
            break
        right.append(transposed(s))
        left.append((s - hy) / scale)
    return best, least <= tol
