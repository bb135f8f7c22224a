"""Eigenvalues of a Jacobian: exact where it is known or small, else by Arnoldi through SciPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from residyn.analysis.boundary import Branch
from residyn.analysis.jacobian import Jacobian
from residyn.branch import Linear
from residyn.errors import InputError, SolveError
from residyn.results import Outcome

Which = Literal["LM", "LR", "SR", "LI"]

_DENSE = 64
"""Up to this size the whole matrix costs no more products than Arnoldi."""


def spectrum(branch: Branch, x: Tensor, k: int = 6) -> Tensor:
    """The k eigenvalues of largest modulus of J = ∂F/∂x at x.

    A `Linear` branch that lists its eigenvalues is asked, a small J is written out, and all else is an Arnoldi process on
    products with J. For a batch `(B, …)` these are eigenvalues of the whole, block-diagonal J. A complex state whose J is
    complex linear has the eigenvalues of the complex matrix; if it is only real linear (a modulus or conjugate takes part),
    those of J in the real and imaginary parts.

    Args:
        branch: F, which keeps the shape of x.
        x: Where, of any shape, floating point or complex.
        k: How many; all of them if there are fewer.

    Returns:
        `(k,)`, complex, by decreasing modulus, on the device of x. As many times each as a `Linear` branch lists it.

    Raises:
        InputError: If `k` is not positive, or `branch` does not fit x.
        SolveError: If Arnoldi does not converge.

    Reference:
        Lehoucq, Sorensen & Yang (1998), "ARPACK Users' Guide", doi:10.1137/1.9780898719628.

    >>> spectrum(lambda x: torch.stack([x[1], -4 * x[0]]), torch.zeros(2, dtype=torch.float64)).imag.abs()
    tensor([2., 2.], dtype=torch.float64)
    """
    if k < 1:
        raise InputError(f"`k` must be a positive number of eigenvalues, got {k}; 6 is the default")
    jacobian = Jacobian(branch, x)
    values = known_eigenvalues(jacobian)
    if values is None and jacobian.size <= max(_DENSE, 3 * k) * (2 if x.is_complex() else 1):
        values = dense_eigenvalues(_numpy(jacobian.dense()), jacobian.eps)
    if values is None:
        values, converged = arnoldi(jacobian, k, "LM")
        if not converged:
            raise SolveError(
                Outcome(
                    "max_steps",
                    f"Arnoldi found {len(values)} of {k} eigenvalues in {jacobian.products} products",
                    "ask for a smaller `k`, or use float64",
                )
            )
    values = values[np.argsort(-np.abs(values), kind="stable")][:k]
    return torch.from_numpy(np.array(values)).to(x.device, torch.promote_types(x.dtype, torch.float32).to_complex())


def known_eigenvalues(jacobian: Jacobian) -> np.ndarray | None:
    """The eigenvalues that a `Linear` branch lists, else None."""
    if not isinstance(jacobian.branch, Linear):
        return None
    values = jacobian.branch.eigenvalues()
    return None if values is None else _numpy(values.flatten()).astype(np.complex128)


def dense_eigenvalues(matrix: np.ndarray, eps: float) -> np.ndarray:
    """All eigenvalues of a matrix known up to `eps`; exactly real or imaginary where it is Hermitian or skew."""
    slack = rounding(len(matrix), eps) * np.linalg.norm(matrix)
    adjoint = matrix.conj().T
    if np.linalg.norm(matrix - adjoint) <= slack:
        return np.linalg.eigvalsh((matrix + adjoint) / 2).astype(np.complex128)
    if np.linalg.norm(matrix + adjoint) <= slack:
        return 1j * np.linalg.eigvalsh((matrix - adjoint) / 2j)
    return np.linalg.eigvals(matrix).astype(np.complex128)


def rounding(n: int, eps: float) -> float:
    """Relative error, at the level of the norm, of n-vector arithmetic and of a branch some tens of operations deep."""
    return float((64 + 4 * np.sqrt(n)) * eps)


def arnoldi(jacobian: Jacobian, k: int, which: Which) -> tuple[np.ndarray, bool]:
    """k eigenvalues at one edge of the spectrum, and whether all of them converged.

    The tolerance is that of the Ritz residual relative to the eigenvalue: 1e-10, or what the precision of x allows.
    """
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs, eigsh

    size, product = _operator(jacobian)
    if not bool(jacobian.apply(jacobian.random()).any()):  # J = 0, which ARPACK refuses
        return np.zeros(k, dtype=np.complex128), True
    start = _numpy(jacobian.random())
    kind = np.complex128 if jacobian.holomorphic else np.float64
    v0 = start.view(np.complex128) if jacobian.holomorphic else start
    operator = LinearOperator((size, size), matvec=product, dtype=kind)
    options = {"k": k, "v0": v0, "tol": max(1e-10, 50 * jacobian.eps), "return_eigenvectors": False}
    options["ncv"] = min(size, max(2 * k + 1, 24))
    try:
        if jacobian.symmetric:
            values = eigsh(operator, which={"LR": "LA", "SR": "SA"}.get(which, "LM"), maxiter=400, **options)
        else:
            values = eigs(operator, which=which, maxiter=100, **options)
    except ArpackNoConvergence as error:
        return np.asarray(error.eigenvalues, dtype=np.complex128), False
    return values.astype(np.complex128), True


def largest_turn(jacobian: Jacobian) -> tuple[float, bool]:
    """The largest modulus of an eigenvalue of a skew J, as the root of the largest eigenvalue of -J²."""
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    size, product = _operator(jacobian)
    kind = np.complex128 if jacobian.holomorphic else np.float64
    operator = LinearOperator((size, size), matvec=lambda v: -product(product(v)), dtype=kind)
    v0 = _numpy(jacobian.random()).view(kind)
    try:
        values = eigsh(
            operator, k=1, which="LA", v0=v0, tol=max(1e-10, 50 * jacobian.eps), maxiter=400, ncv=24, return_eigenvectors=False
        )
    except ArpackNoConvergence:
        return 0.0, False
    return float(np.sqrt(max(values[0], 0.0))), True


def _operator(jacobian: Jacobian) -> tuple[int, Callable[[np.ndarray], np.ndarray]]:
    """J as SciPy wants it: complex vectors where it is complex linear."""
    device, dtype = jacobian.x.device, jacobian.dtype
    complexes = jacobian.holomorphic

    def product(vector: np.ndarray) -> np.ndarray:
        flat = np.ascontiguousarray(vector).reshape(-1)
        image = jacobian.apply(torch.from_numpy(flat.view(np.float64).copy()).to(device, dtype))
        result = _numpy(image)
        return result.view(np.complex128) if complexes else result

    return jacobian.size // (2 if complexes else 1), product


def _numpy(tensor: Tensor) -> np.ndarray:
    """As a NumPy array of doubles, on the CPU."""
    double = torch.complex128 if tensor.is_complex() else torch.float64
    array: np.ndarray = tensor.detach().resolve_conj().cpu().to(double).numpy()
    return array
