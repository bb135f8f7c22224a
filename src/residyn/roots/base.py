"""What a root finder is: x with x = g(x), sample by sample, and how well it was found."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from residyn.errors import InputError


@dataclass(frozen=True)
class Root:
    """What a root finder found.

    Args:
        x: The best x met, sample by sample, `(B, …)`.
        residual: ‖x - g(x)‖ / (atol + ‖g(x)‖) of each sample, `(B,)`.
        iterations: Calls of g.
        converged: Whether each sample is below the tolerance, `(B,)`.
    """

    x: Tensor
    residual: Tensor
    iterations: int
    converged: Tensor


@dataclass(frozen=True)
class RootFinder(abc.ABC):
    """Solves x = g(x) for each sample of a batch, to ‖x - g(x)‖ ≤ tol·(1e-8 + ‖g(x)‖) on the worst sample.

    Args:
        tol: Relative tolerance on the worst sample, > 0.
        max_iterations: Calls of g before giving up.

    Raises:
        InputError: If a value breaks its rule.
    """

    tol: float = 1e-5
    max_iterations: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.tol < 1:
            raise InputError(f"`tol` must lie in (0, 1), got {self.tol!r}; 1e-5 is usual in single precision")
        if not isinstance(self.max_iterations, int) or self.max_iterations < 1:
            raise InputError(f"`max_iterations` must be a whole number of at least 1, got {self.max_iterations!r}")

    @abc.abstractmethod
    def solve(self, g: Callable[[Tensor], Tensor], x0: Tensor) -> Root:
        """Find x = g(x) from the guess x0 `(B, …)`; never raises on non-convergence, says so."""


def relative_residual(x: Tensor, gx: Tensor) -> Tensor:
    """‖x - g(x)‖ / (1e-8 + ‖g(x)‖) of each sample, `(B,)`."""
    change = torch.linalg.vector_norm((gx - x).reshape(len(x), -1), dim=1)
    return change / (1e-8 + torch.linalg.vector_norm(gx.reshape(len(x), -1), dim=1))


class Best:
    """The best iterate so far of each sample."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.residual = x.new_full((len(x),), float("inf"), dtype=x.dtype.to_real() if x.is_complex() else x.dtype)

    def offer(self, x: Tensor, residual: Tensor) -> None:
        """Take the samples whose residual is smaller than what was known."""
        better = residual < self.residual
        self.residual = torch.where(better, residual, self.residual)
        self.x = torch.where(better.view(-1, *[1] * (x.ndim - 1)), x, self.x)
