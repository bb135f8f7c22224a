"""Lanczos processes in the floating point of the branch: extreme singular and eigenvalues from a handful of products."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


class Extreme(NamedTuple):
    """What a Lanczos process found."""

    value: Tensor
    """The extreme value, one a row of the start, float64 on the CPU; never beyond the truth but for rounding."""
    vector: Tensor
    """The vector that attains it, the right one of a singular value, of the shape of the start."""
    converged: bool


def golub_kahan(
    apply: Map,
    adjoint: Map,
    start: Tensor,
    *,
    rtol: float,
    limit: int = 300,
    enough: float = math.inf,
    keep: int = 40,
) -> Extreme:
    """Largest singular value by Golub–Kahan–Lanczos bidiagonalisation, A·V = U·B, of several operators at once.

    Each product, with A or with Aᵀ, lengthens the bidiagonal B by half a step, and B's largest singular value is at most
    ‖A‖. The right vectors are orthogonalised anew against all before, which keeps the left ones orthogonal too.

    Args:
        apply: A, on `(m, n)`: m rows, each with an operator of its own.
        adjoint: Aᵀ, likewise.
        start: Unit rows, `(m, n)`.
        rtol: Relative error to stop at, as the residual and the gap estimate it.
        limit: Products at most.
        enough: Stop as soon as a value exceeds this.
        keep: Steps before the process starts again from its best vector; this bounds the memory.

    Returns:
        The largest value a row, with its right vector.

    Reference:
        Golub & Kahan (1965), doi:10.1137/0702016; Simon & Zha (2000), doi:10.1137/S1064827597327309 (one-sided
        orthogonalisation).
    """
    spent, best = 0, torch.zeros(len(start), dtype=torch.float64)
    while True:
        process = _Bidiagonal(start)
        while len(process.right) <= keep:
            process.step(adjoint if len(process.alphas) == len(process.right) else apply)
            spent += 1
            best = torch.maximum(best, process.values[-1])
            # After a restart the process has to see the second value again before a gap means anything.
            settled = spent == len(process.values) or len(process.values) >= 10
            done = (settled and bool((process.error <= rtol * best).all())) or bool((best > enough).any())
            if done or spent >= limit:
                return Extreme(best, process.vector(), done)
        start = process.vector()


class _Bidiagonal:
    """The bidiagonal matrix of the process so far, `(m, k, k)` or `(m, k, k + 1)`, and the vectors that belong to it."""

    def __init__(self, start: Tensor) -> None:
        self.right = [start]
        self.left = torch.zeros_like(start)
        self.alphas: list[Tensor] = []
        self.betas: list[Tensor] = []
        self.values: list[Tensor] = []
        self.error = torch.full((len(start),), math.inf, dtype=torch.float64)
        self._before: tuple[Tensor, Tensor, Tensor] | None = None

    def step(self, operator: Map) -> None:
        """Half a step: α_k·u_k = A·v_k - β_{k-1}·u_{k-1}, or β_k·v_{k+1} = Aᵀ·u_k - α_k·v_k."""
        if len(self.alphas) == len(self.right):
            v = operator(self.left) - self._scalar(self.alphas[-1]) * self.right[-1]
            beta, v = normalised(orthogonal(v, self.right))
            self.betas.append(beta)
            self.right.append(v)
        else:
            u = operator(self.right[-1])
            if self.betas:
                u = u - self._scalar(self.betas[-1]) * self.left
            alpha, self.left = normalised(u)
            self.alphas.append(alpha)
        self._measure()

    def _measure(self) -> None:
        """The largest singular value now, and how far it may still lie below ‖A‖.

        The entry that came last times the last component of the last vector is the residual r of the last value σ₁. With a
        gap to the rest of about σ₁ - σ₂, ‖A‖ is at most r²/gap above it (Kato and Temple), less what was gained just now. Twice
        that held 1 % in 87 of 88 runs on convolutional blocks (1.3 % in the other); reading a limit off the values themselves
        is cheaper by a third, and was taken in by plateaus for errors up to 7 %.
        """
        u, s, vh = torch.linalg.svd(self.matrix(), full_matrices=False)
        grew = self.betas if len(self.betas) == len(self.alphas) else self.alphas
        if self._before is not None:
            first, second, component = self._before
            residual = grew[-1] * component
            gap = torch.maximum(first - second, residual).clamp(min=1e-300)
            bound, gain = 2 * residual**2 / gap, s[:, 0] - first
            # A bound that the gain has overtaken was wrong: the gap was to a value that is itself still rising.
            self.error = torch.where(gain > bound, gain, (bound - gain).maximum(gain / 10))
        component = (vh[:, 0, -1] if grew is self.betas else u[:, -1, 0]).abs()
        self._before = (s[:, 0], s[:, 1] if s.shape[1] > 1 else torch.zeros_like(s[:, 0]), component)
        self.values.append(s[:, 0])

    def matrix(self) -> Tensor:
        """B, upper bidiagonal."""
        k = len(self.alphas)
        matrix = torch.zeros(len(self.left), k, k + (len(self.betas) == k), dtype=torch.float64)
        for i, alpha in enumerate(self.alphas):
            matrix[:, i, i] = alpha
        for i, beta in enumerate(self.betas):
            matrix[:, i, i + 1] = beta
        return matrix

    def vector(self) -> Tensor:
        """The right vector of the largest singular value."""
        weights = torch.linalg.svd(self.matrix(), full_matrices=False)[2][:, 0]
        return combination(weights, self.right)

    def _scalar(self, value: Tensor) -> Tensor:
        return value.to(self.left.device, self.left.dtype).unsqueeze(-1)


def lanczos(
    apply: Map,
    start: Tensor,
    *,
    tolerance: float,
    scale: float = 0.0,
    limit: int = 300,
    sign: bool = False,
    keep: int = 60,
) -> tuple[Extreme, float]:
    """Largest (rightmost) eigenvalue of one symmetric operator, by Lanczos with full orthogonalisation.

    Args:
        apply: A = Aᵀ, on `(1, n)`.
        start: Unit vector, `(1, n)`.
        tolerance: Error to stop at, relative to the largest modulus seen, estimated as 10·r²/gap (the gap is to a value
            that still rises).
        scale: A modulus that counts as seen.
        limit: Products at most.
        sign: Stop as soon as the sign is plain: a hundredth of the largest modulus above 0, or ten residuals below.
        keep: Steps before the process starts again from its best vector.

    Returns:
        The eigenvalue with its vector, and the largest modulus of an eigenvalue seen, a scale for the first.

    Reference:
        Parlett (1998), "The Symmetric Eigenvalue Problem", ch. 13, doi:10.1137/1.9781611971163.
    """
    spent, top = 0, -math.inf
    while True:
        basis, off = [start], [0.0]
        diagonal: list[float] = []
        while len(diagonal) < keep:
            w = apply(basis[-1])
            spent += 1
            diagonal.append(float((w * basis[-1]).sum()))
            beta, v = normalised(orthogonal(w, basis))
            if len(diagonal) > 32 and len(diagonal) % 8 and len(diagonal) < keep and beta > 0:
                off.append(float(beta))
                basis.append(v)
                continue  # the small eigenproblem is no longer small against a product
            values, vectors = torch.linalg.eigh(_tridiagonal(diagonal, off[1:]))
            scale = max(scale, float(values.abs().max()))
            top = max(top, float(values[-1]))
            residual = float(beta * vectors[-1, -1].abs())
            gap = max(float(values[-1] - values[-2]) if len(values) > 1 else 0.0, residual)
            # After a restart the process has to see the second value again before a gap means anything.
            settled = spent == len(diagonal) or len(diagonal) >= 8
            done = residual == 0.0 or (settled and 10 * residual**2 <= tolerance * scale * gap)
            done |= sign and (top > 1e-2 * scale or (len(diagonal) >= 4 and top + 10 * residual < 0))
            off.append(float(beta))
            if done or spent >= limit:
                return Extreme(torch.tensor([top], dtype=torch.float64), combination(vectors[:, -1:].T, basis), done), scale
            basis.append(v)
        start = combination(vectors[:, -1:].T, basis[:-1])


def _tridiagonal(diagonal: list[float], off: list[float]) -> Tensor:
    side = torch.tensor(off, dtype=torch.float64)
    return torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(side, 1) + torch.diag(side, -1)


def orthogonal(vector: Tensor, basis: list[Tensor]) -> Tensor:
    """The part of each row that is orthogonal to that row of all basis vectors; done twice, which is enough (Kahan)."""
    for _ in range(2):
        for w in basis:
            vector = vector - (vector * w).sum(-1, keepdim=True) * w
    return vector


def combination(weights: Tensor, basis: list[Tensor]) -> Tensor:
    """Σ_i weights[:, i]·basis_i as unit rows."""
    total = torch.zeros_like(basis[0])
    for i in range(weights.shape[1]):
        total = total + weights[:, i].to(total.device, total.dtype).unsqueeze(-1) * basis[i]
    return normalised(total)[1]


def normalised(vector: Tensor) -> tuple[Tensor, Tensor]:
    """Norms of the rows, float64 on the CPU, and the unit rows; a zero row stays zero."""
    norm = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    if bool(torch.isinf(norm).any()):  # the squares overflow though the entries do not
        peak = vector.abs().amax(-1, keepdim=True)
        scaled, unit = normalised(vector / peak)
        return scaled * peak.squeeze(-1).double().cpu(), unit
    return norm.squeeze(-1).double().cpu(), torch.where(norm > 0, vector / norm, vector)
