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

from residyn.errors import InputError
from residyn.results import Outcome, OutcomeKind
from residyn.schemes import failure
from residyn.schemes.base import Step
from residyn.schemes.plain import is_plain
from residyn.schemes.problem import Leg, Problem, Report, Taken
from residyn.state import inside_transform, physical

if TYPE_CHECKING:
    from residyn.schemes.control import Adaptive

Array = np.ndarray[Any, np.dtype[Any]]


def march_per_sample(control: Adaptive, problem: Problem, x0: Tensor) -> Iterator[Taken]:
    """Take rounds of steps until every sample is at its last time; one that has arrived takes steps of length zero."""
    scheme, stats = problem.scheme, problem.stats
    if torch._C._functorch.is_batchedtensor(x0):
        raise InputError(
            "`control` must not be per_sample inside vmap, whose lanes share their steps, got Adaptive(per_sample=True) there; "
            "hand the whole batch to solve, without vmap"
        )
    clocks = _Clocks(control, problem, x0)
    ratios = _ratios(control, x0)
    x, state = x0, scheme.init(problem.f, problem.times[0], x0)
    start = problem.times[0]
    failed: Tensor | None = None
    for _ in range(control.max_steps):
        small = clocks.propose()
        if small is not None:
            yield from clocks.settle(problem, start, x, state)
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
        reports = clocks.judge(ratios.squares(error, step.x))
        before = state
        if clocks.all_accepted:
            stats.accepted += 1
            leg, x1, state, start = Leg(start, end, reports), step.x, step.state, end
            ratios.keep(None, x1)
        else:
            stats.rejected += 1
            mask = clocks.mask(x)
            leg, x1 = Leg(start, end, reports, mask), torch.where(mask, step.x, x)
            state, start = scheme.merge(mask, step.state, state), clocks.time(clocks.t)
            ratios.keep(clocks.accept, x1)
        yield Taken(leg, x, x1, step, before)
        x = x1
        if problem.stopped is not None:
            clocks.stop(problem.stopped)
        if clocks.arrived:
            if problem.outcome.kind == "success":
                problem.outcome = failure.inaccurate(clocks.kept, control.min_step)
            problem.f.forget()
            return
    yield from clocks.settle(problem, start, x, state)
    problem.outcome = _failed(problem, "max_steps", int((clocks.t != clocks.end).argmax()), clocks, x)


class _Ratios:
    """The squared error ratios of the samples: the mean of |error/(atol + rtol·max(|x0|, |x1|))|² over each."""

    def __init__(self, control: Adaptive, x: Tensor) -> None:
        self.control, self.magnitude, self.next = control, x.detach().abs(), x
        rows = (torch.view_as_real(x) if x.is_complex() else x).detach().reshape(len(x), -1)
        # a product with these is several times faster than a reduction of short rows
        self.weights = rows.new_full((rows.shape[1],), 1.0 / x[0].numel())

    def squares(self, error: Tensor, x1: Tensor) -> Array:
        """The ratios `(B,)`, on the host, in double precision; `error` is used up."""
        with torch.no_grad():
            self.next = x1.abs()
            scaled = error.div_(self.control.scale(torch.maximum(self.magnitude, self.next)))
            real = torch.view_as_real(scaled) if scaled.is_complex() else scaled
            rows = real.reshape(len(x1), -1)
            return _host(torch.mv(rows.mul_(rows), self.weights))

    def keep(self, accept: Array | None, x1: Tensor) -> None:
        """Go on from x1, where only some samples took the step if `accept` says so."""
        self.magnitude = self.next if accept is None else x1.detach().abs()


