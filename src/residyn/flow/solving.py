"""`solve`: one field repeated over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from residyn.branch import Autonomous, Spectral
from residyn.errors import InputError, SolveError
from residyn.flow.arguments import events_of, problem_of, times_of
from residyn.flow.solution import Solution
from residyn.gradients.base import GradientMode
from residyn.gradients.occurrence import Occurrence, occurrences
from residyn.gradients.replay import Replay
from residyn.schemes import failure
from residyn.schemes.base import Scheme
from residyn.schemes.collapse import collapse
from residyn.schemes.control import Control, Fixed
from residyn.schemes.event import Event, Watch
from residyn.schemes.explicit import Dopri5, ExplicitRungeKutta
from residyn.schemes.problem import Problem
from residyn.state import State, leaves, ordinary, rebuild


def solve(
    f: Callable[..., Any],
    x0: State,
    t: Tensor | Sequence[float],
    *,
    args: tuple[Any, ...] = (),
    scheme: Scheme | None = None,
    control: Control | None = None,
    gradient: GradientMode | None = None,
    event: Event | Sequence[Event] | None = None,
    compile: Literal["step", "solve"] | None = None,
    throw: bool = True,
) -> Solution:
    """Solve x' = f(t, x, *args) from x(t[0]) = x0 and report x at each of the times.

    Args:
        f: The field. It gets the time as a tensor without axes (or `(B, 1, …)` where each sample has its own) and the state,
            and returns dx/dt in the same structure, shapes and dtype. A branch F(x) becomes one by `autonomous`.
        x0: A tensor, or a tuple or dict of them, real or complex; on any device, which is kept.
        t: Times to report, the first one the start, strictly increasing or decreasing, `(n,)`; or `(B, n)` with times for each
            sample of x0 `(B, …)`. If it wants a gradient it gets that of the exact flow, ∂x/∂t = f.
        args: Further arguments of f; tensors in it get gradients.
        scheme: How a step is taken; `Dopri5()` if not given.
        control: How long steps are; `Adaptive()` if not given and the scheme has an error estimate.
        gradient: How the gradient comes back; `Replay()` if not given.
        event: What to watch for on the way, and whether to end there; times and states of events have gradients.
        compile: `"step"` for one compiled function a step, `"solve"` for the whole solve and its gradient as compiled loops;
            the same steps are taken. The first solve of a kind compiles, for 10 to 60 seconds; see docs/compiled.md.
        throw: Whether a numerical failure is raised; otherwise it is in the `outcome`, with what was solved before it.

    Returns:
        Times, states, statistics and outcome.

    Raises:
        InputError: If an argument breaks its rule.
        SolveError: If the solve fails and `throw` is set; it names time, step, component and a fix.

    >>> solution = solve(lambda t, x: -x, torch.ones(1, dtype=torch.float64), [0.0, 1.0])
    >>> round(float(solution.x[-1]), 5)
    0.36788
    """
    scheme = Dopri5() if scheme is None else scheme
    if torch.is_inference_mode_enabled() and not isinstance(scheme, ExplicitRungeKutta):
        # its equations are solved by derivatives, which inference mode has not
        more = {"control": control, "gradient": gradient, "event": event, "compile": compile, "throw": throw}
        with torch.inference_mode(False), torch.no_grad():
            return solve(f, ordinary(x0), ordinary(t), args=ordinary(args), scheme=scheme, **more)  # type: ignore[arg-type]
    times = times_of(t)
    problem = problem_of(f, x0, times, args, scheme, control)
    gradient = Replay() if gradient is None else gradient
    if not isinstance(gradient, GradientMode):
        raise InputError(f"`gradient` must be a gradient mode such as Replay(), got {gradient!r}; pass an instance")
    watched = events_of(event)
    march = gradient.march if compile is None else _compiled(problem, compile, gradient, watched)
    collapsed = None if times.requires_grad or watched else _collapsed(problem)
    met: list[Occurrence] = []
    if collapsed is None:
        x, met = _marched(problem, march, watched, times)
    else:
        x = collapsed
    reported = (times.T if times.ndim == 2 else times)[: len(x)]
    states = x if problem.f.layout is None else problem.f.layout.unpack(x)
    if met and met[-1].terminal and met[-1].samples is None:
        reported, states = _append(reported, states, met[-1])
    kept = problem if collapsed is None else None
    solution = Solution(reported, states, problem.stats, problem.outcome, tuple(met), kept)
    if throw and not problem.outcome.ok:
        raise SolveError(problem.outcome)
    return solution


def _marched(
    problem: Problem, march: Callable[[Problem], Tensor], watched: tuple[Event, ...], times: Tensor
) -> tuple[Tensor, list[Occurrence]]:
    """The reported states and the events, with their gradients; those by the times too, if they want any."""
    met: list[Occurrence] = []
    start = problem.x0
    if times.requires_grad:
        problem.x0 = _shift_start(problem, times)
    problem.watch = Watch(problem, watched) if watched else None
    x = march(problem)
    if watched:
        x, met = occurrences(problem, watched, x)
    return (_shift_reports(problem, times, x, start) if times.requires_grad else x), met


def _compiled(
    problem: Problem, tier: Literal["step", "solve"], gradient: GradientMode, watched: tuple[Event, ...]
) -> Callable[[Problem], Tensor]:
    """The march of a compiled tier."""
    from residyn.compiled.march import check, march

    check(problem, tier, gradient, watched)
    return lambda problem: march(problem, tier, gradient)


def _append(times: Tensor, states: State, end: Occurrence) -> tuple[Tensor, State]:
    """Times and states with those of the event that ended the solve."""
    items = [torch.cat([a, b[None]]) for a, b in zip(leaves(states), leaves(end.x), strict=True)]
    return torch.cat([times.to(end.t), end.t[None]]), rebuild(states, items)


def _collapsed(problem: Problem) -> Tensor | None:
    """All reported states in closed form, where the branch knows its eigenvalues and the steps are equal."""
    f, control = problem.f, problem.control
    if not (isinstance(f.f, Autonomous) and isinstance(f.f.branch, Spectral) and isinstance(control, Fixed)):
        return None
    if f.args or f.layout is not None or isinstance(problem.times[0], Tensor) or not problem.scheme.linear:
        return None
    states = [problem.x0]
    for start, end in zip(problem.times, problem.times[1:], strict=False):
        states.append(collapse(f.f.branch, problem.scheme, (end - start) / control.steps, control.steps, states[-1]))
    x = torch.stack(states)
    if not failure.finite(x):
        first = next(i for i, state in enumerate(states) if not failure.finite(state))
        h = (problem.times[first] - problem.times[first - 1]) / control.steps
        problem.outcome = failure.overflow(problem, problem.times[first - 1], h, states[first])
        x = x[:first]
    problem.stats.accepted = control.steps * (len(x) - 1)
    return x


def _shift_start(problem: Problem, t: Tensor) -> Tensor:
    """x0 with the gradient ∂x/∂t0 = -(∂x/∂x0)·f(t0, x0) attached; the value is unchanged."""
    first = _column(t, 0, problem.x0)
    return problem.x0 - (first - first.detach()) * problem.f(problem.times[0], problem.x0)


def _shift_reports(problem: Problem, t: Tensor, x: Tensor, x0: Tensor) -> Tensor:
    """Reported states with the gradient ∂x/∂t = f(t, x) attached; values unchanged."""
    shifted = [x0]
    for i in range(1, len(x)):
        time = _column(t, i, x0)
        shifted.append(x[i] + (time - time.detach()) * problem.f(problem.times[i], x[i]))
    return torch.stack(shifted)


def _column(t: Tensor, i: int, x: Tensor) -> Tensor:
    time = t[..., i].to(x.device, x.dtype)
    return time.reshape(-1, *[1] * (x.ndim - 1)) if t.ndim == 2 else time
