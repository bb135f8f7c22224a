"""The laws of a scheme."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from residyn.branch import Generator
from residyn.errors import InputError
from residyn.flow import solve
from residyn.results import Finding
from residyn.schemes.base import Scheme, Step, Time
from residyn.schemes.control import Fixed
from residyn.testing.report import Report

_FLOOR = 2e-14
"""Errors below this are rounding of some tens of steps; slopes are taken above it."""

_SOLVER = 1e-7
"""Below this lies what an implicit scheme's Newton iteration leaves."""

_POINTS = (-0.5 + 0.0j, 0.3 + 0.0j, 0.7j, -0.4 + 1.1j, -2.0 - 0.5j, 0.05 - 0.02j)


class Coupled(Generator):
    """u' = -2t·u², v' = -u·v: coupled, not linear, not autonomous; u = 1/(1 + t²), v = exp(-arctan t).

    On many a field the leading error of a good scheme nearly vanishes (that is how good schemes are found), and the slope shows
    the next order until all digits are gone. On this one the published schemes show their own.
    """

    def matrix(self, t: Time, x: Tensor) -> Tensor:
        """A(t, x), `(2, 2)`."""
        return torch.diag_embed(torch.stack([-2.0 * t * x[..., 0], -x[..., 0]], -1))

    def solution(self, t: float) -> Tensor:
        """x(t), `(2,)`."""
        return torch.tensor([1.0 / (1.0 + t * t), math.exp(-math.atan(t))], dtype=torch.float64)


class Scalar(Generator):
    """x' = λ·x."""

    def __init__(self, rate: complex) -> None:
        super().__init__()
        self.rate = rate

    def matrix(self, t: Time, x: Tensor) -> Tensor:
        """λ as a matrix, `(1, 1)`."""
        return torch.full((1, 1), self.rate, dtype=x.dtype, device=x.device)


def check_scheme(scheme: Scheme) -> list[Finding]:
    """Check that a scheme is what it says: its order, stability function, error estimate, dense output, either direction.

    The order is measured on a nonlinear field that depends on the time and whose solution is known, which a scheme with a slip
    in a node fails though it passes on x' = λx. Both test fields are `Generator` branches, so exponential schemes take part.

    Args:
        scheme: The scheme; its state handed from step to step is used as in a solve.

    Returns:
        One finding a law kept, with what was measured.

    Raises:
        ConformanceError: At the first law that is broken, with its name, the value and the tolerance.
        InputError: If `scheme` is not a scheme.

    >>> from residyn.schemes import RK4
    >>> [round(f.value, 1) for f in check_scheme(RK4()) if f.id == "scheme.order"]
    [4.0]
    """
    if not isinstance(scheme, Scheme):
        raise InputError(f"`scheme` must be a Scheme such as RK4(), got {scheme!r}; make one of the class if you handed it in")
    report = Report("scheme", repr(scheme))
    order = _convergence(scheme, 0.0, 1.0)
    # 0.15 is what the next terms leave at errors near 1e-13; a wrong coefficient costs a whole order.
    report.law("order", "measured order of convergence", order, 0.15, "check every order condition", theory=scheme.order)
    order = _convergence(scheme, 1.0, 0.0)
    report.law("backwards", "order with the time running back", order, 0.15, "use t1 - t0 with its sign", theory=scheme.order)
    _check_stability(report, scheme)
    _check_one_step(report, scheme)
    _check_precision(report, scheme)
    return report.findings


def _check_stability(report: Report, scheme: Scheme) -> None:
    """R against steps of x' = λx with complex states, and against its rational form."""
    points = torch.tensor(_POINTS, dtype=torch.complex128)
    said = scheme.stability(points)
    gaps = []
    for rate, value in zip(_POINTS, said.tolist(), strict=True):
        x0 = torch.ones(1, dtype=torch.complex128)
        end = solve(Scalar(rate), x0, [0.0, 1.0], scheme=scheme, control=Fixed(steps=1)).x[-1]
        gaps.append(abs(complex(end[0]) - value) / max(1.0, abs(value)))
    report.law("stability", "x' = λx is x⁺ = R(hλ)·x", max(gaps), _SOLVER, "derive R from the scheme as it is coded")
    rational = scheme.rational()
    if rational is not None:
        gap = float((rational(points) - said).abs().max())
        # Coefficients of up to fourteen terms, each rounded once.
        report.law("rational", "`rational()` is `stability`", gap, 1e-11, "return the same function")
    # R(z) = exp(z) + O(z^(p+1)): at |z| = 1e-2 rounding hides it above order 5, which the measured order covers.
    z = torch.tensor([1e-2, 1e-2j, -1e-2], dtype=torch.complex128)
    gap = float((scheme.stability(z) - torch.exp(z)).abs().max())
    report.law("consistent", "R(z) = exp(z) + O(z^(p+1))", gap, 1e-2 ** (scheme.order + 1) + 1e-14, "R(0) = R'(0) = 1")


