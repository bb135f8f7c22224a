"""What a scheme is: one step from t0 to t1, and what is known of it."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from residyn.results import OutcomeKind

Time = float | Tensor
"""A time: a float, or `(B, 1, …, 1)` where each sample has its own."""

Field = Callable[[Time, Tensor], Tensor]
"""A field f(t, x): the time as above, the state one tensor."""


class Step(NamedTuple):
    """What a scheme returns of one step.

    `error` and `dense` are called only where they are wanted, so a scheme pays for neither when a known step is merely taken
    again (as a gradient mode does).
    """

    x: Tensor
    """The state at t1."""
    error: Callable[[], Tensor] | None
    """The estimated local error, of the shape of x; `None` if the scheme has no estimate."""
    dense: Callable[[Time], Tensor]
    """θ in [0, 1] → the state at t0 + θ·(t1 - t0), to the scheme's dense order."""
    state: Any
    """What the scheme carries to the next step."""
    failed: Tensor | None = None
    """Where the equations of an implicit step were not solved: one flag, or `(B, 1, …)`; `None` if there was no failure."""


class Rational(NamedTuple):
    """A rational function P(z)/Q(z), coefficients in ascending powers."""

    numerator: tuple[float, ...]
    denominator: tuple[float, ...] = (1.0,)

    def __call__(self, z: Tensor) -> Tensor:
        """Its value at z, elementwise."""
        return _horner(self.numerator, z) / _horner(self.denominator, z)

    def less_one(self, z: Tensor) -> Tensor:
        """P/Q - 1 = (P - Q)/Q, which does not cancel at z = 0 where both are 1."""
        return z * self.less_one_over(z)

    def less_one_over(self, z: Tensor) -> Tensor:
        """(P/Q - 1)/z, with no division by z: the constant terms of P and Q are equal."""
        size = max(len(self.numerator), len(self.denominator))
        p, q = ((*c, *[0.0] * (size - len(c))) for c in (self.numerator, self.denominator))
        difference = tuple(a - b for a, b in zip(p[1:], q[1:], strict=True))
        return _horner(difference, z) / _horner(self.denominator, z)


class Scheme(abc.ABC):
    """How one step x(t0) → x(t1) of x' = f(t, x) is taken.

    A new scheme is one class with `step` and `stability`; see `residyn.schemes.explicit.Euler` for the shortest.

    Attributes:
        order: Order p of the global error O(hᵖ).
        error_order: Order q of the step's error estimate, O(h^(q+1)) locally; 0 if there is none.
        real_state: Whether it needs the state as real numbers; complex states are handed to it as pairs.
        linear: Whether one step of x' = λx is R(hλ)·x and nothing else, so that equal steps of a linear branch collapse.
        failure: What it means if its equations are not solved.
        carries_memory: Whether its state holds more than `init` can make again from (t, x), as a multistep history does; a
            scheme that says what, by `memory` and `recall`, keeps the gradient modes that save memory.
    """

    order: int
    error_order: int = 0
    carries_memory: bool = False
    real_state: ClassVar[bool] = False
    linear: ClassVar[bool] = True
    failure: ClassVar[OutcomeKind] = "root_failed"

    def init(self, f: Field, t0: Time, x0: Tensor) -> Any:
        """The state to start from at (t0, x0); also what to restart from where the state was not kept."""
        return None

    @abc.abstractmethod
    def step(self, f: Field, t0: Time, t1: Time, x: Tensor, state: Any) -> Step:
        """Take one step.

        Args:
            f: The field.
            t0: Start of the step; a float, or `(B, 1, …)` with a time a sample.
            t1: End of the step; it may lie before t0.
            x: The state at t0.
            state: What the step before handed on, or what `init` returned.

        Returns:
            The state at t1, the error estimate, the dense output, and the state to hand on.
        """

    def tuned(self, rtol: float, atol: float | Tensor) -> Scheme:
        """The scheme for use with adaptive control of these tolerances; itself, unless it solves equations of its own."""
        return self

    def callables(self) -> tuple[Callable[..., Any], ...]:
        """What the scheme calls besides f, e.g. a proximal map; a gradient goes to the parameters of these too."""
        return ()

    def memory(self, state: Any) -> tuple[Tensor, ...]:
        """The tensors of a state through which a step depends on the steps before it, besides x; none of an initial state."""
        return ()

    def recall(self, memory: tuple[Tensor, ...], h: Time) -> Any:
        """The state that has these tensors for its `memory`, after a step of length h."""
        return None

    @property
    def forgets(self) -> bool:
        """Whether it carries a memory that it does not hand out, so that no step can be taken again by itself."""
        return self.carries_memory and type(self).memory is Scheme.memory

    def merge(self, accept: Tensor, new: Any, old: Any) -> Any:
        """What to carry where only the samples in `accept`, `(B, 1, …)` or as x, have taken the step."""
        return None

    @abc.abstractmethod
    def stability(self, z: Tensor) -> Tensor:
        """The stability function R(z): one step of x' = λx is x⁺ = R(hλ)·x. Elementwise, complex."""

    def growth(self, z: Tensor) -> Tensor:
        """R(z) - 1, without cancellation near z = 0 where R is a rational function."""
        rational = self.rational()
        return self.stability(z) - 1 if rational is None else rational.less_one(z)

    def growth_over(self, z: Tensor) -> Tensor:
        """(R(z) - 1)/z, which is 1 at 0."""
        rational = self.rational()
        if rational is not None:
            return rational.less_one_over(z)
        at_zero = z == 0
        return torch.where(at_zero, torch.ones_like(z), self.growth(z) / torch.where(at_zero, torch.ones_like(z), z))

    def rational(self) -> Rational | None:
        """R as a rational function, where it is one."""
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _horner(coefficients: tuple[float, ...], z: Tensor) -> Tensor:
    value = torch.full_like(z, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = value * z + c
    return value
