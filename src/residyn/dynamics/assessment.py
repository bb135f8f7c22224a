"""A fit judged on trajectories it has not seen: forecast with error band, phase plot, learned field, verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from residyn.counting import counted
from residyn.dynamics.fitting import fit
from residyn.dynamics.model import Model
from residyn.dynamics.scales import spread_of
from residyn.dynamics.training import Progress, split
from residyn.dynamics.trajectories import Trajectories
from residyn.errors import InputError
from residyn.results import Figure, Finding, Section, Series, Table

_SAMPLES = 200
_STARTS = 40
_SHOWN = 3

CODE = """\
import residyn.dynamics as dynamics

model = dynamics.Model.load("model.safetensors")
states = model.predict(x0, t)          # x0: state at t[0]; t: the times to forecast
"""


@dataclass(frozen=True)
class _Forecasts:
    """Forecasts of the first samples of some trajectories, and how far off they are."""

    t: list[Tensor]
    truth: list[Tensor]
    forecast: list[Tensor]

    def errors(self, spread: Tensor) -> tuple[Tensor, Tensor]:
        """Lead times `(n,)` and errors `(n, d)` in standard deviations, start left out."""
        leads = torch.cat([t[1:] - t[0] for t in self.t])
        off = torch.cat([(a - b)[1:] for a, b in zip(self.forecast, self.truth, strict=True)])
        return leads, off / spread


def assess(
    data: Trajectories,
    *,
    name: str = "data",
    target: str = "auto",
    seed: int = 0,
    epochs: int = 400,
    progress: Progress | None = None,
) -> tuple[Model, Section]:
    """Fit to four fifths of the data and forecast the rest.

    Whole trajectories are held out; of a single one its last fifth. The band of a forecast is twice the root mean square error,
    as it grows with lead time, of forecasts from within the data of the fit.

    Args:
        data: Trajectories.
        name: What the data are called.
        target: `"derivative"`, `"flow"` or `"auto"`.
        seed: Seed of split and weights.
        epochs: Iterations at most.
        progress: Called as `progress(share, text)`.

    Returns:
        The model and the section of a report.

    Raises:
        InputError: If there are too few data to hold some out, or none that change.
        SolveError: If fit or forecast diverges.

    >>> t = torch.linspace(0, 12, 121, dtype=torch.float64)
    >>> data = Trajectories([t], [torch.stack([t.cos(), -t.sin()], 1)], ["x", "v"])
    >>> assess(data, epochs=60)[1].verdict
    'pass'
    """
    seen, held = split(data, 0.2, seed)
    if held is None:
        raise InputError(f"`data` must have at least 5 samples to hold some out, got {data.samples}; record more")
    states = torch.cat(seen.x)
    if bool((states == states[0]).all()):
        raise InputError(f"`data` must change over time, got {', '.join(data.names)} constant; there is nothing to learn")
    model = fit(seen, target=target, seed=seed, epochs=epochs, progress=progress)  # type: ignore[arg-type]
    spread = spread_of(states)
    tested = _forecasts(model, held, 0)
    within = _forecasts(model, seen, _length(tested))
    band = _Band(*within.errors(spread))
    findings = [*model.findings, _skill(tested, spread, states.mean(0)), _coverage(tested, band, spread)]
    section = Section(
        "dynamics",
        f"Dynamics of {Path(name).name}",
        summary=_summary(model, findings),
        equation="x' = f_θ(x)" if model.target == "derivative" else "x_{k+1} = x_k + G_θ(x_k, h)",
        data=f"{Path(name).name}: {counted(len(data), 'trajectory', 'trajectories')}, {counted(data.samples, 'sample')} of "
        f"{', '.join(data.names)}; {counted(held.samples, 'sample')} held out",
        code=CODE,
        findings=findings,
        figures=[
            *(_forecast_figure(model, tested, band, spread, i) for i in range(min(_SHOWN, len(model.names)))),
            *_phase(model, tested),
            *_field(model, seen),
        ],
        tables=[_table(model, seen, held)],
    )
    return model, section


def _length(found: _Forecasts) -> int:
    return max(len(t) for t in found.t)


def _forecasts(model: Model, data: Trajectories, length: int) -> _Forecasts:
    """Forecast each trajectory from its start; of `length`, if given, from several starts within."""
    t, truth, forecast = [], [], []
    starts: list[tuple[int, int]] = []
    for i, times in enumerate(data.t):
        room = max(1, len(times) - (length or len(times)) + 1)
        count = max(1, min(room, _STARTS // len(data))) if length else 1
        starts += [(i, round(k * (room - 1) / max(1, count - 1))) for k in range(count)]
    for i, start in starts[:_STARTS]:
        piece = slice(start, start + min(length or _SAMPLES, _SAMPLES))
        if len(data.t[i][piece]) < 2:
            continue
        control = None if data.control is None else data.control[i][piece]
        t.append(data.t[i][piece])
        truth.append(data.x[i][piece])
        forecast.append(model.predict(truth[-1][0], t[-1], control=control))
    return _Forecasts(t, truth, forecast)


class _Band:
    """Twice the root mean square error as a function of lead time, smooth by bins and never falling."""

    def __init__(self, leads: Tensor, errors: Tensor) -> None:
        order = leads.argsort()
        bins = max(1, min(20, len(order) // 10))
        parts = order.chunk(bins)
        self.leads = torch.stack([leads[part].mean() for part in parts])
        rms = torch.stack([errors[part].square().mean(0).sqrt() for part in parts])
        self.values = 2 * rms.cummax(0).values

    def at(self, leads: Tensor) -> Tensor:
        """Half-widths `(n, d)`, in standard deviations."""
        i = torch.searchsorted(self.leads, leads).clamp(0, len(self.leads) - 1)
        return self.values[i]


def _skill(tested: _Forecasts, spread: Tensor, mean: Tensor) -> Finding:
    _, off = tested.errors(spread)
    error = float(off.square().mean().sqrt())
    away = torch.cat([(x - mean)[1:] for x in tested.truth]) / spread
    baseline = float(away.square().mean().sqrt())
    longest = max(float(t[-1] - t[0]) for t in tested.t)
    return Finding(
        "dynamics.forecast",
        f"Root mean square error of forecasts of held-out data over times up to {longest:.4g}",
        "pass" if error < 0.5 * baseline else "warn" if error < baseline else "fail",
        error,
        baseline,
        "standard deviations",
        "Beside it what the mean of the data would give. Passes below half of that, fails above it.",
        "" if error < 0.5 * baseline else "record more trajectories, at a smaller step, or further components of the state",
    )


def _coverage(tested: _Forecasts, band: _Band, spread: Tensor) -> Finding:
    leads, off = tested.errors(spread)
    share = float((off.abs() <= band.at(leads)).to(torch.float64).mean())
    title = "Share of held-out data within the error band"
    why = "Theory: two standard deviations of normal errors. Errors of one forecast go together, so it scatters widely."
    return Finding("dynamics.band", title, "info", share, math.erf(math.sqrt(2)), "", why)


def _summary(model: Model, findings: list[Finding]) -> str:
    error = next(f for f in findings if f.id == "dynamics.forecast")
    what = "the derivative and integrated it" if model.target == "derivative" else "the flow map and repeated it"
    return (
        f"Fitted {what}. Held-out data are forecast with an error of {error.value:.3g} standard deviations, where their mean "
        f"would give {error.theory:.3g}. {findings[0].title}: {findings[0].why}"
    )


def _forecast_figure(model: Model, tested: _Forecasts, band: _Band, spread: Tensor, i: int) -> Figure:
    t, truth, forecast = tested.t[0], tested.truth[0][:, i], tested.forecast[0][:, i]
    half = band.at(t - t[0])[:, i] * spread[i]
    half[0] = 0.0
    series = [
        Series("error band", t.tolist(), (forecast - half).tolist(), "band", (forecast + half).tolist()),
        Series("forecast", t.tolist(), forecast.tolist()),
        Series("held-out data", t.tolist(), truth.tolist(), "points"),
    ]
    return Figure(f"Forecast of {model.names[i]}", "time", model.names[i], series, caption="Band: twice the RMS error.")


def _phase(model: Model, tested: _Forecasts) -> list[Figure]:
    if len(model.names) < 2:
        return []
    a, b = 0, len(model.names) // 2 if model.order == 2 else 1
    series: list[Series] = []
    for truth, forecast in list(zip(tested.truth, tested.forecast, strict=True))[:_SHOWN]:
        n = len(series) // 2 + 1
        series.append(Series(f"forecast {n}", forecast[:, a].tolist(), forecast[:, b].tolist()))
        series.append(Series(f"held-out {n}", truth[:, a].tolist(), truth[:, b].tolist(), "points"))
    return [Figure("Phase plot", model.names[a], model.names[b], series)]


def _field(model: Model, data: Trajectories) -> list[Figure]:
    """The learned rate: strokes over the plane of the first two components, or the curve f(x) of a single one."""
    x = torch.cat(data.x)
    low, high, mean = x.amin(0), x.amax(0), x.mean(0)
    u = None if data.control is None else torch.cat(data.control).mean(0)
    with torch.no_grad():
        if len(model.names) == 1:
            grid = torch.linspace(float(low[0]), float(high[0]), 60, dtype=torch.float64)[:, None]
            rate = model.field(grid, u)
            line = Series("learned", grid[:, 0].tolist(), rate[:, 0].tolist())
            return [Figure("Learned field", model.names[0], f"d{model.names[0]}/dt", [line])]
        a, b = 0, len(model.names) // 2 if model.order == 2 else 1
        axes = [torch.linspace(float(low[i]), float(high[i]), 14, dtype=torch.float64) for i in (a, b)]
        points = torch.cartesian_prod(*axes)
        full = mean.expand(len(points), -1).clone()
        full[:, a], full[:, b] = points[:, 0], points[:, 1]
        rates = model.field(full, u)[:, [a, b]]
    size = (high - low)[[a, b]].clamp_min(1e-300)
    length = (rates / size).norm(dim=1)
    ends = points + 0.09 * rates / length.max().clamp_min(1e-300)
    xs = [v for p, q in zip(points[:, 0].tolist(), ends[:, 0].tolist(), strict=True) for v in (p, q, math.nan)]
    ys = [v for p, q in zip(points[:, 1].tolist(), ends[:, 1].tolist(), strict=True) for v in (p, q, math.nan)]
    strokes = Series("dx/dt, as strokes from the points", xs, ys)
    dots = Series("points", points[:, 0].tolist(), points[:, 1].tolist(), "points")
    caption = "Strokes lead from the points in the direction of motion; the other components, if any, are at their mean."
    return [Figure("Learned field", model.names[a], model.names[b], [strokes, dots], caption=caption)]


def _table(model: Model, seen: Trajectories, held: Trajectories) -> Table:
    s = model.scales
    rows: list[list[float | str | None]] = [
        ["trajectories in the fit, held out", f"{len(seen)}, {len(held)}"],
        ["samples in the fit, held out", f"{seen.samples}, {held.samples}"],
        ["step: least, typical, greatest", ", ".join(f"{step:.4g}" for step in model.steps)],
        ["noise, standard deviations", s.noise],
        ["growth of the noise at twice the spacing", s.growth],
        ["‖x'‖, ‖x''‖, ‖x'''‖", f"{s.rate:.3g}, {s.second:.3g}, {s.third:.3g}"],
        ["cross-over step", model.crossover],
        ["target", model.target],
        ["rule of the derivative", model.rule],
    ]
    return Table("The data and the choice", ["quantity", "value"], rows)
