"""Where a condition on the way changes sign: what to watch for, and the watch that is kept while marching."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.results import Outcome
from residyn.roots.bracket import bracket
from residyn.schemes.base import Time
from residyn.schemes.problem import Leg, Report, Rhs, Taken

if TYPE_CHECKING:
    from residyn.schemes.problem import Problem


@dataclass(frozen=True)
class Event:
    """A condition g(t, x, *args) that is watched; the event lies where it changes sign.

    It is located on the step's continuous result, to rounding. A sign that changes twice within one step is not seen;
    `max_step` bounds the steps. A march that begins with g = 0, as one does after a bounce, does not begin with an event.

    Args:
        condition: g, called as f is; returns a tensor with one number, or with one a sample, `(B,)`, where samples have
            steps of their own.
        terminal: Whether the march ends there (that of the sample, where samples have steps of their own).
        direction: 1 for a sign that changes from - to + in the direction of the march, -1 for + to -, 0 for both.

    Raises:
        InputError: If `direction` is none of these.

    Reference:
        Chen, Amos & Nickel (2021), "Learning Neural Event Functions for Ordinary Differential Equations", arXiv:2011.03902.

    >>> Event(lambda t, x: x[0], direction=-1).terminal
    True
    """

    condition: Callable[..., Tensor]
    terminal: bool = field(default=True, kw_only=True)
    direction: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if not callable(self.condition):
            raise InputError(f"`condition` must be callable as condition(t, x), got {type(self.condition).__name__}")
        if self.direction not in (-1, 0, 1):
            raise InputError(f"`direction` must be -1, 0 or 1, got {self.direction!r}")

    def value(self, f: Rhs, t: Tensor, x: Tensor) -> Tensor:
        """g, one number, or `(B,)`."""
        state = x if f.layout is None else f.layout.unpack(x)
        return torch.as_tensor(self.condition(t, state, *f.args))

    def begin(self, value: Tensor) -> Tensor:
        """The value to begin with."""
        return value


@dataclass(frozen=True)
class SteadyState(Event):
    """The event that nothing changes any more: ‖f‖ - (rtol·‖x‖ + atol) falls through zero; root mean squares.

    Args:
        rtol: Of the state.
        atol: Absolute.
    """

    condition: Callable[..., Tensor] = field(default=torch.zeros_like, init=False)
    rtol: float = 1e-3
    atol: float = 1e-6

    def __post_init__(self) -> None:
        if not (self.rtol >= 0 and self.atol >= 0 and self.rtol + self.atol > 0):
            raise InputError(f"`rtol` and `atol` must be ≥ 0 and not both 0, got {self.rtol}, {self.atol}")

    def value(self, f: Rhs, t: Tensor, x: Tensor) -> Tensor:
        """‖f(t, x)‖ - (rtol·‖x‖ + atol), of each sample where samples have steps of their own."""
        slope = f(t, x)
        count = len(x) if t.ndim else 1
        norms = [torch.linalg.vector_norm(v.reshape(count, -1), dim=1) for v in (slope, x)]
        value = (norms[0] - self.rtol * norms[1]) / math.sqrt(x.numel() / count) - self.atol
        return value if t.ndim else value[0]

    def begin(self, value: Tensor) -> Tensor:
        """Above zero, so that a march that begins at rest ends at once."""
        return value.clamp(min=torch.finfo(value.dtype).tiny)


def steady_state(rtol: float = 1e-3, atol: float = 1e-6) -> SteadyState:
    """A terminal event: the march ends where ‖f(t, x)‖ ≤ rtol·‖x‖ + atol.

    Args:
        rtol: Relative to the norm of the state.
        atol: Absolute.

    Returns:
        The event, for `solve(..., event=...)`.

    Raises:
        InputError: If a tolerance is negative, or both are zero.

    >>> steady_state(rtol=1e-4).terminal
    True
    """
    return SteadyState(rtol=rtol, atol=atol, direction=-1)


class Watch:
    """Looks at each step for events, turns them into reports of the step, and says when the march is over.

    Args:
        problem: The march.
        events: What to look for.
    """

    def __init__(self, problem: Problem, events: Sequence[Event]) -> None:
        self.problem, self.events = problem, events
        self.own = isinstance(problem.times[0], Tensor)
        self.values: list[Tensor] = []

    @torch.no_grad()
    def begin(self, x: Tensor) -> None:
        """Forget what was seen; look at the start."""
        problem = self.problem
        problem.extra, problem.stopped = 0, None
        start = problem.times[0]
        self.values = [event.begin(self._at(event, start, x)) for event in self.events]

    def _at(self, event: Event, t: Time, x: Tensor) -> Tensor:
        """The values `(B,)`, or `(1,)`, in double precision."""
        f = self.problem.f
        value = event.value(f, f.time(t), x).detach()
        want = len(x) if self.own else 1
        if value.numel() != want or value.ndim > 1:
            hint = "; for one a sample give the samples steps of their own: Adaptive(per_sample=True)" if want == 1 else ""
            raise InputError(f"`condition` must return {want} number(s), got shape {tuple(value.shape)}{hint}")
        if value.is_complex():
            raise InputError(f"`condition` must be real, got {value.dtype}; take .real or .abs()")
        return value.reshape(want).to(torch.float64)

    @torch.no_grad()
    def see(self, taken: Taken) -> tuple[Taken, bool]:
        """The step with what happened in it among its reports, and whether the march is over."""
        leg, _, x1, *_ = taken
        crossed = []
        for i, event in enumerate(self.events):
            before = self.values[i]
            after = self._at(event, leg.t1, x1)
            if leg.accept is not None:
                after = torch.where(leg.samples(), after, before)
            self.values[i] = after
            crossing = (before != 0) & (torch.sign(after) != torch.sign(before)) & ~torch.isnan(after)
            if event.direction:
                crossing &= (after - before) * event.direction > 0
            if self.own and self.problem.stopped is not None:
                crossing &= ~self.problem.stopped.flatten()
            if bool(crossing.any()):
                crossed.append((i, crossing, self._locate(event, taken, before, after, crossing)))
        if not crossed:
            return taken, False
        return self._own(taken, crossed) if self.own else self._shared(taken, crossed)

    def _locate(self, event: Event, taken: Taken, before: Tensor, after: Tensor, crossing: Tensor) -> Tensor:
        """θ of the event in the step, `(B,)` or `(1,)`; 1 where there is none."""
        zero = torch.zeros_like(before)
        ends = torch.where(crossing, before, 1.0), torch.where(crossing, after, zero)
        return bracket(functools.partial(self._along, event, taken), zero, zero + 1, *ends)

    def _along(self, event: Event, taken: Taken, theta: Tensor) -> Tensor:
        leg = taken.leg
        at: Time = self._theta(theta, leg) if self.own else float(theta)
        return self._at(event, leg.t0 + at * (leg.t1 - leg.t0), taken.step.dense(at))

    def _theta(self, theta: Tensor, leg: Leg) -> Tensor:
        assert isinstance(leg.t0, Tensor)
        x = self.problem.x0
        return theta.to(x.dtype.to_real() if x.is_complex() else x.dtype).view_as(leg.t0)

    def _shared(self, taken: Taken, crossed: list[tuple[int, Tensor, Tensor]]) -> tuple[Taken, bool]:
        problem, leg = self.problem, taken.leg
        found = sorted(((float(theta), i) for i, _, theta in crossed), key=lambda item: item[0])
        last = next((n for n, (_, i) in enumerate(found) if self.events[i].terminal), None)
        over = last is not None
        found = found[: last + 1] if last is not None else found
        # a time to report that is the event's own is reported too
        reports = [report for report in leg.reports if not over or report.theta <= found[-1][0]]
        reports += [Report(-1, theta, event=i) for theta, i in found]
        reports.sort(key=lambda report: float(report.theta))  # stable: a report stays before the event at its time
        if over:
            theta, i = found[-1]
            t = leg.t0 + theta * (leg.t1 - leg.t0)
            problem.outcome = Outcome("event", f"event {i} at t = {t:.6g}", t=float(t))
        return taken._replace(leg=leg._replace(reports=tuple(reports))), over

    def _own(self, taken: Taken, crossed: list[tuple[int, Tensor, Tensor]]) -> tuple[Taken, bool]:
        problem, leg = self.problem, taken.leg
        stop = torch.full_like(crossed[0][2], math.inf)  # θ of the first terminal event of each sample
        for i, crossing, theta in crossed:
            if self.events[i].terminal:
                stop = torch.where(crossing, torch.minimum(stop, theta), stop)
        reports = []
        for report in leg.reports:
            assert isinstance(report.slot, Tensor)
            assert report.rows is not None
            at = report.theta.flatten()[report.rows] if isinstance(report.theta, Tensor) else report.theta
            keep = at <= stop[report.rows]
            reports.append(report._replace(slot=report.slot[keep], rows=report.rows[keep]))
        taken_by = torch.zeros_like(stop, dtype=torch.bool)
        for i, crossing, theta in crossed:
            mine = crossing & (theta <= stop) & ~(taken_by & (theta == stop))
            taken_by |= mine & (theta == stop)
            rows = mine.nonzero()[:, 0]
            if len(rows):
                slot = torch.full_like(rows, len(problem.times) + problem.extra)
                reports.append(Report(slot, self._theta(theta, leg), rows, i))
                problem.extra += 1
        ended = torch.isfinite(stop).view_as(leg.t0) if isinstance(leg.t0, Tensor) else None
        assert ended is not None
        problem.stopped = ended if problem.stopped is None else problem.stopped | ended
        count = int(problem.stopped.sum())
        if count:
            problem.outcome = Outcome("event", f"{count} of {problem.stopped.numel()} samples met a terminal event")
        return taken._replace(leg=leg._replace(reports=tuple(reports))), count == problem.stopped.numel()
