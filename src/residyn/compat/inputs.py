"""What torchdiffeq accepts, checked once: state, field, times, tolerances, norm and callbacks in the form our marches take."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Time = float | Tensor
Norm = Callable[[Any], Any]

CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")


def pack(tree: Sequence[Tensor]) -> Tensor:
    """A tuple of tensors as one row."""
    return torch.cat([item.reshape(-1) for item in tree])


def unpack(row: Tensor, shapes: Sequence[torch.Size]) -> tuple[Tensor, ...]:
    """The tuple back, as views of the row; axes before the row stay in front."""
    lead, items, start = row.shape[:-1], [], 0
    for shape in shapes:
        width = shape.numel()
        items.append(row[..., start : start + width].view((*lead, *shape)))
        start += width
    return tuple(items)


def rms(x: Tensor) -> Tensor:
    """Root mean square of |x|; 0 where x is empty."""
    return torch.linalg.vector_norm(x) / math.sqrt(max(x.numel(), 1))


def mixed(tree: Sequence[Tensor]) -> Any:
    """The largest root mean square of several tensors; 0.0 of none."""
    return torch.stack([rms(item) for item in tree]).amax() if tree else 0.0


class Field:
    """The user's func(t, y) on one row; times become tensors of the state's precision."""

    def __init__(self, func: Callable[..., Any], shapes: Sequence[torch.Size] | None, like: Tensor) -> None:
        self.func, self.shapes = func, shapes
        self.shape, self.dtype, self.device = like.shape, like.dtype, like.device
        self.time_dtype = like.dtype.to_real() if like.dtype.is_complex else like.dtype

    def time(self, t: Time) -> Tensor:
        """The time as the user's function gets it."""
        if isinstance(t, float):
            return torch.scalar_tensor(t, dtype=self.time_dtype, device=self.device)
        return (t.real if t.is_complex() else t).to(self.time_dtype)

    def __call__(self, t: Time, y: Tensor) -> Tensor:
        """dy/dt."""
        k: Any
        if self.shapes is None:
            k = self.func(self.time(t), y)
        else:
            k = pack(self.func(self.time(t), unpack(y, self.shapes)))
        if k.dtype is not self.dtype:
            k = k.to(self.dtype)
        return k if k.shape == self.shape else k.expand(self.shape)


class Nudged:
    """A field that is never asked at the very ends of a step, but next to them inside it: for fields that jump there."""

    def __init__(self, f: Field, t0: Time, t1: Time, *, start: bool = True) -> None:
        self.f, self.t0, self.t1, self.start = f, t0, t1, start

    def __call__(self, t: Time, y: Tensor) -> Tensor:
        """dy/dt at t, moved by one rounding if t is an end of the step."""
        if t is self.t1:
            t = self._move(t, self.t0)
        elif t is self.t0 and self.start:
            t = self._move(t, self.t1)
        return self.f(t, y)

    def _move(self, t: Time, towards: Time) -> Tensor:
        here, there = self.f.time(t), self.f.time(towards)
        # added as a constant, so that a gradient by t passes
        return here + (torch.nextafter(here.detach(), there.detach()) - here.detach())


@dataclass(frozen=True)
class Callbacks:
    """What the user's function wants to be told of the steps."""

    f: Field
    found: dict[str, Callable[..., Any]] = field(default_factory=dict)

    def __call__(self, name: str, t0: Time, y0: Tensor, h: Time) -> None:
        """Call one of them, if it is there, with (t0, y0, dt); dt is a length."""
        callback = self.found.get(name)
        if callback is not None:
            state = y0 if self.f.shapes is None else unpack(y0, self.f.shapes)
            callback(self._time(t0), state, abs(self._time(h)))

    def _time(self, t: Time) -> Tensor:
        return t if isinstance(t, Tensor) else torch.scalar_tensor(t, dtype=torch.float64, device=self.f.device)


@dataclass
class Inputs:
    """One call of odeint, checked; the state one tensor."""

    f: Field
    y0: Tensor
    t: Tensor
    rtol: Any
    atol: Any
    method: str
    options: dict[str, Any]
    event: Callable[[Tensor, Tensor], Tensor] | None
    shapes: list[torch.Size] | None
    callbacks: Callbacks
    default_norm: bool

    def norm(self, row: Tensor) -> Any:
        """The user's norm, or the default one, of the state as a row."""
        return self.options["norm"](row)


