"""Pooling and padding: in how many windows a cell lies, and the norm of averaging."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from residyn.errors import InputError

Shape = tuple[int, ...]

_EPS = torch.finfo(torch.float64).eps


def max_multiplicity(layer: nn.Module, shape: Shape) -> int:
    """The largest number of windows of a max pooling that one cell lies in."""
    if isinstance(layer, (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)):
        axes = int(type(layer).__name__[-2])
        counts = [_adaptive_counts(n, m) for n, m in zip(shape[-axes:], _tuple(layer.output_size, axes), strict=True)]
    else:
        axes = int(type(layer).__name__[-2])
        stride = layer.kernel_size if layer.stride is None else layer.stride
        settings = [_tuple(value, axes) for value in (layer.kernel_size, stride, layer.padding, layer.dilation)]
        ceil = bool(layer.ceil_mode)
        counts = [_counts(n, k, s, p, d, ceil) for n, k, s, p, d in zip(shape[-axes:], *settings, strict=True)]
    return math.prod(counts)


def _tuple(value: Any, axes: int) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value] * axes


def _counts(n: int, k: int, s: int, p: int, d: int, ceil: bool) -> int:
    """The most windows that a cell of an axis is in."""
    span = n + 2 * p - d * (k - 1) - 1
    outputs = (math.ceil(span / s) if ceil else span // s) + 1
    if ceil and (outputs - 1) * s >= n + p:  # torch drops a window that starts in the padding on the right
        outputs -= 1
    where = torch.arange(outputs).unsqueeze(1) * s - p + torch.arange(k) * d
    inside = where[(where >= 0) & (where < n)]
    return int(inside.bincount().max()) if len(inside) else 0


def _adaptive_counts(n: int, m: int | None) -> int:
    m = n if m is None else m
    count = torch.zeros(n, dtype=torch.long)
    for j in range(m):
        count[j * n // m : -(-(j + 1) * n // m)] += 1
    return int(count.max())


def average_norm(layer: nn.Module, shape: Shape, limit: int = 2000) -> float:
    """‖A‖₂ of averaging. A has no negative entries, so ‖A‖² ≤ max_i (AᵀA·x)_i/x_i for every positive x.

    Each step of the power method gives such an x; the least bound is taken. Channels are alike, so one of them is enough.

    Reference:
        Collatz (1942), doi:10.1007/BF01180013; Wielandt (1950), doi:10.1007/BF02230720.
    """
    axes = int(type(layer).__name__[-2])
    cells = shape[-axes:]

    def average(z: Tensor) -> Tensor:
        y: Tensor = layer(z)
        return y

    x, best = torch.ones(1, 1, *cells, dtype=torch.float64), math.inf
    with torch.enable_grad():
        for _ in range(limit):
            z = x.clone().requires_grad_()
            y = average(z)
            (image,) = torch.autograd.grad(y, z, y.detach())
            bound = float((image / x).max())
            settled = bound >= best * (1 - 1e-9) and best < math.inf
            best = min(best, bound)
            lower = float((image * x).sum() / (x * x).sum())
            if settled or bound <= lower * (1 + 1e-6):
                break
            x = (image + 1e-12 * image.max()).detach()
            x = x / x.max()
    terms = 4 * math.prod(cells)
    return math.sqrt(best * (1 + terms * _EPS))


def padding_multiplicity(layer: nn.Module, shape: Shape) -> int:
    """How often the cell that is copied most appears in the output of a padding by copies."""
    axes = int(type(layer).__name__[-2])
    cells = shape[-axes:]
    index = torch.arange(math.prod(cells), dtype=torch.float64).reshape(1, 1, *cells)
    try:
        copies = layer(index).round().long().flatten().bincount()
    except (RuntimeError, ValueError) as error:
        raise InputError(f"`input_shape` must fit {layer}, got {shape}: {str(error).splitlines()[0]}") from None
    return int(copies.max())
