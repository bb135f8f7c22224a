"""The Laplacian of a graph, from an edge list as users have it: one way or both, repeated, with loops, weighted or not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from residyn.errors import InputError
from residyn.graph.product import as_csr


def laplacian(
    edge_index: Any,
    n: int | None = None,
    *,
    normalized: bool = True,
    self_loops: bool = False,
    weight: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The Laplacian of an undirected graph: L = D - A, or normalised, L = I - D^(-1/2)·A·D^(-1/2) with eigenvalues in [0, 2].

    Edges mean what they must in an undirected graph: one that is given once counts both ways; given both ways (as PyTorch
    Geometric does) it is the same edge, with the mean of the two weights if they differ. Repeated edges are parallel ones, and
    their weights add. Loops drop out, as they do from D - A. An isolated node has a row of zeros, normalised or not.

    Args:
        edge_index: Node numbers of each edge, `(2, edges)`; or an object that has `edge_index`, and perhaps `num_nodes` and
            `edge_weight`, such as PyTorch Geometric's `Data`.
        n: Number of nodes; if not given, that of the object, or one more than the largest number.
        normalized: Whether rows and columns are divided by the root of the degree.
        self_loops: Whether each node without a loop gets one of weight 1 first, A + I: the renormalised graph of Kipf and
            Welling, whose largest eigenvalue is smaller. Loops that are given then count, too.
        weight: Weight of each edge, `(edges,)`, at least 0; 1 if not given.
        dtype: Of L; that of the weights, or torch's default.

    Returns:
        L, `(n, n)`, sparse CSR with every diagonal entry stored; symmetric to the last bit.

    Raises:
        InputError: If an edge or weight breaks its rule.

    Reference:
        Chung (1997), "Spectral Graph Theory", ch. 1; Kipf & Welling (2017), arXiv:1609.02907.

    >>> path = torch.tensor([[0, 1], [1, 2]])
    >>> laplacian(path, 3, normalized=False).to_dense()
    tensor([[ 1., -1.,  0.],
            [-1.,  2., -1.],
            [ 0., -1.,  1.]])
    """
    edges, weights, n = _read(edge_index, n, weight)
    if dtype is None:
        dtype = weights.dtype if weights is not None else torch.get_default_dtype()
    adjacency = _adjacency(edges.numpy(), None if weights is None else weights.to(torch.float64).numpy(), n, self_loops)
    degree = np.asarray(adjacency.sum(axis=1)).reshape(-1)
    rows = np.repeat(np.arange(n), np.diff(adjacency.indptr))
    if normalized:
        root = np.sqrt(np.where(degree > 0, degree, 1.0))
        one, other = root[rows], root[adjacency.indices]
        # the larger root first, whichever end has it: L stays symmetric to the last bit, and nothing overflows
        entries = -adjacency.data / np.maximum(one, other) / np.minimum(one, other)
        entries[rows == adjacency.indices] += degree > 0
    else:
        entries = -adjacency.data
        entries[rows == adjacency.indices] += degree
    device = edge_index.device if isinstance(edge_index, Tensor) else edges.device
    parts = (adjacency.indptr.astype(np.int64), adjacency.indices.astype(np.int64), entries)
    crow, columns, values = (torch.from_numpy(part) for part in parts)
    return as_csr(crow.to(device), columns.to(device), values.to(device, dtype))


def _read(edge_index: Any, n: int | None, weight: Any) -> tuple[Tensor, Tensor | None, int]:
    """Edges, weights and the number of nodes, checked."""
    if not isinstance(edge_index, Tensor) and hasattr(edge_index, "edge_index"):
        given = edge_index
        edge_index = given.edge_index
        n = getattr(given, "num_nodes", None) if n is None else n
        weight = getattr(given, "edge_weight", None) if weight is None else weight
    edges = torch.as_tensor(edge_index).detach().cpu()
    if edges.ndim != 2 or edges.shape[0] != 2:
        hint = "; transpose it: edge_index.T" if edges.ndim == 2 and edges.shape[1] == 2 else "; a column is an edge"
        raise InputError(f"`edge_index` must be (2, edges), got {tuple(edges.shape)}{hint}")
    if edges.numel() == 0:
        edges = edges.long()
    if edges.is_floating_point() or edges.is_complex() or edges.dtype == torch.bool:
        raise InputError(f"`edge_index` must hold whole node numbers, got {edges.dtype}; use edge_index.long()")
    low, high = (int(edges.min()), int(edges.max())) if edges.numel() else (0, -1)
    if n is None:
        n = high + 1
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise InputError(f"`n` must be a whole number of nodes, at least 1, got {n!r}")
    if low < 0 or high >= n:
        raise InputError(f"`edge_index` must hold node numbers in 0…{n - 1}, got {low if low < 0 else high}; n is {n}")
    if weight is None:
        return edges.long(), None, n
    weights = torch.as_tensor(weight).detach().cpu().reshape(-1)
    weights = weights if weights.is_floating_point() else weights.to(torch.get_default_dtype())
    if len(weights) != edges.shape[1]:
        raise InputError(f"`weight` must have one number an edge, {edges.shape[1]}, got {len(weights)}")
    if bool(torch.isfinite(weights).all()) and not math.isfinite(4 * float(weights.abs().sum(dtype=torch.float64))):
        raise InputError("`weight` must have a finite sum, got inf; scale the weights down")
    if not bool(torch.isfinite(weights).all()):
        raise InputError("`weight` must be finite, got nan or inf; leave such edges out")
    if len(weights) and float(weights.min()) < 0:
        raise InputError(f"`weight` must be at least 0, got {float(weights.min()):g}; a diffusion along it would run backwards")
    return edges.long(), weights, n


def _adjacency(edges: np.ndarray, weights: np.ndarray | None, n: int, self_loops: bool) -> sparse.csr_array:
    """A, symmetric, float64, with a stored diagonal: the loops, or zeros where they do not count."""
    data: np.ndarray = np.ones(edges.shape[1]) if weights is None else weights
    loop = edges[0] == edges[1]
    loops: np.ndarray = np.zeros(n)
    if self_loops:
        loops = np.bincount(edges[0][loop], data[loop], minlength=n)
        loops[loops == 0] = 1.0
    i, j, w = edges[0][~loop], edges[1][~loop], data[~loop]
    one_way = sparse.csr_array(sparse.coo_array((w, (i, j)), shape=(n, n)))  # adds parallel edges
    if one_way.nnz and (gap := one_way - one_way.T).nnz and float(abs(gap).max()) > 0:
        ways = one_way.copy()
        ways.data = (ways.data > 0).astype(np.float64)  # an edge of weight 0 was not given
        both = one_way + one_way.T
        count = ways + ways.T
        both.sort_indices()
        count.sort_indices()
        both.eliminate_zeros()
        count.eliminate_zeros()
        both.data = both.data / count.data
        one_way = both
    adjacency = sparse.csr_array(one_way + sparse.diags_array(np.ones(n), format="csr"))  # a place for each diagonal entry
    adjacency.sort_indices()
    rows = np.repeat(np.arange(n), np.diff(adjacency.indptr))
    adjacency.data[rows == adjacency.indices] = loops
    return adjacency
