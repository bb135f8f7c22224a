"""Certified Lipschitz constants of branches: the calls that were kept become a graph that `analysis` knows how to bound."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as f

from residyn.analysis.composition import Composition
from residyn.analysis.graph import GraphBound, with_weight
from residyn.analysis.layers import Options
from residyn.audit import operations
from residyn.audit.blocks import Measured
from residyn.audit.replay import Branch, Held
from residyn.errors import InputError

_CONVOLUTIONS = {"conv1d": nn.Conv1d, "conv2d": nn.Conv2d, "conv3d": nn.Conv3d}
_PLAIN: dict[str, Any] = {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div}
_SLACK = 1e-2  # of each convolution; tighter costs more than it tells of a product
_NORMS = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def bound(branch: Branch, x: Tensor) -> Measured:
    """K_F, a Lipschitz constant of the branch on all of space, its other inputs being constant.

    Args:
        branch: F.
        x: Its input, for the shape.

    Returns:
        The constant, certified, for the batch as a whole: samples may act on each other.

    Raises:
        InputError: If an operation has no known constant (a product of two parts that both depend on x, as in attention), or x
            is one vector.
    """
    if x.ndim < 2:
        raise InputError("a branch of a single vector has no batch: hand in two samples or more")
    root, graph = _Writer(branch).write()
    composition = Composition(Options(None, _SLACK), {})
    value, _ = GraphBound(composition, root, graph, "branch").run(tuple(x.shape[1:]), len(x))
    return Measured(composition.rounded(value), "certified", composition.products, composition.converged)


class _Writer:
    """Writes the steps of a branch as a torch.fx graph, with modules where a constant is known of the module."""

    def __init__(self, branch: Branch) -> None:
        self.branch, self.graph, self.root = branch, fx.Graph(), nn.Module()
        self.known: dict[int, fx.Node] = {branch.found.source: self.graph.placeholder("x")}
        self.count = 0

    def write(self) -> tuple[nn.Module, fx.Graph]:
        """All steps but the sums, then the sum of the branches with their factors."""
        parts: list[fx.Node] = []
        sums = dict(zip(self.branch.found.nodes, self.branch.found.places, strict=True))
        for index in self.branch.steps:
            step = self.branch.calls.get(index)
            if step is None:
                raise InputError("a view that is written into has no known Lipschitz constant")
            if index in sums:
                parts.append(self._addend(step, sums[index]))
                continue
            node = self._node(step)
            if len(step.outs) != 1:
                for place, value in step.outs:
                    self.known[value] = self.graph.call_function(operator.getitem, (node, place))
            else:
                self.known[step.outs[0][1]] = node
        total = parts[0]
        for part in parts[1:]:
            total = self.graph.call_function(torch.add, (total, part))
        self.graph.output(total)
        return self.root, self.graph

    def _addend(self, step: Any, place: int) -> fx.Node:
        """The term of a sum that is not the skip, or not the sum so far, with its factor."""
        op, args, kwargs = operations.name_of(step.function), step.args, step.kwargs
        if op not in ("add", "sub", "rsub") or len(args) < 2:
            raise InputError(f"a sum by `{op}` has no known Lipschitz constant")
        alpha = float(kwargs.get("alpha", args[2] if len(args) > 2 else 1))
        term = args[1 - place]
        factor = 1.0 if (place == 1) == (op != "rsub") else alpha
        node = self._argument(term)
        return node if factor == 1 else self.graph.call_function(torch.mul, (node, abs(factor)))

    def _argument(self, item: Any) -> Any:
        if isinstance(item, Held):
            return self.known[item.value] if item.value in self.known else self._constant(item.tensor)
        if type(item) in (tuple, list):
            return type(item)(self._argument(part) for part in item)
        return item

    def _constant(self, tensor: Tensor) -> fx.Node:
        name = f"c{self.count}"
        self.count += 1
        self.root.register_buffer(name, tensor)
        return self.graph.get_attr(name)

    def _module(self, module: nn.Module, item: Any) -> fx.Node:
        name = f"m{self.count}"
        self.count += 1
        self.root.add_module(name, module.eval())
        return self.graph.call_module(name, (self._argument(item),))

    def _node(self, step: Any) -> fx.Node:
        """One call as a node."""
        function, args, kwargs = step.function, step.args, step.kwargs
        name = operations.name_of(function)
        layer = self._layer(name, args, kwargs)
        if layer is not None:
            return self._module(*layer)
        if name in ("pad", "constant_pad_nd"):
            return self._padded(args, kwargs)
        arguments = tuple(self._argument(a) for a in args)
        options = {key: self._argument(item) for key, item in kwargs.items()}
        if name in _PLAIN:
            return self.graph.call_function(_PLAIN[name], arguments, options)
        if isinstance(function, torch._ops.OpOverload):  # of a saved program
            function = getattr(torch, name, None) or getattr(f, name, None) or getattr(Tensor, name, function)
        if isinstance(function, type(Tensor.view)):  # a method
            return self.graph.call_method(str(function.__name__), arguments, options)
        return self.graph.call_function(function, arguments, options)

    def _layer(self, name: str, args: Any, kwargs: Any) -> tuple[nn.Module, Any] | None:
        """A call as a module whose constant is known, and what goes into it; `None` if it is another."""
        given = dict(zip(("input", "weight", "bias", "stride", "padding", "dilation", "groups"), args, strict=False)) | kwargs
        fixed = not self._moves(given.get("weight"))
        if name == "linear" and fixed:
            return _layer(None, given), args[0]
        if name in ("matmul", "mm", "addmm") and not kwargs and self._matrix(args[-1]):
            bias = args[0] if name == "addmm" else None  # it changes no norm
            return None if self._moves(bias) else (_layer(None, {"weight": _turned(args[-1])}), args[-2])
        if name in _CONVOLUTIONS and fixed:
            return _layer(_CONVOLUTIONS[name], given), args[0]
        if name in ("batch_norm", "layer_norm"):
            return (_batch_norm if name == "batch_norm" else _layer_norm)(args, kwargs), args[0]
        return None

    def _padded(self, args: Any, kwargs: Any) -> fx.Node:
        given = dict(zip(("input", "pad", "mode", "value"), args, strict=False)) | kwargs
        mode, pad = given.get("mode", "constant"), tuple(given["pad"])
        if not any(pad):
            node: fx.Node = self._argument(args[0])
            return node
        kinds: dict[tuple[Any, int], Any] = {
            ("constant", 1): nn.ZeroPad1d, ("constant", 2): nn.ZeroPad2d, ("constant", 3): nn.ZeroPad3d,
            ("reflect", 1): nn.ReflectionPad1d, ("reflect", 2): nn.ReflectionPad2d, ("circular", 2): nn.CircularPad2d,
            ("replicate", 1): nn.ReplicationPad1d, ("replicate", 2): nn.ReplicationPad2d,
        }  # fmt: skip
        if (mode, len(pad) // 2) not in kinds:
            raise InputError(f"a padding of mode {mode!r} has no known Lipschitz constant")
        return self._module(kinds[mode, len(pad) // 2](pad), args[0])

    def _matrix(self, item: Any) -> bool:
        return isinstance(item, Held) and not self._moves(item) and item.tensor.ndim == 2

    def _moves(self, item: Any) -> bool:
        return isinstance(item, Held) and item.value in self.known


def _turned(item: Held) -> Held:
    """The matrix W of x·W as that of a linear layer, x·Wᵀ."""
    return Held(-1, item.tensor.T)


def _layer(kind: Any, given: dict[str, Any]) -> nn.Module:
    """A linear layer (`None`) or convolution with a weight that was kept; its offset changes no norm."""
    settings = {key: given[key] for key in ("stride", "padding", "dilation", "groups") if key in given}
    return with_weight(kind, given["weight"].tensor, settings)


def _batch_norm(args: Any, kwargs: Any) -> nn.Module:
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    given = dict(zip(names, args, strict=False)) | kwargs
    if given.get("training") or given.get("running_mean") is None:
        raise InputError("a batch norm on batch statistics has no known Lipschitz constant")
    mean, var = given["running_mean"].tensor, given["running_var"].tensor
    made = _NORMS[args[0].tensor.ndim](len(mean), eps=given.get("eps", 1e-5), affine=given.get("weight") is not None)
    made.running_mean, made.running_var = mean, var
    if given.get("weight") is not None:
        made.weight = nn.Parameter(given["weight"].tensor, requires_grad=False)
        made.bias = nn.Parameter(given["bias"].tensor, requires_grad=False)
    return made.to(mean.dtype)


def _layer_norm(args: Any, kwargs: Any) -> nn.Module:
    given = dict(zip(("input", "normalized_shape", "weight", "bias", "eps"), args, strict=False)) | kwargs
    weight = given.get("weight")
    made = nn.LayerNorm(tuple(given["normalized_shape"]), eps=given.get("eps", 1e-5), elementwise_affine=weight is not None)
    if weight is not None:
        made.weight = nn.Parameter(weight.tensor, requires_grad=False)
    return made
