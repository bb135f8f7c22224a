"""Lipschitz constants of what is composed: blocks by their structure, any other module by its torch.fx graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from residyn.analysis.convex import ConvexPotential
from residyn.analysis.convolution import convolution_norm
from residyn.analysis.layers import Options, batch_norm_scale, layer_bound
from residyn.analysis.slopes import FUNCTIONS
from residyn.analysis.stencil import Convolution, Stencil, Transposed, stencil
from residyn.analysis.undisturbed import undisturbed
from residyn.branch import Dense, Linear, Spectral
from residyn.errors import InputError
from residyn.step import Residual, Stack

Shape = tuple[int, ...]
Bounded = tuple[float, Shape]

_EPS = torch.finfo(torch.float64).eps
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def _help(name: str) -> str:
    return f"give its constant as lipschitz(…, known={{{name!r}: K}}), by name, type or module"


class Composition:
    """Bounds a module and all in it, and notes what the bound rests on.

    Args:
        options: What bounds of layers may be told.
        known: The user's constants, by module, type or name.

    Attributes:
        told: Whether a constant of the user's took part.
        converged: Whether every convolution reached its slack.
        products: Products spent on Lanczos processes.
    """

    def __init__(self, options: Options, known: Mapping[Any, float]) -> None:
        self.options, self.known = options, known
        self.told, self.converged, self.products, self.count = False, True, 0, 0

    def rounded(self, value: float) -> float:
        """A product and sum of `count` bounds, raised by the roundings on the way."""
        return value if value in (0.0, 1.0) or self.count <= 1 else value * (1 + 4 * self.count * _EPS)

    def bound(self, module: nn.Module, shape: Shape, name: str) -> Bounded:
        """The constant of a module on samples of a shape, and the shape of its output."""
        told = self._told(module, name)
        if told is not None:
            return told, self.output(module, shape, name)
        module = bare(module)
        change = changed_call(module)
        if change:
            raise InputError(
                f"`{name}` ({type(module).__name__}) must be bounded as its class computes, got {change}; " + _help(name)
            )
        if isinstance(module, Stack) and type(module).forward is Stack.forward:
            return self.chain(list(module.blocks), shape, f"{name}.blocks")
        if isinstance(module, Residual) and type(module).forward is Residual.forward:
            return self.block(module, shape, name), shape
        if isinstance(module, ConvexPotential) and type(module).forward is ConvexPotential.forward:
            return 1.0, shape
        if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            return self.chain(list(module), shape, name)
        found = layer_bound(module, shape, self.options)
        if found is None:
            if isinstance(module, Linear) or is_torch_layer(module):
                raise InputError(
                    f"`{name}` ({type(module).__name__}) must be a module with a known Lipschitz constant; " + _help(name)
                )
            return self.traced(module, shape, name)
        self._note(found)
        return float(found), self.output(module, shape, name)

    def chain(self, modules: list[nn.Module], shape: Shape, name: str) -> Bounded:
        """The product over modules in turn, each batch norm folded into the linear layer before it."""
        value, k = 1.0, 0
        while k < len(modules):
            module, at = modules[k], f"{name}.{k}"
            after = modules[k + 1] if k + 1 < len(modules) else None
            if after is not None and can_fold(module, after) and self._told(module, at) is None:
                factor, shape = self.bound(fold(module, after), shape, at)
                k += 1
            else:
                factor, shape = self.bound(module, shape, at)
            value, k = value * factor, k + 1
        return value, shape

    def block(self, block: Residual, shape: Shape, name: str) -> float:
        """1 + |h|·K_F, or ‖I + hA‖₂ of a linear branch A."""
        step = block.step.detach().double() if isinstance(block.step, Tensor) else float(block.step)
        if block.training and block.keep < 1:
            step = step / block.keep
        h = float(step.abs().max()) if isinstance(step, Tensor) else abs(step)
        branch = block.branch
        if not isinstance(branch, nn.Module):
            if branch not in FUNCTIONS:
                raise InputError(
                    f"`{name}.branch` must be a module to be bounded, got the function {getattr(branch, '__name__', branch)!r}"
                    "; wrap it in an nn.Module and give its constant in `known`"
                )
            branch = FUNCTIONS[branch]()
        if self._told(branch, f"{name}.branch") is None:
            whole = self.linear_block(branch, step, shape)
            if whole is not None:
                return whole
        value, out = self.bound(branch, shape, f"{name}.branch")
        if out != shape:
            raise InputError(f"`{name}.branch` must keep the shape {shape}, got {out}; a residual block adds both")
        self.count += 1
        return 1.0 + h * value

    def linear_block(self, branch: nn.Module, step: float | Tensor, shape: Shape) -> float | None:
        """‖I + hA‖₂ where A is at hand as a matrix, a spectrum, or a convolution that keeps its shape."""
        if isinstance(step, Tensor):
            if step.numel() != 1:
                return None
            step = float(step)
        branch = self.folded(branch)
        if isinstance(branch, Dense):
            eye = torch.eye(len(branch.matrix), dtype=branch.matrix.dtype)
            return self._matrix(eye + step * branch.matrix)
        if isinstance(branch, Spectral):
            values = branch.values.detach().to(torch.complex128)
            return float((1 + step * values).abs().max()) * (1 + 8 * _EPS)
        if type(branch) is nn.Linear and branch.in_features == branch.out_features:
            return self._matrix(torch.eye(branch.in_features, dtype=torch.float64) + step * branch.weight.double())
        if type(branch) in (nn.Conv1d, nn.Conv2d, nn.Conv3d) and len(shape) > 1:
            whole = with_identity(stencil(branch, shape[1:]), step)  # type: ignore[arg-type]
            if whole is not None:
                found = convolution_norm(whole, rtol=self.options.rtol)
                self._note(found)
                return float(found) * (1 + 8 * _EPS)
        return None

    def _matrix(self, matrix: Tensor) -> float:
        self.count += 1
        return float(torch.linalg.svdvals(matrix)[0]) * (1 + 32 * len(matrix) * _EPS) if len(matrix) else 0.0

    def folded(self, layer: nn.Module) -> nn.Module:
        """A `Sequential` of a linear layer and a batch norm as one layer; any other module as it is."""
        if type(layer) is nn.Sequential and len(layer) == 2 and can_fold(layer[0], layer[1]):
            return fold(layer[0], layer[1])
        return layer

    def output(self, module: nn.Module, shape: Shape, name: str) -> Shape:
        """The shape that a module gives, from a run on zeros."""
        example = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
        x = torch.zeros(1, *shape, dtype=example.dtype, device=example.device)
        try:
            with undisturbed(x.device), torch.no_grad():
                y = module(x, x, x)[0] if isinstance(module, nn.MultiheadAttention) else module(x)
        except (RuntimeError, ValueError, TypeError) as error:
            raise InputError(
                f"`input_shape` must fit the network, got {shape} at `{name}` ({type(module).__name__}): "
                f"{str(error).splitlines()[0]}"
            ) from None
        if not isinstance(y, Tensor):
            raise InputError(f"`{name}` must return one tensor to be bounded, got {type(y).__name__}; wrap it to pick one")
        return tuple(y.shape[1:])

    def traced(self, module: nn.Module, shape: Shape, name: str) -> Bounded:
        """The constant of a module from its torch.fx graph."""
        try:
            graph = _Tracer(self.known).trace(module)
        except Exception as error:  # noqa: BLE001 - tracing runs the user's code, which may raise anything
            cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"`{name}` ({type(module).__name__}) must be traceable by torch.fx to be bounded: {cause}; " + _help(name)
            ) from None
        from residyn.analysis.graph import GraphBound, same_as_traced

        found = GraphBound(self, module, graph, name).run(shape)
        what = f"`{name}` ({type(module).__name__})"
        if not same_as_traced(module, graph, shape):
            raise InputError(
                f"{what} must compute what torch.fx traces of it to be bounded, got something else: it may write into a tensor "
                f"that it uses again; {_help(name)}"
            )
        sums = any(node.target in (torch.sum, "sum") for node in graph.nodes)
        if sums and GraphBound(self, module, graph, name).run(shape, 2)[0] > found[0] * (1 + 1e-6):
            raise InputError(f"{what} must treat each sample by itself to be bounded, got a sum over the batch; {_help(name)}")
        return found

    def _told(self, module: nn.Module, name: str) -> float | None:
        for key in (module, name, name.partition(".")[2], type(module)):
            if key in self.known:
                self.told = True
                return float(self.known[key])
        return None

    def _note(self, found: Any) -> None:
        self.count += 1
        self.told = self.told or found.kind != "certified"
        self.converged = self.converged and found.converged
        self.products += found.iterations


class _Tracer(fx.Tracer):
    """Leaves are torch's layers, the steps of this house, and what the user knows."""

    def __init__(self, known: Mapping[Any, float]) -> None:
        super().__init__()
        self.known = known

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is bounded as one."""
        told = m in self.known or type(m) in self.known or module_qualified_name in self.known
        return told or isinstance(m, (Residual, Stack, Linear, ConvexPotential)) or is_torch_layer(m)


def changed_call(module: nn.Module) -> str:
    """What may make a module compute something else than its class says; empty if there is nothing of the kind.

    Hooks return what they like; the older `weight_norm` and `spectral_norm` of torch, adapters and retrofits are such hooks.
    One that is switched off says so by an attribute `idle`.
    """
    hooks = [h for h in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()) if not getattr(h, "idle", False)]
    if hooks:
        kinds = ", ".join(sorted({getattr(hook, "__name__", type(hook).__name__) for hook in hooks}))
        return f"forward hooks on it ({kinds}): take them off, or write them as layers or parametrizations"
    own = None if isinstance(module, torch.jit.ScriptModule) else module.__dict__.get("forward")
    return "" if own is None or getattr(own, "idle", False) else "a `forward` put on the instance"


def bare(module: nn.Module) -> nn.Module:
    """What `torch.compile` or `DataParallel` was put around; any other module itself."""
    while type(module).__name__ in ("OptimizedModule", "DataParallel", "DistributedDataParallel"):
        module = getattr(module, "_orig_mod", None) or module.module  # type: ignore[assignment]
    return module


def is_torch_layer(module: nn.Module) -> bool:
    """Whether a module is one of torch's own and no container."""
    return type(module).__module__.startswith(("torch.nn", "torch.ao")) and not isinstance(module, nn.Sequential)


