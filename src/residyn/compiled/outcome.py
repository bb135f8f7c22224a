"""Why a compiled march with steps a sample ended early, in the words of the eager one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from residyn.results import Outcome, OutcomeKind
from residyn.schemes import failure
from residyn.schemes.problem import Problem


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
    if failure.finite(slope) and broke:
        h, what = broke, "the step"
        ahead = t + torch.where(torch.arange(len(x)).view(t.shape) == row, broke, 0.0)
        slope = problem.scheme.step(problem.f, t, ahead, x, problem.scheme.init(problem.f, t, x)).x[row]
    component = int(torch.nan_to_num(slope.abs(), nan=math.inf).flatten().argmax())
    place = f"component {component} of sample {row}"
    if not failure.finite(slope):
        word = "nan" if bool(torch.isnan(slope).any()) else "inf"
        message = f"{what} returned {word} at t = {time:.6g} with h = {h:.6g}, in {place}"
        return Outcome("non_finite", message, failure.BROKEN_FIX[what], time, h, component, row)
    stiff = failure.looks_stiff(problem, t, x, h, row)
    if kind == "max_steps":
        tried = problem.stats.accepted + problem.stats.rejected
        message = f"{tried} steps were tried and {place} has reached only t = {time:.6g}, with h = {h:.6g}"
        fix = failure.STIFF_FIX if stiff else "raise `max_steps`, or loosen rtol and atol"
        return Outcome("max_steps", message, fix, time, h, component, row, stiff)
    message = f"the step size of {place} fell to {h:.6g} at t = {time:.6g}"
    return Outcome("step_underflow", message, failure.SINGULAR_FIX, time, h, component, row, stiff)
