"""The exact discrete gradient from one kept state a step: each step is taken again, backwards through the list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from residyn.errors import ResidynError
from residyn.gradients.backprop import Backprop
from residyn.gradients.base import GradientMode
from residyn.gradients.checkpoint import Checkpoint
from residyn.gradients.dependence import Dependence, find_dependence
from residyn.schemes.problem import Outputs, value
from residyn.state import inside_transform

if TYPE_CHECKING:
    from residyn.schemes.problem import Leg, Problem


class Replay(GradientMode):
    """Keep one state a step; on the way back take each step again with autograd on, and pull the gradient through it.

    The gradient is that of the steps as they were taken (the step sizes held constant), to rounding; memory is one state a
    step plus the graph of a single step. It goes to x0, to `args`, and to every parameter that f uses. Differentiating twice
    needs `Backprop` or `Checkpoint`.

    >>> Replay()
    Replay()
    """

    def march(self, problem: Problem) -> Tensor:
        """Run the march without autograd, remembering where each step began."""
        if not torch.is_grad_enabled() or inside_transform():
            return Backprop().march(problem)
        used = find_dependence(problem)
        if not (used.tensors or problem.x0.requires_grad):
            with torch.no_grad():
                return Backprop().march(problem)
        if problem.scheme.carries_memory:
            return Backprop().march(problem)
        result: Tensor = _Replayed.apply(problem, used, problem.x0, *used.tensors)
        return result

    def chain(self, blocks: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
        """Run blocks, keeping the state between each two."""
        return Checkpoint(segments=len(blocks)).chain(blocks, x)


@dataclass
class _Tape:
    """What the way back needs: each leg, the state where it began, and, if f draws random numbers, the generator's state."""

    problem: Problem
    used: Dependence
    legs: list[Leg] = field(default_factory=list)
    starts: list[Tensor] = field(default_factory=list)
    dice: list[Any] = field(default_factory=list)


class _Replayed(torch.autograd.Function):
    """The march as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, problem: Problem, used: Dependence, x0: Tensor, *tensors: Tensor) -> Tensor:
        tape = _Tape(problem, used)
        outputs = Outputs(problem, x0)
        before = torch.get_rng_state() if used.random else None
        for leg, x, x1, step in problem.march(x0):
            tape.legs.append(leg)
            tape.starts.append(x)
            if used.random:
                tape.dice.append(before)
                before = torch.get_rng_state()
            outputs.add(leg, [value(report, step, x1) for report in leg.reports])
        ctx.tape = tape
        return outputs.stack()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tape: _Tape = ctx.tape
        used = tape.used
        total: list[Tensor | None] = [None] * len(used.tensors)
        flow = torch.zeros_like(grad[0])
        with used.detached() as stand_ins:
            for i in range(len(tape.legs) - 1, -1, -1):
                flow = _pull(tape, i, flow, grad, stand_ins, total)
        return (None, None, flow + grad[0], *total)


def _pull(
    tape: _Tape, i: int, flow: Tensor, grad: Tensor, stand_ins: list[Tensor], total: list[Tensor | None]
) -> Tensor:
    """Pull the gradient `flow` at the end of leg i back to its start, adding to the parameters' totals on the way."""
    leg, problem, used = tape.legs[i], tape.problem, tape.used
    x = tape.starts[i].detach().requires_grad_()
    with torch.enable_grad():
        if used.random:
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(tape.dice[i])
                x1, _, values = problem.take(leg, x)
        else:
            x1, _, values = problem.take(leg, x)
    ends, gradients = [x1], [flow]
    for report, item in zip(leg.reports, values, strict=True):
        if report.rows is not None:
            ends.append(item)
            gradients.append(grad[report.slot, report.rows])
        elif item is x1:
            gradients[0] = gradients[0] + grad[report.slot]
        else:
            ends.append(item)
            gradients.append(grad[report.slot])
    used.check(x1, [x, *stand_ins])
    pulled = torch.autograd.grad(ends, [x, *stand_ins], gradients, allow_unused=True, retain_graph=used.shares_graph)
    for j, item in enumerate(pulled[1:]):
        if item is not None:
            so_far = total[j]
            total[j] = item if so_far is None else so_far.add_(item)
    if pulled[0] is None:
        raise ResidynError("the step did not depend on x; f may have detached it")
    return pulled[0]
