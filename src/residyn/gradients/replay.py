"""The exact discrete gradient from one kept state a step: each step is taken again, backwards through the list."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.gradients.backprop import Backprop
from residyn.gradients.base import GradientMode
from residyn.gradients.checkpoint import Checkpoint
from residyn.gradients.dependence import Dependence, Dice, find_dependence
from residyn.roots.differentiate import only_once
from residyn.schemes.problem import Outputs, Taken, value
from residyn.state import inside_transform

if TYPE_CHECKING:
    from residyn.schemes.problem import Leg, Problem


@dataclass(frozen=True)
class Replay(GradientMode):
    """Keep one state a step; on the way back take each step again with autograd on, and pull the gradient through it.

    The gradient is that of the steps as they were taken (the step sizes held constant), to rounding; memory is one state a
    step, the graph of a single step, and at most about `keep` bytes: the first steps, whose graphs fit in there, are left to
    plain autograd, so that a small problem pays nothing. The gradient goes to x0, to `args`, and to every parameter that f
    uses. To differentiate twice use `Backprop` or `Checkpoint`.

    Args:
        keep: Bytes that may be spent on the graphs of the first steps; 0 takes every step again.

    Raises:
        InputError: If `keep` is negative.

    >>> Replay(keep=0)
    Replay(keep=0)
    """

    keep: int = 16 * 2**20

    def __post_init__(self) -> None:
        if not isinstance(self.keep, int) or self.keep < 0:
            raise InputError(f"`keep` must be a number of bytes ≥ 0, got {self.keep!r}")

    def march(self, problem: Problem) -> Tensor:
        """Run the first steps under autograd while their graphs are small, the others without, remembering their starts."""
        if not torch.is_grad_enabled() or inside_transform() or problem.scheme.forgets:
            return Backprop().march(problem)
        outputs = Outputs(problem, problem.x0)
        march = problem.march(problem.x0)
        x, scales = problem.x0, _Scales(problem.x0)
        memory: tuple[Tensor, ...] = ()
        if self.keep > 0:
            room, taken = float(self.keep), next(march, None)
            while taken is not None:
                x = _add(outputs, taken)
                room -= scales.weigh(x)
                memory = _memory(problem, taken)
                if room < scales.leg:
                    break
                taken = next(march, None)
            if taken is None or not x.requires_grad:
                for taken in march:
                    _add(outputs, taken)
                return outputs.stack()
        return self._replay(problem, march, outputs, x, memory)

    def _replay(
        self, problem: Problem, march: Iterator[Taken], outputs: Outputs, x: Tensor, memory: tuple[Tensor, ...]
    ) -> Tensor:
        """The rest of a march, from x and what the scheme remembers on, as one node of the graph."""
        used = find_dependence(problem, x)
        first = len(outputs.values)
        tape = _Tape(problem, used, march, outputs, len(memory))
        if used.random and problem.control.plan(problem) is None:
            # tries that were refused drew numbers too, and a stage may be shared by two steps: autograd alone knows which
            for taken in march:
                _add(outputs, taken)
        elif used.tensors or x.requires_grad:
            reported = _Replayed.apply(tape, x, *memory, *used.tensors)  # type: ignore[no-untyped-call]
            outputs.values[first:] = [reported] if outputs.index else list(reported.unbind())
        else:
            with torch.no_grad():
                for taken in march:
                    _add(outputs, taken)
        return outputs.stack()

    def chain(self, blocks: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
        """Run blocks, keeping the state between each two."""
        return Checkpoint(segments=len(blocks)).chain(blocks, x)


def _add(outputs: Outputs, taken: Taken) -> Tensor:
    leg, _, x1, step, _ = taken
    outputs.add(leg, [value(report, step, x1) for report in leg.reports])
    return x1


def _memory(problem: Problem, taken: Taken) -> tuple[Tensor, ...]:
    """What the scheme remembers of a leg, besides where it ended."""
    scheme, accept = problem.scheme, taken.leg.accept
    if not scheme.carries_memory:
        return ()
    return scheme.memory(taken.step.state if accept is None else scheme.merge(accept, taken.step.state, taken.state))


@dataclass
class _Tape:
    """What the way back needs: each leg, the state where it began, and what the scheme remembered there."""

    problem: Problem
    used: Dependence
    march: Iterator[Taken]
    outputs: Outputs
    carried: int
    """How many tensors the scheme remembered where the tape begins."""
    legs: list[Leg] = field(default_factory=list)
    starts: list[Tensor] = field(default_factory=list)
    memories: list[tuple[Tensor, ...]] = field(default_factory=list)
    dice: list[Dice] = field(default_factory=list)
    late_dice: bool = False


class _Replayed(torch.autograd.Function):
    """The replayed part of a march as one node: all values it reports, one after the other along the first axis."""

    @staticmethod
    def forward(ctx: Any, tape: _Tape, x: Tensor, *tensors: Tensor) -> Tensor:
        outputs, first = tape.outputs, len(tape.outputs.values)
        dice = Dice(x.device)
        for taken in tape.march:
            tape.legs.append(taken.leg)
            tape.starts.append(taken.x)
            known = tape.carried > 0 or len(tape.legs) > 1  # what `init` makes again is no memory
            tape.memories.append(tape.problem.scheme.memory(taken.state) if known else ())
            _add(outputs, taken)
            if tape.used.random:
                tape.dice.append(dice)
                dice = Dice(x.device)
        tape.late_dice = not tape.used.random and dice.rolled()
        del tape.march
        ctx.tape = tape
        ctx.save_for_backward(x, *tensors)
        ctx.shape = x.shape
        values = outputs.values[first:]
        if outputs.index:
            return torch.cat(values) if values else x.new_zeros(0, *x.shape[1:])
        return torch.stack(values) if values else x.new_zeros(0, *x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            pulled = _Replayed._pull_back(ctx, grad)
        origin = (grad, *ctx.saved_tensors)
        words = "got Replay(), whose graph is gone; use gradient=Backprop() or Checkpoint()"
        return (None, *(None if item is None else only_once(item, origin, words) for item in pulled))

    @staticmethod
    def _pull_back(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tape: _Tape = ctx.tape
        if tape.late_dice:
            raise InputError(
                "`f` must draw random numbers from t[0] on, or never, got some that it draws only later; "
                "use gradient=Checkpoint()"
            )
        totals: list[Tensor | None] = [None] * len(tape.used.tensors)
        flow: list[Tensor | None] = [grad.new_zeros(ctx.shape)]
        with tape.used.detached() as stand_ins:
            end = len(grad)
            for i in range(len(tape.legs) - 1, -1, -1):
                flow, end = _pull(tape, i, flow, grad, end, stand_ins, totals)
        flow += [None] * (1 + tape.carried - len(flow))
        return (*flow, *totals)


def _pull(
    tape: _Tape,
    i: int,
    flow: list[Tensor | None],
    grad: Tensor,
    end: int,
    stand_ins: list[Tensor],
    totals: list[Tensor | None],
) -> tuple[list[Tensor | None], int]:
    """Pull the gradient `flow` at the end of leg i back to its start, adding to the parameters' totals on the way.

    The flow is that to x, and to what the scheme remembers, if anything. `grad` up to `end` belongs to the values reported in
    this leg and before it; where that ends for the leg before is returned.
    """
    leg, used = tape.legs[i], tape.used
    start = [item.detach().requires_grad_() for item in (tape.starts[i], *tape.memories[i])]
    with _dice(tape, i), torch.enable_grad():
        x1, memory, values = _again(tape, i, start)
    assert flow[0] is not None
    ends, weights = [x1], [flow[0]]
    for item, weight in zip(memory, flow[1:], strict=False):  # none is known at the end of the last leg
        if weight is not None and item.requires_grad:
            ends.append(item)
            weights.append(weight)
    for report, item in zip(reversed(leg.reports), reversed(values), strict=True):
        rows = 1 if report.rows is None else len(report.rows)
        weight = grad[end - 1] if report.rows is None else grad[end - rows : end]
        end -= rows
        if item is x1:
            weights[0] = weights[0] + weight
        else:
            ends.append(item)
            weights.append(weight)
    inputs = [*start, *stand_ins]
    for item in ends:
        used.check(item, inputs, lambda: _again(tape, i, start)[0])
    pulled = torch.autograd.grad(ends, inputs, weights, allow_unused=True, retain_graph=used.shares_graph)
    for j, item in enumerate(pulled[len(start) :]):
        if item is not None:
            so_far = totals[j]
            # the first may be memory that autograd shares; from then on the sum is ours and grows in place
            totals[j] = item.clone() if so_far is None else so_far.add_(item)
    flow = list(pulled[: len(start)])
    flow[0] = torch.zeros_like(start[0]) if flow[0] is None else flow[0]
    return flow, end


def _again(tape: _Tape, i: int, start: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...], list[Tensor]]:
    """Leg i once more: the state after it, what the scheme remembers then, and the reported values."""
    problem, leg, (x, *memory) = tape.problem, tape.legs[i], start
    state = None
    if memory:
        before = tape.legs[i - 1] if i else problem.legs[len(problem.legs) - len(tape.legs) - 1]
        state = problem.scheme.recall(tuple(memory), before.t1 - before.t0)
    x1, after, values = problem.take(leg, x, state)
    if not problem.scheme.carries_memory:
        return x1, (), values
    after = after if leg.accept is None else problem.scheme.merge(leg.accept, after, state)
    return x1, problem.scheme.memory(after), values


@contextlib.contextmanager
def _dice(tape: _Tape, i: int) -> Iterator[None]:
    """The random numbers of leg i once more, if f draws any."""
    if not tape.used.random:
        yield
        return
    now = Dice(tape.dice[i].device)
    try:
        tape.dice[i].restore()
        yield
    finally:
        now.restore()


class _Scales:
    """Weighs what autograd saves of the legs of a march: the first two are looked at, the others are like the second.

    The graph itself is read. Hooks on saved tensors would be simpler, but f could then not use transforms of torch.func.
    """

    def __init__(self, x0: Tensor) -> None:
        self.leg = 1.0
        self._legs = 0
        self._nodes = {x0.grad_fn}
        self._storages: set[int] = set()

    def weigh(self, x: Tensor) -> float:
        """Bytes saved since the state that was weighed before."""
        self._legs += 1
        if self._legs <= 2 or self.leg == 1.0:
            self.leg = max(1.0, float(self._new_bytes(x)))
        return self.leg

    def _new_bytes(self, x: Tensor) -> int:
        todo, total = [x.grad_fn], 0
        while todo:
            node = todo.pop()
            if node is None or node in self._nodes:
                continue
            self._nodes.add(node)
            todo += [upstream for upstream, _ in node.next_functions]
            for tensor in _saved(node):
                storage = tensor.untyped_storage()
                if not tensor.is_leaf and storage.data_ptr() not in self._storages:
                    self._storages.add(storage.data_ptr())
                    total += storage.nbytes()
        return total


def _saved(node: Any) -> list[Tensor]:
    """The tensors that a node of autograd's graph keeps."""
    found = list(getattr(node, "saved_tensors", ()))
    for name in _saved_names(type(node)):  # type: ignore[arg-type]
        value = getattr(node, name)
        found += value if isinstance(value, (list, tuple)) else [value]
    return [value for value in found if isinstance(value, Tensor)]


@functools.cache
def _saved_names(kind: type) -> tuple[str, ...]:
    return tuple(name for name in dir(kind) if name.startswith("_saved_"))
