"""Implicit Runge–Kutta steps of any tableau: stages by Broyden's method, gradients by the implicit function theorem."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from residyn.compat.inputs import Time
from residyn.compat.tableaus import Implicit as ImplicitTableau
from residyn.gradients.implicit import Implicit
from residyn.roots.base import Root, RootFinder, relative_residual

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

        def stages(flat: Tensor) -> Tensor:
            ks = flat.reshape(count, -1)
            points = y0.reshape(1, -1) + weight * (a @ ks)
            slopes = [f(t, point.view(y0.shape)) for t, point in zip(times, points, strict=True)]
            return torch.stack(slopes).reshape(1, -1)

        with torch.no_grad():
            # a tenth of the finest difference a gradient check makes (1e-6) would be lost in a looser solve
            tol = 1e-12 if y0.dtype in (torch.float64, torch.complex128) else 1e-6
            guess = f0.detach().reshape(1, -1).repeat(1, count)
            ks, converged = broyden(stages, guess, tol, self.max_iters)
        if not converged:
            warnings.warn(NOT_CONVERGED, stacklevel=2)
        if torch.is_grad_enabled():
            ks = Implicit(Gmres(tol=max(tol, 1e-10), max_iterations=200)).attach(stages, ks)
        return y0 + weight * (b @ ks.reshape(count, -1)).view(y0.shape)


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


@dataclass(frozen=True)
class Gmres(RootFinder):
    """u = w + A·u, linear, by GMRES on (I - A)·u = w: for the transposed equation of an implicit gradient.

    Reference:
        Saad & Schultz (1986), doi:10.1137/0907058.
    """

    def solve(self, g: Callable[[Tensor], Tensor], x0: Tensor) -> Root:
        """The solution; g(u) = w + A·u, and x0 is w."""
        w = x0.flatten()
        size = torch.linalg.vector_norm(w)
        if float(size) == 0.0:
            zero = torch.zeros(1, dtype=w.dtype.to_real() if w.is_complex() else w.dtype, device=w.device)
            return Root(x0, zero, 0, zero <= self.tol)
        basis, columns = [w / size], []
        u, error, count = w, 1.0, 0
        for count in range(1, min(self.max_iterations, w.numel()) + 1):
            v = basis[-1] - (g(basis[-1].view_as(x0)).flatten() - w)
            column = []
            for q in basis:
                weight = torch.vdot(q, v)
                v = v - weight * q
                column.append(weight)
            rest = torch.linalg.vector_norm(v)
            columns.append([*column, rest.to(w.dtype)])
            rows = torch.zeros(count + 1, count, dtype=w.dtype, device=w.device)
            for j, entries in enumerate(columns):
                rows[: len(entries), j] = torch.stack(entries)
            right = torch.zeros(count + 1, dtype=w.dtype, device=w.device)
            right[0] = size
            y = torch.linalg.lstsq(rows, right[:, None]).solution[:, 0]
            u = torch.stack(basis, dim=1) @ y
            error = float(torch.linalg.vector_norm(rows @ y - right) / size)
            if error <= self.tol or float(rest) <= 1e-14 * float(size):
                break
            basis.append(v / rest)
        found = u.view_as(x0)
        residual = relative_residual(found, g(found))
        return Root(found, residual, count, residual <= 10 * self.tol)