def check(
    func: Callable[..., Any],
    y0: Any,
    t: Any,
    rtol: Any,
    atol: Any,
    method: str | None,
    options: dict[str, Any] | None,
    event_fn: Callable[..., Any] | None,
    methods: Sequence[str],
    reports: Callable[[str], frozenset[str]],
) -> Inputs:
    """All checks, in the order and with the error types that code written for torchdiffeq expects."""
    if event_fn is not None and len(t) != 2:
        raise ValueError(f"`t` must have 2 times, start and direction, with an event, got len(t)={len(t)}: len(t) == 2")
    event = None if event_fn is None else _combined(event_fn, t[0], y0)
    shapes = None
    if not isinstance(y0, Tensor):
        _demand(isinstance(y0, tuple), f"y0 must be either a torch.Tensor or a tuple, got {type(y0).__name__}")
        shapes = [item.shape for item in y0]
        rtol, atol = _spread("rtol", rtol, shapes), _spread("atol", atol, shapes)
        y0 = pack(y0)
    name = "dopri5" if method is None else method
    if name not in methods:
        raise ValueError(f'Invalid method "{name}". Must be one of {{"' + '", "'.join(methods) + '"}.')
    options = dict(options or {})
    default_norm = "norm" not in options
    options["norm"] = _norm(options.get("norm"), shapes)
    check_times("t", t)
    for label, value in (("rtol", rtol), ("atol", atol)):
        _demand(not (isinstance(value, Tensor) and value.requires_grad), f"{label} cannot require gradient")
    if t.device != y0.device:
        warnings.warn("t is not on the same device as y0. Coercing to y0.device.", stacklevel=3)
        t = t.to(y0.device)
    f = Field(func, shapes, y0)
    found = {key: getattr(func, key) for key in CALLBACKS if hasattr(func, key)}
    unheard = set(found) - reports(name)
    if unheard:
        warnings.warn(f"Solver '{name}' does not support callbacks {unheard}", stacklevel=3)
    if event is not None and shapes is not None:
        event = _on_rows(event, shapes)
    return Inputs(f, y0, t, rtol, atol, name, options, event, shapes, Callbacks(f, found), default_norm)


def check_times(name: str, t: Any) -> None:
    """That times are a one-dimensional, strictly monotonic, floating-point tensor."""
    _demand(isinstance(t, Tensor), f"{name} must be a torch.Tensor, got {type(t).__name__}")
    if not torch.is_floating_point(t):
        raise TypeError(f"`{name}` must be a floating point Tensor but is a {t.type()}")
    _demand(t.ndim == 1, f"{name} must be one dimensional, got shape {tuple(t.shape)}")
    steps = t.detach().diff()
    _demand(bool((steps > 0).all() or (steps < 0).all()), f"{name} must be strictly increasing or decreasing")


def _demand(holds: bool, message: str) -> None:
    """What torchdiffeq asserts, and its users catch as AssertionError; raised, so that `python -O` checks it too."""
    if not holds:
        raise AssertionError(message)


def _combined(event_fn: Callable[..., Any], t0: Tensor, y0: Any) -> Callable[..., Tensor]:
    """Several conditions as one: each made positive at the start, the least of them."""
    with torch.no_grad():
        signs = torch.sign(event_fn(t0, y0))
    return lambda t, y: torch.min(event_fn(t, y) * signs)


def _on_rows(event: Callable[..., Tensor], shapes: Sequence[torch.Size]) -> Callable[..., Tensor]:
    return lambda t, y: event(t, unpack(y, shapes))


def _spread(name: str, tolerance: Any, shapes: Sequence[torch.Size]) -> Any:
    """Tolerances of a tuple state, one a tensor, along the row."""
    try:
        items = tuple(tolerance)
    except TypeError:
        return tolerance
    _demand(len(items) == len(shapes), f"If using tupled {name} it must have the same length as the tuple y0")
    return torch.cat([torch.as_tensor(item).expand(shape.numel()) for item, shape in zip(items, shapes, strict=True)])


def _norm(norm: Norm | None, shapes: Sequence[torch.Size] | None) -> Norm:
    if shapes is None:
        return norm or rms
    inner = norm or mixed
    return lambda row: inner(unpack(row, shapes))
