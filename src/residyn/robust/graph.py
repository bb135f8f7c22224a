"""A network as a graph of affine maps, sums and activations: what linear bounds are carried through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from residyn.robust.lines import RELU, Activation
from residyn.robust.maps import Affine, move
from residyn.robust.radial import radial

Shape = tuple[int, ...]


class UnknownError(Exception):
    """A part of the network has no linear bounds; the text says which."""


@dataclass(frozen=True)
class Node:
    """One value of the network, of a shape a sample.

    Attributes:
        kind: `"input"`, `"affine"`, `"sum"` (of parents with factors), `"join"` (along an axis), `"active"`, or `"radial"`.
        shape: Shape of a sample.
        parents: Numbers of the nodes it is made of.
        affine: The map of an affine node.
        offset: Its value at 0, if that is not 0.
        factors: The factors of a sum.
        dim: The axis of a join, within a sample.
        activation: The function of an active node.
        eps: ε of a radial one, c/√(‖c‖²/n + ε) along the last axis.
    """

    kind: Literal["input", "affine", "sum", "join", "active", "radial"]
    shape: Shape
    parents: tuple[int, ...] = ()
    affine: Affine | None = None
    offset: Tensor | None = None
    factors: tuple[float, ...] = ()
    dim: int = 0
    activation: Activation | None = None
    eps: float = 0.0


@dataclass
class Network:
    """Nodes in the order of evaluation; node 0 is the input, the last one the output."""

    nodes: list[Node] = field(default_factory=list)

    def input(self, shape: Shape) -> int:
        """The input."""
        return self._add(Node("input", shape))

    def affine(self, parent: int, affine: Affine) -> int:
        """An affine map of one node."""
        zero = torch.zeros(1, *self.nodes[parent].shape, dtype=torch.float64)
        try:
            offset = affine.apply(zero)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise UnknownError(str(error).splitlines()[0]) from None
        shape = tuple(offset.shape[1:])
        return self._add(Node("affine", shape, (parent,), affine=affine, offset=offset if bool(offset.any()) else None))

    def sum(self, parents: Sequence[int], factors: Sequence[float]) -> int:
        """Σ c_i·x_i of nodes of one shape."""
        shapes = {self.nodes[p].shape for p in parents}
        if len(shapes) > 1:
            raise UnknownError(f"a sum of shapes {sorted(shapes)}")
        return self._add(Node("sum", shapes.pop(), tuple(parents), factors=tuple(map(float, factors))))

    def join(self, parents: Sequence[int], dim: int) -> int:
        """Nodes one after the other along an axis of a sample."""
        shape = list(self.nodes[parents[0]].shape)
        shape[dim] = sum(self.nodes[p].shape[dim] for p in parents)
        return self._add(Node("join", tuple(shape), tuple(parents), dim=dim))

    def active(self, parent: int, activation: Activation) -> int:
        """An elementwise function of one node."""
        return self._add(Node("active", self.nodes[parent].shape, (parent,), activation=activation))

    def normalised(self, parent: int, eps: float) -> int:
        """Division by the root of the mean square along the last axis."""
        return self._add(Node("radial", self.nodes[parent].shape, (parent,), eps=eps))

    def largest(self, parents: Sequence[int]) -> int:
        """The elementwise maximum of nodes: max(a, b) = b + relu(a - b), as a tournament."""
        row = list(parents)
        while len(row) > 1:
            pairs = zip(row[::2], row[1::2], strict=False)
            rest = row[-1:] if len(row) % 2 else []
            row = [self.sum((b, self.active(self.sum((a, b), (1, -1)), RELU)), (1, 1)) for a, b in pairs] + rest
        return row[0]

    def windows(self, parent: int, dim: int, cells: Tensor) -> int:
        """Max pooling along one axis: `cells` `(windows, k)` lists the cells of each window, some of them twice."""
        return self.largest([self.affine(parent, move(partial(_picked, dim=dim, cells=tap))) for tap in cells.unbind(1)])

    def values(self, x: Tensor) -> list[Tensor]:
        """The value of every node at samples `(B, …)`, float64."""
        found: list[Tensor] = []
        for node in self.nodes:
            found.append(x.double() if node.kind == "input" else evaluate(node, [found[p] for p in node.parents]))
        return found

    def _add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1


def _picked(x: Tensor, *, dim: int, cells: Tensor) -> Tensor:
    return x.index_select(dim + 1, cells)


def evaluate(node: Node, parents: list[Tensor]) -> Tensor:
    """The value of a node other than the input."""
    if node.kind == "affine":
        assert node.affine is not None
        return node.affine.apply(parents[0])
    if node.kind == "active":
        assert node.activation is not None
        return node.activation.value(parents[0])
    if node.kind == "radial":
        return radial(parents[0], node.eps)
    if node.kind == "join":
        return torch.cat(parents, node.dim + 1)
    total = node.factors[0] * parents[0]
    for factor, part in zip(node.factors[1:], parents[1:], strict=True):
        total = total + factor * part
    return total
