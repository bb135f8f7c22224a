"""What the two directions of a compiled march share: the problem, its traced field, and the record of the steps taken."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import overload

import torch
from torch import Tensor

from residyn.compiled.build import Loop, Tensors
from residyn.compiled.field import Trace
from residyn.compiled.stages import LeafField, Leaves
from residyn.schemes.explicit import ExplicitRungeKutta
from residyn.schemes.problem import Leg, Problem


@dataclass
class Rows:
    """A stretch of the record, of as many rows as fit: what is recorded has `count` of them."""

    times: Tensor
    """Where each step began and ended, `(rows, 2)` or `(rows, 2, B)`."""
    starts: Tensor | None
    """The state where it began, `(rows, leaves, …)`; kept if a gradient or a time within the steps asks for it."""
    count: int


@dataclass(frozen=True)
class Kit:
    """What a program is made of, and kept with it: nothing of a single solve, nor of the field but its graph.

    Args:
        trace: The field.
        scheme: The scheme.
        dtype: The precision in which f gets the time.
        whole: Whether the loop is compiled as well as the step.
        wanted: Which of the field's tensors want a gradient.
    """

    trace: Trace
    scheme: ExplicitRungeKutta
    dtype: torch.dtype
    whole: bool
    wanted: tuple[int, ...]

    def field(self, tensors: Sequence[Tensor]) -> LeafField:
        """f(t, x) leaf by leaf, with these tensors."""

        def call(t: Tensor, x: Leaves) -> Leaves:
            return self.trace(t.to(self.dtype), x, list(tensors))

        return call


@dataclass
class Run:
    """A compiled march on its way.

    Args:
        problem: The problem.
        kit: What its programs are made of.
        tensors: The tensors that the field uses.
    """

    problem: Problem
    kit: Kit
    tensors: Tensors
    rows: list[Rows] = field(default_factory=list)

    @property
    def trace(self) -> Trace:
        """The field."""
        return self.kit.trace

    @property
    def stages(self) -> int:
        """Evaluations in a step."""
        return self.kit.scheme.tableau.stages

    @property
    def own_times(self) -> bool:
        """Whether samples have times of their own."""
        return isinstance(self.problem.times[0], Tensor) or bool(getattr(self.problem.control, "per_sample", False))

    def stack(self, x: Tensor) -> Tensor:
        """A state as its leaves, `(leaves, …)`; contiguous."""
        return torch.stack(self.trace.leaves(x.detach()))

    def loop(self, key: Hashable, make: Loop, start: Tensors, given: Tensors) -> Tensors:
        """Run a loop, compiled before if one like it was."""
        shapes = tuple((tuple(item.shape), item.dtype) for item in (*start, *given))
        kit = self.kit
        kind = (key, type(kit.scheme), kit.dtype, kit.whole, kit.wanted, shapes, torch.get_num_threads())
        program = self.trace.programs.setdefault(kind, make)
        with torch.no_grad():
            found: Tensors = program(start, given)
        return found

    def times(self) -> Tensor:
        """The times of all recorded steps, `(steps, 2)` or `(steps, 2, B)`."""
        parts = [rows.times[: rows.count] for rows in self.rows]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def starts(self) -> Tensor:
        """The states where they began, `(steps, leaves, …)`."""
        return torch.cat([rows.starts[: rows.count] for rows in self.rows if rows.starts is not None])


def capacity(count: int, least: int = 64) -> int:
    """Rows for so many: the next power of two, so that a few programs serve all counts."""
    return max(least, 1 << (count - 1).bit_length())


class Legs(Sequence[Leg]):
    """Recorded steps as legs, written out only if somebody looks."""

    def __init__(self, times: Tensor) -> None:
        self._times: Tensor | list[Leg] = times

    def _all(self) -> list[Leg]:
        if isinstance(self._times, Tensor):
            times = self._times
            if times.ndim == 2:
                self._times = [Leg(t0, t1, ()) for t0, t1 in times.tolist()]
            else:
                self._times = [Leg(t0, t1, ()) for t0, t1 in times]
        return self._times

    @overload
    def __getitem__(self, i: int) -> Leg: ...
    @overload
    def __getitem__(self, i: slice) -> list[Leg]: ...
    def __getitem__(self, i: int | slice) -> Leg | list[Leg]:
        """A leg, or some."""
        return self._all()[i]

    def __len__(self) -> int:
        """How many."""
        return len(self._times)

    def __iter__(self) -> Iterator[Leg]:
        """Each in turn."""
        return iter(self._all())
