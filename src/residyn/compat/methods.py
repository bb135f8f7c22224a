"""Which march a method name stands for, and what options it knows."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from residyn.compat import adaptive, fixed, implicit, multistep, scipy_solver
from residyn.compat.adaptive import March
from residyn.compat.fixed import Explicit, Grid, OneStep
from residyn.compat.implicit import ImplicitStages
from residyn.compat.inputs import CALLBACKS, Inputs
from residyn.compat.multistep import Adams
from residyn.compat.scipy_solver import SciPy
from residyn.compat.tableaus import DOPRI8_DENSE, FEHLBERG2, HEUN3, IMPLICIT, RK38
from residyn.schemes import tableaus
from residyn.schemes.base import Field, Scheme, Step, Time
from residyn.schemes.explicit import Bosh3, Dopri5, Dopri8, ExplicitRungeKutta, Slope, Stages, Tsit5, hermite


class Reusing(ExplicitRungeKutta):
    """A scheme whose last stage stands for f at the end of the step, as torchdiffeq has it: an evaluation less a step."""

    def step(self, f: Field, t0: Time, t1: Time, x: Tensor, state: Any) -> Step:
        """Take one step."""
        first = f(t0, x) if state is None else state.end()
        stages = Stages(self.tableau, f, t0, t1, x, first)
        return Step(stages.x1, stages.error, functools.partial(hermite, stages, 2), Slope(stages.ks[-1]))


class AdaptiveHeun(Reusing):
    """Heun 2(1)."""

    order = 2
    error_order = 1
    tableau = tableaus.HEUN


class Fehlberg2(Reusing):
    """Fehlberg 2(1)."""

    order = 2
    error_order = 1
    tableau = FEHLBERG2


class Dopri8Dense(Dopri8):
    """Prince–Dormand 8(7) with a continuous result of order 5 that costs no evaluation."""

    tableau = DOPRI8_DENSE


ADAPTIVE: dict[str, Scheme] = {
    "dopri8": Dopri8Dense(),
    "dopri5": Dopri5(),
    "tsit5": Tsit5(),
    "bosh3": Bosh3(),
    "fehlberg2": Fehlberg2(),
    "adaptive_heun": AdaptiveHeun(),
}
EXPLICIT = {
    "euler": tableaus.EULER,
    "midpoint": tableaus.MIDPOINT,
    "heun2": tableaus.HEUN,
    "heun3": HEUN3,
    "rk4": RK38,
}
ADAMS = {"explicit_adams": False, "implicit_adams": True, "fixed_adams": True}
METHODS = (*ADAPTIVE, *EXPLICIT, *ADAMS, *IMPLICIT, "scipy_solver")


def reports(method: str) -> frozenset[str]:
    """The callbacks that a method makes."""
    if method in ADAPTIVE:
        return frozenset(CALLBACKS)
    return frozenset() if method == "scipy_solver" else frozenset({"callback_step"})


def options_of(method: str) -> tuple[str, ...]:
    """The options that a method knows."""
    if method in ADAPTIVE:
        return adaptive.OPTIONS
    if method == "scipy_solver":
        return scipy_solver.OPTIONS
    if method in ADAMS:
        return fixed.OPTIONS + multistep.OPTIONS
    return fixed.OPTIONS + (implicit.OPTIONS if method in IMPLICIT else ())


def integrate(inputs: Inputs) -> Tensor:
    """The state at each of the times, as a row each."""
    _warn_of_unknown(inputs)
    if inputs.method == "scipy_solver":
        return SciPy(inputs).integrate(inputs.y0, inputs.t)
    if inputs.method in ADAPTIVE:
        return _march(inputs, inputs.t.tolist()).integrate(inputs.y0, inputs.t)
    return Grid(inputs, _one_step(inputs)).integrate(inputs.y0, inputs.t)


def until(inputs: Inputs, event: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Time and state of the event; the two times say where to start and in which direction."""
    _warn_of_unknown(inputs)
    start, other = inputs.t.tolist()
    sign = 1.0 if other > start else -1.0
    if inputs.method == "scipy_solver":
        return SciPy(inputs).until(event, start, sign)
    y0, t = inputs.y0, inputs.t
    if t.requires_grad and torch.is_grad_enabled():  # ∂y/∂t0 = -(∂y/∂y0)·f(t0, y0): the start moves along the flow
        y0 = y0 - (t[0] - t[0].detach()).to(y0.dtype) * inputs.f(start, y0)
    if inputs.method in ADAPTIVE:
        return _march(inputs, [start], sign).until(event, y0)
    return Grid(inputs, _one_step(inputs)).until(event, y0, start, sign)


def _march(inputs: Inputs, t: list[float], sign: float = 1.0) -> March:
    if len(t) > 1:
        sign = 1.0 if t[1] > t[0] else -1.0
    return March(inputs, ADAPTIVE[inputs.method], t, sign)


def _one_step(inputs: Inputs) -> OneStep:
    method = inputs.method
    if method in EXPLICIT:
        return Explicit(EXPLICIT[method])
    if method in ADAMS:
        return Adams(inputs, implicit=ADAMS[method])
    return ImplicitStages(IMPLICIT[method], int(inputs.options.get("max_iters", 100)))


def _warn_of_unknown(inputs: Inputs) -> None:
    unknown: dict[str, Any] = {k: v for k, v in inputs.options.items() if k not in options_of(inputs.method)}
    if unknown:
        warnings.warn(f"{inputs.method}: Unexpected arguments {unknown}", stacklevel=4)


def densely(inputs: Inputs) -> Callable[[Tensor], Tensor]:
    """The continuous solution, of an adaptive method."""
    if inputs.method not in ADAPTIVE:
        raise AssertionError(f"method must be adaptive for a dense solution, one of {sorted(ADAPTIVE)}, got {inputs.method}")
    _warn_of_unknown(inputs)
    march = _march(inputs, inputs.t.tolist())
    kept = list(march.steps(inputs.y0))
    low, high = sorted(march.t)

    def one(time: float) -> Tensor:
        if not low <= time <= high:
            raise AssertionError(f"time must lie between {low} and {high}, got {time}")
        found = next(step for step in kept if march.sign * (step.t1 - time) >= 0)
        return found.step.dense((time - found.t0) / (found.t1 - found.t0))

    def at(times: Tensor) -> Tensor:
        values = torch.as_tensor(times, dtype=torch.float64)
        return torch.stack([one(time) for time in values.tolist()]) if values.ndim else one(float(values))

    return at
