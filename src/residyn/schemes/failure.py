"""Why a march ended early: the time, the step, the component and sample that dominate, and whether the problem looks stiff."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from residyn.results import Outcome, OutcomeKind
from residyn.schemes.base import Time
from residyn.state import inside_transform

if TYPE_CHECKING:
    from residyn.schemes.problem import Leg, Problem

STIFF_FIX = "the problem looks stiff: use an implicit scheme, or a smaller rtol if it is not"
SINGULAR_FIX = "the solution has a singularity there, or f a jump: end before it, start again after it, or loosen atol"
BROKEN_FIX = {
    "f(t, x)": "see what f computes there",
    "the step": "f is not defined beyond, or the solution blows up: end before it",
}


def finite(x: Tensor) -> bool:
    """Whether all of x is finite; taken as true inside a torch.func transform, where nobody can look."""
    return inside_transform() or bool(torch.isfinite(x).all())


@torch.no_grad()
def first_non_finite(problem: Problem, legs: Sequence[Leg], x: Tensor) -> tuple[Outcome, int]:
    """Take some legs again, from the last state known to be finite, and say which one broke it, and its number."""
    calm, state = x, problem.scheme.init(problem.f, legs[0].t0, x)
    for number, leg in enumerate(legs):  # noqa: B007 - the one that broke is returned
        step = problem.scheme.step(problem.f, leg.t0, leg.t1, x, state)
        x1 = step.x
        if not finite(x1):
            break
        x, state = x1, step.state
    h = leg.t1 - leg.t0
    if step.failed is not None and bool(step.failed.any()):
        fix = "use more steps, or raise `max_iterations` of the scheme"
        return root_failed(problem, leg.t0, h, step.failed, fix), number
    fix = "use more steps, a scheme with a larger stability region, or an implicit one"
    return _non_finite(problem, leg.t0, x, h, x1, fix, looks_stiff(problem, legs[0].t0, calm, h)), number


@torch.no_grad()
def underflow(problem: Problem, t: Time, x: Tensor, h: Time, broke: float = 0.0) -> Outcome:
    """The step size fell below what the time can resolve; `broke` is the first step from t that gave nan, if one did."""
    slope = problem.f(t, x)
    if not finite(slope):
        return _non_finite(problem, t, x, h, slope, BROKEN_FIX["f(t, x)"])
    if broke:
        trial = problem.scheme.step(problem.f, t, t + broke, x, problem.scheme.init(problem.f, t, x))
        unsolved = trial.failed is not None and bool(trial.failed.any())
        if unsolved and trial.failed is not None and finite(problem.f(t + broke, x)):
            return root_failed(problem, t, broke, trial.failed, "f jumps there or is not defined beyond: end before it")
        if not finite(trial.x):
            return _non_finite(problem, t, x, broke, trial.x, BROKEN_FIX["the step"], looks_stiff(problem, t, x, broke))
    sample, component, place = locate(problem, slope)
    fix = SINGULAR_FIX
    if abs(_number(h)) > 1e-9 * abs(_number(problem.times[-1]) - _number(problem.times[0])):
        fix = "a time as large as this one resolves no shorter step: count time from the start of the span"
    message = f"the step size fell to {_show(h)} at t = {_show(t)}, where {place} changes fastest, |f| = {_top(slope):.3g}"
    return Outcome("step_underflow", message, fix, _number(t), _number(h), component, sample, looks_stiff(problem, t, x, h))


def inaccurate(kept: int, min_step: float) -> Outcome:
    """Success; what `min_step` kept although its error was too large is told."""
    if not kept:
        return Outcome("success")
    message = f"{kept} steps of min_step = {min_step:g} were kept although their errors exceed the tolerances"
    return Outcome("success", message, "lower `min_step`, or loosen rtol and atol")


@torch.no_grad()
def too_many(problem: Problem, max_steps: int, t: Time, x: Tensor, h: Time) -> Outcome:
    """The steps ran out."""
    stiff = looks_stiff(problem, t, x, h)
    sample, component, place = locate(problem, _error_ratio(problem, t, x, h))
    message = f"{max_steps} steps were tried and t = {_show(t)} reached, with h = {_show(h)}; {place} dominates the error"
    fix = STIFF_FIX if stiff else "raise `max_steps`, or loosen rtol and atol"
    return Outcome("max_steps", message, fix, _number(t), _number(h), component, sample, stiff)


def overflow(problem: Problem, t: float, h: float, broken: Tensor) -> Outcome:
    """Equal steps of a linear branch left the numbers, somewhere after t."""
    sample, component, place = locate(problem, broken)
    word = "nan" if bool(torch.isnan(broken).any()) else "inf"
    message = f"equal steps led to {word} after t = {_show(t)} with h = {_show(h)}, in {place}"
    fix = "use more steps: h·λ lies outside the scheme's stability region"
    return Outcome("non_finite", message, fix, t, h, component, sample)


def _non_finite(problem: Problem, t: Time, x: Tensor, h: Time, broken: Tensor, fix: str, stiff: bool | None = None) -> Outcome:
    slope = problem.f(t, x)
    if not finite(slope):
        broken, source, fix = slope, "f(t, x)", BROKEN_FIX["f(t, x)"]
    else:
        source = "the step"
    sample, component, place = locate(problem, broken)
    what = "nan" if bool(torch.isnan(broken).any()) else "inf"
    message = f"{source} returned {what} at t = {_show(t)} with h = {_show(h)}, in {place}"
    fix = STIFF_FIX if stiff and source == "the step" else fix
    return Outcome("non_finite", message, fix, _number(t), _number(h), component, sample, stiff)


def root_failed(problem: Problem, t: Time, h: Time, failed: Tensor, fix: str) -> Outcome:
    """The equations of an implicit step were not solved."""
    sample = int(failed.flatten().to(torch.uint8).argmax()) if failed.ndim else None
    place = "" if sample is None else f", for sample {sample}"
    kind = problem.scheme.failure
    equations = "a singular linear system" if kind == "singular" else "equations that Newton's method did not solve"
    message = f"{type(problem.scheme).__name__} met {equations} at t = {_show(t)} with h = {_show(h)}{place}"
    return Outcome(kind, message, fix, _number(t), _number(h), None, sample)


def locate(problem: Problem, badness: Tensor) -> tuple[int | None, int | None, str]:
    """Where something is largest, or not finite: (sample, component, the place in words)."""
    flat = torch.nan_to_num(badness.abs(), nan=math.inf, posinf=math.inf).flatten()
    at = int(flat.argmax())
    layout = problem.f.layout
    if layout is not None and not layout.batched:
        from residyn.state import leaves

        start = 0
        for i, leaf in enumerate(leaves(layout.tree)):
            width = leaf.numel() * (2 if layout.as_real and leaf.is_complex() else 1)
            if at < start + width:
                return None, at - start, f"component {at - start} of tensor {i} of x"
            start += width
    if badness.ndim <= 1:
        return None, at, f"component {at}"
    width = badness[0].numel()
    sample, component = divmod(at, width)
    return sample, component, f"component {component} of sample {sample}"


def looks_stiff(problem: Problem, t: Time, x: Tensor, h: Time, row: int | None = None) -> bool | None:
    """Whether h·λ lies where explicit schemes end, for the fastest decaying mode λ of ∂f/∂x that a few products find.

    `row` is the sample to look at, where each has its own time.
    """
    if row is None and isinstance(t, Tensor):
        return None
    base = problem.f(t, x)
    direction, size, rayleigh = base, 0.0, 0.0
    for _ in range(4):
        if row is not None:
            direction = torch.where(torch.arange(len(x), device=x.device).view(-1, *[1] * (x.ndim - 1)) == row, direction, 0)
        norm = float(torch.linalg.vector_norm(direction))
        if not 0 < norm < math.inf:
            return None
        delta = 1e-6 if x.dtype.to_real() == torch.float64 else 1e-3
        state = x if row is None else x[row]
        probe = direction * (delta * (1.0 + float(torch.linalg.vector_norm(state))) / norm)
        image = problem.f(t, x + probe) - base
        length = float(torch.linalg.vector_norm(probe))
        size = float(torch.linalg.vector_norm(image)) / length
        rayleigh = float((probe.conj() * image).sum().real) / length**2
        direction = image
    return bool(abs(_number(h)) * size > 1.0 and rayleigh * math.copysign(1.0, _number(h)) < -0.5 * size)


def _error_ratio(problem: Problem, t: Time, x: Tensor, h: Time) -> Tensor:
    step = problem.scheme.step(problem.f, t, t + h, x, problem.scheme.init(problem.f, t, x))
    return x if step.error is None else step.error() / (x.abs() + 1e-3 * (x.abs().max() + 1e-30))


def _number(t: Time) -> float:
    return float(t.flatten()[0]) if isinstance(t, Tensor) else t


def _show(t: Time) -> str:
    return f"{_number(t):.6g}"


def _top(x: Tensor) -> float:
    return float(x.abs().max())


@torch.no_grad()
def sample_failed(problem: Problem, kind: OutcomeKind, row: int, t: Tensor, h: float, broke: float, x: Tensor) -> Outcome:
    """The outcome for a sample that failed.

    Args:
        problem: The problem.
        kind: What stopped the march.
        row: The sample.
        t: The times of all samples, `(B, 1, …)`.
        h: The step it tried last, or the first from here that gave nan.
        broke: That step, if there was one; else 0.
        x: The states of all samples.
    """
    time = float(t.reshape(-1)[row])
    slope, what = problem.f(t, x)[row], "f(t, x)"
    if finite(slope) and broke:
        h, what = broke, "the step"
        ahead = t + torch.where(torch.arange(len(x), device=t.device).view(t.shape) == row, broke, 0.0)
        slope = problem.scheme.step(problem.f, t, ahead, x, problem.scheme.init(problem.f, t, x)).x[row]
    component = int(torch.nan_to_num(slope.abs(), nan=math.inf).flatten().argmax())
    place = f"component {component} of sample {row}"
    if not finite(slope):
        word = "nan" if bool(torch.isnan(slope).any()) else "inf"
        message = f"{what} returned {word} at t = {time:.6g} with h = {h:.6g}, in {place}"
        return Outcome("non_finite", message, BROKEN_FIX[what], time, h, component, row)
    stiff = looks_stiff(problem, t, x, h, row) if what == "f(t, x)" else None
    if kind == "max_steps":
        tried = problem.stats.accepted + problem.stats.rejected
        message = f"{tried} steps were tried and {place} has reached only t = {time:.6g}, with h = {h:.6g}"
        fix = STIFF_FIX if stiff else "raise `max_steps`, or loosen rtol and atol"
        return Outcome("max_steps", message, fix, time, h, component, row, stiff)
    message = f"the step size of {place} fell to {h:.6g} at t = {time:.6g}"
    return Outcome("step_underflow", message, SINGULAR_FIX, time, h, component, row, stiff)
