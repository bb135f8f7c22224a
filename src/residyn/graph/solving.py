"""What implicit and exponential steps on a graph solve with: conjugate gradients, and Chebyshev's expansion of exp."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from scipy.special import ive
from torch import Tensor

from residyn.graph.product import SymmetricMatrix, multiply

_DENSE = 256
"""Up to this order the matrix is written out and its eigenvalues are exact."""
_LIMIT = 2000
"""Iterations of conjugate gradients at most; a step so long that it needs more is near its limit, the mean of a component."""


def extent(matrix: SymmetricMatrix) -> tuple[float, float]:
    """The least and the largest eigenvalue of a positive semi-definite A, in double precision.

    Up to 256 nodes exact; above, the largest by Lanczos to a residual of 1e-8, or, where the end is crowded as on a long path,
    from below to about 1e-5 of it. The least is 0 if no product says otherwise.
    """
    if matrix.n <= _DENSE:
        values = torch.linalg.eigvalsh(as_dense(matrix))
        slack = matrix.n * torch.finfo(torch.promote_types(matrix.values.dtype, torch.float32)).eps * float(values.abs().max())
        least = float(values[0])
        return (0.0 if abs(least) <= slack else least), float(values[-1])
    operator = LinearOperator((matrix.n, matrix.n), matvec=lambda v: _host(matrix, v), dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(matrix.n)
    most = _end(operator, "LA", start, 1e-8)
    return min(0.0, _end(operator, "SA", start, 1e-2) + 1e-6 * most), most


def _end(operator: LinearOperator, which: str, start: np.ndarray, tol: float) -> float:
    try:
        return float(eigsh(operator, 1, which=which, v0=start, tol=tol, ncv=40, maxiter=25, return_eigenvectors=False)[0])
    except ArpackNoConvergence:  # crowded ends: 200 products without restart come closer than many restarts
        vector = start / np.linalg.norm(start)
        values = _lanczos(operator, vector, 200)
        return float(values[-1] if which == "LA" else values[0])


def _lanczos(operator: LinearOperator, v: np.ndarray, steps: int) -> np.ndarray:
    basis, diagonal, off = [v], [], []
    for _ in range(steps):
        w = operator.matvec(basis[-1])
        diagonal.append(float(w @ basis[-1]))
        for _ in range(2):
            for u in basis:
                w = w - (w @ u) * u
        beta = float(np.linalg.norm(w))
        if beta < 1e-12:
            break
        off.append(beta)
        basis.append(w / beta)
    k = len(diagonal)
    return np.linalg.eigvalsh(np.diag(diagonal) + np.diag(off[: k - 1], 1) + np.diag(off[: k - 1], -1))


def _host(matrix: SymmetricMatrix, v: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(np.ascontiguousarray(v, np.float64).reshape(-1)).to(matrix.values.device)
    return multiply(matrix, x, 0.0, 1.0).cpu().numpy()


def as_dense(matrix: SymmetricMatrix) -> Tensor:
    """A written out, float64."""
    rows = torch.repeat_interleave(torch.arange(matrix.n, device=matrix.rows.device), matrix.rows.long().diff())
    dense = torch.zeros(matrix.n, matrix.n, dtype=torch.float64, device=matrix.values.device)
    dense[rows, matrix.columns.long()] = matrix.values.double()
    return dense


def conjugate_gradients(matrix: SymmetricMatrix, r: Tensor, h: float) -> Tensor:
    """y with (I + h·A)·y = r, all columns of r `(n, …)` at once, to a relative residual of 1e-6 (single) or 1e-12 (double).

    Preconditioned by the diagonal, which takes the degrees out of an A that is not normalised. Columns that have arrived go on
    with the others, harmlessly.

    Reference:
        Hestenes & Stiefel (1952), doi:10.6028/jres.049.044.
    """
    flat = r.reshape(len(r), -1)
    work = flat.to(torch.promote_types(flat.dtype, torch.float32))
    tol = 1e-12 if work.dtype in (torch.float64, torch.complex128) else 1e-6
    inverse = (1 / matrix.combined(1.0, h, work.dtype)[0][matrix.diagonal])[:, None]
    goal = tol * torch.linalg.vector_norm(work, dim=0)
    y = inverse * work
    residual = work - multiply(matrix, y, 1.0, h)
    direction = z = inverse * residual
    rho = (residual * z).sum(0)
    tiny = torch.finfo(work.dtype).tiny
    for _ in range(_LIMIT):
        if bool((torch.linalg.vector_norm(residual, dim=0) <= goal).all()):
            break
        image = multiply(matrix, direction, 1.0, h)
        alpha = rho / (direction * image).sum(0).clamp_min(tiny)
        y = torch.addcmul(y, direction, alpha)
        residual = torch.addcmul(residual, image, alpha, value=-1)
        z = inverse * residual
        before, rho = rho, (residual * z).sum(0)
        direction = torch.addcmul(z, direction, rho / before.clamp_min(tiny))
    return y.to(r.dtype).reshape(r.shape)


def chebyshev_exponential(matrix: SymmetricMatrix, x: Tensor, h: float, most: float) -> Tensor:
    """exp(-h·A)·x for A with eigenvalues in [0, `most`], by Chebyshev polynomials of (2/most)·A - I.

    exp(-z·(1 + s)) = e^(-z)·(I_0(z) + 2·Σ_k (-1)^k·I_k(z)·T_k(s)) with z = h·most/2: about √(36·z) terms reach rounding,
    where a power series needs as many as z and loses digits. As all T_k are bounded by 1 the error is below the
    sum of what is left out.

    Reference:
        Tal-Ezer & Kosloff (1984), doi:10.1063/1.448136.
    """
    z = h * most / 2
    work = x.to(torch.promote_types(x.dtype, torch.float32))
    eps = torch.finfo(work.dtype).eps / 4
    count = int(math.sqrt(40 * abs(z) + 40)) + 12
    k = np.arange(count + 8)
    weights = 2 * ive(k, abs(z)) * np.sign(-z) ** k if z else np.eye(1, len(k))[0] * 2
    if z < 0:  # backwards in time, where it grows
        weights = weights * math.exp(min(-2 * z, 700.0))
    weights[0] /= 2
    left = np.cumsum(np.abs(weights[::-1]))[::-1]
    last = int(np.argmax(left <= eps * np.abs(weights).sum())) or len(weights)
    before, now = work, multiply(matrix, work, -1.0, 2 / most) if most else -work
    total = float(weights[0]) * before + float(weights[1]) * now
    for weight in weights[2:last].tolist():
        before, now = now, 2 * (multiply(matrix, now, -1.0, 2 / most) if most else -now) - before
        total = total.add(now, alpha=weight)
    return total.to(x.dtype)


def solved(branch: Any, r: Tensor, h: float, kind: Literal["resolvent", "exponential"]) -> Tensor:
    """(I + h·A)⁻¹·r or exp(-h·A)·r for a branch with `matrix` A and its `largest` eigenvalue; differentiable in r."""
    image: Tensor = _Solve.apply(r, branch, float(h), kind)  # type: ignore[no-untyped-call]
    return image


class _Solve(torch.autograd.Function):
    """(I + h·A)⁻¹·r or exp(-h·A)·x: functions of a symmetric A, whose gradient is the same function of it."""

    @staticmethod
    def forward(r: Tensor, branch: Any, h: float, kind: str) -> Tensor:
        matrix: SymmetricMatrix = branch.matrix
        if kind == "resolvent":
            return conjugate_gradients(matrix, r, h)
        return chebyshev_exponential(matrix, r, h, branch.largest)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.branch, ctx.h, ctx.kind = inputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        return _Solve.apply(gradients[0], ctx.branch, ctx.h, ctx.kind), None, None, None  # type: ignore[no-untyped-call]

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        moved: Tensor = _Solve.apply(tangents[0], ctx.branch, ctx.h, ctx.kind)  # type: ignore[no-untyped-call]
        return moved

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], r: Tensor, branch: Any, h: float, kind: str) -> tuple[Tensor, int]:
        image: Tensor = _Solve.apply(r.movedim(in_dims[0], 1), branch, h, kind)  # type: ignore[no-untyped-call]
        return image, 1
