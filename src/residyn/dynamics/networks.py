"""The networks that are fitted: a field f(x, u), and a flow map x + h·g(x, u, h); both see scaled numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def mlp(inputs: int, outputs: int, hidden: Sequence[int], seed: int) -> nn.Module:
    """A tanh network in double precision, its weights drawn from `seed` alone.

    Args:
        inputs: Width of the input.
        outputs: Width of the output.
        hidden: Widths between.
        seed: Seed of the weights.

    Returns:
        The network.

    >>> mlp(2, 1, [8], seed=0)(torch.zeros(3, 2, dtype=torch.float64)).shape
    torch.Size([3, 1])
    """
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    widths = [inputs, *hidden, outputs]
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        layer = nn.Linear(a, b, dtype=torch.float64)
        with torch.no_grad():
            # tanh keeps unit variance with gain 5/3; the last layer starts near zero, a small branch
            gain = 5 / 3 if i + 2 < len(widths) else 0.1
            layer.weight.normal_(0.0, gain / math.sqrt(a), generator=generator)
            layer.bias.uniform_(-0.5, 0.5, generator=generator) if i + 2 < len(widths) else layer.bias.zero_()
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class Scaled(nn.Module):
    """A network between scalings: shift + scale·net((z - centre)/spread), z the state with what else goes in.

    Args:
        net: The network inside.
        centre: Of the inputs, `(m,)`.
        spread: Of the inputs, `(m,)`.
        shift: Of the rate, `(d,)`.
        scale: Of the rate, `(d,)`.
        order: 2 if the first half of the rate is the second half of the state, so that only the second is learned.
    """

    centre: Tensor
    spread: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, net: nn.Module, centre: Tensor, spread: Tensor, shift: Tensor, scale: Tensor, order: int = 1) -> None:
        super().__init__()
        self.net = net
        self.order = order
        for name, value in (("centre", centre), ("spread", spread), ("shift", shift), ("scale", scale)):
            self.register_buffer(name, value)

    def forward(self, z: Tensor) -> Tensor:
        """The rate `(…, d)` at inputs `(…, m)`."""
        found: Tensor = self.net((z - self.centre) / self.spread)
        width = len(self.scale)
        if self.order == 2:
            half = width // 2
            return torch.cat([z[..., half:width], self.shift[half:] + self.scale[half:] * found], -1)
        return self.shift + self.scale * found
