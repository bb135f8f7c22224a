"""Residual graph networks: without an identity path depth collapses node features; what slows it, and what stops it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from residyn.analysis import max_stable_step
from residyn.atlas.context import Context
from residyn.atlas.data import digits
from residyn.atlas.fit import seeded
from residyn.errors import require
from residyn.graph import Diffusion, ResidualGNN, laplacian
from residyn.graph.classification import Split, accuracy, fit_nodes, split_nodes
from residyn.graph.depth import KINDS, Law, Profile, profiles
from residyn.graph.neighbours import nearest_neighbours
from residyn.graph.network import Kind
from residyn.results import Figure, Finding, Section, Series, Table
from residyn.training import Plan

NEIGHBOURS = 8
NETWORKS: tuple[Kind, ...] = ("plain", "residual", "anchored")
LAW = Law(eta=0.5, anchor=0.1, h=1.0)

CODE = """\
from residyn.graph import Diffusion, ResidualGNN, dirichlet_energy, laplacian

L = laplacian(edge_index, n, self_loops=True)      # edge_index (2, edges), one way or both
heat = Diffusion(L)
print(dirichlet_energy(heat.step(x, 0.5), heat))   # x (n, features): one residual step x - 0.5·L·x
net = ResidualGNN(x.shape[1], 10, depth=64)        # anchored to its input: depth costs nothing
print(net(x, heat).shape)
"""


@dataclass(frozen=True)
class _Trained:
    """One training: how many layers of which kind, and what it came to."""

    kind: Kind
    depth: int
    accuracy: float


def run(context: Context) -> Section:
    """Energies by depth beside the spectrum, rates on two social networks, the largest step, and accuracy by depth.

    Args:
        context: How to run.

    Returns:
        The section.
    """
    count, depth = (400, 24) if context.fast else (1797, 64)
    data = digits((count,), context.seed)
    x, labels = data.x[0], data.y[0]
    edges = nearest_neighbours(x, NEIGHBOURS)
    heat = Diffusion(laplacian(edges, count, self_loops=True, dtype=torch.float64))
    context.advance(0.02, "energies by depth")
    found = profiles(heat, _directions(x.double()), depth, LAW)
    context.advance(0.15, "rates on social networks")
    findings = [_energy(found[kind], kind, depth) for kind in KINDS]
    findings += [_rate(name) for name in ("karate", "novel")]
    bare = Diffusion(laplacian(edges, count, dtype=torch.float64))
    findings.append(_limit(bare))
    trained = _train(x, heat, labels, depth, context)
    findings += _depth(trained, depth)
    return Section(
        "graph",
        "Residual graph networks against oversmoothing",
        summary=_summary(found, trained, depth, count),
        equation="x⁺ = x - η·L·x; anchored: x⁺ = x - (1-α)·L·x - α·(x - x_0); plain: x⁺ = (I - L)·x",
        data=f"{data.source}; {NEIGHBOURS} nearest neighbours of each. Zachary's karate club and the novel Les Misérables "
        "(package networkx)",
        code=CODE,
        findings=findings,
        figures=_figures(found, trained, depth),
        tables=[_table(trained)],
    )


def _directions(x: Tensor) -> Tensor:
    """Eight random combinations of the pixels: enough to see what a step does to features."""
    return x @ torch.randn(x.shape[1], 8, dtype=torch.float64) / 8**0.5


def _energy(profile: Profile, kind: str, depth: int) -> Finding:
    worst = max(abs(m / t - 1) for m, t in zip(profile.measured, profile.theory, strict=True))
    words = {
        "plain": "plain steps x⁺ = x - L·x",
        "residual": f"residual steps of η = {LAW.eta:g}",
        "anchored": f"anchored steps of α = {LAW.anchor:g}",
        "implicit": f"implicit steps of h = {LAW.h:g}",
    }[kind]
    return Finding(
        f"graph.energy.{kind}",
        f"Dirichlet energy of pixel features left after {depth} {words}",
        "pass" if worst < 1e-4 else "fail",
        profile.measured[-1],
        profile.theory[-1],
        why="Theory: Σ λ·g(λ)²·|c|², with g the step as a function of an eigenvalue and c the shares of the features in the "
        f"spectrum. Passes if every depth agrees within 1e-4 (worst: {worst:.0e}).",
    )


def _social(name: str) -> tuple[Tensor, str]:
    """The Laplacian of a social network, with loops, and its title."""
    networkx = require("networkx", "atlas")
    graph = networkx.karate_club_graph() if name == "karate" else networkx.les_miserables_graph()
    number = {node: i for i, node in enumerate(graph)}
    edges = torch.tensor([[number[a], number[b]] for a, b in graph.edges]).T
    title = "the karate club" if name == "karate" else "Les Misérables"
    return laplacian(edges, len(number), self_loops=True, dtype=torch.float64), title


def _rate(name: str) -> Finding:
    """The factor a step that the energy of plain propagation tends to."""
    L, title = _social(name)
    heat = Diffusion(L)
    values, vectors = torch.linalg.eigh(L.to_dense())
    still = vectors[:, :1]  # of a connected graph: the features that no step changes, and that have no energy
    x = torch.randn(heat.n, 4, dtype=torch.float64)
    ratio = 0.0
    for _ in range(300):
        x = x - still * (still * x).sum(0)  # else it would be all that is left of x in floating point
        y = heat.step(x, 1.0)
        ratio = float((y * heat.matvec(y)).sum() / (x * heat.matvec(x)).sum())
        x = y / y.norm()
    theory = float((1 - values[1:]).square().max())
    return Finding(
        f"graph.rate.{name}",
        f"Factor by which a plain layer multiplies the energy at depth, on {title}",
        "pass" if abs(ratio - theory) < 1e-3 else "fail",
        ratio,
        theory,
        why="Theory: max (1 - λ)² over the eigenvalues λ > 0 of the graph's Laplacian. Passes within 0.001.",
    )


def _limit(heat: Diffusion) -> Finding:
    eta = max_stable_step(heat, torch.zeros(heat.n, 1, dtype=torch.float64)).value
    x = torch.randn(heat.n, 1, dtype=torch.float64)
    growth = 0.0
    for _ in range(400):
        y = heat.step(x, 1.05 * eta)
        growth = float(y.norm() / x.norm())
        x = y / y.norm()
    measured = 2 * 1.05 * eta / (1 + growth)
    return Finding(
        "graph.limit",
        "Largest stable η of x - η·L·x on the digits' graph, from the growth past it",
        "pass" if abs(measured / eta - 1) < 0.01 else "fail",
        measured,
        eta,
        why="Theory: 2/λ_max, from max_stable_step. Measured: at 1.05 of it random features come to grow by "
        "η·λ_max - 1 a step. Passes within 1 %.",
    )


def _train(x: Tensor, heat: Diffusion, labels: Tensor, deepest: int, context: Context) -> list[_Trained]:
    depths = (2, deepest) if context.fast else (2, 8, deepest)
    single = copy.deepcopy(heat).to(torch.float32)
    split = split_nodes(labels, context.seed, per_class=10)
    jobs = [(kind, depth) for depth in depths for kind in NETWORKS]
    total, done, found = sum(depth for _, depth in jobs), 0, []
    for kind, depth in jobs:
        context.advance(0.2 + 0.8 * done / total, f"training {depth} {kind} layers")
        found.append(_one(kind, depth, x, single, labels, split, context))
        done += depth
    return found


def _one(kind: Kind, depth: int, x: Tensor, heat: Diffusion, labels: Tensor, split: Split, context: Context) -> _Trained:
    with seeded(context.seed):
        net = ResidualGNN(x.shape[1], 10, width=32, depth=depth, kind=kind, dropout=0.2)
        epochs = 30 if context.fast else 80
        plan = Plan(epochs=epochs, batch=len(split.train), rate=0.01, schedule="cosine", seed=context.seed)
        fit_nodes(net, x, heat, labels, split, plan)
        return _Trained(kind, depth, accuracy(net, x, heat, labels, split.test))


def _depth(trained: list[_Trained], deepest: int) -> list[Finding]:
    share = {(t.kind, t.depth): t.accuracy for t in trained}
    deep, shallow, plain = share["anchored", deepest], share["anchored", 2], share["plain", deepest]
    return [
        Finding(
            "graph.accuracy.anchored",
            f"Test accuracy of {deepest} anchored layers, ten labelled digits a class (two layers: {shallow:.1%})",
            "pass" if deep > shallow - 0.03 else "fail",
            deep,
            shallow,
            why="Theory: depth costs nothing. Passes if no more than three points are lost against two layers, about "
            "the scatter of one split.",
        ),
        Finding(
            "graph.accuracy.plain",
            f"Test accuracy of {deepest} plain layers (two layers: {share['plain', 2]:.1%})",
            "pass" if plain < 0.5 * share["plain", 2] else "fail",
            plain,
            0.1,
            why="Theory: features that collapsed leave guessing. The claim is that depth ruins the plain network: passes "
            "if it has lost more than half of what two layers reach.",
        ),
    ]


def _summary(found: dict[str, Profile], trained: list[_Trained], depth: int, count: int) -> str:
    left = {kind: found[kind].measured[-1] for kind in KINDS}
    share = {(t.kind, t.depth): t.accuracy for t in trained}
    collapsed = share["plain", depth] < 0.5 * share["plain", 2]
    return (
        f"The claim {'holds' if collapsed else 'does not hold as stated'}. On the neighbour graph of {count:,} digits, {depth} "
        f"plain layers leave {left['plain']:.1e} of the Dirichlet energy of the features; residual steps leave "
        f"{left['residual']:.1e}, implicit ones {left['implicit']:.1e}: an identity path slows the collapse, no more. "
        f"The anchor to the input stops it: {left['anchored']:.1%} is left, at every depth. "
        "Each number is the one that the spectrum of the graph says. "
        f"Networks of {depth} layers, trained on ten digits a class, find {share['anchored', depth]:.1%} of the others "
        f"(anchored), {share['residual', depth]:.1%} (residual) and {share['plain', depth]:.1%} (plain); "
        f"two anchored layers {share['anchored', 2]:.1%}."
    )


def _table(trained: list[_Trained]) -> Table:
    rows: list[list[float | str | None]] = [[t.kind, float(t.depth), t.accuracy] for t in trained]
    return Table("All trainings", ["network", "layers", "test accuracy"], rows)


def _figures(found: dict[str, Profile], trained: list[_Trained], depth: int) -> list[Figure]:
    energies = []
    every = range(0, depth + 1, max(1, depth // 32))
    for kind in KINDS:
        profile, steps = found[kind], [float(k) for k in range(depth + 1)]
        energies.append(Series(f"{kind}, theory", steps, profile.theory))
        energies.append(Series(f"{kind}, measured", [float(k) for k in every], [profile.measured[k] for k in every], "points"))
    depths = sorted({t.depth for t in trained})
    share = {(t.kind, t.depth): t.accuracy for t in trained}
    curves = [Series(kind, [float(d) for d in depths], [share[kind, d] for d in depths], "points") for kind in NETWORKS]
    return [
        Figure(
            "Energy by depth",
            "step k",
            "Dirichlet energy, share of the first",
            energies,
            yscale="log",
            caption="Theory from the spectrum of the graph. Only the anchored step ends level.",
        ),
        Figure(
            "Accuracy by depth",
            "layers",
            "test accuracy",
            [*curves, Series("guessing", [2.0, float(depth)], [0.1, 0.1])],
            xscale="log",
        ),
    ]
