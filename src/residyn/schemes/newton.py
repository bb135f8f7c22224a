"""The equations of one implicit step: z = base + hγ·f(t, z) for each stage, by simplified Newton."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from residyn.branch import Symmetric
from residyn.roots.differentiate import Pullback, implicit_gradient
from residyn.roots.linear import gmres, jacobian, rows_of, widened
from residyn.schemes.base import Field, Time
from residyn.schemes.linearised import Linearisation, Transformed, differentiable_root, linear_solver, linearise
from residyn.schemes.plain import is_plain
from residyn.state import inside_transform, physical

if TYPE_CHECKING:
    from residyn.schemes.implicit import DiagonallyImplicit

Array = np.ndarray[Any, np.dtype[Any]]


class StageSolver:
    """Solves the stages of one step: z = base + hγ·f(t, z)."""

    def __init__(self, scheme: DiagonallyImplicit, here: Linearisation, h: Time, x: Tensor) -> None:
        self.here, self.h, self.x = here, h, x
        self.max_iterations = scheme.max_iterations
        # with adaptive control a shorter step is the cheaper answer to slow convergence
        self.damped = 0 if scheme._tuned else 4 * scheme.max_iterations
        default = 1e-10 if x.dtype == torch.float64 else max(1e-5, torch.finfo(x.dtype).eps)
        rtol = default if scheme._rtol is None else scheme._rtol
        atol = default if scheme._atol is None else scheme._atol
        if scheme._tuned:  # steps do not fall below rounding, and to go on there would be to give up what is solved
            rtol = max(rtol, 0.5 * torch.finfo(x.dtype).eps)
        self.scale = x.detach().abs().mul(rtol).add(atol)
        plain = is_plain(self.scale)
        self.plain = self.scale.numpy() if plain else None
        self.shares = np.full(here.size, 1.0 / here.size, self.scale.numpy().dtype) if plain else None
        self.left: Array | float = 10.0
        self.iterations = 0
        self.failed: Tensor | None = None
        self._solvers: dict[float, Callable[[Tensor], Tensor]] = {}

    def solve(self, f: Field, t: Time, base: Tensor, gamma: float, guess: Tensor) -> tuple[Tensor, Tensor]:
        """The stage z, and its slope (z - base)/(hγ)."""
        weight = self.h * gamma
        with torch.no_grad():
            z = self._newton(f, t, base.detach(), weight, gamma, guess.detach())
        if inside_transform():
            z = self._differentiable(f, t, base, weight, z)
        elif torch.is_grad_enabled():
            cut = base.detach()
            image = implicit_gradient(lambda v: base + weight * f(t, v), z, self._transposed, lambda v: cut + weight * f(t, v))
            # the value stays Newton's, so that a step is the same with and without autograd
            z = z + (image - image.detach()) if image.requires_grad else z
        # a sample that has arrived takes steps of length zero, along which any slope will do
        return z, (z - base) / (torch.where(weight == 0.0, 1.0, weight) if isinstance(weight, Tensor) else weight)

    def _differentiable(self, f: Field, t: Time, base: Tensor, weight: Time, z: Tensor) -> Tensor:
        """z with the derivatives of the exact solution, for whatever is at work around."""
        own = weight.detach() if isinstance(weight, Tensor) else weight
        return differentiable_root(
            lambda z: base + weight * f(t, z) - z, lambda z: linear_solver(Transformed(f, t, z), own), z.detach()
        )

    def _newton(self, f: Field, t: Time, base: Tensor, weight: Time, gamma: float, z: Tensor) -> Tensor:
        found, solved, done = self._iterate(f, t, base, weight, self._linear(f, gamma, weight), z)
        if not done and self.damped:
            found, solved, done = self._search(f, t, base, weight, z)
        if done:
            return found
        z = found
        shape = (-1, *[1] * (z.ndim - 1)) if z.ndim > 1 and not self.here.coupled else ()
        bad = ~solved
        if inside_transform():
            bad, shape = torch.ones(1, dtype=torch.bool, device=z.device), ()
        bad = bad.reshape(shape) if shape else bad.any().reshape(())
        self.failed = bad if self.failed is None else self.failed | bad
        return torch.where(bad, base, z)

    def _iterate(
        self, f: Field, t: Time, base: Tensor, weight: Time, solve: Callable[[Tensor], Tensor], z: Tensor
    ) -> tuple[Tensor, Tensor, bool]:
        """Newton steps with one Jacobian: z, which systems are solved, and whether all are.

        What is left of a system after a step is about η = rate/(1 - rate) times that step; for the first step of a stage η is
        what the stage before found (Hairer & Wanner 1996, IV.8). Each system is judged by itself: one that is slow must not
        undo the others, and one that is lost must not keep them. Where steps are fixed, and no error estimate sees what Newton
        left, η is no less than 1, and none is handed on.
        """
        wide = weight.expand_as(z).contiguous() if isinstance(weight, Tensor) else weight
        judge = _Judge(self.left, 1.0 if self.damped else 0.1)
        for _ in range(self.max_iterations):
            step = solve(_residual(f, t, base, wide, z))
            z = z + step
            self.iterations += 1
            if judge.settled(self._sizes(step)):
                break
        if not self.damped:
            self.left = judge.left
        every = bool(judge.solved.all())
        solved = judge.solved if not inside_transform() else np.full(1, every)  # no lane of vmap has a verdict of its own
        return z, torch.from_numpy(solved).to(z.device), every

    def _sizes(self, step: Tensor) -> Array:
        """The root mean square of step/scale of each system, `(B,)`, on the host: the one wait of an iteration."""
        if self.plain is not None:
            with np.errstate(all="ignore"):
                ratio = step.numpy() / self.plain
                ratio *= ratio
                sizes: Array = np.sqrt(ratio.reshape(-1, self.here.size) @ self.shares)
                return sizes
        norms = torch.linalg.vector_norm(rows_of(step / self.scale, self.here.coupled), dim=1)
        norms = norms / math.sqrt(self.here.size)
        if inside_transform():
            return np.array(physical(norms).tolist())
        found: Array = norms.cpu().double().numpy()
        return found

    def _search(self, f: Field, t: Time, base: Tensor, weight: Time, z: Tensor) -> tuple[Tensor, Tensor, bool]:
        """Newton with a fresh Jacobian each time, every system's step halved until its residual falls.

        Where f is dissipative I - hγ·J is never singular, and this converges from anywhere at any h.
        """
        coupled = self.here.coupled
        shape = (-1, *[1] * (z.ndim - 1)) if z.ndim > 1 and not coupled else (1,) * z.ndim
        residual = _residual(f, t, base, weight, z)
        sizes = z.new_zeros(1)
        for _ in range(self.damped):
            step = linear_solver(linearise(f, t, z), weight)(residual)
            self.iterations += 1
            sizes = torch.linalg.vector_norm(rows_of(step / self.scale, coupled), dim=1) / math.sqrt(self.here.size)
            if bool((physical(sizes) <= 1.0).all()):  # the Jacobian being fresh, what is left is the square of this
                return z + step, sizes <= 1.0, True
            before = torch.linalg.vector_norm(rows_of(residual, coupled), dim=1)
            share = torch.ones_like(sizes)
            for _ in range(12):
                trial = z + share.view(shape) * step
                residual = _residual(f, t, base, weight, trial)
                after = torch.linalg.vector_norm(rows_of(residual, coupled), dim=1)
                worse = ~(after <= (1 - 1e-4 * share) * before) & (sizes > 1.0)
                if not bool(physical(worse).any()):
                    break
                share = torch.where(worse, share / 2, share)
            z = trial
        return z, sizes <= 1.0, False

    def _linear(self, f: Field, gamma: float, weight: Time) -> Callable[[Tensor], Tensor]:
        """r → (I - hγ·J)⁻¹·r, made once for each γ."""
        if gamma not in self._solvers:
            self._solvers[gamma] = linear_solver(self.here, weight)
        return self._solvers[gamma]

    def _transposed(self, image: Tensor, leaf: Tensor, pullback: Pullback, w: Tensor) -> Tensor:
        """u with (I - ∂g/∂z)ᵀ·u = w."""
        coupled = self.here.coupled
        if self.here.dense:
            matrix = jacobian(image, leaf, coupled)
            identity = torch.eye(matrix.shape[-1], dtype=w.dtype, device=w.device)
            u = torch.linalg.solve(widened((identity - matrix).mT), widened(rows_of(w, coupled).unsqueeze(-1)))
            return u.reshape(w.shape).to(w.dtype)

        def product(v: Tensor) -> Tensor:
            shaped = v.reshape(w.shape)
            return rows_of(shaped - pullback(shaped), coupled)

        tol = 1e-10 if w.dtype == torch.float64 else 1e-5
        return gmres(product, rows_of(w, coupled), tol=tol, max_products=300).x.reshape(w.shape)


class KnownSolver:
    """Solves the stages of a step by the branch itself: z = (I - hγ·A)⁻¹·(base + hγ·b)."""

    iterations = 0
    failed = None

    def __init__(self, branch: Symmetric, h: float) -> None:
        self.branch, self.h = branch, h

    def solve(self, f: Field, t: Time, base: Tensor, gamma: float, guess: Tensor) -> tuple[Tensor, Tensor]:
        """The stage z, and its slope (z - base)/(hγ)."""
        weight, offset = self.h * gamma, self.branch.offset
        z = self.branch.resolvent(base if offset is None else base + weight * offset, weight)
        return z, (z - base) / weight


class _Judge:
    """Which systems a Newton iteration has solved, and which it has lost."""

    def __init__(self, left: Array | float, least: float) -> None:
        self.left, self.least = left, least
        self.solved: Array = np.zeros(1, dtype=bool)
        self.lost: Array = self.solved
        self.previous: Array | float = math.inf

    def settled(self, sizes: Array) -> bool:
        """Look at the sizes of the newest steps, in units of the tolerance; whether nothing is left to be done."""
        with np.errstate(all="ignore"):
            rate = sizes / self.previous
            if self.previous is not math.inf:
                self.left = np.where(rate < 1.0, np.maximum(rate / (1.0 - rate), self.least), math.inf)
            self.solved = self.solved | (sizes * self.left <= 1.0) | (sizes <= 0.1)
            self.lost = self.lost | ~(sizes < math.inf) | (rate >= 2.0)
        self.previous = sizes
        return bool((self.solved | self.lost).all())


def _residual(f: Field, t: Time, base: Tensor, weight: Time, z: Tensor) -> Tensor:
    """base + hγ·f(t, z) - z."""
    slope = f(t, z)
    image = torch.addcmul(base, weight, slope) if isinstance(weight, Tensor) else torch.add(base, slope, alpha=weight)
    return image.sub_(z)
