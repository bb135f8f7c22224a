"""How steep activations are: the largest slope anywhere, and the range of slopes and chords on an interval."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as f
from torch import nn

_GELU = 0.5 * (1 + math.erf(1)) + math.exp(-1) / math.sqrt(math.pi)  # Φ(x) + x·φ(x) at x = √2

# Largest |f'|. Those without closed form are rounded up (SiLU at x = 2.3994, Mish at 1.4906, tanh-GELU at 1.4185).
_STEEPEST: dict[type[nn.Module], Callable[[nn.Module], float]] = {
    nn.ReLU: lambda m: 1.0,
    nn.ReLU6: lambda m: 1.0,
    nn.LeakyReLU: lambda m: max(1.0, abs(float(m.negative_slope))),  # type: ignore[arg-type]
    nn.PReLU: lambda m: max(1.0, float(m.weight.detach().abs().max())),  # type: ignore[operator]
    nn.RReLU: lambda m: max(1.0, abs(float(m.lower)), abs(float(m.upper))),  # type: ignore[arg-type]
    nn.ELU: lambda m: max(1.0, abs(float(m.alpha))),  # type: ignore[arg-type]
    nn.CELU: lambda m: 1.0,
    nn.SELU: lambda m: 1.0507009873554805 * 1.6732632423543773,
    nn.GELU: lambda m: _GELU * (1 + 1e-15) if m.approximate == "none" else 1.129,
    nn.SiLU: lambda m: 1.099840,
    nn.Mish: lambda m: 1.0885,
    nn.Hardswish: lambda m: 1.5,
    nn.Softplus: lambda m: 1.0,
    nn.Sigmoid: lambda m: 0.25,
    nn.Hardsigmoid: lambda m: 0.1666667,
    nn.LogSigmoid: lambda m: 1.0,
    nn.Tanh: lambda m: 1.0,
    nn.Hardtanh: lambda m: 1.0,
    nn.Softsign: lambda m: 1.0,
    nn.Tanhshrink: lambda m: 1.0,
    nn.Softshrink: lambda m: 1.0,
    nn.Identity: lambda m: 1.0,
}

FUNCTIONS: dict[object, Callable[[], nn.Module]] = {
    torch.relu: nn.ReLU,
    torch.relu_: nn.ReLU,
    f.relu: nn.ReLU,
    torch.tanh: nn.Tanh,
    f.tanh: nn.Tanh,
    torch.sigmoid: nn.Sigmoid,
    f.sigmoid: nn.Sigmoid,
    f.relu6: nn.ReLU6,
    f.selu: nn.SELU,
    f.mish: nn.Mish,
    f.silu: nn.SiLU,
    f.hardswish: nn.Hardswish,
    f.hardsigmoid: nn.Hardsigmoid,
    f.logsigmoid: nn.LogSigmoid,
    f.softsign: nn.Softsign,
    f.tanhshrink: nn.Tanhshrink,
    "relu": nn.ReLU,
    "relu_": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
"""Elementwise functions and methods of tensors, without arguments that change their slope."""


def steepest(layer: nn.Module) -> float | None:
    """The largest slope of an elementwise activation; `None` if the layer is not one that is known."""
    for kind in type(layer).__mro__:
        if kind in _STEEPEST:
            return _STEEPEST[kind](layer) if type(layer).forward is kind.forward else None
    return None
