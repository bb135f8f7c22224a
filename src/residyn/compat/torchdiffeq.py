"""torchdiffeq's functions on Residyn's schemes: code written for it runs by changing one import.

    from residyn.compat.torchdiffeq import odeint, odeint_adjoint, odeint_event

Signatures, method names, options, callbacks, warnings and error types are torchdiffeq's, those of its implicit methods
included. What differs is inside: marches run on Residyn's steps, end exactly at the last time instead of beyond it, find
events to rounding, and give implicit methods the gradient of their solution instead of that of their iterations.

Reference:
    Chen (2018), "torchdiffeq", https://github.com/rtqichen/torchdiffeq.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from residyn.compat.adjoint import node
from residyn.compat.events import attach, last
from residyn.compat.inputs import Inputs, check, unpack
from residyn.compat.methods import METHODS, densely, integrate, reports, until

Tolerance = float | Tensor | tuple[Any, ...]


def odeint(
    func: Callable[..., Any],
    y0: Any,
    t: Tensor,
    *,
    rtol: Tolerance = 1e-7,
    atol: Tolerance = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable[..., Any] | None = None,
) -> Any:
    """Solve dy/dt = func(t, y), y(t[0]) = y0; gradients by autograd through the steps.

    Args:
        func: The field; it gets a time without axes and the state.
        y0: A tensor, or a tuple of them.
        t: Times, `(n,)`, strictly increasing or decreasing; with `event_fn` two, of which the second says in which direction.
        rtol: Relative tolerance; a number, a tensor that broadcasts to y0, or one for each tensor of a tuple.
        atol: Absolute tolerance, likewise.
        method: One of `METHODS`; dopri5 if `None`.
        options: Of the method; unknown ones warn.
        event_fn: Called as event_fn(t, y); the solve ends where its value (the least of several, each made positive at the
            start) changes sign.

    Returns:
        The state at each time, `(n, *y0.shape)`, a tuple of them for a tuple; with `event_fn` the event's time and the states
        at start and event.

    Raises:
        ValueError: For an unknown method or contradictory options.
        AssertionError: For bad times or tolerances, a step size that underflows, or too many steps.

    >>> y = odeint(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]))
    >>> round(float(y[-1]), 4)
    0.3679
    """
    inputs = check(func, y0, t, rtol, atol, method, options, event_fn, METHODS, reports)
    if inputs.event is None:
        return _shaped(inputs, integrate(inputs))
    event_t, y1 = until(inputs, inputs.event)
    return event_t.to(inputs.t), _shaped(inputs, torch.stack([inputs.y0, y1]))


def odeint_adjoint(
    func: Callable[..., Any],
    y0: Any,
    t: Tensor,
    *,
    rtol: Tolerance = 1e-7,
    atol: Tolerance = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable[..., Any] | None = None,
    adjoint_rtol: Tolerance | None = None,
    adjoint_atol: Tolerance | None = None,
    adjoint_method: str | None = None,
    adjoint_options: dict[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> Any:
    """As `odeint`, with the continuous adjoint as its gradient: memory does not grow with the number of steps.

    Args:
        func: The field; a module, unless `adjoint_params` is given.
        y0: As in `odeint`.
        t: As in `odeint`.
        rtol: As in `odeint`.
        atol: As in `odeint`.
        method: As in `odeint`.
        options: As in `odeint`.
        event_fn: As in `odeint`; no gradient passes through the event's time, see `odeint_event`.
        adjoint_rtol: Of the backward solve; `rtol` if `None`.
        adjoint_atol: Of the backward solve; `atol` if `None`.
        adjoint_method: Of the backward solve; `method` if `None`.
        adjoint_options: Of the backward solve; `options` without the norm if `None`. Its `norm` is called with
            (t, y, ∂L/∂y, ∂L/∂θ…), or is "seminorm" for the one that leaves ∂L/∂θ out.
        adjoint_params: Tensors that get gradients besides y0 and t; the parameters of `func` if `None`.

    Returns:
        As `odeint`.

    Raises:
        ValueError: If `func` is no module and `adjoint_params` is not given, or the adjoint's options cannot be inferred.

    >>> w = torch.tensor(-1.0, requires_grad=True)
    >>> y = odeint_adjoint(lambda t, y: w * y, torch.ones(1), torch.tensor([0.0, 1.0]), adjoint_params=(w,))
    >>> y[-1].sum().backward()
    >>> round(float(w.grad), 4)
    0.3679
    """
    if adjoint_params is None and not isinstance(func, nn.Module):
        raise ValueError(
            "func must be an instance of nn.Module, whose parameters get gradients, or `adjoint_params` must name the tensors "
            f"that do (`adjoint_params=()` if there are none), got {type(func).__name__}"
        )
    settings: dict[str, Any] = {
        "solve": odeint,
        "rtol": rtol if adjoint_rtol is None else adjoint_rtol,
        "atol": atol if adjoint_atol is None else adjoint_atol,
        "method": method if adjoint_method is None else adjoint_method,
        "options": _adjoint_options(method, options, adjoint_method, adjoint_options),
    }
    given = _parameters(func) if adjoint_params is None else list(adjoint_params)
    params = tuple(item for item in given if item.requires_grad)
    if len(params) != len(given) and callable(settings["options"].get("norm")):
        warnings.warn(
            "An adjoint parameter was passed without requiring gradient: it takes no part in the backward solve and does not "
            "appear in the adjoint norm.",
            stacklevel=2,
        )
    inputs, found = node(func, y0, t, rtol, atol, method, options, event_fn, settings, params)
    if inputs.event is None:
        return _shaped(inputs, found)
    event_t, y = found
    return event_t, _shaped(inputs, y)


def odeint_event(
    func: Callable[..., Any],
    y0: Any,
    t0: Tensor,
    *,
    event_fn: Callable[..., Any],
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """Solve until `event_fn` changes sign; the event's time and state carry the gradients of the implicit function theorem.

    With g the event's value, dt*/dθ = -(∂g/∂θ + ∂g/∂y·∂y/∂θ)/(∂g/∂t + ∂g/∂y·f), and ∂y*/∂θ gains f·dt*/dθ. Tensors that
    `event_fn` itself uses get gradients too.

    Args:
        func: As in `odeint`.
        y0: As in `odeint`.
        t0: The start, one number.
        event_fn: As in `odeint`.
        reverse_time: Whether to march backwards in time.
        odeint_interface: `odeint`, or `odeint_adjoint`.
        **kwargs: Of that function.

    Returns:
        The event's time, and the states at start and event.

    >>> fall = lambda t, y: torch.stack([y[1], torch.full_like(y[1], -9.8)])
    >>> time, _ = odeint_event(fall, torch.tensor([10.0, 0.0]), torch.tensor(0.0), event_fn=lambda t, y: y[0])
    >>> round(float(time), 4)
    1.4286
    """
    start = t0.reshape(-1)
    ahead = start.detach() + (-1.0 if reverse_time else 1.0)
    event_t, solution = odeint_interface(func, y0, torch.cat([start, ahead]), event_fn=event_fn, **kwargs)
    time, state = attach(func, event_fn, t0.detach().reshape(()), y0, event_t, last(solution))
    if isinstance(solution, Tensor):
        return time, torch.cat([solution[:-1], state[None]])
    return time, tuple(torch.cat([item[:-1], end[None]]) for item, end in zip(solution, state, strict=True))


def odeint_dense(
    func: Callable[..., Any],
    y0: Tensor,
    t0: Tensor,
    t1: Tensor,
    *,
    rtol: Tolerance = 1e-7,
    atol: Tolerance = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
) -> Callable[[Tensor], Tensor]:
    """Solve once and return the continuous solution.

    Args:
        func: As in `odeint`.
        y0: A tensor.
        t0: The start.
        t1: The end.
        rtol: As in `odeint`.
        atol: As in `odeint`.
        method: An adaptive one.
        options: As in `odeint`.

    Returns:
        A function of a time between t0 and t1, or of several `(m,)`, that gives the state there, `(m, *y0.shape)`.

    Raises:
        AssertionError: If `y0` is no tensor, or the method is not adaptive.

    >>> at = odeint_dense(lambda t, y: -y, torch.ones(1), torch.tensor(0.0), torch.tensor(1.0))
    >>> round(float(at(torch.tensor(0.5))), 4)
    0.6065
    """
    if not isinstance(y0, Tensor):
        raise AssertionError(f"y0 must be a tensor for odeint_dense, got {type(y0).__name__}; concatenate a tuple")
    t = torch.stack([torch.as_tensor(t0), torch.as_tensor(t1).to(torch.as_tensor(t0))])
    return densely(check(func, y0, t, rtol, atol, method, options, None, METHODS, reports))


def _shaped(inputs: Inputs, rows: Tensor) -> Any:
    return rows if inputs.shapes is None else unpack(rows, inputs.shapes)


def _adjoint_options(
    method: str | None, options: dict[str, Any] | None, adjoint_method: str | None, asked: dict[str, Any] | None
) -> dict[str, Any]:
    if asked is not None:
        return dict(asked)
    if adjoint_method is not None and adjoint_method != method and options is not None:
        raise ValueError(
            "`adjoint_options` must be given where `adjoint_method != method` and `options` are: they cannot be inferred from "
            "those of another method"
        )
    return {key: item for key, item in (options or {}).items() if key != "norm"}


def _parameters(func: Callable[..., Any]) -> list[Tensor]:
    assert isinstance(func, nn.Module)  # checked by the caller
    if getattr(func, "_is_replica", False):  # within DataParallel a replica's parameters are plain attributes
        return [item for module in func.modules() for item in vars(module).values() if _wants_gradient(item)]
    return list(func.parameters())


def _wants_gradient(item: Any) -> bool:
    return isinstance(item, Tensor) and item.requires_grad


__all__ = ["odeint", "odeint_adjoint", "odeint_dense", "odeint_event"]
