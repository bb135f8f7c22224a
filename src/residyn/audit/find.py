"""Residual blocks in a graph: sums of a tensor and what was computed from it.

A sum a + b of two tensors of one shape is residual if a, perhaps scaled, resampled or projected, is an ancestor of b and the
way from a to b mixes elements by products (with weights, unless the product itself is one of data: attention, a Fourier
transform). What merely gates, shifts or interpolates its own input (GRN, the cubic of GELU, rotary positions, token shift) has
no such way. Sums that share their skip are one block of several branches.

Some sums count only as part of a stream, which is skipped around again, joined to others or returned: those whose skip is a
slice, a gate's product or subtracted (a misfit A·x - b), those without weights on the way (a graph's sum over neighbours), and
those whose branch is used elsewhere too. A recurrence over the slices of its input (an LSTM written out) has no blocks.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from residyn.audit import operations
from residyn.audit.graph import Graph, Node, bits

Kind = Literal["identity", "scaled", "projection", "resample", "elementwise"]


@dataclass
class Sum:
    """A residual sum, out = skip + Σ branches, where skip comes from source.

    Args:
        node: Index of the operation.
        source: The value that skips.
        skip: The term it arrives as.
        branches: The other terms.
        out: The value of the whole sum.
        kind: What happens to source on its way to skip.
        conditions: Why it might not be a block after all, to be decided when all sums are known.
        nodes: All operations of the block, when several sums share the skip.
        places: For each of them, which term is the skip, or the sum so far.
    """

    node: int
    source: int
    skip: int
    branches: list[int]
    out: int
    kind: Kind
    conditions: set[str] = field(default_factory=set)
    nodes: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Step:
    """Where a walk back along a skip has come, and what it met."""

    value: int
    scaled: bool = False
    vector: bool = False
    gated: bool = False
    resampled: bool = False
    sliced: bool = False
    weights: int = 0
    cost: float = 0.0
    parameters: int = 0

    @property
    def rank(self) -> tuple[float, int]:
        """The plainer of two skips ranks lower."""
        return self.cost, self.gated + self.sliced + self.scaled + self.vector + self.resampled

    @property
    def kind(self) -> Kind:
        if self.weights:
            return "projection"
        if self.resampled:
            return "resample"
        return "scaled" if self.scaled or self.vector else "identity"


class Finder:
    """Looks for residual sums in a graph.

    Args:
        graph: What a tracer saw.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.mixed = self.pooled = 0
        for node in graph.nodes:
            made = sum(1 << v for v in node.outputs)
            if operations.mixes(node.op):
                self.mixed |= made
            elif node.op in operations.POOLS:
                self.pooled |= made
        self.sums: list[Sum] = []
        self.gates: list[Sum] = []
        self.made: dict[int, Sum] = {}

    def run(self) -> list[Sum]:
        """All residual blocks, in order."""
        for index, node in enumerate(self.graph.nodes):
            if len(node.terms) >= 2:
                self._judge(index, node)
        kept: list[Sum] = []
        for s in self.sums:
            if not s.conditions or self._goes_on(s) or self._carries_on(s, kept):
                kept.append(s)
            else:
                self.gates.append(s)
        return kept

    # -- one sum ----------------------------------------------------------------------------------------------------------

    def _judge(self, index: int, node: Node) -> None:
        """Decide whether a sum is residual, or adds a branch to one that is."""
        terms = list(node.terms)
        if self._extends(index, node):
            return
        best: tuple[tuple[float, int], Sum] | None = None
        for place, skip in enumerate(terms):
            others = [v for i, v in enumerate(terms) if i != place]
            found = self._skipping(index, node, skip, others)
            if found is not None and (best is None or found[0] < best[0]):
                best = found
        if best is not None:
            self.sums.append(best[1])
            self.made[node.outputs[0]] = best[1]

    def _skipping(self, index: int, node: Node, skip: int, others: list[int]) -> tuple[tuple[float, int], Sum] | None:
        """The block that a term is the skip of, with the rank of that skip."""
        for step, live in self._back(skip, others):
            found = self._block(index, node, step, skip, live)
            if found is not None:
                return step.rank, found
        return None

    def _block(self, index: int, node: Node, step: _Step, skip: int, live: list[int]) -> Sum | None:
        """The block of a skip and the branches that come from its source, if it is one."""
        graph = self.graph
        working = [b for b in live if self._works(step.value, b, step)]
        if not working:
            return None
        if step.sliced and step.weights:
            return None  # a part of the input, projected: the input of a recurrence, not a skip
        weighted = any(graph.path(step.value, b) & graph.weighted for b in working)
        if (step.gated or not weighted) and self._recurrent(step.value, node.terms):
            return None
        found = Sum(index, step.value, skip, working, node.outputs[0], step.kind)
        found.nodes, found.places = [index], [node.terms.index(skip)]
        if all(self._gate(step.value, b) for b in working):
            found.kind = "elementwise"
            self.gates.append(found)
            return None
        if step.sliced:
            found.conditions.add("slice")
        if not weighted:
            found.conditions.add("no weights")
        if node.minus == node.terms.index(skip):
            found.conditions.add("the skip is subtracted")
        if step.vector:
            found.conditions.add("scaled by a vector")
        if step.gated:
            found.conditions.add("gated")
        if not graph.dynamic >> step.value & 1:
            found.conditions.add("static")
        if any(self._used_elsewhere(b, index) for b in working):
            found.conditions.add("branch used elsewhere")
        if step.weights and self._opens(found.out):
            found.kind = "elementwise"
            self.gates.append(found)
            return None
        return found

    def _works(self, source: int, branch: int, step: _Step) -> bool:
        """Whether the way from source to branch is a branch: it mixes, and outweighs the skip."""
        path = self.graph.path(source, branch)
        weights = path & self.graph.weighted
        if not path & self.mixed and not (path & self.pooled and weights):
            return False
        if not step.weights:
            return True
        mixing = [self.graph.producer(v) for v in bits(path & self.mixed & self.graph.weighted)]
        nodes = {id(n): n for n in mixing if n is not None}
        if any(self.graph.weights(n) & step.parameters for n in nodes.values()):
            return False  # the same projection within the branch: the input of an iteration, put in at each turn
        heavier = len(nodes) > step.weights and sum(n.cost for n in nodes.values()) > step.cost
        return heavier and not any(self._crosses(step.value, path, s) for s in self.sums)

    def _crosses(self, source: int, path: int, other: Sum) -> bool:
        """Whether the source lies in another block's branch, and the way from it leaves that block by its sum.

        So do outputs that are gathered over depth (WaveNet): they are sums of side branches and have no skip.
        """
        return bool(path >> other.out & 1) and not self.graph.ancestors[other.skip] >> source & 1

    def _recurrent(self, source: int, terms: tuple[int, ...]) -> bool:
        """Whether a further slice of something that the source comes from enters here: the next time step."""
        graph = self.graph
        past = graph.ancestors[source]
        new = 0
        for term in terms:
            new |= graph.ancestors[term]
        new &= graph.dynamic & ~graph.descendants[source] & ~past
        for v in bits(new):
            node = graph.producer(v)
            if node is not None and node.form == "slice" and any(past >> u & 1 for u in node.inputs):
                return True
        return False

    def _extends(self, index: int, node: Node) -> bool:
        """Whether this sum adds one more branch to a block: (x + F(x)) + G(x) with G from x and not from the inner sum."""
        if len(node.terms) != 2:
            return False
        for inner, other in (node.terms, node.terms[::-1]):
            block = self.made.get(self._same(inner))
            if block is None or self.graph.ancestors[other] >> block.out & 1:
                continue
            if self.graph.ancestors[other] >> block.source & 1 and self._works(block.source, other, _Step(block.source)):
                del self.made[block.out]
                block.branches.append(other)
                block.out = node.outputs[0]
                block.nodes.append(index)
                block.places.append(node.terms.index(inner))
                self.made[block.out] = block
                return True
        return False

    def _back(self, start: int, others: list[int]) -> Iterator[tuple[_Step, list[int]]]:
        """Ancestors of other terms at which a term arrives by a light way, and those terms.

        The way is made of views, scales, resampling and at most one projection with its norm. Behind the nearest such
        ancestor it is not followed: what lies there is shared by skip and branch.
        """
        queue, seen = deque([_Step(start)]), {start}
        while queue:
            step = queue.popleft()
            live = [b for b in others if step.value != b and self.graph.ancestors[b] >> step.value & 1]
            if live:
                yield step, live
                continue
            node = self.graph.producer(step.value)
            for follow in self._before(step, node) if node is not None else ():
                if follow.value not in seen:
                    seen.add(follow.value)
                    queue.append(follow)

    def _before(self, step: _Step, node: Node) -> Iterator[_Step]:
        """The steps behind an operation on the way back."""
        graph = self.graph
        s, into = step, [v for v in node.inputs if graph.values[v].floating]
        live = [v for v in into if graph.dynamic >> v & 1]
        more = {"scaled": s.scaled, "vector": s.vector, "gated": s.gated, "resampled": s.resampled, "sliced": s.sliced}
        rest: dict[str, Any] = {"weights": s.weights, "cost": s.cost, "parameters": s.parameters}
        if node.form == "same" and into:
            yield _Step(into[0], **more, **rest)
        elif node.form in ("scale", "resample", "slice") and into:
            flag = {"scale": "scaled", "resample": "resampled", "slice": "sliced"}[node.form]
            yield _Step(into[0], **{**more, flag: True}, **rest)
        elif node.op in ("mul", "div") and not s.weights:
            for v in live or into[:1]:
                others = [u for u in into if u != v]
                vector = any(not graph.dynamic >> u & 1 and _many(graph.values[u].shape) for u in others)
                gated = any(graph.dynamic >> u & 1 and not self._complement(u) for u in others)
                yield _Step(v, **{**more, "scaled": True, "vector": s.vector or vector, "gated": s.gated or gated}, cost=s.cost)
        elif node.op in operations.NORMS and live:
            yield _Step(live[0], **{**more, "scaled": True}, **rest)
        elif node.op in ("max", "amax", "cat") and len(live) == 1:  # pooled over an axis, or padded
            yield _Step(live[0], **{**more, "resampled": True}, **rest)
        elif node.op == "cat":  # a part of the skip is the source, the rest goes beside it; the largest part first
            for v in sorted(live, key=lambda v: -math.prod(graph.values[v].shape)):
                yield _Step(v, **{**more, "sliced": True}, **rest)
        elif node.op in operations.ACTIVATIONS and s.weights and len(live) == 1:
            yield _Step(live[0], **more, **rest)
        elif (
            operations.mixes(node.op)
            and len(live) == 1
            and s.weights == 0
            and any(part in node.op for part in ("linear", "conv", "mm", "matmul", "einsum"))
        ):
            yield _Step(live[0], **more, weights=1, cost=s.cost + node.cost, parameters=graph.weights(node))
        elif node.op in ("add", "sub") and len(into) == 2 and len(live) == 1:  # a bias added by hand
            yield _Step(live[0], **more, **rest)

    # -- what is no block -------------------------------------------------------------------------------------------------

    def _gate(self, source: int, branch: int) -> bool:
        """Whether the branch is source·g, so that the sum is the gate source·(1 + g)."""
        node = self.graph.producer(branch)
        while node is not None:
            live = [v for v in node.inputs if self.graph.dynamic >> v & 1]
            if node.op == "mul" and len(live) == 2:
                return any(self._same(v) == self._same(source) for v in live)
            if len(live) != 1 or not (node.form in ("same", "scale") or node.op in ("mul", "div") or node.terms):
                return False
            node = self.graph.producer(live[0])
        return False

    def _opens(self, value: int) -> bool:
        """Whether a sum of two projections is but the argument of a gate: σ(W·x + U·y) that multiplies something else."""
        opened = False
        todo = [(value, False)]
        while todo:
            at, active = todo.pop()
            for i in self.graph.consumers[at]:
                node = self.graph.nodes[i]
                live = [v for v in node.inputs if self.graph.dynamic >> v & 1]
                if active and (node.op == "mul" and len(live) == 2):
                    opened = True
                elif node.op in operations.ACTIVATIONS and not active:
                    todo += [(v, True) for v in node.outputs]
                elif node.form in ("same", "scale") or (node.op in ("add", "sub", "rsub", "mul", "div") and len(live) == 1):
                    todo += [(v, active) for v in node.outputs]
                else:
                    return False
        return opened

    def _complement(self, gate: int) -> bool:
        """Whether a gate is one less another, as in t·H + (1 - t)·x."""
        node = self.graph.producer(self._same(gate))
        return node is not None and node.op in ("rsub", "sub") and len(node.inputs) == 1

    def _used_elsewhere(self, branch: int, index: int) -> bool:
        """Whether a branch ends in other operations than this sum as well."""
        todo, seen = [branch], {branch}
        while todo:
            for i in self.graph.consumers[todo.pop()]:
                node = self.graph.nodes[i]
                if i == index:
                    continue
                if node.form != "same":
                    return True
                todo += [v for v in node.outputs if v not in seen]
                seen.update(node.outputs)
        return False

    def _goes_on(self, found: Sum) -> bool:
        """Whether the sum is a stream: it is skipped around again, joined to others or returned, perhaps normalised first."""
        sources = {s.source for s in self.sums if s is not found}
        todo, seen = [found.out], {found.out}
        while todo:
            value = todo.pop()
            if value in sources or value in self.graph.outputs:
                return True
            for i in self.graph.consumers[value]:
                node = self.graph.nodes[i]
                into = node.op in ("write", "setitem") and len(node.inputs) > 1
                if node.op == "cat" or (into and self.graph.ancestors[value] >> node.inputs[0] & 1):
                    return True  # beside others, or put back into what it is a part of
                light = (
                    node.form in ("same", "scale", "slice") or node.op in operations.NORMS or node.op in operations.ACTIVATIONS
                )
                if light or self._normalises(node, value):
                    todo += [v for v in node.outputs if v not in seen]
                    seen.update(node.outputs)
        return False

    def _normalises(self, node: Node, value: int) -> bool:
        """Whether an operation shifts or scales a value by constants, or by its own statistics, as a norm written out does."""
        if node.op not in ("add", "sub", "mul", "div"):
            return False
        others = [v for v in node.inputs if v != value and self.graph.dynamic >> v & 1]
        size = math.prod(self.graph.values[value].shape)
        return all(
            self.graph.ancestors[v] >> value & 1
            and math.prod(self.graph.values[v].shape) < size
            and not self.graph.path(value, v) & (self.mixed | self.graph.weighted)
            for v in others
        )

    def _carries_on(self, found: Sum, kept: list[Sum]) -> bool:
        """Whether the sum is the last of a stream of steps without weights, x - ηLx."""
        return found.conditions == {"no weights"} and any(s.out == self._same(found.source) and s.conditions for s in kept)

    def _same(self, value: int) -> int:
        """The value behind views and copies."""
        node = self.graph.producer(value)
        while node is not None and node.form == "same" and node.inputs:
            value = node.inputs[0]
            node = self.graph.producer(value)
        return value


def _many(shape: tuple[int, ...]) -> bool:
    return any(size != 1 for size in shape)
