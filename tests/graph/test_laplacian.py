"""The Laplacian against networkx and SciPy, on edge lists as users have them."""

from types import SimpleNamespace

import networkx
import numpy as np
import pytest
import scipy.sparse.csgraph
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residyn import InputError
from residyn.graph import (
    dirichlet_energy,
    effective_resistance,
    laplacian,
    nearest_neighbours,
    rank,
    rayleigh_quotient,
    reorder,
)


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("both", [True, False])
def test_agrees_with_networkx(normalized, both):
    graph = networkx.karate_club_graph()
    edges = torch.tensor(list(graph.edges)).T
    edges = torch.cat([edges, edges.flip(0)], 1) if both else edges
    make = networkx.normalized_laplacian_matrix if normalized else networkx.laplacian_matrix
    truth = make(graph, weight=None).toarray()
    L = laplacian(edges, 34, normalized=normalized, dtype=torch.float64)
    np.testing.assert_allclose(L.to_dense().numpy(), truth, atol=1e-15)
    assert L.layout == torch.sparse_csr


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 8).flatmap(
        lambda n: st.tuples(
            st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1), st.floats(0, 10)), max_size=20)
        )
    )
)
def test_laws_hold_on_any_edge_list(given_graph):
    n, edges = given_graph
    index = torch.tensor([[i, j] for i, j, _ in edges]).reshape(-1, 2).T
    weight = torch.tensor([w for _, _, w in edges], dtype=torch.float64)
    L = laplacian(index, n, normalized=False, weight=weight, dtype=torch.float64).to_dense()
    assert torch.equal(L, L.T)
    assert float(L.sum(1).abs().max()) <= 1e-13 * max(float(L.abs().max()), 1.0)
    N = laplacian(index, n, weight=weight, dtype=torch.float64).to_dense()
    assert torch.equal(N, N.T)
    values = torch.linalg.eigvalsh(N)
    assert float(values[0]) >= -1e-12
    assert float(values[-1]) <= 2 + 1e-12
    torch.testing.assert_close(laplacian(index.flip(0), n, weight=weight, dtype=torch.float64).to_dense(), N)


def test_weights_as_scipy_has_them():
    dense = np.array([[0, 2.0, 0], [2.0, 0, 0.5], [0, 0.5, 0]])
    edges = torch.tensor(np.array(dense.nonzero()))
    weight = torch.tensor(dense[dense.nonzero()])
    for normed in (True, False):
        truth = scipy.sparse.csgraph.laplacian(dense, normed=normed)
        np.testing.assert_allclose(laplacian(edges, 3, normalized=normed, weight=weight).to_dense(), truth, atol=1e-15)


def test_what_edges_mean():
    def L(edges, weight=None, n=3):
        weight = None if weight is None else torch.tensor(weight)
        return laplacian(torch.tensor(edges).T, n, normalized=False, weight=weight).to_dense()

    once = L([[0, 1], [1, 2]])
    assert torch.equal(L([[1, 0], [1, 2]]), once)  # direction does not count
    assert torch.equal(L([[0, 1], [1, 0], [1, 2]]), once)  # both ways is one edge
    assert torch.equal(L([[0, 1], [1, 2], [1, 1]]), once)  # a loop drops out
    assert L([[0, 1], [0, 1], [1, 2]])[0, 1] == -2  # parallel edges add
    assert L([[0, 1], [1, 0]], [2.0, 4.0])[0, 1] == -3  # the mean of two that differ
    assert L([[0, 1], [1, 0]], [2.0, 0.0])[0, 1] == -2  # no edge is none to take a mean with
    assert torch.equal(L([[0, 1]])[2], torch.zeros(3))  # an isolated node


def test_isolated_nodes_stay_where_they_are():
    for normalized in (True, False):
        L = laplacian(torch.tensor([[0], [1]]), 4, normalized=normalized).to_dense()
        assert not L[2:].any()
    empty = laplacian(torch.empty(2, 0), 3)
    assert not empty.to_dense().any()
    assert empty.values().shape == (3,)  # the diagonal has its places


def test_self_loops_are_those_of_kipf_and_welling():
    edges = torch.tensor([[0, 1], [1, 2]])
    A = torch.tensor([[1.0, 1, 0], [1, 1, 1], [0, 1, 1]], dtype=torch.float64)
    d = A.sum(1) ** -0.5
    L = laplacian(edges, 3, self_loops=True, dtype=torch.float64).to_dense()
    torch.testing.assert_close(L, torch.eye(3, dtype=torch.float64) - d[:, None] * A * d)
    given_loop = laplacian(
        torch.tensor([[0, 1, 0], [1, 2, 0]]), 3, self_loops=True, weight=torch.tensor([1.0, 1.0, 3.0])
    ).to_dense()
    assert float(given_loop[0, 0]) == pytest.approx(1 - 3 / 4)
    assert float(laplacian(torch.empty(2, 0), 2, self_loops=True).to_dense().abs().max()) == 0.0


def test_objects_with_an_edge_index_are_taken_without_their_library():
    data = SimpleNamespace(edge_index=torch.tensor([[0], [1]]), num_nodes=3, edge_weight=torch.tensor([2.0]))
    assert laplacian(data, normalized=False).to_dense()[0, 1] == -2
    assert laplacian(data).shape == (3, 3)
    assert laplacian(torch.tensor([[0], [4]])).shape == (5, 5)
    bare = SimpleNamespace(edge_index=torch.tensor([[0], [1]]))
    assert laplacian(bare).shape == (2, 2)


