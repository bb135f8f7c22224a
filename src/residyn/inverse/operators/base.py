"""What a linear operator of an inverse problem is, and a bound on the norm of one that knows nothing more of itself."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from residyn.errors import InputError
from residyn.results import Estimate

FAILURE = 1e-10
"""Probability with which the Lanczos bound may lie below the truth."""

_MARGIN = 5e-4
_DENSE = 700


class Operator(nn.Module, abc.ABC):
    """A linear map H from pictures `(…, *domain)` to measurements `(…, *range)`; what stands before is a batch.

    Subclasses write `forward` and `adjoint`, and override the others where they know more. `residyn.testing.check_operator`
    holds them to the laws.

    Args:
        domain: Shape of one x.
        range: Shape of one H·x.
        dtype: Of the operator's own tensors; x is expected to have the same.

    Attributes:
        complex_range: Whether H·x is complex where x is real, so that Hᴴ keeps the real part.
    """

    complex_range: bool = False

    def __init__(self, domain: Sequence[int], range: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.domain, self.range = torch.Size(domain), torch.Size(range)
        self.dtype = dtype
        if not self.domain or min(self.domain) < 1 or not self.range or min(self.range) < 1:
            raise InputError(f"`shape` must have positive sides, got {tuple(self.domain)} to {tuple(self.range)}")

    @abc.abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """H·x."""

    @abc.abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Hᴴ·y, with ⟨H·x, y⟩ = ⟨x, Hᴴ·y⟩."""

    def normal(self, x: Tensor) -> Tensor:
        """HᴴH·x; in one pass where the operator knows how."""
        return self.adjoint(self(x))

    @property
    def spectrum(self) -> Tensor | None:
        """The transfer function: HᴴH is |spectrum|² in the basis of `analyse`; `None` where it is not diagonal there."""
        return None

    def analyse(self, x: Tensor) -> Tensor:
        """Coordinates of x in the orthogonal basis in which the operator is diagonal."""
        raise InputError(
            f"`{type(self).__name__}` must be diagonal in a known basis for this, got no spectrum; iterate instead"
        )

    def synthesise(self, coordinates: Tensor) -> Tensor:
        """The picture with these coordinates: the inverse of `analyse`."""
        raise InputError(
            f"`{type(self).__name__}` must be diagonal in a known basis for this, got no spectrum; iterate instead"
        )

    def back(self, y: Tensor) -> Tensor:
        """Coordinates of Hᴴ·y, for what is diagonal."""
        return self.analyse(self.adjoint(y))

    def norm_bound(self) -> Estimate:
        """A bound on ‖H‖₂, at most 0.1 % above it.

        Up to some hundred unknowns the matrix is written out and the bound is certified. Beyond, it is the Lanczos value
        from a random start plus what Kuczyński & Woźniakowski leave to chance, so that it lies below the truth with a
        probability of less than 1e-10.

        Reference:
            Kuczyński & Woźniakowski (1992), doi:10.1137/0613066, Theorem 4.2.
        """
        if self.domain.numel() <= _DENSE:
            return _dense_bound(self)
        return _lanczos_bound(self)

    def _like(self) -> Tensor:
        """A tensor of the operator's, for its device."""
        return next(self.buffers(), torch.zeros((), dtype=self.dtype))


def check_shape(x: Tensor, shape: torch.Size, name: str) -> None:
    """Refuse a tensor whose trailing axes are not those asked for.

    Raises:
        InputError: If they are not.
    """
    if x.shape[x.ndim - len(shape) :] != shape or x.ndim < len(shape):
        raise InputError(
            f"`{name}` must have the shape (…, {', '.join(map(str, shape))}), got {tuple(x.shape)}; put batch and "
            "channels in front"
        )


def scale_bound(value: float, dtype: torch.dtype, depth: float) -> Estimate:
    """A norm known in closed form, raised by the rounding of `depth` operations so that it is never below the truth."""
    return Estimate(value * (1 + 4 * depth * torch.finfo(dtype).eps), "certified")


