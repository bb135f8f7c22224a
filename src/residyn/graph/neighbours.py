"""Graphs from points: each is joined to those nearest to it."""

from __future__ import annotations

import torch
from torch import Tensor

from residyn.errors import InputError

_BLOCK = 2**24
"""Distances at once."""


def nearest_neighbours(x: Tensor, k: int) -> Tensor:
    """An edge from each point to each of the k others that are nearest to it, in Euclidean distance.

    `laplacian` lets each edge count both ways, so that the graph is that of points of which one is among the k of the other.

    Args:
        x: Points, `(n, d)`.
        k: Number of neighbours, in 1…n-1.

    Returns:
        `edge_index`, `(2, n·k)`.

    Raises:
        InputError: If x is no finite matrix, or k out of range.

    >>> nearest_neighbours(torch.tensor([[0.0], [1.0], [3.0]]), 1)
    tensor([[0, 1, 2],
            [1, 0, 1]])
    """
    if x.ndim != 2 or not bool(torch.isfinite(x).all()):
        raise InputError(f"`x` must be finite points, (n, d), got {tuple(x.shape)}")
    n = len(x)
    if not 1 <= k < n:
        raise InputError(f"`k` must lie in 1…{n - 1}, the number of other points, got {k}")
    found = []
    for rows in torch.split(torch.arange(n, device=x.device), max(1, _BLOCK // n)):
        distance = torch.cdist(x[rows], x)
        distance[torch.arange(len(rows), device=x.device), rows] = torch.inf
        found.append(distance.topk(k, largest=False).indices)
    near = torch.cat(found)
    return torch.stack([torch.arange(n, device=x.device).repeat_interleave(k), near.reshape(-1)])
