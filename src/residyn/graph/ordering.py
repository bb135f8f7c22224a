"""Nodes in an order in which neighbours lie close together: what large graphs gain from the cache."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.csgraph import reverse_cuthill_mckee
from torch import Tensor

from residyn.errors import InputError
from residyn.graph.product import as_csr, as_scipy


class Reordered(NamedTuple):
    """A Laplacian with its nodes in another order; node i of it is node `order[i]` of the first."""

    L: Tensor
    order: Tensor


def reorder(L: Tensor) -> Reordered:
    """Number the nodes so that neighbours lie close together (reverse Cuthill–McKee).

    A product with L reads, for each edge, a row of features from wherever it lies. On graphs with a shape (meshes, neighbours
    in space, roads) that are larger than the cache, close numbers make it a multiple faster; random graphs gain nothing.
    Features and labels must follow: `x[order]`.

    Args:
        L: The Laplacian, `(n, n)`, sparse or dense.

    Returns:
        The Laplacian in the new order, sparse CSR, and the order, `(n,)`.

    Raises:
        InputError: If L is not square.

    Reference:
        Cuthill & McKee (1969), doi:10.1145/800195.805928; George & Liu (1981), "Computer Solution of Large Sparse Positive
        Definite Systems".

    >>> from residyn.graph import laplacian
    >>> path = laplacian(torch.tensor([[0, 3, 1], [3, 1, 2]]), 4, normalized=False)   # 0 - 3 - 1 - 2
    >>> reorder(path).L.to_dense().diagonal(1)
    tensor([-1., -1., -1.])
    """
    if L.ndim != 2 or L.shape[0] != L.shape[1]:
        raise InputError(f"`L` must be a square matrix, (n, n), got {tuple(L.shape)}; laplacian(edge_index, n) makes one")
    matrix = as_scipy(L.detach())
    order = np.ascontiguousarray(reverse_cuthill_mckee(matrix, symmetric_mode=True)).astype(np.int64)
    moved = matrix[order][:, order]
    moved.sort_indices()
    parts = (moved.indptr.astype(np.int64), moved.indices.astype(np.int64), moved.data)
    rows, columns, values = (torch.from_numpy(part).to(L.device) for part in parts)
    return Reordered(as_csr(rows, columns, values.to(L.dtype)), torch.from_numpy(order).to(L.device))
