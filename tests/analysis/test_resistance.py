"""Effective resistance against the pseudo-inverse, closed forms, and circuits done by hand."""

import networkx
import numpy as np
import pytest
import torch

from residyn.analysis.resistance import effective_resistance, path_laplacian
from residyn.errors import InputError


def laplacian(n, edges, weights=None):
    L = torch.zeros(n, n, dtype=torch.float64)
    for k, (i, j) in enumerate(edges):
        w = 1.0 if weights is None else weights[k]
        L[i, i] += w
        L[j, j] += w
        L[i, j] -= w
        L[j, i] -= w
    return L


def every_form(L):
    return {"dense": L, "csr": L.to_sparse_csr(), "coo": L.to_sparse_coo()}


@pytest.fixture(scope="module")
def random_graph():
    rng = np.random.default_rng(1)
    graph = networkx.connected_watts_strogatz_graph(60, 4, 0.3, seed=2)
    return laplacian(60, graph.edges, rng.uniform(0.2, 5.0, graph.number_of_edges())), graph


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("form", ["dense", "csr", "coo"])
def test_agrees_with_the_pseudo_inverse(random_graph, form):
    L, _ = random_graph
    pairs = torch.combinations(torch.arange(60))
    G = np.linalg.pinv(L.numpy())
    truth = [G[i, i] + G[j, j] - 2 * G[i, j] for i, j in pairs]
    # the condition number of the grounded matrix is below 1e4
    np.testing.assert_allclose(effective_resistance(every_form(L)[form], pairs), truth, rtol=1e-10)


def test_agrees_with_networkx(random_graph):
    L, graph = random_graph
    weighted = networkx.Graph((i, j, {"weight": -float(L[i, j])}) for i, j in graph.edges)
    for i, j in [(0, 30), (5, 6)]:
        truth = networkx.resistance_distance(weighted, i, j, weight="weight", invert_weight=False)
        assert float(effective_resistance(L, [(i, j)])[0]) == pytest.approx(truth, rel=1e-10)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("form", ["dense", "csr", "coo"])
def test_path_and_ring_in_closed_form(form):
    pairs = torch.tensor([[0, 19], [3, 11], [7, 7]])
    path = path_laplacian(20)
    np.testing.assert_allclose(effective_resistance(every_form(path)[form], pairs), [19, 8, 0], atol=1e-11)
    ring = laplacian(20, [(i, (i + 1) % 20) for i in range(20)])
    # d steps one way and 20 - d the other, in parallel
    np.testing.assert_allclose(effective_resistance(every_form(ring)[form], pairs), [19 / 20, 8 * 12 / 20, 0], atol=1e-11)


def test_an_added_edge_is_a_rank_one_update():
    g, (a, b) = 2.0228, (4, 15)
    pairs = torch.combinations(torch.arange(20))
    before = effective_resistance(path_laplacian(20), pairs)
    after = effective_resistance(path_laplacian(20) + laplacian(20, [(a, b)], [g]), pairs)
    overlap = torch.tensor([max(0, min(j, b) - max(i, a)) for i, j in pairs.tolist()], dtype=torch.float64)
    np.testing.assert_allclose(after, before - g * overlap**2 / (1 + g * (b - a)), atol=1e-11)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("form", ["dense", "csr", "coo"])
def test_components_are_infinitely_far_apart(form):
    L = laplacian(7, [(0, 1), (1, 2), (4, 5)])  # 3 and 6 stand alone
    found = effective_resistance(every_form(L)[form], [(0, 2), (0, 4), (4, 5), (3, 6), (3, 3)])
    assert found.tolist() == pytest.approx([2.0, torch.inf, 1.0, torch.inf, 0.0])


def test_differentiable_where_dense(random_graph):
    weights = torch.rand(30, dtype=torch.float64).add(0.5).requires_grad_()
    edges = list(networkx.connected_watts_strogatz_graph(12, 4, 0.3, seed=0).edges)
    B = torch.zeros(len(edges), 12, dtype=torch.float64)
    for k, (i, j) in enumerate(edges):
        B[k, i], B[k, j] = 1, -1

    def resistance(w):
        return effective_resistance(B.T @ (w[: len(edges), None] * B), [(0, 7), (3, 4)])

    assert torch.autograd.gradcheck(resistance, (weights,))


def test_shape_and_type_follow_the_arguments():
    L = path_laplacian(5, dtype=torch.float32)
    found = effective_resistance(L, torch.tensor([[[0, 1], [0, 2]], [[1, 4], [2, 2]]]))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, [[1.0, 2.0], [3.0, 0.0]], atol=1e-5)  # float32, condition 10
    assert effective_resistance(L, []).shape == (0,)


@pytest.mark.parametrize(
    ("L", "pairs", "words"),
    [
        (torch.ones(2, 3), [(0, 1)], "`L` must be square, (n, n), got (2, 3)"),
        (torch.eye(3), [(0, 1)], "`L` must have rows that sum to 0"),
        (torch.tensor([[1.0, -1.0], [0.0, 0.0]]), [(0, 1)], "`L` must be symmetric"),
        (torch.full((2, 2), torch.nan), [(0, 1)], "`L` must be finite"),
        (path_laplacian(3), [(0, 3)], "`pairs` must be node numbers in 0…2, got 3"),
        (path_laplacian(3), [(-1, 1)], "`pairs` must be node numbers in 0…2, got -1"),
        (path_laplacian(3), [(0, 1, 2)], "`pairs` must be (…, 2), got the shape (1, 3)"),
    ],
)
def test_refused(L, pairs, words):
    with pytest.raises(InputError) as caught:
        effective_resistance(L, pairs)
    assert words in str(caught.value)


def test_a_path_has_a_node():
    with pytest.raises(InputError, match="`n` must be at least 1, got 0"):
        path_laplacian(0)
    assert path_laplacian(1).tolist() == [[0.0]]
