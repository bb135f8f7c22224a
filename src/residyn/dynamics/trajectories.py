"""Trajectories: sampled states of a system, with what else was measured of it, checked once at the boundary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from residyn.errors import InputError

Sampled = Tensor | Sequence[float] | Sequence[Tensor] | Sequence[Sequence[float]]


@dataclass(frozen=True)
class Trajectories:
    """Some trajectories of one system.

    Args:
        t: Times of each, `(n,)`, strictly increasing.
        x: States of each, `(n, d)`. With `order` 2, positions come first and velocities second.
        names: Names of the d components.
        derivative: Measured dx/dt of each, `(n, d)`; `None` where it was not measured.
        control: Inputs of each, `(n, m)`; `None` if there are none.
        controls: Names of the m inputs.
        ids: What each trajectory is called.
        order: 2 if the second half of the state is the derivative of the first, else 1.

    >>> one = Trajectories([torch.tensor([0.0, 1.0])], [torch.zeros(2, 1)], ["x"])
    >>> len(one), one.samples
    (1, 2)
    """

    t: list[Tensor]
    x: list[Tensor]
    names: list[str]
    derivative: list[Tensor] | None = None
    control: list[Tensor] | None = None
    controls: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    order: int = 1

    def __len__(self) -> int:
        return len(self.t)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(self.t, self.x, strict=True))

    @property
    def samples(self) -> int:
        """How many samples there are in all."""
        return sum(len(t) for t in self.t)

    def pick(self, which: Sequence[int]) -> Trajectories:
        """Some of the trajectories, in the order given."""
        return self._with([(i, slice(None)) for i in which])

    def cut(self, which: int, start: int | None, stop: int | None) -> Trajectories:
        """One trajectory between two samples."""
        return self._with([(which, slice(start, stop))])

    def _with(self, places: list[tuple[int, slice]]) -> Trajectories:
        def some(items: list[Tensor] | None) -> list[Tensor] | None:
            return None if items is None else [items[i][piece] for i, piece in places]

        ids = [self.ids[i] for i, _ in places] if self.ids else []
        t, x = [self.t[i][piece] for i, piece in places], [self.x[i][piece] for i, piece in places]
        return Trajectories(t, x, self.names, some(self.derivative), some(self.control), self.controls, ids, self.order)


def gather(
    t: Any, x: Any, *, trajectory: Any = None, derivative: Any = None, control: Any = None, order: int = 1
) -> Trajectories:
    """Bring what a caller handed in to one form, checking all of it.

    Args:
        t: Times, `(n,)` or a list of them; or `Trajectories`, whole.
        x: States, `(n, d)` or a list of them; `(n,)` counts as one component.
        trajectory: Labels `(n,)`, where several trajectories lie one after the other in `t` and `x`.
        derivative: Measured dx/dt, in the form of x; with `order` 2 the accelerations `(n, d/2)` are enough.
        control: Inputs, `(n, m)` or `(n,)`, listed as x is.
        order: 1, or 2 if the second half of the state is the derivative of the first.

    Returns:
        Trajectories in double precision on the CPU.

    Raises:
        InputError: If an argument breaks its rule.
    """
    if isinstance(t, Trajectories):
        if any(value is not None for value in (x, trajectory, derivative, control)):
            raise InputError("`x` must be left out where `t` is Trajectories, got both; pass one of them")
        return _check(t)
    if order not in (1, 2):
        raise InputError(f"`order` must be 1 or 2, got {order!r}; rewrite higher orders as a system of first order")
    times = _pieces("t", t, 1, trajectory)
    states = _pieces("x", x, 2, trajectory)
    rates = None if derivative is None else _pieces("derivative", derivative, 2, trajectory)
    inputs = None if control is None else _pieces("control", control, 2, trajectory)
    width = states[0].shape[1]
    if rates is not None and order == 2 and rates[0].shape[1] * 2 == width:
        rates = [torch.cat([one[:, width // 2 :], rate], 1) for one, rate in zip(states, rates, strict=False)]
    found = Trajectories(times, states, [f"x{i}" for i in range(width)], rates, inputs, order=order)
    if inputs is not None:
        found.controls.extend(f"u{i}" for i in range(inputs[0].shape[1]))
    return _check(found)


def _pieces(name: str, value: Any, axes: int, trajectory: Any) -> list[Tensor]:
    """One tensor `(n,)` or `(n, d)` a trajectory, in double precision."""
    several = isinstance(value, (list, tuple)) and len(value) > 0 and not isinstance(value[0], (int, float))
    if several and axes == 2 and not isinstance(value[0], Tensor) and not hasattr(value[0][0], "__len__"):
        several = False  # rows of numbers: one trajectory written as nested lists
    if several and trajectory is not None:
        raise InputError(f"`trajectory` must be left out where `{name}` is a list, got both; a list says it already")
    if isinstance(value, (list, tuple)) and not value:
        raise InputError(f"`{name}` must hold at least one trajectory, got an empty list; read a file that has one")
    pieces = [_tensor(name, item, axes) for item in (value if several else [value])]
    if trajectory is None:
        return pieces
    labels = trajectory.tolist() if hasattr(trajectory, "tolist") else list(trajectory)
    if len(labels) != len(pieces[0]):
        raise InputError(f"`trajectory` must have a label a sample, {len(pieces[0])} for `{name}`, got {len(labels)}")
    places: dict[Any, list[int]] = {}
    for i, label in enumerate(labels):
        places.setdefault(label, []).append(i)
    return [pieces[0][rows] for rows in places.values()]


def _tensor(name: str, value: Any, axes: int) -> Tensor:
    try:
        found = torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"`{name}` must be numbers of equal shape, got {type(value).__name__}: {error}") from None
    if found.is_complex() or found.dtype == torch.bool:
        raise InputError(f"`{name}` must be real numbers, got {found.dtype}; split a complex state in two columns")
    found = found.to("cpu", torch.float64)
    if axes == 2 and found.ndim == 1:
        found = found[:, None]
    if found.ndim != axes:
        form = "(n,)" if axes == 1 else "(n, d)"
        raise InputError(f"`{name}` must be {form} a trajectory, got shape {tuple(found.shape)}; pass a list for several")
    return found


def _check(found: Trajectories) -> Trajectories:
    if not len(found):
        raise InputError("`t` must hold at least one trajectory, got none; read a file that has one")
    for name, items in (("x", found.x), ("derivative", found.derivative), ("control", found.control)):
        if items is None:
            continue
        if len(items) != len(found.t):
            raise InputError(f"`{name}` must have a tensor a trajectory, {len(found.t)}, got {len(items)}")
        for i, (times, item) in enumerate(zip(found.t, items, strict=True)):
            _check_one(name, i, times, item, items[0].shape[1])
    width = found.x[0].shape[1]
    if found.derivative is not None and found.derivative[0].shape[1] != width:
        raise InputError(f"`derivative` must have the {width} components of x, got {found.derivative[0].shape[1]}")
    if found.order == 2 and width % 2:
        raise InputError(f"`order` 2 needs positions and as many velocities in `x`, got {width} components; add the velocities")
    return found


def _check_one(name: str, i: int, times: Tensor, item: Tensor, width: int) -> None:
    if item.shape[1] != width or width == 0:
        raise InputError(f"`{name}` must have the same components in each trajectory, got {item.shape[1]} in {i}, {width} in 0")
    if len(item) != len(times):
        raise InputError(f"`{name}` must have a row for each of the {len(times)} times of trajectory {i}, got {len(item)}")
    if len(times) < 2:
        raise InputError(f"`t` must have at least 2 samples a trajectory, got {len(times)} in trajectory {i}; leave it out")
    for label, values in (("t", times), (name, item)):
        if not bool(values.isfinite().all()):
            at = int((~values.isfinite()).reshape(len(values), -1).any(1).to(torch.uint8).argmax())
            raise InputError(f"`{label}` must be finite, got nan or inf in row {at} of trajectory {i}; leave such rows out")
    steps = times.diff()
    if not bool((steps > 0).all()):
        at = int((steps <= 0).to(torch.uint8).argmax())
        pair = times[at : at + 2].tolist()
        raise InputError(f"`t` must increase strictly, got {pair} at row {at} of trajectory {i}; sort it, drop repeats")
