"""How much a branch stretches: its spectral norm and its logarithmic norm at a point."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from residyn.analysis.arnoldi import known_eigenvalues, rounding
from residyn.analysis.boundary import Branch
from residyn.analysis.jacobian import Jacobian
from residyn.analysis.lanczos import golub_kahan, lanczos
from residyn.branch import Linear
from residyn.errors import InputError
from residyn.results import Estimate

_DENSE = 64
"""Numbers in x up to which the matrix of J is written out."""


@overload
def spectral_norm(branch: Branch, x: Tensor, *, rtol: float = ..., per_sample: Literal[False] = ...) -> Estimate: ...
@overload
def spectral_norm(branch: Branch, x: Tensor, *, rtol: float = ..., per_sample: Literal[True]) -> Tensor: ...
def spectral_norm(branch: Branch, x: Tensor, *, rtol: float = 1e-2, per_sample: bool = False) -> Estimate | Tensor:
    """The spectral norm ‖J‖₂ of J = ∂F/∂x at x: by how much F can stretch a small change of x, to first order.

    Matrix free, by Golub–Kahan–Lanczos: each iteration is a product with J or with Jᵀ. For a batch `(B, …)` of independent
    samples J is block diagonal, and its norm is the largest over the samples.

    Args:
        branch: F, which keeps the shape of x. Its mode, parameters, buffers and the random generators stay as they are.
        x: Where, of any shape, floating point or complex.
        rtol: Relative error to stop at, estimated from the residual and the gap.
        per_sample: Return the norm of each sample, `(B,)`; right only where no sample acts on another (not in the batch
            statistics of training mode). It costs the same number of products as the slowest sample alone.

    Returns:
        An `Estimate` of kind `"lower"`: never above the truth but for rounding. Its `iterations` are the products spent.
        With `per_sample` a tensor `(B,)`.

    Raises:
        InputError: If `rtol` is not in (0, 1), or `branch` does not fit x.

    Reference:
        Golub & Kahan (1965), doi:10.1137/0702016.

    >>> round(float(spectral_norm(lambda x: 3 * torch.sin(x), torch.zeros(2, 2))), 4)
    3.0
    """
    if not 0.0 < rtol < 1.0:
        raise InputError(f"`rtol` must be a relative error in (0, 1), got {rtol}; 1e-2 is the default")
    jacobian = Jacobian(branch, x)
    rows = x.shape[0] if per_sample and x.ndim > 1 else 1
    if per_sample and x.ndim < 2:
        raise InputError(f"`x` must be a batch (B, …) for `per_sample`, got shape {tuple(x.shape)}; add an axis")
    if not per_sample and isinstance(jacobian.branch, Linear) and jacobian.branch.normal:
        values = known_eigenvalues(jacobian)
        if values is not None:
            return Estimate(float(abs(values).max()), "lower")
    start = jacobian.random().reshape(rows, -1)
    start = start / torch.linalg.vector_norm(start, dim=-1, keepdim=True)
    found = golub_kahan(
        lambda v: jacobian.apply(v.reshape(-1)).reshape(rows, -1),
        lambda w: jacobian.adjoint(w.reshape(-1)).reshape(rows, -1),
        start,
        rtol=rtol,
        keep=memory(jacobian),
    )
    if per_sample:
        return found.value.to(x.device, jacobian.dtype)
    return Estimate(float(found.value), "lower", jacobian.products, found.converged)


def log_norm(branch: Branch, x: Tensor, *, rtol: float = 1e-3) -> Estimate:
    """The logarithmic norm μ(J) = λ_max((J + Jᵀ)/2) of J = ∂F/∂x at x.

    At most 0 means dissipative: nearby solutions of x' = F(x) do not part, and backward Euler is non-expansive at every h.
    The flow stretches a small change by at most exp(μ·t).

    Args:
        branch: F, which keeps the shape of x.
        x: Where, of any shape, floating point or complex; a batch is taken as a whole, the largest over its samples.
        rtol: Error to stop at, relative to the norm of the symmetric part; up to 64 numbers the matrix is written out instead.

    Returns:
        An `Estimate` of kind `"lower"`, a Rayleigh quotient. What rounding cannot tell from 0 is exactly 0.

    Raises:
        InputError: If `rtol` is not in (0, 1), or `branch` does not fit x.

    Reference:
        Dahlquist (1958), "Stability and error bounds in the numerical integration of ordinary differential equations";
        Söderlind (2006), doi:10.1007/s10543-006-0069-9.

    >>> float(log_norm(lambda x: torch.stack([x[1], -x[0]]), torch.ones(2)))
    0.0
    """
    if not 0.0 < rtol < 1.0:
        raise InputError(f"`rtol` must be a relative error in (0, 1), got {rtol}; 1e-3 is the default")
    jacobian = Jacobian(branch, x)
    if isinstance(jacobian.branch, Linear) and jacobian.branch.normal:
        values = known_eigenvalues(jacobian)
        if values is not None:
            return Estimate(_snapped(float(values.real.max()), float(abs(values).max()), jacobian), "lower")
    return _dense(jacobian) if jacobian.size <= _DENSE else rightmost(jacobian, rtol)


def _dense(jacobian: Jacobian) -> Estimate:
    """By the matrix written out: no dearer than Lanczos, and right relative to the value, not only to the norm."""
    matrix = jacobian.dense()
    matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float64))
    values = torch.linalg.eigvalsh((matrix + matrix.mH) / 2)
    if not bool(values.isfinite().all()):
        return rightmost(jacobian, 1e-3)  # whose errors say what is not finite
    return Estimate(_snapped(float(values[-1]), float(values.abs().max()), jacobian), "lower", jacobian.products)


def rightmost(jacobian: Jacobian, rtol: float, *, sign: bool = False) -> Estimate:
    """λ_max((J + Jᵀ)/2) by Lanczos; with `sign`, only as far as it takes to see its sign."""
    start = jacobian.random().unsqueeze(0)
    scale = float(torch.linalg.vector_norm(jacobian.apply(start[0])))

    def symmetric_part(v: Tensor) -> Tensor:
        image = jacobian.apply(v[0])
        return (image if jacobian.symmetric else (image + jacobian.adjoint(v[0])) / 2).unsqueeze(0)

    found, seen = lanczos(
        symmetric_part,
        start,
        tolerance=rtol,
        scale=scale,
        sign=sign,
        keep=memory(jacobian),
    )
    value = _snapped(float(found.value), seen, jacobian)
    return Estimate(value, "lower", jacobian.products, found.converged)


def _snapped(value: float, scale: float, jacobian: Jacobian) -> float:
    return 0.0 if abs(value) <= rounding(jacobian.size, jacobian.eps) * scale else value


def memory(jacobian: Jacobian) -> int:
    """Steps of a Lanczos process to keep before it starts again: 20 to 300, at most about half a gigabyte in doubles."""
    return max(20, min(300, 2**26 // jacobian.size))
