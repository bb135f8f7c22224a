"""Energies by depth against dense linear algebra, and the section that a report is made of."""

import networkx
import numpy as np
import pytest
import torch

from residyn import InputError
from residyn.graph import Diffusion, dirichlet_energy, laplacian
from residyn.graph.assessment import Wish, assess
from residyn.graph.depth import KINDS, Law, profiles, spectral_measure
from residyn.graph.reading import GraphFile


def graph_file(graph, **more):
    numbers = {name: i for i, name in enumerate(graph)}
    edges = torch.tensor([[numbers[a], numbers[b]] for a, b in graph.edges]).T
    return GraphFile([str(name) for name in graph], edges, **more)


@pytest.fixture(scope="module")
def novel():
    given = graph_file(networkx.les_miserables_graph())
    L = laplacian(given.edges, given.n, self_loops=True, dtype=torch.float64)
    return Diffusion(L), L.to_dense()


def test_energies_are_those_of_matrix_functions(novel):
    heat, L = novel
    x = torch.randn(77, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    law, eye, depth = Law(0.3, 0.2, 2.0), torch.eye(77, dtype=torch.float64), 12
    matrices = {"plain": eye - L, "residual": eye - 0.3 * L, "implicit": torch.linalg.inv(eye + 2 * L)}
    found = profiles(heat, x, depth, law)
    for kind in KINDS:
        y = x
        for k in range(1, depth + 1):
            y = matrices[kind] @ y if kind in matrices else 0.8 * (eye - L) @ y + 0.2 * x
            share = float(torch.trace(y.T @ L @ y) / torch.trace(x.T @ L @ x))
            # the implicit step is solved to 1e-12 of x, twelve times
            assert found[kind].measured[k] == pytest.approx(share, rel=1e-8)
            assert found[kind].theory[k] == pytest.approx(share, rel=1e-8)


def test_quadrature_of_a_large_graph_agrees_with_the_steps():
    graph = networkx.random_regular_graph(4, 1200, seed=1)
    heat = Diffusion(laplacian(torch.tensor(list(graph.edges)).T, 1200, self_loops=True, dtype=torch.float64))
    x = torch.randn(1200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for profile in profiles(heat, x, 20, Law()).values():
        np.testing.assert_allclose(profile.theory, profile.measured, rtol=1e-6)
    assert spectral_measure(heat, x, 50, memory=1e3) is None
    values, weights = spectral_measure(heat, x, 50)
    assert float((values * weights).sum()) == pytest.approx(float(dirichlet_energy(x, heat)), rel=1e-12)


def test_energies_that_rounding_decides_are_not_judged():
    # two nodes with loops: plain steps take all of the energy at once, and what is measured after that is rounding
    pair = Diffusion(laplacian(torch.tensor([[0], [1]]), 2, self_loops=True, dtype=torch.float64))
    x = torch.randn(2, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = profiles(pair, x, 4, Law())
    assert found["plain"].measured[1] < found["plain"].floor < 1e-9
    given = GraphFile(["a", "b"], torch.tensor([[0], [1]]))
    section = assess(given, name="pair", wish=Wish(depth=4))
    assert [f.id for f in section.findings if f.verdict == "fail"] == []


def test_features_without_energy_are_refused(novel):
    heat, _ = novel
    with pytest.raises(InputError, match="`features` must differ along an edge, got features without energy"):
        profiles(heat, torch.zeros(77, 2, dtype=torch.float64), 3, Law())


def test_section_of_a_graph_with_classes_and_untidy_edges():
    graph = networkx.karate_club_graph()
    given = graph_file(
        graph, labels=torch.tensor([int(c == "Officer") for _, c in graph.nodes(data="club")]), classes=["a", "b"]
    )
    untidy = torch.cat([given.edges, given.edges.flip(0), torch.tensor([[3, 5], [3, 5]])], 1)
    given = GraphFile(
        [*given.names, "lonely"], untidy, labels=torch.cat([given.labels, torch.tensor([-1])]), classes=["a", "b"]
    )
    shares = []
    section = assess(
        given, name="club", wish=Wish(depth=16, layers=4, epochs=30), progress=lambda share, text: shares.append(share)
    )
    assert {f.verdict for f in section.findings} <= {"pass", "info"}, section.findings
    rows = dict(section.tables[0].rows)
    assert rows["different edges"] == 78
    assert rows["loops, which drop out"] == 2
    assert rows["isolated nodes"] == 1
    assert rows["components"] == 2
    assert [row[0] for row in section.tables[2].rows] == [
        "anchored, 4 layers",
        "anchored, 2 layers",
        "plain, 4 layers",
        "guessing the largest class",
    ]
    assert max(shares) <= 1.0
    limit = next(f for f in section.findings if f.id == "graph.limit")
    top = float(networkx.normalized_laplacian_spectrum(graph, weight=None)[-1])
    assert limit.theory == pytest.approx(2 / top, rel=1e-9)
    assert limit.value == pytest.approx(2 / top, rel=1e-2)


def test_section_with_features_and_weights():
    graph = networkx.les_miserables_graph()
    weight = torch.tensor([float(w) for _, _, w in graph.edges(data="weight")], dtype=torch.float64)
    features = torch.randn(77, 30, generator=torch.Generator().manual_seed(1))
    section = assess(graph_file(graph, weight=weight, features=features), name="novel", wish=Wish(depth=8))
    assert section.verdict == "pass"
    assert "30 features a node, projected to 16" in section.data
    assert len(section.tables) == 2
    nothing = GraphFile(["a", "b"], torch.tensor([[0], [1]]), weight=torch.tensor([0.0]))
    with pytest.raises(InputError, match="got features without energy"):
        assess(nothing, name="nothing", wish=Wish())
