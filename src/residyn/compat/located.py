"""Where along a step an event lies, to rounding."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from residyn.compat.inputs import Time
from residyn.roots.bracket import bracket


class Interval:
    """The sign of an event at the start, and the first step in which it is another."""

    def __init__(self, event: Callable[[Tensor, Tensor], Tensor], t: float, y: Tensor) -> None:
        self.event, self.device = event, y.device
        self.value = self._at(t, y)

    def time(self, t: float) -> Tensor:
        """A time as events get it."""
        return torch.scalar_tensor(t, dtype=torch.float64, device=self.device)

    @torch.no_grad()
    def _at(self, t: float, y: Tensor) -> float:
        return float(self.event(self.time(t), y))

    def crossing(self, t0: float, t1: float, y1: Tensor, dense: Callable[[Time], Tensor]) -> tuple[Tensor, Tensor] | None:
        """Time and state of the event, if it lies in this step."""
        value = self._at(t1, y1)
        before, self.value = self.value, value
        if (value > 0) == (before > 0) and value != 0:
            return None
        ends = torch.tensor([[0.0], [1.0], [before], [value]], dtype=torch.float64)
        found = functools.partial(self._along, t0, t1, dense)
        theta = float(bracket(found, *ends.unbind(), tol=1e-15))
        return self.time(t0 + theta * (t1 - t0)), dense(theta)

    def _along(self, t0: float, t1: float, dense: Callable[[Time], Tensor], theta: Tensor) -> Tensor:
        at = float(theta)
        return torch.tensor([self._at(t0 + at * (t1 - t0), dense(at))], dtype=torch.float64)
