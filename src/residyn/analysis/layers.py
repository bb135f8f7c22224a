"""How much a single layer can stretch: one bound a type, each from above."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from residyn.analysis.attention import attention_bound
from residyn.analysis.convolution import convolution_norm, matrix_norm
from residyn.analysis.pooling import average_norm, max_multiplicity, padding_multiplicity
from residyn.analysis.slopes import steepest
from residyn.analysis.stencil import Convolution, Transposed, stencil
from residyn.branch import Dense, Linear
from residyn.errors import InputError
from residyn.results import Estimate
from residyn.state import held

Shape = tuple[int, ...]

_UP = 1 + 1e-14


@dataclass(frozen=True)
class Options:
    """What a bound may be told besides the layer.

    Attributes:
        radius: Largest Euclidean norm of a token that enters an attention layer.
        rtol: Slack to reach for convolutions.
    """

    radius: float | None = None
    rtol: float = 1e-3


def layer_bound(layer: nn.Module, shape: Shape, options: Options) -> Estimate | None:
    """The Lipschitz constant of one layer on samples of a shape, from above; `None` for a layer that is not known.

    Raises:
        InputError: If the layer is known but has no finite bound as it is.
    """
    slope = steepest(layer)
    if slope is not None:
        return certified(slope)
    if isinstance(layer, Linear):
        return _known_linear(layer)
    for kind in type(layer).__mro__:
        if kind in _TABLE:
            if type(layer).forward is not kind.forward:  # a subclass with a forward of its own is another map
                return None
            _check_weights(layer)
            return _TABLE[kind](layer, shape, options)
    return None


def certified(value: float) -> Estimate:
    """A proved bound that is computed exactly up to a few roundings."""
    return Estimate(value * _UP if value not in (0.0, 1.0) else value, "certified")


def _check_weights(layer: nn.Module) -> None:
    for name, weight in itertools.chain(layer.named_parameters(recurse=False), layer.named_buffers(recurse=False)):
        label = f"{type(layer).__name__}.{name}"
        if weight.is_floating_point() and not bool(torch.isfinite(held(weight, label)).all()):
            raise InputError(f"`{label}` must be finite, got nan or inf; load or train it again")


def _known_linear(layer: Linear) -> Estimate | None:
    if isinstance(layer, Dense):
        return Estimate(matrix_norm(layer.matrix if layer.matrix.is_complex() else layer.matrix.double()), "certified")
    return layer.norm_bound()


def _linear(layer: nn.Linear, shape: Shape, options: Options) -> Estimate:
    if shape[-1] != layer.in_features:
        raise InputError(f"`input_shape` must end in {layer.in_features} for {layer}, got {shape}; it is the shape of a sample")
    return Estimate(matrix_norm(layer.weight), "certified")


def _convolution(layer: Convolution | Transposed, shape: Shape, options: Options) -> Estimate:
    axes = len(layer.kernel_size)
    if len(shape) != axes + 1 or shape[0] != layer.in_channels:
        raise InputError(
            f"`input_shape` must be ({layer.in_channels}, {', '.join('HWD'[:axes])}) for {layer}, got {shape}; "
            "leave the batch out"
        )
    return convolution_norm(stencil(layer, shape[1:]), rtol=options.rtol)


def batch_norm_scale(layer: nn.Module) -> Tensor:
    """γ/√(var + ε) of a batch norm in evaluation mode, float64, one number a channel.

    Raises:
        InputError: If it works with the statistics of the batch.
    """
    assert isinstance(layer, nn.modules.batchnorm._NormBase)
    if layer.training or layer.running_var is None:
        raise InputError(
            f"`{type(layer).__name__}` must be in evaluation mode with running statistics, got batch statistics, under which "
            "samples act on each other; call .eval()"
        )
    scale = (layer.running_var.detach().double() + layer.eps).rsqrt()
    return scale if layer.weight is None else scale * layer.weight.detach().double()


def _batch_norm(layer: nn.Module, shape: Shape, options: Options) -> Estimate:
    return certified(float(batch_norm_scale(layer).abs().max()))


def _normalisation(layer: nn.Module, shape: Shape, options: Options) -> Estimate:
    """γ·(x - mean)/√(var + ε) + β: the Jacobian is γ·(P - x̂x̂ᵀ/n)/√(var + ε), of norm at most max|γ|/√ε, on all of space."""
    eps = getattr(layer, "eps", None)
    eps = torch.finfo(torch.float32).eps if eps is None else float(eps)
    weight = getattr(layer, "weight", None)
    gain = 1.0 if weight is None else float(weight.detach().double().abs().max())
    if eps <= 0:
        raise InputError(f"`eps` of {layer} must be > 0 for a Lipschitz constant, got {eps}; 1e-5 is usual")
    return certified(gain / math.sqrt(eps))


def _instance_norm(layer: nn.Module, shape: Shape, options: Options) -> Estimate:
    if getattr(layer, "track_running_stats", False) and not layer.training:
        return _batch_norm(layer, shape, options)
    return _normalisation(layer, shape, options)


def _dropout(layer: nn.Module, shape: Shape, options: Options) -> Estimate:
    rate = float(layer.p)  # type: ignore[arg-type]
    return certified(1.0 if not layer.training or rate >= 1 else 1 / (1 - rate))


def _log_softmax(layer: nn.Module, shape: Shape, options: Options) -> Estimate:
    """J = I - 1·pᵀ is an oblique projection, of norm √n·‖p‖ ≤ √n."""
    assert isinstance(layer, nn.LogSoftmax)
    dim = -1 if layer.dim is None else layer.dim
    n = shape[dim - 1 if dim > 0 else dim]
    return certified(math.sqrt(n) if n > 1 else 0.0)


def _upsample(layer: nn.Upsample, shape: Shape, options: Options) -> Estimate | None:
    if layer.mode != "nearest":
        return None
    with torch.no_grad():
        index = torch.arange(math.prod(shape[1:]), dtype=torch.float64).reshape(1, 1, *shape[1:])
        copies = layer(index).round().long().flatten().bincount()
    return certified(math.sqrt(float(copies.max())))


def _max_pool(layer: nn.Module, shape: Shape, options: Options) -> Estimate:
    """‖max(x) - max(y)‖² over windows is at most Σ (windows a cell is in)·|x - y|², and one cell alone attains it."""
    return certified(math.sqrt(max_multiplicity(layer, shape)))


def _average_pool(layer: nn.Module, shape: Shape, options: Options) -> Estimate:
    return Estimate(average_norm(layer, shape), "certified")


def _padding(layer: nn.Module, shape: Shape, options: Options) -> Estimate:
    return certified(math.sqrt(padding_multiplicity(layer, shape)))


def _one(layer: nn.Module, shape: Shape, options: Options) -> Estimate:
    return certified(1.0)


def _attention(layer: nn.MultiheadAttention, shape: Shape, options: Options) -> Estimate:
    return certified(attention_bound(layer, shape, options.radius))


_Bound = Callable[..., Estimate | None]


def _rows(kinds: Sequence[type[nn.Module]], bound: _Bound) -> dict[type[nn.Module], _Bound]:
    return dict.fromkeys(kinds, bound)


_TABLE: dict[type[nn.Module], _Bound] = {
    nn.Linear: _linear,
    **_rows([nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d], _convolution),
    **_rows([nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm], _batch_norm),
    **_rows([nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d], _instance_norm),
    **_rows([nn.LayerNorm, nn.GroupNorm, nn.RMSNorm], _normalisation),
    **_rows([nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d], _dropout),
    **_rows([nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d], _max_pool),
    **_rows([nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d], _max_pool),
    **_rows([nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d], _average_pool),
    **_rows([nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d], _average_pool),
    **_rows([nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d], _padding),
    **_rows([nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d], _padding),
    **_rows([nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d], _padding),
    **_rows([nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d], _one),
    **_rows([nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle], _one),
    nn.Upsample: _upsample,
    nn.UpsamplingNearest2d: _upsample,
    nn.Softmax: lambda layer, shape, options: certified(0.5),  # ‖diag(p) - p·pᵀ‖ ≤ 1/2, at two equal entries
    nn.LogSoftmax: _log_softmax,
    nn.MultiheadAttention: _attention,
}
