"""Events that were met, with the gradients of their times and states by the implicit function theorem."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from residyn.schemes.event import Event
from residyn.schemes.problem import Report
from residyn.state import State

if TYPE_CHECKING:
    from residyn.schemes.problem import Leg, Problem


@dataclass(frozen=True)
class Occurrence:
    """One event that was met, by all, or by some of the samples.

    Args:
        t: When; one number, or `(m,)` for m samples.
        x: The state then; of the shape of x0, with m samples for `(m,)` times.
        which: Index of the event in what was asked for.
        samples: Which samples, `(m,)`; `None` where the steps are shared.
        terminal: Whether it ended the march (of those samples).
    """

    t: Tensor
    x: State
    which: int
    samples: Tensor | None
    terminal: bool


def occurrences(problem: Problem, events: tuple[Event, ...], x: Tensor) -> tuple[Tensor, list[Occurrence]]:
    """Take the events out of what a march reported.

    Args:
        problem: The march; its legs say which reports are events.
        events: What was watched for.
        x: All values, in the order of the march, or by slot where samples have times of their own.

    Returns:
        The values at the times that were asked for, and the events in the order in which they were met.
    """
    own = isinstance(problem.times[0], Tensor)
    found, plain, position = [], [0], 0
    for leg in problem.legs:
        for report in leg.reports:
            position += 1
            if report.event is None:
                plain.append(position)
                continue
            if report.rows is None:
                state = x[position]
            else:
                assert isinstance(report.slot, Tensor)
                state = x[int(report.slot[0])][report.rows]
            found.append(_occurrence(problem, events[report.event], leg, report, state))
    kept = x[: len(problem.times)] if own else x[torch.tensor(plain, device=x.device)]
    return kept, found


def _occurrence(problem: Problem, event: Event, leg: Leg, report: Report, x: Tensor) -> Occurrence:
    f = problem.f
    t: Any = leg.t0 + report.theta * (leg.t1 - leg.t0)
    whole = x
    if report.rows is not None:  # a condition looks at all samples, so the others stand beside these
        whole = problem.x0.detach().index_put((report.rows,), x)
    time = f.time(t)
    if not isinstance(t, Tensor):
        time = torch.scalar_tensor(t, dtype=torch.float64, device=x.device)
    if torch.is_grad_enabled():
        time, whole = _attach(problem, event, time, whole)
    if report.rows is not None:
        time, whole = time.reshape(-1)[report.rows], whole[report.rows]
    assert report.event is not None
    layout = f.layout
    state = whole if layout is None else layout.unpack(whole)
    return Occurrence(time, state, report.event, report.rows, event.terminal)


def _attach(problem: Problem, event: Event, time: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Time and state, unchanged in value, with dt = -(∂g/∂θ + ∂g/∂x·∂x/∂θ)/(∂g/∂t + ∂g/∂x·f) and f·dt added to that of x."""
    f = problem.f
    shown = f.time(time)
    with torch.no_grad():
        slope = f(shown, x)
    t, y = shown.detach().clone().requires_grad_(), x.detach().requires_grad_()
    value = event.value(f, t, y)
    if not value.requires_grad:
        return time, x
    by_t, by_x = torch.autograd.grad(value.sum(), (t, y), allow_unused=True)
    speed = torch.zeros_like(shown) if by_t is None else by_t
    if by_x is not None:
        product = by_x.conj() * slope
        product = product.real if product.is_complex() else product
        axes = tuple(range(1, x.ndim))
        if not shown.ndim:
            speed = speed + product.sum()
        else:
            speed = speed + (product.sum(axes, keepdim=True) if axes else product)
    g = event.value(f, shown, x).reshape(shown.shape)
    zero = g - g.detach()
    # where the condition does not move with time, as at a start at rest, its time is not moved by anything either
    moved = -zero / torch.where(speed == 0, math.inf, speed)
    return time + moved.to(time.dtype), x + moved.to(x.dtype) * slope