class _PlainRatios(_Ratios):
    """As `_Ratios`, for small real states on the CPU: in NumPy; see `plain`."""

    def __init__(self, control: Adaptive, x: Tensor) -> None:
        super().__init__(control, x)
        self.size = np.abs(x.detach().numpy())
        self.atol = control.atol.numpy() if isinstance(control.atol, Tensor) else control.atol
        self.floor = np.finfo(self.size.dtype).tiny if control.may_vanish else 0.0
        self.row = self.weights.numpy()

    def squares(self, error: Tensor, x1: Tensor) -> Array:
        """As `_Ratios.squares`."""
        e, self.after = error.numpy(), np.abs(x1.detach().numpy())
        scale = np.maximum(self.size, self.after)
        scale *= self.control.rtol
        scale += self.atol
        if self.floor:
            np.maximum(scale, self.floor, out=scale)
        with np.errstate(all="ignore"):
            e /= scale
            e *= e
            return (e.reshape(len(e), -1) @ self.row).astype(np.float64, copy=False)

    def keep(self, accept: Array | None, x1: Tensor) -> None:
        """As `_Ratios.keep`."""
        if accept is None:
            self.size = self.after
        else:
            np.copyto(self.size, self.after, where=accept.reshape(-1, *[1] * (self.size.ndim - 1)))


def _host(x: Tensor) -> Array:
    """Numbers on the host, in double precision."""
    if inside_transform():
        return np.array(physical(x).tolist(), dtype=np.float64)
    found: Array = x.detach().cpu().double().numpy()
    return found


def _ratios(control: Adaptive, x: Tensor) -> _Ratios:
    atol = control.atol
    known = not isinstance(atol, Tensor) or (atol.device.type == "cpu" and atol.dtype == x.dtype and not atol.requires_grad)
    return (_PlainRatios if known and is_plain(x.detach()) else _Ratios)(control, x)


_NEVER = 1e-200
"""An ideal step that falls short of none; also keeps 0/0 away from samples that have arrived."""

_any, _all = np.logical_or.reduce, np.logical_and.reduce  # the methods of an array take twice as long to get there


