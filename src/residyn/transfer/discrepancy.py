"""How far two samples are from one law: kernels for the maximum mean discrepancy, and the distance of their covariances."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from residyn.errors import InputError


class Kernel(ABC):
    """A positive (or conditionally positive) definite function of two points."""

    @abstractmethod
    def __call__(self, squares: Tensor, length: Tensor) -> Tensor:
        """Values of the kernel.

        Args:
            squares: Squared distances, any shape.
            length: The squared length that stands for "near": their median between the samples.
        """


@dataclass(frozen=True)
class Gaussian(Kernel):
    """Mean over scales c of exp(-d²/(c·m)), m the median squared distance.

    Args:
        scales: The c's, positive; several, so that near and far structure both count.

    Raises:
        InputError: If there is none, or one is not > 0.
    """

    scales: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)

    def __post_init__(self) -> None:
        if not self.scales or not all(scale > 0 for scale in self.scales):
            raise InputError(f"`scales` must be numbers > 0, got {self.scales}; (0.25, 0.5, 1, 2, 4) is usual")

    def __call__(self, squares: Tensor, length: Tensor) -> Tensor:
        """As `Kernel.__call__`."""
        return torch.stack([torch.exp(-squares / (scale * length)) for scale in self.scales]).mean(0)


@dataclass(frozen=True)
class Laplace(Kernel):
    """exp(-d/√m): heavier tails than the Gaussian."""

    def __call__(self, squares: Tensor, length: Tensor) -> Tensor:
        """As `Kernel.__call__`."""
        return torch.exp(-_root(squares) / length.sqrt())


@dataclass(frozen=True)
class InverseMultiquadric(Kernel):
    """1/√(1 + d²/m): tails that fall as slowly as a power."""

    def __call__(self, squares: Tensor, length: Tensor) -> Tensor:
        """As `Kernel.__call__`."""
        return torch.rsqrt(1 + squares / length)


@dataclass(frozen=True)
class Energy(Kernel):
    """-d: the discrepancy is the energy distance 2·E‖a-b‖ - E‖a-a'‖ - E‖b-b'‖, which has no length to choose."""

    def __call__(self, squares: Tensor, length: Tensor) -> Tensor:
        """As `Kernel.__call__`."""
        return -_root(squares)


GAUSSIAN = Gaussian()


def mmd(a: Tensor, b: Tensor, *, kernel: Kernel = GAUSSIAN, unbiased: bool = False) -> Tensor:
    """Squared maximum mean discrepancy, E k(a, a') + E k(b, b') - 2·E k(a, b).

    It is zero in the mean for samples of one law, and with a characteristic kernel (all here) for these alone. Its gradient
    goes to both samples; the median distance that sets the kernel's length is taken as given.

    Args:
        a: One sample, `(n, …)`; more axes are made one.
        b: The other, `(m, …)` of the same features.
        kernel: k: `Gaussian()`, `Laplace()`, `InverseMultiquadric()`, `Energy()`.
        unbiased: Whether pairs of a point with itself are left out: zero in the mean, but it may be negative.

    Returns:
        A scalar, in the samples' precision.

    Raises:
        InputError: If a sample is empty (or has one point, for `unbiased`), not finite, or the features differ.

    Reference:
        Gretton, Borgwardt, Rasch, Schölkopf & Smola (2012), "A Kernel Two-Sample Test", JMLR 13:723.

    >>> a = torch.tensor([[0.0], [1.0]])
    >>> float(mmd(a, a)), float(mmd(a, a + 3)) > 0.5
    (0.0, True)
    """
    a, b = pair(a, b, 2 if unbiased else 1)
    squares = _squares(torch.cat([a, b]))
    n, m = len(a), len(b)
    apart = squares.detach()[:n, n:]
    length = apart.median()
    if float(length) == 0:  # more than half of all pairs are the same point
        length = apart.mean()
    values = kernel(squares, length.clamp(min=torch.finfo(a.dtype).tiny))
    own = values.diagonal() if unbiased else values.new_zeros(n + m)
    within_a = (values[:n, :n].sum() - own[:n].sum()) / (n * (n - 1) if unbiased else n * n)
    within_b = (values[n:, n:].sum() - own[n:].sum()) / (m * (m - 1) if unbiased else m * m)
    return within_a + within_b - 2 * values[:n, n:].mean()


def coral(a: Tensor, b: Tensor) -> Tensor:
    """Distance of two covariances, ‖C_a - C_b‖_F²/(4·d²).

    Args:
        a: One sample, `(n, …)`, n ≥ 2; more axes are made one.
        b: The other, `(m, …)` of the same d features.

    Returns:
        A scalar, in the samples' precision.

    Raises:
        InputError: If a sample has fewer than two points, is not finite, or the features differ.

    Reference:
        Sun & Saenko (2016), "Deep CORAL", arXiv:1607.01719.

    >>> a = torch.tensor([[0.0], [2.0]])  # variance 2
    >>> float(coral(a, 2 * a))  # (8 - 2)²/4
    9.0
    """
    a, b = pair(a, b, 2)
    return (_covariance(a) - _covariance(b)).square().sum() / (4 * a.shape[1] ** 2)


def pair(a: Tensor, b: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Two samples as tables.

    Args:
        a: One, `(n, …)`.
        b: The other.
        least: The fewest points that a sample may have.

    Raises:
        InputError: If they break a rule.
    """
    for name, sample in (("a", a), ("b", b)):
        if not isinstance(sample, Tensor) or not sample.is_floating_point() or sample.ndim < 1:
            raise InputError(f"`{name}` must be a floating-point tensor (n, …), got {_form(sample)}; convert it with .float()")
        if len(sample) < least or sample.numel() == 0:
            raise InputError(f"`{name}` must hold {least} or more samples with features, got {_form(sample)}; add some")
        if not bool(torch.isfinite(sample).all()):
            raise InputError(f"`{name}` must be finite, got nan or inf; drop or mend those samples")
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    if a.shape[1] != b.shape[1]:
        raise InputError(f"`a` and `b` must have the same features, got {a.shape[1]} and {b.shape[1]}")
    kind = torch.promote_types(a.dtype, b.dtype)
    return a.to(kind), b.to(kind)


def _form(value: object) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _squares(x: Tensor) -> Tensor:
    """Squared distances of all pairs; centred first, since the difference of large squares has few digits."""
    x = x - x.detach().mean(0)
    norms = x.square().sum(1)
    squares = (norms[:, None] + norms[None] - 2 * (x @ x.T)).clamp(min=0)
    return squares * (1 - torch.eye(len(x), dtype=x.dtype, device=x.device))


def _root(squares: Tensor) -> Tensor:
    """Distances; where two points are one the slope is taken as 0, not infinite."""
    apart = squares > 0
    return torch.where(apart, torch.where(apart, squares, 1.0).sqrt(), 0.0)


def _covariance(x: Tensor) -> Tensor:
    x = x - x.mean(0)
    return x.T @ x / (len(x) - 1)
