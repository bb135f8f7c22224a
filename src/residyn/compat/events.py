"""The gradients of an event's time and state, by the implicit function theorem."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from residyn.compat.inputs import Field, pack, unpack


def last(solution: Any) -> Any:
    """The state at the event."""
    return solution[-1] if isinstance(solution, Tensor) else tuple(item[-1] for item in solution)


def attach(
    func: Callable[..., Any], event_fn: Callable[..., Any], t0: Tensor, y0: Any, time: Tensor, state: Any
) -> tuple[Tensor, Any]:
    """The event's time and state, unchanged in value, with their gradients.

    Args:
        func: The field.
        event_fn: The condition, or several.
        t0: The start.
        y0: The state there, which gives each of several conditions its sign.
        time: The event's time.
        state: The state at that time, taken as fixed, with its gradient.
    """
    shapes = None if isinstance(state, Tensor) else [item.shape for item in state]
    row = state if shapes is None else pack(state)
    f = Field(func, shapes, row)
    time = time.detach()
    with torch.no_grad():
        signs = torch.sign(event_fn(t0, y0))
        slope = f(time, row)

    def value(t: Tensor, y: Tensor) -> Tensor:
        return torch.min(event_fn(t, y if shapes is None else unpack(y, shapes)) * signs)

    with torch.enable_grad():
        t, y = time.clone().requires_grad_(), row.detach().requires_grad_()
        by_t, by_y = torch.autograd.grad(value(t, y), (t, y), allow_unused=True)
    speed = torch.zeros_like(time) if by_t is None else by_t
    if by_y is not None:
        across = torch.vdot(by_y.reshape(-1), slope.reshape(-1))
        speed = speed + (across.real if across.is_complex() else across)
    if not torch.is_grad_enabled():
        return time, state
    g = value(time, row)
    moved = -(g - g.detach()) / torch.where(speed == 0, math.inf, speed)  # zero in value
    row = row + moved.to(row.dtype) * slope
    return time + moved.to(time.dtype), row if shapes is None else unpack(row, shapes)
