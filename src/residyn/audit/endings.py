"""Where branches end: the module whose output is what a sum adds, or the reason why there is none."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from residyn.audit.blocks import Block
from residyn.audit.find import Sum
from residyn.audit.graph import Graph
from residyn.errors import InputError


@dataclass(frozen=True)
class Ending:
    """The end of one branch.

    Args:
        module: Path of the module that it ends with.
        place: Which of the tensors that the module returns.
        shape: Shape of that tensor.
    """

    module: str
    place: int
    shape: tuple[int, ...]


def endings(graph: Graph, block: Block, found: Sum) -> list[Ending]:
    """The modules that the branches of a block end with, each called once in a forward pass.

    Args:
        graph: The graph the block was found in.
        block: The block.
        found: The same as a sum.

    Returns:
        One end a branch.

    Raises:
        InputError: With the reason, if a branch does not end at a module of its own.
    """
    return [_ending(graph, block, found, branch) for branch in found.branches]


def _ending(graph: Graph, block: Block, found: Sum, branch: int) -> Ending:
    here = graph.nodes[found.node].call
    often = Counter(call.path for call in graph.calls)
    within = f"the forward of `{block.module or 'model'}`"
    value, shared = branch, ""
    while True:
        node = graph.producer(value)
        if node is None:
            raise refusal(block, "its branch is an input of the model")
        call = _returned(graph, here, value)
        if call is not None:
            path = graph.calls[call].path
            if _crowded(graph, call, value, found):
                raise refusal(block, f"what `{path}` returns is used elsewhere as well")
            if often[path] == 1 and path not in ("", "?"):
                return Ending(path, graph.calls[call].outs.index(value), graph.values[value].shape)
            shared = shared or path
            inner = [v for v in _entering(graph, call) if graph.ancestors[value] >> v & 1]
            if not _plain(graph, call) or len(inner) != 1:
                raise refusal(
                    block, f"its branch ends with `{shared}`, which is called {often[shared]} times in a forward pass"
                )
            value = inner[0]
            continue
        live = [v for v in node.inputs if graph.dynamic >> v & 1]
        light = node.form in ("same", "scale") or (node.op in ("mul", "div") and len(live) == 1)
        if not light or len(live) != 1:
            last = f"ends with the operation `{node.op}` in {within}" if not shared else f"ends with `{shared}`, called often"
            raise refusal(block, f"its branch {last}, not at a module")
        value = live[0]


def refusal(block: Block, reason: str) -> InputError:
    """The error of a block that cannot be retrofitted."""
    return InputError(
        f"`{block.name}` must end its branch at a module of its own to be changed: {reason}; `with audit.patch(…)` changes any "
        "block while it lasts, or move the end of the branch into a module"
    )


def _returned(graph: Graph, here: int, value: int) -> int | None:
    """The outermost call within the sum's module that returned the value, if a call did."""
    node = graph.producer(value)
    found = None
    for call in graph.around(node.call if node is not None else -1):
        if call == here:
            return found
        if value in graph.calls[call].outs:
            found = call
    return None


def _plain(graph: Graph, call: int) -> bool:
    """Whether a call only hands on its input, as dropout does in evaluation."""
    made = graph.calls[call]
    return all(node.form == "same" for node in graph.nodes[made.first : made.last])


def _entering(graph: Graph, call: int) -> list[int]:
    """What a call that only hands on was given."""
    made = graph.calls[call]
    if made.first == made.last:
        return list(made.outs)
    node = graph.nodes[made.first]
    return [v for v in node.inputs if graph.dynamic >> v & 1]


def _crowded(graph: Graph, call: int, value: int, found: Sum) -> bool:
    """Whether a tensor that a call returned is read by anything that does not lead to the block's sum alone."""
    if value in graph.outputs:
        return True
    todo, seen = [value], {value}
    while todo:
        for i in graph.consumers[todo.pop()]:
            node = graph.nodes[i]
            if i in found.nodes or graph.calls[call].first <= i < graph.calls[call].last:
                continue
            live = [v for v in node.inputs if graph.dynamic >> v & 1]
            if any(v in graph.outputs for v in node.outputs):
                return True
            if not (node.form in ("same", "scale") or (node.op in ("mul", "div") and len(live) == 1)):
                return True
            todo += [v for v in node.outputs if v not in seen]
            seen.update(node.outputs)
    return False


def lost(graph: Graph, sums: list[Sum]) -> list[int]:
    """The outermost module calls that nobody needs any more once the branches of some blocks count as 0.

    Args:
        graph: The graph.
        sums: The blocks that go.

    Returns:
        Indices of calls, in order.
    """
    gone = {(i, b) for s in sums for i, b in zip(s.nodes, _added(graph, s), strict=True)}
    need = set(graph.outputs)
    for index in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[index]
        if need & set(node.outputs):
            need.update(v for v in node.inputs if (index, v) not in gone)
    dead: set[int] = set()
    for number, call in enumerate(graph.calls):
        made = graph.nodes[call.first : call.last]
        idle = not any(v in need for node in made for v in node.outputs) and not any(v in need for v in call.outs)
        if idle and made:
            dead.add(number)
    return [number for number in sorted(dead) if graph.calls[number].parent not in dead]


def _added(graph: Graph, found: Sum) -> list[int]:
    """For each sum of a block, the term that is added to the skip, or to the sum so far."""
    return [graph.nodes[i].terms[1 - place] for i, place in zip(found.nodes, found.places, strict=True)]
