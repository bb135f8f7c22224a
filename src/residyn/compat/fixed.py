"""Marches over a given grid of times, with torchdiffeq's options: step size or constructor, perturbation, interpolation."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from residyn.compat.inputs import Field, Inputs, Nudged, Time
from residyn.compat.located import Interval
from residyn.schemes.explicit import combine
from residyn.schemes.tableaus import Tableau

OPTIONS = ("norm", "step_size", "grid_constructor", "interp", "perturb")
_MOST_STEPS = 20_000  # in search of an event


class OneStep(Protocol):
    """How one step of a grid is taken; an instance serves one march and may remember."""

    def __call__(self, f: Callable[[Time, Tensor], Tensor], t0: Time, t1: Time, y0: Tensor, f0: Tensor) -> Tensor:
        """The state at t1 from that at t0 and f there."""


@dataclass(frozen=True)
class Explicit:
    """One step of an explicit Runge–Kutta scheme."""

    tableau: Tableau

    def __call__(self, f: Callable[[Time, Tensor], Tensor], t0: Time, t1: Time, y0: Tensor, f0: Tensor) -> Tensor:
        """The state at t1; the change is summed first, so that the state itself is rounded once a step."""
        h = t1 - t0
        weight = h.to(y0.dtype) if isinstance(h, Tensor) else h
        ks = [f0]
        for c, row in zip(self.tableau.c[1:], self.tableau.a[1:], strict=True):
            ks.append(f(t1 if c == 1.0 else t0 + c * h, combine(y0, weight, row, ks)))
        return y0 + combine(None, weight, self.tableau.b, ks)


class Taken(NamedTuple):
    """A step of the grid."""

    f: Callable[[Time, Tensor], Tensor]
    t0: Time
    t1: Time
    y0: Tensor
    f0: Tensor
    y1: Tensor

    def dense(self, interp: str, f: Field) -> Callable[[Time], Tensor]:
        """The state at a fraction of the step: on the chord, or on the cubic with f at both ends."""
        if interp == "linear":
            return lambda theta: self.y0 + theta * (self.y1 - self.y0)
        f1 = f(self.t1, self.y1)
        return functools.partial(self._cubic, f1)

    def _cubic(self, f1: Tensor, theta: Time) -> Tensor:
        h, rest = self.t1 - self.t0, 1 - theta
        bend = rest * rest * theta * h * self.f0 - rest * theta * theta * h * f1
        return (1 + 2 * theta) * rest * rest * self.y0 + theta * theta * (3 - 2 * theta) * self.y1 + bend


@dataclass
class Grid:
    """A march over a grid.

    Args:
        inputs: The call.
        one: How a step is taken.
    """

    inputs: Inputs
    one: OneStep

    def __post_init__(self) -> None:
        options = self.inputs.options
        self.interp = options.get("interp", "linear")
        if self.interp not in ("linear", "cubic"):
            raise ValueError(f'Unknown interpolation method {self.interp}; must be "linear" or "cubic"')
        self.size = options.get("step_size")
        if self.size is not None and options.get("grid_constructor") is not None:
            raise ValueError("step_size and grid_constructor are mutually exclusive arguments.")

    def _steps(self, times: Iterator[Time], y: Tensor, *, tell: bool = True) -> Iterator[Taken]:
        inputs, nudged = self.inputs, bool(self.inputs.options.get("perturb", False))
        t0 = next(times)
        for t1 in times:
            f: Any = Nudged(inputs.f, t0, t1) if nudged else inputs.f
            if tell:
                inputs.callbacks("callback_step", t0, y, t1 - t0)
            f0 = f(t0, y)
            y1 = self.one(f, t0, t1, y, f0)
            yield Taken(f, t0, t1, y, f0, y1)
            t0, y = t1, y1

    def integrate(self, y0: Tensor, t: Tensor) -> Tensor:
        """The state at each of the times, `(n, *shape)`; its gradient by them is that of the steps."""
        if len(t) == 1:
            return y0[None]
        grid = self._grid(y0, t)
        moved = grid.requires_grad and torch.is_grad_enabled()
        times: list[Any] = list(grid.unbind()) if moved else grid.tolist()
        wanted, slot = t.tolist(), 1
        sign = 1.0 if wanted[-1] > wanted[0] else -1.0
        values = [y0]
        for taken in self._steps(iter(times), y0):
            end = _number(taken.t1)
            dense: Callable[[Time], Tensor] | None = None
            while slot < len(wanted) and sign * (end - wanted[slot]) >= 0:
                if wanted[slot] == end:
                    values.append(taken.y1)
                else:
                    dense = dense or taken.dense(self.interp, self.inputs.f)
                    at: Any = t[slot] if t.requires_grad and torch.is_grad_enabled() else wanted[slot]
                    theta = (at - taken.t0) / (taken.t1 - taken.t0)
                    values.append(dense(theta.to(self.inputs.f.time_dtype) if isinstance(theta, Tensor) else theta))
                slot += 1
        return torch.stack(values)

    def _grid(self, y0: Tensor, t: Tensor) -> Tensor:
        constructor = self.inputs.options.get("grid_constructor")
        if self.size is not None:
            if not float(self.size) > 0:
                raise RuntimeError(f"step_size must be > 0, got {self.size}; the times say in which direction to go")
            span = (t[-1] - t[0]).detach()
            count = math.ceil(abs(float(span)) / float(self.size))
            size = math.copysign(float(self.size), float(span))
            inner = torch.arange(count, dtype=t.dtype, device=t.device) * size + t[0]
            return torch.cat([inner, t[-1:]])
        if constructor is None:
            return t
        grid: Tensor = constructor(self.inputs.f, y0, t)
        if not (bool(grid[0] == t[0]) and bool(grid[-1] == t[-1])):
            raise AssertionError(f"grid_constructor must return a grid from t[0] = {t[0]} to t[-1] = {t[-1]}, got {grid}")
        return grid

    def until(self, event: Callable[[Tensor, Tensor], Tensor], y0: Tensor, start: float, sign: float) -> tuple[Tensor, Tensor]:
        """Time and state where the event's value changes sign for the first time."""
        if self.size is None:
            raise AssertionError(
                "Event handling for fixed step solvers currently requires `step_size` to be provided in options."
            )
        size = sign * float(self.size)
        interval = Interval(event, start, y0)
        if interval.value == 0:
            return interval.time(start), y0
        times = (start + i * size for i in range(_MOST_STEPS + 1))
        for taken in self._steps(times, y0, tell=False):
            t0, t1 = _number(taken.t0), _number(taken.t1)
            found = interval.crossing(t0, t1, taken.y1, taken.dense(self.interp, self.inputs.f))
            if found is not None:
                return found
        raise RuntimeError(f"Reached maximum number of iterations {_MOST_STEPS}.")


def _number(t: Time) -> float:
    return t if isinstance(t, float) else float(t.detach())
