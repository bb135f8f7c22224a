"""Schemes that can be run backwards exactly, so that a gradient needs no state but the last."""

from __future__ import annotations

import abc
import functools
from typing import Any, ClassVar

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.schemes.base import Field, Scheme, Step, Time
from residyn.schemes.explicit import RK4, ExplicitRungeKutta, step_size


class Invertible(Scheme, abc.ABC):
    """A scheme whose step is a bijection of (x, state) that can be evaluated both ways."""

    @abc.abstractmethod
    def back(self, f: Field, t0: Time, t1: Time, x1: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The (x, state) at t0 from which `step` comes to (x1, state) at t1, up to rounding."""


class CoupledReversible(Invertible):
    """Any explicit scheme made reversible by a second copy of the state, at its order and with a region of stability.

    With Ψ_h(t, x) the increment of the base scheme and z the copy, z = x at the start,
    x⁺ = c·x + (1 - c)·z + Ψ_h(t, z) and z⁺ = z - Ψ_{-h}(t + h, x⁺); solved for (x, z) that is the way back.

    One step costs two of the base scheme. The way back multiplies rounding errors in x - z by 1/c a step, and those along a
    direction that the field contracts by as much as the field contracts; the gradient `Reversible` measures both.

    Args:
        base: The explicit scheme; `RK4()` if not given. Its error estimate, if it has one, serves adaptive control.
        coupling: c, in (0, 1]; smaller is more stable forwards, and amplifies more on the way back.

    Raises:
        InputError: If an argument breaks its rule.

    Reference:
        McCallum & Foster (2024), "Efficient, Accurate and Stable Gradients for Neural ODEs", arXiv:2410.11648.

    >>> CoupledReversible(RK4()).order
    4
    """

    carries_memory = True
    linear: ClassVar[bool] = False  # a step of the pair (x, z), whose x alone is no power of R

    def __init__(self, base: ExplicitRungeKutta | None = None, *, coupling: float = 0.999) -> None:
        base = base or RK4()
        if not isinstance(base, ExplicitRungeKutta):
            raise InputError(f"`base` must be an explicit Runge–Kutta scheme such as RK4(), got {base!r}")
        if not 0 < coupling <= 1:
            raise InputError(f"`coupling` must lie in (0, 1], got {coupling!r}; 0.999 is usual")
        self.base, self.coupling = base, float(coupling)
        self.order, self.error_order = base.order, base.error_order

    def init(self, f: Field, t0: Time, x0: Tensor) -> Tensor:
        """The copy z = x."""
        return x0

    def step(self, f: Field, t0: Time, t1: Time, x: Tensor, state: Any) -> Step:
        """Take one step; `state` is z."""
        z = x if state is None else state
        forward = self.base.step(f, t0, t1, z, None)
        c = self.coupling
        x1 = c * x + (1 - c) * z + (forward.x - z)
        z1 = z - self._increment(f, t1, t0, x1)
        return Step(x1, forward.error, functools.partial(_hermite, f, t0, t1, x, x1), z1)

    def back(self, f: Field, t0: Time, t1: Time, x1: Tensor, state: Any) -> tuple[Tensor, Tensor]:
        """(x, z) at t0 from (x⁺, z⁺) at t1."""
        z = state + self._increment(f, t1, t0, x1)
        c = self.coupling
        return (x1 - (1 - c) * z - self._increment(f, t0, t1, z)) / c, z

    def _increment(self, f: Field, t0: Time, t1: Time, x: Tensor) -> Tensor:
        return self.base.step(f, t0, t1, x, None).x - x

    def memory(self, state: Tensor | None) -> tuple[Tensor, ...]:
        """z."""
        return () if state is None else (state,)

    def recall(self, memory: tuple[Tensor, ...], h: Time) -> Tensor:
        """z."""
        return memory[0]

    def merge(self, accept: Tensor, new: Tensor, old: Tensor | None) -> Tensor:
        """z, sample by sample."""
        return new if old is None else torch.where(accept, new, old)

    def stability(self, z: Tensor) -> Tensor:
        """The larger eigenvalue of the step of (x, z) on x' = λx, with z = hλ; the other one's product with it is c."""
        p, m = self.base.stability(z) - 1, self.base.stability(-z) - 1
        c = self.coupling
        # (x⁺, z⁺) = [[c, 1-c+p], [-m·c, 1 - m·(1-c+p)]]·(x, z), of determinant c
        trace = c + 1 - m * (1 - c + p)
        root = torch.sqrt(trace.to(_complex(trace)) ** 2 - 4 * c)
        first, second = (trace + root) / 2, (trace - root) / 2
        found = torch.where(first.abs() >= second.abs(), first, second)
        return found if z.is_complex() else torch.where(root.imag == 0, found.real, found.abs())

    def __repr__(self) -> str:
        return f"CoupledReversible({self.base!r}, coupling={self.coupling:g})"


def _complex(x: Tensor) -> torch.dtype:
    return x.dtype if x.is_complex() else x.dtype.to_complex()


def _hermite(f: Field, t0: Time, t1: Time, x0: Tensor, x1: Tensor, theta: Time) -> Tensor:
    """The cubic through both ends and their slopes."""
    h = step_size(t0, t1, x0)
    gap = x1 - x0
    inner = (1 - 2 * theta) * gap + (theta - 1) * h * f(t0, x0) + theta * h * f(t1, x1)
    return x0 + theta * gap + theta * (theta - 1) * inner
