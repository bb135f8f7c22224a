"""Branches cut out of a model: the operations between a skip's source and its sum, kept with their constants and run again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from residyn.audit import operations
from residyn.audit.find import Sum
from residyn.audit.graph import Graph
from residyn.audit.patching import skipped
from residyn.audit.trace import Recorder, tensors


@dataclass(slots=True)
class Held:
    """A tensor among the arguments of a kept call: its value, and its numbers as they were then."""

    value: int
    tensor: Tensor


@dataclass(slots=True)
class _Step:
    """A kept call: the function, its arguments, and which of the returned tensors is which value."""

    function: Any
    args: Any
    kwargs: Any
    outs: list[tuple[int, int]]


class Capture(Recorder):
    """A recorder that keeps every call, and the tensors at the ends of the blocks with their gradients.

    Args:
        model: The model.
        inputs: What it is called with.
        guide: The graph of an earlier run of the same, which tells what will be written into.
        sums: The blocks in it.
        below: Whether that graph is of the operators below autograd.
    """

    def __init__(self, model: nn.Module, inputs: Any, guide: Graph, sums: list[Sum], *, below: bool = False) -> None:
        self.guide = guide
        self.ends = {s.out for s in sums}
        self.wanted = {v for s in sums for v in (s.source, s.out)}
        self.kept: dict[int, Tensor] = {}
        self.gradients: dict[int, Tensor] = {}
        self.calls: dict[int, _Step] = {}
        self.pending: tuple[Any, Any] = ((), {})
        super().__init__(model, inputs, strong=below)

    def before(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hold the arguments before the call can write into them."""
        super().before(function, args, kwargs)
        self.pending = (self._held(args), self._held(kwargs))

    def record(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Write down one call, and keep it."""
        held, more = self.pending
        super().record(function, args, kwargs, out)
        if self.last < 0:
            return
        node = self.graph.nodes[self.last]
        results = [args[0]] if out is None else list(tensors(out))
        places = [(i, v) for i, t in enumerate(results) if (v := self.look(t)) in node.outputs and v is not None]
        self.calls[self.last] = _Step(function, held, more, places)

    def meet(self, tensor: Tensor, value: int) -> None:
        """Keep what lies at the end of a block."""
        super().meet(tensor, value)
        if value in self.wanted:
            late = value < len(self.guide.values) and self.guide.values[value].overwritten
            self.kept[value] = tensor.detach().clone() if late else tensor.detach()
        if value in self.ends and tensor.requires_grad and not self.strong:
            tensor.register_hook(lambda g, value=value: self._came(value, g))  # type: ignore[no-untyped-call]

    def _came(self, value: int, gradient: Tensor | None) -> None:
        """A gradient has reached the end of a block; `None` where an operation behind it, a quantised one, has none."""
        if gradient is not None:
            self.gradients[value] = gradient.detach()

    def _held(self, tree: Any) -> Any:
        if isinstance(tree, Tensor):
            value = self.look(tree)
            late = value is not None and value < len(self.guide.values) and self.guide.values[value].overwritten
            return Held(-1 if value is None else value, tree.detach().clone() if late else tree.detach())
        if type(tree) in (tuple, list):
            return type(tree)(self._held(item) for item in tree)
        if type(tree) is dict:
            return {key: self._held(item) for key, item in tree.items()}
        return tree


class Branch:
    """F of one block as a function of the source alone: out - skip, all else that the model computed being constant.

    Args:
        capture: What was kept of a run.
        found: The block.
    """

    def __init__(self, capture: Capture, found: Sum) -> None:
        self.graph, self.calls, self.found = capture.graph, capture.calls, found
        self.steps = self._needed()

    def __call__(self, x: Tensor) -> Tensor:
        """F(x)."""
        out, skip = self.both(x)
        return out - skip

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The sum, and what the skip contributes to it."""
        known: dict[int, Tensor] = {self.found.source: x.clone()}  # a step may write into it
        skip = x
        for index in self.steps:
            node = self.graph.nodes[index]
            step = self.calls.get(index)
            if step is None:  # the base of a view that was written into
                source = known[node.inputs[-1]]
                known[node.outputs[0]] = known.get(node.inputs[0], source).reshape(self.graph.values[node.outputs[0]].shape)
                continue
            args, kwargs = _filled(step.args, known), _filled(step.kwargs, known)
            if index == self.found.nodes[0]:
                op = operations.name_of(step.function)
                held = tuple(a.clone() if isinstance(a, Tensor) else a for a in args[:2]) + tuple(args[2:])
                result = step.function(*args, **kwargs)
                skip = skipped(op, self.found.places[0], held, kwargs, result)
            else:
                result = _swift(step.function)(*args, **kwargs)
            results = [args[0]] if result is None else list(tensors(result))
            known.update({value: results[i] for i, value in step.outs})
        return known[self.found.out], skip

    def _needed(self) -> list[int]:
        """The kept calls between the source and the sum, in order."""
        known, chain = {self.found.source}, []
        last = self.found.nodes[-1]
        for index in range(last + 1):
            node, step = self.graph.nodes[index], self.calls.get(index)
            read = _read((step.args, step.kwargs)) if step is not None else set(node.inputs) if node.op == "write" else set()
            if read & known:
                known.update(node.outputs)
                chain.append((index, read))
        need, steps = {self.found.out}, []
        for index, read in reversed(chain):
            if need & set(self.graph.nodes[index].outputs):
                need |= read
                steps.append(index)
        return steps[::-1]


def _read(tree: Any) -> set[int]:
    if isinstance(tree, Held):
        return {tree.value}
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    return set().union(*map(_read, tree)) if isinstance(tree, (tuple, list)) else set()


def _filled(tree: Any, known: dict[int, Tensor]) -> Any:
    """Arguments with the values that depend on the source, and the constants for the rest."""
    if isinstance(tree, Held):
        return known[tree.value] if tree.value in known else tree.tensor.clone() if tree.tensor.numel() < 2 else tree.tensor
    if type(tree) in (tuple, list):
        return type(tree)(_filled(item, known) for item in tree)
    if type(tree) is dict:
        return {key: _filled(item, known) for key, item in tree.items()}
    return tree


def _swift(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function in a form whose forward-mode derivative is cheap: batch norm in evaluation is one affine map."""
    return _affine if function is functional.batch_norm else function


def _affine(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or mean is None:
        return functional.batch_norm(x, mean, var, weight, bias, training, momentum, eps)
    shape = (1, -1, *[1] * (x.ndim - 2))
    scale = torch.rsqrt(var + eps) if weight is None else weight * torch.rsqrt(var + eps)
    shift = -mean * scale if bias is None else bias - mean * scale
    return x * scale.reshape(shape) + shift.reshape(shape)
