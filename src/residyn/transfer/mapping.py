"""Affine maps that take one domain's first moments to another's: where a learned correction starts, and its rivals."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from residyn.transfer.discrepancy import pair

_RIDGE = 1e-2
"""Of the mean variance, added to both covariances: directions without variance would be blown up."""


class Affine(nn.Module):
    """x → (x - from)·M + to, on the flattened features of each sample.

    Args:
        start: from, `(d,)`.
        matrix: M, `(d, d)`, or its diagonal, `(d,)`.
        end: to, `(d,)`.
    """

    start: Tensor
    matrix: Tensor
    end: Tensor

    def __init__(self, start: Tensor, matrix: Tensor, end: Tensor) -> None:
        super().__init__()
        for name, value in (("start", start), ("matrix", matrix), ("end", end)):
            self.register_buffer(name, value.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """The mapped samples, of the same shape."""
        rows = x.reshape(len(x), -1) - self.start
        moved = rows * self.matrix if self.matrix.ndim == 1 else rows @ self.matrix
        return (moved + self.end).reshape(x.shape)


def standardise(target: Tensor, source: Tensor) -> Affine:
    """Each feature's mean and spread in the target become those in the source: z-scores per domain.

    Features that hardly vary in the target (less than a hundredth of the mean spread) are shifted only.

    Args:
        target: Samples, `(n, …)`.
        source: Samples, `(m, …)` of the same features.

    Returns:
        The map of target samples.

    Raises:
        InputError: As `coral`.

    >>> standardise(torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [5.0]]))(torch.tensor([[2.0]]))
    tensor([[5.]])
    """
    t, s = pair(target, source, 2)
    spread, wanted = t.std(0), s.std(0)
    fixed = spread < 0.01 * spread.mean().clamp(min=torch.finfo(t.dtype).tiny)
    return Affine(t.mean(0), torch.where(fixed, 1.0, wanted / torch.where(fixed, 1.0, spread)), s.mean(0))


def recolour(target: Tensor, source: Tensor, *, ridge: float = _RIDGE) -> Affine:
    """The target's covariance becomes the source's: x → (x - μ_t)·C_t^(-1/2)·C_s^(1/2) + μ_s.

    Args:
        target: Samples, `(n, …)`.
        source: Samples, `(m, …)` of the same features.
        ridge: Share of the mean variance that is added to both covariances.

    Returns:
        The map of target samples.

    Raises:
        InputError: As `coral`.

    Reference:
        Sun, Feng & Saenko (2016), "Return of Frustratingly Easy Domain Adaptation", arXiv:1511.05547 (which maps the source
        and trains again; a frozen model asks for the way back).

    >>> x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> mapped = recolour(x, 2 * x + 1, ridge=0.0)(x)
    >>> bool(torch.allclose(mapped, 2 * x + 1))
    True
    """
    t, s = (rows.double() for rows in pair(target, source, 2))
    matrix = _power(torch.cov(t.T), -0.5, ridge) @ _power(torch.cov(s.T), 0.5, ridge)
    kind = torch.promote_types(target.dtype, source.dtype)
    return Affine(t.mean(0).to(kind), matrix.to(kind), s.mean(0).to(kind))


def _power(covariance: Tensor, exponent: float, ridge: float) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance if covariance.ndim == 2 else covariance.reshape(1, 1))
    floor = ridge * values.mean() + torch.finfo(values.dtype).tiny
    return (vectors * (values.clamp(min=0) + floor) ** exponent) @ vectors.T
