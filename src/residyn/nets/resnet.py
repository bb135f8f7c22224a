"""Residual networks: a stem, residual blocks at one width, a head; and the same without shortcuts, to compare with."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Literal

from torch import Tensor, nn

from residyn.errors import InputError
from residyn.gradients.base import GradientMode
from residyn.step import Residual, Stack


class ResNet(nn.Module):
    """x_0 = stem(u), x_{k+1} = x_k + h·F_k(x_k), y = head(x_L).

    With `shortcut=False` the identity path is left out, x_{k+1} = F_k(x_k): the plain twin, of the same parameters.

    Args:
        stem: From the input to the width of the blocks.
        branches: F_0 … F_{L-1}; each keeps the shape of its input.
        head: From the width of the blocks to the output.
        step: h; 1/√L if not given, at which branches that keep the mean square let that of x grow by (1 + 1/L)^L < e at
            most, however deep the network.
        shortcut: Whether there is an identity path.
        keep: Survival probability of each branch in training (see `survival`); all survive if not given.
        gradient: How the gradient comes back through the blocks; `Checkpoint()` keeps √L of L states, so that thousands of
            layers fit into memory.

    Raises:
        InputError: If there is no branch, `keep` is of another length, or a branch without shortcut is to be dropped.

    Reference:
        He, Zhang, Ren & Sun (2016), "Deep Residual Learning for Image Recognition", doi:10.1109/CVPR.2016.90.

    >>> import torch
    >>> from residyn.nets import MLP
    >>> net = ResNet(nn.Linear(5, 8), [MLP(8, 8, 8) for _ in range(100)], nn.Linear(8, 3))
    >>> net(torch.zeros(2, 5)).shape, len(net.body)
    (torch.Size([2, 3]), 100)
    """

    def __init__(
        self,
        stem: nn.Module,
        branches: Sequence[nn.Module],
        head: nn.Module,
        *,
        step: float | None = None,
        shortcut: bool = True,
        keep: Sequence[float] | None = None,
        gradient: GradientMode | None = None,
    ) -> None:
        super().__init__()
        if not branches:
            raise InputError("`branches` must hold at least one module, got none; each becomes a block")
        if keep is not None and len(keep) != len(branches):
            raise InputError(f"`keep` must have one probability a branch, {len(branches)}, got {len(keep)}; see nets.survival")
        if keep is not None and not shortcut:
            raise InputError("`keep` must be None without shortcuts, got probabilities; a dropped block would leave nothing")
        h = 1 / math.sqrt(len(branches)) if step is None else step
        self.stem, self.head = stem, head
        self.body = Stack(
            [Residual(f, h, keep=p) for f, p in zip(branches, keep or [1.0] * len(branches), strict=True)]
            if shortcut
            else branches,
            gradient=gradient,
        )

    def forward(self, u: Tensor) -> Tensor:
        """The output y."""
        y: Tensor = self.head(self.body(self.stem(u)))
        return y

    def states(self, u: Tensor) -> list[Tensor]:
        """x_0 … x_L, the states between the blocks."""
        states: list[Tensor] = [self.stem(u)]
        for block in self.body.blocks:
            states.append(block(states[-1]))
        return states

    def without(self, removed: Collection[int], u: Tensor) -> Tensor:
        """The output if some blocks are left out, x passing them unchanged.

        Args:
            removed: Indices of the blocks.
            u: The input.

        Returns:
            y.
        """
        x = self.stem(u)
        for k, block in enumerate(self.body.blocks):
            if k not in removed:
                x = block(x)
        y: Tensor = self.head(x)
        return y


def survival(depth: int, rate: float, schedule: Literal["linear", "uniform"] = "linear") -> list[float]:
    """Survival probabilities for stochastic depth; "linear" is p_l = 1 - (l/L)·rate for l = 1 … L.

    Args:
        depth: L.
        rate: Drop probability of the last block, in [0, 1).
        schedule: `"linear"`, as above, because early blocks make what later ones need; or `"uniform"`, `1 - rate`
            everywhere.

    Returns:
        L probabilities.

    Raises:
        InputError: If an argument breaks its rule.

    Reference:
        Huang, Sun, Liu, Sedra & Weinberger (2016), "Deep Networks with Stochastic Depth",
        doi:10.1007/978-3-319-46493-0_39.

    >>> survival(4, 0.5)
    [0.875, 0.75, 0.625, 0.5]
    """
    if depth < 1:
        raise InputError(f"`depth` must be >= 1, got {depth}")
    if not 0 <= rate < 1:
        raise InputError(f"`rate` must be a drop probability in [0, 1), got {rate}; 0 never drops")
    if schedule not in ("linear", "uniform"):
        raise InputError(f'`schedule` must be "linear" or "uniform", got {schedule!r}')
    return [1 - rate * (layer / depth if schedule == "linear" else 1.0) for layer in range(1, depth + 1)]
