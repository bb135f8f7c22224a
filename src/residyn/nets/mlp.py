"""The multi-layer perceptron, as network or as branch."""

from __future__ import annotations

import itertools
import math

from torch import nn

from residyn.errors import InputError


class MLP(nn.Sequential):
    """Affine maps with a relu between each two: W_m·relu(… relu(W_1·x + b_1) …) + b_m.

    Weights start Gaussian with variance 2/n after a relu's kind of layer and 1/n in the last one, biases at zero, so
    that for wide layers the mean square of the output equals that of the input (He's initialisation). As a branch,
    `MLP(n, n, n)` is the F(x) = W₂·relu(W₁·x) of deep residual networks.

    Args:
        sizes: Widths from input to output, two at least.

    Raises:
        InputError: If there are fewer than two widths, or one is not a positive whole number.

    Reference:
        He, Zhang, Ren & Sun (2015), "Delving Deep into Rectifiers", doi:10.1109/ICCV.2015.123.

    >>> MLP(3, 8, 2)
    MLP(
      (0): Linear(in_features=3, out_features=8, bias=True)
      (1): ReLU()
      (2): Linear(in_features=8, out_features=2, bias=True)
    )
    """

    def __init__(self, *sizes: int) -> None:
        if len(sizes) < 2 or min(sizes) < 1:
            raise InputError(f"`sizes` must be two or more widths >= 1, got {sizes}; write MLP(inputs, hidden, outputs)")
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        super().__init__(*layers[:-1])
        affine = [layer for layer in self if isinstance(layer, nn.Linear)]
        for layer in affine:
            gain = 1.0 if layer is affine[-1] else 2.0
            nn.init.normal_(layer.weight, std=math.sqrt(gain / layer.in_features))
            nn.init.zeros_(layer.bias)
