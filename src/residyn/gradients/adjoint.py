"""The continuous adjoint: nothing kept but the reported states, and a second differential equation solved backwards."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from residyn.errors import InputError, SolveError
from residyn.gradients.backprop import Backprop
from residyn.gradients.base import GradientMode
from residyn.gradients.dependence import Dependence, find_dependence
from residyn.roots.differentiate import only_once
from residyn.schemes.base import Scheme, Time
from residyn.schemes.control import Adaptive, Control
from residyn.schemes.problem import Outputs, Problem, Rhs, Taken, value
from residyn.state import Layout, inside_transform

_Pulled = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Adjoint(GradientMode):
    """Solve the adjoint equation backwards beside the solution itself; memory does not grow with the number of steps.

    With a = ∂L/∂x (torch's convention for complex x) the augmented system, solved from each reported time to the one before,

        x' = f(t, x),   a' = -(∂f/∂x)ᴴ·a,   g' = -(∂f/∂θ)ᴴ·a,

    ends with a = ∂L/∂x0 and g = ∂L/∂θ for every tensor θ of `args`, parameter, and captured tensor. At each reported time x is
    set back to what the forward solve found there, and that time's cotangent is added to a.

    **This is not the gradient of the steps taken.** It is that of the exact flow, discretised again: it differs from the
    discrete gradient (`Replay`, `Backprop`) by the tolerances of both solves, typically 10 to 1000 times `rtol` over
    non-dissipative fields. Where f dissipates, x' = f run backwards expands: e^(λT) times the tolerance for a mode that decays
    at rate λ over the T between two reported times. Report more times, tighten the backward control, or use `Replay`, which is
    exact and keeps one state a step.

    Where samples have steps or times of their own, g is no part of the system (it is one number for all samples); it is summed
    by Gauss–Legendre quadrature (three nodes) on the dense output of each accepted step.

    Args:
        scheme: How the backward steps are taken; the forward's if `None`.
        control: How long they are; the forward's if `None`.
        seminorm: Whether g is left out of the error norm of an adaptive backward solve: nothing depends on g, so its error
            need not shorten steps.

    Raises:
        InputError: On use, if f draws random numbers (they would differ on the way back).
        SolveError: On the way back, if the backward solve fails.

    Reference:
        Pontryagin et al. (1962), "The Mathematical Theory of Optimal Processes"; Chen, Rubanova, Bettencourt & Duvenaud (2018),
        arXiv:1806.07366; Kidger, Chen & Lyons (2021), "“Hey, that's not an ODE”: Faster ODE adjoints via seminorms",
        arXiv:2009.09457.

    >>> Adjoint().seminorm
    True
    """

    scheme: Scheme | None = None
    control: Control | None = None
    seminorm: bool = True

    def march(self, problem: Problem) -> Tensor:
        """Run the march without autograd, as one node of the graph."""
        if not torch.is_grad_enabled() or inside_transform():
            return Backprop().march(problem)
        used = find_dependence(problem, problem.x0)
        if used.random:
            raise InputError(
                "`gradient` must not be Adjoint() where f draws random numbers, got one that does; use Replay(), which draws "
                "the same ones again"
            )
        if problem.watch is not None and isinstance(problem.times[0], Tensor):
            raise InputError(
                "`gradient` must not be Adjoint() where samples on steps of their own have events, got both; use Replay()"
            )
        if not used.tensors and not problem.x0.requires_grad:
            return Backprop().march(problem)
        reported: Tensor = _Adjoint.apply(self, problem, used, problem.x0, *used.tensors)  # type: ignore[no-untyped-call]
        return reported


class _Adjoint(torch.autograd.Function):
    """A march as one node: all values it reports."""

    @staticmethod
    def forward(ctx: Any, mode: Adjoint, problem: Problem, used: Dependence, x0: Tensor, *tensors: Tensor) -> Tensor:
        outputs = Outputs(problem, x0)
        for leg, _, x1, step, _ in problem.march(x0):
            outputs.add(leg, [value(report, step, x1) for report in leg.reports])
        reported = outputs.stack()
        ctx.mode, ctx.problem, ctx.used = mode, problem, used
        ctx.save_for_backward(reported, x0)
        return reported

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            pulled = _Adjoint._pull_back(ctx, grad)
        words = "got Adjoint(), whose backward solve leaves no graph; use gradient=Backprop() or Checkpoint()"
        origin = (grad, ctx.saved_tensors[1])
        return (None, None, None, *(None if item is None else only_once(item, origin, words) for item in pulled))

    @staticmethod
    def _pull_back(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        reported, _ = ctx.saved_tensors
        problem: Problem = ctx.problem
        sweep = _PerSample if isinstance(problem.times[0], Tensor) else _Joint
        with ctx.used.detached() as wrt:
            way = sweep(ctx.mode, problem, ctx.used, wrt)
            weighty = grad.reshape(len(grad), -1).ne(0).any(1).tolist()
            flow, started = torch.zeros_like(reported[0]), False
            for i in range(len(reported) - 1, 0, -1):
                started = started or weighty[i]
                if started:  # until the first cotangent that is not zero, a and g stay zero
                    flow = way.back(i, reported[i], flow + grad[i])
        totals = [None if g is None else g.to(t.dtype) for g, t in zip(way.totals, ctx.used.tensors, strict=True)]
        return flow + grad[0], *totals


class _Joint:
    """One step size for all: (x, a, g) is one state."""

    def __init__(self, mode: Adjoint, problem: Problem, used: Dependence, wrt: list[Tensor]) -> None:
        self.problem, self.used, self.wrt, self.seminorm = problem, used, wrt, mode.seminorm
        self.scheme = mode.scheme or problem.scheme
        self.control = mode.control or problem.control
        if isinstance(self.control, Adaptive):
            self.scheme = self.scheme.tuned(self.control.rtol, self.control.atol)
        self.totals: list[Tensor | None] = [None] * len(wrt)
        self.reached = [False] * len(wrt)
        self.times = reported_times(problem)
        self._checked = False

    def back(self, i: int, x: Tensor, a: Tensor) -> Tensor:
        """a at reported time i - 1 from x and a at reported time i; `totals` are brought there too."""
        dtype = x.dtype.to_real() if x.is_complex() else x.dtype
        sums = [
            torch.zeros(w.shape, dtype=dtype.to_complex() if w.is_complex() else dtype, device=x.device) if g is None else g
            for g, w in zip(self.totals, self.wrt, strict=True)
        ]
        state = (x, a.to(x.dtype), *sums)
        layout = Layout.of(state, batched=False, as_real=self.scheme.real_state)
        row = layout.pack(state)
        field = Rhs(self._field, (), layout, row)
        times = [self.times[i], self.times[i - 1]]
        leg = Problem(field, self.scheme, self._weighted(layout, row), times, row)
        for taken in leg.march(row):
            row = taken.x1
        _see(leg)
        _, a, *totals = layout.unpack(row)
        self.totals = [g if there else None for g, there in zip(totals, self.reached, strict=True)]
        return a

    def _weighted(self, layout: Layout, row: Tensor) -> Control:
        """The control with g left out of its norm: no tolerance to speak of there, and the mean taken over the rest only."""
        control, x0 = self.control, self.problem.x0
        split = layout.as_real and x0.is_complex()
        width = 2 * x0.numel() * (2 if split else 1)
        if not (self.seminorm and isinstance(control, Adaptive)) or width == len(row):
            return control
        share = math.sqrt(width / len(row))
        real = row.dtype.to_real() if row.is_complex() else row.dtype
        atol = torch.as_tensor(control.atol, dtype=real, device=row.device).expand(x0.shape).reshape(-1)
        atol = atol.repeat_interleave(2) if split else atol
        weights = torch.cat([share * atol, share * atol, atol.new_full((len(row) - width,), 1e30)])
        return dataclasses.replace(control, rtol=control.rtol * share, atol=weights)

    def _field(self, t: Time, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        slope, pulled = self._pull(t, state[0], state[1], self.wrt)
        for j, item in enumerate(pulled[1:]):
            self.reached[j] = self.reached[j] or item is not None
        return (slope, *(torch.zeros_like(s) if p is None else -p.to(s.dtype) for p, s in zip(pulled, state[1:], strict=True)))

    def _pull(self, t: Time, x: Tensor, a: Tensor, wrt: Sequence[Tensor]) -> tuple[Tensor, _Pulled]:
        """f(t, x), and the cotangent a pulled back to x and to `wrt`."""
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            slope = self.problem.f(t, x)
        if not slope.requires_grad:  # f depends on nothing
            return slope, (None,) * (1 + len(wrt))
        if not self._checked:
            self.used.check(slope, [x, *self.wrt], lambda: self.problem.f(t, x))
            self._checked = True
        pulled = torch.autograd.grad(slope, [x, *wrt], a, allow_unused=True, retain_graph=self.used.shares_graph)
        return slope.detach(), pulled


# Gauss–Legendre on [0, 1], exact to degree 5: beyond the order of the dense output of any scheme of order 5.
_NODES = tuple((0.5 + 0.5 * s * math.sqrt(0.6), w) for s, w in ((-1, 5 / 18), (0, 8 / 18), (1, 5 / 18)))


class _PerSample(_Joint):
    """Samples with steps of their own: (x, a) is a row a sample, g a quadrature over the accepted steps."""

    def back(self, i: int, x: Tensor, a: Tensor) -> Tensor:
        """a at reported time i - 1, as `_Joint.back`."""
        state = (x, a.to(x.dtype))
        layout = Layout.of(state, batched=True, as_real=self.scheme.real_state)
        row = layout.pack(state)
        field = Rhs(self._pair, (), layout, row)
        times = [self.problem.times[j].reshape(-1, 1) for j in (i, i - 1)]
        leg = Problem(field, self.scheme, self.control, times, row)
        for taken in leg.march(row):
            row = taken.x1
            if self.wrt:
                self._add(taken, layout)
        _see(leg)
        return layout.unpack(row)[1]

    def _pair(self, t: Time, state: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        slope, (pulled,) = self._pull(self._shaped(t), state[0], state[1], ())
        return slope, torch.zeros_like(state[1]) if pulled is None else -pulled

    def _shaped(self, t: Time) -> Time:
        return t.reshape(-1, *[1] * (self.problem.x0.ndim - 1)) if isinstance(t, Tensor) else t

    def _add(self, taken: Taken, layout: Layout) -> None:
        """Add a step's share of g to the totals."""
        t0, t1, _, accept = taken.leg
        assert isinstance(t0, Tensor)
        assert isinstance(t1, Tensor)
        real = taken.x.dtype.to_real() if taken.x.is_complex() else taken.x.dtype  # times may be of higher precision
        width = (t0 - t1).to(real)
        if accept is not None:
            width = torch.where(taken.leg.samples().view(t0.shape), width, 0.0)
        for theta, weight in _NODES:
            x, a = layout.unpack(taken.step.dense(torch.full_like(t0, theta, dtype=real)))
            t = self._shaped(t0 + theta * (t1 - t0))
            _, pulled = self._pull(t, x, a * (self._shaped(width) * weight), self.wrt)
            for j, item in enumerate(pulled[1:]):
                if item is not None:
                    so_far = self.totals[j]
                    self.totals[j] = item.clone() if so_far is None else so_far.add_(item)


def reported_times(problem: Problem) -> list[Any]:
    """The times of all values that a march with shared steps reported, events included."""
    if problem.watch is None or isinstance(problem.times[0], Tensor):
        return problem.times
    times = problem.times[:1]
    for leg in problem.legs:
        for report in leg.reports:
            there = leg.t0 + report.theta * (leg.t1 - leg.t0)
            times.append(there if report.event is not None else problem.times[report.slot])
    return times


def _see(leg: Problem) -> None:
    if not leg.outcome.ok:
        outcome = leg.outcome
        raise SolveError(
            dataclasses.replace(
                outcome,
                message=f"the backward solve of the adjoint failed: {outcome.message}",
                fix="the field run backwards may be unstable: use gradient=Replay(), or report more times",
            )
        )