def can_fold(layer: nn.Module, norm: nn.Module) -> bool:
    """Whether a batch norm with running statistics follows a layer whose rows it scales."""
    linear = isinstance(layer, (Convolution, Transposed, nn.Linear)) and not isinstance(layer, nn.LazyLinear)
    plain = linear and type(layer).__module__.startswith("torch.nn.modules")
    usual = plain and type(norm) in _BATCH_NORMS and not norm.training and norm.running_var is not None
    return usual and not changed_call(layer) and not changed_call(norm)


def fold(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """A layer in double precision with the scale of the batch norm after it multiplied in, and without offset."""
    import copy

    assert isinstance(layer, (Convolution, Transposed, nn.Linear))
    made = copy.copy(layer)
    made._parameters = dict(layer._parameters)
    scale = batch_norm_scale(norm)
    weight = layer.weight.detach().double()
    if isinstance(layer, Transposed):
        grouped = scale.reshape(layer.groups, 1, -1).expand(-1, weight.shape[0] // layer.groups, -1).reshape(weight.shape[:2])
        weight = weight * grouped.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))
    else:
        weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    made.weight = nn.Parameter(weight, requires_grad=False)
    made.bias = None
    return made


def with_identity(found: Stencil, step: float) -> Stencil | None:
    """The stencil of I + h·A, if A keeps the shape and one of its taps sees the cell itself."""
    outputs, inputs = found.weight.shape[1:3]
    if outputs != inputs or found.output != found.shape or any(s != 1 for s in found.stride):
        return None
    centre = []
    for (before, _), d, k in zip(found.pads, found.dilation, found.taps, strict=True):
        if before % d or before // d >= k:
            return None
        centre.append(before // d)
    weight = step * found.weight
    index = torch.arange(outputs)
    where: Any = (slice(None), index, index, *centre)
    weight[where] += 1.0
    return Stencil(weight, found.shape, found.stride, found.dilation, found.pads, found.mode)
