"""Effective resistance: how far apart two nodes of a weighted graph are for a current, or for a signal that diffuses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu
from torch import Tensor

from residyn.errors import InputError

_CHUNK = 256
"""Right-hand sides at once in the sparse path: they are dense, n numbers each."""


def effective_resistance(L: Tensor, pairs: Tensor | Sequence[tuple[int, int]]) -> Tensor:
    """Effective resistance between pairs of nodes, R_ij = (e_i - e_j)ᵀ·L⁺·(e_i - e_j), of the graph with Laplacian L.

    On a path it is |i - j|; an added edge of conductance g between i and j lowers every other by a rank-one update.
    Nodes in different components have R = inf.

    Args:
        L: Laplacian, `(n, n)`: symmetric, rows that sum to zero, off-diagonal entries at most 0; dense, or sparse (COO or CSR).
        pairs: Pairs of node numbers, `(…, 2)`.

    Returns:
        R, `(…)`, in L's dtype and on its device; differentiable in a dense L.

    Raises:
        InputError: If `L` is no Laplacian or a node is not in it.

    Reference:
        Klein & Randić (1993), doi:10.1007/BF01164627; Ghosh, Boyd & Saberi (2008), doi:10.1137/050645452.

    >>> path = torch.tensor([[1.0, -1, 0], [-1, 2, -1], [0, -1, 1]])
    >>> effective_resistance(path, [(0, 1), (0, 2)])
    tensor([1., 2.])
    """
    ends = torch.as_tensor(pairs, dtype=torch.int64)
    if ends.numel() == 0:
        return torch.zeros(ends.shape[:-1] if ends.ndim > 1 else (0,), dtype=L.dtype, device=L.device)
    if L.ndim != 2 or L.shape[0] != L.shape[1]:
        raise InputError(f"`L` must be square, (n, n), got {tuple(L.shape)}; it is a graph's Laplacian")
    if ends.shape[-1] != 2:
        raise InputError(f"`pairs` must be (…, 2), got the shape {tuple(ends.shape)}; a pair is two node numbers")
    low, high = int(ends.min()), int(ends.max())
    if low < 0 or high >= L.shape[0]:
        raise InputError(f"`pairs` must be node numbers in 0…{L.shape[0] - 1}, got {low if low < 0 else high}")
    flat = ends.reshape(-1, 2)
    matrix = _matrix(L)
    _check(matrix)
    count, component = connected_components(matrix, directed=False)
    apart = torch.from_numpy(component)[flat[:, 0]] != torch.from_numpy(component)[flat[:, 1]]
    if L.layout == torch.strided:
        found = _dense(L, torch.from_numpy(component).to(L.device), count, flat.to(L.device))
    else:
        found = torch.from_numpy(_sparse(matrix, component, flat.numpy())).to(L.dtype).to(L.device)
    return torch.where(apart.to(L.device), torch.inf, found).reshape(ends.shape[:-1])


def path_laplacian(n: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Laplacian of a path of n nodes: what a chain of residues, or of layers, is.

    Args:
        n: Number of nodes.
        dtype: Of the result.

    Returns:
        L, `(n, n)` dense.

    Raises:
        InputError: If there is no node.

    >>> path_laplacian(3, dtype=torch.float32)
    tensor([[ 1., -1.,  0.],
            [-1.,  2., -1.],
            [ 0., -1.,  1.]])
    """
    if n < 1:
        raise InputError(f"`n` must be at least 1, got {n}; a path has a node")
    L = torch.diag(torch.full((n,), 2.0, dtype=dtype))
    L[0, 0] = L[-1, -1] = 1.0 if n > 1 else 0.0
    off = torch.arange(n - 1)
    L[off, off + 1] = L[off + 1, off] = -1.0
    return L


def _matrix(L: Tensor) -> sparse.csr_array:
    """L in SciPy's form, float64."""
    values = L.detach().cpu()
    if L.layout == torch.strided:
        return sparse.csr_array(values.to(torch.float64).numpy())
    coo = values.to_sparse_coo().coalesce()  # type: ignore[no-untyped-call]
    rows, columns = coo.indices().numpy()
    return sparse.csr_array((coo.values().to(torch.float64).numpy(), (rows, columns)), shape=tuple(L.shape))


def _check(matrix: sparse.csr_array) -> None:
    if not np.isfinite(matrix.data).all():
        raise InputError("`L` must be finite, got nan or inf; look at the edge weights")
    scale = float(np.abs(matrix.diagonal()).max(initial=0.0))
    slack = 1e-5 * max(scale, 1e-300)  # float32 sums of a few hundred weights
    if abs(matrix - matrix.T).max() > slack:
        raise InputError("`L` must be symmetric, got a matrix that is not; resistance is of an undirected graph")
    if float(np.abs(matrix.sum(axis=1)).max(initial=0.0)) > slack:
        raise InputError(
            f"`L` must have rows that sum to 0, got a sum of {float(np.abs(matrix.sum(axis=1)).max()):.3g}; "
            "a normalised Laplacian has none: take D - A"
        )


def _dense(L: Tensor, component: Tensor, count: int, pairs: Tensor) -> Tensor:
    """By the inverse of L + Σ 1·1ᵀ/n over the components, which agrees with L⁺ on differences within one."""
    n = L.shape[0]
    member = torch.nn.functional.one_hot(component.long(), count).to(L.dtype)
    inverse = torch.linalg.inv(L + member @ (member / member.sum(0)).T) if n else L
    i, j = pairs.unbind(1)
    diagonal = inverse.diagonal()
    return diagonal[i] + diagonal[j] - inverse[i, j] - inverse[j, i]


def _sparse(matrix: sparse.csr_array, component: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """By one sparse factorisation with a node of each component grounded, and a solve for each node asked for."""
    n = matrix.shape[0]
    _, grounds = np.unique(component, return_index=True)
    live = np.setdiff1d(np.arange(n), grounds)
    place = np.full(n, -1)
    place[live] = np.arange(len(live))
    nodes, where = np.unique(pairs, return_inverse=True)
    first, second = where.reshape(pairs.shape).T
    near, far, across = np.zeros(len(nodes)), np.zeros(len(pairs)), np.zeros(len(pairs))
    factor = splu(matrix[live][:, live].tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0) if len(live) else None
    for start in range(0, len(nodes), _CHUNK):
        part = nodes[start : start + _CHUNK]
        solved = np.zeros((n, len(part)))  # columns of the grounded inverse; the grounded rows stay 0
        right = np.zeros((len(live), len(part)))
        free = np.flatnonzero(place[part] >= 0)
        right[place[part[free]], free] = 1.0
        if factor is not None:
            solved[live] = factor.solve(right)
        near[start : start + len(part)] = solved[part, np.arange(len(part))]
        own = (first >= start) & (first < start + len(part))
        across[own] = solved[pairs[own, 1], first[own] - start]
    far = near[first] + near[second] - 2 * across
    return np.maximum(far, 0.0)
