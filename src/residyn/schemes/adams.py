"""The default propagator of `residyn.quantum`: Adams' predictor and corrector in the exponent, one matrix a step."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from residyn.schemes.base import Field, Step, Time
from residyn.schemes.explicit import step_size
from residyn.schemes.exponential import generator_of
from residyn.schemes.magnus import Propagator, cubic, exponential

_FAST = 0.4
"""Gaps times h above which a matrix element is not extrapolated: a polynomial through the past cannot follow it."""
_KEPT = 3
"""Matrices of the past."""


class _Frame(NamedTuple):
    """The eigenvectors of the first h·A, and which of its elements are slow enough to extrapolate (1) or not (0)."""

    reference: Tensor
    vectors: Tensor | None
    back: Tensor | None
    slow: Tensor | None
    h: Time

    def blend(self, low: Tensor, high: Tensor) -> Tensor:
        """High order where elements are slow, low order where they are fast."""
        if self.vectors is None or self.back is None or self.slow is None:
            return high
        V, back = self.vectors, self.back
        return low + V @ (self.slow * (back @ (high - low) @ V)) @ back


class _State(NamedTuple):
    """The matrices of the past, newest first, `(k, …, n, n)`, and the frame."""

    past: Tensor
    frame: _Frame


class AdamsMagnus(Propagator):
    """x⁺ = exp(h·M)·x with M = ∫A + h·[∫(s - ½)·A, ∫A] over a cubic through A⁺ and the last three: order 4 once it runs.

    A⁺ is built once a step, at the state that the quadratic through the past predicts, and kept: predict, evaluate, correct.
    Elements of A between eigenvectors whose gap times h is large (core orbitals) are not extrapolated, but taken from the last
    matrix by the predictor, and as the mean of both ends by the corrector; that is what keeps the history from exciting them.
    The first step has one build more, and the first two are of order 2, so that the order over a whole run is 3.

    Reference:
        Blanes, Casas, Oteo & Ros (2009), "The Magnus expansion and some of its applications",
        doi:10.1016/j.physrep.2008.11.001; the predictor–corrector as in Cheng, Evans & Van Voorhis (2006),
        doi:10.1103/PhysRevB.74.155112.

    >>> from residyn.testing import check_scheme
    >>> all(finding.verdict == "pass" for finding in check_scheme(AdamsMagnus()))
    True
    """

    order = 3
    carries_memory = True

    def step(self, f: Field, t0: Time, t1: Time, x: Tensor, state: Any) -> Step:
        """Take one step; `state` holds the matrices of the past."""
        h = step_size(t0, t1, x)
        generator = generator_of(f, type(self).__name__)
        if not isinstance(state, _State) or not _same(state.frame.h, h):
            state = self._begin(generator(t0, x), h)
        past, frame = state.past, state.frame
        nodes = tuple(-k for k in range(len(past)))
        start = past[0]
        guess = start if len(past) == 1 else frame.blend(start, _magnus(nodes, past, h))
        new = generator(t1, exponential(f, guess, h, x))
        known = torch.cat([new[None], past])
        x1 = exponential(f, frame.blend(0.5 * (start + new), _magnus((1, *nodes), known, h)), h, x)
        return Step(x1, None, functools.partial(cubic, generator, t0, t1, x, x1), _State(known[:_KEPT], frame))

    def memory(self, state: Any) -> tuple[Tensor, ...]:
        """The matrices of the past, and h·A whose eigenvectors are used."""
        return (state.past, state.frame.reference) if isinstance(state, _State) else ()

    def recall(self, memory: tuple[Tensor, ...], h: Time) -> Any:
        """The same after steps of length h."""
        return _State(memory[0], _frame(memory[1], h))

    @staticmethod
    def _begin(start: Tensor, h: Time) -> _State:
        return _State(start[None], _frame(start * _per_matrix(h), h))


def _frame(turn: Tensor, h: Time) -> _Frame:
    """The frame of the Hermitian part of i·h·A; a real A has none, and is extrapolated whole."""
    if not turn.is_complex():
        return _Frame(turn, None, None, None, h)
    angles, vectors = torch.linalg.eigh(0.5j * (turn - turn.mH))
    gaps = (angles.unsqueeze(-1) - angles.unsqueeze(-2)).abs()
    vectors = vectors.contiguous()
    slow = (1 / (1 + (gaps / _FAST) ** 8)).to(vectors.dtype)
    return _Frame(turn, vectors, vectors.mT.conj_physical().contiguous(), slow, h)


def _per_matrix(h: Time) -> Time:
    return h.reshape(-1, 1, 1) if isinstance(h, Tensor) and h.ndim else h


def _same(a: Time, b: Time) -> bool:
    """Whether two steps are equally long, up to the rounding of the times."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        a, b = torch.as_tensor(a), torch.as_tensor(b)
        return bool(((a - b).abs() <= 1e-6 * b.abs()).all())
    return abs(a - b) <= 1e-6 * abs(b)


@functools.lru_cache
def _weights(nodes: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Weights of ∫₀¹ p and of ∫₀¹ (s - ½)·p for the polynomial p through values at the nodes, `(2, k)`."""
    k = len(nodes)
    V = np.vander(np.array(nodes, dtype=np.float64), k, increasing=True).T
    mean = np.linalg.solve(V, [1 / (p + 1) for p in range(k)])
    moment = np.linalg.solve(V, [1 / (p + 2) - 0.5 / (p + 1) for p in range(k)])
    return torch.tensor(np.stack([mean, moment]), dtype=dtype, device=device)


def _magnus(nodes: tuple[int, ...], matrices: Tensor, h: Time) -> Tensor:
    """The first two Magnus terms over h of the polynomial through `(k, …, n, n)`."""
    both = _weights(nodes, matrices.dtype, matrices.device) @ matrices.reshape(len(nodes), -1)
    mean, moment = both.reshape(2, *matrices.shape[1:])
    return mean + _per_matrix(h) * (moment @ mean - mean @ moment)
