"""A residual network as forward Euler: refined, it converges to a flow that better schemes follow at less cost."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from residyn.atlas.context import Context
from residyn.atlas.data import Split, digits
from residyn.atlas.fit import accuracy, seeded, train
from residyn.flow import Flow, solve
from residyn.gradients import Backprop
from residyn.results import Figure, Finding, Section, Series, Table
from residyn.schemes import (
    RK4,
    Adaptive,
    Bosh3,
    Dopri5,
    Dopri8,
    Euler,
    ExplicitRungeKutta,
    Fixed,
    Heun,
    Midpoint,
    Scheme,
    Tsit5,
)

SCHEMES: tuple[Scheme, ...] = (Euler(), Midpoint(), Heun(), Bosh3(), RK4(), Tsit5(), Dopri5(), Dopri8())
TRAINED_DEPTH = 8
LATENT = 12
SLOPE = 0.15
DEPTHS = (2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256, 362, 512)
EVALUATIONS = 1300
TARGET = 1e-5

Fieldlike = Callable[[Tensor, Tensor], Tensor]

CODE = """\
import torch
import residyn as rd

flow = rd.Flow(field, scheme=rd.Euler(), control=rd.Fixed(steps=8))     # field(t, x): your module; 8 residual blocks
x1 = flow(x0)                                                           # train this ...
fine = rd.solve(field, x0, [0.0, 1.0], scheme=rd.Dopri5(), control=rd.Adaptive(rtol=1e-8, atol=1e-8))
print((x1 - fine.x[-1]).norm() / fine.x[-1].norm(), fine.stats.evaluations)   # how far 8 blocks are from the flow
"""


class _Classifier(nn.Module):
    """head ∘ flow ∘ stem, the flow being TRAINED_DEPTH residual steps with shared weights that see the time."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, LATENT), nn.Linear(LATENT, 10)
        self.field = _Field()
        self.flow = Flow(self.field, scheme=Euler(), control=Fixed(steps=TRAINED_DEPTH), gradient=Backprop())

    def start(self, u: Tensor) -> Tensor:
        x0: Tensor = torch.tanh(self.stem(u))
        return x0

    def forward(self, u: Tensor) -> Tensor:
        y: Tensor = self.head(self.flow(self.start(u)))
        return y


class _Field(nn.Module):
    """f(t, x) = V·tanh(W·x + b + t·c), smooth, so that every scheme has its full order."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.time, self.outer = nn.Linear(LATENT, 48), nn.Linear(1, 48, bias=False), nn.Linear(48, LATENT)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        y: Tensor = self.outer(torch.tanh(self.inner(x) + self.time(t.to(x.dtype).reshape(1))))
        return y


@dataclass(frozen=True)
class _Order:
    """How the error of a scheme fell as the depth was refined."""

    name: str
    order: int
    slope: float
    settled: bool
    """Whether the slopes stand still, so that the asymptotic order can be read off before rounding."""
    depths: list[float]
    errors: list[float]


@dataclass(frozen=True)
class _Work:
    """Evaluations against error."""

    name: str
    evaluations: list[float]
    errors: list[float]


def run(context: Context) -> Section:
    """Check the orders on a known problem and on a trained network, then what an accuracy costs.

    Args:
        context: How to run.

    Returns:
        The section.
    """
    split = digits((1200, 597), context.seed)

    def watch(share: float) -> None:
        context.advance(0.6 * share, "training a residual network on digits")

    with seeded(context.seed):
        net = _Classifier()
        train(net, split.x[0], split.y[0], epochs=20 if context.fast else 60, rate=5e-3, decay=True, watch=watch)
    net = net.double()
    with torch.no_grad():
        return _measure(context, net, split)


def _measure(context: Context, net: _Classifier, split: Split) -> Section:
    x, y = split.x[1].double(), split.y[1]
    x0 = net.start(x)
    context.advance(0.65, "orders on a problem with known solution")
    known = [_order(_turning, _turned(0.0), _turned(2.0), 2.0, scheme) for scheme in SCHEMES]
    context.advance(0.7, "orders on the trained network")
    exact = _march(net.field, x0, Dopri8(), 64)
    orders = [_order(net.field, x0, exact, 1.0, scheme) for scheme in SCHEMES]
    context.advance(0.85, "leading term of the error")
    leading = _leading_error(net.field, x0)
    context.advance(0.9, "evaluations against error")
    works = _works(net.field, x0, exact, orders)
    depths = [1, 2, 4, 8, 16, 32, 64, 128]
    by_depth = [accuracy(net.head, _march(net.field, x0, Euler(), n), y) for n in depths]
    limit = accuracy(net.head, exact, y)
    scale = float(leading.norm() / exact.norm())
    findings = [
        *(_slope(o, "known", "a rotation of known angle") for o in known),
        *(_slope(o, "trained", "the trained network") for o in orders),
        _predicted(orders[0], scale),
        _sampled(by_depth[depths.index(TRAINED_DEPTH)], limit, len(y)),
        *_cheaper(works, scale),
    ]
    return Section(
        "ode",
        "Residual network as forward Euler, neural ODE",
        summary=_summary(findings, works, by_depth[depths.index(TRAINED_DEPTH)], limit, scale),
        equation="x_{k+1} = x_k + h·f(t_k, x_k), h = T/N;  x' = f(t, x) as N → ∞",
        data=f"{split.source}; states and errors are those of the held-out digits, in float64",
        code=CODE,
        findings=findings,
        figures=[
            _order_figure("Error against depth, trained network", orders, "‖x_N - x(1)‖/‖x(1)‖, all digits", scale),
            _order_figure("Error against depth, accelerating rotation", known, "relative error at t = 2", None),
            _work_figure(works),
            _accuracy_figure(depths, by_depth, limit),
            _trajectory_figure(net.field, x0[:1]),
        ],
        tables=[_order_table(known, orders)],
    )


def _turning(t: Tensor, x: Tensor) -> Tensor:
    """A rotation that speeds up, x' = (1 + t)·(-x_2, x_1), whose solution from (1, 0) has the angle t + t²/2."""
    return (1 + t) * torch.stack([-x[1], x[0]])