def test_agrees_with_pytorch_geometric():
    utils = pytest.importorskip("torch_geometric.utils")
    data = pytest.importorskip("torch_geometric.data")
    graph = networkx.les_miserables_graph()
    numbers = {name: i for i, name in enumerate(graph)}
    edges = torch.tensor([[numbers[a], numbers[b]] for a, b in graph.edges]).T
    weight = torch.tensor([float(graph.edges[e]["weight"]) for e in graph.edges])
    edge_index, edge_weight = utils.to_undirected(edges, weight)
    for kind in (None, "sym"):
        index, values = utils.get_laplacian(edge_index, edge_weight, normalization=kind, num_nodes=77)
        truth = torch.sparse_coo_tensor(index, values, (77, 77), check_invariants=False).to_dense()
        ours = laplacian(data.Data(edge_index=edge_index, edge_weight=edge_weight, num_nodes=77), normalized=kind == "sym")
        torch.testing.assert_close(ours.to_dense(), truth, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"edge_index": torch.zeros(5, 2, dtype=torch.int64)}, r"must be \(2, edges\), got \(5, 2\); transpose it"),
        ({"edge_index": torch.zeros(3)}, r"must be \(2, edges\), got \(3,\); a column is an edge"),
        ({"edge_index": torch.zeros(2, 3)}, "must hold whole node numbers, got torch.float32"),
        ({"edge_index": torch.tensor([[0], [3]])}, "`edge_index` must hold node numbers in 0…2, got 3; n is 3"),
        ({"edge_index": torch.tensor([[0], [-1]])}, "in 0…2, got -1"),
        ({"n": 0}, "`n` must be a whole number of nodes, at least 1, got 0"),
        ({"weight": torch.ones(3)}, "`weight` must have one number an edge, 1, got 3"),
        ({"weight": torch.tensor([torch.nan])}, "`weight` must be finite, got nan or inf"),
        (
            {"edge_index": torch.tensor([[0, 0], [1, 2]]), "weight": torch.tensor([1.5e308, 1.5e308], dtype=torch.float64)},
            "`weight` must have a finite sum, got inf",
        ),
        ({"weight": torch.tensor([-1.0])}, "`weight` must be at least 0, got -1"),
    ],
)
def test_what_is_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        laplacian(**{"edge_index": torch.tensor([[0], [1]]), "n": 3, **arguments})


def test_measures_against_their_definitions():
    graph = networkx.karate_club_graph()
    edges = torch.tensor(list(graph.edges)).T
    x = torch.randn(34, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    L = laplacian(edges, 34, normalized=False, dtype=torch.float64)
    energy = (x[edges[0]] - x[edges[1]]).square().sum()
    torch.testing.assert_close(dirichlet_energy(x, L), energy)
    torch.testing.assert_close(rayleigh_quotient(7 * x, L), energy / x.square().sum())
    degree = torch.tensor([float(d) for _, d in graph.degree], dtype=torch.float64)
    y = x / degree.sqrt()[:, None]
    N = laplacian(edges, 34, dtype=torch.float64)
    torch.testing.assert_close(dirichlet_energy(x, N), (y[edges[0]] - y[edges[1]]).square().sum())
    x.requires_grad_()
    (slope,) = torch.autograd.grad(dirichlet_energy(x, L), x)
    torch.testing.assert_close(slope, 2 * L.to_dense() @ x)


def test_rank_counts_directions():
    u, v = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(0)).double()
    x = u @ v.T
    assert rank(x) == rank(x.T) == 3
    assert rank(x + 1e-6 * torch.eye(40, dtype=torch.float64)) == 3
    assert rank(torch.zeros(4, 2)) == 0
    with pytest.raises(InputError, match=r"`x` must be \(n, d\), got \(4,\)"):
        rank(torch.zeros(4))
    with pytest.raises(InputError, match=r"`rtol` must lie in \(0, 1\), got 2"):
        rank(x, rtol=2)


def test_effective_resistance_is_offered_here():
    L = laplacian(torch.tensor([[0, 1, 2], [1, 2, 3]]), 4, normalized=False, dtype=torch.float64)
    torch.testing.assert_close(effective_resistance(L, [(0, 3)]), torch.tensor([3.0], dtype=torch.float64))


def test_reordering_keeps_the_graph_and_brings_neighbours_together():
    n = 200
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    ring = torch.stack([shuffled, shuffled.roll(1)])
    L = laplacian(ring, n, dtype=torch.float64)
    found = reorder(L)
    torch.testing.assert_close(found.L.to_dense(), L.to_dense()[found.order][:, found.order])
    rows, columns = found.L.to_dense().nonzero().T
    assert int((rows - columns).abs().max()) == 2  # the least bandwidth of a ring
    with pytest.raises(InputError, match=r"`L` must be a square matrix, \(n, n\), got \(2, 3\)"):
        reorder(torch.zeros(2, 3))


def test_nearest_neighbours_are_those_of_a_tree(monkeypatch):
    from scipy.spatial import cKDTree

    x = torch.randn(70, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = cKDTree(x.numpy()).query(x.numpy(), 6)[1][:, 1:]
    for block in (2**24, 70):
        monkeypatch.setattr("residyn.graph.neighbours._BLOCK", block)
        edges = nearest_neighbours(x, 5)
        np.testing.assert_array_equal(edges[1].reshape(70, 5), truth)
        np.testing.assert_array_equal(edges[0].reshape(70, 5)[:, 0], np.arange(70))
    with pytest.raises(InputError, match="`k` must lie in 1…69, the number of other points, got 70"):
        nearest_neighbours(x, 70)
    with pytest.raises(InputError, match=r"`x` must be finite points, \(n, d\), got \(70,\)"):
        nearest_neighbours(x[:, 0], 3)