class _Clocks:
    """The time and step of each sample, on the host: `propose` says where the next steps end, `judge` what became of them.

    Within, every sample runs forwards: the time is multiplied by the sign of its direction.
    """

    def __init__(self, control: Adaptive, problem: Problem, x0: Tensor) -> None:
        self.control, self.like = control, problem.times[0]
        self.shape, self.here = tuple(self.like.shape), self.like.device.type == "cpu"
        times = _host(torch.stack(list(problem.times)).reshape(len(problem.times), -1).T)
        self.sign = np.sign(times[:, -1] - times[:, 0])
        self.turned = bool((self.sign < 0).any())
        self.times = np.concatenate([times * self.sign[:, None], np.full((len(times), 1), np.inf)], axis=1)
        # the last time is reported for all samples at once, by the last step of all; an event may end a sample before it
        self.last = None if problem.watch is not None else times.shape[1] - 1
        if self.last is not None:
            self.times[:, -2] = np.inf
        self.t, self.end, self.due = self.times[:, 0], (times[:, -1] * self.sign), self.times[:, 1]
        self.slot = np.ones(len(times), dtype=np.int64)
        self.least = np.maximum(4 * np.spacing(np.abs(times).max(1)), 1e-20 * (self.end - self.t))
        with torch.no_grad():
            first = _initial_steps(control, problem, x0, self.tensor(self.sign))
        self.h = np.minimum(_host(first.flatten()), control.max_step)
        self.broke = np.zeros_like(self.t)
        self.refused = np.zeros(self.t.shape, dtype=bool)
        self.previous = np.ones_like(self.t)
        self.ideal = np.full_like(self.t, _NEVER)
        order = problem.scheme.error_order + 1
        self.order = order
        self.change = control.proportional / order
        self.power = -(control.integral / order + self.change)
        self.plain = self.change == 0.0 and control.integral == 1.0
        self.most = 100.0 ** (1.0 / order)
        self.limited = control.min_step > 0.0 or control.max_step < math.inf
        self.arrived = False
        self.stuck: int | None = None
        self.kept = 0
        self.real = x0.dtype.to_real() if x0.dtype.is_complex else x0.dtype

    def tensor(self, values: Array, dtype: torch.dtype | None = None) -> Tensor:
        """Numbers of the samples as a tensor that broadcasts to the state, `(B, 1, …)`."""
        tensor, want = torch.from_numpy(values.reshape(self.shape)), dtype or self.like.dtype
        return tensor if self.here and tensor.dtype == want else tensor.to(self.like.device, want)

    def mask(self, x: Tensor) -> Tensor:
        """Which samples took the step, as x or `(B, 1, …)`; short rows written out, several times faster than broadcast."""
        if x[0].numel() > 16:
            return self.tensor(self.accept, torch.bool)
        wide = torch.from_numpy(self.accept.repeat(x[0].numel()).reshape(x.shape))
        return wide if self.here else wide.to(self.like.device)

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
        self.t1 = t + h
        np.copyto(self.t1, end, where=t + 1.01 * h >= end)
        self.tried = self.t1 - t
        small = self.tried <= self.least
        if _any(small):
            shortest = np.maximum(4 * np.spacing(np.abs(t)), 1e-20 * np.abs(end))
            small &= (self.tried <= shortest) & (t != end)
            lost = small & (self.refused | ~(h > 0))  # what was refused can be tried no shorter
            if lost.any():
                return int(lost.argmax())
            self.least[t == end] = -1.0  # one that has arrived need not be asked again
            # else the least step that the time resolves
            self.t1 = np.where(small & (self.t1 != end), np.minimum(t + 2 * shortest, end), self.t1)
            self.tried = self.t1 - t
        return None

    def stop(self, which: Tensor) -> None:
        """Let samples that met a terminal event arrive where they are."""
        stopped = _host(which.flatten()) > 0
        self.end, self.due = np.where(stopped, self.t, self.end), np.where(stopped, np.inf, self.due)

    def judge(self, square: Array) -> tuple[Report, ...]:
        """Accept or refuse the steps by their squared error ratios, choose the next, and say what is to be reported."""
        control = self.control
        self.accept = square <= 1.0
        self.all_accepted = _all(self.accept)
        if not self.all_accepted:
            square = self._refuse(square)
        self.refused = ~self.accept
        reports = self._reports() if _any(self.t1 >= self.due) else ()
        factor = self._factor(np.maximum(square, 1e-200))
        if not self.all_accepted and self.limited:  # without a least step, what is refused shrinks by itself
            factor = np.where(self.accept, factor, np.minimum(factor, 1.0))
        self.h = self.tried * factor
        if self.limited:
            self.h = np.minimum(np.maximum(self.h, control.min_step), control.max_step)
        if self.all_accepted:
            self.t = self.t1
        else:
            self.t = self.t.copy()
            np.copyto(self.t, self.t1, where=self.accept)
        self.arrived = _all(self.t == self.end)
        return (*reports, *self._final()) if self.arrived else reports

    def _final(self) -> tuple[Report, ...]:
        """The report of the last time, for the samples that are there."""
        if self.last is None:
            return ()
        rows = np.flatnonzero(self.t == self.end)
        if not len(rows):
            return ()
        which = torch.from_numpy(rows).to(self.like.device)
        return (Report(torch.full_like(which, self.last), 1.0, which),)

    def settle(self, problem: Problem, t: Tensor, x: Tensor, state: Any) -> Iterator[Taken]:
        """A step of no length, where the march is given up, to report the samples that had arrived."""
        reports = self._final()
        if reports:
            still = Leg(t, t, reports, torch.zeros_like(t, dtype=torch.bool))
            yield Taken(still, x, x, Step(x, None, lambda _: x, state), state)

    def _factor(self, square: Array) -> Array:
        """By how much the next steps may be longer; see `Adaptive`."""
        control = self.control
        share = square ** (-0.5 / self.order)
        if self.plain:
            factor = share * control.safety
        else:
            factor = control.safety * square ** (0.5 * self.power)
            if self.change:
                factor *= self.previous**self.change
                np.copyto(self.previous, np.maximum(np.sqrt(square), 1e-10), where=self.accept)
        if control.predictive:
            ideal = np.maximum(self.tried * np.minimum(share, self.most), _NEVER)
            fall = np.minimum(ideal / self.ideal, 1.0)
            if self.all_accepted:
                self.ideal = ideal
            else:
                np.copyto(fall, 1.0, where=self.refused)
                np.copyto(self.ideal, ideal, where=self.accept)
            if self.plain:
                factor *= fall
            else:
                np.copyto(factor, np.minimum(factor, control.safety * share * fall), where=fall < 1.0)
        return np.minimum(np.maximum(factor, control.min_factor), control.max_factor)

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
    tried, broke = sign * float(clocks.tried[row]), sign * float(clocks.broke[row])
    return failure.sample_failed(problem, kind, row, clocks.time(clocks.t), tried, broke, x)
