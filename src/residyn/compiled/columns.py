"""A field taken apart by components, so that a compiler fuses all stages of a step into one pass over the samples.

A field such as `torch.stack((a(x[..., 0], x[..., 1]), …), -1)` mixes the entries of the last axis. Compiled as it stands, each
stage must be written out before the next can read across; with the state held as one tensor a component, `x[..., i]` is a name
and `stack` a list, what remains is elementwise, and a whole step stays in registers. The arithmetic is that of the field.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

LIMIT = 16
"""Components up to which it is tried; operations are written once a component."""


class NotByColumnsError(Exception):
    """The field does something to the last axis that is not known by columns; it is then compiled as it stands."""


class Columns:
    """A tensor `(…, m)` as m tensors `(…)`."""

    __slots__ = ("items",)

    def __init__(self, items: list[Tensor]) -> None:
        if not 0 < len(items) <= LIMIT:
            raise NotByColumnsError
        self.items = items

    @property
    def ndim(self) -> int:
        """Axes of the tensor that is meant."""
        return self.items[0].ndim + 1

    def map(self, change: Callable[[Tensor], Tensor]) -> Columns:
        """Each column changed."""
        return Columns([change(item) for item in self.items])


Value = Any  # a tensor, Columns, or a list of them


def run(graph: fx.GraphModule, inputs: list[Value]) -> list[Tensor]:
    """The columns of what a traced field returns.

    Raises:
        NotByColumnsError: If it cannot be told by columns.
    """
    values: dict[fx.Node, Value] = {}
    given = iter(inputs)
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(given)
        elif node.op == "get_attr":
            values[node] = getattr(graph, node.target)
        elif node.op == "call_function":
            args = fx.map_arg(node.args, lambda n: values[n])
            kwargs = fx.map_arg(node.kwargs, lambda n: values[n])
            values[node] = _call(node.target, args, dict(kwargs))
        else:
            (result,) = fx.map_arg(node.args[0], lambda n: values[n])
    return result.items if isinstance(result, Columns) else _pieces(result)


def _call(target: Any, args: Any, kwargs: dict[str, Any]) -> Value:
    if target is operator.getitem:
        return args[0][args[1]]
    if not isinstance(target, torch._ops.OpOverload):
        raise NotByColumnsError
    name = target._schema.name.removeprefix("aten::")
    if not _any_columns(args) and not _any_columns(kwargs.values()):
        return _known_plain(name, target, args, kwargs)
    if torch.Tag.pointwise in target.tags or name in _KEEPING_SHAPE:
        return _elementwise(target, args, kwargs)
    if name in _RULES and not set(kwargs) - {"dim", "keepdim"}:
        return _RULES[name](*args, **kwargs)
    raise NotByColumnsError


def _known_plain(name: str, target: Any, args: Any, kwargs: dict[str, Any]) -> Value:
    """An operation on tensors alone; a new last axis begins a tensor by columns."""
    if name == "stack":
        items, dim = args[0], (args[1] if len(args) > 1 else kwargs.get("dim", 0))
        if dim in (-1, items[0].ndim) and len(items) <= LIMIT:
            return Columns(list(items))
    if name == "unsqueeze" and args[1] in (-1, args[0].ndim):
        return Columns([args[0]])
    return target(*args, **kwargs)


_KEEPING_SHAPE = {
    "clone", "_to_copy", "alias", "detach", "zeros_like", "ones_like", "full_like", "empty_like", "lift_fresh_copy", "copy",
}  # fmt: skip


def _any_columns(values: Any) -> bool:
    return any(isinstance(v, Columns) or (isinstance(v, (list, tuple)) and _any_columns(v)) for v in values)


def _pieces(value: Value) -> list[Tensor]:
    """The columns of a value, whichever form it has."""
    if isinstance(value, Columns):
        return value.items
    if value.ndim == 0 or value.shape[-1] > LIMIT:
        raise NotByColumnsError
    return list(value.unbind(-1))


def _elementwise(target: Any, args: Any, kwargs: dict[str, Any]) -> Columns:
    tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, (Columns, Tensor))]
    if any(isinstance(v, (list, tuple)) for v in args):
        raise NotByColumnsError
    widths = {len(v.items) if isinstance(v, Columns) else (v.shape[-1] if v.ndim else 1) for v in tensors} - {1}
    if len(widths) > 1:
        raise NotByColumnsError
    width = widths.pop() if widths else 1

    def at(value: Value, i: int) -> Value:
        if isinstance(value, Columns):
            return value.items[i if len(value.items) > 1 else 0]
        if isinstance(value, Tensor) and value.ndim:
            return value.select(-1, i if value.shape[-1] > 1 else 0)
        return value

    return Columns([target(*(at(v, i) for v in args), **{k: at(v, i) for k, v in kwargs.items()}) for i in range(width)])


def _axis(x: Columns, dim: int) -> int:
    """An axis counted from the front; the last is that of the columns."""
    return dim % x.ndim


def _select(x: Columns, dim: int, index: int) -> Value:
    axis = _axis(x, dim)
    return x.items[index] if axis == x.ndim - 1 else x.map(lambda c: c.select(axis, index))


def _slice(x: Columns, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Columns:
    axis = _axis(x, dim)
    if axis == x.ndim - 1:
        return Columns(x.items[slice(start, end, step)])
    return x.map(lambda c: torch.ops.aten.slice.Tensor(c, axis, start, end, step))


def _unbind(x: Columns, dim: int = 0) -> list[Value]:
    axis = _axis(x, dim)
    if axis == x.ndim - 1:
        return list(x.items)
    return [Columns(list(row)) for row in zip(*(c.unbind(axis) for c in x.items), strict=True)]


def _split(x: Columns, size: int | list[int], dim: int = 0) -> list[Value]:
    if _axis(x, dim) != x.ndim - 1:
        raise NotByColumnsError
    sizes = size if isinstance(size, (list, tuple)) else [size] * -(-len(x.items) // size)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [Columns(x.items[a : a + n]) for a, n in zip(starts, sizes, strict=True)]


def _unsqueeze(x: Columns, dim: int) -> Columns:
    axis = dim % (x.ndim + 1)
    if axis == x.ndim:
        raise NotByColumnsError
    return x.map(lambda c: c.unsqueeze(axis))


def _squeeze(x: Columns, dim: int | list[int]) -> Value:
    axis = _axis(x, dim if isinstance(dim, int) else dim[0] if len(dim) == 1 else -1)
    if axis == x.ndim - 1:
        return x.items[0] if len(x.items) == 1 else x
    return x.map(lambda c: c.squeeze(axis))


def _cat(items: list[Value], dim: int = 0) -> Columns:
    ndim = next(v.ndim for v in items if isinstance(v, Columns))
    if dim % ndim == ndim - 1:
        return Columns([piece for v in items for piece in _pieces(v)])
    rows = [_pieces(v) for v in items]
    return Columns([torch.cat(column, dim % ndim) for column in map(list, zip(*rows, strict=True))])


def _expand(x: Columns, size: list[int]) -> Columns:
    width = len(x.items) if size[-1] == -1 else size[-1]
    items = x.items * (width if len(x.items) == 1 else 1)
    shape = list(size[:-1])
    return Columns([c.expand(shape) for c in items])


def _sum(x: Columns, dims: list[int], keepdim: bool = False) -> Value:
    if [_axis(x, d) for d in dims] != [x.ndim - 1]:
        raise NotByColumnsError
    total = x.items[0]
    for item in x.items[1:]:
        total = total + item
    return Columns([total]) if keepdim else total


def _mean(x: Columns, dims: list[int], keepdim: bool = False) -> Value:
    total = _sum(x, dims, keepdim)
    return total.map(lambda c: c / len(x.items)) if isinstance(total, Columns) else total / len(x.items)


def _select_scatter(x: Value, source: Value, dim: int, index: int) -> Columns:
    items = list(_pieces(x))
    if dim % (items[0].ndim + 1) != items[0].ndim or isinstance(source, Columns):
        raise NotByColumnsError
    items[index] = source.expand_as(items[index])
    return Columns(items)


def _slice_scatter(x: Value, source: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Columns:
    items = list(_pieces(x))
    if dim % (items[0].ndim + 1) != items[0].ndim:
        raise NotByColumnsError
    items[slice(start, end, step)] = _pieces(source)
    return Columns(items)


def _flip(x: Columns, dims: list[int]) -> Columns:
    if [_axis(x, d) for d in dims] != [x.ndim - 1]:
        raise NotByColumnsError
    return Columns(x.items[::-1])


def _roll(x: Columns, shifts: list[int], dims: list[int]) -> Columns:
    if [_axis(x, d) for d in dims] != [x.ndim - 1]:
        raise NotByColumnsError
    cut = -shifts[0] % len(x.items)
    return Columns(x.items[cut:] + x.items[:cut])


_RULES: dict[str, Callable[..., Value]] = {
    "select": _select, "slice": _slice, "unbind": _unbind, "split": _split, "split_with_sizes": _split,
    "unsqueeze": _unsqueeze, "squeeze": _squeeze, "cat": _cat, "expand": _expand, "sum": _sum, "mean": _mean,
    "select_scatter": _select_scatter, "slice_scatter": _slice_scatter, "flip": _flip, "roll": _roll,
}  # fmt: skip
