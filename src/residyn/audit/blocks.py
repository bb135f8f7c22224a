"""A residual block of a model, and the numbers that are known of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from residyn.audit import operations
from residyn.audit.find import Kind, Sum
from residyn.audit.graph import Graph
from residyn.results import Estimate, EstimateKind


class Measured(float):
    """A number with its standing, as an `Estimate`, that can be reckoned with.

    >>> m = Measured(2.0, "lower")
    >>> m + 1, m.kind
    (3.0, 'lower')
    """

    kind: EstimateKind
    iterations: int
    converged: bool

    def __new__(  # noqa: D102
        cls, value: float, kind: EstimateKind = "estimate", iterations: int = 0, converged: bool = True
    ) -> Measured:
        number = super().__new__(cls, value)
        number.kind, number.iterations, number.converged = kind, iterations, converged
        return number

    @classmethod
    def of(cls, estimate: Estimate) -> Measured:
        """The same number as an `Estimate` says it."""
        return cls(estimate.value, estimate.kind, estimate.iterations, estimate.converged)

    def __getnewargs__(self) -> tuple[float, EstimateKind, int, bool]:  # type: ignore[override]  # what pickle and copy hand to __new__
        return float(self), self.kind, self.iterations, self.converged


@dataclass
class Block:
    """One residual block: out = skip + F(source). What was not measured is `None`.

    Args:
        name: Its name, unique in the model.
        kind: What the skip is: `"identity"`, `"scaled"`, `"projection"` or `"resample"`.
        module: Path of the module whose code makes the sum; empty for the model itself.
        call: How often that module had been called before, for modules that are used more than once.
        branches: Paths of the modules that the branches end with; empty for code without a module of its own.
        shape: Shape of the sum.
        keys: Where its sums stand, for `Audit.patch`.
        normalised: Whether a norm is all that the sum goes into: post-norm.
        size: Root mean square of the sum.
        ratio: ‖F(x)‖/‖skip‖, mean over samples.
        cosine: Cosine between skip and sum, mean over samples.
        influence: 1 - mean cosine between source and sum, position by position.
        jacobian_norm: ‖∂F/∂x‖₂ at the inputs, the largest over the samples.
        spectrum: Leading eigenvalues of ∂F/∂x, estimates.
        max_step: Largest h at which x + h·F(x) does not grow along the leading eigenvalues.
        gradient_norm: Norm of the gradient of the loss with respect to the sum.
        dropped: What leaving the branch out does to the metric; without targets, the relative change of the output.
        bound: Certified Lipschitz constant K_F of the branch.
    """

    name: str
    kind: Kind
    module: str
    call: int
    branches: tuple[str, ...]
    shape: tuple[int, ...]
    keys: tuple[tuple[tuple[str, int, int], int], ...] = field(repr=False, default=())
    normalised: bool = False
    size: Measured | None = None
    ratio: Measured | None = None
    cosine: Measured | None = None
    influence: Measured | None = None
    jacobian_norm: Measured | None = None
    spectrum: tuple[complex, ...] = ()
    max_step: Measured | None = None
    gradient_norm: Measured | None = None
    dropped: Measured | None = None
    bound: Measured | None = None


def describe(graph: Graph, sums: list[Sum]) -> list[Block]:
    """Blocks, with names, for the sums that the finder kept.

    Args:
        graph: The graph they were found in.
        sums: Residual sums.

    Returns:
        As many blocks.
    """
    blocks = []
    for s in sums:
        node = graph.nodes[s.nodes[-1]]
        path, call, _ = node.key
        ends = tuple(_end(graph, s, b) for b in s.branches)
        keys = tuple((graph.nodes[i].key, place) for i, place in zip(s.nodes, s.places, strict=True))
        blocks.append(Block("", s.kind, path, call, ends, graph.values[s.out].shape, keys, _normalised(graph, s.out)))
    often = Counter((b.module, b.call) for b in blocks)
    taken: Counter[str] = Counter()
    for block in blocks:
        single = often[block.module, block.call] == 1
        name = block.module if single else next((e for e in block.branches if e), block.module)
        name = (name or "model") + (f"@{block.call}" if block.call else "")
        taken[name] += 1
        block.name = name if taken[name] == 1 else f"{name}#{taken[name]}"
    return blocks


def _normalised(graph: Graph, out: int) -> bool:
    """Whether all that reads a sum is a norm, views aside."""
    todo, found = [out], False
    while todo:
        for i in graph.consumers[todo.pop()]:
            node = graph.nodes[i]
            if node.op in operations.NORMS:
                found = True
            elif node.form == "same":
                todo += node.outputs
            else:
                return False
    return found


def _end(graph: Graph, found: Sum, branch: int) -> str:
    """Path of the largest module that ends in a branch and lies within the module of the sum; empty if none does."""
    here = graph.nodes[found.node].call
    node = graph.producer(branch)
    while node is not None and node.call == here and (node.form in ("same", "scale") or node.op in ("mul", "div", "add")):
        live = [v for v in node.inputs if graph.dynamic >> v & 1]
        if len(live) != 1:
            return ""
        node = graph.producer(live[0])
    if node is None or node.call == here:
        return ""
    for call in graph.around(node.call):
        if graph.calls[call].parent == here:
            return graph.calls[call].path
    return ""
