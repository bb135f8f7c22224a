"""A residual block that never expands: a descent step of a convex potential."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as f
from torch import Tensor, nn

from residyn.analysis.uniform import uniform_norm
from residyn.errors import InputError

_ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Hardtanh, nn.ReLU6, nn.Softsign, nn.ELU)


class ConvexPotential(nn.Module):
    """x⁺ = x - (2/‖W‖²)·Wᵀσ(W·x + b), a residual block with Lipschitz constant 1 whatever its weights.

    The branch is the gradient of the convex Σ s(W·x + b), s' = σ; where σ rises by at most 1, its Jacobian
    Wᵀdiag(σ')W lies between 0 and ‖W‖², and I minus 2/‖W‖² of it between -1 and 1.

    Args:
        layer: W and b: a `Linear`, or a convolution of stride 1 with zero padding.
        activation: σ, monotone with slope at most 1; relu if not given.

    Raises:
        InputError: If the layer or the activation is of another kind.

    Reference:
        Meunier, Delattre, Araujo & Allauzen (2022), "A Dynamical System Perspective for Lipschitz Neural Networks",
        arXiv:2110.12690.

    >>> block = ConvexPotential(nn.Linear(3, 8))
    >>> block(torch.zeros(2, 3)).shape
    torch.Size([2, 3])
    """

    def __init__(self, layer: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d, activation: nn.Module | None = None) -> None:
        super().__init__()
        if not isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            raise InputError(
                f"`layer` must be a Linear or a convolution, got {type(layer).__name__}; W acts from x to the hidden state"
            )
        if not isinstance(layer, nn.Linear) and (
            set(layer.stride) != {1} or layer.padding_mode != "zeros" or isinstance(layer.padding, str)
        ):
            raise InputError(f"`layer` must have stride 1 and zero padding as numbers, got {layer}; its transpose must fit x")
        activation = nn.ReLU() if activation is None else activation
        if not isinstance(activation, _ACTIVATIONS) or (isinstance(activation, nn.ELU) and activation.alpha > 1):
            raise InputError(f"`activation` must be monotone with slope at most 1, got {activation}; ReLU() or Tanh() are")
        self.layer, self.activation = layer, activation
        self._norm = uniform_norm(layer)
        self._seen: tuple[int, int, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x⁺, of the shape of x."""
        weight = self.layer.weight
        hidden = self.activation(self.layer(x))
        if isinstance(self.layer, nn.Linear):
            back = hidden @ weight
        else:
            operation = (f.conv_transpose1d, f.conv_transpose2d, f.conv_transpose3d)[weight.ndim - 3]
            settings: dict[str, Any] = {name: getattr(self.layer, name) for name in ("padding", "dilation", "groups")}
            back = operation(hidden, weight, **settings)
        return x - self._step().to(x.dtype) * back

    def _step(self) -> Tensor:
        """2/‖W‖², computed again when the weight has changed; a part in 10⁵ less for rounding in single precision."""
        weight = self.layer.weight
        if torch.is_grad_enabled() and weight.requires_grad:
            return self._of(weight)
        key = (weight.data_ptr(), weight._version)
        if self._seen is None or self._seen[:2] != key:
            self._seen = (*key, self._of(weight.detach()))
        return self._seen[2]

    def _of(self, weight: Tensor) -> Tensor:
        return 2 * (1 - 1e-5) / self._norm(weight).square().clamp(min=1e-30)