def nonnegative_bound(op: Operator, *, passes: int = 60) -> Estimate | None:
    """A certified bound for an operator without negative entries, by Collatz and Wielandt: ‖H‖² ≤ max_i (HᵀH·v)_i/v_i, v > 0.

    The bound falls as v nears the leading vector, the Rayleigh quotient rises to the truth; it ends where they agree.

    Args:
        op: An operator whose matrix has no negative entry.
        passes: Passes through HᵀH at most.

    Returns:
        The bound; `None` if it came no nearer than 0.1 %, or a pixel is never seen.

    Reference:
        Wielandt (1950), doi:10.1007/BF02230720.
    """
    like = op._like()
    v = torch.ones(op.domain, dtype=op.dtype, device=like.device)
    rounding = 100 * torch.finfo(op.dtype).eps
    with torch.no_grad():
        for spent in range(1, passes + 1):
            w = op.normal(v)
            if not bool((w > 0).all()):
                return None
            top = math.sqrt(float((w / v).max())) * (1 + rounding)
            quotient = math.sqrt(float((v * w).sum() / v.square().sum()))
            if top <= quotient * (1 + _MARGIN):
                return Estimate(top, "certified", spent)
            v = w / w.max()
    return None


def _dense_bound(op: Operator) -> Estimate:
    n = op.domain.numel()
    like = op._like()
    real = op.dtype.to_real() if op.dtype.is_complex else op.dtype
    basis = torch.eye(n, dtype=op.dtype, device=like.device).reshape(n, *op.domain)
    with torch.no_grad():
        columns = op(basis).reshape(n, -1)
    if columns.is_complex() and not op.dtype.is_complex:
        columns = torch.view_as_real(columns).reshape(n, -1)
    value = float(torch.linalg.matrix_norm(columns.to(torch.complex128 if columns.is_complex() else torch.float64), 2))
    return Estimate(value * (1 + 4 * n * torch.finfo(real).eps) if value else 0.0, "certified", n)


def _lanczos_bound(op: Operator) -> Estimate:
    """√(θ/(1 - ε)) with θ the Lanczos value of HᴴH after the k steps that make P(θ < (1 - ε)·λ) ≤ `FAILURE`.

    P ≤ 1.648·√n·exp(-√ε·(2k - 1)); a norm 0.05 % above ‖H‖ allows ε = 0.1 % of λ = ‖H‖².
    """
    n = op.domain.numel() * (2 if op.dtype.is_complex else 1)
    epsilon = 1 - (1 + _MARGIN) ** -2
    steps = math.ceil((math.log(1.648 * math.sqrt(n) / FAILURE) / math.sqrt(epsilon) + 1) / 2)
    like = op._like()
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(op.domain, generator=generator, dtype=op.dtype).to(like.device)
    v = v / torch.linalg.vector_norm(v)
    before, beta = torch.zeros_like(v), 0.0
    diagonal: list[float] = []
    off: list[float] = []
    with torch.no_grad():
        for _ in range(min(steps, n)):
            w = op.normal(v) - beta * before
            alpha = float((w.conj() * v).sum().real)
            w = w - alpha * v
            diagonal.append(alpha)
            beta = float(torch.linalg.vector_norm(w))
            if beta <= torch.finfo(op.dtype).eps * max(map(abs, diagonal)):
                break
            off.append(beta)
            before, v = v, w / beta
    from scipy.linalg import eigvalsh_tridiagonal

    k = len(diagonal)
    theta = float(eigvalsh_tridiagonal(diagonal, off[: k - 1], select="i", select_range=(k - 1, k - 1))[0])
    # each product rounds like some hundred operations of the operator's precision, relative to λ itself
    rounding = 100 * torch.finfo(op.dtype).eps
    return Estimate(math.sqrt(max(theta, 0.0) * (1 + rounding)) * (1 + _MARGIN), "upper", k)
