"""Learning the derivative or the flow map: where in the plane of step and noise each wins, measured beside the prediction."""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from residyn.atlas.context import Context
from residyn.dynamics import Model, fit
from residyn.dynamics.model import Target
from residyn.dynamics.scales import scales as scales_of
from residyn.dynamics.theory import Rule, Scales, crossover
from residyn.errors import package_file
from residyn.flow import solve
from residyn.results import Figure, Finding, Section, Series, Table
from residyn.schemes import RK4, Fixed

STEPS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.2)
NOISES = (0.01, 0.03, 0.06, 0.1)
SAMPLES = 1600
HORIZON = 2.4
MONTHS = (1, 2, 3, 4, 6)
REACH = 0.85
TARGETS: tuple[Target, ...] = ("derivative", "flow")
RULES: tuple[Rule, ...] = ("euler", "trapezoid")

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


_Plans = list[tuple[System, tuple[float, ...], tuple[float, ...]]]

PENDULUM = System("pendulum", _pendulum, _disc(1.8))
LOTKA_VOLTERRA = System("Lotka–Volterra", _lotka_volterra, _disc(1.2))


def run(context: Context) -> Section:
    """Map winners over step and noise, check orders against theory, then ask real monthly temperatures.

    Args:
        context: How to run.

    Returns:
        The section.
    """
    plans: _Plans = [(PENDULUM, STEPS, NOISES), (LOTKA_VOLTERRA, STEPS, NOISES[1::2])]
    if context.fast:
        plans = [(PENDULUM, STEPS[::2], NOISES[1::2])]
    maps: dict[str, list[Cell]] = {}
    done, total = 0, sum(len(steps) * len(noises) for _, steps, noises in plans)
    for system, steps, noises in plans:
        for noise in noises:
            for step in steps:
                maps.setdefault(system.name, []).append(_cell(system, step, noise, context.seed))
                done += 1
                context.advance(0.75 * done / total, f"{system.name}: step {step:g}, noise {noise:g}")
    rates = _orders(context, (0.4, 0.8) if context.fast else (0.2, 0.4, 0.8))
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
        figures=[
            *(_map_figure(system, maps[system.name], context.seed) for system, _, _ in plans),
            _forecast_figure(maps[PENDULUM.name]),
            _order_figure(rates),
            _real_figure(real),
        ],
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
    models = [fit(t, x, target=target, hidden=(24,), epochs=160, seed=seed) for target in TARGETS]
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
    scales = _true_scales(PENDULUM, context.seed)
    for step in steps:
        t, x, spread = _noisy(PENDULUM, step, 0.0, context.seed)
        points = torch.cat(x)
        errors = []
        for rule in RULES:
            model = fit(t, x, rule=rule, hidden=(24,), epochs=240, seed=context.seed)
            with torch.no_grad():
                errors.append(float(((model.field(points) - PENDULUM.f(points)) / spread).square().mean().sqrt()))
        found.append(_Rate(step, errors[0], errors[1], scales))
        context.advance(0.75 + 0.1 * len(found) / len(steps), f"orders: step {step:g}")
    return found


@functools.cache
def _fine(system: System, seed: int) -> tuple[Scales, Tensor]:
    """Scales and covariance of the truth, from a fine sampling without noise."""
    times, states = simulate(system, 0.05, 40, 400, torch.Generator().manual_seed(seed))
    fine = scales_of([(times, one) for one in states.unbind(1)])
    scaled = states.reshape(-1, 2) / states.reshape(-1, 2).std(0)
    return fine, torch.cov(scaled.T)


def _true_scales(system: System, seed: int, noise: float = 0.0) -> Scales:
    """The scales of the truth with the pull of a known noise."""
    fine, clean = _fine(system, seed)
    covariance = clean + noise**2 * torch.eye(2, dtype=torch.float64)
    pull = noise**2 * math.sqrt(float(torch.linalg.inv(covariance).trace()) / 2)
    return Scales(0.05, noise, pull, fine.rate, fine.second, fine.third)


@dataclass(frozen=True)
class _Month:
    """Forecasts of held-out temperatures from data of one spacing, in °C."""

    months: int
    derivative: float
    flow: float
    noise: float
    growth: float
    predicted: str


def temperatures() -> Tensor:
    """Monthly sea surface temperatures of the El Niño region 1+2, in °C, from January 1950.

    Returns:
        `(732,)`.

    Raises:
        MissingExtraError: If statsmodels is not installed.
    """
    path = Path(package_file("statsmodels", "datasets/elnino/elnino.csv", "atlas"))
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    return torch.tensor([float(cell) for row in rows for cell in row[1:]], dtype=torch.float64)