def _check_one_step(report: Report, scheme: Scheme) -> None:
    """Ends and order of the dense output, order of the error estimate, and the state that is handed on."""
    field = Coupled()
    x0 = field.solution(0.0)
    step = _first_step(scheme, field, x0, 0.1)
    ends = max(float((step.dense(0.0) - x0).abs().max()), float((step.dense(1.0) - step.x).abs().max()))
    # Sums of a dozen stages with weights up to some tens.
    report.law("dense_ends", "the dense output starts at x0 and ends at x1", ends, 1e-12, "check the weights at θ = 0 and 1")
    slope = _local_slope(scheme, lambda step, h: float((step.dense(0.4) - field.solution(0.4 * h)).norm()))
    if slope is not None:
        # Order p - 1 between steps does not show after them: O(h^p) in a step. A cubic, O(h⁴), is what may be asked of any.
        asked = float(min(scheme.order, 4))
        value = min(slope, asked)
        report.law("dense_order", "the dense output is O(h^min(p, 4)) or better", value, 0.35, "use more stages", theory=asked)
    report.require(
        "estimate", "an error estimate exists just if `error_order` says so", (step.error is None) == (scheme.error_order == 0),
        f"error_order = {scheme.error_order}, estimate: {step.error is not None}", "set `error_order` of the estimate",
    )  # fmt: skip
    if scheme.error_order:
        slope = _local_slope(scheme, lambda step, h: float(step.error().norm()) if step.error else 0.0)
        if slope is not None:
            asked = scheme.error_order + 1
            report.law("error_order", "the error estimate is O(h^(q+1))", slope, 0.35, "set `error_order` to q", theory=asked)
    if not scheme.carries_memory:
        handed = scheme.step(field, 0.1, 0.2, step.x, step.state).x
        fresh = scheme.step(field, 0.1, 0.2, step.x, scheme.init(field, 0.1, step.x)).x
        gap = float((handed - fresh).abs().max())
        report.law("state", "a step from the state handed on is a step from `init`", gap, _SOLVER, "check what is carried")


def _check_precision(report: Report, scheme: Scheme) -> None:
    """Single precision in, single precision out."""
    x0 = Coupled().solution(0.0).float()
    step = _first_step(scheme, Coupled(), x0, 0.1)
    got = {step.x.dtype, step.dense(0.5).dtype}
    report.require("dtype", "the dtype of x is kept", got == {torch.float32}, str(got), "make tensors like x")


def _first_step(scheme: Scheme, field: Coupled, x0: Tensor, h: float) -> Step:
    return scheme.step(field, 0.0, h, x0, scheme.init(field, 0.0, x0))


def _convergence(scheme: Scheme, start: float, end: float) -> float:
    """Slope of log error over log h where the error is smallest and not yet rounding."""
    field = Coupled()
    counts, errors = [], []
    for k in range(13):
        steps = math.ceil(3 * 2 ** (k / 2))
        x = solve(field, field.solution(start), [start, end], scheme=scheme, control=Fixed(steps=steps)).x[-1]
        error = float((x - field.solution(end)).norm())
        if error < _floor(scheme):
            break
        counts.append(steps)
        errors.append(error)
    return _slope([1.0 / n for n in counts[-3:]], errors[-3:])


def _floor(scheme: Scheme) -> float:
    """Rounding, and what an iteration inside an implicit scheme leaves besides."""
    rational = scheme.rational()
    return _FLOOR if rational is not None and not any(rational.denominator[1:]) else 5 * _FLOOR


def _local_slope(scheme: Scheme, error: Callable[[Step, float], float]) -> float | None:
    """Slope of an error of the first step over its length; None if all of it is rounding."""
    field = Coupled()
    lengths, errors = [], []
    for k in range(12):
        h = 0.4 * 2.0 ** (-k / 2)
        value = error(_first_step(scheme, field, field.solution(0.0), h), h)
        if value < _floor(scheme):
            break
        lengths.append(h)
        errors.append(value)
    return _slope(lengths[-4:], errors[-4:]) if len(lengths) >= 3 else None


def _slope(lengths: list[float], errors: list[float]) -> float:
    if len(lengths) < 2:
        return math.nan
    return float(np.polyfit(np.log(lengths), np.log(errors), 1)[0])
