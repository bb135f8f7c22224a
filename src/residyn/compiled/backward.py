"""The way back, compiled: the recorded steps are taken again in reverse, and the gradient is pulled through each.

It is the gradient of the steps as they were taken, as eager `Replay` returns it: the same step sizes, the same formulas.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from residyn.compiled import dense
from residyn.compiled.build import Loop, Tensors
from residyn.compiled.run import Kit, Rows, Run, capacity
from residyn.compiled.stages import LeafField, Leaves, take
from residyn.roots.differentiate import only_once
from residyn.schemes.control import Fixed


class Solved(torch.autograd.Function):
    """A compiled march as one node: all reported states."""

    @staticmethod
    def forward(ctx: Any, run: Run, states: Tensor, slots: dense.Slots | None, x0: Tensor, *wanted: Tensor) -> Tensor:
        """Remember the march."""
        ctx.run, ctx.slots = run, slots
        ctx.save_for_backward(x0, *wanted)
        return states

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        """Pull the gradient back through it."""
        run, origin = ctx.run, (grad, *ctx.saved_tensors)
        with torch.no_grad():
            pulled = pull(run, ctx.slots, grad.detach(), list(ctx.saved_tensors[1:]))
        words = "got Replay(), whose graph is gone; use gradient=Backprop() without `compile`"
        return (None, None, None, *(only_once(item, origin, words) for item in pulled))


def pull(run: Run, slots: dense.Slots | None, grad: Tensor, wanted: list[Tensor]) -> list[Tensor]:
    """From the gradient to the reported states, `(n, …)`, that to x0 and to the tensors that want one."""
    tensors = list(run.tensors)
    for i, item in zip(run.kit.wanted, wanted, strict=True):
        tensors[i] = item
    given = tuple(item.detach() for item in tensors)
    leaves = torch.stack([run.stack(row) for row in grad])
    at_end = run.problem.outcome.ok or isinstance(run.problem.control, Fixed)
    flow = leaves[-1] if at_end and len(leaves) > 1 else torch.zeros_like(leaves[-1])
    totals = tuple(torch.zeros_like(given[i]) for i in run.kit.wanted)
    inject, which, totals = _injected(run, slots, leaves, totals, given)
    end = sum(part.count for part in run.rows)
    for part in reversed(run.rows):
        end -= part.count
        if part.count:
            flow, totals = _stretch(
                run, part, flow, totals, inject, None if which is None else which[end : end + part.count], given
            )
    start = run.trace.state(flow) + grad[0]
    return [start, *totals]


def _injected(
    run: Run, slots: dense.Slots | None, leaves: Tensor, totals: Tensors, given: Tensors
) -> tuple[Tensor | None, Tensor | None, Tensors]:
    """What comes in on the way: gradients to add at the start of some steps, row 0 being none, and which row for each step."""
    count = sum(part.count for part in run.rows)
    if isinstance(run.problem.control, Fixed):
        inner = len(leaves) - 2
        if inner < 1:
            return None, None, totals
        inject = dense.padded(torch.cat([torch.zeros_like(leaves[:1]), leaves[1:-1]]), capacity(inner + 1, 2))
        which = torch.zeros(count, dtype=torch.int64)
        every = run.problem.control.steps
        which[every : every * (inner + 1) : every] = torch.arange(1, inner + 1)
        return inject, which, totals
    if slots is None or not len(slots.legs):
        return None, None, totals
    inner_grad = leaves[1 : 1 + len(slots.legs)]
    mask = slots.reached.reshape(len(inner_grad), 1, *slots.reached.shape[1:])
    inner_grad = torch.where(mask.reshape(*mask.shape, *[1] * (inner_grad.ndim - mask.ndim)), inner_grad, 0.0)
    weights, totals = _slots_back(run, slots, inner_grad, totals, given)
    used, inverse = torch.unique(slots.legs, return_inverse=True)
    inject = weights.new_zeros(capacity(len(used) + 1, 2), *weights.shape[1:])
    if slots.legs.ndim == 1:
        inject.index_add_(0, inverse + 1, weights)
    else:  # a step a sample: rows by slot and sample
        every_sample = torch.arange(weights.shape[2]).expand_as(inverse)
        inject.movedim(1, 2).index_put_((inverse + 1, every_sample), weights.movedim(1, 2), accumulate=True)
    which = torch.zeros(count, dtype=torch.int64)
    which[used] = torch.arange(1, len(used) + 1)
    return inject, which, totals


def _pulled(kit: Kit, take_step: Any, x: Leaves, given: Tensors, weights: Leaves) -> tuple[Leaves, list[Tensor]]:
    """The gradient of Σ⟨weights, take_step(x, tensors)⟩ to x and to the tensors that want one."""

    def function(state: Leaves, chosen: list[Tensor]) -> Leaves:
        tensors = list(given)
        for i, item in zip(kit.wanted, chosen, strict=True):
            tensors[i] = item
        end: Leaves = take_step(kit.field(tuple(tensors)), state)
        return end

    back = torch.func.vjp(function, x, [given[i] for i in kit.wanted])[1]
    to_x, to_tensors = back(weights)
    return to_x, to_tensors


def _stretch(
    run: Run, part: Rows, flow: Tensor, totals: Tensors, inject: Tensor | None, which: Tensor | None, given: Tensors
) -> tuple[Tensor, Tensors]:
    """Pull a gradient through a stretch of the record."""
    assert part.starts is not None
    extra: Tensors = ()
    if inject is not None and which is not None:
        extra = (inject, dense.padded(which, len(part.times)))
    place = torch.tensor(part.count - 1)
    _, flow, *found = run.loop(
        ("pull", inject is not None), _stretch_loop(run.kit, len(extra)), (place, flow.contiguous(), *totals),
        (part.times, part.starts, *extra, *given),
    )  # fmt: skip
    return flow, tuple(found)


def _stretch_loop(kit: Kit, extras: int) -> Loop:
    tableau, count = kit.scheme.tableau, len(kit.wanted)

    def body(place: Tensor, flow: Tensor, *rest: Tensor) -> Tensors:
        totals, (times, starts, *given) = rest[:count], rest[count:]
        row = place.reshape(1)
        t0, t1 = times.index_select(0, row)[0].unbind(0)

        def step(f: LeafField, x: Leaves) -> Leaves:
            return take(f, tableau, t0, t1, x, f(t0, x)).x

        x = list(starts.index_select(0, row)[0].unbind(0))
        to_x, to_tensors = _pulled(kit, step, x, tuple(given[extras:]), list(flow.unbind(0)))
        new = torch.stack(to_x)
        if extras:
            new = new + given[0].index_select(0, given[1].index_select(0, row))[0]
        return place - 1, new, *(a + b for a, b in zip(totals, to_tensors, strict=True))

    def more(place: Tensor, *_: Tensor) -> Tensor:
        return place >= 0

    return Loop(more, body, kit.whole)


def _slots_back(run: Run, slots: dense.Slots, grad: Tensor, totals: Tensors, given: Tensors) -> tuple[Tensor, Tensors]:
    """Pull the gradient to each reported time back to the start of the step it lies in."""
    starts, room = dense.begins(run, slots)
    out = torch.empty_like(starts)
    place, total = torch.tensor(0), torch.tensor(len(slots.legs))
    _, *found = run.loop(
        "dense pull", _slots_loop(run.kit), (place, *totals),
        (total, dense.padded(slots.span, room), starts, dense.padded(grad, room), out, *given),
    )  # fmt: skip
    return out[: len(slots.legs)], tuple(found)


def _slots_loop(kit: Kit) -> Loop:
    count = len(kit.wanted)

    def body(place: Tensor, *rest: Tensor) -> Tensors:
        totals, (_, spans, starts, grad, out, *given) = rest[:count], rest[count:]
        row = place.reshape(1)
        span = spans.index_select(0, row)[0]

        def inside(f: LeafField, x: Leaves) -> Leaves:
            return dense.interpolated(kit, f, span, x)

        x, weights = (list(item.index_select(0, row)[0].unbind(0)) for item in (starts, grad))
        to_x, to_tensors = _pulled(kit, inside, x, tuple(given), weights)
        out.index_put_((place,), torch.stack(to_x))
        return place + 1, *(a + b for a, b in zip(totals, to_tensors, strict=True))

    def more(place: Tensor, *rest: Tensor) -> Tensor:
        return place < rest[count]

    return Loop(more, body, kit.whole, (count + 5,))
