"""How long the steps are: equal ones, or as long as the error allows, for the whole state or sample by sample."""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.results import Outcome
from residyn.schemes import failure
from residyn.schemes.base import Time
from residyn.schemes.persample import march_per_sample
from residyn.schemes.problem import Leg, Problem, Report, Taken
from residyn.state import physical


class Control(abc.ABC):
    """Decides where the steps of a march end."""

    @abc.abstractmethod
    def march(self, problem: Problem, x0: Tensor) -> Iterator[Taken]:
        """Take the steps from x0, yielding each one that is kept; set `problem.outcome` where it ends early."""

    def plan(self, problem: Problem) -> list[Leg] | None:
        """All legs, where they are known before any is taken; `None` where they are not."""
        return None


@dataclass(frozen=True)
class Fixed(Control):
    """N equal steps between each two reported times.

    Args:
        steps: N, at least 1.

    Raises:
        InputError: If `steps` is no whole number, or less than 1.

    >>> Fixed(steps=4)
    Fixed(steps=4)
    """

    steps: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or self.steps < 1:
            raise InputError(f"`steps` must be a whole number of at least 1, got {self.steps!r}")

    def plan(self, problem: Problem) -> list[Leg]:
        """All legs: they depend on the times alone."""
        legs = []
        for slot, (start, end) in enumerate(zip(problem.times, problem.times[1:], strict=False), start=1):
            width = end - start
            ends: list[Time] = []
            ends.extend(start + width * (i / self.steps) for i in range(1, self.steps))
            ends.append(end)
            begin = start
            for i, stop in enumerate(ends):
                reports = (Report(slot, 1.0),) if i == self.steps - 1 else ()
                legs.append(Leg(begin, stop, reports))
                begin = stop
        return legs

    def march(self, problem: Problem, x0: Tensor) -> Iterator[Taken]:
        """Take the planned legs; whether the state is still finite is asked once a reported time."""
        x, since, sure = x0, 0, x0
        legs = self.plan(problem)
        state = problem.scheme.init(problem.f, problem.times[0], x0)
        for i, leg in enumerate(legs):
            step = problem.scheme.step(problem.f, leg.t0, leg.t1, x, state)
            if leg.reports and not failure.finite(step.x):
                problem.outcome, _ = failure.first_non_finite(problem, legs[since : i + 1], sure)
                return
            problem.stats.accepted += 1
            yield Taken(leg, x, step.x, step, state)
            x, state = step.x, step.state
            if leg.reports:
                since, sure = i + 1, x


