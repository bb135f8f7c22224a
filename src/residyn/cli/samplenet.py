"""A residual network for digits of 8 × 8 pixels, as one would write it: `residyn example audit` hands this file out."""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """x + F(x), F of two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Of features `(n, width)`, the same."""
        return x + self.outer(torch.relu(self.inner(x)))


def make() -> nn.Sequential:
    """Six blocks; the fifth starts at zero, and whoever trained it left it out: it adds nothing."""
    net = nn.Sequential(nn.Linear(64, 32), *(Block(32) for _ in range(6)), nn.Linear(32, 10))
    for layer in net[5].children():
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
    return net
