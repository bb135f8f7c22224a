"""Diagonally implicit Runge–Kutta schemes: backward Euler to Kvaerno5, by tableau, with one Newton engine."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from residyn.branch import Symmetric
from residyn.errors import InputError
from residyn.roots.differentiate import Pullback, implicit_gradient
from residyn.roots.linear import DENSE_LIMIT, DenseSolver, forward_product, gmres, jacobian, rows_of
from residyn.schemes.base import Field, Rational, Scheme, Step, Time
from residyn.schemes.explicit import combine, step_size
from residyn.schemes.problem import Rhs, coupled, evaluate_once, solves_itself


@dataclass(frozen=True)
class ImplicitTableau:
    """A diagonally implicit tableau: row i of `a` has i+1 entries, the last its own weight: γ, or 0 for an explicit stage."""

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    error: tuple[float, ...] = ()

    @property
    def stiffly_accurate(self) -> bool:
        """Whether the result is the last stage."""
        return self.b == self.a[-1]


class DiagonallyImplicit(Scheme):
    """x_i = x + h·Σ_{j≤i} a_ij·k_j with k_i = f(t + c_i·h, x_i): one nonlinear equation a stage, solved one after the other.

    Simplified Newton: one Jacobian a step, written out and inverted sample by sample for up to 256 unknowns a sample (and up
    to a million entries in all), Newton–GMRES above. Gradients by implicit
    differentiation of each stage: one transposed solve, no iterate kept.

    Args:
        max_iterations: Newton iterations a stage before the step is given up (and, with adaptive control, tried shorter).
        tol: Newton tolerance, relative to the state; with adaptive control it follows from rtol and atol if not given.

    Raises:
        InputError: If a value breaks its rule.

    Reference:
        Hairer & Wanner (1996), "Solving Ordinary Differential Equations II", IV.8, doi:10.1007/978-3-642-05221-7.
    """

    tableau: ClassVar[ImplicitTableau]
    real_state: ClassVar[bool] = True

    def __init__(self, *, max_iterations: int = 10, tol: float | None = None) -> None:
        if not isinstance(max_iterations, int) or max_iterations < 1:
            raise InputError(f"`max_iterations` must be a whole number of at least 1, got {max_iterations!r}")
        if tol is not None and not 0 < tol < 1:
            raise InputError(f"`tol` must lie in (0, 1), got {tol!r}; 1e-8 is usual in double precision")
        self.max_iterations, self.tol = max_iterations, tol
        self._rtol: float | None = tol
        self._atol: float | Tensor | None = tol
        self._tuned = False

    def tuned(self, rtol: float, atol: float | Tensor) -> DiagonallyImplicit:
        """A copy whose Newton tolerance is a small part of the tolerances of adaptive control."""
        other = copy.copy(self)
        other._tuned = True
        if self.tol is not None:
            return other
        other._rtol, other._atol = 0.03 * rtol, 0.03 * atol
        return other

    def step(self, f: Field, t0: Time, t1: Time, x: Tensor, state: Any) -> Step:
        """Take one step; `state` is the `Implicit` record of the step that ended here."""
        h = step_size(t0, t1, x)
        known = solves_itself(f)
        if known is not None and not isinstance(h, Tensor):
            solver: _StageSolver | _KnownSolver = _KnownSolver(known, h)
        else:
            solver = _StageSolver(self, Linearisation(f, t0, x) if state is None else state.here(f, t0, x), h, x)
        ks: list[Tensor] = []
        z = x
        for i, (c, row) in enumerate(zip(self.tableau.c, self.tableau.a, strict=True)):
            t = t1 if c == 1.0 else t0 + c * (t1 - t0)
            if row[-1] == 0.0:
                ks.append(f(t, x) if state is None else state.slope)
                continue
            base = combine(x, h, row[:-1], ks)
            guess = combine(base, h * row[-1], _predictor(self.tableau.c[: i + 1]), ks) if ks else base
            z, slope = solver.solve(f, t, base, row[-1], guess)
            ks.append(slope)
        if isinstance(f, Rhs):
            f.root_iterations += solver.iterations
        x1 = z if self.tableau.stiffly_accurate else combine(x, h, self.tableau.b, ks)
        record = Record(f, t0, t1, h, x, x1, ks, solver.failed, self.tableau)
        x1 = x1 if solver.failed is None else torch.where(solver.failed, math.nan, x1)
        return Step(x1, record.error if self.tableau.error else None, record.dense, record, solver.failed)

    def memory(self, state: Record | None) -> tuple[Tensor, ...]:
        """The slope of the last stage, where it is the first of the next step."""
        return () if state is None or not self.carries_memory else (state.slope,)

    def recall(self, memory: tuple[Tensor, ...], h: Time) -> Any:
        """That slope, at which the next step linearises anew."""
        return _Recalled(memory[0])

    def merge(self, accept: Tensor, new: Record, old: Record | None) -> Record:
        """What the next step starts from, sample by sample."""
        return new.masked(accept)

    def stability(self, z: Tensor) -> Tensor:
        """R(z) = P(z)/Q(z)."""
        return self.rational()(z)

    def rational(self) -> Rational:
        """R(z) = det(I - z·A + z·1·bᵀ)/det(I - z·A) as a rational function."""
        return _stability(type(self).tableau)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


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


class Record:
    """A step taken: its stages, error and dense output, and the linearisation that the next step may share."""

    def __init__(
        self, f: Field, t0: Time, t1: Time, h: Time, x0: Tensor, x1: Tensor, ks: list[Tensor], failed: Tensor | None,
        tableau: ImplicitTableau,
    ) -> None:  # fmt: skip
        self.f, self.t0, self.t1, self.h, self.x0, self.x1, self.ks, self.failed = f, t0, t1, h, x0, x1, ks, failed
        self.tableau = tableau
        self.slope = ks[-1]
        self._here: Linearisation | None = None

    def here(self, f: Field, t: Time, x: Tensor) -> Linearisation:
        """∂f/∂x where this step ended."""
        if self._here is None:
            self._here = Linearisation(f, t, x)
        return self._here

    def masked(self, accept: Tensor) -> Record:
        """A record to go on from where only some samples took the step."""
        other = copy.copy(self)
        other._here = None
        other.slope = torch.where(accept, self.ks[-1], self.ks[0])
        return other

    def error(self) -> Tensor:
        """h·Σ e_i·k_i; infinite where Newton failed."""
        with torch.no_grad():
            estimate = combine(None, self.h, self.tableau.error, self.ks)
            return estimate if self.failed is None else torch.where(self.failed, math.inf, estimate)

    def dense(self, theta: Time) -> Tensor:
        """Cubic Hermite through both ends; a straight line for backward Euler.

        There f at the start may be as large as 1/h, and a cubic that heeds it would leave the interval that the step, being
        L-stable, stays in.
        """
        x0, x1, h = self.x0, self.x1, self.h
        if self.tableau.c == (1.0,):
            return x0 + theta * (x1 - x0)
        if self.tableau.a[0][-1] != 0.0:
            start, end = self.f(self.t0, x0), self.f(self.t1, x1)
        else:
            start, end = self.ks[0], self.ks[-1]
        gap = x1 - x0
        inner = (1 - 2 * theta) * gap + (theta - 1) * h * start + theta * h * end
        return x0 + theta * gap + theta * (theta - 1) * inner


class _Recalled:
    """What a step needs of the one before it, from its slope alone."""

    def __init__(self, slope: Tensor) -> None:
        self.slope = slope

    def here(self, f: Field, t: Time, x: Tensor) -> Linearisation:
        """∂f/∂x where that step ended."""
        return Linearisation(f, t, x)


class _KnownSolver:
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


class _StageSolver:
    """Solves the stages of one step: z = base + hγ·f(t, z)."""

    def __init__(self, scheme: DiagonallyImplicit, here: Linearisation, h: Time, x: Tensor) -> None:
        self.here, self.h, self.x = here, h, x
        self.max_iterations = scheme.max_iterations
        # with adaptive control a shorter step is the cheaper answer to slow convergence
        self.damped = 0 if scheme._tuned else 4 * scheme.max_iterations
        default = 1e-10 if x.dtype == torch.float64 else 1e-5
        rtol = default if scheme._rtol is None else scheme._rtol
        atol = default if scheme._atol is None else scheme._atol
        self.scale = x.detach().abs().mul(rtol).add(atol)
        self.iterations = 0
        self.failed: Tensor | None = None
        self._solvers: dict[float, Callable[[Tensor], Tensor]] = {}

    def solve(self, f: Field, t: Time, base: Tensor, gamma: float, guess: Tensor) -> tuple[Tensor, Tensor]:
        """The stage z, and its slope (z - base)/(hγ)."""
        weight = self.h * gamma
        with torch.no_grad():
            z = self._newton(f, t, base.detach(), weight, gamma, guess.detach())
        if torch.is_grad_enabled():
            cut = base.detach()
            image = implicit_gradient(lambda v: base + weight * f(t, v), z, self._transposed, lambda v: cut + weight * f(t, v))
            # the value stays Newton's, so that a step is the same with and without autograd
            z = z + (image - image.detach()) if image.requires_grad else z
        # a sample that has arrived takes steps of length zero, along which any slope will do
        return z, (z - base) / (torch.where(weight == 0.0, 1.0, weight) if isinstance(weight, Tensor) else weight)

    def _newton(self, f: Field, t: Time, base: Tensor, weight: Time, gamma: float, z: Tensor) -> Tensor:
        found, solved, done = self._iterate(f, t, base, weight, self._linear(f, gamma, weight), z)
        if not done and self.damped:
            found, solved, done = self._search(f, t, base, weight, z)
        if done:
            return found
        z = found
        shape = (-1, *[1] * (z.ndim - 1)) if z.ndim > 1 and not self.here.coupled else ()
        bad = ~solved
        bad = bad.reshape(shape) if shape else bad.any().reshape(())
        self.failed = bad if self.failed is None else self.failed | bad
        return torch.where(bad, base, z)

    def _iterate(
        self, f: Field, t: Time, base: Tensor, weight: Time, solve: Callable[[Tensor], Tensor], z: Tensor
    ) -> tuple[Tensor, Tensor, bool]:
        """Newton steps with one Jacobian: z, which systems are solved, and whether all are."""
        solved = lost = torch.zeros((), dtype=torch.bool, device=z.device)
        previous = z.new_full((), math.inf)
        for iteration in range(self.max_iterations):
            step = solve(base + weight * f(t, z) - z)
            z = z + step
            self.iterations += 1
            sizes = torch.linalg.vector_norm(rows_of(step / self.scale, self.here.coupled), dim=1) / math.sqrt(self.here.size)
            # What is left of a system is about rate/(1 - rate) of its last step (Hairer & Wanner 1996, IV.8). Each is judged by
            # itself: one that is slow must not undo the others, and one that is lost must not keep them.
            rate = sizes / previous
            solved = solved | (sizes <= 0.1) | ((sizes <= 1.0) & (rate < 0.5) & (iteration > 0))
            lost = lost | ~(sizes < math.inf) | (rate >= 2.0)
            if bool((solved | lost).all()):
                break
            previous = sizes
        return z, solved, bool(solved.all())

    def _search(self, f: Field, t: Time, base: Tensor, weight: Time, z: Tensor) -> tuple[Tensor, Tensor, bool]:
        """Newton with a fresh Jacobian each time, every system's step halved until its residual falls.

        Where f is dissipative I - hγ·J is never singular, and this converges from anywhere at any h.
        """
        coupled = self.here.coupled
        shape = (-1, *[1] * (z.ndim - 1)) if z.ndim > 1 and not coupled else (1,) * z.ndim
        residual = base + weight * f(t, z) - z
        sizes = z.new_zeros(1)
        for _ in range(self.damped):
            step = _linear_solver(Linearisation(f, t, z), weight)(residual)
            self.iterations += 1
            sizes = torch.linalg.vector_norm(rows_of(step / self.scale, coupled), dim=1) / math.sqrt(self.here.size)
            if bool((sizes <= 1.0).all()):  # the Jacobian being fresh, what is left is the square of this
                return z + step, sizes <= 1.0, True
            before = torch.linalg.vector_norm(rows_of(residual, coupled), dim=1)
            share = torch.ones_like(sizes)
            for _ in range(12):
                trial = z + share.view(shape) * step
                residual = base + weight * f(t, trial) - trial
                after = torch.linalg.vector_norm(rows_of(residual, coupled), dim=1)
                worse = ~(after <= (1 - 1e-4 * share) * before) & (sizes > 1.0)
                if not bool(worse.any()):
                    break
                share = torch.where(worse, share / 2, share)
            z = trial
        return z, sizes <= 1.0, False

    def _linear(self, f: Field, gamma: float, weight: Time) -> Callable[[Tensor], Tensor]:
        """r → (I - hγ·J)⁻¹·r, made once for each γ."""
        if gamma not in self._solvers:
            self._solvers[gamma] = _linear_solver(self.here, weight)
        return self._solvers[gamma]

    def _transposed(self, image: Tensor, leaf: Tensor, pullback: Pullback, w: Tensor) -> Tensor:
        """u with (I - ∂g/∂z)ᵀ·u = w."""
        coupled = self.here.coupled
        if self.here.dense:
            matrix = jacobian(image, leaf, coupled)
            identity = torch.eye(matrix.shape[-1], dtype=w.dtype, device=w.device)
            u = torch.linalg.solve((identity - matrix).mT, rows_of(w, coupled).unsqueeze(-1))
            return u.reshape(w.shape)

        def product(v: Tensor) -> Tensor:
            shaped = v.reshape(w.shape)
            return rows_of(shaped - pullback(shaped), coupled)

        tol = 1e-10 if w.dtype == torch.float64 else 1e-5
        return gmres(product, rows_of(w, coupled), tol=tol, max_products=300).x.reshape(w.shape)


def _linear_solver(here: Linearisation, weight: Time) -> Callable[[Tensor], Tensor]:
    """r → (I - weight·J)⁻¹·r."""
    if not here.dense:
        return _KrylovSolver(here, weight)
    matrix = here.matrix()
    scaled = matrix * (weight.reshape(-1, 1, 1) if isinstance(weight, Tensor) else weight)
    return DenseSolver(torch.eye(here.size, dtype=matrix.dtype, device=matrix.device) - scaled, here.coupled)


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


@functools.lru_cache(maxsize=64)
def _predictor(nodes: tuple[float, ...]) -> tuple[float, ...]:
    """Weights of the earlier slopes in the guess of the last: those of an equal node, else of the parabola through three."""
    *earlier, node = nodes
    for j in reversed(range(len(earlier))):
        if earlier[j] == node:
            return tuple(float(i == j) for i in range(len(earlier)))
    first = earlier[:3]
    weights = [math.prod(((node - q) / (p - q) for q in first if q != p), start=1.0) for p in first]
    return (*weights, *[0.0] * (len(earlier) - len(first)))


@functools.lru_cache(maxsize=64)
def _stability(tableau: ImplicitTableau) -> Rational:
    """R = det(I - zA + z·1·bᵀ)/det(I - zA), by the characteristic polynomials of A - 1·bᵀ and A."""
    s = len(tableau.b)
    a = np.zeros((s, s))
    for i, row in enumerate(tableau.a):
        a[i, : i + 1] = row
    rank_one = np.outer(np.ones(s), tableau.b)
    numerator, denominator = np.poly(a - rank_one), np.poly(a)
    clean = [np.where(np.abs(p) < 1e-14, 0.0, p) for p in (numerator, denominator)]
    return Rational(tuple(map(float, clean[0])), tuple(map(float, clean[1])))


class BackwardEuler(DiagonallyImplicit):
    """Backward Euler, order 1, L-stable: x⁺ = x + h·f(t + h, x⁺), the implicit residual step."""

    order = 1
    tableau = ImplicitTableau(c=(1.0,), a=((1.0,),), b=(1.0,))


class ImplicitMidpoint(DiagonallyImplicit):
    """Implicit midpoint, order 2, A-stable, symplectic: x⁺ = x + h·f(t + h/2, (x + x⁺)/2)."""

    order = 2
    tableau = ImplicitTableau(c=(0.5,), a=((0.5,),), b=(1.0,))


class Trapezoid(DiagonallyImplicit):
    """Trapezoidal rule (Crank–Nicolson), order 2, A-stable: x⁺ = x + h/2·(f(t, x) + f(t + h, x⁺))."""

    order = 2
    # the slope of the last stage; f(x) has it only to Newton's tolerance times the stiffness, which spoils gradients
    carries_memory = True
    tableau = ImplicitTableau(c=(0.0, 1.0), a=((0.0,), (0.5, 0.5)), b=(0.5, 0.5))


_G = 0.26


class Kvaerno5(DiagonallyImplicit):
    """Kværnø's 5(4): seven stages, the first explicit, A- and L-stable, stiffly accurate.

    Reference:
        Kværnø (2004), doi:10.1023/B:BITN.0000046811.70614.38.
    """

    order = 5
    error_order = 4
    carries_memory = True  # as in `Trapezoid`
    tableau = ImplicitTableau(
        c=(0.0, 0.52, 1.230333209967908, 0.8957659843500759, 0.43639360985864756, 1.0, 1.0),
        a=(
            (0.0,),
            (_G, _G),
            (0.13, 0.84033320996790809, _G),
            (0.22371961478320505, 0.47675532319799699, -0.06470895363112615, _G),
            (0.16648564323248321, 0.10450018841591720, 0.03631482272098715, -0.13090704451073998, _G),
            (0.13855640231268224, 0.0, -0.04245337201752043, 0.02446657898003141, 0.61943039072480676, _G),
            (0.13659751177640291, 0.0, -0.05496908796538376, -0.04118626728321046, 0.62993304899016403,
             0.06962479448202728, _G),
        ),
        b=(0.13659751177640291, 0.0, -0.05496908796538376, -0.04118626728321046, 0.62993304899016403, 0.06962479448202728, _G),
        error=(
            0.13659751177640291 - 0.13855640231268224,
            0.0,
            -0.05496908796538376 + 0.04245337201752043,
            -0.04118626728321046 - 0.02446657898003141,
            0.62993304899016403 - 0.61943039072480676,
            0.06962479448202728 - _G,
            _G,
        ),
    )  # fmt: skip
