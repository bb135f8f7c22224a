"""Elimination by levels against the pseudo-inverse, on graphs with one and with several components."""

import networkx
import numpy as np
import pytest
from scipy import sparse

from residyn.analysis.levels import levels, near_resistance


def laplacian(graph):
    return sparse.csr_array(networkx.laplacian_matrix(graph).astype(np.float64))


GRAPHS = {
    "in space": lambda: networkx.random_geometric_graph(150, 0.45, dim=3, seed=3),
    "tree": lambda: networkx.random_labeled_tree(60, seed=1),
    "ring": lambda: networkx.cycle_graph(31),
    "complete": lambda: networkx.complete_graph(12),
    "several parts": lambda: networkx.disjoint_union_all(
        [networkx.path_graph(5), networkx.empty_graph(1), networkx.grid_graph((4, 5)), networkx.complete_graph(2)]
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_every_edge_has_the_resistance_of_the_pseudo_inverse(name):
    graph = networkx.convert_node_labels_to_integers(GRAPHS[name]())
    L = laplacian(graph)
    pairs = np.array([*graph.edges, (0, 0)])
    G = np.linalg.pinv(L.toarray())
    truth = np.diag(G)[pairs].sum(1) - 2 * G[pairs[:, 0], pairs[:, 1]]
    # condition numbers below 1e4
    np.testing.assert_allclose(near_resistance(L, pairs).resistance, truth, atol=1e-10)


def test_far_pairs_are_nan_and_parts_infinitely_far():
    L = laplacian(networkx.disjoint_union(networkx.path_graph(6), networkx.path_graph(3)))
    found = near_resistance(L, np.array([[0, 1], [0, 5], [2, 7], [8, 7]])).resistance
    assert found[0] == pytest.approx(1.0)
    assert np.isnan(found[1])
    assert np.isinf(found[2])
    assert found[3] == pytest.approx(1.0)


def test_levels_hold_each_node_once_and_edges_join_neighbouring_ones():
    graph = networkx.random_geometric_graph(150, 0.45, dim=3, seed=3)
    found = levels(laplacian(graph), np.arange(150))
    assert sorted(np.concatenate(found)) == list(range(150))
    depth = {int(node): k for k, block in enumerate(found) for node in block}
    assert all(abs(depth[i] - depth[j]) <= 1 for i, j in graph.edges)
    assert len(found[0]) == 1
