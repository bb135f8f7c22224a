"""The norm of a layer over all input sizes at once, differentiable in its weight."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from residyn.analysis.ring import symbols
from residyn.analysis.stencil import Stencil
from residyn.errors import InputError

Constrainable = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d

_POINTS = 12
"""Sampling points for each degree of the trigonometric polynomial: 1/cos(π/24) - 1 = 0.9 % a direction to spare."""

_EPS = torch.finfo(torch.float64).eps


def uniform_norm(layer: Constrainable) -> Callable[[Tensor], Tensor]:
    """‖A‖₂ as a function of the weight, never below the truth, whatever the size of the input.

    A convolution with zero or circular padding is a part of the one on the whole line, whose norm is the largest of
    ‖Ŵ(ω)‖₂ over all ω. Ŵ is a trigonometric polynomial of degree m = dilation·(taps - 1)/2 along each axis, and one sampled
    at N points is nowhere above its largest sample over cos(πm/N) (Ehlich and Zeller). The gradient is that of the singular
    value at the sample that is largest.

    Args:
        layer: The layer, whose settings count.

    Returns:
        weight → norm, a float64 scalar.

    Raises:
        InputError: If its padding repeats cells of the border.

    Reference:
        Ehlich & Zeller (1964), doi:10.1007/BF01111276.
    """
    if isinstance(layer, nn.Linear):
        return _matrix
    if layer.padding_mode not in ("zeros", "circular"):
        raise InputError(f"`padding_mode` must be zeros or circular to be constrained, got {layer.padding_mode}; change it")
    groups, stride, dilation = layer.groups, tuple(layer.stride), tuple(layer.dilation)
    taps = tuple(layer.kernel_size)
    sizes, factor = [], 1.0
    for k, s, d in zip(taps, stride, dilation, strict=True):
        degree = d * (k - 1) / 2
        size = s * math.ceil(max(1.0, 2 * _POINTS * degree) / s)
        factor /= math.cos(math.pi * degree / size)
        sizes.append(size)
    outputs = layer.out_channels * layer.in_channels // groups

    def norm(weight: Tensor) -> Tensor:
        grouped = weight.double().reshape(groups, -1, *weight.shape[1:])
        pads = tuple((0, 0) for _ in taps)
        found = Stencil(grouped, tuple(sizes), stride, dilation, pads, "zeros")
        blocks = torch.cat(list(symbols(found, tuple(sizes), tuple(0.0 for _ in taps))))
        with torch.no_grad():
            tops = torch.linalg.svdvals(blocks)[:, 0]
            best = int(tops.argmax())
            slack = factor * (1 + 16 * max(blocks.shape[-2:]) * _EPS) + 8 * (math.prod(taps) + 4) * _EPS * outputs
            u, _, vh = torch.linalg.svd(blocks[best], full_matrices=False)
        return (u[:, 0].conj() @ blocks[best] @ vh[0].conj()).real * slack

    return norm


def _matrix(weight: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(weight.double(), 2) * (1 + 16 * max(weight.shape) * _EPS)
