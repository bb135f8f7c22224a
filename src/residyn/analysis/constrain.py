"""Networks that stay Lipschitz while they train: each linear layer is scaled by its true norm, not by that of its kernel."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from residyn.analysis.convex import ConvexPotential
from residyn.analysis.lipschitz import lipschitz as lipschitz_bound
from residyn.analysis.slopes import steepest
from residyn.analysis.uniform import Constrainable, uniform_norm
from residyn.errors import InputError
from residyn.step import Residual, Stack


class Capped(nn.Module):
    """W = V·min(1, c/‖V‖), the norm being that of the layer's map on inputs of any size.

    Args:
        layer: The layer; its settings are kept, not itself.
        limit: c.
    """

    def __init__(self, layer: Constrainable, limit: float) -> None:
        super().__init__()
        self.norm, self.limit = uniform_norm(layer), limit
        # Scaled weights are rounded: ‖E‖ ≤ Σ_t ‖E_t‖_F ≤ ε·√taps·‖W‖_F over the taps t, and ‖W‖_F ≤ √rank·‖W‖₂
        rank = min(layer.weight.shape[:2]) if layer.weight.ndim > 1 else 1
        self.spread = math.sqrt(rank * layer.weight[0, 0].numel())

    def forward(self, weight: Tensor) -> Tensor:
        """W, differentiable in V, the norm included."""
        norm = self.norm(weight)
        allowed = self.limit / (1 + 1e-9 + 2 * torch.finfo(weight.dtype).eps * self.spread)
        if float(norm.detach()) <= allowed:
            return weight
        return weight * (allowed / norm).to(weight.dtype)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """V = W: a weight that is set is kept if its norm is allowed, and scaled if not."""
        return weight

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"limit={self.limit:g}"


def constrain(module: nn.Module, lipschitz: float = 1.0, *, input_shape: int | Sequence[int] | None = None) -> nn.Module:
    """Parametrise a network so that it is Lipschitz with a constant, now and through training.

    Every linear layer gets W = V·min(1, c/‖V‖) with one c for all, the largest at which the certified bound of the whole,
    residual structure included, is at most `lipschitz`. ‖V‖ is the true norm, for a convolution the largest over all input
    sizes (within 2 % for 3×3 taps). The module is changed in place; `release` takes the parametrisation off again. A block
    x + h·F(x) has at least the constant 1; `ConvexPotential` blocks have exactly that however large their weights are.

    Args:
        module: The network: layers of torch in `Sequential`, `Stack`, `Residual`; any other that `lipschitz` can trace if
            `input_shape` is given.
        lipschitz: The constant K, > 0.
        input_shape: Shape of a sample, without the batch.

    Returns:
        The same module.

    Raises:
        InputError: If no c reaches the constant, or a part cannot be constrained.

    Reference:
        Miyato et al. (2018), arXiv:1802.05957 (with the norm of the kernel); Gouk, Frank, Pfahringer & Cree (2021),
        doi:10.1007/s10994-020-05929-w.

    >>> net = constrain(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), 1.0)
    >>> float(lipschitz_bound(net, 4)) <= 1.0
    True
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"`module` must be an nn.Module, got {type(module).__name__}; wrap it")
    if not (isinstance(lipschitz, (int, float)) and lipschitz > 0 and math.isfinite(lipschitz)):
        raise InputError(f"`lipschitz` must be > 0 and finite, got {lipschitz}; 1 makes the network non-expansive")
    layers = list(constrainable(module))
    if any(parametrize.is_parametrized(layer, "weight") for layer in layers):
        raise InputError("`module` must not be parametrised already, got a layer that is; take it off with `release`")
    if not layers:
        raise InputError(f"`module` must hold a linear layer or convolution to constrain, got {type(module).__name__}")

    def whole(limit: float) -> float:
        if input_shape is None:
            return _gain(module, limit, type(module).__name__)
        return float(lipschitz_bound(module, input_shape, known=dict.fromkeys(layers, limit)))

    limit = _largest(whole, float(lipschitz))
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", Capped(layer, limit))
    return module


def release(module: nn.Module) -> nn.Module:
    """Take off what `constrain` put on; the weights keep their constrained values.

    Args:
        module: The network, changed in place.

    Returns:
        The same module.

    >>> type(release(constrain(nn.Linear(2, 2))))
    <class 'torch.nn.modules.linear.Linear'>
    """
    for layer in list(module.modules()):
        listed = cast("Any", layer).parametrizations["weight"] if parametrize.is_parametrized(layer, "weight") else ()
        if any(isinstance(part, Capped) for part in listed):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return module


def constrainable(module: nn.Module) -> Iterator[Constrainable]:
    """The linear layers and convolutions in a module that need a cap; those inside `ConvexPotential` do not."""
    if isinstance(module, ConvexPotential):
        return
    if isinstance(module, Constrainable):
        yield module
    for child in module.children():
        yield from constrainable(child)


def _largest(whole: object, target: float) -> float:
    """The largest limit at which the whole is within its target, by bisection in its logarithm."""
    assert callable(whole)
    low, high = -30.0, 30.0
    least = whole(math.exp(low))
    if least > target:
        raise InputError(
            f"`lipschitz` must be above {least:.4g}, which this network has however small its weights are, got {target:g}; a "
            "residual block has at least 1 (ConvexPotential exactly that), and normalisation layers 1/√ε"
        )
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if whole(math.exp(middle)) <= target else (low, middle)
    return math.exp(low) * (1 - 1e-12)


def _gain(module: nn.Module, limit: float, name: str) -> float:
    """The bound of a whole in which every linear layer has norm `limit`, where no shape is needed to tell."""
    if isinstance(module, Constrainable):
        return limit
    if isinstance(module, ConvexPotential):
        return 1.0
    slope = steepest(module)
    if slope is not None:
        return slope
    if isinstance(module, (nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)):
        return 1.0
    if isinstance(module, (nn.AvgPool1d, nn.AvgPool2d, nn.MaxPool1d, nn.MaxPool2d)):
        return _pooling(module)
    if isinstance(module, Residual) and not isinstance(module.step, Tensor) and isinstance(module.branch, nn.Module):
        return 1.0 + abs(module.step) * _gain(module.branch, limit, f"{name}.branch")
    if isinstance(module, (nn.Sequential, Stack)):
        parts = module.blocks if isinstance(module, Stack) else module
        return math.prod(_gain(part, limit, f"{name}.{k}") for k, part in enumerate(parts))
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        raise InputError(
            f"`{name}` must not be a batch norm, got {type(module).__name__}: its scale follows the data; leave it out"
        )
    raise InputError(
        f"`input_shape` must be given to constrain `{name}` ({type(module).__name__}), got None; it is the shape of a sample"
    )


def _pooling(module: nn.AvgPool1d | nn.AvgPool2d | nn.MaxPool1d | nn.MaxPool2d) -> float:
    """√(‖A‖₁·‖A‖_∞): a cell is in ⌈k/s⌉ windows along each axis, an average has weights 1/k."""
    axes = int(type(module).__name__[-2])
    stride = module.stride or module.kernel_size
    sizes, strides = (v if isinstance(v, tuple) else (v,) * axes for v in (module.kernel_size, stride))
    windows = math.prod(math.ceil(k / s) for k, s in zip(sizes, strides, strict=True))
    average = isinstance(module, (nn.AvgPool1d, nn.AvgPool2d)) and getattr(module, "divisor_override", None) is None
    if average and getattr(module, "count_include_pad", True) and not module.ceil_mode:
        return math.sqrt(windows / math.prod(sizes))
    return math.sqrt(windows)
