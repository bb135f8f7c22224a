"""A solve as a module: depth is time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from residyn.flow.solution import Solution
from residyn.flow.solving import solve
from residyn.gradients.base import GradientMode
from residyn.gradients.replay import Replay
from residyn.schemes.base import Scheme
from residyn.schemes.control import Control, default_control
from residyn.schemes.explicit import Dopri5
from residyn.state import Layout, State, leaves, rebuild


class Flow(nn.Module):
    """One field repeated over time as depth: x(span[1]) from x' = f(t, x), x(span[0]) = x0.

    Args:
        f: The field f(t, x), or a branch made one by `autonomous`.
        span: Start and end time.
        scheme: As in `solve`.
        control: As in `solve`.
        gradient: As in `solve`.
        compile: As in `solve`.

    Raises:
        InputError: On use, as `solve` does.

    Reference:
        Chen, Rubanova, Bettencourt & Duvenaud (2018), "Neural Ordinary Differential Equations", arXiv:1806.07366.

    >>> import torch
    >>> from residyn.branch import autonomous
    >>> from residyn.schemes import Euler, Fixed
    >>> Flow(autonomous(torch.neg), scheme=Euler(), control=Fixed(steps=2))(torch.ones(1))
    tensor([0.2500])
    """

    def __init__(
        self,
        f: Callable[..., Any],
        span: tuple[float, float] = (0.0, 1.0),
        *,
        scheme: Scheme | None = None,
        control: Control | None = None,
        gradient: GradientMode | None = None,
        compile: Literal["step", "solve"] | None = None,
    ) -> None:
        super().__init__()
        self.f = f
        self.compile_tier = compile
        self.span = (float(span[0]), float(span[1]))
        self.scheme = scheme or Dopri5()
        self.control = control if control is not None else default_control(self.scheme)
        self.gradient = gradient or Replay()
        self.parts = nn.ModuleList(part for part in self.scheme.callables() if isinstance(part, nn.Module))
        self.last: Solution | None = None

    def forward(self, x0: State) -> State:
        """The state at the end of the span; `last` keeps times, statistics and outcome."""
        solution = solve(
            self.f, x0, self.span, scheme=self.scheme, control=self.control, gradient=self.gradient, compile=self.compile_tier
        )
        self.last = Solution(solution.t, None, solution.stats, solution.outcome)
        layout = None if isinstance(x0, Tensor) else Layout.of(x0, batched=False)
        if layout is None:
            return solution.x[-1]
        return rebuild(x0, [leaf[-1] for leaf in leaves(solution.x)])
