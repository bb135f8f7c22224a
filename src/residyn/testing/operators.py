"""The laws of a linear operator of an inverse problem, whoever wrote it."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from residyn.analysis.lanczos import golub_kahan
from residyn.errors import InputError
from residyn.results import Estimate, Finding
from residyn.testing.report import ConformanceError, Report


class OperatorLike(Protocol):
    """What the suite asks of an operator; `residyn.inverse.Operator` has it all."""

    domain: torch.Size
    range: torch.Size
    dtype: torch.dtype

    def __call__(self, x: Tensor, /) -> Tensor:
        """H·x, on `(…, *domain)`."""

    def adjoint(self, y: Tensor, /) -> Tensor:
        """Hᴴ·y."""

    def normal(self, x: Tensor, /) -> Tensor:
        """HᴴH·x."""

    def norm_bound(self) -> Estimate:
        """A bound on ‖H‖₂."""


_DENSE = 2048


def check_operator(op: OperatorLike, *, tightness: float = 1e-3) -> list[Finding]:
    """Check that an operator keeps the laws that restoration relies on.

    Shapes and dtypes; that the input is left as it is; linearity; the adjoint ⟨H·x, y⟩ = ⟨x, Hᴴ·y⟩; `normal` = HᴴH; a batch
    is its samples; the gradient through H is Hᴴ; `norm_bound` is not below ‖H‖₂ and at most `tightness` above (the whole
    matrix is written out up to 2048 unknowns, products are used beyond); where there is a `spectrum`, that its
    square is HᴴH in the basis of `analyse`.

    Args:
        op: The operator.
        tightness: Relative excess that its norm bound may have.

    Returns:
        One finding a law kept, with what was measured.

    Raises:
        ConformanceError: At the first law that is broken, with its name, the value and the tolerance.
        InputError: If `op` lacks `domain`, `range`, `adjoint`, `normal` or `norm_bound`.

    >>> from residyn.inverse import Inpainting
    >>> len(check_operator(Inpainting(torch.tensor([[1.0, 0.0]])))) > 8
    True
    """
    missing = [name for name in ("domain", "range", "dtype", "adjoint", "normal", "norm_bound") if not hasattr(op, name)]
    if missing:
        raise InputError(
            f"`op` must have {', '.join(missing)}, got {type(op).__name__} without; derive it from inverse.Operator"
        )
    report = Report("operator", type(op).__name__)
    x, z = _draw(op.domain, op.dtype, 1), _draw(op.domain, op.dtype, 2)
    start = x.clone()
    with torch.no_grad():
        hx, hz = op(x), op(z)
        y = _draw(op.range, hx.dtype, 3)
        back = op.adjoint(y)
    _check_form(report, op, hx, back)
    report.require("input", "H leaves x as it is", torch.equal(x, start), "another x", "replace in-place operations on x")
    tolerance = 1e3 * torch.finfo(op.dtype).eps  # some hundred operations deep, relative to the size of what is compared
    scale = float(hx.norm() + hz.norm()) or 1.0
    with torch.no_grad():
        whole = op(2.0 * x - 3.0 * z)
        _law(report, "linear", "H·(2x - 3z) = 2·H·x - 3·H·z", whole - 2.0 * hx + 3.0 * hz, scale, tolerance, "H must be linear")
        _check_adjoint(report, op, x, y, hx, back, tolerance)
        gap = op.normal(x) - op.adjoint(hx)
        size = float(op.adjoint(hx).norm()) or 1.0
        _law(report, "normal", "normal(x) = Hᴴ·(H·x)", gap, size, tolerance, "`normal` must be HᴴH, borders included")
        pair = op(torch.stack([torch.stack([x, z]), torch.stack([z, x])]))
        gap = pair - torch.stack([torch.stack([hx, hz]), torch.stack([hz, hx])])
        _law(report, "batch", "a batch is its samples", gap, 2 * scale, tolerance, "axes before the picture's must be a batch")
        many = op.adjoint(torch.stack([y, 2 * y]))
        gap = many - torch.stack([back, 2 * back])
        _law(report, "batch_adjoint", "so it is for Hᴴ", gap, 3 * (float(back.norm()) or 1.0), tolerance, "as above")
    _check_gradient(report, op, x, y, back, tolerance)
    _check_norm(report, op, tightness)
    _check_spectrum(report, op, x, tolerance)
    return report.findings


def _check_form(report: Report, op: OperatorLike, hx: Tensor, back: Tensor) -> None:
    report.require(
        "range", "H·x has the shape `range`", hx.shape == op.range, str(tuple(hx.shape)), f"must be {tuple(op.range)}"
    )
    report.require(
        "domain", "Hᴴ·y has the shape `domain`", back.shape == op.domain, str(tuple(back.shape)), f"must be {tuple(op.domain)}"
    )
    same = back.dtype == op.dtype and hx.dtype in (op.dtype, _complex(op.dtype))
    report.require("dtype", "dtypes are kept", same, f"{hx.dtype} and {back.dtype} for {op.dtype}", "convert inside")
    finite = bool(torch.isfinite(torch.view_as_real(hx) if hx.is_complex() else hx).all())
    report.require("finite", "H·x is finite", finite, "nan or inf", "look at its coefficients")


def _check_adjoint(report: Report, op: OperatorLike, x: Tensor, y: Tensor, hx: Tensor, back: Tensor, tolerance: float) -> None:
    left, right = (hx.conj() * y).sum(), (x.conj() * back).sum()
    gap = left - right if op.dtype.is_complex or not hx.is_complex() else left.real - right
    size = float(hx.norm() * y.norm() + x.norm() * back.norm()) or 1.0
    _law(
        report, "adjoint", "⟨H·x, y⟩ = ⟨x, Hᴴ·y⟩", gap, size, tolerance,
        "`adjoint` must be the conjugate transpose, borders included",
    )  # fmt: skip


def _check_gradient(report: Report, op: OperatorLike, x: Tensor, y: Tensor, back: Tensor, tolerance: float) -> None:
    leaf = x.clone().requires_grad_()
    image = op(leaf)
    if not image.requires_grad:
        raise ConformanceError(
            f"{report.name} breaks the law `gradient` (H is differentiable): got no gradient; use torch operations, no detach()"
        )
    (slope,) = torch.autograd.grad(image, leaf, y)
    size = float(back.norm()) or 1.0
    _law(
        report,
        "gradient",
        "the gradient through H is Hᴴ",
        slope - back,
        size,
        tolerance,
        "look for detach() and in-place writes",
    )
    reverse = y.clone().requires_grad_()
    pulled = op.adjoint(reverse)
    report.require("gradient_adjoint", "Hᴴ is differentiable", pulled.requires_grad, "no gradient", "as above")


def _check_norm(report: Report, op: OperatorLike, tightness: float) -> None:
    bound = float(op.norm_bound())
    rounding = 1e2 * torch.finfo(op.dtype).eps
    n = op.domain.numel()
    with torch.no_grad():
        if n <= _DENSE and not op.dtype.is_complex:
            columns = op(torch.eye(n, dtype=op.dtype).reshape(n, *op.domain)).reshape(n, -1)
            columns = torch.view_as_real(columns).reshape(n, -1) if columns.is_complex() else columns
            truth, exact = float(torch.linalg.matrix_norm(columns.double(), 2)), True
        else:
            truth, exact = _multiplied_norm(op), False
    excess = bound / truth - 1.0 if truth > 0 else bound
    report.law("norm_bound", "`norm_bound` is not below ‖H‖₂", max(0.0, -excess), rounding, "raise it; a bound must hold")
    # products find the norm from below to 1e-4
    report.law("tight", "`norm_bound` is close to ‖H‖₂", max(0.0, excess), tightness + (0.0 if exact else 1e-3), "sharpen it")


def _multiplied_norm(op: OperatorLike) -> float:
    start = _draw(op.domain, op.dtype, 4)
    start = start / start.norm()
    if op.dtype.is_complex:
        for _ in range(200):
            start = op.normal(start)
            start = start / start.norm()
        return float(op(start).norm())

    def forward(v: Tensor) -> Tensor:
        image = op(v.reshape(op.domain))
        return (torch.view_as_real(image) if image.is_complex() else image).reshape(1, -1)

    def backward(w: Tensor) -> Tensor:
        image = op(start)
        shaped = torch.view_as_complex(w.reshape(*op.range, 2)) if image.is_complex() else w.reshape(op.range)
        return op.adjoint(shaped).reshape(1, -1)

    return float(golub_kahan(forward, backward, start.reshape(1, -1), rtol=1e-4, limit=600).value)


def _check_spectrum(report: Report, op: OperatorLike, x: Tensor, tolerance: float) -> None:
    spectrum = getattr(op, "spectrum", None)
    if spectrum is None:
        return
    analyse, synthesise = op.analyse, op.synthesise  # type: ignore[attr-defined]
    with torch.no_grad():
        coordinates = analyse(x)
        gap = synthesise(coordinates) - x
        _law(report, "basis", "`synthesise` inverts `analyse`", gap, float(x.norm()), tolerance, "one must invert the other")
        power = (spectrum.conj() * spectrum).real if spectrum.is_complex() else spectrum.square()
        gap = op.normal(x) - synthesise(power * analyse(x))
        size = float(x.norm()) * (float(power.max()) or 1.0)
        _law(report, "power", "HᴴH is |spectrum|² in that basis", gap, size, tolerance, "correct `spectrum`, or drop it")


def _law(report: Report, id: str, title: str, gap: Tensor, size: float, tolerance: float, fix: str) -> None:
    report.law(id, title, float(gap.abs().square().sum().sqrt()) / size, tolerance, fix)


def _draw(shape: torch.Size, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def _complex(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype == torch.float64 else torch.complex64
