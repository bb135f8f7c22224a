"""The residual step x⁺ = x + h·F(x), and steps one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from residyn.errors import InputError

if TYPE_CHECKING:
    from residyn.gradients.base import GradientMode


class Residual(nn.Module):
    """One residual step, x⁺ = x + h·F(x): an identity path plus a small correction.

    With `keep < 1` and in training the branch is dropped as a whole with probability `1 - keep` (it is then not computed)
    and divided by `keep` otherwise, so that its expectation is h·F(x), which is what evaluation mode computes.

    Args:
        branch: F, a callable or module that returns a tensor of the shape and dtype of its input `(B, …)`.
        step: h, a number, or a tensor that broadcasts to x (a parameter, if it is to be learned).
        keep: Survival probability of the branch in training, in (0, 1].

    Raises:
        InputError: If `keep` lies outside (0, 1], or the branch changes the shape of x.

    Reference:
        He, Zhang, Ren & Sun (2016), doi:10.1109/CVPR.2016.90; Huang, Sun, Liu, Sedra & Weinberger (2016), "Deep Networks
        with Stochastic Depth", doi:10.1007/978-3-319-46493-0_39.

    >>> Residual(torch.tanh, step=0.5)(torch.zeros(1, 2))
    tensor([[0., 0.]])
    """

    def __init__(self, branch: Callable[[Tensor], Tensor], step: float | Tensor = 1.0, *, keep: float = 1.0) -> None:
        super().__init__()
        if not 0.0 < keep <= 1.0:
            raise InputError(f"`keep` must be a survival probability in (0, 1], got {keep}; 1 never drops the branch")
        self.branch = branch
        self.keep = keep
        if isinstance(step, nn.Parameter):
            self.step: float | Tensor = step
        elif isinstance(step, Tensor):
            self.register_buffer("step", step)
        else:
            self.step = float(step)

    def forward(self, x: Tensor) -> Tensor:
        """x + h·F(x), of the shape of x."""
        scale = 1.0
        if self.training and self.keep < 1.0:
            if torch.rand(()).item() >= self.keep:  # drawn on the CPU: no device is asked to wait
                return x
            scale = 1.0 / self.keep
        update = self.branch(x)
        if update.shape != x.shape:
            raise InputError(
                f"`branch` must return the shape of x, {tuple(x.shape)}, got {tuple(update.shape)}; "
                "project x to the new shape before the step"
            )
        if isinstance(self.step, Tensor):
            return x + (scale * self.step) * update
        return torch.add(x, update, alpha=scale * self.step)

    def extra_repr(self) -> str:
        """What `print` shows besides the branch."""
        name = "" if isinstance(self.branch, nn.Module) else f", branch={getattr(self.branch, '__name__', self.branch)}"
        step = f"tensor{tuple(self.step.shape)}" if isinstance(self.step, Tensor) else f"{self.step:g}"
        return f"step={step}, keep={self.keep:g}{name}"


class Stack(nn.Module):
    """Distinct blocks, one after the other: x_{k+1} = block_k(x_k).

    Args:
        blocks: Modules, usually `Residual`; each maps x to the next x.
        gradient: How the gradient comes back: `Backprop()` keeps all activations, `Checkpoint()` keeps some and computes
            the others again, `Reversible()` keeps none and inverts the blocks, which must be `gradients.InvertibleBlock`.

    >>> Stack([Residual(torch.tanh), nn.ReLU()])(torch.zeros(3)).shape
    torch.Size([3])
    """

    def __init__(self, blocks: Iterable[nn.Module], *, gradient: GradientMode | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        if gradient is None:
            from residyn.gradients import Backprop

            gradient = Backprop()
        self.gradient = gradient

    def forward(self, x: Tensor) -> Tensor:
        """The output of the last block."""
        return self.gradient.chain(list(self.blocks), x)

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> nn.Module:
        return self.blocks[index]
