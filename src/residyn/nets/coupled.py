"""Very deep residual networks in the memory of one block: two copies of the state that update each other, run backwards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from residyn.errors import InputError
from residyn.gradients import InvertibleBlock


class Coupling(InvertibleBlock):
    """A block with an inverse, of two residual steps on the halves of the channels: a⁺ = a + h·F(b), b⁺ = b + h·G(a⁺).

    With x = (a, b) along axis 1. The inverse is b = b⁺ - h·G(a⁺), a = a⁺ - h·F(b): one evaluation of each branch, whatever
    the branches are. `Stack([Coupling(…), …], gradient=Reversible())` trains in the memory of one block.

    Args:
        first: F, from half of the channels to the same shape.
        second: G, the same.
        step: h.

    Raises:
        InputError: On use, if x has an odd number of channels, or a branch changes the shape.

    Reference:
        Gomez, Ren, Urtasun & Grosse (2017), arXiv:1707.04585; Dinh, Krueger & Bengio (2014), "NICE", arXiv:1410.8516.

    >>> block = Coupling(nn.Tanh(), nn.Tanh())
    >>> x = torch.randn(2, 6, dtype=torch.float64)
    >>> torch.testing.assert_close(block.inverse(block(x)), x)
    """

    def __init__(self, first: nn.Module, second: nn.Module, step: float = 1.0) -> None:
        super().__init__()
        self.first, self.second, self.step = first, second, float(step)

    def forward(self, x: Tensor) -> Tensor:
        """y = (a⁺, b⁺), of the shape of x."""
        a, b = self._halves(x)
        a = torch.add(a, self._update(self.first, b), alpha=self.step)
        return torch.cat([a, torch.add(b, self._update(self.second, a), alpha=self.step)], 1)

    def inverse(self, y: Tensor) -> Tensor:
        """x = (a, b)."""
        a, b = self._halves(y)
        b = torch.sub(b, self._update(self.second, a), alpha=self.step)
        return torch.cat([torch.sub(a, self._update(self.first, b), alpha=self.step), b], 1)

    @staticmethod
    def _halves(x: Tensor) -> tuple[Tensor, ...]:
        if x.ndim < 2 or x.shape[1] % 2:
            raise InputError(f"`x` must have an even number of channels, (B, 2·c, …), got {tuple(x.shape)}")
        return x.chunk(2, 1)

    @staticmethod
    def _update(branch: nn.Module, half: Tensor) -> Tensor:
        update: Tensor = branch(half)
        if update.shape != half.shape:
            raise InputError(
                f"branches must keep the shape of half of the channels, {tuple(half.shape)}, got {tuple(update.shape)}"
            )
        return update

    def extra_repr(self) -> str:
        """What `print` shows besides the branches."""
        return f"step={self.step:g}"


class ReversibleStack(nn.Module):
    """x⁺ = x + h·F_k(z) for even k, z⁺ = z + h·F_k(x) for odd k, both from the input; y = (x + z)/2 after L branches.

    Each step can be taken back, x = x⁺ - h·F_k(z), so that nothing is kept on the way: the memory of the gradient is that of
    one branch however many there are, for one more evaluation of each. The gradient is that of the steps as they were taken,
    up to rounding in the states that are found again.

    Args:
        branches: F_0 … F_{L-1}; each keeps the shape of its input and is a function of it: no dropout, no running statistics.
        step: h; 1/√L if not given, as in `ResNet`.

    Raises:
        InputError: If there is no branch; on use, if a branch draws random numbers or changes the shape.

    Reference:
        Gomez, Ren, Urtasun & Grosse (2017), "The Reversible Residual Network: Backpropagation Without Storing Activations",
        arXiv:1707.04585.

    >>> from residyn.nets import MLP
    >>> body = ReversibleStack([MLP(8, 8, 8) for _ in range(1000)])
    >>> body(torch.zeros(2, 8)).shape
    torch.Size([2, 8])
    """

    def __init__(self, branches: Sequence[nn.Module], step: float | None = None) -> None:
        super().__init__()
        if not branches:
            raise InputError("`branches` must hold at least one module, got none; each is a step")
        self.branches = nn.ModuleList(branches)
        self.step = 1 / math.sqrt(len(branches)) if step is None else float(step)

    def forward(self, x: Tensor) -> Tensor:
        """y, of the shape of x."""
        if not torch.is_grad_enabled():
            a, b = _there(list(self.branches), self.step, x)
            return (a + b) / 2
        parts = [[p for p in branch.parameters() if p.requires_grad] for branch in self.branches]
        counts, flat = [len(part) for part in parts], [p for part in parts for p in part]
        y: Tensor = _Coupled.apply(x, list(self.branches), self.step, counts, *flat)  # type: ignore[no-untyped-call]
        return y

    def extra_repr(self) -> str:
        """What `print` shows besides the branches."""
        return f"step={self.step:g}"


def _there(branches: list[nn.Module], h: float, x: Tensor) -> tuple[Tensor, Tensor]:
    """Both copies after all steps."""
    pair = [x, x]
    for k, branch in enumerate(branches):
        update = branch(pair[1 - k % 2])
        if update.shape != x.shape:
            raise InputError(f"`branches` must keep the shape of x, {tuple(x.shape)}, got {tuple(update.shape)} from no. {k}")
        pair[k % 2] = torch.add(pair[k % 2], update, alpha=h)
    return pair[0], pair[1]


class _Coupled(torch.autograd.Function):
    """All steps as one node."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, branches: list[nn.Module], h: float, counts: list[int], *parameters: Tensor) -> Tensor:
        before = torch.get_rng_state()
        a, b = _there(branches, h, x)
        if not torch.equal(before, torch.get_rng_state()):
            raise InputError(
                "`branches` must draw no random numbers, got one that does; a step that is another one each time has no way "
                "back: put dropout behind the stack, or use Stack(…, gradient=Checkpoint())"
            )
        ctx.branches, ctx.h, ctx.counts, ctx.parameters = branches, h, counts, parameters
        ctx.save_for_backward(a, b)
        return (a + b) / 2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        pair = list(ctx.saved_tensors)
        flow = [gradients[0] / 2, gradients[0] / 2]
        found: list[Tensor | None] = [None] * len(ctx.parameters)
        end = len(ctx.parameters)
        for k in range(len(ctx.branches) - 1, -1, -1):
            mine = k % 2
            begin = end - ctx.counts[k]
            with torch.enable_grad():
                leaf = pair[1 - mine].detach().requires_grad_()
                update = ctx.branches[k](leaf)
                wanted = [leaf, *ctx.parameters[begin:end]]
                pulled = torch.autograd.grad(update, wanted, ctx.h * flow[mine], allow_unused=True)
            pair[mine] = torch.sub(pair[mine], update.detach(), alpha=ctx.h)
            if pulled[0] is not None:
                flow[1 - mine] = flow[1 - mine] + pulled[0]
            found[begin:end] = pulled[1:]
            end = begin
        return flow[0] + flow[1], None, None, None, *found
