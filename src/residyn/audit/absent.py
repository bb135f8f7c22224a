"""What stands in a model where a branch was: modules that return zeros of the right shape and compute nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from residyn.audit.trace import tensors
from residyn.errors import InputError

Example = tuple[tuple[Any, ...], dict[str, Any], Any]
Rule = tuple[tuple[tuple[int, int] | int, ...], torch.dtype]


class Absent(nn.Module):
    """Zeros in the form of what a module returned: each size is constant, or that of one of its inputs.

    Args:
        examples: Two calls of the module on batches of different size: arguments, keyword arguments, output.

    Raises:
        InputError: If the sizes of the output do not follow from those of the input.
    """

    def __init__(self, examples: tuple[Example, Example]) -> None:
        super().__init__()
        (args, kwargs, out), (more, further, again) = examples
        first, second = list(tensors((args, kwargs))), list(tensors((more, further)))
        if not first:
            raise InputError("a module without tensors among its arguments cannot be left out")
        self.rules: list[Rule] = []
        for one, other in zip(tensors(out), tensors(again), strict=True):
            sizes = tuple(_rule(d, a, b, first, second) for d, (a, b) in enumerate(zip(one.shape, other.shape, strict=True)))
            self.rules.append((sizes, one.dtype))
        self.template = replaced(out, lambda _, __: None)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Zeros."""
        given = list(tensors((args, kwargs)))
        made = [
            given[0].new_zeros([s if isinstance(s, int) else given[s[0]].shape[s[1]] for s in sizes], dtype=dtype)
            for sizes, dtype in self.rules
        ]
        return _filled(self.template, iter(made))


class _Hole:
    """Where a tensor was."""


_HOLE = _Hole()


def _rule(d: int, size: int, again: int, first: list[Tensor], second: list[Tensor]) -> tuple[int, int] | int:
    """Which size of which input a size of the output follows; itself if it is constant."""
    places = [(i, j) for i, t in enumerate(first) for j in range(t.ndim) if i < len(second) and j < second[i].ndim]
    fits = [(i, j) for i, j in places if first[i].shape[j] == size and second[i].shape[j] == again]
    same = [(i, j) for i, j in fits if j == d]
    if same or fits:
        return (same or fits)[0]
    if size != again:
        raise InputError(f"a size of the output, {size} and then {again}, follows from none of the inputs")
    return size


def replaced(tree: Any, change: Callable[[int, Tensor], Any]) -> Any:
    """What a module returned with its tensors changed, in the order of `tensors`; `None` stands for a hole.

    Args:
        tree: Nested tuples, lists, mappings and dataclasses.
        change: From place and tensor to what takes its place.
    """
    count = -1

    def walk(item: Any) -> Any:
        nonlocal count
        if isinstance(item, Tensor):
            count += 1
            made = change(count, item)
            return _HOLE if made is None else made
        if isinstance(item, tuple) and hasattr(item, "_fields"):
            return type(item)(*map(walk, item))
        if isinstance(item, (tuple, list)):
            return type(item)(map(walk, item))
        if isinstance(item, Mapping):
            pairs = {key: walk(part) for key, part in item.items()}
            return pairs if type(item) is dict else type(item)(**pairs)
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            return dataclasses.replace(item, **{f.name: walk(getattr(item, f.name)) for f in dataclasses.fields(item)})
        return item

    return walk(tree)


def _filled(tree: Any, made: Any) -> Any:
    """The template with tensors in its holes."""
    if tree is _HOLE or isinstance(tree, _Hole):
        return next(made)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_filled(part, made) for part in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(_filled(part, made) for part in tree)
    if isinstance(tree, Mapping):
        pairs = {key: _filled(part, made) for key, part in tree.items()}
        return pairs if type(tree) is dict else type(tree)(**pairs)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return dataclasses.replace(tree, **{f.name: _filled(getattr(tree, f.name), made) for f in dataclasses.fields(tree)})
    return tree