@dataclass(frozen=True)
class Adaptive(Control):
    """Steps as long as the error estimate allows: the root mean square of error/(atol + rtol·|x|) is kept at 1 or below.

    The next step is h·clamp(safety·r^(-β₁)·r_prev^β₂, min_factor, max_factor) with r the error ratio, q the order of the
    estimate, β₁ = (integral + proportional)/(q+1), β₂ = proportional/(q+1). The default is the usual integral controller,
    made predictive: h* = h·r^(-1/(q+1)) is the step that would just have been right, and where that has shrunk from one step
    to the next, it is taken to shrink as much again: the next step is at most safety·h*·(h*/h*_prev).

    Args:
        rtol: Relative tolerance, > 0.
        atol: Absolute tolerance, ≥ 0; a number, or a tensor that broadcasts to x.
        per_sample: Whether each sample of x `(B, …)` has its own step size; otherwise the whole state shares one.
        max_steps: Steps tried before giving up.
        first_step: Size of the first step; chosen by the program if `None`.
        min_step: Steps are not rejected below this size.
        max_step: Steps are never longer.
        safety: Factor on the predicted step.
        min_factor: Least factor from step to step.
        max_factor: Greatest factor from step to step.
        integral: Weight of the present error.
        proportional: Weight of its change; 0.4 with integral 0.3 damps a step size that oscillates.
        predictive: Whether a step that has to shrink is foreseen.

    Raises:
        InputError: If a value breaks its rule.

    Reference:
        Hairer, Nørsett & Wanner (1993), "Solving Ordinary Differential Equations I", II.4, doi:10.1007/978-3-540-78862-1;
        Söderlind (2002), doi:10.1023/A:1021160023092; Gustafsson (1994), "Control-theoretic techniques for stepsize selection
        in implicit Runge–Kutta methods", doi:10.1145/198429.198437.

    >>> Adaptive(rtol=1e-3).atol
    1e-09
    """

    rtol: float = 1e-6
    atol: float | Tensor = 1e-9
    per_sample: bool = False
    max_steps: int = 100_000
    first_step: float | None = None
    min_step: float = 0.0
    max_step: float = math.inf
    safety: float = 0.9
    min_factor: float = 0.2
    max_factor: float = 10.0
    integral: float = 1.0
    proportional: float = 0.0
    predictive: bool = True

    def __post_init__(self) -> None:
        if not (isinstance(self.rtol, (int, float)) and 0 < self.rtol < 1):
            raise InputError(f"`rtol` must lie in (0, 1), got {self.rtol!r}; 1e-6 is usual in double precision")
        if not isinstance(self.atol, (int, float, Tensor)):
            raise InputError(f"`atol` must be ≥ 0 and finite, got {self.atol!r}; give a number, or a tensor like x")
        least, most = (float(v) for v in torch.aminmax(torch.as_tensor(self.atol, dtype=torch.float64)))
        # a tensor may leave components out of the error norm: inf there, but not everywhere
        top = least if isinstance(self.atol, Tensor) else most
        if not (0 <= least <= most and top < math.inf):
            got = least if not least >= 0 else most
            raise InputError(f"`atol` must be ≥ 0 and finite, got {got!r}; 1e-9 is usual in double precision")
        if not isinstance(self.max_steps, int) or self.max_steps < 1:
            raise InputError(f"`max_steps` must be a whole number of at least 1, got {self.max_steps!r}")
        if self.first_step is not None and not 0 < self.first_step < math.inf:
            raise InputError(f"`first_step` must be > 0, got {self.first_step!r}; the direction comes from the times")
        if not self.max_step > 0:
            raise InputError(f"`max_step` must be > 0, got {self.max_step!r}; inf sets no limit")
        if not 0 <= self.min_step <= self.max_step:
            raise InputError(f"`min_step` must lie in [0, max_step = {self.max_step}], got {self.min_step!r}")
        if not 0 < self.min_factor < 1 < self.max_factor or not 0 < self.safety <= 1:
            raise InputError(
                "`min_factor`, `max_factor`, `safety` must satisfy 0 < min_factor < 1 < max_factor and 0 < safety ≤ 1, "
                f"got {self.min_factor}, {self.max_factor}, {self.safety}"
            )

        if not (self.integral >= 0 and self.proportional >= 0 and self.integral + self.proportional > 0):
            raise InputError(
                "`integral` and `proportional` must be ≥ 0, and not both 0, "
                f"got {self.integral!r} and {self.proportional!r}; 1 and 0 are usual"
            )

    @functools.cached_property
    def may_vanish(self) -> bool:
        """Whether the tolerance of a component may be zero."""
        return bool((torch.as_tensor(self.atol) == 0).any())

    def march(self, problem: Problem, x0: Tensor) -> Iterator[Taken]:
        """Take steps until the last time, or until `problem.outcome` says why not."""
        if self.per_sample or isinstance(problem.times[0], Tensor):  # times of their own need steps of their own
            return march_per_sample(self, problem, x0)
        return self._march_joint(problem, x0)

    def _march_joint(self, problem: Problem, x0: Tensor) -> Iterator[Taken]:
        f, scheme, times, stats = problem.f, problem.scheme, problem.times, problem.stats
        t, end = times[0], times[-1]
        forward = end > t
        x, state, slot = x0, scheme.init(f, t, x0), 1
        size = initial_step(self, problem, x0) if self.first_step is None else self.first_step
        h = math.copysign(min(size, self.max_step), end - t)
        magnitude = x.abs()
        root_n = math.sqrt(x.numel())
        memory, broke, least, retry, kept = (1.0, 0.0), 0.0, 1e-20 * abs(end - t), False, 0
        for _ in range(self.max_steps):
            t1 = end if (t + 1.01 * h >= end if forward else t + 1.01 * h <= end) else t + h
            shortest = max(4 * math.ulp(t), least)
            if (abs(t1 - t) <= shortest and t1 != end) or (retry and abs(t1 - t) <= shortest):
                if retry or not math.isfinite(h) or h == 0.0:  # what was refused can be tried no shorter
                    problem.outcome = failure.underflow(problem, t, x, h, broke)
                    return
                h = math.copysign(2 * shortest, h)  # the least step that the time resolves
                t1 = end if (t + 1.01 * h >= end if forward else t + 1.01 * h <= end) else t + h
            step = scheme.step(f, t, t1, x, state)
            assert step.error is not None  # `solve` has checked that the scheme has an estimate
            error = step.error()
            with torch.no_grad():
                magnitude1 = step.x.abs()
                scale = self.scale(torch.maximum(magnitude, magnitude1))
                ratio = _number(torch.linalg.vector_norm(error.div_(scale))) / root_n
            factor, memory = self._factor(ratio, abs(t1 - t), memory, scheme.error_order)
            forced = abs(h) <= self.min_step
            if ratio <= 1.0 or (forced and ratio < math.inf):
                stats.accepted += 1
                reports = []
                while slot < len(times) and (times[slot] <= t1 if forward else times[slot] >= t1):
                    reports.append(Report(slot, 1.0 if times[slot] == t1 else (times[slot] - t) / (t1 - t)))
                    slot += 1
                yield Taken(Leg(t, t1, tuple(reports)), x, step.x, step, state)
                broke, retry = 0.0, False
                t, x, state, magnitude = t1, step.x, step.state, magnitude1
                kept += ratio > 1.0
                if slot == len(times):
                    problem.outcome = failure.inaccurate(kept, self.min_step)
                    f.forget()
                    return
            else:
                stats.rejected += 1
                retry = True
                factor = min(factor, 1.0)
                broke = h if ratio != ratio and not broke else broke
                if forced:  # no shorter step is allowed, and this one leaves the numbers
                    problem.outcome = failure.underflow(problem, t, x, h, h)
                    return
            h = (t1 - t if ratio > 1.0 or ratio != ratio else h) * factor
            h = math.copysign(min(max(abs(h), self.min_step), self.max_step), h)
        problem.outcome = failure.too_many(problem, self.max_steps, t, x, h)

    def scale(self, magnitude: Tensor) -> Tensor:
        """atol + rtol·|x|, in place of |x|; where both are zero, an error of zero is none."""
        scale = magnitude.mul_(self.rtol).add_(self.atol)
        return scale.clamp_min_(torch.finfo(scale.dtype).tiny) if self.may_vanish else scale

    def _factor(self, ratio: float, h: float, memory: tuple[float, float], order: int) -> tuple[float, tuple[float, float]]:
        """By how much the next step may be longer; and the error ratio and h* of the last step kept, which that is told by."""
        if not ratio < math.inf:
            return self.min_factor, memory
        previous, before = memory
        share = max(ratio, 1e-100) ** (-1 / (order + 1))
        beta = self.proportional / (order + 1)
        factor = self.safety * share**self.integral
        if beta:
            factor *= (previous / max(ratio, 1e-100)) ** beta
        if ratio <= 1.0:
            ideal = h * min(share, 100 ** (1 / (order + 1)))  # an error that is next to nothing foretells nothing
            if self.predictive and ideal < before:
                factor = min(factor, self.safety * share * ideal / before)
            memory = max(ratio, 1e-10), ideal
        return min(max(factor, self.min_factor), self.max_factor), memory


