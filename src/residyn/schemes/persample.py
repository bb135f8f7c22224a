"""Adaptive steps sample by sample: each row of x `(B, …)` has its own time, step size and verdict; all step together.

Times, step sizes and verdicts live on the host, in double precision, as arrays `(B,)`: an operation on so few numbers costs
less there than a tensor operation, one read a round (the error ratios) is the only wait for a device, and single-precision
states keep double-precision times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from residyn.results import Outcome, OutcomeKind
from residyn.schemes import failure
from residyn.schemes.problem import Leg, Problem, Report, Taken

if TYPE_CHECKING:
    from residyn.schemes.control import Adaptive

Array = np.ndarray[Any, np.dtype[Any]]


def march_per_sample(control: Adaptive, problem: Problem, x0: Tensor) -> Iterator[Taken]:
    """Take rounds of steps until every sample is at its last time; one that has arrived takes steps of length zero."""
    scheme, stats = problem.scheme, problem.stats
    clocks = _Clocks(control, problem, x0)
    x, state = x0, scheme.init(problem.f, problem.times[0], x0)
    start, magnitude = problem.times[0], x0.abs()
    failed: Tensor | None = None
    for _ in range(control.max_steps):
        small = clocks.propose()
        if small is not None:
            problem.outcome = _failed(problem, "step_underflow", small, clocks, x)
            unsolved = failed is not None and bool(failed.expand(start.shape).flatten()[small])
            if failed is not None and unsolved and problem.outcome.kind == "step_underflow":
                row = torch.arange(len(x0), device=x.device).view(start.shape) == small
                fix = "f jumps there or is not defined beyond: end before it"
                problem.outcome = failure.root_failed(problem, problem.outcome.t, problem.outcome.step, row, fix)
            return
        end = clocks.time(clocks.t1)
        step = scheme.step(problem.f, start, end, x, state)
        assert step.error is not None  # `solve` has checked that the scheme has an estimate
        error, failed = step.error(), step.failed
        with torch.no_grad():
            magnitude1 = step.x.abs()
            scale = control.scale(torch.maximum(magnitude, magnitude1))
            reports = clocks.judge(_mean_square(error.div_(scale)).cpu().double().numpy())
        stats.accepted += clocks.all_accepted
        stats.rejected += not clocks.all_accepted
        before = state
        if clocks.all_accepted:
            leg, x1, state = Leg(start, end, reports), step.x, step.state
            start, magnitude = end, magnitude1
        else:
            mask = clocks.tensor(clocks.accept, torch.bool)
            if x[0].numel() <= 16:  # short rows: written out, it is several times faster than broadcast
                mask = mask.expand_as(x).contiguous()
            leg, x1 = Leg(start, end, reports, mask), torch.where(mask, step.x, x)
            state = scheme.merge(mask, step.state, state)
            start, magnitude = clocks.time(clocks.t), x1.detach().abs()
        yield Taken(leg, x, x1, step, before)
        x = x1
        if problem.stopped is not None:
            clocks.stop(problem.stopped)
        if clocks.arrived:
            if problem.outcome.kind == "success":
                problem.outcome = failure.inaccurate(clocks.kept, control.min_step)
            problem.f.forget()
            return
    problem.outcome = _failed(problem, "max_steps", int((clocks.t != clocks.end).argmax()), clocks, x)


def _mean_square(x: Tensor) -> Tensor:
    """Mean of |x|² over each sample, `(B,)`; a product with ones is several times faster than a reduction of short rows."""
    real = torch.view_as_real(x) if x.is_complex() else x
    rows = real.reshape(len(x), -1)
    count = x[0].numel()
    return torch.mv(rows.mul_(rows), rows.new_full((rows.shape[1],), 1.0 / count))


class _Clocks:
    """The time and step of each sample, on the host: `propose` says where the next steps end, `judge` what became of them.

    Within, every sample runs forwards: the time is multiplied by the sign of its direction.
    """

    def __init__(self, control: Adaptive, problem: Problem, x0: Tensor) -> None:
        self.control, self.like = control, problem.times[0]
        self.shape = tuple(self.like.shape)
        times = torch.stack(list(problem.times)).reshape(len(problem.times), -1).T.cpu().double().numpy()
        self.sign = np.sign(times[:, -1] - times[:, 0])
        self.turned = bool((self.sign < 0).any())
        self.times = np.concatenate([times * self.sign[:, None], np.full((len(times), 1), np.inf)], axis=1)
        self.t, self.end, self.due = self.times[:, 0], self.times[:, -2], self.times[:, 1]
        self.slot = np.ones(len(times), dtype=np.int64)
        self.least = np.maximum(4 * np.spacing(np.abs(times).max(1)), 1e-20 * (self.end - self.t))
        with torch.no_grad():
            first = _initial_steps(control, problem, x0, self.tensor(self.sign))
        self.h = np.minimum(first.flatten().cpu().double().numpy(), control.max_step)
        self.broke = np.zeros_like(self.t)
        self.refused = np.zeros(self.t.shape, dtype=bool)
        self.previous = np.ones_like(self.t)
        order = problem.scheme.error_order + 1
        self.change = control.proportional / order
        self.power = -(control.integral / order + self.change)
        self.limited = control.min_step > 0.0 or control.max_step < math.inf
        self.arrived = False
        self.stuck: int | None = None
        self.kept = 0
        self.real = x0.dtype.to_real() if x0.dtype.is_complex else x0.dtype

    def tensor(self, values: Array, dtype: torch.dtype | None = None) -> Tensor:
        """Numbers of the samples as a tensor that broadcasts to the state, `(B, 1, …)`."""
        tensor = torch.from_numpy(values.reshape(self.shape))
        return tensor.to(self.like.device, dtype or self.like.dtype)

    def time(self, t: Array) -> Tensor:
        """The times of the samples, as the field knows them."""
        return self.tensor(t * self.sign if self.turned else t)

    def propose(self) -> int | None:
        """Set where the steps end; a last step is stretched by a hundredth rather than followed by a tiny one.

        Returns:
            A sample whose step is smaller than its time can resolve, or broke off at the least step; `None` if there is none.
        """
        if self.stuck is not None:
            return self.stuck
        t, h, end = self.t, self.h, self.end
        self.t1 = np.where(t + 1.01 * h >= end, end, t + h)
        self.tried = self.t1 - t
        small = self.tried <= self.least
        if small.any():
            shortest = np.maximum(4 * np.spacing(np.abs(t)), 1e-20 * np.abs(end))
            small &= (self.tried <= shortest) & (t != end)
            lost = small & (self.refused | ~(h > 0))  # what was refused can be tried no shorter
            if lost.any():
                return int(lost.argmax())
            # else the least step that the time resolves
            self.t1 = np.where(small & (self.t1 != end), np.minimum(t + 2 * shortest, end), self.t1)
            self.tried = self.t1 - t
        return None

    def stop(self, which: Tensor) -> None:
        """Let samples that met a terminal event arrive where they are."""
        stopped = which.flatten().cpu().numpy()
        self.end, self.due = np.where(stopped, self.t, self.end), np.where(stopped, np.inf, self.due)

    def judge(self, square: Array) -> tuple[Report, ...]:
        """Accept or refuse the steps by their squared error ratios, choose the next, and say what is to be reported."""
        control = self.control
        self.accept = square <= 1.0
        self.all_accepted = bool(self.accept.all())
        if not self.all_accepted:
            square = self._refuse(square)
        self.refused = ~self.accept
        reports = self._reports() if (self.t1 >= self.due).any() else ()
        factor = control.safety * np.maximum(square, 1e-200) ** (0.5 * self.power)
        if self.change:
            factor *= self.previous**self.change
            self.previous = np.where(self.accept, np.maximum(np.sqrt(square), 1e-10), self.previous)
        factor = np.minimum(np.maximum(factor, control.min_factor), control.max_factor)
        if not self.all_accepted and self.limited:  # without a least step, what is refused shrinks by itself
            factor = np.where(self.accept, factor, np.minimum(factor, 1.0))
        self.h = self.tried * factor
        if self.limited:
            self.h = np.minimum(np.maximum(self.h, control.min_step), control.max_step)
        self.t = self.t1 if self.all_accepted else np.where(self.accept, self.t1, self.t)
        self.arrived = bool((self.t == self.end).all())
        return reports

    def _refuse(self, square: Array) -> Array:
        """Look at what was refused: a step that gave nan is remembered, one that may not be shorter is accepted."""
        control, broken = self.control, np.isnan(square)
        if broken.any():
            self.broke = np.where(broken & (self.broke == 0.0), self.tried, self.broke)
            square = np.where(broken, np.inf, square)
        if control.min_step > 0.0:
            least = self.h <= control.min_step
            hopeless = least & ~np.isfinite(square) & (self.t != self.end)
            self.stuck = int(hopeless.argmax()) if hopeless.any() else None
            forced = ~self.accept & least & np.isfinite(square)
            self.kept += int(forced.sum())
            self.accept |= forced
            self.all_accepted = bool(self.accept.all())
        self.broke = np.where(self.accept, 0.0, self.broke)
        return square

    def _reports(self) -> tuple[Report, ...]:
        """The reported times that the accepted steps have passed; a sample may pass several."""
        found: list[Report] = []
        every = np.arange(len(self.slot))
        while True:
            passed = self.accept & (self.t1 >= self.due)
            if not passed.any():
                return tuple(found)
            at_end = passed & (self.due == self.t1)
            inside = passed & ~at_end
            if at_end.any():
                found.append(self._report(at_end, 1.0))
            if inside.any():
                theta = (np.where(inside, self.due, self.t) - self.t) / np.where(inside, self.tried, 1.0)
                found.append(self._report(inside, self.tensor(theta, self.real)))
            self.slot = self.slot + passed
            self.due = self.times[every, self.slot]

    def _report(self, which: Array, theta: float | Tensor) -> Report:
        rows = np.flatnonzero(which)
        device = self.like.device
        return Report(torch.from_numpy(self.slot[rows]).to(device), theta, torch.from_numpy(rows).to(device))


def _initial_steps(control: Adaptive, problem: Problem, x0: Tensor, sign: Tensor) -> Tensor:
    """A first step for each sample, `(B, 1, …)`, positive; see `control.initial_step`."""
    f, t0 = problem.f, problem.times[0]
    span = (problem.times[-1] - t0).abs()
    if control.first_step is not None:
        return torch.full_like(t0, control.first_step)
    flat, root_n = (len(x0), -1), math.sqrt(x0[0].numel())

    def norm(v: Tensor) -> Tensor:
        return (torch.linalg.vector_norm(v.reshape(flat), dim=1) / root_n).view_as(t0)

    scale = control.scale(x0.abs())
    slope = f.remember(t0, x0)
    d0, d1 = norm(x0 / scale), norm(slope / scale)
    # where d1 is not finite, f is not, and the first step says where; or a tolerance is zero
    h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5) | ~torch.isfinite(d1), 1e-6, 0.01 * d0 / d1).minimum(span)
    ahead = torch.addcmul(x0, slope, (h0 * sign).to(x0.dtype))
    top = torch.maximum(d1, norm((f(t0 + h0 * sign, ahead) - slope) / scale) / h0)
    h1 = torch.where(top <= 1e-15, (h0 * 1e-3).clamp(min=1e-6), (0.01 / top) ** (1 / (problem.scheme.error_order + 1)))
    h1 = torch.where(torch.isfinite(top), h1, h0)
    return torch.minimum(100 * h0, h1).minimum(span)


def _failed(problem: Problem, kind: OutcomeKind, row: int, clocks: _Clocks, x: Tensor) -> Outcome:
    """The outcome for a sample that failed."""
    sign = float(clocks.sign[row])
    t, broke = clocks.time(clocks.t), sign * float(clocks.broke[row])
    time, h = sign * float(clocks.t[row]), sign * float(clocks.tried[row])
    with torch.no_grad():
        slope = problem.f(t, x)[row]
        what = "f(t, x)"
        if failure.finite(slope) and broke:
            h, what = broke, "the step"
            ahead = t + clocks.tensor(np.where(np.arange(len(clocks.t)) == row, broke, 0.0))
            slope = problem.scheme.step(problem.f, t, ahead, x, problem.scheme.init(problem.f, t, x)).x[row]
        stiff = failure.looks_stiff(problem, t, x, h, row) if what == "f(t, x)" and failure.finite(slope) else None
    component = int(torch.nan_to_num(slope.abs(), nan=math.inf).flatten().argmax())
    place = f"component {component} of sample {row}"
    if not failure.finite(slope):
        word = "nan" if bool(torch.isnan(slope).any()) else "inf"
        message = f"{what} returned {word} at t = {time:.6g} with h = {h:.6g}, in {place}"
        return Outcome("non_finite", message, failure.BROKEN_FIX[what], time, h, component, row)
    if kind == "max_steps":
        tried = problem.stats.accepted + problem.stats.rejected
        message = f"{tried} steps were tried and {place} has reached only t = {time:.6g}, with h = {h:.6g}"
        fix = failure.STIFF_FIX if stiff else "raise `max_steps`, or loosen rtol and atol"
        return Outcome("max_steps", message, fix, time, h, component, row, stiff)
    message = f"the step size of {place} fell to {h:.6g} at t = {time:.6g}"
    return Outcome("step_underflow", message, failure.SINGULAR_FIX, time, h, component, row, stiff)
