"""A forward pass as a graph: tensors (a new one after each write in place), operations between them, module calls."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

Origin = Literal["input", "parameter", "buffer", "constant", "unknown", "computed"]


@dataclass(slots=True)
class Node:
    """One operation.

    Args:
        op: Its name, without dots and underscores of the overload.
        inputs: Values it read.
        outputs: Values it made.
        call: Index of the innermost module call it was made in; -1 outside of any.
        form: "same" (a view, copy, cast or permutation of its one input), "scale" (times a number), "resample" (strided,
            padded or pooled), "slice" (a part of its input), or "" for all else.
        terms: The summands with what multiplies them, if it is a sum.
        minus: Which of the terms is subtracted; -1 for none.
        key: Where it stands: module, number of its call, and number among the operations there that may be sums.
        sequence: Number of its gradient function, -1 if it has none.
        cost: Multiplications, roughly, if it mixes.
    """

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    call: int = -1
    form: str = ""
    terms: tuple[int, ...] = ()
    minus: int = -1
    key: tuple[str, int, int] = ("", 0, 0)
    sequence: int = -1
    cost: float = 0.0


@dataclass(slots=True)
class Value:
    """A tensor between two operations.

    Args:
        shape: Its shape.
        origin: Where it came from.
        floating: Whether it has floating-point or complex numbers.
        node: The operation that made it; -1 for none.
        name: Name of a parameter or buffer.
        overwritten: Whether an operation wrote into it later.
    """

    shape: tuple[int, ...]
    origin: Origin
    floating: bool = True
    node: int = -1
    name: str = ""
    overwritten: bool = False


@dataclass(slots=True)
class Call:
    """One call of a module: the nodes `first` to `last` (exclusive) were made in it.

    Args:
        path: Its name in the model; empty for the model itself, "?" for a stranger.
        count: How often it had been called before.
        parent: Index of the call around it; -1 for none.
        first: Its first node.
        last: One past its last node; -1 while it runs.
        kind: Class name of the module.
        outs: The tensors it returned, in order; -1 for one that was not met before.
    """

    path: str
    count: int
    parent: int
    first: int
    last: int = -1
    kind: str = ""
    outs: tuple[int, ...] = ()


@dataclass
class Graph:
    """What a tracer saw.

    Attributes:
        values: All tensors.
        nodes: All operations, in order.
        calls: All module calls, in order.
        outputs: What the model returned.
        left: Module paths in which a tensor left torch for NumPy or Python.
        wrapped: Whether a tensor was seen that stands for others (torch.func), so that its ancestors do not show.
    """

    values: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    wrapped: bool = False

    def value(self, **what: Any) -> int:
        """A new value; its number."""
        self.values.append(Value(**what))
        return len(self.values) - 1

    def add(self, node: Node) -> int:
        """A new operation; its number."""
        self.nodes.append(node)
        for out in node.outputs:
            self.values[out].node = len(self.nodes) - 1
        return len(self.nodes) - 1

    @functools.cached_property
    def ancestors(self) -> list[int]:
        """For each value, all it was computed from and itself, as the bits of a number."""
        table = [1 << v for v in range(len(self.values))]
        for node in self.nodes:
            seen = 0
            for v in node.inputs:
                seen |= table[v]
            for v in node.outputs:
                table[v] |= seen
        return table

    @functools.cached_property
    def descendants(self) -> list[int]:
        """For each value, all that was computed from it and itself, as the bits of a number."""
        table = [1 << v for v in range(len(self.values))]
        for node in reversed(self.nodes):
            seen = 0
            for v in node.outputs:
                seen |= table[v]
            for v in node.inputs:
                table[v] |= seen
        return table

    @functools.cached_property
    def dynamic(self) -> int:
        """The values that depend on the model's input, as bits."""
        roots = sum(1 << i for i, v in enumerate(self.values) if v.origin in ("input", "unknown"))
        return sum(1 << i for i, seen in enumerate(self.ancestors) if seen & roots)

    @functools.cached_property
    def parameters(self) -> int:
        """The parameters, as bits."""
        return sum(1 << i for i, v in enumerate(self.values) if v.origin == "parameter")

    def weights(self, node: Node) -> int:
        """The parameters that an operation reads, by themselves or by what is computed from parameters alone, as bits."""
        seen = 0
        for v in node.inputs:
            if not self.dynamic >> v & 1:
                seen |= self.ancestors[v]
        return seen & self.parameters

    @functools.cached_property
    def weighted(self) -> int:
        """The values made by an operation that reads a parameter, as bits."""
        bits = 0
        for node in self.nodes:
            if self.weights(node):
                bits |= sum(1 << v for v in node.outputs)
        return bits

    @functools.cached_property
    def consumers(self) -> list[list[int]]:
        """For each value, the nodes that read it."""
        table: list[list[int]] = [[] for _ in self.values]
        for i, node in enumerate(self.nodes):
            for v in set(node.inputs):
                table[v].append(i)
        return table

    def path(self, start: int, end: int) -> int:
        """The values on the ways from one value to another, without the first, as bits."""
        return self.descendants[start] & self.ancestors[end] & ~(1 << start)

    def producer(self, value: int) -> Node | None:
        """The operation that made a value."""
        index = self.values[value].node
        return self.nodes[index] if index >= 0 else None

    def around(self, call: int) -> Iterator[int]:
        """A call and all calls around it, innermost first."""
        while call >= 0:
            yield call
            call = self.calls[call].parent


def bits(number: int) -> Iterator[int]:
    """The places of the ones of a number, from below.

    >>> list(bits(0b1010))
    [1, 3]
    """
    while number:
        low = number & -number
        yield low.bit_length() - 1
        number ^= low
