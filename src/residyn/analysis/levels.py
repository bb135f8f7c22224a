"""Resistances between near nodes of a large sparse graph, by eliminating it level by level.

Distances from one node sort a graph into levels, and edges join a level to itself or to the next: the Laplacian is block
tridiagonal. The blocks of its inverse that lie on those places follow from one sweep forth and one back, which for a graph in
space (n^(1/3) levels of n^(2/3) nodes) costs O(n^(7/3)), where a dense factorisation costs O(n³).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse
from scipy.sparse.csgraph import breadth_first_order, connected_components

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Near:
    """Entries of a grounded inverse G of a Laplacian, as far as they were computed.

    Args:
        diagonal: G_ii, `(n,)`.
        resistance: G_ii + G_jj - 2·G_ij of the pairs asked for, `(m,)`; nan where the ends lie two levels apart or more,
            inf where they are in different components.
    """

    diagonal: Floats
    resistance: Floats


def near_resistance(L: sparse.csr_array, pairs: Ints) -> Near:
    """Effective resistance of pairs of nodes that lie in the same level or in neighbouring ones; every edge does.

    With diagonal blocks D_k and couplings E_k of the grounded Laplacian, forth S_k = D_k - E_{k-1}ᵀ·S_{k-1}⁻¹·E_{k-1}, and back
    G_kk = S_k⁻¹ + W_k·G_{k+1,k+1}·W_kᵀ and G_{k,k+1} = -W_k·G_{k+1,k+1} with W_k = S_k⁻¹·E_k.

    Args:
        L: Laplacian of an undirected graph, `(n, n)`.
        pairs: Node numbers, `(m, 2)`.

    Returns:
        The resistances; nan where the ends lie further apart.

    Reference:
        Block-tridiagonal selected inversion: Meurant (1992), doi:10.1137/0613045.

    >>> path = sparse.csr_array(np.array([[1.0, -1, 0], [-1, 2, -1], [0, -1, 1]]))
    >>> near_resistance(path, np.array([[0, 1], [1, 2]])).resistance
    array([1., 1.])
    """
    n = L.shape[0]
    diagonal, resistance = np.zeros(n), np.full(len(pairs), np.nan)
    count, component = connected_components(L, directed=False)
    resistance[component[pairs[:, 0]] != component[pairs[:, 1]]] = np.inf
    for number in range(count):
        nodes = np.flatnonzero(component == number)
        if len(nodes) > 1:
            _sweep(L, nodes, pairs, diagonal, resistance)
    own = pairs[:, 0] == pairs[:, 1]
    resistance[own] = 0.0
    return Near(diagonal, resistance)


def levels(L: sparse.csr_array, nodes: Ints) -> list[Ints]:
    """Nodes of one component by distance from one at its edge.

    Args:
        L: Laplacian.
        nodes: Nodes of the component.

    Returns:
        The levels; the first holds one node.
    """
    start = int(nodes[0])
    for _ in range(2):  # the last node reached lies at the edge; from there the levels are many and small
        order, before = breadth_first_order(L, start, directed=False, return_predecessors=True)
        start = int(order[-1])
    order, before = breadth_first_order(L, start, directed=False, return_predecessors=True)
    depth = np.zeros(L.shape[0], dtype=np.int64)
    for node in order[1:]:
        depth[node] = depth[before[node]] + 1
    along = depth[order]
    return np.split(order.astype(np.int64), np.flatnonzero(np.diff(along)) + 1)


def _sweep(L: sparse.csr_array, nodes: Ints, pairs: Ints, diagonal: Floats, resistance: Floats) -> None:
    """One component: forth and back, filling in what was asked for. The node it starts from is grounded, G = 0 there."""
    first, *rest = levels(L, nodes)
    level, place = np.full(L.shape[0], -2), np.zeros(L.shape[0], dtype=np.int64)
    level[first] = -1
    for k, block in enumerate(rest):
        level[block], place[block] = k, np.arange(len(block))
    inverses, carried = _forth(L, rest)
    i, j = pairs.T
    swap = level[i] > level[j]
    i, j = np.where(swap, j, i), np.where(swap, i, j)
    mine = (level[i] > -2) & (level[j] - level[i] <= 1)
    across = np.zeros(len(pairs))
    later = np.zeros((0, 0))
    for k in range(len(rest) - 1, -1, -1):
        if k < len(rest) - 1:
            beside = -carried[k] @ later  # G_{k, k+1}
            asked = mine & (level[i] == k) & (level[j] == k + 1)
            across[asked] = beside[place[i[asked]], place[j[asked]]]
            later = inverses[k] - beside @ carried[k].T
        else:
            later = inverses[k]
        diagonal[rest[k]] = later.diagonal()
        asked = mine & (level[i] == k) & (level[j] == k)
        across[asked] = later[place[i[asked]], place[j[asked]]]
    resistance[mine] = np.maximum(diagonal[i[mine]] + diagonal[j[mine]] - 2 * across[mine], 0.0)


def _forth(L: sparse.csr_array, blocks: list[Ints]) -> tuple[list[Floats], list[Floats]]:
    """Inverses S_k⁻¹ of the Schur complements, and W_k = S_k⁻¹·E_k."""
    inverses: list[Floats] = []
    carried: list[Floats] = []
    for k, block in enumerate(blocks):
        rows = L[block]
        schur = rows[:, block].toarray()
        if k:
            coupling = L[blocks[k - 1]][:, block].toarray()
            carried.append(inverses[-1] @ coupling)
            schur -= coupling.T @ carried[-1]
        factor = linalg.lapack.dpotrf(schur, lower=1)[0]
        lower = linalg.lapack.dpotri(factor, lower=1)[0]
        inverses.append(np.tril(lower) + np.tril(lower, -1).T)
    return inverses, carried
