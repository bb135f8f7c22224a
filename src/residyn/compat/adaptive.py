"""Marches whose steps follow the error, with torchdiffeq's options: prescribed steps, jumps, least and greatest step, norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from residyn.compat.inputs import Inputs, Nudged, Time
from residyn.compat.located import Interval
from residyn.schemes.base import Scheme, Step
from residyn.schemes.explicit import Slope

OPTIONS = (
    "norm", "min_step", "max_step", "first_step", "step_t", "jump_t", "safety", "ifactor", "dfactor", "max_num_steps", "dtype",
)  # fmt: skip


class Accepted(NamedTuple):
    """A step that was kept."""

    t0: float
    t1: float
    y0: Tensor
    step: Step


@dataclass
class March:
    """Steps from y0, in either direction, as long as the norm of error/(atol + rtol·|y|) stays at 1 or below.

    Args:
        inputs: The call.
        scheme: How a step is taken.
        t: The start; then the end, or nothing for a march until an event.
        sign: 1.0 forwards in time, -1.0 backwards.
    """

    inputs: Inputs
    scheme: Scheme
    t: list[float]
    sign: float
    min_step: float = field(init=False)
    max_step: float = field(init=False)

    def __post_init__(self) -> None:
        options = self.inputs.options
        self.min_step, self.max_step = float(options.get("min_step", 0.0)), float(options.get("max_step", math.inf))
        self.safety, self.ifactor = float(options.get("safety", 0.9)), float(options.get("ifactor", 10.0))
        self.dfactor = float(options.get("dfactor", 0.2))
        self.order = self.scheme.error_order + 1
        self.end = self.t[-1] if len(self.t) > 1 else self.sign * math.inf
        jumps, stops = self._prescribed("jump_t"), self._prescribed("step_t")
        if len({*jumps, *stops}) < len(jumps) + len(stops):
            raise ValueError("`step_t` and `jump_t` must not have any repeated elements between them.")
        self.jumps = set(jumps)
        self.stops = sorted([*jumps, *stops], key=lambda t: self.sign * t)

    def _prescribed(self, name: str) -> list[float]:
        times = self.inputs.options.get(name)
        if times is None:
            return []
        return [t for t in torch.as_tensor(times, dtype=torch.float64).tolist() if self.sign * (t - self.t[0]) >= 0]

    def steps(self, y0: Tensor) -> Iterator[Accepted]:
        """The steps that are kept, until the end; without one, for ever."""
        inputs, scheme, sign, tell = self.inputs, self.scheme, self.sign, self.inputs.callbacks
        t, y, end = self.t[0], y0, self.end
        state: Any = Slope(inputs.f(t, y))
        first = inputs.options.get("first_step")
        length = self._first(t, y, state.end().detach()) if first is None else float(first)
        stops = [stop for stop in self.stops if sign * (stop - t) > 0]
        magnitude = y.detach().abs()
        while sign * (end - t) > 0:
            length = min(max(length, self.min_step), self.max_step)
            h, t1 = sign * length, t + sign * length
            tell("callback_step", t, y, h)
            if not sign * (t1 - t) > 0:
                raise AssertionError(f"underflow in dt {length} at t = {t}: the solution, or f, has a singularity there")
            if stops and sign * (t1 - stops[0]) > 0:
                t1, h = stops[0], stops[0] - t
            if sign * (t1 - end) >= 0:  # to the end and not beyond: f may not be defined there
                t1, h = end, end - t
            jump = t1 in self.jumps
            f = Nudged(inputs.f, t, t1, start=False) if jump else inputs.f
            step = scheme.step(f, t, t1, y, state)
            ratio, magnitude1 = self._ratio(step, magnitude)
            if ratio <= 1.0 or (abs(h) <= self.min_step and ratio == ratio):
                tell("callback_accept_step", t, y, h)
                yield Accepted(t, t1, y, step)
                if stops and t1 == stops[0]:
                    stops.pop(0)
                    # f beyond the jump is another one: asked just after it
                    step = step._replace(state=Slope(Nudged(inputs.f, t1, t1 + h)(t1, step.x))) if jump else step
                t, y, state, magnitude = t1, step.x, step.state, magnitude1
            else:
                tell("callback_reject_step", t, y, h)
                self._finite(y, ratio, length)
            length = self._next(abs(h), length, ratio)

    def _ratio(self, step: Step, magnitude: Tensor) -> tuple[float, Tensor]:
        """The norm of error/(atol + rtol·max(|y0|, |y1|)), and |y1|."""
        inputs = self.inputs
        assert step.error is not None  # every adaptive method has an estimate
        error = step.error()
        with torch.no_grad():
            magnitude1 = step.x.abs()
            scale = torch.maximum(magnitude, magnitude1) * inputs.rtol + inputs.atol
            scaled = error / scale
            if inputs.default_norm and inputs.shapes is None:
                return float(torch.linalg.vector_norm(scaled)) / math.sqrt(max(scaled.numel(), 1)), magnitude1
            return abs(float(inputs.norm(scaled))), magnitude1

    def _next(self, taken: float, length: float, ratio: float) -> float:
        """The length to try next."""
        if ratio == 0.0:
            return taken * self.ifactor
        if not ratio < math.inf:
            return taken * self.dfactor
        least = 1.0 if ratio < 1.0 else self.dfactor
        proposed = taken * min(self.ifactor, max(self.safety / ratio ** (1.0 / self.order), least))
        # a step cut short by a prescribed time tells nothing against the length that was meant
        return max(proposed, length) if ratio <= 1.0 and taken < length else proposed

    def _finite(self, y: Tensor, ratio: float, length: float) -> None:
        if ratio == ratio:
            return
        if not bool(torch.isfinite(y).all()):
            raise AssertionError(f"non-finite values in state `y`: {y}")
        if length <= self.min_step:
            raise AssertionError(f"non-finite values after a step of min_step {self.min_step}; make it smaller")

    @torch.no_grad()
    def _first(self, t: float, y: Tensor, slope: Tensor) -> float:
        """A first length for which an Euler step changes y by about a hundredth of its scale (Hairer et al., II.4)."""
        inputs = self.inputs
        scale = y.abs() * inputs.rtol + inputs.atol
        d0, d1 = self._size(y / scale), self._size(slope / scale)
        h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
        h0 = min(h0, abs(self.end - t)) if math.isfinite(h0) else 1e-6
        ahead = inputs.f(t + self.sign * h0, y + (self.sign * h0) * slope)
        top = max(d1, self._size((ahead - slope) / scale) / h0)
        if not math.isfinite(top):
            return h0
        h1 = max(1e-6, h0 * 1e-3) if top <= 1e-15 else (0.01 / top) ** (1.0 / self.order)
        return min(100 * h0, h1)

    def _size(self, row: Tensor) -> float:
        return abs(float(self.inputs.norm(row)))

    def integrate(self, y0: Tensor, t: Tensor) -> Tensor:
        """The state at each of the times, `(n, *shape)`."""
        moved = t.requires_grad and torch.is_grad_enabled()
        start = y0
        if moved:  # ∂y/∂t0 = -(∂y/∂y0)·f(t0, y0): the start moves along the flow
            start = y0 - (t[0] - t[0].detach()).to(y0.dtype) * self.inputs.f(self.t[0], y0)
        values, slot, count = [y0], 1, 0
        limit = float(self.inputs.options.get("max_num_steps", 2**31 - 1))
        for kept in self.steps(start) if len(self.t) > 1 else ():
            count += 1
            while slot < len(self.t) and self.sign * (self.t[slot] - kept.t1) <= 0:
                values.append(_report(kept, self.t[slot], t[slot] if moved else None))
                slot, count = slot + 1, 0
            if count >= limit:
                raise AssertionError(f"max_num_steps exceeded ({count}>={int(limit)})")
        return torch.stack(values)

    def until(self, event: Callable[[Tensor, Tensor], Tensor], y0: Tensor) -> tuple[Tensor, Tensor]:
        """Time and state where the event's value changes sign for the first time."""
        limit = int(self.inputs.options.get("max_num_steps", 2**31 - 1))
        interval = Interval(event, self.t[0], y0)
        if interval.value == 0:
            return interval.time(self.t[0]), y0
        for count, kept in enumerate(self.steps(y0)):
            found = interval.crossing(kept.t0, kept.t1, kept.step.x, kept.step.dense)
            if found is not None:
                return found
            if count + 1 >= limit:
                raise AssertionError(f"max_num_steps exceeded ({count + 1}>={limit})")
        raise AssertionError("unreachable: a march without an end goes on")


def _report(kept: Accepted, time: float, moved: Tensor | None) -> Tensor:
    """The state at a reported time, with its gradient by that time if it is wanted."""
    step = kept.step
    if time == kept.t1:
        if moved is None:
            return step.x
        return step.x + (moved - moved.detach()).to(step.x.dtype) * step.state.end()
    theta: Time = (time - kept.t0) / (kept.t1 - kept.t0)
    if moved is not None:
        real = step.x.dtype.to_real() if step.x.dtype.is_complex else step.x.dtype
        theta = ((moved - kept.t0) / (kept.t1 - kept.t0)).to(real)
    return step.dense(theta)
