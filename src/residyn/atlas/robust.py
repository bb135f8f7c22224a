"""Lipschitz control and adversarial attack: bounds that no attack violates, and what a constraint costs and buys."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from residyn.analysis import lipschitz
from residyn.atlas.context import Context
from residyn.atlas.data import mnist
from residyn.nets import MLP, ResNet
from residyn.results import Figure, Finding, Section, Series, Table
from residyn.robust import TradeOff, certify, nearest, stretch, trade_off

WIDTH, DEPTH = 64, 3
EPS = 1.0

CODE = """\
from torch import nn
import residyn as rd
from residyn.nets import MLP, ResNet
from residyn.robust import attack, certify

net = ResNet(nn.Linear(784, 64), [MLP(64, 64, 64) for _ in range(3)], nn.Linear(64, 10))
rd.constrain(net, 3.0, input_shape=784)               # ... train it: the bound holds in every step
radius = certify(net, u, y)                           # u (B, 784) in [0, 1], y (B,): proved, one a sample
found = attack(net, u, y, eps=1.0)                    # found.x, found.success, found.margin
"""


@dataclass(frozen=True)
class _Ratio:
    """A part of a network: what is certified of it, and the most that was found."""

    network: str
    part: str
    certified: float
    found: float


@dataclass(frozen=True)
class _Radii:
    """Judged samples of one network: radii proved on the ball and by the product of norms, and radii at which they broke."""

    network: str
    proved: list[float]
    product: list[float]
    broken: list[float]


def run(context: Context) -> Section:
    """Train a residual network at several strengths of constraint, bound its blocks and samples, and attack both.

    Args:
        context: How to run.

    Returns:
        The section.
    """
    trained, epochs, judged, steps = (800, 6, 20, 12) if context.fast else (3000, 10, 40, 30)
    bounds = (None, 3.0) if context.fast else (None, 30.0, 10.0, 3.0, 1.0)
    split = mnist((trained, 1000), context.seed)
    low, high = float(split.x[0].min()), float(split.x[0].max())
    u, test = (((part - low) / (high - low)).clamp(0, 1) for part in split.x)
    found = trade_off(
        _network, (u, split.y[0]), (test, split.y[1]), eps=EPS, bounds=bounds, epochs=epochs, judged=judged, steps=steps,
        seed=context.seed, watch=lambda share, text: context.advance(0.7 * share, text),
    )  # fmt: skip
    context.advance(0.7, "stretching blocks")
    ends = [0, len(bounds) - 1]
    ratios = [r for k in ends for r in _stretched(found.networks[k], _name(bounds[k]), test[:32], steps)]
    radii = []
    for i, k in enumerate(ends):
        context.advance(0.8 + 0.1 * i, f"smallest moves that break, {_name(bounds[k])}")
        radii.append(_broken(found.networks[k], _name(bounds[k]), test[:judged], split.y[1][:judged], steps))
    findings = [*_bounded(ratios), *_certified(radii), *_traded(found), *found.result.findings]
    return Section(
        "robust",
        "Lipschitz control and adversarial attack",
        summary=_summary(found, ratios, radii, findings),
        equation="x⁺ = x + h·F(x),  ‖x⁺(x + δ) - x⁺(x)‖ ≤ (1 + h·K_F)·‖δ‖",
        data=f"{split.source}; pixels in [0, 1]; radii and attacks on {judged} test digits",
        code=CODE,
        findings=findings,
        figures=[*_figures(radii), *found.result.sections[0].figures],
        tables=[_ratio_table(ratios), found.table],
    )


def _network() -> nn.Module:
    branches = [MLP(WIDTH, WIDTH, WIDTH) for _ in range(DEPTH)]
    return ResNet(nn.Linear(784, WIDTH), branches, nn.Linear(WIDTH, 10))


def _name(bound: float | None) -> str:
    return "no constraint" if bound is None else f"K = {bound:g}"


@torch.no_grad()
def _stretched(net: nn.Module, name: str, u: Tensor, steps: int) -> list[_Ratio]:
    """Each block, at the states it sees, and the whole."""
    assert isinstance(net, ResNet)
    states = net.states(u)
    found = []
    for k, block in enumerate(net.body.blocks):
        certified = float(lipschitz(block, tuple(states[k].shape[1:])))
        found.append(_Ratio(name, f"block {k + 1}", certified, float(stretch(block, states[k], steps=5 * steps))))
    whole = float(lipschitz(net, tuple(u.shape[1:])))
    return [*found, _Ratio(name, "whole", whole, float(stretch(net, u, steps=5 * steps)))]


def _broken(net: nn.Module, name: str, u: Tensor, y: Tensor, steps: int) -> _Radii:
    radius = certify(net, u, y)
    found = nearest(net, u, y, box=None, steps=steps, rounds=1).radius
    right = radius > 0
    return _Radii(name, radius[right].tolist(), radius.product[right].tolist(), found[right].tolist())


def _bounded(ratios: list[_Ratio]) -> list[Finding]:
    findings = []
    for id_, title, parts in (
        (
            "robust.block",
            "Largest ‖x⁺(x+δ) - x⁺(x)‖/‖δ‖ found on a residual block, as a share of the certified 1 + h·K_F",
            False,
        ),
        ("robust.network", "The same of a whole network, as a share of its certified constant", True),
    ):
        shares = [r.found / r.certified for r in ratios if (r.part == "whole") == parts]
        findings.append(
            Finding(
                id_, title, "pass" if max(shares) <= 1 else "fail", max(shares), 1.0,
                why="Both ends of δ climb the ratio by gradient from 32 digits; the bound holds for all x and δ. Passes at or "
                "below 1.",
            )
        )  # fmt: skip
    return findings


def _certified(radii: list[_Radii]) -> list[Finding]:
    above = sum(p > b for r in radii for p, b in zip(r.proved, r.broken, strict=True))
    many = sum(len(r.proved) for r in radii)
    free = radii[0]
    gain = _median([p / q for p, q in zip(free.proved, free.product, strict=True)])
    tight = _median([p / b for p, b in zip(free.proved, free.broken, strict=True)])
    return [
        Finding(
            "robust.radius.below", f"Certified radii above the smallest move that changed the answer, of {many}",
            "fail" if above else "pass", float(above), 0.0,
            why="The move is looked for without a box, as the certificate knows none. Passes at 0.",
        ),
        Finding(
            "robust.radius.product", "Certified radius over that of the product of norms, no constraint, median",
            "pass" if gain >= 3 else "fail", gain, "≥ 3",
            why="Linear bounds on the ball of each sample, against (z_y - z_j)/(√2·K) with the certified K. Passes at 3.",
        ),
        Finding(
            "robust.radius.tight", "Certified radius over the smallest move found, no constraint, median",
            "pass" if 0 < tight <= 1 else "fail", tight, "≤ 1",
            why="The truth lies between both. Passes above 0 and up to 1; nearer to 1 is tighter.",
        ),
    ]  # fmt: skip


def _traded(found: TradeOff) -> list[Finding]:
    free, tight = found.points[0], found.points[-1]
    ratio = tight.radius / free.radius if free.radius else math.inf
    return [
        Finding(
            "robust.trade.radius", f"Median certified radius at K = {tight.bound:g} over that without constraint",
            "pass" if ratio > 1 else "fail", ratio, "> 1", why="What the constraint buys. Passes above 1.",
        ),
        Finding(
            "robust.trade.attacked", f"Accuracy under attack, L2 ε = {found.eps:g}: K = {tight.bound:g} minus no constraint",
            "pass" if tight.attacked > free.attacked else "fail", 100 * (tight.attacked - free.attacked), "> 0", "points",
            why="What it buys against the attack. Passes above 0.",
        ),
        Finding(
            "robust.trade.accuracy", f"Accuracy: K = {tight.bound:g} minus no constraint",
            "pass" if tight.accuracy < free.accuracy else "warn", 100 * (tight.accuracy - free.accuracy), "< 0", "points",
            why="What it costs on 1,000 test digits. Passes below 0; warns if nothing was paid.",
        ),
    ]  # fmt: skip


def _summary(found: TradeOff, ratios: list[_Ratio], radii: list[_Radii], findings: list[Finding]) -> str:
    verdicts = {f.verdict for f in findings}
    opening = "fails in part" if "fail" in verdicts else ("holds in part" if "warn" in verdicts else "holds")
    free, tight = found.points[0], found.points[-1]
    most = max(r.found / r.certified for r in ratios)
    gain = next(float(f.value or 0) for f in findings if f.id == "robust.radius.product")
    return (
        f"The claim {opening}. No block and no network was found to stretch a difference by more than is certified (at most "
        f"{most:.0%} of it), and no digit was broken within its certified radius. Bounds on the ball of each sample certify "
        f"{gain:.0f} times the radius that the product of norms does. From no constraint to K = {tight.bound:g} the median "
        f"certified radius goes from {free.radius:.2f} to {tight.radius:.2f} and the accuracy under attack at "
        f"ε = {found.eps:g} from {free.attacked:.0%} to {tight.attacked:.0%}, while plain accuracy goes from "
        f"{free.accuracy:.1%} to {tight.accuracy:.1%}."
    )


def _figures(radii: list[_Radii]) -> list[Figure]:
    top = max(b for r in radii for b in r.broken if math.isfinite(b))
    series = [Series("broken = certified", [0.0, top], [0.0, top])]
    for r in radii:
        pairs = [(b, p) for b, p in zip(r.broken, r.proved, strict=True) if math.isfinite(b)]
        series.append(Series(r.network, [b for b, _ in pairs], [p for _, p in pairs], "points"))
    return [
        Figure(
            "No digit breaks within its certified radius", "smallest move found that changes the answer (L2)",
            "certified radius (L2)", series, caption="Every point lies below the line; how far below is what is not known.",
        )
    ]  # fmt: skip


def _ratio_table(ratios: list[_Ratio]) -> Table:
    rows: list[list[float | str | None]] = [[r.network, r.part, r.certified, r.found, r.found / r.certified] for r in ratios]
    return Table("Stretching of differences", ["network", "part", "certified", "largest found", "share"], rows)


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else 0.0
