"""Newton's method, and Newton–GMRES where a Jacobian would be too large to write out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.roots.base import Map, Root, RootFinder, Update, relative_residual, rows, unrows
from residyn.roots.linear import DENSE_LIMIT, forward_product, gmres, is_coupled, jacobian, rows_of, widened


@dataclass(frozen=True)
class Newton(RootFinder):
    """Newton's method: x ← x + λ·(I - ∂g/∂x)⁻¹·(g(x) - x), with λ halved, sample by sample, until the residual falls.

    Up to 256 unknowns a sample the Jacobian is written out; above, the linear system is solved by GMRES with products ∂g/∂x·v.
    A map that couples the samples of a batch is noticed and solved as one system. Where the Jacobian is singular the step is
    the shortest that solves the equation best, and the `reason` of a `Root` that has not converged says so.

    Args:
        linear_tol: Relative residual that GMRES goes for; smaller costs more products and saves evaluations.

    Raises:
        InputError: If a value breaks its rule.

    Reference:
        Dembo, Eisenstat & Steihaug (1982), "Inexact Newton methods", doi:10.1137/0719025.

    >>> root = Newton(tol=1e-6).solve(torch.cos, torch.ones(1, 1))
    >>> round(float(root.x), 4), root.iterations
    (0.7391, 4)
    """

    max_iterations: int = 50
    linear_tol: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.linear_tol < 1:
            raise InputError(f"`linear_tol` must lie in (0, 1), got {self.linear_tol!r}; 1e-2 is usual")

    def start(self, g: Map, x: Tensor) -> Update:
        """The last Jacobian's step, and how much of it is tried."""
        return _Tangent(g, self.linear_tol)

    def solve_adjoint(self, image: Tensor, leaf: Tensor, pullback: Map, w: Tensor) -> Root:
        """Solve u = w + (∂g/∂x)ᴴ·u at once: it is linear."""
        coupled = is_coupled(image, leaf)
        like = rows_of(w, coupled)
        if not w.is_complex() and like.shape[1] <= DENSE_LIMIT:
            u, singular = _solve(jacobian(image, leaf, coupled).mT, like)
            found, calls, trouble = u.reshape(w.shape), like.shape[1], _singular(singular)
        else:
            krylov = gmres(lambda v: v - rows(pullback(unrows(v, w))), rows(w), tol=self.tol, max_products=300)
            found, calls, trouble = unrows(krylov.x, w), krylov.products, "GMRES ended before its tolerance"
        image_u = rows(w + pullback(found))
        residual = relative_residual(image_u - rows(found), image_u)
        root = Root(found, residual, calls, residual <= self.tol)
        return root if root else replace(root, reason=trouble or "the linear system is too ill-conditioned for its precision")


class _Tangent(Update):
    def __init__(self, g: Map, linear_tol: float) -> None:
        self.g, self.linear_tol = g, linear_tol
        self.coupled: bool | None = None
        self.length: Tensor | None = None

    def image(self, x: Tensor) -> Tensor:
        """g(x); its graph is kept until the next."""
        self.leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            self.graph = self.g(self.leaf)
        return self.graph.detach()

    def next(self, x: Tensor, gx: Tensor, r: Tensor) -> Tensor:
        """The next trial point: a new step where the last one made the residual fall, half of it where it did not."""
        if self.coupled is None:
            self.coupled = self.graph.requires_grad and is_coupled(self.graph, self.leaf)
        shape = x.shape
        x, r = rows_of(x, self.coupled), rows_of(r, self.coupled)
        size = torch.linalg.vector_norm(r, dim=1, keepdim=True)
        if self.length is None:
            self.base, self.size, self.d = x, size, self._step(r)
            self.length = torch.ones_like(size)
        else:
            taken = size <= (1 - 1e-4 * self.length) * self.size  # false for nan
            self.base, self.size = torch.where(taken, x, self.base), torch.where(taken, size, self.size)
            self.length = torch.where(taken, 1.0, 0.5 * self.length)
            if bool(taken.any()):
                self.d = torch.where(taken, self._step(r), self.d)
        return torch.addcmul(self.base, self.length, self.d).reshape(shape)

    def _step(self, r: Tensor) -> Tensor:
        """(I - ∂g/∂x)⁻¹·r of each system."""
        coupled = bool(self.coupled)
        if r.shape[1] <= DENSE_LIMIT:
            d, singular = _solve(jacobian(self.graph, self.leaf, coupled), r)
            self.trouble = _singular(singular)
            return d
        forward: Callable[[Tensor], Tensor] = forward_product(self.graph, self.leaf)
        shape = self.leaf.shape
        found = gmres(lambda v: v - rows_of(forward(v.reshape(shape)), coupled), r, tol=self.linear_tol, max_products=100)
        hopeless = ~(found.residual < 0.9)
        self.trouble = _singular(hopeless)
        return torch.where(hopeless.unsqueeze(1), r, found.x)


def _singular(which: Tensor) -> str:
    return f"the Jacobian I - ∂g/∂x of sample {int(which.byte().argmax())} is singular" if bool(which.any()) else ""


def _solve(matrix: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """(I - matrix)⁻¹·r of systems `(B, n)`, by least squares where it is singular, and where that is."""
    if widened(r) is not r:
        d, singular = _solve(widened(matrix), widened(r))
        return d.to(r.dtype), singular
    m = torch.eye(matrix.shape[-1], dtype=r.dtype, device=r.device) - matrix
    d, info = torch.linalg.solve_ex(m, r)
    # ‖M‖·‖M⁻¹r‖/‖r‖ bounds the condition number from below
    gain = torch.linalg.vector_norm(d, dim=1) * torch.linalg.matrix_norm(m)
    limit = 0.01 / torch.finfo(r.dtype).eps * torch.linalg.vector_norm(r, dim=1)
    singular = (info != 0) | ~(gain <= limit)
    usable = singular & torch.isfinite(m).all(dim=(1, 2))
    if bool(usable.any()):
        d[usable] = (torch.linalg.pinv(m[usable]) @ r[usable].unsqueeze(2)).squeeze(2)
    return torch.nan_to_num(d, nan=0.0, posinf=0.0, neginf=0.0), singular
