"""Explicit Runge–Kutta schemes, by tableau; the residual step itself is the shortest of them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from residyn.schemes import tableaus
from residyn.schemes.base import Field, Rational, Scheme, Step, Time
from residyn.schemes.tableaus import Tableau


class ExplicitRungeKutta(Scheme):
    """x⁺ = x + h·Σ b_i·k_i with k_i = f(t + c_i·h, x + h·Σ_{j<i} a_ij·k_j).

    A subclass names its `tableau`, `order` and, if the tableau has an error estimate, `error_order`.
    """

    tableau: ClassVar[Tableau]

    def step(self, f: Field, t0: Time, t1: Time, x: Tensor, state: Any) -> Step:
        """Take one step; `state` is the `Stages` of the step that ended here, whose f(t1, x1) is this step's first stage."""
        first = f(t0, x) if state is None else state.end()
        stages = Stages(self.tableau, f, t0, t1, x, first)
        error = stages.error if self.tableau.error else None
        return Step(stages.x1, error, self._dense(stages), stages)

    def merge(self, accept: Tensor, new: Stages, old: Stages | Slope | None) -> Slope:
        """The first stage of the next step, sample by sample: f at the end of the step, or the old one where it was refused."""
        return Slope(torch.where(accept, new.end(), new.ks[0]))

    def _dense(self, stages: Stages) -> Any:
        if self.tableau.dense:
            return stages.dense
        return functools.partial(hermite, stages, self.order)

    def stability(self, z: Tensor) -> Tensor:
        """R(z) = 1 + Σ_j (bᵀ·A^(j-1)·1)·z^j."""
        return self.rational()(z)

    def rational(self) -> Rational:
        """R as a polynomial."""
        return Rational(_stability_polynomial(self.tableau))


class Slope:
    """A first stage that is known already."""

    __slots__ = ("slope",)

    def __init__(self, slope: Tensor) -> None:
        self.slope = slope

    def end(self) -> Tensor:
        """The slope."""
        return self.slope


class Stages:
    """The stages of one step, kept for its error estimate, its dense output and the first stage of the next step.

    Where samples have their own step sizes, each stage is multiplied by them once (`terms`), and `h` is 1 from there on.
    """

    __slots__ = ("_end", "_graded", "_wide", "f", "h", "ks", "span", "t0", "t1", "tableau", "terms", "x0", "x1")

    def __init__(self, tableau: Tableau, f: Field, t0: Time, t1: Time, x: Tensor, first: Tensor) -> None:
        span = t1 - t0
        self.tableau, self.f, self.t0, self.t1, self.span, self.x0 = tableau, f, t0, t1, span, x
        if isinstance(span, Tensor):  # written out once: a product of equal shapes is twice as fast as one that broadcasts
            self._wide: Tensor | None = span.to(x.dtype).expand_as(x).contiguous()
            self.h = 1.0
        else:
            self._wide, self.h = None, span
        h = self.h
        ks, terms = [first], [self.scaled(first)]
        for c, row in zip(tableau.c[1:], tableau.a[1:], strict=True):
            k = f(t1 if c == 1.0 else _between(t0, span, c), combine(x, h, row, terms))
            ks.append(k)
            terms.append(self.scaled(k))
        self.ks, self.terms = ks, terms
        self.x1 = combine(x, h, tableau.b, terms)
        self._end: Tensor | None = None
        self._graded = torch.is_grad_enabled()

    def scaled(self, k: Tensor) -> Tensor:
        """A slope as a term of a sum that `h` multiplies."""
        return k if self._wide is None else k * self._wide

    def end(self) -> Tensor:
        """f(t1, x1), computed once and only if it is wanted."""
        if self._end is None:
            if self._graded and not torch.is_grad_enabled():  # whoever asks first, as the search for an event does, without
                with torch.enable_grad():  # gradients, does not take them from the next
                    self._end = self.f(self.t1, self.x1)
            else:
                self._end = self.f(self.t1, self.x1)
        return self._end

    def _all(self, count: int) -> list[Tensor]:
        return [*self.terms, self.scaled(self.end())] if count > len(self.terms) else self.terms

    def error(self) -> Tensor:
        """h·Σ (b_i - b̂_i)·k_i, the difference to the embedded result; no gradient passes through it."""
        weights = self.tableau.error
        if len(weights) > len(self.ks):
            self.end()  # before autograd is off: the next step starts from it
        with torch.no_grad():
            return combine(None, self.h, weights, self._all(len(weights)))

    def dense(self, theta: Time) -> Tensor:
        """x0 + h·Σ b_i(θ)·k_i."""
        return self.state([_powers(row, theta) for row in self.tableau.dense])

    def state(self, weights: Sequence[Any]) -> Tensor:
        """x0 + h·Σ w_i·k_i, f at the end of the step among the k if there is a weight for it."""
        return combine(self.x0, self.h, weights, self._all(len(weights)))


