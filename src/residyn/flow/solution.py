"""What a solve returns, and the state at any other time from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from residyn.display import card
from residyn.errors import InputError
from residyn.gradients.occurrence import Occurrence
from residyn.results import Outcome
from residyn.schemes.problem import Problem, Stats
from residyn.state import Layout, State, leaves, rebuild


@dataclass(frozen=True)
class Solution:
    """What `solve` returns.

    Args:
        t: The times reached, `(n,)` or `(n, B)`; cut where the solve ended early.
        x: The state at each, `(n, *x0.shape)`, in the structure of x0.
        stats: What it cost.
        outcome: How it ended.
        events: The events that were met, in order. A terminal one of shared steps is also the last of `t` and `x`; where
            samples have steps of their own, what they would have reported after theirs is nan.
    """

    t: Tensor
    x: State
    stats: Stats
    outcome: Outcome
    events: tuple[Occurrence, ...] = ()
    _problem: Problem | None = field(default=None, repr=False)

    @property
    def event(self) -> Occurrence | None:
        """The terminal event that ended the solve; `None` if none did, or if samples ended on their own (see `events`)."""
        return next((item for item in self.events if item.terminal and item.samples is None), None)

    def _repr_html_(self) -> str:
        shapes = [tuple(leaf.shape) for leaf in leaves(self.x)]
        rows: list[tuple[str, object]] = [
            ("outcome", str(self.outcome)),
            ("times", len(self.t)),
            ("last time", float(self.t[-1].max()) if len(self.t) else None),
            ("states", ", ".join(map(str, shapes))),
            *vars(self.stats).items(),
        ]
        return card("Solution", rows)

    def interpolate(self, t: float | Sequence[float] | Tensor) -> State:
        """The state at other times, from the scheme's own continuous form.

        The steps that were accepted are taken again (none is kept), once for all times asked; differentiable.

        Args:
            t: A time, or a one-dimensional sequence of times, in any order, within the span that was solved.

        Returns:
            The state, `(*x0.shape)` for one time, `(m, *x0.shape)` for a sequence.

        Raises:
            InputError: If a time lies outside the span, or the samples had times of their own.
        """
        problem = self._problem
        if problem is None or not problem.legs or any(isinstance(leg.t0, Tensor) for leg in problem.legs):
            raise InputError(
                "`interpolate` must be asked of a solve with shared steps, got one with steps a sample, or of a linear branch "
                "in closed form; report the times in `t` instead"
            )
        wanted = torch.as_tensor(t, dtype=torch.float64)
        times = wanted.flatten().tolist()
        start, end = problem.times[0], problem.legs[-1].t1
        if problem.outcome.kind == "event":
            end = problem.outcome.t
        low, high = min(start, end), max(start, end)
        for time in times:
            if not low <= time <= high:
                raise InputError(f"`t` must lie in the span solved, [{low:.6g}, {high:.6g}], got {time:.6g}")
        found = _walk(problem, times)
        packed = torch.stack([found[i] for i in range(len(times))])
        layout = problem.f.layout
        states = packed if layout is None else layout.unpack(packed)
        return states if wanted.ndim else _first(states, layout)


def _walk(problem: Problem, times: list[float]) -> dict[int, Tensor]:
    """The state at each time, by taking the legs again."""
    sign = 1.0 if problem.legs[-1].t1 >= problem.times[0] else -1.0
    order = sorted(range(len(times)), key=lambda i: sign * times[i])
    found: dict[int, Tensor] = {}
    x, state = problem.x0, problem.scheme.init(problem.f, problem.times[0], problem.x0)
    for leg in problem.legs:
        step = problem.scheme.step(problem.f, leg.t0, leg.t1, x, state)
        while order and sign * times[order[0]] <= sign * leg.t1:
            i = order.pop(0)
            theta = (times[i] - leg.t0) / (leg.t1 - leg.t0)
            found[i] = x if theta == 0.0 else step.x if theta == 1.0 else step.dense(theta)
        if not order:
            break
        x, state = step.x, step.state
    return found


def _first(states: State, layout: Layout | None) -> State:
    items = [leaf[0] for leaf in leaves(states)]
    return items[0] if layout is None else rebuild(states, items)
