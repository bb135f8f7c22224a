"""The compiled tiers as `solve` asks for them: checks, the fall-back to the eager tier, and the march."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from torch import Tensor

from residyn.compiled import dense, forward
from residyn.compiled.backward import Solved
from residyn.compiled.build import UntraceableError, has_compiler
from residyn.compiled.field import find
from residyn.compiled.run import Kit, Legs, Run
from residyn.errors import InputError, ResidynWarning
from residyn.gradients.base import GradientMode
from residyn.gradients.replay import Replay
from residyn.schemes.control import Adaptive, Fixed
from residyn.schemes.explicit import ExplicitRungeKutta
from residyn.schemes.problem import Problem
from residyn.state import inside_transform

Tier = Literal["step", "solve"]


def check(problem: Problem, tier: Any, gradient: GradientMode, watched: tuple[Any, ...]) -> None:
    """See that the solve is one that the compiled tiers know.

    Raises:
        InputError: If it is not.
    """
    if tier not in ("step", "solve"):
        raise InputError(f"`compile` must be 'step', 'solve' or None, got {tier!r}")
    got = None
    if not isinstance(problem.scheme, ExplicitRungeKutta):
        got = f"{type(problem.scheme).__name__}; choose an explicit scheme such as Dopri5()"
    elif not isinstance(problem.control, (Adaptive, Fixed)):
        got = f"{type(problem.control).__name__}; choose Adaptive(...) or Fixed(steps=N)"
    elif type(gradient) is not Replay:
        got = f"gradient={gradient!r}; leave `gradient` out, or choose Replay()"
    elif watched:
        got = "an event; leave `event` or `compile` out"
    if got is not None:
        raise InputError(
            f"`compile` must go with explicit schemes, Adaptive or Fixed, gradient=Replay() and no event, got {got}"
        )


def march(problem: Problem, tier: Tier, gradient: GradientMode) -> Tensor:
    """The reported states, `(n, *shape)`, compiled; with a warning, by the eager tier, where that cannot be."""
    why = _unfit(problem)
    if why is None:
        try:
            return _march(problem, tier)
        except UntraceableError as error:
            why = str(error)
    warnings.warn(f"`compile={tier!r}` fell back to the eager tier: {why}", ResidynWarning, stacklevel=4)
    return gradient.march(problem)


def _unfit(problem: Problem) -> str | None:
    """Why this solve, or this machine, is none for the compiled tiers; `None` if there is nothing against it."""
    x = problem.x0
    if inside_transform():
        return "inside a transform of torch.func there are no numbers to loop on"
    if x.device.type != "cpu":
        return f"the compiled tiers run on the CPU, and x0 lies on {x.device}"
    if x.dtype not in (torch.float32, torch.float64):
        return f"the compiled tiers are for float32 and float64, and x0 is {x.dtype}"
    if not has_compiler():
        return "there is no C++ compiler; install g++ or clang++, or set CXX"
    return None


def _march(problem: Problem, tier: Tier) -> Tensor:
    own_times = isinstance(problem.times[0], Tensor) or bool(getattr(problem.control, "per_sample", False))
    x0 = problem.x0
    dtype = problem.f.time_dtype
    first = problem.times[0]
    t = first.to(dtype) if isinstance(first, Tensor) else torch.tensor(first, dtype=dtype)
    if own_times and not t.ndim:
        t = t.expand(len(x0), *[1] * (x0.ndim - 1)).contiguous()
    trace, tensors = find(problem, t, own_times, columnar=x0.ndim > own_times)
    wanted = tuple(i for i, item in enumerate(tensors) if item.requires_grad) if torch.is_grad_enabled() else ()
    graded = bool(wanted) or (torch.is_grad_enabled() and x0.requires_grad)
    assert isinstance(problem.scheme, ExplicitRungeKutta)  # `check` has seen to it
    kit = Kit(trace, problem.scheme, dtype, tier == "solve", wanted)
    run = Run(problem, kit, tuple(item.detach() for item in tensors))
    counted = problem.f.evaluations
    try:
        states, slots = _fixed(run, graded) if isinstance(problem.control, Fixed) else _adaptive(run, graded)
    except UntraceableError:
        problem.f.evaluations = counted
        raise
    problem.stats.evaluations = problem.f.evaluations
    if not graded:
        return states
    solved: Tensor = Solved.apply(run, states, slots, x0, *(tensors[i] for i in wanted))  # type: ignore[no-untyped-call]
    return solved


def _fixed(run: Run, graded: bool) -> tuple[Tensor, None]:
    out = forward.fixed(run, record=graded)
    return torch.cat([run.problem.x0.detach()[None], run.trace.state(out)]), None


def _adaptive(run: Run, graded: bool) -> tuple[Tensor, dense.Slots | None]:
    problem = run.problem
    x0, inner = problem.x0.detach(), len(problem.times) > 2
    end = forward.adaptive(run, record=graded or inner)
    problem.legs = Legs(run.times())  # type: ignore[assignment] # a list that is written only if it is read
    arrived = problem.outcome.ok
    found, slots = [x0[None]], None
    if (inner or not arrived) and run.rows[0].starts is not None:
        slots = dense.locate(run)
        if not bool(slots.reached.any()):
            slots = None  # nothing was reported
    if slots is not None and len(slots.legs):
        found.append(run.trace.state(dense.states(run, slots)))
    if arrived:
        found.append(run.trace.state(end)[None])
    return torch.cat(found), slots