def _between(t0: Time, span: Time, c: float) -> Time:
    return torch.add(t0, span, alpha=c) if isinstance(t0, Tensor) and isinstance(span, Tensor) else t0 + c * span


def step_size(t0: Time, t1: Time, x: Tensor) -> Time:
    """t1 - t0; where samples have their own, in the dtype of x."""
    h = t1 - t0
    return h.to(x.dtype) if isinstance(h, Tensor) else h


def combine(x: Tensor | None, h: Time, weights: Any, ks: list[Tensor]) -> Tensor:
    """x + h·Σ w_i·k_i, one fused multiply-add a term; weights that are zero cost nothing, x = None stands for zero.

    `h` and the weights are floats, or tensors that broadcast to x where each sample has its own.
    """
    if isinstance(h, float) and type(weights) is tuple:
        return _combine(x, h, weights, ks)
    total, owned = x, False
    for w, k in zip(weights, ks, strict=False):
        if isinstance(w, float) and w == 0.0:
            continue
        if isinstance(h, float) and isinstance(w, float):
            if total is None:
                total = k * (h * w)
            else:
                total = total.add_(k, alpha=h * w) if owned else torch.add(total, k, alpha=h * w)
        elif isinstance(h, Tensor) and isinstance(w, float):
            total = k * (h * w) if total is None else torch.addcmul(total, k, h, value=w)
        else:
            hw = h * w
            total = k * hw if total is None else torch.addcmul(total, k, hw.to(k.dtype))
        owned = True
    return torch.zeros_like(ks[0]) if total is None else total


def _combine(x: Tensor | None, h: float, weights: tuple[float, ...], ks: list[Tensor]) -> Tensor:
    """`combine` of numbers, which every stage is."""
    total, owned = x, False
    for w, k in zip(weights, ks, strict=False):
        if w == 0.0:
            continue
        if owned:  # in place once the sum is ours: half the memory traffic, and autograd saves nothing of an addition
            total.add_(k, alpha=h * w)  # type: ignore[union-attr]
        else:
            total, owned = k * (h * w) if total is None else torch.add(total, k, alpha=h * w), True
    return torch.zeros_like(ks[0]) if total is None else total


def hermite(stages: Stages, order: int, theta: Time) -> Tensor:
    """The continuous result of a scheme that has none of its own, of the scheme's order.

    Order 1 is linear; order 2 is the parabola through x0, f0 and x1; above that, cubic Hermite, made as accurate as the scheme
    by bootstrapping: evaluate f on the polynomial at interior points, fit a polynomial of higher degree to the derivatives, and
    repeat. Each round gains an order. Where the tableau knows states within, the first points are those, and the rounds
    of low order, whose errors the later ones only shrink, fall away.

    Reference:
        Enright, Jackson, Nørsett & Thomsen (1986), "Interpolants for Runge–Kutta formulas", doi:10.1145/7921.7923.
    """
    x0, x1, h, first = stages.x0, stages.x1, stages.h, stages.terms[0]
    if order <= 2:
        quadratic = torch.lerp(x0, x1, theta) if not isinstance(theta, Tensor) else x0 + theta * (x1 - x0)
        return quadratic if order == 1 else quadratic + (theta * (1 - theta)) * (h * first - (x1 - x0))
    nodes: tuple[float, ...] = (0.0, 1.0)
    slopes = [first, stages.scaled(stages.end())]
    within = stages.tableau.within
    for nodes_next in _ROUNDS[2 if within else 0 : max(order - 4, 0)]:
        if within and len(nodes) == 2:
            points = [stages.state(weights) for _, weights in within]
        else:
            fits = [_fit(nodes, theta_i) for theta_i in nodes_next[2:]]
            points = [combine(x0 + w_end * (x1 - x0), h, ws, slopes) for w_end, ws in fits]
        slopes = [
            *slopes[:2],
            *(
                stages.scaled(stages.f(stages.t0 + node * stages.span, point))
                for node, point in zip(nodes_next[2:], points, strict=True)
            ),
        ]
        nodes = nodes_next
    last, ws = _fit_tensor(nodes, theta) if isinstance(theta, Tensor) else _fit(nodes, theta)
    return combine(x0 + last * (x1 - x0), h, ws, slopes)


