"""What a solve is asked, checked: all rules of its arguments are here, and nothing deeper checks again."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from residyn.errors import InputError
from residyn.schemes import failure
from residyn.schemes.base import Scheme
from residyn.schemes.control import Adaptive, Control, default_control
from residyn.schemes.event import Event
from residyn.schemes.problem import Problem, Rhs
from residyn.state import Layout, State, held, leaves


def events_of(event: Event | Sequence[Event] | None) -> tuple[Event, ...]:
    """What to watch for, as a tuple.

    Raises:
        InputError: If it is no event.
    """
    events = () if event is None else (event,) if isinstance(event, Event) else tuple(event)
    for item in events:
        if not isinstance(item, Event):
            raise InputError(f"`event` must be an Event or a sequence of them, got {type(item).__name__}; wrap it: Event(...)")
    return events


def times_of(t: Any) -> Tensor:
    """The times as a tensor: as it came, or, of Python numbers, in double precision; tensors in a list keep their gradient.

    Raises:
        InputError: If they are no numbers.
    """
    if isinstance(t, Tensor):
        return t
    try:
        if isinstance(t, (list, tuple)) and any(isinstance(item, Tensor) for item in t):
            return torch.stack([torch.as_tensor(item, dtype=torch.float64, device="cpu") for item in t])
        return torch.as_tensor(t, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"`t` must be real times, (n,) or (B, n), got {t!r:.60}; write t=[0.0, 1.0] or a tensor") from None


def problem_of(
    f: Callable[..., Any], x0: State, t: Tensor, args: tuple[Any, ...], scheme: Scheme, control: Control | None
) -> Problem:
    """All checks, once; nothing deeper checks again.

    Raises:
        InputError: If an argument breaks its rule.
    """
    if not isinstance(scheme, Scheme):
        raise InputError(f"`scheme` must be a scheme such as Dopri5(), got {scheme!r}; schemes are objects: pass an instance")
    if control is None:
        control = default_control(scheme)
    if not isinstance(control, Control):
        raise InputError(f"`control` must be Fixed(steps=N) or Adaptive(...), got {control!r}")
    if isinstance(control, Adaptive) and scheme.error_order == 0:
        raise InputError(
            f"`control` must be Fixed(steps=N) for {type(scheme).__name__}, which has no error estimate, got Adaptive; "
            "or use scheme=Dopri5()"
        )
    if not isinstance(args, tuple):
        raise InputError(f"`args` must be a tuple, got {type(args).__name__}; write args=(a,) for one argument")
    _check_order_of_arguments(f)
    if t.ndim == 2 and isinstance(control, Adaptive):
        control = dataclasses.replace(control, per_sample=True)  # times of one's own are met by steps of one's own
    batched = t.ndim == 2 or (isinstance(control, Adaptive) and control.per_sample)
    if isinstance(control, Adaptive):
        scheme = scheme.tuned(control.rtol, control.atol)
    as_real = scheme.real_state and any(leaf.is_complex() for leaf in leaves(x0))
    layout = None if isinstance(x0, Tensor) and not as_real else Layout.of(x0, batched=batched, as_real=as_real)
    row = x0 if layout is None else layout.pack(x0)
    _check_state(row, batched)
    times = _times(t, row, batched)
    return Problem(Rhs(f, args, layout, row), scheme, control, times, row)


def _check_order_of_arguments(f: Callable[..., Any]) -> None:
    if not callable(f):
        raise InputError(f"`f` must be callable as f(t, x), got {type(f).__name__}")
    if inspect.isfunction(f) and not hasattr(f, "__wrapped__"):
        names = list(f.__code__.co_varnames[: f.__code__.co_argcount][:2])  # what a signature says, in a hundredth of its time
        _check_names(names)
        return
    try:
        target = f.forward if isinstance(f, nn.Module) else f
        names = [p.name for p in inspect.signature(target).parameters.values() if p.kind is not p.VAR_POSITIONAL][:2]
    except (TypeError, ValueError):  # a builtin without a signature
        return
    _check_names(names)


def _check_names(names: list[str]) -> None:
    if len(names) == 2 and names[1] in ("t", "time") and names[0] not in ("t", "time"):
        raise InputError(f"`f` must take (t, x), got ({names[0]}, {names[1]}); swap its arguments: lambda t, x: f(x, t)")


def _check_state(x: Tensor, batched: bool) -> None:
    if not (x.is_floating_point() or x.is_complex()):
        raise InputError(f"`x0` must be floating point or complex, got {x.dtype}; use x0.float() or x0.double()")
    if x.numel() == 0:
        raise InputError(f"`x0` must not be empty, got shape {tuple(x.shape)}")
    if batched and x.ndim < 1:
        raise InputError("`x0` must have a sample axis, (B, …), for steps or times a sample, got a tensor without axes")
    if not failure.finite(held(x, "x0")):
        at = int((~torch.isfinite(x)).flatten().to(torch.uint8).argmax())
        raise InputError(f"`x0` must be finite, got {x.flatten()[at].item()} at flat index {at}; clean the data first")


def _times(t: Tensor, x: Tensor, batched: bool) -> list[Any]:
    """The times as floats, or, for samples on their own, as tensors `(B, 1, …)`."""
    times = t.detach()
    if times.is_complex() or times.dtype == torch.bool:
        raise InputError(f"`t` must be real, got {times.dtype}")
    hint = "" if times.ndim <= 1 else "; if x0 and t are swapped: solve(f, x0, t)"
    if times.ndim not in (1, 2) or times.shape[-1] < 2:
        raise InputError(f"`t` must be (n,) or (B, n) with at least 2 times, got shape {tuple(times.shape)}{hint}")
    rows = times.to(torch.float64).reshape(-1, times.shape[-1])
    steps = rows.diff(dim=1)
    if not bool(torch.isfinite(rows).all()):
        raise InputError("`t` must be finite, got nan or inf")
    if not bool(((steps > 0).all(1) | (steps < 0).all(1)).all()):
        wrong = (steps == 0) | (torch.sign(steps) != torch.sign(steps[:, :1]))
        row, at = divmod(int(wrong.to(torch.uint8).argmax()), steps.shape[1])
        pair = [float(f"{v:.9g}") for v in rows[row, at : at + 2].tolist()]
        where = f"index {at}" if times.ndim == 1 else f"index {at} of sample {row}"
        raise InputError(f"`t` must be strictly increasing or decreasing, got {pair} at {where}; sort it, drop repeats{hint}")
    if not batched:
        return list(rows[0].tolist())
    if times.ndim == 2 and len(times) != len(x):
        raise InputError(f"`t` must have a row for each sample, ({len(x)}, n), got shape {tuple(times.shape)}{hint}")
    # in double precision, as the times all samples share are; not every device has it
    rows = rows.expand(len(x), -1).to(x.device, torch.float32 if x.device.type == "mps" else torch.float64)
    return [column.reshape(len(x), *[1] * (x.ndim - 1)) for column in rows.unbind(1)]
