"""Convolutions as matrices: weights in double precision, and for each axis which input an output sees through which tap."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as f
from torch import Tensor, nn

from residyn.errors import InputError

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d

_MODES = {"zeros": "constant", "circular": "circular", "reflect": "reflect", "replicate": "replicate"}


@dataclass(frozen=True)
class Stencil:
    """A convolution on one sample, y[c, o] = Σ w[c, b, t]·x[b, i(o, t)], with everything that decides its matrix.

    Attributes:
        weight: w, `(groups, outputs, inputs, *taps)`, both counts within a group, float64.
        shape: Sizes of the spatial axes of x.
        stride: Step of o along each axis.
        dilation: Distance of the taps along each axis.
        pads: Cells added before and after each axis.
        mode: `"zeros"`, `"circular"`, `"reflect"` or `"replicate"`.
    """

    weight: Tensor
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    mode: str

    @property
    def groups(self) -> int:
        """Number of groups; the matrix has as many diagonal blocks."""
        return self.weight.shape[0]

    @property
    def taps(self) -> tuple[int, ...]:
        """Taps along each axis."""
        return tuple(self.weight.shape[3:])

    @property
    def output(self) -> tuple[int, ...]:
        """Sizes of the spatial axes of y."""
        axes = zip(self.shape, self.taps, self.stride, self.dilation, self.pads, strict=True)
        return tuple((n + sum(pad) - d * (k - 1) - 1) // s + 1 for n, k, s, d, pad in axes)

    def selection(self, axis: int) -> Tensor:
        """S, `(taps, outputs, inputs)`: 1 where output o sees input i through tap t along one axis, else 0."""
        n, k, (before, _) = self.shape[axis], self.taps[axis], self.pads[axis]
        where = torch.arange(self.output[axis]).unsqueeze(0) * self.stride[axis] - before  # (1, outputs)
        where = where + torch.arange(k).unsqueeze(1) * self.dilation[axis]  # (taps, outputs)
        inside = torch.ones_like(where, dtype=torch.bool)
        if self.mode == "circular":
            where = where % n
        elif self.mode == "replicate":
            where = where.clamp(0, n - 1)
        elif self.mode == "reflect":
            where = (n - 1) - ((n - 1) - where.abs()).abs()
        else:
            inside = (where >= 0) & (where < n)
        seen = f.one_hot(where.clamp(0, n - 1), n) * inside.unsqueeze(-1)
        return seen.double()

    def apply(self, x: Tensor) -> Tensor:
        """The convolution of x, `(1, groups·inputs, *shape)`, without offset."""
        pads = list(itertools.chain.from_iterable(reversed(self.pads)))
        x = f.pad(x, pads, _MODES[self.mode]) if any(pads) else x
        operation = (f.conv1d, f.conv2d, f.conv3d)[len(self.shape) - 1]
        weight = self.weight.flatten(0, 1)
        y: Tensor = operation(x, weight, stride=self.stride, dilation=self.dilation, groups=self.groups)
        return y


def stencil(layer: Convolution | Transposed, shape: tuple[int, ...]) -> Stencil:
    """The stencil of a layer on samples of spatial sizes `shape`; a transposed layer gives that of its adjoint.

    A transposed convolution is the transpose of the convolution with the same weights from its outputs to its inputs, and has
    its norm.
    """
    weight = layer.weight.detach().double().cpu()
    weight = weight.reshape(layer.groups, -1, *weight.shape[1:])
    stride, dilation = tuple(layer.stride), tuple(layer.dilation)
    if isinstance(layer, Transposed):
        axes = list(zip(shape, layer.kernel_size, stride, dilation, layer.padding, layer.output_padding, strict=True))
        # as many cells after each axis as the transpose has inputs: output padding beyond a stride would call for more
        pads = [(int(p), int(p) - extra) for *_, p, extra in axes]
        shape = tuple((n - 1) * s - 2 * int(p) + d * (k - 1) + extra + 1 for n, k, s, d, p, extra in axes)
        found = Stencil(weight, shape, stride, dilation, tuple(pads), "zeros")
    else:
        twice = layer._reversed_padding_repeated_twice
        pads = [(twice[2 * i], twice[2 * i + 1]) for i in reversed(range(len(shape)))]
        found = Stencil(weight, shape, stride, dilation, tuple(pads), layer.padding_mode)
    if min(found.shape) < 1 or min(found.output) < 1:
        raise InputError(f"`input_shape` must leave an output, got spatial sizes {shape} for {layer}; make them larger")
    reach = {"reflect": 1, "circular": 0}.get(found.mode)
    if reach is not None and any(max(pad) > n - reach for n, pad in zip(found.shape, found.pads, strict=True)):
        raise InputError(f"`input_shape` must exceed the {found.mode} padding, got spatial sizes {shape} for {layer}")
    return found


def taps_as_matrices(found: Stencil, axes: Sequence[int]) -> Tensor:
    """The convolution along some axes written out, for each tap of the others: `(*other taps, groups, rows, columns)`.

    Rows are (channel, *outputs along `axes`) and columns (channel, *inputs along `axes`), C order.
    """
    weight = found.weight.movedim((0, 1, 2), (-3, -2, -1))  # (*taps, groups, outputs, inputs)
    count = len(found.shape)
    others = [axis for axis in range(count) if axis not in axes]
    weight = weight.permute(*others, *axes, count, count + 1, count + 2)
    lead = weight.shape[: len(others)]
    block = weight.reshape(-1, *(found.taps[a] for a in axes), *weight.shape[-3:])
    for axis in axes:  # one tap axis becomes one row and one column axis, appended to the two groups of axes at the end
        seen = found.selection(axis)
        t, o, i = seen.shape
        head, rest = block.shape[0], block.shape[2:-3]
        groups, rows, columns = block.shape[-3:]
        flat = block.reshape(head, t, -1, rows, columns)  # (head, t, rest·groups, rows, columns)
        flat = torch.einsum("htgrc,toi->hgroci", flat, seen)
        block = flat.reshape(head, *rest, groups, rows * o, columns * i)
    return block.reshape(*lead, *block.shape[-3:])