def default_control(scheme: Any) -> Control:
    """Adaptive control, where the scheme has an error estimate.

    Raises:
        InputError: If it has none.
    """
    if scheme.error_order > 0:
        return Adaptive()
    raise InputError(
        f"`control` must be given for {type(scheme).__name__}, which has no error estimate, got None; "
        "pass control=Fixed(steps=N), or use scheme=Dopri5()"
    )


@torch.no_grad()
def initial_step(control: Adaptive, problem: Problem, x0: Tensor) -> float:
    """A first step for which an Euler step changes x by about one percent of its scale.

    Reference:
        Hairer, Nørsett & Wanner (1993), II.4, "Starting step size".
    """
    f, t0, order = problem.f, problem.times[0], problem.scheme.error_order
    span = abs(problem.times[-1] - t0)
    scale = control.scale(x0.abs())
    slope = f.remember(t0, x0)
    root_n = math.sqrt(x0.numel())
    d0, d1 = _numbers(torch.stack([_norm(x0 / scale), _norm(slope / scale)]) / root_n)
    if not math.isfinite(d1):  # f is not finite, and the first step says where; or a tolerance is zero
        return min(1e-6, span) if failure.finite(slope) else 0.0
    h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
    h0 = min(h0, span)
    signed = math.copysign(h0, problem.times[-1] - t0)
    d2 = _number(_norm((f(t0 + signed, torch.add(x0, slope, alpha=signed)) - slope) / scale)) / root_n / h0
    top = max(d1, d2)
    if not math.isfinite(top):
        return h0
    h1 = max(1e-6, h0 * 1e-3) if top <= 1e-15 else (0.01 / top) ** (1 / (order + 1))
    return float(min(100 * h0, h1, span))


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x)


def _number(norm: Tensor) -> float:
    """A norm as a number; the lanes of `vmap` share their steps, as the samples of a batch do, so it is the mean over them."""
    if not torch._C._functorch.is_functorch_wrapped_tensor(norm):
        return float(norm)
    lanes = physical(norm)
    return float(lanes.square().mean().sqrt())


def _numbers(norms: Tensor) -> list[float]:
    if not torch._C._functorch.is_functorch_wrapped_tensor(norms):
        return [float(v) for v in norms.tolist()]
    return [_number(norm) for norm in norms]


__all__ = ["Adaptive", "Control", "Fixed", "Outcome", "Time", "default_control", "initial_step"]
