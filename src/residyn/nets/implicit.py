"""Residual networks whose blocks are backward Euler steps, and a branch for which they never expand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from residyn.branch import autonomous
from residyn.errors import InputError
from residyn.flow import solve
from residyn.gradients import Backprop
from residyn.schemes import BackwardEuler, DiagonallyImplicit, Fixed


class Dissipative(nn.Module):
    """F(x) = -Wᵀ·tanh(W·x + b) + (S - Sᵀ)·x - µ·x + c, which contracts differences whatever its weights are.

    The Jacobian is -Wᵀ·D·W + (S - Sᵀ) - µ·I with D ≥ 0, so that ⟨F(x) - F(y), x - y⟩ ≤ -µ·‖x - y‖²: the one-sided Lipschitz
    constant is -µ at most, and stays so in training.

    Args:
        width: Components of x.
        hidden: Rows of W.
        margin: µ ≥ 0.
        gain: Spread of the entries of W at the start, times √width; of S too.

    Raises:
        InputError: If an argument breaks its rule.

    Reference:
        Haber & Ruthotto (2017), "Stable architectures for deep neural networks", doi:10.1088/1361-6420/aa9a90.

    >>> Dissipative(4, 8)(torch.zeros(2, 4)).shape
    torch.Size([2, 4])
    """

    def __init__(self, width: int, hidden: int, *, margin: float = 0.0, gain: float = 1.0) -> None:
        super().__init__()
        if min(width, hidden) < 1:
            raise InputError(f"`width` and `hidden` must be at least 1, got {width} and {hidden}")
        if not margin >= 0 or math.isinf(margin):
            raise InputError(f"`margin` must be ≥ 0 and finite, got {margin}; 0 is non-expansive already")
        spread = gain / math.sqrt(width)
        self.weight = nn.Parameter(spread * torch.randn(hidden, width))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.skew = nn.Parameter(spread * torch.randn(width, width) / math.sqrt(2))
        self.offset = nn.Parameter(torch.zeros(width))
        self.margin = margin

    def forward(self, x: Tensor) -> Tensor:
        """F(x), `(B, width)`."""
        inner = torch.tanh(x @ self.weight.T + self.bias)  # (B, hidden)
        turn = x @ (self.skew - self.skew.T)
        return turn - inner @ self.weight + self.offset - self.margin * x

    def extra_repr(self) -> str:
        """What `print` shows."""
        hidden, width = self.weight.shape
        return f"width={width}, hidden={hidden}, margin={self.margin:g}"


class ImplicitResidual(nn.Module):
    """One implicit residual step, x⁺ = x + h·F(x⁺).

    Where F has the one-sided Lipschitz constant -µ ≤ 0, two states come closer by 1/(1 + hµ) at least, at every h > 0; the
    explicit step expands past its stability limit. The gradient is that of the exact solution; no iterate is kept.

    Args:
        branch: F, `(B, …)` → `(B, …)`.
        step: h > 0.
        scheme: The implicit scheme; `BackwardEuler()` if not given.

    Raises:
        InputError: If `step` breaks its rule.
        SolveError: On use, if Newton's method does not converge.

    Reference:
        Dahlquist (1975); Hairer & Wanner (1996), IV.12, doi:10.1007/978-3-642-05221-7; Li, He, Lin & Ma (2020), "Implicit
        Euler skip connections", proceedings.mlr.press/v119/li20i.

    >>> ImplicitResidual(torch.neg, step=1.0)(torch.ones(1, 2))
    tensor([[0.5000, 0.5000]])
    """

    def __init__(self, branch: Callable[..., Tensor], step: float = 1.0, *, scheme: DiagonallyImplicit | None = None) -> None:
        super().__init__()
        if not (isinstance(step, (int, float)) and 0 < step < math.inf):
            raise InputError(f"`step` must be > 0 and finite, got {step!r}")
        self.branch, self.step = branch, float(step)
        self.scheme = scheme or BackwardEuler()
        self._field = autonomous(branch)

    def forward(self, x: Tensor) -> Tensor:
        """x⁺, of the shape of x."""
        span = (0.0, self.step)
        solution = solve(self._field, x, span, scheme=self.scheme, control=Fixed(steps=1), gradient=Backprop())
        end: Tensor = solution.x[-1]
        return end

    def extra_repr(self) -> str:
        """What `print` shows besides the branch."""
        return f"step={self.step:g}, scheme={self.scheme!r}"


class ImplicitResNet(nn.Module):
    """x_0 = stem(u), x_{k+1} = x_k + h·F_k(x_{k+1}), y = head(x_L).

    Args:
        stem: From the input to the width of the blocks.
        branches: F_0 … F_{L-1}, e.g. `Dissipative`; one module given several times makes the network recurrent.
        head: From the width of the blocks to the output.
        step: h of every block; 1/√L if not given, as in `ResNet`.
        scheme: The implicit scheme; `BackwardEuler()` if not given.

    Raises:
        InputError: If there is no branch, or `step` breaks its rule.

    >>> net = ImplicitResNet(nn.Linear(5, 8), [Dissipative(8, 16) for _ in range(3)], nn.Linear(8, 2), step=10.0)
    >>> net(torch.zeros(4, 5)).shape
    torch.Size([4, 2])
    """

    def __init__(
        self,
        stem: nn.Module,
        branches: Sequence[nn.Module],
        head: nn.Module,
        *,
        step: float | None = None,
        scheme: DiagonallyImplicit | None = None,
    ) -> None:
        super().__init__()
        if not branches:
            raise InputError("`branches` must hold at least one module, got none; each becomes a block")
        h = 1 / math.sqrt(len(branches)) if step is None else step
        self.stem, self.head = stem, head
        self.blocks = nn.ModuleList(ImplicitResidual(branch, h, scheme=scheme) for branch in branches)

    def forward(self, u: Tensor) -> Tensor:
        """The output y."""
        y: Tensor = self.head(self.states(u)[-1])
        return y

    def states(self, u: Tensor) -> list[Tensor]:
        """x_0 … x_L, the states between the blocks."""
        states: list[Tensor] = [self.stem(u)]
        for block in self.blocks:
            states.append(block(states[-1]))
        return states
