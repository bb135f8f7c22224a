"""A graph in any of its forms as the branch that multiplies by it, read once."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.graph.diffusion import Diffusion
from residyn.graph.laplacian import laplacian

_SEEN: list[tuple[weakref.ref[Tensor], int, int, Diffusion]] = []
"""Graphs that were read last: a model is called with the same one step after step, and reading costs a hundred products."""


def as_diffusion(graph: Any, n: int) -> Diffusion:
    """A graph in any of its forms as the branch that multiplies by it; read once where the same tensor comes again."""
    if isinstance(graph, Diffusion):
        return graph
    tensor = graph if isinstance(graph, Tensor) else getattr(graph, "edge_index", None)
    if not isinstance(tensor, Tensor):
        raise InputError(f"`graph` must be a Laplacian, a Diffusion or an edge_index, got {type(graph).__name__}")
    weighted = getattr(graph, "edge_weight", None) is not None and not isinstance(graph, Tensor)
    kept = not weighted and not tensor.is_inference()  # which has no version to tell a change by
    version = _version(tensor) if kept else 0
    for seen, before, count, heat in _SEEN:
        if kept and seen() is tensor and before == version and count == n:
            return heat
    heat = Diffusion(tensor if tensor.is_floating_point() else laplacian(graph, n, self_loops=True))
    if kept:
        _SEEN[:] = [(weakref.ref(tensor), version, n, heat), *[item for item in _SEEN if item[0]() is not None][:3]]
    return heat


def _version(tensor: Tensor) -> int:
    """A number that grows when the tensor is written to; a sparse one's entries count for themselves."""
    return tensor._version + (tensor.values()._version if tensor.layout == torch.sparse_csr else 0)