def _months(months: int, context: Context) -> _Month:
    """Fit to every `months`-th value of the first 45 years, forecast a year ahead from each month of the others."""
    values, lag, cut = temperatures(), 3, 45 * 12
    states = torch.stack([values[lag:], values[:-lag]], 1)  # the temperature now and three months ago: a quarter of a cycle
    times = torch.arange(len(states), dtype=torch.float64)
    parts = [slice(i, cut, months) for i in range(months)]
    last = len(states) - 12
    truth = torch.stack([states[cut + k : last + k] for k in range(13)])
    models = [
        fit([times[p] for p in parts], [states[p] for p in parts], target=target, hidden=(16,), epochs=160, seed=context.seed)
        for target in TARGETS
    ]
    off = [(model.predict(states[cut:last], torch.arange(13.0)) - truth)[1:, :, 0] for model in models]
    errors = [float(one.square().mean().sqrt()) for one in off]
    scales = models[0].scales
    context.advance(0.9, f"temperatures: every {months} months")
    picked = "derivative" if scales.step < models[0].crossover else "flow"
    return _Month(months, errors[0], errors[1], scales.noise, scales.growth, picked)


def _reach(name: str, cells: list[Cell]) -> Finding:
    share = sum(cell.right for cell in cells) / len(cells)
    return Finding(
        f"learn-dynamics.map.{name.lower().replace('–', '-')}",
        f"{name}: share of the {len(cells)} cells of step and noise in which the predicted target wins",
        "pass" if share >= REACH else "fail",
        share,
        REACH,
        why="The prediction compares the truncation error of the fitted derivative, (h²/12)·‖x'''‖, with what noise does to a "
        "one-step regression, σ²·√(tr C⁻¹/d)/h, both estimated from the noisy data of the cell alone. The winner is measured "
        f"on new, clean starts over a time of {HORIZON:g}. Passes from the share under “theory”.",
    )


def _slope(steps: list[float], errors: list[float]) -> float:
    return math.log(errors[-1] / errors[0]) / math.log(steps[-1] / steps[0])


def _order_findings(rates: list[_Rate]) -> list[Finding]:
    steps = [rate.step for rate in rates]
    euler = _slope(steps, [rate.euler for rate in rates])
    trapezoid = _slope(steps[-2:], [rate.trapezoid for rate in rates[-2:]])
    ratio = max(abs(math.log(rate.euler / rate.theory.truncation("euler", rate.step))) for rate in rates)
    why = "Slope of log error of the fitted field against log step, no noise"
    return [
        Finding(
            "learn-dynamics.order.euler",
            "Order in h of the field fitted by the Euler rule, (x_{k+1} - x_k)/h = f(x_k)",
            "pass" if abs(euler - 1) <= 0.15 else "fail",
            euler,
            1.0,
            why=f"{why}; passes within 0.15.",
        ),
        Finding(
            "learn-dynamics.order.trapezoid",
            "Order in h of the field fitted by the trapezoidal rule",
            "pass" if abs(trapezoid - 2) <= 0.5 else "fail",
            trapezoid,
            2.0,
            why=f"{why}, over the two longest steps, because below them the network's own error shows; passes within 0.5.",
        ),
        Finding(
            "learn-dynamics.truncation",
            "Largest ratio, either way, of the Euler rule's measured error to its truncation error ½h·‖x''‖",
            "pass" if math.exp(ratio) <= 1.15 else "warn",
            math.exp(ratio),
            1.0,
            why="Nothing fitted: ‖x''‖ from a fine sampling of the truth. Passes within 15 %.",
        ),
    ]


def _real_findings(real: list[_Month]) -> list[Finding]:
    right = sum((one.derivative < one.flow) == (one.predicted == "derivative") for one in real)
    return [
        Finding(
            "learn-dynamics.temperatures",
            "Sea surface temperatures: spacings of the samples at which the predicted target forecasts better",
            "pass" if right == len(real) else "warn" if right >= REACH * len(real) else "fail",
            f"{right} of {len(real)}",
            f"{len(real)} of {len(real)}",
            why="Root mean square error of forecasts up to a year ahead over the years that were held out. The noise here "
            f"moves the system (at twice the spacing it is {real[0].growth:.2g} times as large): the flow map is predicted.",
        )
    ]


