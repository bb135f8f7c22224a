"""The plain gradient: autograd remembers all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from residyn.gradients.base import GradientMode
from residyn.schemes.problem import Outputs, value

if TYPE_CHECKING:
    from residyn.schemes.problem import Problem


class Backprop(GradientMode):
    """Reverse mode through every operation of every step: exact, differentiable again, memory grows with each evaluation.

    >>> Backprop()
    Backprop()
    """

    def march(self, problem: Problem) -> Tensor:
        """Run the march as it stands."""
        outputs = Outputs(problem, problem.x0)
        for leg, _, x1, step, _ in problem.march(problem.x0):
            outputs.add(leg, [value(report, step, x1) for report in leg.reports])
        return outputs.stack()

    def chain(self, blocks: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
        """Run blocks one after the other."""
        for block in blocks:
            x = block(x)
        return x
