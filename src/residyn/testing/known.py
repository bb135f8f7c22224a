"""The laws of branches that know more of themselves: linear ones, gradients, generators."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from residyn.analysis import spectral_norm
from residyn.analysis.jacobian import Jacobian
from residyn.branch import Generator, Gradient, Linear, Spectral, apply_matrix
from residyn.testing.report import Report

_DENSE = 128
"""Up to this size every eigenvalue is checked."""


def check_linear(report: Report, branch: Linear, x: Tensor) -> None:
    """Additivity, adjoint, offset, `normal`, eigenvalues and norm bound of a linear branch."""
    y, z = _draw(x, 1), _draw(x, 2)
    tolerance = 1e3 * torch.finfo(x.dtype).eps  # some hundred operations deep
    with torch.no_grad():
        ay, az = branch.matvec(y), branch.matvec(z)
        adjoint_z = branch.adjoint(z)
        scale = float(_norm(ay) + _norm(az) + _norm(adjoint_z)) or 1.0
        whole = branch.matvec(2.0 * y - 3.0 * z)
        report.law(
            "linear", "A·(2y - 3z) = 2·A·y - 3·A·z", float(_norm(whole - 2.0 * ay + 3.0 * az)) / scale, tolerance,
            "`matvec` must be linear; an offset belongs into `offset`",
        )  # fmt: skip
        size = scale * float(_norm(y) + _norm(z))
        report.law(
            "adjoint", "<A·y, z> = <y, Aᴴ·z>", float((_dot(ay, z) - _dot(y, adjoint_z)).abs()) / size, tolerance,
            "`adjoint` must be the conjugate transpose of `matvec`, borders included",
        )  # fmt: skip
        offset = torch.zeros_like(x) if branch.offset is None else branch.offset
        report.law(
            "offset", "F(y) = A·y + b", float(_norm(branch(y) - ay - offset)) / (scale + float(_norm(offset))), tolerance,
            "`forward` must add `offset` to `matvec`",
        )  # fmt: skip
        if branch.normal:
            gap = abs(float(_norm(branch.matvec(z)) - _norm(adjoint_z)))  # A is normal if and only if these agree for all z
            report.law("normal", "‖A·z‖ = ‖Aᴴ·z‖, as `normal` says", gap / scale, tolerance, "set `normal = False`")
    found = _multiplied_norm(branch, x)
    bound = branch.norm_bound()
    if bound is not None:
        excess = max(0.0, found / float(bound) - 1.0) if float(bound) > 0 else found
        report.law("norm_bound", "`norm_bound` is not below ‖A‖₂", excess, tolerance, "raise it; a bound must hold")
    _check_eigenvalues(report, branch, x, found)
    if isinstance(branch, Spectral):
        twice = branch.function(torch.square, y)
        gap = float(_norm(twice - branch.matvec(ay))) / (float(_norm(twice)) or 1.0)
        report.law("function", "φ(A) = A² squares A", gap, tolerance, "`synthesise` must invert `analyse`")


def _multiplied_norm(branch: Linear, x: Tensor) -> float:
    """‖A‖₂ from products alone, without what the branch says of itself."""
    return float(spectral_norm(lambda v: branch.matvec(v), x, rtol=1e-3))  # noqa: PLW0108 - hides that it is Linear


def _check_eigenvalues(report: Report, branch: Linear, x: Tensor, norm: float) -> None:
    """Each listed λ makes A - λ singular, each eigenvalue of a small A is listed, none is longer than ‖A‖₂."""
    values = branch.eigenvalues()
    if values is None:
        return
    listed = values.flatten().to(torch.complex128).cpu().numpy()
    if branch.normal and norm > 0:
        # The norm is found to 1e-3; in the rest of the tolerance it may be missed in a cluster.
        gap = abs(float(np.abs(listed).max()) / norm - 1.0)
        report.law("radius", "max |λ| is ‖A‖₂ of a normal A", gap, 0.01, "correct `eigenvalues` or `normal`")
    jacobian = Jacobian(branch, x)
    if jacobian.size <= _DENSE * (2 if x.is_complex() else 1):
        _check_listed(report, branch, x, jacobian, listed)


def _check_listed(report: Report, branch: Linear, x: Tensor, jacobian: Jacobian, listed: np.ndarray) -> None:
    """Against the matrix written out."""
    eps = torch.finfo(x.dtype).eps
    matrix = jacobian.dense().to(torch.complex128).cpu().numpy()
    scale = float(np.linalg.norm(matrix, 2)) or 1.0
    tolerance = 100 * len(matrix) * eps
    # In terms of A - λ the law needs no condition number: an eigenvalue off by δ leaves a singular value of at most δ.
    least = [np.linalg.svd(matrix - value * np.eye(len(matrix)), compute_uv=False)[-1] for value in _few(listed)]
    report.law("eigenvalues", "A - λ is singular for every λ listed", max(least) / scale, tolerance, "correct `eigenvalues`")
    if branch.normal:
        mirrored = listed if x.is_complex() else np.concatenate([listed, listed.conj()])  # real transforms list one half
        missing = max(float(np.abs(mirrored - value).min()) for value in np.linalg.eigvals(matrix))
        report.law("complete", "every eigenvalue of A is listed", missing / scale, tolerance, "list all of them")


def _few(values: np.ndarray) -> np.ndarray:
    """At most 32 of them, from end to end."""
    ordered = np.sort_complex(values)
    picked = np.unique(np.linspace(0, len(ordered) - 1, 32).astype(int))
    return np.asarray(ordered[picked])


def check_gradient(report: Report, branch: Gradient, x: Tensor) -> None:
    """Symmetric Jacobian, F = -∇φ, and that `prox` minimises what it should."""
    eps = torch.finfo(x.dtype).eps
    hidden = Jacobian(lambda z: branch(z), x)  # noqa: PLW0108 - hides that J is known to be symmetric
    v, w = hidden.random(1), hidden.random(2)
    forward, other = hidden.apply(v), hidden.apply(w)
    size = float(forward.norm() + other.norm()) or 1.0
    report.law(
        "symmetric", "<J·v, w> = <v, J·w>", abs(float(forward @ w - v @ other)) / size, 1e3 * eps,
        "F must be -∇φ of one potential",
    )  # fmt: skip
    direction, step = _draw(x, 3), eps ** (1 / 3) * (1.0 + float(x.abs().max()))
    with torch.no_grad():
        rise = _energy(branch, x + step * direction) - _energy(branch, x - step * direction)
        value = branch(x)
    slope = -float(_dot(value, direction).real)
    size = float(_norm(value) * _norm(direction)) + abs(float(_energy(branch, x))) or 1.0
    # Central differences as in the law `gradient`; the potential is a sum whose rounding is that of its own size.
    report.law("potential", "F = -∇φ", abs(float(rise) / (2 * step) - slope) / size, 10 * eps ** (1 / 3), "return -∇φ, not ∇φ")
    if branch._prox is not None:
        _check_prox(report, branch, x, eps)


def _check_prox(report: Report, branch: Gradient, x: Tensor, eps: float) -> None:
    h = 0.5
    with torch.no_grad():
        z = branch.prox(x, h)

        def objective(point: Tensor) -> float:
            return float(_energy(branch, point) + (point - x).abs().square().sum() / (2 * h))

        least = objective(z)
        scales = (1e-1, 1e-2, 1e-3)
        others = [objective(z + s * sign * _draw(x, k)) for s in scales for sign in (1, -1) for k in range(4)]
        others.append(objective(x))
    # A sum of n terms rounds by less than n·eps of its size.
    tolerance = 10 * x.numel() * eps
    excess = max(0.0, least - min(others)) / (1.0 + abs(least))
    report.law("prox", "prox(x, h) minimises φ(z) + ‖z - x‖²/2h", excess, tolerance, "mind the factor h in `prox(x, h)`")


def check_generator(report: Report, branch: Generator, t: float, x: Tensor) -> None:
    """F(t, x) = A(t, x)·x, and that A is skew where the flag says so."""
    eps = torch.finfo(x.dtype).eps
    with torch.no_grad():
        matrix, value = branch.matrix(t, x), branch(t, x)
        product = apply_matrix(matrix, x)
    size = float(_norm(value) + _norm(product)) or 1.0
    tolerance = 1e3 * matrix.shape[-1] * eps
    report.law("product", "F(t, x) = A(t, x)·x", float(_norm(value - product)) / size, tolerance, "do not override `forward`")
    if branch.skew:
        gap = float(_norm(matrix + matrix.mH)) / (float(_norm(matrix)) or 1.0)
        report.law("skew", "A + Aᴴ = 0, as `skew` says", gap, tolerance, "set `skew = False`")


def _energy(branch: Gradient, x: Tensor) -> Tensor:
    return branch.potential(x).sum()


def _draw(x: Tensor, seed: int) -> Tensor:
    """Standard normal numbers in the form of x, from a generator of their own."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.complex128 if x.is_complex() else torch.float64
    return torch.randn(x.shape, dtype=wide, generator=generator).to(x.device, x.dtype)


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y.conj()).sum()