# Nodes at which the derivative is known after each bootstrap round; degree = nodes + 1, and each round gains one order.
_ROUNDS: tuple[tuple[float, ...], ...] = (
    (0.0, 1.0, 0.3, 0.7),
    (0.0, 1.0, 0.25, 0.75),
    (0.0, 1.0, 0.15, 0.4, 0.65, 0.9),
    (0.0, 1.0, 0.2, 0.45, 0.7, 0.85),
)


@functools.lru_cache(maxsize=64)
def _basis(nodes: tuple[float, ...]) -> np.ndarray:
    """Monomial coefficients of p(θ) with p(0) = 0, p(1) = first datum, p'(node_i) = the others."""
    degree = len(nodes) + 1
    powers = np.arange(1, degree + 1)
    rows = [np.ones(degree), *(powers * np.power(node, powers - 1) for node in nodes)]
    return np.linalg.inv(np.array(rows, dtype=np.float64))


def _fit(nodes: tuple[float, ...], theta: float) -> tuple[float, list[float]]:
    """Weights at θ of (x1 - x0) and of h·(slope at each node)."""
    row = theta ** np.arange(1, len(nodes) + 2) @ _basis(nodes)
    return float(row[0]), [float(w) for w in row[1:]]


def _fit_tensor(nodes: tuple[float, ...], theta: Tensor) -> tuple[Tensor, list[Tensor]]:
    columns = [_powers(tuple(column), theta) for column in _basis(nodes).T.tolist()]
    return columns[0], columns[1:]


def _powers(row: tuple[float, ...], theta: Any) -> Any:
    """Σ_j row[j]·θ^(j+1), by Horner."""
    value = row[-1] * theta
    for coefficient in reversed(row[:-1]):
        value = (value + coefficient) * theta
    return value


@functools.lru_cache(maxsize=64)
def _stability_polynomial(tableau: Tableau) -> tuple[float, ...]:
    return tableau.stability_polynomial()


class Euler(ExplicitRungeKutta):
    """Forward Euler, order 1: x⁺ = x + h·f(t, x), the residual step itself."""

    order = 1
    tableau = tableaus.EULER


class Midpoint(ExplicitRungeKutta):
    """Explicit midpoint, order 2: x⁺ = x + h·f(t + h/2, x + h/2·f(t, x))."""

    order = 2
    tableau = tableaus.MIDPOINT


class Heun(ExplicitRungeKutta):
    """Heun's scheme (explicit trapezoid), order 2, with Euler embedded: 2(1)."""

    order = 2
    error_order = 1
    tableau = tableaus.HEUN


class RK4(ExplicitRungeKutta):
    """The classical scheme of Kutta (1901), order 4, four stages."""

    order = 4
    tableau = tableaus.RK4


class Bosh3(ExplicitRungeKutta):
    """Bogacki–Shampine 3(2), doi:10.1016/0893-9659(89)90079-7."""

    order = 3
    error_order = 2
    tableau = tableaus.BOSH3


class Tsit5(ExplicitRungeKutta):
    """Tsitouras 5(4), doi:10.1016/j.camwa.2011.06.002."""

    order = 5
    error_order = 4
    tableau = tableaus.TSIT5


class Dopri5(ExplicitRungeKutta):
    """Dormand–Prince 5(4), doi:10.1016/0771-050X(80)90013-3."""

    order = 5
    error_order = 4
    tableau = tableaus.DOPRI5


class Dopri8(ExplicitRungeKutta):
    """Prince–Dormand 8(7), thirteen stages, doi:10.1016/0771-050X(81)90010-3."""

    order = 8
    error_order = 7
    tableau = tableaus.DOPRI8
