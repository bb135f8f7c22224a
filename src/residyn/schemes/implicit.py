"""Diagonally implicit Runge–Kutta schemes: backward Euler to Kvaerno5, by tableau, with one Newton engine."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.schemes.base import Field, Rational, Scheme, Step, Time
from residyn.schemes.explicit import combine, step_size
from residyn.schemes.linearised import linearise
from residyn.schemes.newton import KnownSolver, StageSolver
from residyn.schemes.problem import Rhs, solves_itself
from residyn.schemes.record import ImplicitTableau, Recalled, Record


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
        other._rtol, other._atol = 0.01 * rtol, 0.01 * atol
        return other

    def step(self, f: Field, t0: Time, t1: Time, x: Tensor, state: Any) -> Step:
        """Take one step; `state` is the `Implicit` record of the step that ended here."""
        h = step_size(t0, t1, x)
        known = solves_itself(f)
        if known is not None and not isinstance(h, Tensor):
            solver: StageSolver | KnownSolver = KnownSolver(known, h)
        else:
            solver = StageSolver(self, linearise(f, t0, x) if state is None else state.here(f, t0, x), h, x)
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
        return Recalled(memory[0])

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
