"""What a graph does to deep networks on it, as a section of a report: energy by depth, the largest step, and advice."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from residyn.analysis import max_stable_step
from residyn.counting import counted
from residyn.graph.classification import Split, accuracy, fit_nodes, split_nodes
from residyn.graph.depth import KINDS, Law, Profile, profiles
from residyn.graph.diffusion import Diffusion
from residyn.graph.laplacian import laplacian
from residyn.graph.network import Kind, ResidualGNN
from residyn.graph.product import as_scipy
from residyn.graph.reading import GraphFile, read
from residyn.results import Figure, Finding, Section, Series, Table
from residyn.training import Moment, Plan

Progress = Callable[[float, str], None]
GONE = 0.01
"""Features that kept less than this share of their energy count as collapsed."""
_DIRECTIONS = 16

CODE = """\
from residyn.graph import Diffusion, ResidualGNN, laplacian

L = laplacian(edge_index, n, self_loops=True)            # edge_index (2, edges)
heat = Diffusion(L)
x = heat.step(x, 0.5)                                    # x - 0.5·L·x, x (n, features)
net = ResidualGNN(x.shape[1], classes, depth=64)         # anchored to its input
logits = net(x, heat)
"""


@dataclass(frozen=True)
class Wish:
    """What is to be done with a graph.

    Args:
        depth: Steps of diffusion to look at.
        law: Sizes of the steps.
        layers: Depth of the network that is trained if there are labels; 0 trains none.
        epochs: Steps of its training.
        seed: Seed of features that are made up, of the split and of the weights.
    """

    depth: int = 64
    law: Law = Law()
    layers: int = 16
    epochs: int = 200
    seed: int = 0


def _quiet(share: float, text: str) -> None:
    """Progress that nobody watches."""


def assess(graph: GraphFile, *, name: str, wish: Wish, progress: Progress | None = None) -> Section:
    """Look at a graph as a deep network on it would.

    Args:
        graph: The graph.
        name: What to call it.
        wish: What to do.
        progress: Told the share done and what is going on.

    Returns:
        The section.

    Raises:
        InputError: If the graph or its features break a rule.
    """
    tell = progress or _quiet
    looped = laplacian(graph.edges, graph.n, weight=graph.weight, self_loops=True, dtype=torch.float64)
    heat = Diffusion(looped)
    bare = Diffusion(laplacian(graph.edges, graph.n, weight=graph.weight, dtype=torch.float64))
    x, features = _features(graph, wish.seed)
    found = profiles(heat, x, wish.depth, wish.law, progress=lambda share, text: tell(0.5 * share, text))
    findings = [_energy(found, kind, wish) for kind in KINDS]
    findings += _limit(bare, heat)
    past = wish.law.eta * heat.largest > 2 * (1 + 1e-9)
    findings += [_past(wish.law.eta, heat.largest)] if past else []
    findings.append(_advice(found, wish))
    trained: list[tuple[str, float]] = []
    if graph.labels is not None and wish.layers:
        trained = _train(graph, heat, wish, lambda share, text: tell(0.5 + 0.5 * share, text))
        findings.append(_classification(trained, wish))
    return Section(
        "graph",
        f"Depth on the graph {name}",
        summary=_summary(graph, found, wish, trained),
        equation="x⁺ = x - η·L·x; plain: η = 1; anchored: x⁺ = x - (1-α)·L·x - α·(x - x_0); implicit: x⁺ = x - h·L·x⁺",
        data=f"{name}: {features}",
        code=CODE,
        findings=findings,
        figures=_figures(found, wish),
        tables=_tables(graph, bare, found, trained, wish),
    )


def assess_file(
    file: str,
    *,
    wish: Wish,
    nodes: int | None = None,
    labels: str | None = None,
    features: str | None = None,
    progress: Progress | None = None,
) -> Section:
    """Read a graph and look at it.

    Args:
        file: The file.
        wish: What to do.
        nodes: Number of nodes, if isolated ones are to count.
        labels: A file of classes, or the name of a GraphML attribute.
        features: A file of features.
        progress: As in `assess`.

    Returns:
        The section, whose id is the file's name.

    Raises:
        InputError: If the file cannot be read or breaks a rule.
    """
    began = time.perf_counter()
    given = read(file, nodes=nodes, labels=labels, features=features)
    section = assess(given, name=Path(file).name, wish=wish, progress=progress)
    return replace(section, id=file, seconds=time.perf_counter() - began)


def _features(graph: GraphFile, seed: int) -> tuple[Tensor, str]:
    """Features to diffuse, `(n, d ≤ 16)`, and where they are from."""
    generator = torch.Generator().manual_seed(seed)
    count = _DIRECTIONS if graph.n <= 20_000 else 4 if graph.n <= 200_000 else 1
    if graph.features is None:
        x = torch.randn(graph.n, count, generator=generator, dtype=torch.float64)
        return x, f"the file has no features; {count} random numbers a node stand in for them"
    given = graph.features.double()
    words = f"{given.shape[1]} features a node"
    if given.shape[1] > count:
        given = given @ torch.randn(given.shape[1], count, generator=generator, dtype=torch.float64) / count**0.5
        words += f", projected to {count} random directions for the energies"
    return given, words


def _energy(found: dict[str, Profile], kind: str, wish: Wish) -> Finding:
    profile = found[kind]
    value = profile.measured[-1]
    theory = profile.theory[-1] if profile.theory else None
    pairs = [(m, t) for m, t in zip(profile.measured, profile.theory, strict=False) if t > profile.floor]
    worst = max((abs(m / t - 1) for m, t in pairs), default=0.0)
    agrees = theory is None or worst < 1e-4
    words = {
        "plain": "plain steps x⁺ = x - L·x",
        "residual": f"residual steps of η = {wish.law.eta:g}",
        "anchored": f"anchored steps of α = {wish.law.anchor:g}",
        "implicit": f"implicit steps of h = {wish.law.h:g}",
    }[kind]
    return Finding(
        f"graph.energy.{kind}",
        f"Dirichlet energy left after {wish.depth} {words}",
        "info" if theory is None else ("pass" if agrees else "fail"),
        value,
        theory,
        why=(
            "Theory: Σ λ·g(λ)²·|c|² over the spectrum of the graph and the shares of the features in it; passes if every "
            f"depth agrees within 1e-4 where it is above {profile.floor:.0e}, what rounding leaves (worst: {worst:.1e})."
            if theory is not None
            else "The graph is too large to compute the spectrum of its features here."
        ),
    )


def _limit(bare: Diffusion, heat: Diffusion) -> list[Finding]:
    found = []
    for branch, words, key in ((bare, "the normalised Laplacian", "limit"), (heat, "with a loop at each node", "limit.loops")):
        eta = max_stable_step(branch, torch.zeros(branch.n, 1, dtype=torch.float64)).value
        measured, agrees = eta, True
        if np.isfinite(eta):
            # past the limit the largest mode takes over and grows by η·λ_max - 1 a step, which says what the limit is
            measured = 2 * 1.05 * eta / (1 + _growth(branch, 1.05 * eta))
            agrees = abs(measured / eta - 1) < 0.01
        found.append(
            Finding(
                f"graph.{key}",
                f"Largest stable η of x - η·L·x, {words}",
                "pass" if agrees else "fail",
                measured,
                eta,
                why="Measured: from the growth of random features in 400 steps past the limit. Theory: 2/λ_max, by "
                "max_stable_step. Passes within 1 %.",
            )
        )
    return found


def _past(eta: float, largest: float) -> Finding:
    return Finding(
        "graph.eta",
        "The residual step is longer than the largest stable one: what it ends with is growth, no diffusion",
        "warn",
        eta,
        2 / largest,
        why=f"The mode of the largest eigenvalue, {largest:.4g}, is multiplied by 1 - η·λ = {1 - eta * largest:.4g} a step.",
        fix=f"take --eta {1 / largest:.2g}, half of the limit",
    )


def _growth(branch: Diffusion, eta: float) -> float:
    """Growth a step of random features, once the mode that grows fastest has taken over."""
    x = torch.randn(branch.n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    growth = 0.0
    for _ in range(400):
        y = branch.step(x, eta)
        growth = float(y.norm() / x.norm())
        x = y / y.norm()
    return growth


def collapse_depth(profile: Profile) -> int | None:
    """First depth at which less than a hundredth of the energy is left; `None` if there is none."""
    return next((k for k, share in enumerate(profile.measured) if share < GONE), None)


def _advice(found: dict[str, Profile], wish: Wish) -> Finding:
    plain, anchored = collapse_depth(found["plain"]), found["anchored"].measured[-1]
    if plain is None:
        words = f"Plain networks of up to {wish.depth} layers keep more than {GONE:.0%} of the energy here"
        fix = "no anchor is needed up to that depth"
    else:
        words = f"Plain networks lose all but {GONE:.0%} of the energy in {plain} layers here"
        fix = (
            f"go deeper than {plain} layers only with an anchor, ResidualGNN(kind='anchored', anchor={wish.law.anchor:g}), "
            f"which keeps {anchored:.2%} at every depth; a smaller η or an identity path alone delays the collapse, no more"
        )
    return Finding("graph.advice", words, "info", None if plain is None else float(plain), None, "layers", fix=fix)


def _train(graph: GraphFile, heat: Diffusion, wish: Wish, tell: Progress) -> list[tuple[str, float]]:
    """Test accuracies of an anchored network, the same with two layers, and a plain one; and of guessing."""
    labels = graph.labels
    assert labels is not None
    torch.manual_seed(wish.seed)
    split = split_nodes(labels, wish.seed)
    x = _inputs(graph, wish.seed)
    single = Diffusion(laplacian(graph.edges, graph.n, weight=graph.weight, self_loops=True, dtype=torch.float32))
    jobs: tuple[tuple[Kind, int], ...] = (("anchored", wish.layers), ("anchored", 2), ("plain", wish.layers))
    found = []
    for i, (kind, depth) in enumerate(dict.fromkeys(jobs)):
        net = ResidualGNN(x.shape[1], len(graph.classes), depth=depth, kind=kind)
        plan = Plan(epochs=wish.epochs, batch=len(split.train), rate=0.01, schedule="constant", patience=60, seed=wish.seed)
        label = f"{kind}, {depth} layers"

        def follow(moment: Moment, i: int = i, label: str = label) -> None:
            tell((i + moment.step / moment.steps) / len(jobs), f"training {label}")

        fit_nodes(net, x, single, labels, split, plan, progress=follow)
        found.append((label, accuracy(net, x, single, labels, split.test)))
    return [*found, ("guessing the largest class", _largest(labels, split))]


def _inputs(graph: GraphFile, seed: int) -> Tensor:
    """What a network sees of a node: its features, rows scaled to one, or its name, as one number each or as random ones."""
    if graph.features is not None:
        return graph.features / graph.features.abs().sum(1, keepdim=True).clamp_min(1e-12)
    if graph.n <= 3000:
        return torch.eye(graph.n)
    return torch.randn(graph.n, 64, generator=torch.Generator().manual_seed(seed))


def _largest(labels: Tensor, split: Split) -> float:
    most = int(labels[split.train].mode().values) if len(split.train) else 0
    return max(float((labels[split.test] == value).double().mean()) for value in (most, int(labels[split.test].mode().values)))


def _classification(trained: list[tuple[str, float]], wish: Wish) -> Finding:
    deep, shallow = trained[0][1], dict(trained).get("anchored, 2 layers", trained[0][1])
    return Finding(
        "graph.accuracy",
        f"Test accuracy of {wish.layers} anchored layers (two layers: {shallow:.1%}; {trained[-2][0]}: {trained[-2][1]:.1%})",
        "pass" if deep >= shallow - 0.03 else "warn",
        deep,
        shallow,
        why="Theory: depth costs nothing if the anchor holds. Passes if no more than three points below two layers; one split "
        "and one start scatter by about as much.",
    )


_MORAL = "The identity path alone slows the collapse; the anchor stops it."


def _summary(graph: GraphFile, found: dict[str, Profile], wish: Wish, trained: list[tuple[str, float]]) -> str:
    left = {kind: found[kind].measured[-1] for kind in KINDS}
    words = (
        f"{counted(graph.n, 'node')}, {counted(graph.edges.shape[1], 'edge')} as given. "
        f"After {wish.depth} steps plain propagation has "
        f"{left['plain']:.2g} of the Dirichlet energy left, the residual step {left['residual']:.2g}, the implicit one "
        f"{left['implicit']:.2g}; the anchored one {left['anchored']:.2g}, and keeps it. "
    )
    grown = left["residual"] > 1
    words += "The residual step is past its limit and grows." if grown else _MORAL
    if trained:
        words += " Test accuracy: " + "; ".join(f"{label} {share:.1%}" for label, share in trained) + "."
    return " ".join([words, *graph.notes])


def _figures(found: dict[str, Profile], wish: Wish) -> list[Figure]:
    every = range(0, wish.depth + 1, max(1, wish.depth // 32))
    series = []
    for kind in KINDS:
        profile = found[kind]
        shown = [k for k in every if profile.measured[k] > 1e-20]
        if profile.theory:
            line = [k for k in range(wish.depth + 1) if profile.theory[k] > 1e-20]
            series.append(Series(f"{kind}, theory", [float(k) for k in line], [profile.theory[k] for k in line]))
        series.append(Series(f"{kind}, measured", [float(k) for k in shown], [profile.measured[k] for k in shown], "points"))
    return [
        Figure(
            "Energy by depth",
            "step k",
            "Dirichlet energy, share of the first",
            series,
            yscale="log",
            caption="A straight line is a geometric decay, at the rate of the slowest mode that is left. Only the anchored "
            "step ends level.",
        )
    ]


def _tables(
    graph: GraphFile, bare: Diffusion, found: dict[str, Profile], trained: list[tuple[str, float]], wish: Wish
) -> list[Table]:
    matrix = as_scipy(graph_matrix(graph))
    count, _ = connected_components(matrix, directed=False)
    degree = np.asarray((matrix != 0).sum(axis=1)).reshape(-1) - (matrix.diagonal() != 0)
    loops = int((graph.edges[0] == graph.edges[1]).sum())
    pairs = int((matrix.nnz - (matrix.diagonal() != 0).sum()) // 2)
    rows: list[list[float | str | None]] = [
        ["nodes", float(graph.n)],
        ["different edges", float(pairs)],
        ["edges as given (both ways or repeated ones counted)", float(graph.edges.shape[1])],
        ["loops, which drop out", float(loops)],
        ["isolated nodes", float((degree == 0).sum())],
        ["components", float(count)],
        ["largest degree", float(degree.max(initial=0))],
        ["largest eigenvalue of the normalised Laplacian", bare.largest],
    ]
    tables = [
        Table("The graph", ["what", "value"], rows),
        Table(
            f"After {wish.depth} steps",
            ["step", "energy left", "theory", "directions left", "steps to 1 % of the energy"],
            [
                [
                    kind,
                    found[kind].measured[-1],
                    found[kind].theory[-1] if found[kind].theory else None,
                    float(found[kind].rank),
                    None if collapse_depth(found[kind]) is None else float(collapse_depth(found[kind]) or 0),
                ]
                for kind in KINDS
            ],
        ),
    ]
    if trained:
        tables.append(Table("Node classification", ["network", "test accuracy"], [[label, share] for label, share in trained]))
    return tables


def graph_matrix(graph: GraphFile) -> Tensor:
    """D - A of the graph, whose entries off the diagonal are its different edges."""
    return laplacian(graph.edges, graph.n, weight=graph.weight, normalized=False, dtype=torch.float64)
