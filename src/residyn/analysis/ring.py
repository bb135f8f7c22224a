"""Convolutions on a ring, where Fourier modes split them into small matrices; any other is a part of one on a larger ring."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from residyn.analysis.stencil import Stencil

_EPS = torch.finfo(torch.float64).eps
_CHUNK = 2**22
"""Complex numbers held at a time."""


def is_ring(found: Stencil) -> bool:
    """Whether the convolution is circular and keeps the ring: as many outputs as strides fit into it."""
    axes = zip(found.shape, found.output, found.stride, strict=True)
    return found.mode == "circular" and all(n == m * s for n, m, s in axes)


def ring_norm(found: Stencil) -> float:
    """‖A‖₂ of a circular convolution: the largest singular value over the frequencies, raised by what rounding may hide.

    Reference:
        Sedghi, Gupta & Long (2019), "The Singular Values of Convolutional Layers", arXiv:1805.10408.
    """
    return _largest(found, found.shape, tuple(0.0 for _ in found.shape))


def embedded_norm(found: Stencil) -> float:
    """A bound on ‖A‖₂ of any convolution, which is a block of one on a ring large enough that no tap reaches around it.

    Around the ring x may change its sign (each axis by itself): the frequencies then lie midway between the usual ones, and
    the least of the bounds counts. It exceeds the truth by O(1/n²). Padding by copies multiplies it by √(copies of a cell).
    """
    shape, pads, gain = found.shape, found.pads, 1.0
    if found.mode != "zeros":
        for axis in range(len(shape)):
            n, (before, after) = shape[axis], pads[axis]
            cell = Stencil(torch.ones(1, 1, 1, 1), (n,), (1,), (1,), ((before, after),), found.mode)
            gain *= math.sqrt(float(cell.selection(0).sum((0, 1)).max()))
        shape = tuple(n + sum(pad) for n, pad in zip(shape, pads, strict=True))
        pads = tuple((0, 0) for _ in pads)
    sizes = []
    for n, (before, _), outputs, k, s, d in zip(
        shape, pads, found.output, found.taps, found.stride, found.dilation, strict=True
    ):
        end = (outputs - 1) * s - before + d * (k - 1)
        sizes.append(s * math.ceil(max(n + before, end + 1) / s))
    twists = itertools.product(*[(0.0, math.pi) if k > 1 else (0.0,) for k in found.taps])
    return gain * min(_largest(found, tuple(sizes), twist) for twist in twists)


def symbols(found: Stencil, sizes: tuple[int, ...], twist: tuple[float, ...]) -> Iterator[Tensor]:
    """The small matrices of a convolution on a ring, in chunks `(frequencies·groups, outputs, inputs·aliases)`.

    Ŵ(ω) = Σ_t W_t·exp(iω·t); a stride s sends the s frequencies ν + 2πk/s to one, with weights 1/√s. The matrices at -ω are
    the conjugates of those at ω, so that half of the last axis is enough.
    """
    axes = list(zip(sizes, found.stride, found.taps, found.dilation, twist, strict=True))
    phases = []  # per axis (coarse frequencies, aliases, taps)
    for axis, (size, s, k, d, phase) in enumerate(axes):
        coarse = size // s
        last = axis == len(axes) - 1
        count = (coarse // 2 + 1 if phase == 0.0 else (coarse + 1) // 2) if last else coarse
        index = torch.arange(count, dtype=torch.float64).unsqueeze(1) + coarse * torch.arange(s)  # (frequencies, aliases)
        angle = ((2 * math.pi * index + phase) / size).unsqueeze(-1) * (d * torch.arange(k))
        phases.append(torch.exp(1j * angle) / math.sqrt(s))  # complex128
    weight = found.weight.to(torch.complex128)  # (groups, outputs, inputs, *taps)
    for factors in phases[1:]:  # the taps of an axis become frequencies and aliases at the end
        weight = _transform(weight, 4, factors)
    each = weight[:, :, :, 0].numel() * phases[0].shape[1]
    step = max(1, _CHUNK // each)
    for start in range(0, len(phases[0]), step):
        part = _transform(weight, 3, phases[0][start : start + step])  # (g, o, i, then f, a for each axis in turn)
        count = len(axes)
        frequencies, aliases = range(3, 3 + 2 * count, 2), range(4, 4 + 2 * count, 2)
        part = part.permute(*frequencies, 0, 1, 2, *aliases)
        yield part.flatten(count + 2).flatten(0, count)


def _transform(weight: Tensor, axis: int, phase: Tensor) -> Tensor:
    """Replace one axis of taps by frequencies and aliases, at the end."""
    return torch.tensordot(weight, phase, dims=([axis], [2]))


def _largest(found: Stencil, sizes: tuple[int, ...], twist: tuple[float, ...]) -> float:
    """The largest singular value over all frequencies, never below the truth.

    An entry of Ŵ is a sum of as many terms as there are taps, and a computed singular value of an m×n matrix is within a small
    multiple of max(m, n) roundings of its norm.
    """
    best, width = 0.0, 1
    for block in symbols(found, sizes, twist):
        small = block if block.shape[-2] <= block.shape[-1] else block.mH
        width = max(block.shape[-2:])
        best = max(best, _top(small, best))
    taps = math.prod(found.taps)
    spread = float(found.weight.flatten(3).norm(dim=(1, 2)).sum(-1).max()) * math.sqrt(math.prod(found.stride))
    return best * (1 + 16 * width * _EPS) + 8 * (taps + 4) * _EPS * spread


def _top(matrices: Tensor, floor: float) -> float:
    """The largest spectral norm of a batch; matrices that a cheap bound puts below one already seen are passed over.

    ‖A‖₂¹⁶ ≤ ‖(AAᴴ)⁴‖_F², for each in single precision with 1e-3 to spare for its rounding.
    """
    if len(matrices) > 8 and matrices.shape[-2] > 1:
        single = matrices.to(torch.complex64)
        scale = torch.linalg.matrix_norm(single).amax().clamp(min=1e-30)
        gram = (single / scale) @ (single / scale).mH
        fourth = gram @ gram
        eighth = fourth @ fourth
        bound = torch.linalg.matrix_norm(eighth).double() ** 0.125 * float(scale) * (1 + 1e-3)
        first = int(bound.argmax())
        floor = max(floor, float(torch.linalg.matrix_norm(matrices[first], 2)))
        matrices = matrices[(bound >= floor).nonzero().flatten()]
    if not len(matrices):
        return floor
    return max(floor, float(torch.linalg.svdvals(matrices)[:, 0].max()))
