"""The same graph a second time, read off what autograd recorded: a witness that never looked at Python."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from residyn.audit import operations
from residyn.audit.find import Finder, Sum
from residyn.audit.graph import Graph, Node
from residyn.audit.trace import fan


def recorded(model: nn.Module, roots: list[Tensor], outputs: list[Tensor]) -> Graph:
    """The graph behind some outputs, by following gradient functions back.

    Args:
        model: The model; its parameters are told from inputs.
        roots: The model's floating-point inputs, which require gradients.
        outputs: What it returned.

    Returns:
        The graph; empty if nothing of it requires a gradient.
    """
    reader = _Reader({id(p) for p in model.parameters()}, {id(t) for t in roots})
    functions = [t.grad_fn for t in outputs if t.grad_fn is not None]
    for function in _ordered(functions):
        reader.read(function)
    found = [reader.values.get((f, t.output_nr)) for f, t in zip(functions, outputs, strict=False)]
    reader.graph.outputs = [v for v in found if v is not None]
    return reader.graph


def _ordered(ends: list[Any]) -> list[Any]:
    """All gradient functions behind some, each after those it needs."""
    done: set[Any] = set()
    order: list[Any] = []
    stack = [(f, False) for f in ends]
    while stack:
        function, left = stack.pop()
        if left:
            order.append(function)
        elif function not in done:
            done.add(function)
            stack.append((function, True))
            stack += [(f, False) for f, _ in function.next_functions if f is not None and f not in done]
    return order


class _Reader:
    """Turns gradient functions into nodes."""

    def __init__(self, parameters: set[int], roots: set[int]) -> None:
        self.graph = Graph()
        self.parameters, self.roots = parameters, roots
        self.fixed = 0  # the values that come from parameters alone, as bits
        self.values: dict[tuple[Any, int], int] = {}

    def read(self, function: Any) -> None:
        """Add one gradient function, whose inputs have been added."""
        shapes = [tuple(m.shape) for m in function._input_metadata]
        variable = getattr(function, "variable", None)
        if variable is not None:
            origin: Any = "parameter" if id(variable) in self.parameters else "input"
            made = self.values[function, 0] = self.graph.value(shape=tuple(variable.shape), origin=origin)
            self.fixed |= (origin == "parameter") << made
            return
        inputs = tuple(self.values[f, i] for f, i in function.next_functions if f is not None and (f, i) in self.values)
        op = _name(function)
        if op == "embedding":  # its indices have no gradient, but they are the input
            inputs = (*inputs, self.graph.value(shape=(), origin="input", floating=False))
        outs = tuple(self.graph.value(shape=shape, origin="computed") for shape in shapes)
        for i, out in enumerate(outs):
            self.values[function, i] = out
        node = Node(op, inputs, outs, sequence=int(function._sequence_nr()))
        self._form(node, function, shapes[0] if shapes else ())
        self.graph.add(node)

    def _form(self, node: Node, function: Any, shape: tuple[int, ...]) -> None:
        op, inputs, values = node.op, node.inputs, self.graph.values
        alike = [v for v in inputs if values[v].shape == shape]
        if op in operations.SAME:
            node.form = "same"
        elif op in operations.RESAMPLE:
            node.form = "resample"
        elif op == "slice":
            size = function._saved_self_sym_sizes[function._saved_dim]
            node.form = "same" if size == shape[function._saved_dim] else "slice" if function._saved_step == 1 else "resample"
        elif op in operations.PARTS:
            node.form = "slice"
        elif op in ("mul", "div", "neg") and len(inputs) == 1:
            node.form = "scale"
        elif op in ("add", "sub", "rsub", "lerp") and len(alike) >= 2:
            flipped = op != "lerp" and float(getattr(function, "_saved_alpha", 1).real) < 0
            node.minus = (0 if op == "rsub" else 1) if (op in ("sub", "rsub")) != flipped and op != "lerp" else -1
            node.op, node.terms = "add", tuple(alike[:2])
        elif op == "add" and len(inputs) == 1:
            node.form = "same"
        elif (
            op in ("addmm", "baddbmm", "addcmul", "addcdiv", "addbmm") and len(inputs) == 3 and values[inputs[0]].shape == shape
        ):
            product = self.graph.value(shape=shape, origin="computed")
            self.graph.add(Node("mul" if op.startswith("addc") else "matmul", inputs[1:], (product,)))
            node.op, node.terms = "add", (inputs[0], product)
            node.inputs = node.terms
        elif op in ("sum", "mean") and inputs:
            maker = self.graph.producer(inputs[0])
            if maker is not None and maker.op == "stack" and all(values[v].shape == shape for v in maker.inputs):
                node.op, node.terms, node.inputs = "add", maker.inputs, maker.inputs
        if operations.mixes(node.op):
            known = [v for v in inputs if self.fixed >> v & 1 and len(values[v].shape) >= 2]
            weights = [values[v].shape for v in known or inputs[1:] if len(values[v].shape) >= 2]
            node.cost = _size(shape) * max((fan(w, op) for w in weights), default=1.0)
        if inputs and all(self.fixed >> v & 1 for v in inputs):
            self.fixed |= sum(1 << v for v in node.outputs)


def _name(function: Any) -> str:
    """The operation that a gradient function belongs to."""
    name = type(function).__name__
    if not re.search(r"Backward\d*$", name) or "CFunction" in str(type(function).__mro__):
        return "unknown"
    name = re.sub(r"Backward\d*$", "", name)
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return re.sub(r"(\d)_d\b", r"\1d", snake)


def _size(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


def disagreements(graph: Graph, blocks: list[Sum], gates: list[Sum], witness: Graph) -> list[str]:
    """Where the blocks of the traced graph and those of the autograd graph are not the same sums.

    Sums within one operation (a recurrent layer of torch) are that operation's own matter.

    Args:
        graph: The traced graph.
        blocks: The blocks found in it.
        gates: The sums in it that were judged to be no blocks; autograd cannot tell which of them depend on the input.
        witness: The autograd graph of the same forward pass.

    Returns:
        One line each.
    """
    theirs = {witness.nodes[i].sequence for s in Finder(witness).run() for i in s.nodes}
    known = {node.sequence for node in witness.nodes if node.terms}
    ours = {graph.nodes[i].sequence for s in blocks for i in s.nodes}
    ours |= {graph.nodes[i].sequence for s in gates if "static" in s.conditions for i in s.nodes}
    seen = {node.sequence: node for node in graph.nodes if node.sequence >= 0}
    lines = []
    for block in blocks:
        numbers = {graph.nodes[i].sequence for i in block.nodes}
        if numbers & known and not numbers & theirs and "static" not in block.conditions:
            path = graph.nodes[block.node].key[0]
            lines.append(f"the sum in `{path or 'model'}` counts as a block, but autograd recorded no such block")
    for number in sorted(theirs - ours):
        if number in seen:
            lines.append(
                f"autograd recorded a residual sum in `{seen[number].key[0] or 'model'}` that the trace does not count"
            )
            continue
        around = min((n for n in seen if n > number), default=-1)
        if around < 0 or not re.search("lstm|gru|rnn", seen[around].op):
            where = f"`{seen[around].key[0] or 'model'}`, within {seen[around].op}" if around >= 0 else "an operation"
            lines.append(f"autograd recorded a residual sum in {where}, where the trace does not see")
    return lines
