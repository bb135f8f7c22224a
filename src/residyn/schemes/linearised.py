"""f near the start of a step, and linear systems in I - hγ·∂f/∂x: written out where they are small, by Krylov where not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from residyn.roots.linear import DENSE_LIMIT, DenseSolver, forward_product, gmres, is_coupled_by, jacobian, rows_of
from residyn.schemes.base import Field, Time
from residyn.schemes.problem import Rhs, coupled, evaluate_once
from residyn.state import differentiations, inside_transform

_DENSE_ENTRIES = 2**20
"""Up to so many entries in all, a factorisation (0.1 s) beats GMRES, which diffusion on a fine grid makes slow."""


class Linearisation:
    """∂f/∂x at the start of a step, computed once however often the step is tried."""

    def __init__(self, f: Field, t: Time, x: Tensor) -> None:
        self.leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            self.image = evaluate_once(f, t, self.leaf, "an implicit scheme")
        self.coupled = coupled(f, t, self.image, self.leaf)
        self.size = rows_of(x, self.coupled).shape[1]
        self._matrix: Tensor | None = None

    @property
    def dense(self) -> bool:
        """Whether the Jacobian is small enough to be written out: for few samples a larger one is."""
        return self.size <= DENSE_LIMIT or self.leaf.numel() * self.size <= _DENSE_ENTRIES

    def matrix(self) -> Tensor:
        """The Jacobian, `(B, n, n)`."""
        if self._matrix is None:
            self._matrix = jacobian(self.image, self.leaf, self.coupled)
        return self._matrix


class Transformed(Linearisation):
    """∂f/∂x at x inside a transform of torch.func, or with dual numbers, by operations that those know.

    Always written out; it can itself be differentiated by what is at work around it.
    """

    def __init__(self, f: Field, t: Time, x: Tensor) -> None:
        self.leaf, self._matrix = x, None
        image, pull = torch.func.vjp(lambda v: evaluate_once(f, t, v, "an implicit scheme"), x)[:2]
        self.image, self._pull = image, pull
        self.coupled = self._coupled(f, t)
        self.size = rows_of(x, self.coupled).shape[1]

    @property
    def dense(self) -> bool:
        """Always."""
        return True

    def pull(self, weight: Tensor) -> Tensor:
        """(∂f/∂x)ᵀ·weight."""
        pulled: Tensor = self._pull(weight)[0]
        return pulled

    def matrix(self) -> Tensor:
        """The Jacobian, `(B, n, n)`."""
        if self._matrix is None:
            x, n = self.leaf, self.size
            batch = x.numel() // n
            basis = torch.eye(n, dtype=x.dtype, device=x.device)[:, None, :].expand(n, batch, n).reshape(n, *x.shape)
            self._matrix = torch.func.vmap(self.pull)(basis).reshape(n, batch, n).transpose(0, 1)
        return self._matrix

    def _coupled(self, f: Field, t: Time) -> bool:
        """Whether samples depend on each other, asked as `problem.coupled` does."""
        if isinstance(f, Rhs) and f.coupled is not None:
            return f.coupled
        x = self.leaf.detach()
        found = is_coupled_by(lambda w: self.pull(w).detach(), x)
        if not found and x.ndim > 1 and len(x) > 1:
            noise = torch.from_numpy(np.random.default_rng(0).standard_normal(tuple(x.shape)))
            beside = x + 1e-3 * (x.abs() + 1e-3) * noise.to(x.device, x.dtype)
            pull = torch.func.vjp(lambda v: f(t, v), beside)[1]
            found = is_coupled_by(lambda w: pull(w)[0].detach(), x)
        if isinstance(f, Rhs):
            f.coupled = found
        return found


def linearise(f: Field, t: Time, x: Tensor) -> Linearisation:
    """∂f/∂x at x, of the kind that where we are allows."""
    return Transformed(f, t, x.detach()) if inside_transform() else Linearisation(f, t, x)


def linear_solver(here: Linearisation, weight: Time) -> Callable[[Tensor], Tensor]:
    """r → (I - weight·J)⁻¹·r."""
    if not here.dense:
        return _KrylovSolver(here, weight)
    matrix = here.matrix()
    scaled = matrix * (weight.reshape(-1, 1, 1) if isinstance(weight, Tensor) else weight)
    return DenseSolver(torch.eye(here.size, dtype=matrix.dtype, device=matrix.device) - scaled, here.coupled)


def differentiable_root(
    gap: Callable[[Tensor], Tensor], solver: Callable[[Tensor], Callable[[Tensor], Tensor]], z: Tensor
) -> Tensor:
    """A root of gap(z) = g(z) - z, found already, with the derivatives of the exact one, for the transforms around this call.

    z + (I - ∂g/∂z)⁻¹·gap(z) has the first derivative of the root with z and ∂g/∂z held constant, and every further such step
    doubles the number of derivatives that are right (Newton's method on power series). The value stays what was found.

    Args:
        gap: g(z) - z.
        solver: z → (r → (I - ∂g/∂z)⁻¹·r), which can itself be differentiated.
        z: The root, detached.
    """
    depth, right = differentiations(), 0
    while right < depth:
        step = solver(z)(gap(z))
        z = z + (step - step.detach())
        right = 2 * right + 1
    return z


class _KrylovSolver:
    """r → (I - hγ·J)⁻¹·r by GMRES, J·v by differentiating twice backwards on the graph of one evaluation."""

    def __init__(self, here: Linearisation, weight: Time) -> None:
        self.here, self.weight = here, weight
        self.forward = forward_product(here.image, here.leaf)

    def __call__(self, r: Tensor) -> Tensor:
        """The solution, to a relative residual that Newton's own convergence does not notice."""
        coupled = self.here.coupled

        def product(v: Tensor) -> Tensor:
            shaped = v.reshape(r.shape)
            return rows_of(shaped - self.weight * self.forward(shaped), coupled)

        return gmres(product, rows_of(r, coupled), tol=1e-3, max_products=200, restart=50).x.reshape(r.shape)
