"""Times to report that lie within adaptive steps: their steps are taken again, with the scheme's own continuous form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from residyn.compiled.build import Loop, Tensors
from residyn.compiled.forward import sample_times
from residyn.compiled.run import Kit, Run, capacity
from residyn.compiled.stages import LeafField, Leaves, wide
from residyn.schemes.base import Time


@dataclass(frozen=True)
class Slots:
    """The reported times between the first and the last that were reached.

    Args:
        legs: In which recorded step each lies, `(n,)` or `(n, B)`.
        span: t0, t1 of that step, and θ within it, `(n, 3)` or `(n, 3, B)`.
        reached: Whether the march came so far, as `legs`.
    """

    legs: Tensor
    span: Tensor
    reached: Tensor


def locate(run: Run) -> Slots:
    """Find the steps in which the times to report lie; a solve that failed has its last among them too."""
    steps = run.times()
    last = -1 if run.problem.outcome.ok else None
    times = run.problem.times
    if steps.ndim == 2:
        due = torch.tensor(times[1:last], dtype=torch.float64)
        ends, sign = steps[:, 1], 1.0 if times[-1] > times[0] else -1.0
        legs = torch.searchsorted((sign * ends).contiguous(), sign * due)
        reached = legs < len(ends)
        due, legs = due[reached], legs[reached]  # what was not reached is not reported
        span = steps[legs]
        theta = (due - span[:, 0]) / (span[:, 1] - span[:, 0])
        return Slots(legs, torch.cat([span, theta[:, None]], 1), reached[reached])
    table = sample_times(run)
    due, signs = table[1:last], torch.sign(table[-1] - table[0])
    legs = torch.searchsorted((steps[:, 1] * signs).T.contiguous(), (due * signs).T.contiguous()).T
    reached = legs < len(steps)
    legs = legs.clamp_max(len(steps) - 1)
    t0, t1 = (steps[:, i].gather(0, legs) for i in (0, 1))
    theta = torch.where(reached, (due - t0) / torch.where(t1 == t0, torch.ones_like(t0), t1 - t0), 0.0)
    return Slots(legs, torch.stack([t0, t1, theta], 1), reached)


def states(run: Run, slots: Slots) -> Tensor:
    """The leaves at the slots, `(n, leaves, …)`; nan where a sample did not come so far."""
    starts, room = begins(run, slots)
    out = torch.empty_like(starts)
    place, total = torch.tensor(0), torch.tensor(len(slots.legs))
    run.loop("dense", _loop(run.kit), (place,), (total, padded(slots.span, room), starts, out, *run.tensors))
    found = out[: len(slots.legs)]
    run.problem.f.evaluations += len(found) * run.stages
    if bool(slots.reached.all()):
        return found
    mask = slots.reached[:, None]
    return torch.where(mask.reshape(*mask.shape, *[1] * (found.ndim - mask.ndim)), found, torch.nan)


def begins(run: Run, slots: Slots) -> tuple[Tensor, int]:
    """The states where the steps of the slots began, padded, and to how many."""
    starts, room = run.starts(), capacity(len(slots.legs), 8)
    if slots.legs.ndim == 1:
        return padded(starts[slots.legs], room), room
    every = torch.arange(starts.shape[2])
    return padded(starts[slots.legs, :, every].movedim(2, 1).contiguous(), room), room


def padded(rows: Tensor, room: int) -> Tensor:
    """More rows, of zeros, so that one program serves many counts."""
    full = rows.new_zeros(room, *rows.shape[1:])
    full[: len(rows)] = rows
    return full


def interpolated(kit: Kit, f: LeafField, span: Tensor, x: Leaves) -> Leaves:
    """The state at θ of the step from t0 to t1, span = (t0, t1, θ), by the scheme itself on all leaves at once."""
    t0, t1, theta = (wide(v, x[0]) for v in span.unbind(0))

    def stacked(t: Time, state: Tensor) -> Tensor:
        assert isinstance(t, Tensor)  # t0 and t1 are
        return torch.stack(f(t.reshape(-1) if t.ndim else t, list(state.unbind(0))))

    step = kit.scheme.step(stacked, t0, t1, torch.stack(x), None)
    part = theta.to(x[0].dtype)
    return list(torch.where(theta == 1.0, step.x, step.dense(part)).unbind(0))


def _loop(kit: Kit) -> Loop:
    def body(place: Tensor, *given: Tensor) -> Tensors:
        _, spans, starts, out = given[:4]
        f, row = kit.field(given[4:]), place.reshape(1)
        x = list(starts.index_select(0, row)[0].unbind(0))
        out.index_put_((place,), torch.stack(interpolated(kit, f, spans.index_select(0, row)[0], x)))
        return (place + 1,)

    def more(place: Tensor, *given: Tensor) -> Tensor:
        return place < given[0]

    return Loop(more, body, kit.whole, (4,))
