"""The gradient from a few kept states: segments are run again when the gradient comes back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from residyn.errors import InputError
from residyn.gradients.backprop import Backprop
from residyn.gradients.base import GradientMode
from residyn.schemes import failure
from residyn.schemes.problem import Outputs
from residyn.state import inside_transform

if TYPE_CHECKING:
    from residyn.schemes.base import Time
    from residyn.schemes.problem import Leg, Problem


@dataclass(frozen=True)
class Checkpoint(GradientMode):
    """Keep the state at the ends of segments and run each segment again, with everything remembered, on the way back.

    Exact, for any branch (closures and random numbers included), differentiable again. Memory for n steps in s segments:
    s states and n/s steps; one more evaluation of everything.

    Args:
        segments: s; the square root of the number of steps if `None`.

    Raises:
        InputError: If `segments` is less than 1.

    Reference:
        Griewank (1992), doi:10.1080/10556789208805505; Chen, Xu, Zhang & Guestrin (2016), arXiv:1604.06174.

    >>> Checkpoint(segments=4)
    Checkpoint(segments=4)
    """

    segments: int | None = None

    def __post_init__(self) -> None:
        if self.segments is not None and (not isinstance(self.segments, int) or self.segments < 1):
            raise InputError(f"`segments` must be a whole number of at least 1, or None, got {self.segments!r}")

    def march(self, problem: Problem) -> Tensor:
        """Find the steps without a gradient (where they are not known), then run them in segments."""
        if inside_transform():
            return Backprop().march(problem)
        if problem.scheme.real_state and torch.is_grad_enabled():
            # an implicit step differentiates on its way; each time, hooks would run the whole segment again
            from residyn.gradients.replay import Replay

            return Replay(keep=0).march(problem)
        if problem.scheme.forgets:
            return Backprop().march(problem)
        x = problem.x0
        legs = problem.control.plan(problem) if problem.watch is None else None
        if legs is None or not torch.is_grad_enabled():
            with torch.no_grad():
                outputs = Outputs(problem, x)
                for taken in problem.march(x):
                    outputs.add(taken.leg, _values(taken.leg, taken.x1, taken.step))
            if not torch.is_grad_enabled():
                return outputs.stack()
            legs = problem.legs
        problem.legs = []
        outputs, memory, width = Outputs(problem, x), (), 0.0
        for part in self._parts(legs):
            start = x
            x, memory, *values = _remembered(_segment, problem, part, start, memory, width)
            width = part[-1].t1 - part[-1].t0
            sound = part if failure.finite(x) else self._before_failure(problem, part, start)
            problem.legs.extend(sound)
            for leg in sound:
                outputs.add(leg, [values.pop(0) for _ in leg.reports])
            if len(sound) < len(part):
                break
        problem.stats.accepted = len(problem.legs)
        problem.stats.evaluations = problem.f.evaluations
        return outputs.stack()

    def _before_failure(self, problem: Problem, part: Sequence[Leg], start: Tensor) -> Sequence[Leg]:
        """Say which leg of a segment led to nan or inf, and return those before it."""
        problem.outcome, sound = failure.first_non_finite(problem, part, start)
        return part[:sound]

    def chain(self, blocks: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
        """Run blocks in segments."""
        for part in self._parts(blocks):
            x = _remembered(_run, part, x)
        return x

    def _parts(self, items: Sequence[Any]) -> list[Sequence[Any]]:
        count = self.segments or max(1, math.isqrt(len(items)))
        size = max(1, -(-len(items) // count))
        return [items[i : i + size] for i in range(0, len(items), size)]


def _remembered(segment: Callable[..., Any], *args: Any) -> Any:
    """A segment whose graph is made when the gradient comes back."""
    try:
        return checkpoint(segment, *args, use_reentrant=False)
    except RuntimeError as error:
        if "saved tensor hooks" not in str(error):
            raise
        raise InputError(
            "`gradient` must be Replay() or Backprop() where f uses torch.func.grad and its like, got Checkpoint(), "
            "which autograd can not combine with them"
        ) from error


def _values(leg: Leg, x1: Tensor, step: Any) -> list[Tensor]:
    from residyn.schemes.problem import value

    return [value(report, step, x1) for report in leg.reports]


def _segment(
    problem: Problem, legs: Sequence[Leg], x: Tensor, memory: tuple[Tensor, ...], width: Time
) -> tuple[Tensor | tuple[Tensor, ...], ...]:
    """Legs from x, and from what the scheme remembers of one of that width before them."""
    values: list[Tensor] = []
    scheme = problem.scheme
    state = scheme.recall(memory, width) if memory else scheme.init(problem.f, legs[0].t0, x)
    for leg in legs:
        x1, state_next, found = problem.take(leg, x, state)
        values += found
        x, state = x1, state_next if leg.accept is None else scheme.merge(leg.accept, state_next, state)
    return (x, scheme.memory(state) if scheme.carries_memory else (), *values)


def _run(blocks: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x
