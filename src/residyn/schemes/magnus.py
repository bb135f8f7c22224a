"""Magnus propagators for fields A(t, x)·x, all unitary where A is skew-Hermitian.

Each class says how often it builds A a step: that is what a step costs where A is a Kohn–Sham matrix.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from residyn.branch import Generator, apply_matrix
from residyn.errors import InputError
from residyn.results import OutcomeKind
from residyn.schemes.base import Field, Scheme, Step, Time
from residyn.schemes.explicit import step_size
from residyn.schemes.exponential import generator_of

_GAUSS = math.sqrt(3) / 6


class Propagator(Scheme):
    """A scheme of exponentials of A, whose stability function is therefore exp(z) where A is a number."""

    real_state: ClassVar[bool] = False
    order = 2

    def merge(self, accept: Tensor, new: Any, old: Any) -> Any:
        """Nothing: without an error estimate all samples take every step."""
        return new

    def stability(self, z: Tensor) -> Tensor:
        """R(z) = exp(z)."""
        return torch.exp(z)

    def growth(self, z: Tensor) -> Tensor:
        """exp(z) - 1, without cancellation."""
        return torch.expm1(z)


class History(NamedTuple):
    """What a step hands on: a matrix or a state of before, and the length of the step."""

    tensor: Tensor
    h: Time


class ExtrapolatedMidpoint(Propagator):
    """x⁺ = exp(h·Ã)·x with Ã = A_n + (A_n - A_{n-1})/2, the middle extrapolated from two matrices: order 2, one build a step.

    A is built at the reported times, so that what is observed there (an energy) costs no further build. The first step, which
    has nothing to extrapolate from, predicts its middle: one build more, once.

    Reference:
        Gómez Pueyo, Marques, Rubio & Castro (2018), "Propagators for the time-dependent Kohn–Sham equations",
        doi:10.1021/acs.jctc.8b00197.
    """

    carries_memory = True

    def step(self, f: Field, t0: Time, t1: Time, x: Tensor, state: Any) -> Step:
        """Take one step; `state` holds A at the start of the step before."""
        h = step_size(t0, t1, x)
        generator = generator_of(f, type(self).__name__)
        start = generator(t0, x)
        if isinstance(state, History):
            middle = start + (0.5 * h / state.h) * (start - state.tensor)
        else:
            middle = generator(t0 + 0.5 * (t1 - t0), exponential(f, start, 0.5 * h, x))
        x1 = exponential(f, middle, h, x)
        return Step(x1, None, functools.partial(_on_line, f, start, middle, h, x), History(start, h))

    def memory(self, state: Any) -> tuple[Tensor, ...]:
        """A at the start of the step before."""
        return (state.tensor,) if isinstance(state, History) else ()

    def recall(self, memory: tuple[Tensor, ...], h: Time) -> Any:
        """A and the length of that step."""
        return History(memory[0], h)


class _Consistent(Propagator):
    """A propagator whose matrices depend on where the step ends, found by iteration.

    Args:
        tol: The iteration ends where the state changes by less than this, relative to its largest component.
        max_iterations: How often at most; a step that needs more has failed.

    Raises:
        InputError: If an argument breaks its rule; on use, if the field is no `Generator`.
    """

    failure: ClassVar[OutcomeKind] = "root_failed"

    def __init__(self, *, tol: float = 1e-10, max_iterations: int = 20) -> None:
        if not 0 < tol < 1:
            raise InputError(f"`tol` must lie in (0, 1), got {tol!r}; 1e-10 is usual in double precision")
        if not isinstance(max_iterations, int) or isinstance(max_iterations, bool) or max_iterations < 1:
            raise InputError(f"`max_iterations` must be a whole number of at least 1, got {max_iterations!r}")
        self.tol, self.max_iterations = tol, max_iterations

    def _settle(self, once: Callable[[Tensor], Tensor], guess: Tensor) -> tuple[Tensor, Tensor | None]:
        """Iterate x1 ← once(x1); the state, and a flag if it did not settle."""
        for _ in range(self.max_iterations):
            new = once(guess)
            change = float((new - guess).detach().abs().max())
            guess = new
            if change <= self.tol * float(new.detach().abs().max()):
                return guess, None
        return guess * math.nan, torch.ones((), dtype=torch.bool, device=guess.device)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(tol={self.tol:g}, max_iterations={self.max_iterations})"


class Magnus2(_Consistent):
    """x⁺ = exp(h·(A(t, x) + A(t⁺, x⁺))/2)·x, solved for x⁺: order 2, symmetric in time, some four builds a step.

    Reference:
        Magnus (1954), doi:10.1002/cpa.3160070404.
    """

    def step(self, f: Field, t0: Time, t1: Time, x: Tensor, state: Any) -> Step:
        """Take one step."""
        h = step_size(t0, t1, x)
        generator = generator_of(f, type(self).__name__)
        start = generator(t0, x)

        def once(x1: Tensor) -> Tensor:
            return exponential(f, 0.5 * (start + generator(t1, x1)), h, x)

        x1, failed = self._settle(once, exponential(f, start, h, x))
        return Step(x1, None, functools.partial(_blend, f, start, start, h, x, x1), None, failed)


class CFM4(_Consistent):
    """x⁺ = exp(h·(b·A₁ + a·A₂))·exp(h·(a·A₁ + b·A₂))·x, A₁ and A₂ at the two Gauss points, a, b = 1/4 ± √3/6: order 4.

    The states at the Gauss points are those of the line through A₁ and A₂, iterated: two builds an iteration. (What the line
    leaves out of them is O(h³), but its two weighted parts cancel, as in the Gauss collocation method.)

    Reference:
        Alvermann & Fehske (2011), "High-order commutator-free exponential time-propagation of driven quantum systems",
        doi:10.1016/j.jcp.2011.04.006.
    """

    order = 4
    carries_memory = True

    def step(self, f: Field, t0: Time, t1: Time, x: Tensor, state: Any) -> Step:
        """Take one step; `state` holds both matrices of the step before, from which the first guess is extrapolated."""
        h = step_size(t0, t1, x)
        generator = generator_of(f, type(self).__name__)
        nodes = 0.5 - _GAUSS, 0.5 + _GAUSS
        span = t1 - t0
        if isinstance(state, History):
            slope = (state.tensor[1] - state.tensor[0]) / (nodes[1] - nodes[0]) * (h / state.h)
            pair = state.tensor[1] + (1 - nodes[1] + nodes[0]) * slope, state.tensor[1] + slope
        else:
            pair = (generator(t0, x),) * 2
        before, failed = x, torch.ones((), dtype=torch.bool, device=x.device)
        for _ in range(self.max_iterations):
            states = [exponential(f, _line(pair, nodes, c, h), h, x) for c in nodes]
            pair = generator(t0 + nodes[0] * span, states[0]), generator(t0 + nodes[1] * span, states[1])
            x1 = self._apply(f, pair, h, x)
            change = float((x1 - before).detach().abs().max())
            before = x1
            if change <= self.tol * float(x1.detach().abs().max()):
                break
        else:
            return Step(x1 * math.nan, None, functools.partial(cubic, generator, t0, t1, x, x1), None, failed)
        return Step(x1, None, functools.partial(cubic, generator, t0, t1, x, x1), History(torch.stack(pair), h))

    @staticmethod
    def _apply(f: Field, pair: tuple[Tensor, Tensor], h: Time, x: Tensor) -> Tensor:
        a, b = 0.25 + _GAUSS, 0.25 - _GAUSS
        first = exponential(f, a * pair[0] + b * pair[1], h, x)
        return exponential(f, b * pair[0] + a * pair[1], h, first)

    def memory(self, state: Any) -> tuple[Tensor, ...]:
        """Both matrices of the step before: a first guess only, but the step depends on it within `tol`."""
        return (state.tensor,) if isinstance(state, History) else ()

    def recall(self, memory: tuple[Tensor, ...], h: Time) -> Any:
        """Both matrices and the length of that step."""
        return History(memory[0], h)


class ETRS(Propagator):
    """x⁺ = exp(h/2·A(t⁺, x̃))·exp(h/2·A(t, x))·x, x̃ = exp(h·A(t, x))·x: enforced time-reversal symmetry, two builds a step.

    Reference:
        Castro, Marques & Rubio (2004), "Propagators for the time-dependent Kohn–Sham equations", doi:10.1063/1.1774980.
    """

    def step(self, f: Field, t0: Time, t1: Time, x: Tensor, state: Any) -> Step:
        """Take one step."""
        h = step_size(t0, t1, x)
        generator = generator_of(f, type(self).__name__)
        start = generator(t0, x)
        half = exponential(f, start, 0.5 * h, x)
        end = generator(t1, exponential(f, start, 0.5 * h, half))
        x1 = exponential(f, end, 0.5 * h, half)
        return Step(x1, None, functools.partial(_blend, f, start, end, h, x, x1), None)


class MMUT(Propagator):
    """x_{n+1} = exp(2h·A_n)·x_{n-1}, the modified midpoint unitary transformation: a leapfrog, one build a step.

    States with odd and with even number never meet, and the difference of the two obeys the response equation with the sign
    of the response turned round: it may grow at every h, while each state is unitary to rounding. `residyn.quantum.stability`
    tells how fast, and `residyn.quantum.propagate` refuses where it does.

    Reference:
        Li, Smith, Markevitch, Romanov, Levis & Schlegel (2005), doi:10.1039/b415849k.
    """

    carries_memory = True

    def step(self, f: Field, t0: Time, t1: Time, x: Tensor, state: Any) -> Step:
        """Take one step; `state` holds the state before x. The first step is one of the exponential midpoint."""
        h = step_size(t0, t1, x)
        generator = generator_of(f, type(self).__name__)
        matrix = generator(t0, x)
        if isinstance(state, History):
            x1 = exponential(f, matrix, h + state.h, state.tensor)
        else:
            x1 = exponential(f, generator(t0 + 0.5 * (t1 - t0), exponential(f, matrix, 0.5 * h, x)), h, x)
        return Step(x1, None, functools.partial(_blend, f, matrix, matrix, h, x, x1), History(x, h))

    def memory(self, state: Any) -> tuple[Tensor, ...]:
        """The state before."""
        return (state.tensor,) if isinstance(state, History) else ()

    def recall(self, memory: tuple[Tensor, ...], h: Time) -> Any:
        """That state and the length of the step from it."""
        return History(memory[0], h)


class CrankNicolson(Scheme):
    """(1 - h/2·A)·x⁺ = (1 + h/2·A)·x with A the mean of both ends: unitary where A is skew, order 2 with a correction.

    The mean is of matrices and not of states: that of states loses norm where phases turn fast, and A with it.

    Args:
        corrections: How often A is built at x⁺; 0 takes A(t, x) throughout and has order 1 where A changes, 1 is the
            predictor–corrector form, with two builds a step.

    Raises:
        InputError: If `corrections` is no whole number of at least 0.

    Reference:
        Crank & Nicolson (1947), doi:10.1017/S0305004100023197.
    """

    order = 2
    real_state: ClassVar[bool] = False

    def __init__(self, *, corrections: int = 1) -> None:
        if not isinstance(corrections, int) or isinstance(corrections, bool) or corrections < 0:
            raise InputError(f"`corrections` must be a whole number of at least 0, got {corrections!r}; 1 gives order 2")
        self.corrections = corrections
        self.order = 1 if corrections == 0 else 2

    def step(self, f: Field, t0: Time, t1: Time, x: Tensor, state: Any) -> Step:
        """Take one step."""
        h = step_size(t0, t1, x)
        generator = generator_of(f, type(self).__name__)
        matrix = start = generator(t0, x)
        x1 = _cayley(matrix, h, x)
        for _ in range(self.corrections):
            matrix = 0.5 * (start + generator(t1, x1))
            x1 = _cayley(matrix, h, x)
        return Step(x1, None, lambda theta: _cayley(matrix, theta * h, x), None)

    def merge(self, accept: Tensor, new: Any, old: Any) -> Any:
        """Nothing: without an error estimate all samples take every step."""
        return new

    def stability(self, z: Tensor) -> Tensor:
        """R(z) = (1 + z/2)/(1 - z/2)."""
        return (1 + 0.5 * z) / (1 - 0.5 * z)

    def __repr__(self) -> str:
        return f"CrankNicolson(corrections={self.corrections})"


def exponential(f: Any, matrix: Tensor, h: Time, x: Tensor) -> Tensor:
    """exp(h·A)·x; through the eigenvalues of i·A, three times as fast, where the field says that A is skew-Hermitian.

    A gradient takes the matrix exponential, because that of eigenvectors has no limit where eigenvalues meet.
    """
    inner = getattr(f, "f", f)
    skew = isinstance(inner, Generator) and inner.skew
    if skew and not (matrix.requires_grad or x.requires_grad):
        energies, vectors = torch.linalg.eigh(1j * matrix)
        phases = torch.exp((-1j * _per_system(h)) * energies.unsqueeze(-1))
        back = vectors.mT.conj_physical()  # a conjugate written out is faster than one that each product resolves
        if x.ndim >= matrix.ndim and x.ndim >= 2:
            return vectors @ (phases * (back @ x))
        return (vectors @ (phases * (back @ x.unsqueeze(-1)))).squeeze(-1)
    return apply_matrix(torch.linalg.matrix_exp(matrix * _per_system(h)), x)


def _per_system(h: Time) -> Time:
    return h.reshape(-1, 1, 1) if isinstance(h, Tensor) and h.ndim else h


def _cayley(matrix: Tensor, h: Time, x: Tensor) -> Tensor:
    half = 0.5 * _per_system(h) * matrix
    one = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    right = apply_matrix(one + half, x)
    if right.ndim >= matrix.ndim and right.ndim >= 2:
        return torch.linalg.solve(one - half, right)
    return torch.linalg.solve(one - half, right.unsqueeze(-1)).squeeze(-1)


def _on_line(f: Field, start: Tensor, middle: Tensor, h: Time, x: Tensor, theta: Time) -> Tensor:
    """exp(θh·A(t + θh/2))·x with A on the line through its values at the start and the middle."""
    part = _per_system(theta)
    return exponential(f, start + part * (middle - start), theta * h, x)


def _line(pair: tuple[Tensor, Tensor], nodes: tuple[float, float], c: float, h: Time) -> Tensor:
    """The first two Magnus terms to the share c of a step, over h, of the line through A₁ and A₂ at the nodes."""
    slope = (pair[1] - pair[0]) / (nodes[1] - nodes[0])
    start = pair[0] - nodes[0] * slope
    commutator = slope @ start - start @ slope
    return c * start + 0.5 * c * c * slope + _per_system(h) * (c**3 / 12) * commutator


def _blend(f: Field, first: Tensor, last: Tensor, h: Time, x: Tensor, x1: Tensor, theta: Time) -> Tensor:
    """(1 - θ)·exp(θh·A)·x + θ·exp((θ - 1)h·A⁺)·x1: right at both ends, order 2 between."""
    forwards, backwards = exponential(f, first, theta * h, x), exponential(f, last, (theta - 1) * h, x1)
    return (1 - theta) * forwards + theta * backwards


def cubic(generator: Callable[[Time, Tensor], Tensor], t0: Time, t1: Time, x: Tensor, x1: Tensor, theta: Time) -> Tensor:
    """The cubic through both ends and their slopes; builds A at both when it is asked for.

    Args:
        generator: (t, x) → A.
        t0: Start of the step.
        t1: Its end.
        x: State at the start.
        x1: State at the end.
        theta: Share of the step.

    Returns:
        The state there.
    """
    h = step_size(t0, t1, x)
    k0, k1 = apply_matrix(generator(t0, x), x), apply_matrix(generator(t1, x1), x1)
    rest = (1 - 2 * theta) * (x1 - x) + h * ((theta - 1) * k0 + theta * k1)
    return (1 - theta) * x + theta * x1 + theta * (theta - 1) * rest
