"""How large may the step be? One answer for a layer, an optimiser, a graph filter and a propagator."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from residyn.analysis.arnoldi import arnoldi, dense_eigenvalues, known_eigenvalues, largest_turn, rounding
from residyn.analysis.boundary import Branch
from residyn.analysis.dense import DenseStep
from residyn.analysis.jacobian import Jacobian
from residyn.analysis.lanczos import golub_kahan
from residyn.analysis.norms import memory, rightmost
from residyn.analysis.polynomial import PolynomialStep
from residyn.analysis.region import Region
from residyn.branch import Linear, Symmetric
from residyn.errors import InputError
from residyn.results import Estimate
from residyn.schemes.base import Scheme
from residyn.schemes.explicit import Euler

Criterion = Literal["spectrum", "norm", "growth"]

_DENSE = 200
"""Up to this size J is written out and judged exactly."""


def max_stable_step(
    branch: Branch,
    x: Tensor,
    scheme: Scheme | None = None,
    *,
    criterion: Criterion = "spectrum",
    growth: float = 1.0,
    depth: int = 1,
) -> Estimate:
    """The largest step h at which a scheme is stable on x' = F(x), linearised at x: J = ∂F/∂x, one step is R(h·J).

    - `"spectrum"`: |R(h·λ)| ≤ 1 for all eigenvalues λ of J. Asymptotic; the whole truth where J is normal.
    - `"norm"`: ‖R(h·J)‖₂ ≤ 1, non-expansive in every step: what a non-normal J (attention, convection) needs.
    - `"growth"`: ‖R(h·J)‖₂^depth ≤ growth, for a stack of `depth` blocks.

    Every smaller step is stable as well: h is the end of the interval that starts at 0. It is exactly 0 or inf where that is
    the truth: 0 for forward Euler on an oscillator, or if J expands (an eigenvalue with positive real part; for the norm a
    positive logarithmic norm); inf for an A-stable scheme on a dissipative branch. Eigenvalues 0 ask nothing.

    Exact, up to rounding, where the branch lists its eigenvalues (`Linear`, normal for the norm) and where J has at most 200
    rows. Beyond, J is only multiplied: a symmetric or skew J by Lanczos; the spectrum of any other J by Arnoldi at its edges
    (largest modulus, rightmost, largest imaginary part, and for explicit schemes the largest modulus of R(h·J) itself, which
    shows an eigenvalue that binds away from them); its norm by Golub–Kahan on R(h·J) for an explicit scheme, and by the
    logarithmic norm for an A-stable one (von Neumann's bound, from below if J expands and `growth` > 1).

    Args:
        branch: F, which keeps the shape of x: the branch, not the block x + h·F(x).
        x: Where; any shape, floating point or complex. A batch is one vector: the step is good for all its samples.
        scheme: The scheme; `None` for `Euler()`, the residual step itself.
        criterion: `"spectrum"`, `"norm"` or `"growth"`.
        growth: Largest growth over the whole depth, ≥ 1; only with `criterion="growth"`.
        depth: Number of blocks.

    Returns:
        An `Estimate` in units of 1/F'. Kind `"estimate"` where J is known or written out; `"upper"` where Lanczos or Arnoldi
        found the constraint, since one they missed could only lower it; `"lower"` for von Neumann's bound.

    Raises:
        InputError: If an argument is out of range, `branch` does not fit x, or the question cannot be answered without the
            matrix (the norm of a large non-normal J under an implicit scheme that is not A-stable).

    Reference:
        Hairer & Wanner (1996), "Solving Ordinary Differential Equations II", IV.3 and IV.11, doi:10.1007/978-3-642-05221-7.

    >>> from residyn.branch import Dense
    >>> float(max_stable_step(Dense(torch.tensor([[-4.0]])), torch.zeros(1)))
    0.5
    >>> float(max_stable_step(lambda x: torch.stack([x[1], -x[0]]), torch.zeros(2)))
    0.0
    """
    scheme = Euler() if scheme is None else scheme
    _check(scheme, criterion, growth, depth)
    jacobian = Jacobian(branch, x)
    region = Region(scheme, float(growth) ** (1.0 / depth))
    values = known_eigenvalues(jacobian)
    normal = isinstance(jacobian.branch, Linear) and jacobian.branch.normal
    if values is not None and (normal or criterion == "spectrum"):
        return Estimate(region.largest_step(snapped(values, jacobian)))
    if jacobian.size <= _DENSE * (2 if x.is_complex() else 1):
        return _dense_step(jacobian, region, criterion)
    side = 1.0 if isinstance(jacobian.branch, Symmetric) else _symmetry(jacobian)
    if side:
        return _one_line(jacobian, region, side)
    if normal or criterion == "spectrum":
        return _edges(jacobian, region)
    return _matrix_free(jacobian, region)


def snapped(values: np.ndarray, jacobian: Jacobian, error: float = 0.0) -> np.ndarray:
    """Eigenvalues without what rounding put there: real and imaginary parts at its level are 0."""
    if not np.all(np.isfinite(values)):
        raise InputError("`branch` must have finite eigenvalues, got nan or inf; look at its parameters")
    slack = max(error, rounding(len(values), jacobian.eps)) * float(np.abs(values).max(initial=0.0))
    real = np.where(np.abs(values.real) <= slack, 0.0, values.real)
    imag = np.where(np.abs(values.imag) <= slack, 0.0, values.imag)
    return real + 1j * imag


def _check(scheme: Scheme, criterion: str, growth: float, depth: int) -> None:
    if not isinstance(scheme, Scheme):
        raise InputError(
            f"`scheme` must be a Scheme such as Euler(), got {scheme!r}; make one of the class if you handed it in"
        )
    if criterion not in ("spectrum", "norm", "growth"):
        raise InputError(f'`criterion` must be "spectrum", "norm" or "growth", got {criterion!r}; "norm" is the safe one')
    if not 1.0 <= growth < math.inf:
        raise InputError(f"`growth` must be finite and at least 1, got {growth}; a step h → 0 neither grows nor shrinks")
    if growth != 1.0 and criterion != "growth":
        raise InputError(
            f'`growth` must be 1 for criterion {criterion!r}, got {growth}; set criterion="growth" to allow growth'
        )
    if not (isinstance(depth, int) and depth >= 1):
        raise InputError(f"`depth` must be a whole number of blocks, at least 1, got {depth!r}; 1 judges one step")


def _dense_step(jacobian: Jacobian, region: Region, criterion: str) -> Estimate:
    matrix = jacobian.dense().cpu().to(torch.complex128 if jacobian.holomorphic else torch.float64).numpy()
    step = DenseStep(matrix, region, jacobian.eps)
    values = snapped(dense_eigenvalues(matrix, jacobian.eps), jacobian)
    h = region.largest_step(values) if criterion == "spectrum" or step.normal else step.largest(values)
    return Estimate(h, "estimate", jacobian.products)


def _symmetry(jacobian: Jacobian) -> complex:
    """1 if J is symmetric, 1j if it is skew, 0 if neither; asked of one random vector, which no other J satisfies."""
    if jacobian.symmetric:
        return 1.0
    v = jacobian.random(2)
    image, back = jacobian.apply(v), jacobian.adjoint(v)
    slack = 10 * rounding(1, jacobian.eps) * float(image.norm() + back.norm())
    if float((image - back).norm()) <= slack:
        jacobian.symmetric = True
        return 1.0
    return 1j if float((image + back).norm()) <= slack else 0.0


def _one_line(jacobian: Jacobian, region: Region, side: complex) -> Estimate:
    """All eigenvalues on one line: the two ends of it bind, and restarted Lanczos finds ends, crowded as they may be."""
    if isinstance(jacobian.branch, Symmetric):
        ends: list[complex] = list(jacobian.branch.extent())
        return Estimate(region.largest_step(np.array(ends, dtype=np.complex128)), "estimate", jacobian.products)
    if side == 1j:
        top, converged = largest_turn(jacobian)
        ends = [1j * top]
    else:
        found = [arnoldi(jacobian, 1, which) for which in ("LR", "SR")]
        ends = [value for values, _ in found for value in values.tolist()]
        converged = all(ok for _, ok in found)
    if not converged:  # a norm from below still says where the limit is not
        scale = float(
            golub_kahan(
                lambda v: jacobian.apply(v[0]).unsqueeze(0),
                lambda w: jacobian.adjoint(w[0]).unsqueeze(0),
                jacobian.random().unsqueeze(0),
                rtol=1e-4,
                keep=memory(jacobian),
            ).value
        )
        ends += [1j * scale] if side == 1j else [-scale]
    h = region.largest_step(snapped(np.array(ends, dtype=np.complex128), jacobian))
    return Estimate(h, "upper", jacobian.products, converged)


def _edges(jacobian: Jacobian, region: Region) -> Estimate:
    """Eigenvalues at the edges of the spectrum, then those that R(h·J) itself brings to the top."""
    found = [arnoldi(jacobian, 6, which) for which in ("LM", "LR", "LI")]
    values, converged = np.concatenate([v for v, _ in found]), all(ok for _, ok in found)
    error = 100 * max(1e-10, 50 * jacobian.eps)
    h = region.largest_step(snapped(values, jacobian, error))
    if region.polynomial:
        for _ in range(3):
            if not 0.0 < h < math.inf:
                break
            more = PolynomialStep(jacobian, region).eigenvalues(1.1 * h)
            values = np.concatenate([values, more])
            before, h = h, region.largest_step(snapped(values, jacobian, error))
            if h >= before * (1 - 1e-6):
                break
    return Estimate(h, "upper", jacobian.products, converged)


def _matrix_free(jacobian: Jacobian, region: Region) -> Estimate:
    """‖R(h·J)‖₂ ≤ g for a large J that is not normal."""
    edge = rightmost(jacobian, 1e-4, sign=region.bound == 1.0)
    mu = float(edge)
    if region.bound == 1.0 and mu > 0:
        return Estimate(0.0, "estimate", jacobian.products)
    if region.a_stable:
        h = math.inf if mu <= 0 else region.reach_by_log_norm() / mu
        return Estimate(h, "estimate" if mu <= 0 else "lower", jacobian.products, edge.converged)
    if not region.polynomial:
        raise InputError(
            f'`criterion` must be "spectrum" for {region.scheme!r} on {jacobian.size} components, which is neither explicit '
            f"nor A-stable, got a norm; or hand in a part of x with at most {_DENSE} components"
        )
    h, converged = PolynomialStep(jacobian, region).largest(mu)
    return Estimate(h, "upper", jacobian.products, converged)
