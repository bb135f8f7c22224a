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
    root_n = math.sqrt(x0[0].numel())
    rtol, atol = control.rtol * root_n, control.atol * root_n
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
                problem.outcome = failure.root_failed(problem, float(clocks.t[small]), float(clocks.h[small]), row, fix)
            return
        end = clocks.tensor(clocks.t1)
        step = scheme.step(problem.f, start, end, x, state)
        assert step.error is not None  # `solve` has checked that the scheme has an estimate
        error, failed = step.error(), step.failed
        with torch.no_grad():
            magnitude1 = step.x.abs()
            scale = torch.maximum(magnitude, magnitude1).mul_(rtol).add_(atol)
            ratio = torch.linalg.vector_norm(error.div_(scale).reshape(len(x0), -1), dim=1)
        reports = clocks.judge(ratio.cpu().double().numpy())
        stats.accepted += clocks.all_accepted
        stats.rejected += not clocks.all_accepted
        if clocks.all_accepted:
            leg, x1, state = Leg(start, end, reports), step.x, step.state
            start, magnitude = end, magnitude1
        else:
            mask = clocks.tensor(clocks.accept)
            leg, x1 = Leg(start, end, reports, mask), torch.where(mask, step.x, x)
            state = scheme.merge(mask, step.state, state)
            start, magnitude = clocks.tensor(clocks.t), torch.where(mask, magnitude1, magnitude)
        yield Taken(leg, x, x1, step)
        x = x1
        if clocks.arrived:
            problem.f.forget()
            return
    problem.outcome = _failed(problem, "max_steps", int((clocks.t != clocks.end).argmax()), clocks, x)


class _Clocks:
    """The time and step of each sample, on the host: `propose` says where the next steps end, `judge` what became of them."""

    def __init__(self, control: Adaptive, problem: Problem, x0: Tensor) -> None:
        self.control, self.like = control, problem.times[0]
        self.times = torch.stack(list(problem.times)).reshape(len(problem.times), -1).T.cpu().double().numpy()
        self.t, self.end = self.times[:, 0], self.times[:, -1]
        self.sign = np.sign(self.end - self.t)
        self.least = 1e-20 * np.abs(self.end - self.t)
        with torch.no_grad():
            first = _initial_steps(control, problem, x0, self.tensor(self.sign))
        self.h = np.minimum(first.flatten().cpu().double().numpy(), control.max_step) * self.sign
        self.slot = np.ones(len(self.t), dtype=np.int64)
        self.broke = np.zeros_like(self.t)
        self.previous = np.ones_like(self.t)
        order = problem.scheme.error_order + 1
        self.change = control.proportional / order
        self.power = -(control.integral / order + self.change)
        self.arrived = False
        self.stuck: int | None = None
        self.real = x0.dtype.to_real() if x0.dtype.is_complex else x0.dtype

    def tensor(self, values: Array) -> Tensor:
        """Numbers of the samples as a tensor that broadcasts to the state, `(B, 1, …)`."""
        dtype = torch.bool if values.dtype == bool else self.like.dtype
        return torch.from_numpy(values).view(self.like.shape).to(self.like.device, dtype)

    def propose(self) -> int | None:
        """Set where the steps end; a last step is stretched by a hundredth rather than followed by a tiny one.

        Returns:
            A sample whose step is smaller than its time can resolve, or broke off at the least step; `None` if there is none.
        """
        if self.stuck is not None:
            return self.stuck
        t, h, end = self.t, self.h, self.end
        self.t1 = np.where((t + 1.01 * h - end) * self.sign >= 0.0, end, t + h)
        self.tried = self.t1 - t
        small = (np.abs(self.tried) <= np.maximum(4 * np.spacing(np.abs(t)), self.least)) & (t != end)
        return int(small.argmax()) if small.any() else None

    def judge(self, ratio: Array) -> tuple[Report, ...]:
        """Accept or refuse the steps by their error ratios and choose the next; returns what is to be reported of them."""
        control, h = self.control, self.tried
        broken = np.isnan(ratio)
        self.accept = ratio <= 1.0
        if control.min_step > 0.0:
            least = np.abs(self.h) <= control.min_step
            hopeless = least & ~np.isfinite(ratio) & (self.t != self.end)
            self.stuck = int(hopeless.argmax()) if hopeless.any() else None
            self.accept |= least & np.isfinite(ratio)
        self.all_accepted = bool(self.accept.all())
        if not self.all_accepted:
            self.broke = np.where(broken & (self.broke == 0.0), h, np.where(self.accept, 0.0, self.broke))
            if broken.any():
                ratio = np.where(broken, np.inf, ratio)
        reports = self._reports()
        factor = control.safety * np.maximum(ratio, 1e-100) ** self.power
        if self.change:
            factor *= self.previous**self.change
            self.previous = np.where(self.accept, np.maximum(ratio, 1e-10), self.previous)
        factor = np.clip(factor, control.min_factor, np.where(self.accept, control.max_factor, 1.0))
        self.h = h * factor
        if control.min_step > 0.0 or control.max_step < math.inf:
            self.h = self.sign * np.clip(np.abs(self.h), control.min_step, control.max_step)
        self.t = self.t1 if self.all_accepted else np.where(self.accept, self.t1, self.t)
        self.arrived = bool((self.t == self.end).all())
        return reports

    def _reports(self) -> tuple[Report, ...]:
        """The reported times that the accepted steps have passed; a sample may pass several."""
        count = self.times.shape[1]
        found: list[Report] = []
        every = np.arange(len(self.slot))
        while True:
            due = self.times[every, np.minimum(self.slot, count - 1)]
            passed = self.accept & (self.slot < count) & ((self.t1 - due) * self.sign >= 0.0)
            if not passed.any():
                return tuple(found)
            at_end = passed & (due == self.t1)
            inside = passed & ~at_end
            if at_end.any():
                found.append(self._report(at_end, 1.0))
            if inside.any():
                theta = (due - self.t) / np.where(inside, self.tried, 1.0)
                found.append(self._report(inside, self.tensor(np.where(inside, theta, 1.0)).to(self.real)))
            self.slot = self.slot + passed

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

    scale = x0.abs().mul_(control.rtol).add_(control.atol)
    slope = f.remember(t0, x0)
    d0, d1 = norm(x0 / scale), norm(slope / scale)
    h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1).minimum(span)
    h0 = torch.where(torch.isfinite(h0), h0, span)
    ahead = torch.addcmul(x0, slope, (h0 * sign).to(x0.dtype))
    top = torch.maximum(d1, norm((f(t0 + h0 * sign, ahead) - slope) / scale) / h0)
    h1 = torch.where(top <= 1e-15, (h0 * 1e-3).clamp(min=1e-6), (0.01 / top) ** (1 / (problem.scheme.error_order + 1)))
    h1 = torch.where(torch.isfinite(h1), h1, h0)
    return torch.minimum(100 * h0, h1).minimum(span)


def _failed(problem: Problem, kind: OutcomeKind, row: int, clocks: _Clocks, x: Tensor) -> Outcome:
    """The outcome for a sample that failed."""
    t, broke = clocks.tensor(clocks.t), float(clocks.broke[row])
    time, h = float(clocks.t[row]), float(clocks.tried[row])
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