def _turned(t: float) -> Tensor:
    angle = torch.tensor(t + t * t / 2, dtype=torch.float64)
    return torch.stack([angle.cos(), angle.sin()])


def _march(f: Fieldlike, x0: Tensor, scheme: Scheme, steps: int, end: float = 1.0) -> Tensor:
    x = solve(f, x0, [0.0, end], scheme=scheme, control=Fixed(steps=steps), gradient=Backprop()).x
    assert isinstance(x, Tensor)
    return x[-1]


def _trace(f: Fieldlike, x0: Tensor, times: Tensor, scheme: Scheme) -> Tensor:
    """The states at the times, one step between each two."""
    x = solve(f, x0, times, scheme=scheme, control=Fixed(steps=1), gradient=Backprop()).x
    assert isinstance(x, Tensor)
    return x


def _order(f: Fieldlike, x0: Tensor, exact: Tensor, end: float, scheme: Scheme) -> _Order:
    """Refine by √2 until rounding or the cost says stop; slopes over doublings of the depth."""
    depths: list[int] = []
    errors: list[float] = []
    stages = len(scheme.tableau.b) if isinstance(scheme, ExplicitRungeKutta) else 1
    for steps in DEPTHS:
        if steps * stages > EVALUATIONS:
            break
        error = float((_march(f, x0, scheme, steps, end) - exact).norm() / exact.norm())
        # N steps round by about √N·1e-16: a hundred times that blurs the last slopes by less than a percent
        if error < 1e-12:
            break
        depths.append(steps)
        errors.append(error)
    slopes = [math.log(errors[i] / errors[i + 2]) / math.log(depths[i + 2] / depths[i]) for i in range(len(depths) - 2)]
    # a slope p + c·h moves by c·h·(√2 - 1) at a refinement by √2: what is left to the limit is 2.4 times its last move
    settled = len(slopes) > 1 and abs(slopes[-1] - slopes[-2]) <= SLOPE * (math.sqrt(2) - 1)
    slope = slopes[-1] if slopes else math.nan
    return _Order(type(scheme).__name__, scheme.order, slope, settled, [float(n) for n in depths], errors)


