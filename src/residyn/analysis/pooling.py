"""Pooling and padding: in how many windows a cell lies, and the norm of averaging."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from residyn.errors import InputError

Shape = tuple[int, ...]

_EPS = torch.finfo(torch.float64).eps
_LONG = 1500
"""Axes up to this length are written out as a matrix."""


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


def max_windows(layer: nn.Module, cells: Shape) -> list[Tensor]:
    """The windows of a max pooling along each axis, `(windows, k)` numbers of cells; a short window lists a cell twice."""
    axes = int(type(layer).__name__[-2])
    if isinstance(layer, (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)):
        sizes = _tuple(layer.output_size, axes)
        return [_first_kept(_shares(n, n if m is None else m)) for n, m in zip(cells, sizes, strict=True)]
    assert isinstance(layer, (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d))
    stride = layer.kernel_size if layer.stride is None else layer.stride
    settings = [_tuple(value, axes) for value in (layer.kernel_size, stride, layer.padding, layer.dilation)]
    found = []
    for n, k, s, p, d in zip(cells, *settings, strict=True):
        where = torch.arange(_outputs(n, k, s, p, d, bool(layer.ceil_mode))).unsqueeze(1) * s - p + torch.arange(k) * d
        found.append(_first_kept(where.masked_fill((where < 0) | (where >= n), -1)))
    return found


def _shares(n: int, m: int) -> Tensor:
    """Windows that share out an axis, `(m, k)`; -1 beyond the end of one."""
    number = torch.arange(m).unsqueeze(1)
    start, end = number * n // m, -(-(number + 1) * n // m)
    where = start + torch.arange(int((end - start).max()))
    return where.masked_fill(where >= end, -1)


def _first_kept(where: Tensor) -> Tensor:
    """The same with every -1 replaced by a cell of its own window."""
    return torch.where(where >= 0, where, where.amax(1, keepdim=True))


def _tuple(value: Any, axes: int) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value] * axes


def _counts(n: int, k: int, s: int, p: int, d: int, ceil: bool) -> int:
    """The most windows that a cell of an axis is in."""
    where = torch.arange(_outputs(n, k, s, p, d, ceil)).unsqueeze(1) * s - p + torch.arange(k) * d
    inside = where[(where >= 0) & (where < n)]
    return int(inside.bincount().max()) if len(inside) else 0


def _outputs(n: int, k: int, s: int, p: int, d: int, ceil: bool) -> int:
    """How many windows an axis has."""
    span = n + 2 * p - d * (k - 1) - 1
    outputs = (math.ceil(span / s) if ceil else span // s) + 1
    # torch drops a window that starts in the padding on the right
    return outputs - 1 if ceil and (outputs - 1) * s >= n + p else outputs


def _adaptive_counts(n: int, m: int | None) -> int:
    m = n if m is None else m
    shares = _shares(n, m)
    return int(shares[shares >= 0].bincount().max())


def average_norm(layer: nn.Module, shape: Shape) -> float:
    """‖A‖₂ of averaging: a product over the axes, along each of which a window has its own weight."""
    axes = int(type(layer).__name__[-2])
    cells = shape[-axes:]
    if isinstance(layer, (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)):
        sizes = _tuple(layer.output_size, axes)
        return math.prod(_axis_norm(_adaptive(n, n if m is None else m)) for n, m in zip(cells, sizes, strict=True))
    stride = layer.kernel_size if layer.stride is None else layer.stride
    settings = [_tuple(value, axes) for value in (layer.kernel_size, stride, layer.padding)]
    divisor = getattr(layer, "divisor_override", None)
    count = "none" if divisor else ("all" if layer.count_include_pad else "inside")
    windows = [_windows(n, k, s, p, bool(layer.ceil_mode), count) for n, k, s, p in zip(cells, *settings, strict=True)]
    return math.prod(map(_axis_norm, windows)) / abs(float(divisor or 1))


def _windows(n: int, k: int, s: int, p: int, ceil: bool, count: str) -> Tensor:
    """Averages along one axis, `(outputs, n)`: over all cells of a window with the padding, over those inside, or sums."""
    starts = torch.arange(_outputs(n, k, s, p, 1, ceil)).unsqueeze(1) * s - p
    cell = torch.arange(n)
    seen = ((cell >= starts) & (cell < starts + k)).double()
    if count == "none":
        return seen
    whole = (starts + k).clamp(max=n + p) - starts
    return seen / (whole if count == "all" else seen.sum(1, keepdim=True).clamp(min=1))


def _adaptive(n: int, m: int) -> Tensor:
    """Averages along one axis, `(m, n)`, over windows that share it out."""
    shares = _shares(n, m)
    seen = (shares.unsqueeze(-1) == torch.arange(n)).double().sum(1)
    return seen / seen.sum(1, keepdim=True)


def _axis_norm(matrix: Tensor) -> float:
    """‖A‖₂, by its singular values; of a very long axis by √(‖A‖₁·‖A‖_∞), which is attained where windows do not overlap."""
    if min(matrix.shape) > _LONG:
        return math.sqrt(float(matrix.sum(0).max()) * float(matrix.sum(1).max())) * (1 + 8 * max(matrix.shape) * _EPS)
    return float(torch.linalg.svdvals(matrix)[0]) * (1 + 16 * max(matrix.shape) * _EPS) if matrix.numel() else 0.0


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
