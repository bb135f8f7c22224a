"""odeint with the continuous adjoint as its gradient, norms and options of its own on the way back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from residyn.compat.inputs import CALLBACKS, Inputs, check, mixed, unpack
from residyn.compat.methods import METHODS, integrate, reports, until

_Solve = Callable[..., Any]


class Adjoint(torch.autograd.Function):
    """A solve as one node; `adjoint_options` on the node may be changed until the gradient comes back."""

    @staticmethod
    def forward(ctx: Any, inputs: Inputs, settings: dict[str, Any], y0: Tensor, t: Tensor, *params: Tensor) -> Any:
        """Solve, and keep the reported states."""
        ctx.inputs, ctx.params_count, ctx.settings = inputs, len(params), settings
        ctx.adjoint_options = settings["options"]
        ctx.moved = t.requires_grad
        here = dataclasses.replace(inputs, y0=y0.detach(), t=t.detach())
        if inputs.event is None:
            y = integrate(here)
            ctx.save_for_backward(t, y, *params)
            return y
        event_t, y1 = until(here, inputs.event)
        y = torch.stack([y0.detach(), y1])
        event_t = event_t.to(t)
        # solved as if the event's time had been asked for; no gradient passes through that time here
        ctx.save_for_backward(torch.stack([t.detach()[0], event_t]), y, *params)
        return event_t, y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """Solve the augmented system from each reported time to the one before."""
        t, y, *params = ctx.saved_tensors
        grad, inputs = grads[-1], ctx.inputs
        solve: _Solve = ctx.settings["solve"]
        dynamics = _Augmented(inputs, tuple(params), ctx.moved)
        by_time = torch.zeros_like(t) if ctx.moved else None
        state = [y.new_zeros(()), y[-1], grad[-1], *(torch.zeros_like(param) for param in params)]
        for i in range(len(t) - 1, 0, -1):
            if by_time is not None:
                by_time[i] = _along(inputs.f(t[i], y[i]), grad[i])
                state[0] = state[0] - by_time[i]
            found = solve(
                dynamics,
                tuple(state),
                torch.stack([t[i], t[i - 1]]),
                rtol=ctx.settings["rtol"],
                atol=ctx.settings["atol"],
                method=ctx.settings["method"],
                options=ctx.adjoint_options,
            )
            state = [item[1] for item in found]
            state[1], state[2] = y[i - 1], state[2] + grad[i - 1]
        if by_time is not None:
            by_time[0] = state[0].real if state[0].is_complex() else state[0]
            if inputs.event is not None:
                by_time[1] = 0.0
        by_params = [_like(item, param) for item, param in zip(state[3:], params, strict=True)]
        return None, None, state[2], by_time, *by_params


class _Augmented:
    """(∂L/∂t, y, ∂L/∂y, ∂L/∂θ…) in time; called as a function, its adjoint callbacks are the plain ones."""

    def __init__(self, inputs: Inputs, params: tuple[Tensor, ...], moved: bool) -> None:
        self.f, self.params, self.moved = inputs.f, params, moved
        for name in CALLBACKS:
            callback = getattr(inputs.f.func, f"{name}_adjoint", None)
            if callback is not None:
                setattr(self, name, callback)

    def __call__(self, t: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Its right-hand side."""
        t, y = t.detach(), state[1].detach().requires_grad_()
        wrt: list[Tensor] = [y, *self.params]
        if self.moved:
            t.requires_grad_()
            wrt.append(t)
        with torch.enable_grad():
            slope = self.f(t, y)
        if not slope.requires_grad:
            return slope.new_zeros(()), slope, *(torch.zeros_like(item) for item in wrt[: 1 + len(self.params)])
        pulled = torch.autograd.grad(slope, wrt, -state[2], allow_unused=True, retain_graph=True)
        filled = [torch.zeros_like(item) if p is None else p for item, p in zip(wrt, pulled, strict=True)]
        by_t = filled.pop() if self.moved else slope.new_zeros(())
        return by_t, slope.detach(), *filled


def _along(slope: Tensor, cotangent: Tensor) -> Tensor:
    product = torch.vdot(cotangent.reshape(-1), slope.reshape(-1))
    return product.real if product.is_complex() else product


def _like(item: Tensor, param: Tensor) -> Tensor:
    item = item.real if item.is_complex() and not param.is_complex() else item
    return item.to(param.dtype)


def node(
    func: Callable[..., Any],
    y0: Any,
    t: Any,
    rtol: Any,
    atol: Any,
    method: str | None,
    options: dict[str, Any] | None,
    event_fn: Callable[..., Any] | None,
    settings: dict[str, Any],
    params: tuple[Tensor, ...],
) -> tuple[Inputs, Any]:
    """Check, choose the adjoint's norm, and run the solve as one node."""
    inputs = check(func, y0, t, rtol, atol, method, options, event_fn, METHODS, reports)
    settings["options"]["norm"] = adjoint_norm(settings["options"].get("norm"), inputs)
    return inputs, Adjoint.apply(inputs, settings, inputs.y0, inputs.t, *params)  # type: ignore[no-untyped-call]


def adjoint_norm(asked: Any, inputs: Inputs) -> Callable[[Sequence[Tensor]], Any]:
    """The norm of (t, y, ∂L/∂y, ∂L/∂θ…): the largest of its parts', without the last with "seminorm", or the user's own."""
    if asked is None or asked == "seminorm":

        def largest(parts: Sequence[Tensor]) -> Any:
            t, y, a, *params = parts
            sizes = [t.abs(), inputs.norm(y), inputs.norm(a)]
            if params and asked is None:
                sizes.append(mixed(params))
            return torch.stack([torch.as_tensor(size, dtype=t.abs().dtype) for size in sizes]).amax()

        return largest
    if inputs.shapes is None:
        return asked

    def own(parts: Sequence[Tensor]) -> Any:
        t, y, a, *params = parts
        assert inputs.shapes is not None
        return asked((t, *unpack(y, inputs.shapes), *unpack(a, inputs.shapes), *params))

    return own
