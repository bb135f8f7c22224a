"""The exponential midpoint scheme: on a field A(t, x)·x each step is the exact flow of a frozen A."""

from __future__ import annotations

import functools
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from residyn.branch import Autonomous, Dense, Generator, Symmetric, apply_matrix
from residyn.errors import InputError
from residyn.schemes.base import Field, Scheme, Step, Time
from residyn.schemes.explicit import step_size
from residyn.schemes.problem import Rhs, solves_itself


class _Past(NamedTuple):
    """What a step hands on to extrapolate from: A at its middle, and its length."""

    matrix: Tensor
    h: Time


class ExponentialMidpoint(Scheme):
    """x⁺ = exp(h·A(t + h/2, x̄))·x for fields F(t, x) = A(t, x)·x, order 2; unitary, to rounding, where A is skew-Hermitian.

    The middle x̄ is predicted by half a step with a frozen A, x̄ = exp(h/2·Ã)·x, and may be corrected. Without `history`
    Ã = A(t, x), a second evaluation of A a step; with it Ã is extrapolated from the step before, and costs none.

    Args:
        corrections: How often x̄ is predicted anew with the A found at it; each costs an evaluation and an exponential. Order
            2 needs none.
        history: Whether Ã comes from the step before. The march then has a memory: A, which is kept beside each state by
            gradient modes that take single steps again.

    Raises:
        InputError: If an argument breaks its rule; on use, if the field is no `Generator` (or a `Dense` or `Symmetric`
            branch without offset).

    Reference:
        Magnus (1954), doi:10.1002/cpa.3160070404; Hochbruck & Ostermann (2010), "Exponential integrators",
        doi:10.1017/S0962492910000048.

    >>> from residyn.branch import Dense, autonomous
    >>> from residyn.flow import solve
    >>> from residyn.schemes import Fixed
    >>> turn = autonomous(Dense(torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)))
    >>> x = solve(turn, torch.tensor([1.0, 0.0], dtype=torch.float64), [0, 100.0], scheme=ExponentialMidpoint(),
    ...           control=Fixed(steps=1)).x[-1]
    >>> abs(float(x.norm()) - 1) < 1e-12
    True
    """

    order = 2
    real_state: ClassVar[bool] = False

    def __init__(self, *, corrections: int = 0, history: bool = False) -> None:
        if not isinstance(corrections, int) or isinstance(corrections, bool) or corrections < 0:
            raise InputError(f"`corrections` must be a whole number of at least 0, got {corrections!r}; 0 has order 2 already")
        self.corrections, self.history = corrections, history
        self.carries_memory = history

    def step(self, f: Field, t0: Time, t1: Time, x: Tensor, state: Any) -> Step:
        """Take one step; with `history`, `state` holds A at the middle of the step before."""
        h = step_size(t0, t1, x)
        known = solves_itself(f)
        if known is not None and known.offset is None and not isinstance(h, Tensor):
            return Step(known.exponential(x, h), None, functools.partial(_known_dense, known, h, x), None)
        generator = generator_of(f)
        middle = t0 + 0.5 * (t1 - t0)
        start = None if isinstance(state, _Past) else generator(t0, x)
        guess = start if start is not None else state.matrix
        for _ in range(self.corrections + 1):
            guess = generator(middle, _flow(guess, 0.5 * h, x))
        x1 = _flow(guess, h, x)
        if start is None:  # A at t0 lies on the line through the middles of both steps
            start = torch.lerp(state.matrix, guess, _share(state.h, h, guess))
        dense = functools.partial(_dense, start, guess, h, x)
        return Step(x1, None, dense, _Past(guess, h) if self.history else None)

    def memory(self, state: Any) -> tuple[Tensor, ...]:
        """A at the middle of the step before."""
        return (state.matrix,) if isinstance(state, _Past) else ()

    def recall(self, memory: tuple[Tensor, ...], h: Time) -> Any:
        """A and the length of that step."""
        return _Past(memory[0], h)

    def merge(self, accept: Tensor, new: Any, old: Any) -> Any:
        """Nothing: without an error estimate all samples take every step."""
        return new

    def stability(self, z: Tensor) -> Tensor:
        """R(z) = exp(z)."""
        return torch.exp(z)

    def growth(self, z: Tensor) -> Tensor:
        """exp(z) - 1, without cancellation."""
        return torch.expm1(z)

    def __repr__(self) -> str:
        return f"ExponentialMidpoint(corrections={self.corrections}, history={self.history})"


def _known_dense(branch: Symmetric, h: float, x: Tensor, theta: Time) -> Tensor:
    """exp(θh·A)·x by the branch itself."""
    return branch.exponential(x, float(theta) * h)


def generator_of(f: Field, name: str = "ExponentialMidpoint") -> Any:
    """(t, x) → A(t, x), counted as an evaluation."""
    rhs = f if isinstance(f, Rhs) else None
    inner = f if rhs is None else rhs.f
    if rhs is not None and (rhs.args or rhs.layout is not None):
        raise InputError(
            f"`x0` must be one tensor and `args` empty for {name}, got a structure or arguments; "
            "make them part of the Generator"
        )
    if isinstance(inner, Autonomous) and isinstance(inner.branch, Dense) and inner.branch.offset is None:
        matrix = inner.branch.matrix
        return lambda t, x: matrix.expand(*x.shape[:-1], *matrix.shape)
    if isinstance(inner, Autonomous) and isinstance(inner.branch, Generator):
        inner = inner.branch
    if not isinstance(inner, Generator):
        raise InputError(
            f"`f` must be of the form A(t, x)·x for {name}, got {type(inner).__name__}; derive it from "
            "residyn.branch.Generator, or use another scheme"
        )
    generator = inner

    def evaluate(t: Time, x: Tensor) -> Tensor:
        if rhs is None:
            return generator.matrix(t, x)
        rhs.evaluations += 1
        return generator.matrix(rhs.time(t), x)

    return evaluate


def _flow(matrix: Tensor, h: Time, x: Tensor) -> Tensor:
    """exp(h·A)·x."""
    return apply_matrix(torch.linalg.matrix_exp(matrix * _per_system(h)), x)


def _per_system(h: Time) -> Time:
    return h.reshape(-1, 1, 1) if isinstance(h, Tensor) else h


def _share(before: Time, h: Time, like: Tensor) -> Tensor:
    """Where the start of a step lies between the middle of the step before (0) and its own (1)."""
    share = torch.as_tensor(before / (before + h), dtype=like.dtype, device=like.device)
    return share.reshape(-1, 1, 1) if share.ndim else share


def _dense(start: Tensor, middle: Tensor, h: Time, x: Tensor, theta: Time) -> Tensor:
    """exp(θh·A(t + θh/2))·x, with A on the line through its values at the start and the middle: order 2, and unitary too."""
    part = _per_system(theta)
    return _flow(start + part * (middle - start), theta * h, x)
