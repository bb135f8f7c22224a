"""Watching a forward pass: which tensors came from which, told by the torch functions called or by the operators below them."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from residyn.audit import operations
from residyn.audit.graph import Call, Graph, Node

_FACTORS = {"mul", "div", "rdiv", "neg"}
_LEAVING = {"numpy", "tolist", "__array__"}


def tensors(tree: Any, depth: int = 0) -> Iterator[Tensor]:
    """The tensors in what a model takes or returns: nested tuples, lists, mappings and dataclasses.

    >>> import torch
    >>> [t.item() for t in tensors({"a": torch.tensor(1), "b": [torch.tensor(2), None]})]
    [1, 2]
    """
    if isinstance(tree, Tensor):
        yield tree
    elif depth > 6 or tree is None or isinstance(tree, (str, int, float)):
        return
    elif isinstance(tree, Mapping):
        for item in tree.values():
            yield from tensors(item, depth + 1)
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from tensors(item, depth + 1)
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        for part in dataclasses.fields(tree):
            yield from tensors(getattr(tree, part.name, None), depth + 1)


class Recorder:
    """Turns calls of torch functions into a graph.

    Args:
        model: The model, whose parameters and buffers are known by name.
        inputs: What it is called with.
        strong: Keep every tensor alive and tell tensors by where their memory lies (for operators below autograd, where
            views come back as other objects).
    """

    def __init__(self, model: nn.Module, inputs: Any, *, strong: bool = False) -> None:
        self.graph = Graph()
        self.strong = strong
        self.alive: list[Tensor] = []
        self.known: dict[int, tuple[Any, int, int]] = {}
        self.places: dict[Any, int] = {}
        self.stack: list[int] = []
        self.counts: dict[str, int] = {}
        self.steps: dict[int, int] = {}
        self.last = -1  # the node that the last call became
        self.paths = {id(module): path for path, module in reversed(list(model.named_modules(remove_duplicate=False)))}
        for name, buffer in model.named_buffers():
            self.meet(buffer, self._leaf(buffer, "buffer", name))
        self.parameters: dict[int, nn.Parameter] = {}
        self.aside: dict[int, tuple[nn.Parameter, Tensor]] = {}
        for name, parameter in model.named_parameters():
            value = self._leaf(parameter, "parameter", name)
            self.parameters[value] = parameter
            self.meet(parameter, value)
        for tensor in tensors(inputs):
            self.meet(tensor, self._leaf(tensor, "input"))

    # -- which value a tensor is ------------------------------------------------------------------------------------------

    def meet(self, tensor: Tensor, value: int) -> None:
        """From now on, this tensor is that value."""
        if self.strong:
            self.alive.append(tensor)
            self.places[_place(tensor)] = value
        self.known[id(tensor)] = (tensor if self.strong else weakref.ref(tensor), value, _version(tensor))

    def look(self, tensor: Tensor) -> int | None:
        """The value of a tensor, if it was met."""
        found = self.known.get(id(tensor))
        if found is not None and (found[0] if self.strong else found[0]()) is tensor:
            return found[1]
        return self.places.get(_place(tensor)) if self.strong else None

    def value(self, tensor: Tensor) -> int:
        """The value of a tensor; one never met is a constant, or unknown if it carries a gradient from elsewhere."""
        value = self.look(tensor)
        if value is None:
            strange = tensor.grad_fn is not None and tensor.is_floating_point()
            value = self._leaf(tensor, "unknown" if strange else "constant")
            self.meet(tensor, value)
        return value

    def _leaf(self, tensor: Tensor, origin: Any, name: str = "") -> int:
        return self.graph.value(shape=tuple(tensor.shape), origin=origin, floating=_floating(tensor), name=name)

    def before(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Called before an operation runs: a parameter about to be written into is put aside, to be put back afterwards."""
        if not args or not isinstance(args[0], Tensor) or not operations.writes(function):
            return
        value = self.look(args[0])
        while value is not None and (node := self.graph.producer(value)) is not None:
            value = node.inputs[0] if node.form and node.inputs else None  # a view, or `.data`
        parameter = None if value is None else self.parameters.get(value)
        if parameter is not None and parameter.untyped_storage().data_ptr() == args[0].untyped_storage().data_ptr():
            self.aside.setdefault(id(parameter), (parameter, parameter.detach().clone()))

    # -- operations -------------------------------------------------------------------------------------------------------

    def record(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Write down one call and what it returned."""
        self.last = -1
        op = operations.name_of(function)
        if op in operations.COUNTED:
            here = self.stack[-1] if self.stack else -1
            self.steps[here] = self.steps.get(here, -1) + 1
        if op == "setitem":
            self._write(args[0], args[1], args[2])
            return
        if op in _LEAVING and isinstance(args[0], Tensor) and _floating(args[0]) and args[0].numel() > 1:
            self.graph.left.append(self.graph.calls[self.stack[-1]].path if self.stack else "")
        results = [out] if isinstance(out, Tensor) else list(tensors(out)) if isinstance(out, (tuple, list, dict)) else []
        if not results:
            return
        read = [t for arg in (*args, *kwargs.values()) for t in _flat(arg)]
        self.graph.wrapped = self.graph.wrapped or any(map(is_functorch_wrapped_tensor, results))
        inputs = tuple(self.value(t) for t in read)
        fresh = [t for t in results if self._changed(t)]
        if not fresh:
            return
        node = self._node(op, inputs, args, kwargs, results[0])
        outputs = []
        for tensor in fresh:
            before = self.look(tensor)
            if before is not None and not self.strong:
                self.graph.values[before].overwritten = True
            value = self.graph.value(shape=tuple(tensor.shape), origin="computed", floating=_floating(tensor))
            self.meet(tensor, value)
            outputs.append(value)
        node.outputs = tuple(outputs)
        node.sequence = _sequence(results[0])
        self.last = self.graph.add(node)
        for tensor, value in zip(fresh, outputs, strict=True):
            if any(tensor is t for t in read):
                self._spread(tensor, value)

    def _changed(self, tensor: Tensor) -> bool:
        """Whether a returned tensor is new, or was written into: its version is higher than when it was met."""
        found = self.known.get(id(tensor))
        same = found is not None and (found[0] if self.strong else found[0]()) is tensor
        return not same or found is None or _version(tensor) != found[2]

    def _node(self, op: str, inputs: tuple[int, ...], args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Node:
        """The operation, with its form and, if it is a sum, its terms."""
        node = self._bare(op, inputs)
        if op in operations.SAME:
            node.form = "same"
        elif op in operations.RESAMPLE:
            node.form = "resample"
        elif op == "getitem":
            node.form = operations.indexing(args[1], tuple(args[0].shape))
        elif op in operations.PARTS:
            node.form = "slice"
            if op == "slice" and tuple(result.shape) == tuple(args[0].shape):
                node.form = "same"
            elif op == "slice" and len(args) > 4 and args[4] != 1:
                node.form = "resample"
        elif op in _FACTORS and len(inputs) == 1:
            node.form = "scale"
        elif op in operations.SUMS:
            self._sum(node, op, inputs, args, kwargs, result)
        elif op in ("sum", "mean"):
            self._stacked(node, args, kwargs, result)
        if op == "einsum" and isinstance(args[0], str):
            node.cost = contractions(args[0], [self.graph.values[v].shape for v in inputs])
        elif operations.mixes(op):
            weights = [self.graph.values[v].shape for v in inputs[1:]]
            node.cost = result.numel() * max((fan(shape, op) for shape in weights), default=1.0)
        return node

    def _bare(self, op: str, inputs: tuple[int, ...], form: str = "") -> Node:
        call = self.stack[-1] if self.stack else -1
        made = self.graph.calls[call] if call >= 0 else Call("", 0, -1, 0)
        return Node(op, inputs, (), call, form, key=(made.path, made.count, self.steps.get(call, -1)))

    def _sum(self, node: Node, op: str, inputs: tuple[int, ...], args: Any, kwargs: Any, result: Tensor) -> None:
        """The terms of an add, subtract, lerp or of an add with a product in it."""
        shape, values = tuple(result.shape), self.graph.values
        minus = -1
        if op in ("add", "sub", "rsub", "add_relu"):
            alpha = kwargs.get("alpha", args[2] if len(args) > 2 else 1)
            flipped = isinstance(alpha, (int, float)) and alpha < 0
            minus = (0 if op == "rsub" else 1) if (op in ("sub", "rsub")) != flipped else -1
            if len(inputs) == 1 and op == "add" and any(isinstance(a, (int, float)) and a == 0 for a in args):
                node.form = "same"  # the built-in sum() starts from 0
            terms = inputs[:2] if len(inputs) >= 2 else ()
        elif op == "lerp":
            terms = tuple(self._part("mul", (v, *inputs[2:]), "scale" if len(inputs) == 2 else "") for v in inputs[:2])
        elif op in ("index_add", "scatter_add"):  # x + what is scattered
            part = self.graph.value(shape=shape, origin="computed")
            scattered = self._bare(op, inputs[1:])
            scattered.outputs = (part,)
            self.graph.add(scattered)
            terms = (inputs[0], part)
        else:
            product = "mul" if op.startswith("addc") else "matmul"
            terms = (inputs[0], self._part(product, inputs[1:3]))
        if all(values[v].shape == shape and values[v].floating for v in terms):
            node.terms, node.inputs, node.op, node.minus = terms, terms or inputs, "add" if terms else op, minus

    def _part(self, op: str, inputs: tuple[int, ...], form: str = "") -> int:
        """A product that the operation makes within itself, as a value of its own; it has the sum's shape."""
        shape = max((self.graph.values[v].shape for v in inputs), key=len)
        if op == "matmul" and len(inputs) == 2 and len(shape) >= 2:
            first, second = (self.graph.values[v].shape for v in inputs)
            shape = (*first[:-1], second[-1])
        out = self.graph.value(shape=shape, origin="computed")
        node = self._bare(op, inputs, form)
        node.outputs = (out,)
        if op == "matmul":
            node.cost = 1.0 * _product(shape) * self.graph.values[inputs[0]].shape[-1]
        self.graph.add(node)
        return out

    def _stacked(self, node: Node, args: Any, kwargs: Any, result: Tensor) -> None:
        """`stack(…, dim).sum(dim)` is a sum."""
        maker = self.graph.producer(node.inputs[0]) if node.inputs else None
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        dims = dim if isinstance(dim, (list, tuple)) else [dim]
        if maker is None or maker.op != "stack" or len(dims) != 1 or not isinstance(dims[0], int):
            return
        stacked, shape = self.graph.values[node.inputs[0]].shape, tuple(result.shape)
        axis = dims[0] % len(stacked)
        if stacked[:axis] + stacked[axis + 1 :] == shape and all(self.graph.values[v].shape == shape for v in maker.inputs):
            if node.op == "mean":
                maker = dataclasses.replace(maker, inputs=tuple(self._part("mul", (v,), "scale") for v in maker.inputs))
            node.terms = node.inputs = maker.inputs
            node.op = "add"

    def _write(self, target: Tensor, index: Any, content: Any) -> None:
        """`target[index] = content`."""
        before = self.value(target)
        read = [self.value(t) for t in _flat(content)]
        whole = operations.indexing(index, tuple(target.shape)) == "same" and bool(read)
        node = self._bare("setitem", tuple(read) if whole else (before, *read), "same" if whole else "")
        self.graph.values[before].overwritten = True
        value = self.graph.value(shape=tuple(target.shape), origin="computed", floating=_floating(target))
        self.meet(target, value)
        node.outputs, node.sequence = (value,), _sequence(target)
        self.last = self.graph.add(node)
        self._spread(target, value)

    def _spread(self, view: Tensor, value: int) -> None:
        """What was written into a view is in its base as well."""
        base = view._base
        before = None if base is None else self.look(base)
        if base is None or before is None:
            return
        whole = base.numel() == view.numel()
        node = self._bare("write", (value,) if whole else (before, value), "same" if whole else "")
        self.graph.values[before].overwritten = True
        made = self.graph.value(shape=tuple(base.shape), origin="computed", floating=_floating(base))
        node.outputs = (made,)
        self.graph.add(node)
        self.meet(base, made)

    # -- module calls -----------------------------------------------------------------------------------------------------

    def enter(self, module: nn.Module, _: Any) -> None:
        """A module's forward begins."""
        path = self.paths.get(id(module), "?")
        count = self.counts.get(path, 0)
        self.counts[path] = count + 1
        parent = self.stack[-1] if self.stack else -1
        self.graph.calls.append(Call(path, count, parent, len(self.graph.nodes), kind=type(module).__name__))
        self.stack.append(len(self.graph.calls) - 1)

    def leave(self, out: Any) -> None:
        """A module's forward ends, or was left by an exception."""
        if self.stack:
            call = self.graph.calls[self.stack.pop()]
            call.last = len(self.graph.nodes)
            call.outs = tuple(-1 if (v := self.look(t)) is None else v for t in tensors(out))


class _Functions(TorchFunctionMode):
    """Sees every torch function that Python calls."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.recorder.before(func, args, kwargs)
        out = func(*args, **kwargs)
        self.recorder.record(func, args, kwargs, out)
        return out


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own lack of types
    """Sees every operator that reaches a device, from wherever it was called."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recorder = recorder

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.recorder.before(func, args, kwargs)
        out = func(*args, **kwargs)
        self.recorder.record(func, args, kwargs, out)
        return out


def watch(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, below: bool = False) -> tuple[Graph, Any]:
    """Run a model once and record it.

    Args:
        model: The model.
        args: Its inputs.
        kwargs: More of them.
        below: Watch the operators below autograd instead of the functions called; slower, but sees into scripted modules and
            custom functions.

    Returns:
        The graph, and what the model returned.
    """
    recorder = Recorder(model, (args, kwargs), strong=below)
    return recorder.graph, recorded_by(recorder, model, args, kwargs)


def recorded_by(recorder: Recorder, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a model once while a recorder looks on; what the model returned."""
    hooks = []
    try:
        hooks.append(register_module_forward_pre_hook(recorder.enter))
        hooks.append(register_module_forward_hook(lambda *call: recorder.leave(call[-1]), always_call=True))
        with _Operators(recorder) if recorder.strong else _Functions(recorder):
            out = model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, content in recorder.aside.values():
            parameter.data.copy_(content)
    found = [recorder.look(t) for t in tensors(out)]
    recorder.graph.outputs = [v for v in found if v is not None]
    return out


def _flat(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from _flat(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from _flat(item)


def _floating(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _place(tensor: Tensor) -> Any:
    try:
        where = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tuple(tensor.stride()))
    except (RuntimeError, NotImplementedError):  # sparse and packed tensors have no plain storage
        where = (id(tensor), 0, ())
    return (*where, tuple(tensor.shape), tensor.dtype)


def _sequence(tensor: Tensor) -> int:
    function = tensor.grad_fn
    return -1 if function is None else int(function._sequence_nr())


def fan(shape: tuple[int, ...], op: str) -> float:
    """Multiplications an element of the output costs, from the shape of a weight."""
    if len(shape) < 2:
        return 1.0
    return float(shape[-2] if "mm" in op or "matmul" in op else _product(shape[1:]))


def contractions(equation: str, shapes: list[tuple[int, ...]]) -> float:
    """Multiplications of an einsum: the product of the sizes of all its letters.

    >>> contractions("ij,j...->i...", [(2, 3), (3, 5)])
    30.0
    """
    sizes: dict[str, int] = {}
    for term, shape in zip(equation.replace(" ", "").partition("->")[0].split(","), shapes, strict=False):
        head, _, tail = term.partition("...")
        sizes |= dict(zip(head, shape, strict=False))
        sizes |= dict(zip(reversed(tail), reversed(shape), strict=False))
        if "..." in term:
            rest = _product(shape[len(head) : len(shape) - len(tail)])
            sizes["..."] = max(rest, sizes.get("...", 1))
    return float(_product(tuple(sizes.values())))


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
