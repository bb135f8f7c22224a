"""Stochastic depth: with shortcuts a dropped block is the identity, in training and at test time."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from residyn.atlas.context import Context
from residyn.atlas.data import Split, mnist
from residyn.atlas.fit import accuracy, seeded, train
from residyn.nets import MLP, ResNet, survival
from residyn.results import Figure, Finding, Section, Series, Table, Verdict
from residyn.step import Residual

WIDTH = 64
RATE = 0.5
KINDS = ("full", "dropped", "plain")
NAMES = {"full": "residual", "dropped": "residual, stochastic depth", "plain": "no shortcuts"}

CODE = """\
from torch import nn
from residyn.nets import MLP, ResNet, survival

branches = [nn.Sequential(nn.LayerNorm(64), MLP(64, 64, 64)) for _ in range(24)]
net = ResNet(nn.Linear(784, 64), branches, nn.Linear(64, 10), step=1.0, keep=survival(24, rate=0.5))
net.train()                                    # ... train it: blocks are dropped
net.eval()
print(net.without({3, 11, 19}, x).argmax(1))   # x (B, 784): predictions with three blocks taken out
"""


@dataclass(frozen=True)
class _Plan:
    depth: int
    epochs: int
    seeds: int
    train: int
    draws: int


@dataclass(frozen=True)
class _Run:
    """One training of one kind of network."""

    kind: str
    accuracy: float
    loss: float
    removed: list[float]
    """Mean accuracy with 0, 1, 2 … blocks taken out, of several random choices."""
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
    plan = _Plan(12, 12, 3, 1000, 4) if context.fast else _Plan(24, 30, 5, 1000, 10)
    runs: list[_Run] = []
    jobs = [(seed, kind) for seed in range(plan.seeds) for kind in KINDS]
    source = ""
    for i, (seed, kind) in enumerate(jobs):
        context.advance(i / len(jobs), f"training seed {seed + 1} of {plan.seeds}, {NAMES[kind]}")
        split = mnist((plan.train, 4000), 1000 * context.seed + seed)
        source = split.source
        runs.append(_train(kind, split, plan, 1000 * context.seed + seed))
    by_kind = {kind: [r for r in runs if r.kind == kind] for kind in KINDS}
    findings = [
        _better(by_kind, plan),
        *_graceful(by_kind, plan),
        *_cheaper(by_kind, plan),
    ]
    return Section(
        "stochastic-depth",
        "Randomly dropped blocks",
        summary=_summary(by_kind, findings, plan),
        equation="x⁺ = x + (b/p_l)·h·F_l(x), b ~ Bernoulli(p_l), p_l = 1 - (l/L)·rate; b = p_l at test time",
        data=f"{source}, another shuffle and other initial weights for each of {plan.seeds} seeds",
        code=CODE,
        findings=findings,
        figures=_figures(by_kind, plan),
        tables=[_table(by_kind)],
    )


def _net(kind: str, depth: int) -> ResNet:
    branches = [nn.Sequential(nn.LayerNorm(WIDTH), MLP(WIDTH, WIDTH, WIDTH)) for _ in range(depth)]
    head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10))
    keep = survival(depth, RATE) if kind == "dropped" else None
    return ResNet(nn.Linear(784, WIDTH), branches, head, step=1.0, shortcut=kind != "plain", keep=keep)


def _train(kind: str, split: Split, plan: _Plan, seed: int) -> _Run:
    with seeded(seed):
        net = _net(kind, plan.depth)
        evaluated = 0

        def count(*_: object) -> None:
            nonlocal evaluated
            evaluated += 1

        blocks = (block.branch if isinstance(block, Residual) else block for block in net.body.blocks)
        hooks = [branch.register_forward_hook(count) for branch in blocks if isinstance(branch, nn.Module)]
        began = time.process_time()
        losses = train(net, split.x[0], split.y[0], epochs=plan.epochs, rate=1e-3, decay=True)
        seconds = time.process_time() - began
        for hook in hooks:
            hook.remove()
        steps = plan.epochs * (plan.train // 100)
        removed = _remove(net, split.x[1], split.y[1], plan)
    return _Run(kind, removed[0], losses[-1], removed, evaluated / (steps * plan.depth), seconds)


def _counts(plan: _Plan) -> list[int]:
    """How many blocks are taken out: none, one, then up to half of them."""
    return sorted({0, 1, plan.depth // 8, plan.depth // 4, 3 * plan.depth // 8, plan.depth // 2})


def _remove(net: ResNet, x: Tensor, y: Tensor, plan: _Plan) -> list[float]:
    means = [accuracy(net, x, y)]
    for count in _counts(plan)[1:]:
        choices = [set(torch.randperm(plan.depth)[:count].tolist()) for _ in range(plan.draws)]
        means.append(_mean([accuracy(partial(net.without, gone), x, y) for gone in choices]))
    return means


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _error(values: list[float]) -> float:
    """Standard error of the mean."""
    mean = _mean(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))


def _better(runs: dict[str, list[_Run]], plan: _Plan) -> Finding:
    gains = [d.accuracy - f.accuracy for d, f in zip(runs["dropped"], runs["full"], strict=True)]
    gain, error = _mean(gains), _error(gains)
    verdict: Verdict = "pass" if gain > 2 * error else ("fail" if gain < -2 * error else "warn")
    return Finding(
        "stochastic-depth.accuracy",
        f"Test accuracy gained by dropping blocks in training, {plan.seeds} pairs of equal depth, data and start",
        verdict,
        100 * gain,
        "> 0",
        "points",
        why=f"Passes above two standard errors of the paired difference, {200 * error:.2f} points; fails below minus "
        "that; between them the difference cannot be told from none on so little data.",
    )


def _lost(run: _Run, index: int) -> float:
    """Share of what the whole network knows beyond guessing that is lost with some blocks taken out."""
    return (run.removed[0] - run.removed[index]) / max(run.removed[0] - 0.1, 1e-9)


def _graceful(runs: dict[str, list[_Run]], plan: _Plan) -> list[Finding]:
    one, quarter = _counts(plan).index(1), _counts(plan).index(plan.depth // 4)
    lost = {kind: _mean([_lost(r, one) for r in runs[kind]]) for kind in KINDS}
    gaps = [_lost(f, quarter) - _lost(d, quarter) for d, f in zip(runs["dropped"], runs["full"], strict=True)]
    many = {kind: _mean([_lost(r, quarter) for r in runs[kind]]) for kind in KINDS}
    better = _mean(gaps) > 2 * _error(gaps)
    return [
        Finding(
            "stochastic-depth.one",
            f"Share of the accuracy above guessing that is lost with one of {plan.depth} blocks (without shortcuts: "
            f"{lost['plain']:.0%})",
            "pass" if lost["dropped"] < 1 / plan.depth < lost["plain"] else "fail",
            lost["dropped"],
            1 / plan.depth,
            why="Theory: a block of L carries 1/L at most if all share the work evenly. Passes if the residual network "
            "trained with stochastic depth loses less than that and the network without shortcuts more.",
        ),
        Finding(
            "stochastic-depth.quarter",
            f"The same with {plan.depth // 4} blocks taken out (trained without stochastic depth: {many['full']:.1%}; "
            f"without shortcuts: {many['plain']:.0%})",
            "pass" if better else ("warn" if _mean(gaps) > -2 * _error(gaps) else "fail"),
            many["dropped"],
            many["full"],
            why="In training a quarter of the blocks was missing on average. Passes if the paired difference to the "
            "network trained without is above two standard errors, warns if it cannot be told from none.",
        ),
    ]


def _cheaper(runs: dict[str, list[_Run]], plan: _Plan) -> list[Finding]:
    keep = survival(plan.depth, RATE)
    steps = plan.epochs * (plan.train // 100) * plan.seeds
    share, theory = _mean([r.share for r in runs["dropped"]]), _mean(keep)
    error = math.sqrt(sum(p * (1 - p) for p in keep) / steps) / plan.depth
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


def _summary(runs: dict[str, list[_Run]], findings: list[Finding], plan: _Plan) -> str:
    by_id = {f.id.partition(".")[2]: f for f in findings}
    gain = by_id["accuracy"]
    words = {"pass": "is better", "warn": "cannot be told from the other", "fail": "is worse"}[gain.verdict]
    rest = [f for f in findings if f.id != gain.id]
    opening = "The claim holds" if all(f.verdict in ("pass", "info") for f in findings) else "The claim holds in part"
    if any(f.verdict == "fail" for f in rest):
        opening = "The claim fails in part"
    return (
        f"{opening}: with a quarter of its blocks dropped on average in training, the network of {plan.depth} blocks "
        f"{words} in test accuracy ({_mean([r.accuracy for r in runs['dropped']]):.2%} against "
        f"{_mean([r.accuracy for r in runs['full']]):.2%}, {plan.seeds} seeds, {plan.train:,} digits for training). It "
        f"evaluates {float(by_id['evaluated'].value or 0):.1%} of the blocks and takes "
        f"{float(by_id['time'].value or 0):.0%} of the processor time. With one block taken out at test time it loses "
        f"{float(by_id['one'].value or 0):.1%} of its accuracy above guessing, with a quarter of them "
        f"{float(by_id['quarter'].value or 0):.1%} (trained without dropping: "
        f"{float(by_id['quarter'].theory or 0):.1%}); a network without shortcuts loses "
        f"{_mean([_lost(r, 1) for r in runs['plain']]):.0%} with one."
    )


def _figures(runs: dict[str, list[_Run]], plan: _Plan) -> list[Figure]:
    x = [float(c) for c in _counts(plan)]
    curves = [
        Series(NAMES[kind], x, [_mean([r.removed[i] for r in runs[kind]]) for i in range(len(x))], "points") for kind in KINDS
    ]
    curves.append(Series("guessing", [x[0], x[-1]], [0.1, 0.1]))
    keep = survival(plan.depth, RATE)
    layers = [float(k + 1) for k in range(plan.depth)]
    seeds = [float(i + 1) for i in range(plan.seeds)]
    pairs = [Series(NAMES[k], seeds, [r.accuracy for r in runs[k]], "points") for k in ("full", "dropped")]
    ylabel = "test accuracy, mean over seeds and choices"
    return [
        Figure("Blocks taken out at test time", "blocks taken out", ylabel, curves),
        Figure("Test accuracy, seed by seed", "seed", "test accuracy", pairs),
        Figure("Survival probability by depth", "block l", "p_l", [Series("linear schedule", layers, keep)]),
    ]


def _table(runs: dict[str, list[_Run]]) -> Table:
    rows: list[list[float | str | None]] = []
    for kind in KINDS:
        values, losses, seconds = zip(*((r.accuracy, r.loss, r.seconds) for r in runs[kind]), strict=True)
        rows.append([NAMES[kind], _mean(list(values)), _error(list(values)), _mean(list(losses)), _mean(list(seconds))])
    heads = ["network", "test accuracy", "standard error", "final training loss", "processor seconds"]
    return Table("Means over seeds", heads, rows)
