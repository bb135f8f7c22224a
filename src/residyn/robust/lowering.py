"""From a module to a graph of affine maps and activations: blocks by their structure, anything else by its torch.fx graph."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as f
from torch import Tensor, fx, nn

from residyn.analysis.composition import bare, changed_call, is_torch_layer
from residyn.analysis.convex import ConvexPotential
from residyn.analysis.graph import LAYERS, PRODUCTS_OF_MATRICES, layer_of, operands
from residyn.analysis.pooling import max_windows
from residyn.analysis.slopes import FUNCTIONS
from residyn.branch import Dense
from residyn.robust.graph import Network, Shape, UnknownError
from residyn.robust.lines import activation
from residyn.robust.maps import Affine, centring, convolution, layer_map, linear, move, reshaping, scaling
from residyn.step import Residual, Stack

_SUMS = {operator.add: 1.0, operator.iadd: 1.0, torch.add: 1.0, "add": 1.0, "add_": 1.0,
         operator.sub: -1.0, operator.isub: -1.0, torch.sub: -1.0, "sub": -1.0, "sub_": -1.0}  # fmt: skip
_PRODUCTS = {operator.mul, operator.imul, torch.mul, "mul", "mul_"}
_QUOTIENTS = {operator.truediv, torch.div, torch.true_divide, "div", "div_"}
_RESHAPES = {torch.flatten, torch.reshape, "flatten", "reshape", "view", "unflatten", torch.squeeze, torch.unsqueeze, "squeeze",
             "unsqueeze", "contiguous", "clone", "float", "double", "to", "detach"}  # fmt: skip
_MOVES = {torch.permute, torch.transpose, torch.movedim, "permute", "transpose", "movedim", f.pixel_shuffle, operator.getitem}
_POOLS: dict[Any, Callable[..., nn.Module]] = {
    f.max_pool1d: nn.MaxPool1d, f.max_pool2d: nn.MaxPool2d, f.max_pool3d: nn.MaxPool3d,
    f.adaptive_max_pool1d: nn.AdaptiveMaxPool1d, f.adaptive_max_pool2d: nn.AdaptiveMaxPool2d,
    f.avg_pool1d: nn.AvgPool1d, f.avg_pool2d: nn.AvgPool2d, f.avg_pool3d: nn.AvgPool3d,
    f.adaptive_avg_pool1d: nn.AdaptiveAvgPool1d, f.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    f.gelu: nn.GELU, f.leaky_relu: nn.LeakyReLU, f.elu: nn.ELU, f.celu: nn.CELU, f.softplus: nn.Softplus,
    f.hardtanh: nn.Hardtanh,
}  # fmt: skip
_MAX_POOLS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d
)  # fmt: skip


def lowered(model: nn.Module, shape: Shape) -> Network:
    """The network of a model in evaluation mode on samples of a shape.

    Raises:
        UnknownError: If a part of it has no linear bounds.
    """
    network = Network()
    with torch.no_grad():
        _module(network, model, network.input(shape), type(model).__name__)
    return network


def _module(network: Network, module: nn.Module, x: int, name: str) -> int:
    module = bare(module)
    change = changed_call(module)
    if change:
        raise UnknownError(f"`{name}` ({type(module).__name__}) has {change}")
    if type(module) is nn.Sequential or isinstance(module, Stack):
        for k, part in enumerate(module.blocks if isinstance(module, Stack) else module):
            x = _module(network, part, x, f"{name}.{k}")
        return x
    if isinstance(module, Residual) and type(module).forward is Residual.forward:
        return _residual(network, module, x, name)
    if isinstance(module, ConvexPotential) and type(module).forward is ConvexPotential.forward:
        return _potential(network, module, x, name)
    if type(module) in (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm):
        return _normalisation(network, module, x)
    if isinstance(module, _MAX_POOLS) and type(module).__module__.startswith("torch."):
        return _max_pool(network, module, x)
    made = _layer(network, module, x)
    if made is None and is_torch_layer(module):
        raise UnknownError(f"`{name}` ({type(module).__name__}) has no linear bounds")
    return _traced(network, module, x, name) if made is None else made


def _layer(network: Network, module: nn.Module, x: int) -> int | None:
    """An activation or an affine layer; `None` if it is neither."""
    function = activation(module)
    if function is not None:
        return network.active(x, function)
    affine = linear(module.matrix, None) if isinstance(module, Dense) else layer_map(module, network.nodes[x].shape)
    return None if affine is None else network.affine(x, affine)


def _residual(network: Network, block: Residual, x: int, name: str) -> int:
    branch = block.branch
    if not isinstance(branch, nn.Module):
        if branch not in FUNCTIONS:
            raise UnknownError(f"the branch of `{name}` is a function")
        branch = FUNCTIONS[branch]()
    y = _module(network, branch, x, f"{name}.branch")
    if isinstance(block.step, Tensor) and block.step.numel() != 1:
        return network.sum((x, network.affine(y, scaling(block.step))), (1, 1))
    return network.sum((x, y), (1, float(block.step)))


def _potential(network: Network, block: ConvexPotential, x: int, name: str) -> int:
    """x - s·Wᵀσ(W·x + b)."""
    inner = activation(block.activation)
    hidden = layer_map(block.layer, network.nodes[x].shape)
    if inner is None or hidden is None:
        raise UnknownError(f"`{name}` (ConvexPotential) has an activation without linear bounds")
    z = network.active(network.affine(x, hidden), inner)
    weight, step = block.layer.weight.detach().double(), float(block._step())
    if isinstance(block.layer, nn.Linear):
        back = linear(weight.T, None)
    else:
        kind: Any = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[weight.ndim - 3]
        layer: Any = block.layer
        made = kind(
            layer.out_channels, layer.in_channels, layer.kernel_size, 1, layer.padding, 0, layer.groups, False, layer.dilation
        )
        back = convolution(made, weight)
    return network.sum((x, network.affine(z, back)), (1, -step))


def _normalisation(network: Network, layer: Any, x: int) -> int:
    """γ·c/√(‖c‖²/n + ε) + β, c the sample, or a part of it, less its mean."""
    shape = network.nodes[x].shape
    grouped = isinstance(layer, nn.GroupNorm)
    tail = len(layer.normalized_shape) if not grouped else 0
    outer = (layer.num_groups,) if grouped else shape[: len(shape) - tail]
    n = math.prod(shape) // math.prod(outer)
    dtype = torch.float32 if layer.weight is None else layer.weight.dtype
    eps = torch.finfo(dtype).eps if layer.eps is None else float(layer.eps)
    x = network.affine(x, reshaping((*outer, n)))
    if not isinstance(layer, nn.RMSNorm):
        x = network.affine(x, replace(centring(1), terms=n + 2))
    x = network.affine(network.normalised(x, eps), reshaping(shape))
    weight, bias = layer.weight, getattr(layer, "bias", None)
    if weight is None:
        return x
    wide = (-1, *[1] * (len(shape) - 1)) if grouped else tuple(weight.shape)
    return network.affine(x, scaling(weight.reshape(wide), None if bias is None else bias.reshape(wide)))


def _max_pool(network: Network, layer: Any, x: int) -> int:
    axes = int(type(layer).__name__[-2])
    if getattr(layer, "return_indices", False):
        raise UnknownError("max pooling that returns indices")
    first = len(network.nodes[x].shape) - axes
    for axis, cells in enumerate(max_windows(layer, network.nodes[x].shape[first:])):
        x = network.windows(x, first + axis, cells)
    return x


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Leaves are torch's layers and the steps of this house."""
        return isinstance(m, (Residual, Stack, Dense, ConvexPotential)) or is_torch_layer(m)


