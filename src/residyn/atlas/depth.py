"""Deep residual networks: with identity shortcuts a network of hundreds of layers trains, without them it does not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from residyn.atlas.context import Context
from residyn.atlas.data import Split, mnist
from residyn.atlas.fit import accuracy, seeded, train
from residyn.nets import MLP, GradientProfile, ResNet, gradient_profile, relu_correlation
from residyn.results import Figure, Finding, Section, Series, Table

WIDTH = 64
RESIDUAL_RATE = 1e-3
PLAIN_RATES = (1e-3, 3e-4, 1e-4)
TRAINED = 0.5 * math.log(10)
PROBES = 16

CODE = """\
from torch import nn
from residyn.nets import MLP, ResNet, gradient_profile

net = ResNet(nn.Linear(784, 64), [MLP(64, 64, 64) for _ in range(100)], nn.Linear(64, 10))
profile = gradient_profile(net, x[:16], labels[:16])   # x (B, 784): your inputs; labels (B,)
print(profile.measured[0], profile.theory[0])          # log of the gradient at the first block over the last
"""


@dataclass(frozen=True)
class _Trained:
    """How one training went; of several learning rates, the one with the lowest loss."""

    depth: int
    shortcut: bool
    rate: float
    loss: float
    accuracy: float


@dataclass(frozen=True)
class _Start:
    """A network at its initialisation."""

    profile: GradientProfile
    alike: list[float]
    alike_theory: list[float]


def run(context: Context) -> Section:
    """Train plain and residual twins of several depths and look at their gradients before training.

    Args:
        context: How to run.

    Returns:
        The section.
    """
    depths = (10, 100) if context.fast else (10, 30, 100, 200)
    train_size, epochs = (1000, 4) if context.fast else (3000, 6)
    split = mnist((train_size, 2000), context.seed)
    context.advance(0.02, "gradients at initialisation")
    deepest = depths[-1]
    starts = {shortcut: _start(deepest, shortcut, split, context.seed) for shortcut in (False, True)}
    rates = PLAIN_RATES[:2] if context.fast else PLAIN_RATES
    jobs = [(d, s, r) for d in depths for s in (True, False) for r in ((RESIDUAL_RATE,) if s else rates)]
    total, done, trained = sum(d for d, _, _ in jobs), 0, []
    for depth, shortcut, rate in jobs:
        context.advance(0.05 + 0.94 * done / total, f"training {depth} {'residual' if shortcut else 'plain'} blocks")
        trained.append(_train(depth, shortcut, rate, split, epochs, context.seed))
        done += depth
    best = [_best(trained, d, s) for s in (True, False) for d in depths]
    findings = [_gradient(starts[s].profile, deepest, s) for s in (True, False)]
    findings += [_alike(starts, deepest), *_training(best, deepest)]
    return Section(
        "depth",
        "Deep residual networks",
        summary=_summary(findings, best, starts, deepest, len(rates)),
        equation="x⁺ = x + h·F(x), F(x) = W₂·relu(W₁·x), h = 1/√L; plain twin: x⁺ = F(x)",
        data=split.source,
        code=CODE,
        findings=findings,
        figures=_figures(starts, best, depths),
        tables=[_table(trained)],
    )


def _net(depth: int, shortcut: bool, seed: int) -> ResNet:
    """The same weights for the plain and the residual twin."""
    with seeded(seed):
        branches = [MLP(WIDTH, WIDTH, WIDTH) for _ in range(depth)]
        return ResNet(nn.Linear(784, WIDTH), branches, nn.Linear(WIDTH, 10), shortcut=shortcut)


def _start(depth: int, shortcut: bool, split: Split, seed: int) -> _Start:
    net = _net(depth, shortcut, seed)
    x, y = split.x[0][:PROBES], split.y[0][:PROBES]
    with seeded(seed):
        profile = gradient_profile(net, x, y)
    with torch.no_grad():
        alike = [_mean_cosine(state) for state in net.states(x)]
    theory, h2 = [alike[0]], 1 / depth
    for _ in range(depth):
        rho = theory[-1]
        kappa = relu_correlation(min(rho, 1.0))
        theory.append((rho + h2 * kappa) / (1 + h2) if shortcut else kappa)
    return _Start(profile, alike, theory)


def _mean_cosine(states: Tensor) -> float:
    """Mean cosine between the states of different samples."""
    unit = nn.functional.normalize(states.double(), dim=1)
    gram, n = unit @ unit.T, len(unit)
    return float((gram.sum() - gram.trace()) / (n * (n - 1)))


def _train(depth: int, shortcut: bool, rate: float, split: Split, epochs: int, seed: int) -> _Trained:
    net = _net(depth, shortcut, seed)
    with seeded(seed + 1):
        losses = train(net, split.x[0], split.y[0], epochs=epochs, rate=rate, clip=1.0)
    loss = losses[-1] if math.isfinite(losses[-1]) else math.inf
    return _Trained(depth, shortcut, rate, loss, accuracy(net, split.x[1], split.y[1]))


def _best(trained: list[_Trained], depth: int, shortcut: bool) -> _Trained:
    return min((t for t in trained if t.depth == depth and t.shortcut == shortcut), key=lambda t: t.loss)


def _gradient(profile: GradientProfile, depth: int, shortcut: bool) -> Finding:
    kind = "residual" if shortcut else "plain"
    value, theory, spread = profile.measured[0], profile.theory[0], profile.spread[0]
    return Finding(
        f"depth.gradient.{kind}",
        f"Gradient norm at the first of {depth} {kind} blocks over that at the last, at initialisation",
        "pass" if abs(value - theory) <= 3 * spread else "warn",
        math.exp(value),
        math.exp(theory),
        why="Theory: the sum of the mean log-growth that each block's Jacobian gives a random direction; passes "
        f"within three standard deviations of that sum, here a factor {math.exp(3 * spread):.3g} either way.",
    )


def _alike(starts: dict[bool, _Start], depth: int) -> Finding:
    plain, residual = starts[False], starts[True]
    # A mean of relu units over n neurons scatters by about √(5/n) a layer around the wide limit; 0.15 is that at n =
    # 64, halved because ρ is bounded by 1 and the bound is near.
    fits = abs(residual.alike[-1] - residual.alike_theory[-1]) <= 0.15
    return Finding(
        "depth.alike",
        f"Mean cosine between the states of different digits after {depth} residual blocks (plain: "
        f"{plain.alike[-1]:.4f}, theory {plain.alike_theory[-1]:.4f}), at initialisation",
        "pass" if fits and residual.alike[-1] < plain.alike[-1] else "fail",
        residual.alike[-1],
        residual.alike_theory[-1],
        why="At 1 the network cannot tell its inputs apart. Theory: the correlation map of wide relu layers, from the "
        "cosine after the stem; passes if the residual network is within 0.15 of it and below the plain one.",
    )


def _training(best: list[_Trained], depth: int) -> list[Finding]:
    residual = next(t for t in best if t.shortcut and t.depth == depth)
    plain = next(t for t in best if not t.shortcut and t.depth == depth)
    rule = f"A network trains if its loss falls below half that of guessing, ½·ln 10 = {TRAINED:.2f} nats."
    return [
        Finding(
            "depth.train.residual",
            f"Training loss of {depth} residual blocks ({2 * depth} layers); test accuracy {residual.accuracy:.1%}",
            "pass" if residual.loss < TRAINED else "fail",
            residual.loss,
            0.0,
            "nat",
            why=f"{rule} Theory: the gradient arrives, so the loss tends to 0.",
        ),
        Finding(
            "depth.train.plain",
            f"Training loss of {depth} plain blocks, at the best of the learning rates tried; test accuracy "
            f"{plain.accuracy:.1%}",
            "pass" if plain.loss > TRAINED else "fail",
            plain.loss,
            math.log(10),
            "nat",
            why=f"{rule} Theory: inputs that the network cannot tell apart leave it at guessing, ln 10; the claim is "
            "that the plain network does not train, so it passes if the loss stays above.",
        ),
        Finding(
            "depth.accuracy",
            f"Test accuracy lost from the shallowest to {depth} residual blocks (plain: {_lost(best, False, depth):.3f})",
            "pass" if _lost(best, True, depth) < 0.5 * _lost(best, False, depth) else "fail",
            _lost(best, True, depth),
            0.0,
            why="Passes if depth costs the residual network less than half of what it costs the plain one.",
        ),
    ]


def _lost(best: list[_Trained], shortcut: bool, depth: int) -> float:
    same = [t for t in best if t.shortcut == shortcut]
    return min(same, key=lambda t: t.depth).accuracy - next(t for t in same if t.depth == depth).accuracy


def _summary(findings: list[Finding], best: list[_Trained], starts: dict[bool, _Start], depth: int, rates: int) -> str:
    residual = next(t for t in best if t.shortcut and t.depth == depth)
    plain = next(t for t in best if not t.shortcut and t.depth == depth)
    holds = all(f.verdict == "pass" for f in findings if f.id.startswith("depth.train"))
    opening = "The claim holds" if holds else "The claim does not hold as stated"
    return (
        f"{opening}: with {depth} blocks ({2 * depth} layers) the residual network reaches a training loss of "
        f"{residual.loss:.2f} and {residual.accuracy:.1%} on held-out digits, its plain twin {plain.loss:.2f} and "
        f"{plain.accuracy:.1%}. Both have the same branches, the same initial weights (He's, which keep the gradient's "
        f"mean square), the same clipping and optimiser; the plain one had the best of {rates} learning rates. Before "
        f"training, the gradient at the first residual block is {math.exp(starts[True].profile.measured[0]):.2g} times "
        f"that at the last; in the plain network {math.exp(starts[False].profile.measured[0]):.2g} times. There the "
        f"states of different digits have a mean cosine of {starts[False].alike[-1]:.4f}, so that hardly anything is "
        f"left to tell them apart (residual: {starts[True].alike[-1]:.3f})."
    )


def _figures(starts: dict[bool, _Start], best: list[_Trained], depths: tuple[int, ...]) -> list[Figure]:
    names = {True: "residual", False: "plain"}
    every = list(range(0, depths[-1] + 1, max(depths[-1] // 50, 1)))
    gradient, alike = [], []
    for shortcut, start in starts.items():
        p, name, x = start.profile, names[shortcut], [float(k) for k in every]
        low, high = ([math.exp(p.theory[k] + 2 * sign * p.spread[k]) for k in every] for sign in (-1, 1))
        gradient += [
            Series(f"{name}, theory ± 2 sd", x, low, "band", high),
            Series(f"{name}, theory", x, [math.exp(p.theory[k]) for k in every]),
            Series(f"{name}, measured", x, [math.exp(p.measured[k]) for k in every], "points"),
        ]
        alike += [
            Series(f"{name}, theory", x, [start.alike_theory[k] for k in every]),
            Series(f"{name}, measured", x, [start.alike[k] for k in every], "points"),
        ]
    curves = [
        Series(names[s], [float(d) for d in depths], [t.accuracy for t in best if t.shortcut == s], "points") for s in names
    ]
    chance = Series("guessing", [float(depths[0]), float(depths[-1])], [0.1, 0.1])
    return [
        Figure(
            "Gradient norm by depth, before training",
            "block k",
            "‖∂loss/∂x_k‖ over that at the last block",
            gradient,
            yscale="log",
            caption="Theory sums what each block's Jacobian does to a random direction.",
        ),
        Figure(
            "How alike different digits become, before training",
            "block k",
            "mean cosine between states",
            alike,
            caption="At 1, different digits cannot be told apart. Theory: the correlation map of wide relu layers.",
        ),
        Figure("Accuracy by depth", "blocks (two layers each)", "test accuracy", [*curves, chance], xscale="log"),
    ]


def _table(trained: list[_Trained]) -> Table:
    rows: list[list[float | str | None]] = [
        [float(t.depth), "residual" if t.shortcut else "plain", t.rate, t.loss, t.accuracy] for t in trained
    ]
    return Table("All trainings", ["blocks", "network", "learning rate", "final training loss", "test accuracy"], rows)
