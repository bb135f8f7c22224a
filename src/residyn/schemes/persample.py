"""Adaptive steps sample by sample: each row of x `(B, …)` has its own time, step size and verdict; all step together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from residyn.results import Outcome, OutcomeKind
from residyn.schemes import failure
from residyn.schemes.problem import Leg, Problem, Report, Taken

if TYPE_CHECKING:
    from residyn.schemes.control import Adaptive


def march_per_sample(control: Adaptive, problem: Problem, x0: Tensor) -> Iterator[Taken]:
    """Take rounds of steps until every sample is at its last time.

    A sample that has arrived takes steps of length zero. One read a round tells the host all it must know: whether all have
    arrived, whether all were accepted, whether a reported time was passed, whether a step is too small.
    """
    f, scheme, stats = problem.f, problem.scheme, problem.stats
    times = torch.stack(list(problem.times))  # (n, B, 1, …)
    t, end = times[0], times[-1]
    sign = torch.sign(end - t)
    flat = (len(x0), -1)
    root_n = math.sqrt(x0[0].numel())
    x, state = x0, scheme.init(f, t, x0)
    with torch.no_grad():
        h = _initial_steps(control, problem, x0, sign)
        magnitude = x.abs()
        slot = torch.ones(len(x0), dtype=torch.long, device=x.device)
        ulp = 4 * torch.finfo(t.dtype).eps
    exponent = -1.0 / (scheme.error_order + 1)
    for _ in range(control.max_steps):
        left = (end - t) * sign
        t1 = torch.where(h * 1.01 >= left, end, t + h * sign)
        step = scheme.step(f, t, t1, x, state)
        assert step.error is not None  # `solve` has checked that the scheme has an estimate
        error = step.error()
        with torch.no_grad():
            magnitude1 = step.x.abs()
            scale = torch.maximum(magnitude, magnitude1).mul_(control.rtol).add_(control.atol)
            ratio = torch.linalg.vector_norm(error.div_(scale).reshape(flat), dim=1).div_(root_n).view_as(t)
            accept = (ratio <= 1.0) | (h <= control.min_step)
            factor = ratio.pow(exponent).mul_(control.safety).clamp_(control.min_factor, control.max_factor)
            factor = torch.nan_to_num(factor, nan=control.min_factor)
            t_next = torch.where(accept, t1, t)
            left_next = (end - t_next) * sign
            passed = _passed(times, slot, t_next, sign)
            tiny = (h <= ulp * t.abs()) & (left_next > 0)
            flags = torch.stack([(left_next <= 0).all(), accept.all(), passed.any(), tiny.any()])
            arrived, all_accepted, any_passed, any_tiny = flags.tolist()
            grown = h * torch.where(accept, factor, factor.clamp(max=1.0))
            h = grown.clamp(control.min_step, control.max_step)
        stats.accepted += all_accepted
        stats.rejected += not all_accepted
        if any_tiny:
            problem.outcome = _underflow(problem, tiny, step.failed, t, x, h)
            return
        reports, slot = _reports(times, slot, passed, t, t1) if any_passed else ((), slot)
        mask = None if all_accepted else accept
        x1 = step.x if mask is None else torch.where(mask, step.x, x)
        yield Taken(Leg(t, t1, reports, mask), x, x1, step)
        if arrived:
            f.forget()
            return
        state = step.state if mask is None else scheme.merge(mask, step.state, state)
        t, x = t_next, x1
        magnitude = magnitude1 if mask is None else torch.where(mask, magnitude1, magnitude)
    problem.outcome = _failed(problem, "max_steps", (end - t) * sign > 0, t, x, h)


def _passed(times: Tensor, slot: Tensor, t: Tensor, sign: Tensor) -> Tensor:
    """Which samples are at or past the next time they have to report, `(B,)`."""
    due = times.reshape(len(times), -1).T.gather(1, slot.clamp(max=len(times) - 1)[:, None])[:, 0]
    return ((t - due.view_as(t)) * sign >= 0).flatten() & (slot < len(times))


def _reports(times: Tensor, slot: Tensor, passed: Tensor, t0: Tensor, t1: Tensor) -> tuple[tuple[Report, ...], Tensor]:
    """The reported times that each sample passes in this step; a sample may pass several."""
    sign = torch.sign(times[-1] - times[0])
    found = []
    width = torch.where(t1 == t0, 1.0, t1 - t0)
    while bool(passed.any()):
        rows = passed.nonzero()[:, 0]
        due = times.reshape(len(times), -1).T.gather(1, slot.clamp(max=len(times) - 1)[:, None])
        theta = ((due.view_as(t0) - t0) / width).clamp(0.0, 1.0)
        found.append(Report(slot[rows], theta, rows))
        slot = slot + passed
        passed = _passed(times, slot, t1, sign) & passed
    return tuple(found), slot


def _initial_steps(control: Adaptive, problem: Problem, x0: Tensor, sign: Tensor) -> Tensor:
    """A first step for each sample, `(B, 1, …)`, positive; see `control.initial_step`."""
    f, t0 = problem.f, problem.times[0]
    span = (problem.times[-1] - t0).abs()
    if control.first_step is not None:
        return torch.full_like(t0, control.first_step).clamp(max=control.max_step)
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
    return torch.minimum(100 * h0, h1).minimum(span).clamp(max=control.max_step)


def _underflow(problem: Problem, tiny: Tensor, failed: Tensor | None, t: Tensor, x: Tensor, h: Tensor) -> Outcome:
    """The outcome where a step became too small, perhaps because its equations could not be solved."""
    outcome = _failed(problem, "step_underflow", tiny, t, x, h)
    if failed is None or outcome.kind != "step_underflow" or not bool((failed & tiny).any()):
        return outcome
    return failure.root_failed(problem, t, h, failed & tiny, "f jumps there or is not defined beyond: end before it")


def _failed(problem: Problem, kind: OutcomeKind, which: Tensor, t: Tensor, x: Tensor, h: Tensor) -> Outcome:
    """The outcome for the first sample that failed, looked at by itself."""
    row = int(which.flatten().to(torch.uint8).argmax())
    slope = problem.f(t, x)[row]
    flat = torch.nan_to_num(slope.abs(), nan=math.inf).flatten()
    component = int(flat.argmax())
    time, step = float(t.flatten()[row]), float(h.flatten()[row])
    place = f"sample {row}, component {component}"
    if not failure.finite(slope):
        message = f"f(t, x) returned nan or inf at t = {time:.6g} with h = {step:.6g}, in {place}"
        return Outcome("non_finite", message, "see what f computes there", time, step, component, row)
    if kind == "max_steps":
        tried = problem.stats.accepted + problem.stats.rejected
        message = f"{tried} steps were tried and {place} has reached only t = {time:.6g}, h = {step:.6g}"
        fix = "raise `max_steps`, loosen rtol and atol, or use an implicit scheme if the problem is stiff"
        return Outcome("max_steps", message, fix, time, step, component, row)
    message = f"the step size of {place} fell to {step:.6g} at t = {time:.6g}"
    fix = "the solution has a singularity there, or f a jump: end before it, start again after it, or loosen atol"
    return Outcome("step_underflow", message, fix, time, step, component, row)
