"""How far each route to a learned system is from the truth, and hence the step at which the better one changes.

Let x' = f(x) be sampled at steps h with independent noise of standard deviation σ on every sample: y_k = x_k + ε_k. All errors
are *rates*: the root mean square, over components scaled to unit variance, of what is wrong with dx/dt.

**Euler rule.** Fitting f̃(y_k) to (y_{k+1} - y_k)/h and integrating f̃. Without noise f̃ = (Φ_h - id)/h = f + ½h·x'' + O(h²), so
the rate is off by the local truncation error ½h·‖x''‖. With noise, ε_k stands on both sides: E[x_k | y_k] = y_k + σ²∇log p(y_k)
(Tweedie), whence a spurious pull (σ²/h)·∇log p towards the middle of the data. For a density with covariance C that pull has
the size (σ²/h)·√(tr C⁻¹/d): it grows as h falls.

**Flow map.** Fitting G(y_k) to y_{k+1} - y_k and repeating x + G(x). At equal steps this is the *same regression*, G = h·f̃: the
same pull, but no truncation error, because the step it was fitted for is the step it takes. So at equal steps the Euler
rule can at best draw with the flow map.

**Trapezoidal rule.** Fitting ½(f̃(y_k) + f̃(y_{k+1})) to (y_{k+1} - y_k)/h. ε_{k+1} - ε_k and ε_{k+1} + ε_k are uncorrelated, so
the pull (σ²/h) cancels, only σ²·J·∇log p stays; and truncation falls to (h²/12)·‖x'''‖. This a derivative can do and a one-step
map cannot, and why at small h the derivative wins: the two errors cross where (h²/12)·‖x'''‖ ≈ σ²·√(tr C⁻¹/d)/h.

**Noise that moves the system** (process noise), or motion faster than the sampling, grows with the spacing of the samples. A
one-step regression is then the conditional mean itself, without pull, while the trapezoidal rule takes the decay out of it:
the flow map is the better target at every step.

**Measured derivatives** have neither a truncation error nor the pull; their own noise is averaged over the fit.

Reference:
    Hairer, Nørsett & Wanner (1993), "Solving Ordinary Differential Equations I", II.3 and III.1, doi:10.1007/978-3-540-78862-1
    (truncation); Fuller (1987), "Measurement Error Models", doi:10.1002/9780470316665 (noise on both sides); Efron (2011),
    "Tweedie's Formula and Selection Bias", doi:10.1198/jasa.2011.tm11181.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from residyn.errors import InputError

Rule = Literal["trapezoid", "euler", "measured"]

RESOLUTION = 0.002
"""Share of the rate below which an error is taken to be that of the network and its training, and no longer of the route."""

GROWTH = 1.25
"""Noise of measurement does not grow with the spacing (1), Brownian motion does (√2); this is between them."""

UNRESOLVED = 0.5
"""Noise, in standard deviations of the data, above which neighbours hardly know of each other: the motion is not resolved."""

VISIBLE = 0.02
"""Noise, in standard deviations of the data, below which its kind does not matter."""


@dataclass(frozen=True)
class Scales:
    """What of a system and its data decides between the routes; components scaled to unit variance, RMS over them.

    Args:
        step: h, the typical sampling step.
        noise: σ, relative to each component's standard deviation.
        pull: σ²·√(tr C⁻¹/d): h times the spurious rate that noise gives a one-step regression.
        rate: ‖x'‖.
        second: ‖x''‖.
        third: ‖x'''‖.
        growth: Noise seen at twice the spacing over that at the spacing of the data; 1 for noise of measurement.

    >>> oscillator = Scales(step=0.1, noise=0.1, pull=0.01, rate=1.0, second=1.0, third=1.0)
    >>> round(oscillator.euler(), 3), round(oscillator.flow(), 3), round(oscillator.trapezoid(), 3)
    (0.112, 0.1, 0.01)
    """

    step: float
    noise: float
    pull: float
    rate: float
    second: float
    third: float
    growth: float = 1.0

    def truncation(self, rule: Rule = "trapezoid", step: float | None = None) -> float:
        """Rate error of a derivative fitted without noise: ½h·‖x''‖ (Euler) or (h²/12)·‖x'''‖ (trapezoid).

        Args:
            rule: How the derivative is fitted.
            step: h; that of the data if `None`.

        Returns:
            The error, 0 for measured derivatives.
        """
        h = self.step if step is None else step
        return {"euler": h * self.second / 2, "trapezoid": h * h * self.third / 12, "measured": 0.0}[rule]

    def euler(self, step: float | None = None) -> float:
        """Rate error of the Euler rule at step h: truncation and pull."""
        h = self.step if step is None else step
        return math.hypot(self.truncation("euler", h), self.pull / h)

    def flow(self, step: float | None = None) -> float:
        """Rate error of the flow map at step h: the pull."""
        return self.pull / (self.step if step is None else step)

    def trapezoid(self, step: float | None = None) -> float:
        """Rate error of the trapezoidal rule at step h: truncation, and what of the pull does not cancel."""
        curvature = self.second / self.rate if self.rate > 0 else 0.0
        return math.hypot(self.truncation("trapezoid", step), self.pull * curvature)

    def derivative(self, rule: Rule = "trapezoid", step: float | None = None) -> float:
        """Rate error of the derivative route at step h, by rule."""
        if rule == "measured":
            return self.pull * (self.second / self.rate if self.rate > 0 else 0.0)
        return self.euler(step) if rule == "euler" else self.trapezoid(step)

    @property
    def moved(self) -> bool:
        """Whether the noise seems to move the system, or the motion to be faster than the sampling."""
        return self.noise > UNRESOLVED or (self.growth > GROWTH and self.growth * self.noise > VISIBLE)

    def floor(self) -> float:
        """Rate error that a network and its training have anyway."""
        return RESOLUTION * self.rate


def crossover(scales: Scales, rule: Rule = "trapezoid") -> float:
    """The step h* below which the derivative is the better target, above which the flow map is.

    It solves truncation(h)² + rest² = flow(h)² + floor², the left side rising and the right side falling with h. The floor is
    the error of the network itself: a truncation error below it is not seen, and the derivative, which answers at all times,
    is then preferred. Where the noise moves the system itself, h* is 0.

    Args:
        scales: What is known of system and data.
        rule: How the derivative is fitted.

    Returns:
        h*, in the unit of time; inf where no step is too large (measured derivatives, or a straight line).

    Raises:
        InputError: If a scale is negative or not finite.

    >>> exact = Scales(step=0.1, noise=0.1, pull=0.01, rate=0.0, second=1.0, third=1.0)
    >>> round(crossover(exact), 3), round((12 * 0.01) ** (1 / 3), 3)  # (h²/12) = 0.01/h
    (0.493, 0.493)
    """
    values = (scales.pull, scales.rate, scales.second, scales.third)
    if not all(math.isfinite(v) and v >= 0 for v in values):
        raise InputError(f"`scales` must be finite and ≥ 0, got {scales}; estimate them from at least 8 samples")
    if rule != "measured" and scales.moved:
        return 0.0
    truncation = scales.second if rule == "euler" else scales.third
    if rule == "measured" or truncation == 0.0:
        return math.inf
    low, high = 1e-12, 1e12
    for _ in range(200):
        middle = math.sqrt(low * high)
        left = scales.truncation(rule, middle) ** 2
        if rule == "trapezoid" and scales.rate > 0:
            left += min(scales.pull * scales.second / scales.rate, scales.pull / middle) ** 2
        # the pull is common to Euler rule and flow map, so it stands on one side only for the trapezoid
        right = scales.floor() ** 2 + (scales.flow(middle) ** 2 if rule == "trapezoid" else 0.0)
        low, high = (middle, high) if left < right else (low, middle)
    return math.sqrt(low * high)
