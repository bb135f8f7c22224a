"""What an implicit step leaves behind: its stages, its error, its dense output, and where the next one linearises."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from residyn.schemes.base import Field, Time
from residyn.schemes.explicit import combine
from residyn.schemes.linearised import Linearisation, linearise


@dataclass(frozen=True)
class ImplicitTableau:
    """A diagonally implicit tableau: row i of `a` has i+1 entries, the last its own weight: γ, or 0 for an explicit stage."""

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    error: tuple[float, ...] = ()

    @property
    def stiffly_accurate(self) -> bool:
        """Whether the result is the last stage."""
        return self.b == self.a[-1]


class Record:
    """A step taken: its stages, error and dense output, and the linearisation that the next step may share."""

    def __init__(
        self, f: Field, t0: Time, t1: Time, h: Time, x0: Tensor, x1: Tensor, ks: list[Tensor], failed: Tensor | None,
        tableau: ImplicitTableau,
    ) -> None:  # fmt: skip
        self.f, self.t0, self.t1, self.h, self.x0, self.x1, self.ks, self.failed = f, t0, t1, h, x0, x1, ks, failed
        self.tableau = tableau
        self.slope = ks[-1]
        self._here: Linearisation | None = None

    def here(self, f: Field, t: Time, x: Tensor) -> Linearisation:
        """∂f/∂x where this step ended."""
        if self._here is None:
            self._here = linearise(f, t, x)
        return self._here

    def masked(self, accept: Tensor) -> Record:
        """A record to go on from where only some samples took the step."""
        other = copy.copy(self)
        other._here = None
        other.slope = torch.where(accept, self.ks[-1], self.ks[0])
        return other

    def error(self) -> Tensor:
        """h·Σ e_i·k_i; infinite where Newton failed."""
        with torch.no_grad():
            estimate = combine(None, self.h, self.tableau.error, self.ks)
            return estimate if self.failed is None else torch.where(self.failed, math.inf, estimate)

    def dense(self, theta: Time) -> Tensor:
        """Cubic Hermite through both ends; a straight line for backward Euler.

        There f at the start may be as large as 1/h, and a cubic that heeds it would leave the interval that the step, being
        L-stable, stays in.
        """
        x0, x1, h = self.x0, self.x1, self.h
        if self.tableau.c == (1.0,):
            return x0 + theta * (x1 - x0)
        if self.tableau.a[0][-1] != 0.0:
            start, end = self.f(self.t0, x0), self.f(self.t1, x1)
        else:
            start, end = self.ks[0], self.ks[-1]
        gap = x1 - x0
        inner = (1 - 2 * theta) * gap + (theta - 1) * h * start + theta * h * end
        return x0 + theta * gap + theta * (theta - 1) * inner


class Recalled:
    """What a step needs of the one before it, from its slope alone."""

    def __init__(self, slope: Tensor) -> None:
        self.slope = slope

    def here(self, f: Field, t: Time, x: Tensor) -> Linearisation:
        """∂f/∂x where that step ended."""
        return linearise(f, t, x)