def _summary(maps: dict[str, list[Cell]], real: list[_Month]) -> str:
    cells = [cell for some in maps.values() for cell in some]
    right, best = sum(cell.right for cell in cells), min(cells, key=lambda cell: cell.derivative / cell.flow)
    worst = max(cells, key=lambda cell: cell.derivative / cell.flow)
    return (
        f"In {right} of {len(cells)} cells of the plane of step and noise the better target is the predicted one. At a step of "
        f"{best.step:g} and noise of {best.noise:.0%} the flow map's forecast error is {best.flow / best.derivative:.1f} times "
        f"the derivative's; at a step of {worst.step:g} and noise of {worst.noise:.0%} the derivative's is "
        f"{worst.derivative / worst.flow:.1f} times the flow map's.\n\n"
        "Two things refine the claim. At equal steps a derivative fitted by the Euler rule and a flow map are one and the same "
        "regression, so the derivative gains only by a rule that is symmetric in time; and noise speaks for the derivative, "
        "not against it: it pulls a one-step regression towards the middle of the data at a rate of σ²/h. Both hold for noise "
        f"of measurement. In monthly sea temperatures noise moves the system itself, and the flow map is better: "
        f"{real[0].flow:.2f} °C against {real[0].derivative:.2f} °C."
    )


def _map_figure(system: System, cells: list[Cell], seed: int) -> Figure:
    def some(label: str, derivative: bool) -> Series:
        chosen = [cell for cell in cells if (cell.derivative < cell.flow) == derivative]
        return Series(label, [cell.step for cell in chosen], [cell.noise for cell in chosen], "points")

    low, high = min(cell.noise for cell in cells), max(cell.noise for cell in cells)
    noises = [low * (high / low) ** (i / 24) for i in range(25)]
    line = [crossover(_true_scales(system, seed, noise)) for noise in noises]
    return Figure(
        f"Who wins, {system.name}",
        "step h of the data",
        "noise σ, standard deviations of the state",
        [some("derivative wins", True), some("flow map wins", False), Series("predicted cross-over", line, noises)],
        "log",
        "log",
        "Left of the line the derivative is predicted to win. The line is computed from the true system.",
    )


def _forecast_figure(cells: list[Cell]) -> Figure:
    series = []
    noises = sorted({cell.noise for cell in cells})
    for noise in (noises[0], noises[-1]):
        row = [cell for cell in cells if cell.noise == noise]
        h = [cell.step for cell in row]
        series.append(Series(f"derivative, noise {noise:.0%}", h, [cell.derivative for cell in row], "points"))
        series.append(Series(f"flow map, noise {noise:.0%}", h, [cell.flow for cell in row], "points"))
    title = "Forecast error against step, pendulum"
    return Figure(title, "step h of the data", f"RMS error over a time of {HORIZON:g}, std. dev.", series, "log", "log")


def _order_figure(rates: list[_Rate]) -> Figure:
    h = [rate.step for rate in rates]
    series = [
        Series("½h·‖x''‖", h, [rate.theory.truncation("euler", rate.step) for rate in rates]),
        Series("(h²/12)·‖x'''‖", h, [rate.theory.truncation("trapezoid", rate.step) for rate in rates]),
        Series("Euler rule, measured", h, [rate.euler for rate in rates], "points"),
        Series("trapezoidal rule, measured", h, [rate.trapezoid for rate in rates], "points"),
    ]
    caption = "Lines are the truncation errors, with nothing fitted."
    title = "Error of the fitted derivative without noise, pendulum"
    return Figure(title, "step h of the data", "RMS error of dx/dt, std. dev. per unit time", series, "log", "log", caption)


def _real_figure(real: list[_Month]) -> Figure:
    h = [float(one.months) for one in real]
    spread = float(temperatures().std())
    series = [
        Series("standard deviation of the data", [h[0], h[-1]], [spread, spread]),
        Series("derivative", h, [one.derivative for one in real], "points"),
        Series("flow map", h, [one.flow for one in real], "points"),
    ]
    return Figure("Sea surface temperatures, up to a year ahead", "spacing / months", "RMS error / °C", series, yscale="log")


def _map_table(name: str, cells: list[Cell]) -> Table:
    rows: list[list[float | str | None]] = [
        [cell.noise, cell.step, cell.derivative, cell.flow, cell.predicted, "yes" if cell.right else "no"] for cell in cells
    ]
    return Table(f"Forecast errors, {name}", ["noise", "step", "derivative", "flow map", "predicted cross-over", "right"], rows)