def _leading_error(field: nn.Module, x0: Tensor) -> Tensor:
    """E(1) in x_N = x(1) + E(1)/N + O(1/N²) for forward Euler: E' = J·E - ½·x'', x'' = ∂f/∂t + J·f, E(0) = 0."""

    def both(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, e = state
        slope = field(t, x)
        bend: Tensor = torch.func.jvp(field, (t, x), (torch.ones_like(t), slope))[1]
        carried: Tensor = torch.func.jvp(lambda z: field(t, z), (x,), (e,))[1]
        return slope, carried - bend / 2

    with warnings.catch_warnings():
        # on first use torch's forward mode loads scripts by a way that torch itself calls deprecated
        warnings.simplefilter("ignore", DeprecationWarning)
        start = (x0, torch.zeros_like(x0))
        solution = solve(both, start, [0.0, 1.0], scheme=RK4(), control=Fixed(steps=64), gradient=Backprop())
    error: Tensor = solution.x[1][-1]
    return error


def _works(field: nn.Module, x0: Tensor, exact: Tensor, orders: list[_Order]) -> list[_Work]:
    works = []
    for scheme, order in zip(SCHEMES, orders, strict=True):
        if isinstance(scheme, Euler | Midpoint | RK4):
            evaluations = [n * len(scheme.tableau.b) for n in order.depths]
            works.append(_Work(f"{order.name}, equal steps", evaluations, order.errors))
    for adaptive in (Bosh3(), Dopri5(), Dopri8()):
        evaluations, errors = [], []
        for power in range(2, 12):
            control = Adaptive(rtol=10.0**-power, atol=10.0**-power)
            solution = solve(field, x0, [0.0, 1.0], scheme=adaptive, control=control, gradient=Backprop())
            evaluations.append(float(solution.stats.evaluations))
            errors.append(float((solution.x[-1] - exact).norm() / exact.norm()))
        works.append(_Work(f"{type(adaptive).__name__}, adaptive", evaluations, errors))
    return works


def _slope(o: _Order, kind: str, on: str) -> Finding:
    fits = abs(o.slope - o.order) <= SLOPE
    return Finding(
        f"ode.order.{kind}.{o.name.lower()}",
        f"Order of {o.name} on {on}, at depth {o.depths[-1]:g}",
        "pass" if fits else ("fail" if o.settled else "info"),
        o.slope,
        float(o.order),
        why=f"Slope of log error against log depth over the last doubling before rounding. Passes within {SLOPE} of "
        "the published order; not judged where the slope had not settled, so that rounding came before the limit h → 0 "
        "could be seen.",
    )


def _predicted(euler: _Order, scale: float) -> Finding:
    at = euler.depths.index(64.0)
    theory = scale / 64
    return Finding(
        "ode.leading",
        "Distance of 64 residual blocks from the flow they sample, relative",
        "pass" if abs(euler.errors[at] / theory - 1) <= 0.1 else "warn",
        euler.errors[at],
        theory,
        why="Theory: the leading term ‖E(1)‖/N with E' = J·E - ½·x'', integrated beside the flow. Passes within 10 %, "
        "room for the next term, a few times 1/64.",
    )


def _sampled(trained: float, limit: float, count: int) -> Finding:
    # difference of two shares of the same samples: at most √2 standard errors of one
    room = 2 * math.sqrt(2 * limit * (1 - limit) / count)
    return Finding(
        "ode.continuous",
        f"Accuracy on {count} held-out digits of the flow itself, the network trained with {TRAINED_DEPTH} blocks "
        "refined without end",
        "pass" if limit >= trained - max(room, 1 / count) else "fail",
        limit,
        trained,
        why="Theory: the accuracy at the depth of training, because the blocks sample a trajectory. Passes unless it "
        f"is lower by more than two standard errors, {room:.3f}.",
    )


def _cheaper(works: list[_Work], scale: float) -> list[Finding]:
    euler = scale / TARGET
    findings = []
    for work in works[1:]:
        needed = _needed(work)
        findings.append(
            Finding(
                f"ode.work.{work.name.split(',')[0].lower()}",
                f"Evaluations {work.name.replace(',', ' with')} needs for a relative error of {TARGET:g}",
                "pass" if needed < euler else "fail",
                needed,
                euler,
                why="Theory: what forward Euler, order 1, would need by the leading term of its error; passes below "
                "that. Interpolated between the measured points.",
            )
        )
    return findings


def _needed(work: _Work) -> float:
    """Evaluations at which the error passes TARGET, by interpolation of logarithms."""
    points = sorted(zip(work.evaluations, work.errors, strict=True))
    for (n0, e0), (n1, e1) in itertools.pairwise(points):
        if e0 > TARGET >= e1:
            share = math.log(e0 / TARGET) / math.log(e0 / e1)
            return float(n0 * (n1 / n0) ** share)
    return points[0][0] if points[0][1] <= TARGET else math.inf


def _summary(findings: list[Finding], works: list[_Work], trained: float, limit: float, scale: float) -> str:
    orders = [f for f in findings if f.id.startswith("ode.order") and f.verdict != "info"]
    off = max(abs(float(f.value or 0) - float(f.theory or 0)) for f in orders)
    holds = all(f.verdict in ("pass", "info") for f in findings)
    needed = {w.name: _needed(w) for w in works[1:]}
    best = min(needed, key=lambda name: needed[name])
    return (
        f"{'The claim holds' if holds else 'The claim holds in part'}: on a problem with known solution and on a "
        f"residual network trained on digits, the error falls at the published order of the scheme, {len(orders)} "
        f"slopes at most {off:.2f} off. The network was trained with {TRAINED_DEPTH} blocks ({trained:.1%} of held-out "
        f"digits right); refined to the flow it has {limit:.1%}. For a relative error of {TARGET:g} forward Euler "
        f"would need {scale / TARGET:,.0f} evaluations, {best.replace(', ', ' with ')} needs {needed[best]:.0f}."
    )


def _order_figure(title: str, orders: list[_Order], ylabel: str, scale: float | None) -> Figure:
    series = []
    for o in orders:
        guide = [o.errors[-1] * (o.depths[-1] / n) ** o.order for n in o.depths]
        if scale is not None and o.name == "Euler":
            guide = [scale / n for n in o.depths]
        series.append(Series(f"{o.name}, order {o.order}", o.depths, guide))
        series.append(Series(f"{o.name}, measured", o.depths, o.errors, "points"))
    caption = "Lines have the published order and pass through the finest point"
    caption += "." if scale is None else "; Euler's is the computed leading term, with nothing fitted."
    return Figure(title, "depth N", ylabel, series, "log", "log", caption)


def _work_figure(works: list[_Work]) -> Figure:
    series = [Series(w.name, w.evaluations, [max(e, 1e-16) for e in w.errors], "points") for w in works]
    return Figure("What an accuracy costs, trained network", "evaluations of f", "relative error", series, "log", "log")


def _accuracy_figure(depths: list[int], values: list[float], limit: float) -> Figure:
    x = [float(d) for d in depths]
    series = [
        Series("the flow itself", [x[0], x[-1]], [limit, limit]),
        Series("N residual blocks", x, values, "points"),
    ]
    caption = f"Trained with {TRAINED_DEPTH} blocks, evaluated with others, no weight changed."
    return Figure("Accuracy at other depths", "depth N", "test accuracy", series, "log", caption=caption)


def _trajectory_figure(field: nn.Module, x0: Tensor) -> Figure:
    times = torch.linspace(0, 1, 65, dtype=torch.float64)
    fine = _trace(field, x0, times, RK4())
    coarse = _trace(field, x0, times[:: 64 // TRAINED_DEPTH], Euler())
    # the plane in which this trajectory moves most
    _, _, basis = torch.linalg.svd(fine[:, 0] - fine[:, 0].mean(0))
    (fx, fy), (cx, cy) = (((states[:, 0] @ basis[:2].T).T.tolist()) for states in (fine, coarse))
    series = [Series("flow", fx, fy), Series(f"{TRAINED_DEPTH} trained blocks", cx, cy, "points")]
    axes = ("first principal axis", "second principal axis")
    return Figure("One digit on its way through the network", *axes, series, equal=True)


def _order_table(known: list[_Order], trained: list[_Order]) -> Table:
    rows: list[list[float | str | None]] = [
        [k.name, float(k.order), k.slope, t.slope] for k, t in zip(known, trained, strict=True)
    ]
    return Table("Orders", ["scheme", "published", "on the rotation", "on the trained network"], rows)