def _traced(network: Network, module: nn.Module, x: int, name: str) -> int:
    try:
        graph = _Tracer().trace(module)
    except Exception as error:  # noqa: BLE001 - tracing runs the user's code, which may raise anything
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UnknownError(f"`{name}` ({type(module).__name__}) cannot be traced by torch.fx: {cause}") from None
    return _Lowering(network, module, graph, name).run(x)


class _Lowering(fx.Interpreter):
    """Runs a graph on two samples of zeros, and makes a node for each value that depends on the input."""

    def __init__(self, network: Network, module: nn.Module, graph: fx.Graph, name: str) -> None:
        super().__init__(module, garbage_collect_values=False, graph=graph)
        self.extra_traceback = False  # one line says it
        self.network, self.name = network, name
        self.made: dict[fx.Node, int | list[int]] = {}

    def run(self, x: int) -> int:  # type: ignore[override]
        """Adds the module's nodes after node x; returns the last one."""
        inputs = [n for n in self.graph.nodes if n.op == "placeholder" and not n.args]
        if len(inputs) != 1:
            raise UnknownError(f"`{self.name}` takes {len(inputs)} inputs")
        self.made[inputs[0]] = x
        example = next((p for p in self.module.parameters() if p.is_floating_point()), torch.zeros(()))
        try:
            super().run(torch.zeros(2, *self.network.nodes[x].shape, dtype=example.dtype, device=example.device))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise UnknownError(f"`{self.name}`: {(str(error).strip().splitlines() or [''])[0]}") from None
        out = next(n for n in self.graph.nodes if n.op == "output")
        return self._of(out.all_input_nodes[0] if len(out.all_input_nodes) == 1 else None)

    def run_node(self, n: fx.Node) -> Any:
        """One node: its value on zeros, and what it becomes in the network."""
        value = super().run_node(n)
        if (
            n.op.startswith("call")
            and any(s in self.made for s in n.all_input_nodes)
            and n.target not in ("size", "dim", getattr)
        ):
            if n.op == "call_module":
                module = self.fetch_attr(str(n.target))
                self.made[n] = _module(self.network, module, self._of(n.args[0]), f"{self.name}.{n.target}")
            elif not self._static(value):
                self.made[n] = self._function(n, value)
            self._check(n, value)
        return value

    def _static(self, value: Any) -> bool:
        return isinstance(value, (int, float, bool, str, torch.Size, torch.dtype, torch.device))

    def _check(self, n: fx.Node, value: Any) -> None:
        made = self.made.get(n)
        if isinstance(made, int) and (
            not isinstance(value, Tensor) or tuple(value.shape) != (2, *self.network.nodes[made].shape)
        ):
            raise self._unknown(n)

    def _function(self, n: fx.Node, value: Any) -> int | list[int]:
        target = n.target
        if target in _SUMS:
            return self._sum(n, value)
        if target in _PRODUCTS or target in _QUOTIENTS:
            return self._scaled(n)
        if target in (torch.cat, torch.concat):
            return self._join(n, value)
        if target in (torch.chunk, torch.split, "chunk", "split"):
            return [self.network.affine(self._of(n.args[0]), move(self._piece(n, k))) for k in range(len(value))]
        whole = self.made.get(n.args[0])  # type: ignore[arg-type]
        if target is operator.getitem and isinstance(whole, list):
            return whole[n.args[1]]  # type: ignore[index]
        return self._unary(n, value)

    def _unary(self, n: fx.Node, value: Any) -> int:
        target, network = n.target, self.network
        if target in (operator.neg, torch.neg, "neg"):
            return network.sum((self._of(n.args[0]),), (-1,))
        if target in _RESHAPES:
            return network.affine(self._of(n.args[0]), reshaping(tuple(value.shape[1:])))
        if target in _MOVES:
            return network.affine(self._of(n.args[0]), move(self._call(n)))
        if target in (torch.mean, "mean", torch.sum, "sum"):
            x = self._of(n.args[0])
            terms = math.prod(network.nodes[x].shape) // max(1, math.prod(value.shape[1:]))
            return network.affine(x, Affine(self._call(n), self._call(n), terms + 2))
        if target is f.dropout:
            return self._of(n.args[0])
        if target in PRODUCTS_OF_MATRICES or target in LAYERS:
            return self._weighted(n)
        made = FUNCTIONS[target]() if target in FUNCTIONS else self._layer(n)
        return _module(network, made, self._of(n.args[0]), f"{self.name}.{getattr(target, '__name__', target)}")

    def _call(self, n: fx.Node) -> Callable[[Tensor], Tensor]:
        """The function or method of a node of its first argument, the others as they are."""
        rest = [self._fixed(a) for a in n.args[1:]]
        given = {k: self._fixed(v) for k, v in n.kwargs.items()}
        if isinstance(n.target, str):
            name = n.target
            return lambda x: getattr(x, name)(*rest, **given)
        function: Any = n.target
        return lambda x: function(x, *rest, **given)

    def _piece(self, n: fx.Node, k: int) -> Callable[[Tensor], Tensor]:
        whole: Any = self._call(n)
        return lambda x: whole(x)[k]

    def _sum(self, n: fx.Node, value: Tensor) -> int:
        factor = _SUMS[n.target] * float(n.kwargs.get("alpha", 1))  # type: ignore[arg-type]
        first, second = n.args[0], n.args[1] if len(n.args) > 1 else n.kwargs["other"]
        if first in self.made and second in self.made:
            return self.network.sum((self._of(first), self._of(second)), (1, factor))
        if first in self.made:
            return self._shifted(self._of(first), 1.0, factor * self._number(second), value)
        return self._shifted(self._of(second), factor, self._number(first), value)

    def _shifted(self, x: int, factor: float, shift: Tensor, value: Tensor) -> int:
        return self.network.affine(x, scaling(torch.tensor(factor), self._sample(shift, value)))

    def _scaled(self, n: fx.Node) -> int:
        first, second = n.args[0], n.args[1]
        if (first in self.made and second in self.made) or (second in self.made and n.target in _QUOTIENTS):
            raise UnknownError(f"a product of two parts that both depend on the input in `{self.name}`")
        moving, fixed = (first, second) if first in self.made else (second, first)
        number = self._number(fixed)
        x = self._of(moving)
        factor = self._sample(1 / number if n.target in _QUOTIENTS else number, self.env[moving])  # type: ignore[index]
        return self.network.affine(x, scaling(factor))

    def _sample(self, number: Tensor, value: Tensor) -> Tensor:
        """Something that broadcasts to a batch, as something that broadcasts to a sample."""
        if number.ndim == value.ndim:
            if number.shape[0] != 1:
                raise UnknownError(f"a constant with a batch axis in `{self.name}`")
            return number[0]
        return number

    def _join(self, n: fx.Node, value: Tensor) -> int:
        parts: Any = n.args[0] if n.args else n.kwargs["tensors"]
        dim = int(n.args[1] if len(n.args) > 1 else n.kwargs.get("dim", 0)) % value.ndim  # type: ignore[arg-type]
        if dim == 0 or not all(part in self.made for part in parts):
            raise self._unknown(n)
        return self.network.join([self._of(part) for part in parts], dim - 1)

    def _weighted(self, n: fx.Node) -> int:
        """A linear layer or convolution by its function, or x·W, whose weights do not depend on the input."""
        source, weight, bias = operands(n)
        made = layer_of(n, self._fixed(weight), self._fixed(bias))
        if made is None:
            raise self._unknown(n)
        return _module(self.network, made, self._of(source), f"{self.name}.{n.name}")

    def _layer(self, n: fx.Node) -> nn.Module:
        make = _POOLS.get(n.target)
        if make is None:
            raise self._unknown(n)
        rest = {k: v for k, v in n.kwargs.items() if k not in ("input", "inplace", "_stacklevel", "return_indices")}
        return make(*n.args[1:], **rest)

    def _of(self, part: Any) -> int:
        found = self.made.get(part)
        if not isinstance(found, int):
            raise UnknownError(f"`{part}` in `{self.name}` is not one tensor that depends on the input")
        return found

    def _fixed(self, part: Any) -> Any:
        if isinstance(part, fx.Node):
            if part in self.made:
                raise UnknownError(f"`{part}` in `{self.name}` as a setting")
            return self.env[part]
        if isinstance(part, (tuple, list)):
            return type(part)(self._fixed(item) for item in part)
        return part

    def _number(self, part: Any) -> Tensor:
        return torch.as_tensor(self._fixed(part)).detach().double()

    def _unknown(self, n: fx.Node) -> UnknownError:
        return UnknownError(f"`{getattr(n.target, '__name__', n.target)}` in `{self.name}` has no linear bounds")
