"""Affine maps of samples in double precision: the map, its transpose on rows of coefficients, and the size of its sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as f
from torch import Tensor, nn

from residyn.analysis.layers import batch_norm_scale
from residyn.analysis.stencil import Convolution, Transposed

Shape = tuple[int, ...]
Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Affine:
    """y = A·x + b on samples `(N, …)`, no sample acting on another.

    Attributes:
        apply: x → A·x + b.
        absolute: x → |A|·x + |b| for x >= 0, the size of the sums that y is computed from.
        terms: Most products that are added up to one entry of y, or of rows·A; 0 for a move of entries, which is exact.
        transpose: (rows, shape of a sample of x) → rows·A; by automatic differentiation if not given.
    """

    apply: Map
    absolute: Map
    terms: int
    transpose: Callable[[Tensor, Shape], Tensor] | None = None

    def back(self, rows: Tensor, shape: Shape) -> Tensor:
        """Rows `(N, …)` of coefficients of y as coefficients of x, `(N, *shape)`."""
        if self.transpose is not None:
            return self.transpose(rows, shape)
        with torch.enable_grad():
            z = torch.zeros(len(rows), *shape, dtype=rows.dtype, device=rows.device, requires_grad=True)
            (found,) = torch.autograd.grad(self.apply(z), z, rows)
        return found


def move(apply: Map) -> Affine:
    """A map that only places entries of x."""
    return Affine(apply, apply, 0)


def layer_map(layer: nn.Module, shape: Shape) -> Affine | None:
    """The affine map of a layer of torch in evaluation mode; `None` if it is not one that is known."""
    for kind in type(layer).__mro__:
        if kind in _TABLE:
            return _TABLE[kind](layer, shape) if type(layer).forward is kind.forward else None
    return None


def linear(weight: Tensor, bias: Tensor | None) -> Affine:
    """x → x·Wᵀ + b on the last axis."""
    W = weight.detach().double()
    b = None if bias is None else bias.detach().double()
    size, shift = W.abs(), None if b is None else b.abs()
    return Affine(
        lambda x: f.linear(x, W, b), lambda x: f.linear(x, size, shift), max(W.shape) + 1, lambda rows, shape: rows @ W
    )


def convolution(layer: Convolution | Transposed, weight: Tensor | None = None, bias: Tensor | None = None) -> Affine:
    """A convolution of any kind; with other weights if given."""
    weight = layer.weight.detach().double() if weight is None else weight
    own = layer.bias if bias is None else bias
    b = None if own is None else own.detach().double()
    made, size = _with(layer, weight, b), _with(layer, weight.abs(), None if b is None else b.abs())
    taps = math.prod(layer.kernel_size) * max(layer.in_channels, layer.out_channels) // layer.groups
    plain = not isinstance(layer, Transposed) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return Affine(made, size, taps + 1, _transpose(made) if plain else None)


def _with(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> Any:
    """A fresh layer of the settings of one, with frozen double-precision weights."""
    kind: Any = next(k for k in type(layer).__mro__ if k in _CONVOLUTIONS)
    names = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"]
    names += ["output_padding"] if isinstance(layer, Transposed) else []
    with torch.device("meta"):
        made = kind(**{name: getattr(layer, name) for name in names}, bias=bias is not None)
    made.weight = nn.Parameter(weight, requires_grad=False)
    made.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return made.eval()


def _transpose(layer: Any) -> Callable[[Tensor, Shape], Tensor]:
    """Rows times a convolution with zero padding, without running it forwards first."""

    def back(rows: Tensor, shape: Shape) -> Tensor:
        found = torch.ops.aten.convolution_backward(
            rows, rows.new_empty(1).expand(len(rows), *shape), layer.weight, None, layer.stride, layer.padding,
            layer.dilation, False, [0] * len(layer.stride), layer.groups, (True, False, False),
        )  # fmt: skip
        return found[0]

    return back


def scaling(factor: Tensor, shift: Tensor | None = None) -> Affine:
    """x → s·x + b, s and b broadcast to a sample."""
    s, b = factor.detach().double(), None if shift is None else shift.detach().double()

    def apply(x: Tensor) -> Tensor:
        return s * x if b is None else s * x + b

    def absolute(x: Tensor) -> Tensor:
        return s.abs() * x if b is None else s.abs() * x + b.abs()

    return Affine(apply, absolute, 2, lambda rows, shape: _unbroadcast(rows * s, shape))


def _unbroadcast(rows: Tensor, shape: Shape) -> Tensor:
    """Coefficients of what was broadcast to a larger sample, summed."""
    return (
        rows
        if rows.shape[1:] == shape
        else rows.sum_to_size(len(rows), *[1] * (rows.ndim - 1 - len(shape)), *shape).reshape(-1, *shape)
    )


def reshaping(shape: Shape) -> Affine:
    """Samples in another shape, entries in the same order."""

    def apply(x: Tensor) -> Tensor:
        return x.reshape(len(x), *shape)

    return Affine(apply, apply, 0, lambda rows, back: rows.reshape(len(rows), *back))


def centring(axes: int) -> Affine:
    """x - mean over the last axes of a sample."""
    dims = tuple(range(-axes, 0))
    rest: Map = lambda x: x - x.mean(dims, keepdim=True)  # noqa: E731 - its own transpose
    return Affine(rest, lambda x: x + x.mean(dims, keepdim=True), 1, lambda rows, shape: rest(rows))


def _batch_norm(layer: Any, shape: Shape) -> Affine | None:
    if layer.running_var is None:
        return None
    scale = batch_norm_scale(layer)
    mean = layer.running_mean.detach().double()
    bias = torch.zeros_like(scale) if layer.bias is None else layer.bias.detach().double()
    wide = (-1, *[1] * (len(shape) - 1))
    found = scaling(scale.reshape(wide), (bias - scale * mean).reshape(wide))
    offset = (bias.abs() + (scale * mean).abs()).reshape(wide)
    # (x - mean)·scale: its terms are as large as |mean|, however small their difference
    return replace(found, absolute=lambda x: scale.abs().reshape(wide) * x + offset, terms=8)


def _averages(layer: Any, shape: Shape) -> Affine:
    return Affine(layer, layer, math.prod(shape[1:]) + 2)


def _upsampling(layer: Any, shape: Shape) -> Affine | None:
    return Affine(layer, layer, 32) if layer.mode in ("nearest", "linear", "bilinear", "trilinear") else None


def _constant_pad(layer: Any, shape: Shape) -> Affine:
    return Affine(layer, lambda x: layer(x).abs(), 0)


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _rows(kinds: Sequence[type[nn.Module]], make: Any) -> dict[type[nn.Module], Any]:
    return dict.fromkeys(kinds, make)


_TABLE: dict[type[nn.Module], Callable[[Any, Shape], Affine | None]] = {
    nn.Linear: lambda layer, shape: linear(layer.weight, layer.bias),
    **_rows(_CONVOLUTIONS, lambda layer, shape: convolution(layer)),
    **_rows([nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm], _batch_norm),
    **_rows([nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d], _averages),
    **_rows([nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d], _averages),
    **_rows([nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d], _upsampling),
    **_rows([nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d], _constant_pad),
    **_rows(
        [nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d, nn.ReplicationPad1d, nn.ReplicationPad2d,
         nn.ReplicationPad3d, nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d, nn.Unflatten,
         nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle],
        lambda layer, shape: move(layer),
    ),
    nn.Flatten: lambda layer, shape: reshaping(tuple(layer(torch.zeros(1, *shape)).shape[1:])),
    **_rows(
        [nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout],
        lambda layer, shape: move(lambda x: x),
    ),
}  # fmt: skip
