"""Bounds of every activation's argument on balls: first cheaply forwards, then backwards where the sign is still open."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from residyn.robust.graph import Network, Node, evaluate
from residyn.robust.linear_bounds import UNIT, Balls, lower_bounds
from residyn.robust.lines import Bent
from residyn.robust.radial import Tangent, tangent

Bounds = tuple[Tensor, Tensor]


def enclose(network: Network, balls: Balls, known: dict[int, Bounds], *, columns: bool, work: float) -> None:
    """Bounds the argument of each active node over the balls, in turn, and with it the lines of that node.

    Args:
        network: The network.
        balls: The balls; lines, sizes and errors are filled in.
        known: Bounds by node that hold already; replaced by the new ones.
        columns: Whether to go forwards first.
        work: Most coefficients that may be computed backwards for one node; bounds from forwards stand beyond.
    """
    forward = Columns(network, balls) if columns else None
    for k, node in enumerate(network.nodes):
        if node.kind not in ("active", "radial"):
            balls.note(k, node)
        else:
            parent = node.parents[0]
            low, high = _start(balls, parent, known.get(k))
            if forward is not None:
                ahead = forward.bounds(parent)
                low, high = torch.maximum(low, ahead[0]), torch.minimum(high, ahead[1])
            only_sign = isinstance(node.activation, Bent)
            low, high = _refined(network, balls, parent, low, high, only_sign=only_sign, work=work)
            known[k] = low, torch.maximum(low, high)
            if node.kind == "active":
                balls.note_active(k, node, *known[k])
            else:
                balls.note_radial(k, _tangent(network, balls, k, known[k], forward))
        if forward is not None:
            forward.step(k)


def _tangent(network: Network, balls: Balls, k: int, bounds: Bounds, forward: Columns | None) -> Tangent:
    """The tangent of a radial node at the middle of what its argument may be."""
    low, high = bounds
    c0 = (low + high) / 2
    apart = torch.maximum(high - c0, c0 - low)
    length = apart.norm(dim=-1, keepdim=True) * (1 + 1e-12)
    if forward is not None and balls.norm == "l2":
        length = torch.minimum(length, forward.distance(network.nodes[k].parents[0], c0))
    return tangent(c0, network.nodes[k].eps, apart, length)


def _start(balls: Balls, parent: int, known: Bounds | None) -> Bounds:
    size = balls.size[parent] + balls.error[parent] if parent in balls.error else balls.size[parent]
    if known is None:
        return -size, size
    return torch.maximum(known[0], -size), torch.minimum(known[1], size)


def _refined(network: Network, balls: Balls, node: int, low: Tensor, high: Tensor, *, only_sign: bool, work: float) -> Bounds:
    """Backward bounds of entries; with `only_sign`, of those alone that have two signs, as others are linear already."""
    shape = low.shape[1:]
    entries = math.prod(shape)
    wanted = (low < 0) & (high > 0) if only_sign else high > low
    owner, entry = wanted.flatten(1).nonzero().unbind(1)
    passed = sum(math.prod(n.shape) for n in network.nodes[:node])
    most = int(work * len(low) / passed)
    if len(owner) > most:  # those whose lines are furthest apart first
        apart = torch.minimum(-low, high) if only_sign else high - low
        kept = apart.flatten(1)[owner, entry].topk(most).indices.sort().values
        owner, entry = owner[kept], entry[kept]
    if not len(owner):
        return low, high
    low, high = low.clone().flatten(1), high.clone().flatten(1)
    step = max(1, 2**22 // entries)
    for o, e in zip(torch.split(owner, step), torch.split(entry, step), strict=True):
        rows = torch.zeros(len(o), entries, dtype=torch.float64, device=low.device)
        rows[torch.arange(len(o), device=low.device), e] = 1.0
        rows = rows.reshape(-1, *shape)
        low[o, e] = torch.maximum(low[o, e], lower_bounds(network, balls, node, rows, o))
        high[o, e] = torch.minimum(high[o, e], -lower_bounds(network, balls, node, -rows, o))
    return low.reshape(-1, *shape), high.reshape(-1, *shape)


class Columns:
    """Forwards: each value is c + A·δ + e, |e| bounded entry by entry, A one column an input value.

    Args:
        network: The network.
        balls: The balls.

    Reference:
        Affine forms with one error term an entry: de Figueiredo & Stolfi (2004), doi:10.1023/B:NUMA.0000049462.70970.b6.
    """

    def __init__(self, network: Network, balls: Balls) -> None:
        self.network, self.balls = network, balls
        self.inputs = balls.x[0].numel()
        self.held: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # c, A, bound on e
        self.spread: dict[int, Tensor] = {}  # the most that A·δ comes to on the ball
        self.last = {p: k for k, n in enumerate(network.nodes) for p in n.parents}

    def step(self, k: int) -> None:
        """One node, whose sizes and lines are known."""
        node = self.network.nodes[k]
        parts = [self.held[p] for p in node.parents]
        centre, columns, rest = self._made(k, parts)
        if node.kind != "input":
            rest = (rest + self.balls.error[k] + self._rounding(k, parts)).clamp(min=0)
        self.held[k] = centre, columns, rest
        each = columns.reshape(len(self.balls.x), self.inputs, *columns.shape[1:])
        length = each.norm(dim=1) if self.balls.norm == "l2" else each.abs().sum(1)
        radius = self.balls.radius.reshape(-1, *[1] * (length.ndim - 1))
        self.spread[k] = radius * length * (1 + 4 * (self.inputs + 8) * UNIT)
        for parent in node.parents:
            if self.last[parent] == k:
                del self.held[parent], self.spread[parent]

    def bounds(self, k: int) -> Bounds:
        """The range of a node's value over each ball."""
        centre, _, rest = self.held[k]
        reach = (self.spread[k] + rest) * (1 + 8 * UNIT) + 8 * UNIT * centre.abs()
        return centre - reach, centre + reach

    def distance(self, k: int, c0: Tensor) -> Tensor:
        """How far a node's value may be from c₀ along its last axis, over each ball, `(B, …, 1)`: r·‖A‖₂ and the rest."""
        centre, columns, rest = self.held[k]
        A = columns.reshape(len(centre), self.inputs, *centre.shape[1:]).movedim(1, -2)  # (B, …, inputs, n)
        gram = A.mT @ A if A.shape[-1] <= A.shape[-2] else A @ A.mT
        top = torch.linalg.eigvalsh(gram)[..., -1:].clamp(min=0)
        # an eigenvalue of a computed Gram matrix is right to as many roundings of its trace as the matrix has rows and terms
        slack = 8 * sum(A.shape[-2:]) * UNIT * gram.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
        spread = self.balls.radius.reshape(-1, *[1] * (top.ndim - 1)) * (top + slack).sqrt()
        return (spread + ((centre - c0).abs() + rest).norm(dim=-1, keepdim=True)) * (1 + 1e-12)

    def _made(self, k: int, parts: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        """The form of a node, but for rounding."""
        node, balls = self.network.nodes[k], self.balls
        if node.kind == "input":
            eye = torch.eye(self.inputs, dtype=torch.float64, device=balls.x.device).reshape(self.inputs, *node.shape)
            return balls.x, eye.repeat(len(balls.x), *[1] * len(node.shape)), torch.zeros_like(balls.x)
        centres, columns, rests = (list(held) for held in zip(*parts, strict=True))
        if node.kind == "radial":
            found = balls.tangents[k]
            each = columns[0].reshape(len(balls.x), self.inputs, *node.shape).movedim(0, 1)
            moved = torch.stack([found.times(column, slice(None)) for column in each], 1).reshape(columns[0].shape)
            return found.times(centres[0], slice(None)) + found.offset, moved, found.at_most(rests[0])
        if node.kind == "active":
            lines = balls.lines[k]
            least = torch.zeros_like(lines.d) if lines.b is None else lines.b
            slopes = lines.c.unsqueeze(1).expand(-1, self.inputs, *[-1] * (lines.c.ndim - 1)).reshape(columns[0].shape)
            return (
                lines.c * centres[0] + (least + lines.d) / 2,
                slopes * columns[0],
                lines.c.abs() * rests[0] + (lines.d - least) / 2,
            )
        if node.kind == "affine":
            assert node.affine is not None
            moved = node.affine.apply(columns[0]) - (0.0 if node.offset is None else node.offset)
            return node.affine.apply(centres[0]), moved, self._absolute(node, rests[0])
        if node.kind == "join":
            return evaluate(node, centres), evaluate(node, columns), evaluate(node, rests)
        rest = sum((abs(c) * r for c, r in zip(node.factors, rests, strict=True)), torch.zeros_like(rests[0]))
        return evaluate(node, centres), evaluate(node, columns), rest

    def _absolute(self, node: Node, size: Tensor) -> Tensor:
        """|A|·size, without the offset."""
        assert node.affine is not None
        return node.affine.absolute(size) - node.affine.absolute(torch.zeros_like(size[:1]))

    def _rounding(self, k: int, parts: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """Of c and A·δ: as many roundings as there are products, of sums as large as those of |c| and of the spread of A·δ."""
        node = self.network.nodes[k]
        masses = [part[0].abs() + self.spread[p] for p, part in zip(node.parents, parts, strict=True)]
        if node.kind == "affine":
            assert node.affine is not None
            return 4 * UNIT * (node.affine.terms + 8) * node.affine.absolute(masses[0])
        if node.kind == "join":
            return 8 * UNIT * evaluate(node, masses)
        if node.kind == "radial":
            return 8 * UNIT * (node.shape[-1] + 8) * (self.balls.tangents[k].at_most(masses[0]) + self.balls.size[k])
        if node.kind == "active":
            lines = self.balls.lines[k]
            return 8 * UNIT * (lines.c.abs() * masses[0] + lines.d.abs() + (0 if lines.b is None else lines.b.abs()))
        return 8 * UNIT * sum((abs(c) * m for c, m in zip(node.factors, masses, strict=True)), torch.zeros_like(masses[0]))
