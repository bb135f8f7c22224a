"""Linear bounds of a network on balls around samples, carried backwards from rows of coefficients to the input."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from residyn.robust.graph import Network, Node
from residyn.robust.inputs import Norm
from residyn.robust.lines import Lines
from residyn.robust.radial import Tangent

UNIT = 2.0**-53
_CHUNK = 2**21
"""Coefficients held at a time."""


@dataclass
class Balls:
    """Samples with a radius each, and what is known of the network's values on those balls.

    Attributes:
        x: Centres, float64 `(B, …)`.
        radius: Radii, float64 `(B,)`.
        norm: Of the balls.
        unit: Relative rounding of an operation of the network; 0 for exact arithmetic.
        lines: Of each active node, once its argument is bounded.
        tangents: Of each radial node, likewise.
        size: Of each node, a bound on its value and on the size of the sums it is computed from.
        error: Of each node but the input, a bound on what rounding may change: that of the network in computing it, and that
            of these bounds in passing it.
    """

    x: Tensor
    radius: Tensor
    norm: Norm
    unit: float
    lines: dict[int, Lines] = field(default_factory=dict)
    tangents: dict[int, Tangent] = field(default_factory=dict)
    size: dict[int, Tensor] = field(default_factory=dict)
    error: dict[int, Tensor] = field(default_factory=dict)

    def wide(self, value: Tensor) -> Tensor:
        """One number a sample, in the shape of x."""
        return value.reshape(-1, *[1] * (self.x.ndim - 1))

    def note(self, k: int, node: Node) -> None:
        """Size and error of a node that is no activation, from those of its parents.

        A sum of n products, in any order, is off by at most n roundings of |A|·|x| + |b|; the coefficients that pass the node
        backwards, and their products with offsets, by as many as there are products and entries.
        """
        if node.kind == "input":
            self.size[k] = self.x.abs() + self.wide(self.radius)
            return
        parts = [self.size[p] for p in node.parents]
        if node.kind == "affine":
            assert node.affine is not None
            size, terms = node.affine.absolute(parts[0]), node.affine.terms
        elif node.kind == "join":
            size, terms = torch.cat(parts, node.dim + 1), 0
        else:
            size = abs(node.factors[0]) * parts[0]
            for factor, part in zip(node.factors[1:], parts[1:], strict=True):
                size = size + abs(factor) * part
            terms = 0 if len(parts) == 1 and abs(node.factors[0]) == 1 else 2 * len(parts)
        own = 4 * UNIT * (terms + size[0].numel() + 8)
        self.size[k] = size
        self.error[k] = ((terms + 1) * self.unit * (terms > 0) + own) * size

    def note_active(self, k: int, node: Node, low: Tensor, high: Tensor) -> None:
        """Lines, size and error of an activation whose argument is bounded."""
        assert node.activation is not None
        self.lines[k] = node.activation.lines(low, high)
        size = node.activation.reach(low, high)
        ulps = node.activation.ulps
        own = 4 * UNIT * (size[0].numel() + 16) * (size + torch.maximum(low.abs(), high.abs()))
        self.size[k] = size
        self.error[k] = ulps * self.unit * (size.clamp(min=1) if ulps > 1 else size) + own

    def note_radial(self, k: int, found: Tangent) -> None:
        """Tangent, size and error of a normalisation: the remainder, and as many roundings as its means have terms."""
        n = found.unit.shape[-1]
        size = torch.full_like(found.unit, math.sqrt(n) * (1 + 1e-9))
        self.tangents[k], self.size[k] = found, size
        own = 8 * UNIT * (size[0].numel() + n + 16) * (size + found.offset.abs() + found.unit.abs())
        self.error[k] = found.rest + (n + 16) * self.unit * size + own


def lower_bounds(network: Network, balls: Balls, node: int, rows: Tensor, owner: Tensor) -> Tensor:
    """Lower bounds of c·v over the ball of a sample, v the value of a node, c a row: float64 `(N,)`.

    From the node backwards, a positive coefficient of f(z) takes f's lower line and a negative one its upper line, so that
    c·v >= g·x + k; over the ball that is at least g·x0 + k - r·‖g‖, with the dual norm. Each value on the way may be off by its
    rounding error e, which costs |g|·e.

    Args:
        network: The network.
        balls: The balls, with the lines of all active nodes before this one.
        node: Number of the node.
        rows: Coefficients, `(N, *shape of the node)`.
        owner: Number of the sample of each row, in ascending order.

    Returns:
        The bounds.

    Reference:
        Zhang, Weng, Chen, Hsieh & Daniel (2018), "Efficient Neural Network Robustness Certification with General Activation
        Functions", arXiv:1811.00866.
    """
    if not len(rows):
        return rows.new_zeros(0)
    return torch.cat([_Pass(network, balls, o).run(node, rows[part]) for part, o in chunks(network, node, owner)])


def chunks(network: Network, node: int, owner: Tensor) -> list[tuple[slice, Tensor]]:
    """Rows to take at a time: all those of one sample if there are many, so that its lines need not be copied for each."""
    largest = max(math.prod(n.shape) for n in network.nodes[: node + 1])
    step = max(1, _CHUNK // largest)
    samples, counts = torch.unique_consecutive(owner, return_counts=True)
    if len(owner) < 32 * len(samples):
        return [(slice(s, s + step), owner[s : s + step]) for s in range(0, len(owner), step)]
    found, first = [], 0
    for sample, count in zip(samples, counts.tolist(), strict=True):
        ends = [*range(first, first + count, step), first + count]
        found += [(slice(s, e), sample.reshape(1)) for s, e in itertools.pairwise(ends)]
        first += count
    return found


class _Pass:
    """One walk from a node back to the input.

    Args:
        network: The network.
        balls: The balls.
        owner: Number of the sample of each row, or `(1,)` for one sample of all.
    """

    def __init__(self, network: Network, balls: Balls, owner: Tensor) -> None:
        self.network, self.balls, self.owner = network, balls, owner
        self.held: dict[int, Tensor] = {}

    def run(self, node: int, rows: Tensor) -> Tensor:
        """Lower bounds of the rows."""
        self.held = {node: rows}
        total = rows.new_zeros(len(rows))
        for k in range(node, 0, -1):
            g = self.held.pop(k, None)
            if g is not None:
                total += self._back(k, g) - self._dot(g.abs(), self.balls.error[k])
        g = self.held.pop(0, None)
        return total if g is None else total + self._input(g)

    def _input(self, g: Tensor) -> Tensor:
        """The least of g·x over the balls, less its rounding."""
        flat, x = g.flatten(1), self.balls.x
        length = flat.norm(dim=1) if self.balls.norm == "l2" else flat.abs().sum(1)
        spread = self.balls.radius[self.owner] * length
        rounding = 4 * flat.shape[1] * UNIT * (self._dot(g.abs(), x.abs()) + spread)
        return self._dot(g, x) - spread - rounding

    def _back(self, k: int, g: Tensor) -> Tensor | float:
        """Coefficients of a node as coefficients of its parents, added to those held; returns the constant that comes free."""
        node = self.network.nodes[k]
        first = node.parents[0]
        if node.kind == "affine":
            assert node.affine is not None
            shape = self.network.nodes[first].shape
            self._give(first, node.affine.back(g, shape))
            return 0.0 if node.offset is None else g.flatten(1) @ node.offset.flatten()
        if node.kind == "sum":
            for parent, factor in zip(node.parents, node.factors, strict=True):
                self._give(parent, g if factor == 1 else factor * g)
            return 0.0
        if node.kind == "join":
            sizes = [self.network.nodes[p].shape[node.dim] for p in node.parents]
            for parent, part in zip(node.parents, torch.split(g, sizes, node.dim + 1), strict=True):
                self._give(parent, part)
            return 0.0
        if node.kind == "radial":
            self._give(first, self.balls.tangents[k].times(g, self.owner))
            return self._dot(g, self.balls.tangents[k].offset)
        lines = self.balls.lines[k]
        up, down = g.clamp(min=0), g.clamp(max=0)
        constant = self._dot(down, lines.d)
        if lines.b is not None:
            constant = constant + self._dot(up, lines.b)
        self._give(first, up.mul_(lines.a[self.owner]).addcmul_(down, lines.c[self.owner]))
        return constant

    def _give(self, parent: int, value: Tensor) -> None:
        self.held[parent] = self.held[parent] + value if parent in self.held else value

    def _dot(self, g: Tensor, per_sample: Tensor) -> Tensor:
        if len(self.owner) == 1:
            return g.flatten(1) @ per_sample[int(self.owner)].flatten()
        return (g * per_sample[self.owner]).flatten(1).sum(1)
