"""Learning the derivative or the flow map: where in the plane of step and noise each wins, measured beside the prediction."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from residyn.atlas.context import Context
from residyn.dynamics import Model, fit
from residyn.dynamics.scales import scales as scales_of
from residyn.dynamics.theory import Scales, crossover
from residyn.errors import package_file
from residyn.flow import solve
from residyn.results import Figure, Finding, Section, Series, Table
from residyn.schemes import RK4, Fixed

STEPS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.2)
NOISES = (0.01, 0.03, 0.06, 0.1)
SAMPLES = 1200
HORIZON = 2.4
MONTHS = (1, 2, 3, 4, 6)
REACH = 0.85

CODE = """\
import residyn.dynamics as dynamics

data = dynamics.read_csv("pendulum.csv")                 # columns t, x, v, and trajectory if there are several
model = dynamics.fit(data, target="auto")                # derivative or flow map, by truncation against noise
print(model.target, model.crossover, model.findings[0].why)
forecast = model.predict(data.x[0][0], data.t[0])
"""


@dataclass(frozen=True)
class System:
    """A simulated system with known truth.

    Args:
        name: What it is.
        f: Its field.
        start: Draws `(n, 2)` states to start from, with a generator.
    """

    name: str
    f: Callable[[Tensor], Tensor]
    start: Callable[[int, torch.Generator], Tensor]


@dataclass(frozen=True)
class Cell:
    """One cell of the map.

    Args:
        step: h.
        noise: σ, in standard deviations of the state.
        derivative: Forecast error of the derivative, in standard deviations.
        flow: That of the flow map.
        predicted: Cross-over step estimated from the cell's own noisy data.
    """

    step: float
    noise: float
    derivative: float
    flow: float
    predicted: float

    @property
    def right(self) -> bool:
        """Whether the target that the prediction picks has the smaller error."""
        return (self.step < self.predicted) == (self.derivative < self.flow)


def _pendulum(x: Tensor) -> Tensor:
    return torch.stack([x[..., 1], -torch.sin(x[..., 0])], -1)


def _lotka_volterra(x: Tensor) -> Tensor:
    """x and y are the logarithms of prey and predators: measured on a scale of ratios, always positive."""
    return torch.stack([1 - torch.exp(x[..., 1]), torch.exp(x[..., 0]) - 1], -1)


def _disc(radius: float) -> Callable[[int, torch.Generator], Tensor]:
    def draw(n: int, generator: torch.Generator) -> Tensor:
        r = radius * torch.rand(n, generator=generator, dtype=torch.float64).sqrt()
        angle = 2 * math.pi * torch.rand(n, generator=generator, dtype=torch.float64)
        return torch.stack([r * angle.cos(), r * angle.sin()], 1)

    return draw


PENDULUM = System("pendulum", _pendulum, _disc(1.8))
LOTKA_VOLTERRA = System("Lotka–Volterra", _lotka_volterra, _disc(1.2))


def run(context: Context) -> Section:
    """Map winners over step and noise, check orders against theory, then ask real monthly temperatures.

    Args:
        context: How to run.

    Returns:
        The section.
    """
    systems = (PENDULUM,) if context.fast else (PENDULUM, LOTKA_VOLTERRA)
    steps, noises = (STEPS[1::2], NOISES[::3]) if context.fast else (STEPS, NOISES)
    maps: dict[str, list[Cell]] = {}
    done, total = 0, len(systems) * len(steps) * len(noises)
    for system in systems:
        cells = maps.setdefault(system.name, [])
        for noise in noises:
            for step in steps:
                cells.append(_cell(system, step, noise, context.seed))
                done += 1
                context.advance(0.75 * done / total, f"{system.name}: step {step:g}, noise {noise:g}")
    rates = _orders(context, (0.2, 0.4, 0.8) if context.fast else (0.1, 0.2, 0.4, 0.8))
    months = (1, 3) if context.fast else MONTHS
    real = [_months(month, context) for month in months]
    findings = [*(_reach(name, cells) for name, cells in maps.items()), *_order_findings(rates), *_real_findings(real)]
    return Section(
        "learn-dynamics",
        "Learning dynamics: the derivative or the flow map",
        summary=_summary(maps, real),
        equation="x_{k+1} = x_k + h·f_θ(x_k)   or   x_{k+1} = x_k + G_θ(x_k)",
        data=f"{' and '.join(maps)}, simulated, {SAMPLES} noisy samples a cell; monthly sea surface temperatures 1950–2010 "
        "(El Niño region 1+2, NOAA; package statsmodels)",
        code=CODE,
        findings=findings,
        figures=[*(_map_figure(system, maps[system.name], context.seed) for system in systems), _order_figure(rates), _real_figure(real)],
        tables=[_map_table(name, cells) for name, cells in maps.items()],
    )


def simulate(system: System, step: float, count: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """True trajectories of a system.

    Args:
        system: Which.
        step: h.
        count: How many.
        length: Samples of each.
        generator: Where the starts come from.

    Returns:
        Times `(length,)` and states `(length, count, 2)`.
    """
    times = step * torch.arange(length, dtype=torch.float64)
    inner = max(1, math.ceil(step / 0.05))  # RK4 at 0.05: local error below 1e-8 here, far under every noise
    control = Fixed(steps=inner)
    found = solve(lambda t, x: system.f(x), system.start(count, generator), times, scheme=RK4(), control=control).x
    assert isinstance(found, Tensor)
    return times, found.detach()


def _noisy(system: System, step: float, noise: float, seed: int) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Training data of a cell, and the spread that errors are measured in."""
    generator = torch.Generator().manual_seed(seed)
    length = 31
    times, states = simulate(system, step, SAMPLES // (length - 1), length, generator)
    spread = states.reshape(-1, 2).std(0)
    states = states + noise * spread * torch.randn(states.shape, generator=generator, dtype=torch.float64)
    return [times] * states.shape[1], list(states.unbind(1)), spread


def _cell(system: System, step: float, noise: float, seed: int) -> Cell:
    t, x, spread = _noisy(system, step, noise, seed)
    models = [fit(t, x, target=target, hidden=(16, 16), epochs=160, seed=seed) for target in ("derivative", "flow")]  # type: ignore[arg-type]
    errors = [_forecast_error(system, model, spread, seed) for model in models]
    return Cell(step, noise, errors[0], errors[1], models[0].crossover)


def _forecast_error(system: System, model: Model, spread: Tensor, seed: int) -> float:
    """Root mean square error over HORIZON from new, clean starts, in standard deviations."""
    times, truth = simulate(system, 0.4, 64, round(HORIZON / 0.4) + 1, torch.Generator().manual_seed(seed + 10_000))
    off = (model.predict(truth[0], times) - truth) / spread
    return float(off[1:].square().mean().sqrt())


@dataclass(frozen=True)
class _Rate:
    """Rate errors without noise at one step, in standard deviations per unit of time: measured and predicted."""

    step: float
    euler: float
    trapezoid: float
    theory: Scales


def _orders(context: Context, steps: tuple[float, ...]) -> list[_Rate]:
    """Error of the fitted field itself, where there is no noise."""
    found = []
    for step in steps:
        t, x, spread = _noisy(PENDULUM, step, 0.0, context.seed)
        points = torch.cat(x)
        fine = scales_of([(t[0], one) for one in x]) if step <= 0.2 else _true_scales(PENDULUM, context.seed)
        errors = []
        for rule in ("euler", "trapezoid"):
            model = fit(t, x, rule=rule, hidden=(32,), epochs=400, seed=context.seed)  # type: ignore[arg-type]
            with torch.no_grad():
                errors.append(float(((model.field(points) - PENDULUM.f(points)) / spread).square().mean().sqrt()))
        found.append(_Rate(step, errors[0], errors[1], fine))
        context.advance(0.75 + 0.1 * len(found) / len(steps), f"orders: step {step:g}")
    return found


def _true_scales(system: System, seed: int, noise: float = 0.0) -> Scales:
    """The scales of the truth: a fine sampling without noise, with the pull of a known noise."""
    times, states = simulate(system, 0.05, 40, 400, torch.Generator().manual_seed(seed))
    fine = scales_of([(times, one) for one in states.unbind(1)])
    scaled = states.reshape(-1, 2) / states.reshape(-1, 2).std(0)
    covariance = torch.cov(scaled.T) + noise**2 * torch.eye(2, dtype=torch.float64)
    pull = noise**2 * math.sqrt(float(torch.linalg.inv(covariance).trace()) / 2)
    return Scales(0.05, noise, pull, fine.rate, fine.second, fine.third)
