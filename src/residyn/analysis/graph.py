"""Lipschitz constants along a torch.fx graph: every node's with respect to the input, the shapes from one run on zeros."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as f
from torch import Tensor, fx, nn

from residyn.analysis.layers import layer_bound
from residyn.analysis.slopes import FUNCTIONS
from residyn.analysis.undisturbed import undisturbed
from residyn.errors import InputError

if TYPE_CHECKING:
    from residyn.analysis.composition import Composition

Shape = tuple[int, ...]

_SUMS = {operator.add, operator.sub, operator.iadd, operator.isub, torch.add, torch.sub, "add", "sub", "add_", "sub_"}
_PRODUCTS = {operator.mul, operator.imul, torch.mul, "mul", "mul_"}
_QUOTIENTS = {operator.truediv, torch.div, torch.true_divide, "div", "div_"}
# Each output entry is one entry of the input, and none is used twice.
_MOVES = {
    torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze, torch.chunk, torch.split,
    torch.movedim, operator.neg, torch.neg, torch.abs, operator.getitem, f.pixel_shuffle,
    "flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "chunk", "split", "movedim", "neg", "abs",
    "contiguous", "clone", "float", "double", "to", "unflatten",
}  # fmt: skip
_INPLACE = {operator.iadd, operator.isub, operator.imul, torch.relu_, "add_", "sub_", "mul_", "div_", "relu_"}
_VIEWS = {"T", "mT", "H", "mH", "data", "real", "imag"}  # attributes that are the tensor's own entries
_JOINS = {torch.cat, torch.concat, torch.stack}
PRODUCTS_OF_MATRICES = {operator.matmul, torch.matmul, torch.mm, "matmul", "mm"}
LAYERS: dict[Any, Any] = {
    f.linear: None, f.conv1d: nn.Conv1d, f.conv2d: nn.Conv2d, f.conv3d: nn.Conv3d,
    torch.conv1d: nn.Conv1d, torch.conv2d: nn.Conv2d, torch.conv3d: nn.Conv3d,
}  # fmt: skip
_POOLS: dict[Any, Callable[..., nn.Module]] = {
    f.max_pool1d: nn.MaxPool1d, f.max_pool2d: nn.MaxPool2d, f.max_pool3d: nn.MaxPool3d,
    f.avg_pool1d: nn.AvgPool1d, f.avg_pool2d: nn.AvgPool2d, f.avg_pool3d: nn.AvgPool3d,
    f.adaptive_avg_pool1d: nn.AdaptiveAvgPool1d, f.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    f.adaptive_max_pool1d: nn.AdaptiveMaxPool1d, f.adaptive_max_pool2d: nn.AdaptiveMaxPool2d,
    f.gelu: nn.GELU, f.leaky_relu: nn.LeakyReLU, f.elu: nn.ELU, f.celu: nn.CELU, f.softplus: nn.Softplus,
    f.hardtanh: nn.Hardtanh, f.softmax: nn.Softmax, torch.softmax: nn.Softmax, f.log_softmax: nn.LogSoftmax,
}  # fmt: skip


class GraphBound(fx.Interpreter):
    """Runs a graph on zeros and carries, beside each value, its Lipschitz constant with respect to the input.

    Args:
        composition: What bounds modules.
        module: The module that was traced.
        graph: Its graph.
        name: Its name within the network.
    """

    def __init__(self, composition: Composition, module: nn.Module, graph: fx.Graph, name: str) -> None:
        super().__init__(module, garbage_collect_values=False, graph=graph)
        self.extra_traceback = False  # one line says it
        self.composition, self.name = composition, name
        self.constants: dict[fx.Node, float] = {}

    def run(self, shape: Shape, batch: int = 1) -> tuple[float, Shape]:  # type: ignore[override]
        """The constant of the output, and its shape, for a batch of so many samples."""
        example = next((p for p in self.module.parameters() if p.is_floating_point()), torch.zeros(()))
        x = torch.zeros(batch, *shape, dtype=example.dtype, device=example.device)
        inputs = [node for node in self.graph.nodes if node.op == "placeholder" and not node.args]
        if len(inputs) != 1:
            raise InputError(
                f"`{self.name}` must take one tensor to be bounded, got {len(inputs)} inputs; wrap it to fix the others"
            )
        with undisturbed(x.device), torch.no_grad():
            try:
                y = super().run(x)
            except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
                if isinstance(error, InputError):
                    raise
                cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise InputError(f"`input_shape` must fit the network, got {shape} for `{self.name}`: {cause}") from None
        out = next(node for node in self.graph.nodes if node.op == "output")
        if not isinstance(y, Tensor):
            raise InputError(f"`{self.name}` must return one tensor to be bounded, got {type(y).__name__}; wrap it to pick one")
        return self.constants[out], tuple(y.shape[1:])

    def run_node(self, n: fx.Node) -> Any:
        """One node: its value on zeros, and its constant."""
        value = super().run_node(n)
        self.constants[n] = self._constant(n, value)
        if n.op.startswith("call") and isinstance(value, Tensor):
            self._overwrite(n, value)
        return value

    def _overwrite(self, n: fx.Node, value: Tensor) -> None:
        """What an in-place operation has changed: all that lies in the same memory may hold old entries and new ones."""
        if n.op == "call_module":
            changes = bool(getattr(self.fetch_attr(str(n.target)), "inplace", False))
        else:
            changes = n.target in _INPLACE or bool(n.kwargs.get("inplace"))
        if changes:
            memory = value.untyped_storage().data_ptr()
            for node, other in self.env.items():
                if isinstance(other, Tensor) and other.untyped_storage().data_ptr() == memory:
                    self.constants[node] = math.hypot(self.constants[node], self.constants[n])

    def _constant(self, n: fx.Node, value: Any) -> float:
        sources = n.all_input_nodes
        if n.op == "placeholder":
            return 1.0 if not n.args else 0.0
        if n.op == "get_attr" or all(self.constants[s] == 0.0 for s in sources):
            return 0.0
        if n.op == "output":
            return self._first(n)
        if n.op == "call_module":
            return self._module(n)
        self.composition.count += 1
        return self._function(n, value)

    def _module(self, n: fx.Node) -> float:
        from residyn.analysis.composition import can_fold, fold

        module = self.fetch_attr(str(n.target))
        source = n.all_input_nodes[0]
        name = f"{self.name}.{n.target}"
        if len(n.all_input_nodes) != 1:
            raise self._unknown(n, f"`{name}` ({type(module).__name__}) with several inputs")
        if source.op == "call_module" and len(source.users) == 1:
            before = self.fetch_attr(str(source.target))
            if can_fold(before, module):
                start = source.all_input_nodes[0]
                factor, _ = self.composition.bound(fold(before, module), self._shape(start), f"{self.name}.{source.target}")
                return self.constants[start] * factor
        users = list(n.users)
        if len(users) == 1 and users[0].op == "call_module" and can_fold(module, self.fetch_attr(str(users[0].target))):
            return self.constants[source]  # counted with the batch norm after it, its only user
        return self.constants[source] * self.composition.bound(module, self._shape(source), name)[0]

    def _function(self, n: fx.Node, value: Any) -> float:
        target = n.target
        if target in _SUMS:
            return self._sum(n, value)
        if target in _PRODUCTS or target in _QUOTIENTS:
            return self._scaled(n, value)
        if target in _MOVES or (target is getattr and n.args[1] in _VIEWS):
            if target is operator.getitem and not self._distinct(n):
                raise self._unknown(n, f"indexing by a tensor in `{self.name}`")
            return self._first(n)
        if target in _JOINS:
            parts: Any = n.args[0] if n.args else n.kwargs["tensors"]
            return self._of(parts) if isinstance(parts, fx.Node) else math.hypot(*[self._of(part) for part in parts])
        if target is f.dropout:
            given = dict(zip(("p", "training"), n.args[1:], strict=False)) | n.kwargs
            rate = float(given.get("p", 0.5)) if given.get("training", True) else 0.0  # type: ignore[arg-type]
            return self._first(n) / (1.0 - rate) if rate < 1 else 0.0
        if target in (torch.mean, "mean", torch.sum, "sum"):
            merged = self._value(n.all_input_nodes[0]).numel() / value.numel()
            return self._first(n) * (math.sqrt(merged) if target in (torch.sum, "sum") else 1 / math.sqrt(merged))
        if target in ("size", "dim") or (target is getattr and not isinstance(value, Tensor)):
            return 0.0
        return self._layer(n) if target in PRODUCTS_OF_MATRICES or target in LAYERS else self._activation(n)

    def _activation(self, n: fx.Node) -> float:
        target = n.target
        layer = FUNCTIONS[target]() if target in FUNCTIONS else self._pool(n)
        bound = None if layer is None else layer_bound(layer, self._shape(n.all_input_nodes[0]), self.composition.options)
        if bound is None:
            raise self._unknown(n, f"`{getattr(target, '__name__', target)}` in `{self.name}`")
        return self._first(n) * float(bound)

    def _sum(self, n: fx.Node, value: Any) -> float:
        scale = abs(float(n.kwargs.get("alpha", 1)))  # type: ignore[arg-type]
        first, second = n.args[0], n.args[1] if len(n.args) > 1 else n.kwargs["other"]
        if isinstance(value, Tensor):
            return self._spread(first, value) + scale * self._spread(second, value)
        return math.hypot(self._of(first), self._of(second))  # of two tuples

    def _layer(self, n: fx.Node) -> float:
        """A linear layer or convolution by its function, or x·W, whose weights do not depend on the input."""
        source, weight, _ = operands(n)
        if self._of(weight) or not isinstance(source, fx.Node):
            raise self._unknown(n, f"a product of two parts that both depend on the input in `{self.name}`")
        layer = layer_of(n, self._value(weight))
        if layer is None:
            raise self._unknown(n, f"a product by many matrices in `{self.name}`")
        return self.constants[source] * self.composition.bound(layer, self._shape(source), f"{self.name}.{n.name}")[0]

    def _pool(self, n: fx.Node) -> nn.Module | None:
        make = _POOLS.get(n.target)
        if make is None:
            return None
        rest = {key: item for key, item in n.kwargs.items() if key not in ("input", "inplace", "_stacklevel", "dtype")}
        if rest.pop("return_indices", False):
            raise self._unknown(n, f"`{getattr(n.target, '__name__', n.target)}` with indices in `{self.name}`")
        return make(*n.args[1:], **rest)

    def _scaled(self, n: fx.Node, value: Tensor) -> float:
        """Times, or over, something that does not depend on the input."""
        first, second = n.args[0], n.args[1]
        if (self._of(first) and self._of(second)) or (self._of(second) and n.target in _QUOTIENTS):
            raise self._unknown(n, f"a product of two parts that both depend on the input in `{self.name}`")
        moving, fixed = (first, second) if self._of(first) else (second, first)
        number = self._value(fixed)
        size = number.detach().double() if isinstance(number, Tensor) else torch.tensor(float(number))
        factor = float((1 / size if n.target in _QUOTIENTS else size).abs().max())
        return self._spread(moving, value) * factor

    def _spread(self, part: Any, value: Tensor) -> float:
        """The constant of a part that may be broadcast to the value: copies count √(how many)."""
        own = self._of(part)
        return own * math.sqrt(value.numel() / self._value(part).numel()) if own else 0.0

    def _distinct(self, n: fx.Node) -> bool:
        index = n.args[1]
        entries = index if isinstance(index, tuple) else (index,)
        return all(entry is None or entry is Ellipsis or isinstance(entry, (int, slice)) for entry in entries)

    def _of(self, part: Any) -> float:
        return self.constants[part] if isinstance(part, fx.Node) else 0.0

    def _value(self, part: Any) -> Any:
        return self.env[part] if isinstance(part, fx.Node) else part

    def _first(self, n: fx.Node) -> float:
        return max(self.constants[source] for source in n.all_input_nodes)

    def _shape(self, node: fx.Node) -> Shape:
        return tuple(self.env[node].shape[1:])

    def _unknown(self, n: fx.Node, what: str) -> InputError:
        return InputError(
            f"{what} has no known Lipschitz constant; put it into a module of its own and give its constant in `known`"
        )


def operands(n: fx.Node) -> tuple[Any, Any, Any]:
    """Input, weight and offset of a layer that is called as a function, or of a product of matrices."""
    given = dict(zip(("input", "weight", "bias"), n.args, strict=False)) | n.kwargs
    return given.get("input"), given.get("weight", given.get("other")), given.get("bias")


def layer_of(n: fx.Node, weight: Tensor, bias: Tensor | None = None) -> nn.Module | None:
    """The layer that such a function computes; `None` where the weight is no single matrix."""
    if n.target in PRODUCTS_OF_MATRICES:
        return with_weight(None, weight.T, {}) if weight.ndim == 2 else None
    names = ("stride", "padding", "dilation", "groups")
    settings = {k: v for k, v in (dict(zip(names, n.args[3:], strict=False)) | n.kwargs).items() if k in names}
    return with_weight(LAYERS[n.target], weight, settings, bias)


def with_weight(kind: Any, weight: Tensor, settings: Mapping[Any, Any], bias: Tensor | None = None) -> nn.Module:
    """A linear layer, or a convolution of this kind and these settings, with weight and offset that are at hand."""
    made: Any
    if kind is None:
        made = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    else:
        inputs = weight.shape[1] * settings.get("groups", 1)
        made = kind(inputs, weight.shape[0], tuple(weight.shape[2:]), bias=False, device="meta", **settings)
    made.weight = nn.Parameter(weight.detach(), requires_grad=False)
    made.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
    layer: nn.Module = made
    return layer


def same_as_traced(module: nn.Module, graph: fx.Graph, shape: Shape) -> bool:
    """Whether a module gives on random numbers what its graph gives; Python's `x *= 2` is traced as another tensor.

    Args:
        module: What was traced.
        graph: Its graph.
        shape: Of one sample.
    """
    example = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(example)
    results = []
    with undisturbed(x.device), torch.no_grad():
        for run in (module, fx.Interpreter(module, graph=graph).run):
            torch.manual_seed(0)
            try:
                results.append(run(x.clone()))
            except (RuntimeError, ValueError, TypeError) as error:
                results.append(type(error))
    first, second = results
    if not (isinstance(first, Tensor) and isinstance(second, Tensor)):
        return True  # no tensor, or no batch of two: told where it is run
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-4, atol=1e-6, equal_nan=True)
