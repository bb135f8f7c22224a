"""States of any shape as one tensor: a tensor stays as it is, a tuple or dict of tensors is laid out in one row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from residyn.errors import InputError

State = Any
"""A tensor, or a (nested) tuple, list or dict of tensors."""


def leaves(tree: State, name: str = "x0") -> list[Tensor]:
    """The tensors of a state, in order.

    Raises:
        InputError: If something in it is no tensor.

    >>> [leaf.shape for leaf in leaves((torch.zeros(2), {"v": torch.ones(3)}))]
    [torch.Size([2]), torch.Size([3])]
    """
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        return [leaf for key, item in tree.items() for leaf in leaves(item, f"{name}[{key!r}]")]
    if isinstance(tree, (tuple, list)):
        return [leaf for i, item in enumerate(tree) for leaf in leaves(item, f"{name}[{i}]")]
    raise InputError(
        f"`{name}` must be a tensor, or a tuple or dict of tensors, got {type(tree).__name__}; "
        "make it a tensor with torch.as_tensor(..., dtype=torch.float64)"
    )


def rebuild(tree: State, items: list[Tensor]) -> State:
    """A state of the structure of `tree` with other tensors, taken from `items` in order."""
    return _rebuild(tree, iter(items))


def _rebuild(tree: State, items: Any) -> State:
    if isinstance(tree, Tensor):
        return next(items)
    if isinstance(tree, Mapping):
        return {key: _rebuild(item, items) for key, item in tree.items()}
    rebuilt = [_rebuild(item, items) for item in tree]
    if hasattr(tree, "_fields"):  # a named tuple
        return type(tree)(*rebuilt)
    return type(tree)(rebuilt)


@dataclass(frozen=True)
class Layout:
    """Where each leaf of a state lies in its row: `(N,)`, or `(B, n)` with `batched` for a row a sample.

    Real and complex leaves together are laid out as real numbers (a scheme is linear over the reals in the state, so nothing
    is lost).
    """

    tree: State
    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]
    batched: bool
    as_real: bool

    @classmethod
    def of(cls, tree: State, *, batched: bool, as_real: bool = False) -> Layout:
        """The layout of a state.

        Raises:
            InputError: If its tensors do not share precision, device, or (with `batched`) the number of samples.
        """
        items = leaves(tree)
        if not items:
            raise InputError("`x0` must hold at least one tensor, got none")
        dtypes = tuple(item.dtype for item in items)
        real = {dtype.to_real() if dtype.is_complex else dtype for dtype in dtypes}
        if len(real) > 1:
            raise InputError(
                f"`x0` must have tensors of one precision, got {sorted(map(str, real))}; convert them to one dtype"
            )
        if len({item.device for item in items}) > 1:
            raise InputError(f"`x0` must lie on one device, got {sorted({str(item.device) for item in items})}; move it")
        if batched and len({item.shape[:1] for item in items}) > 1:
            shapes = [tuple(item.shape) for item in items]
            raise InputError(f"`x0` must have the same number of samples in each tensor, (B, …), got shapes {shapes}")
        as_real = as_real or len(set(dtypes)) > 1
        return cls(tree, tuple(item.shape for item in items), dtypes, batched, as_real)

    def pack(self, tree: State) -> Tensor:
        """The state as one row (a row a sample)."""
        rows = []
        for item in leaves(tree, "f(t, x)"):
            real = torch.view_as_real(item) if self.as_real and item.is_complex() else item
            rows.append(real.reshape(real.shape[0], -1) if self.batched else real.reshape(-1))
        return torch.cat(rows, dim=-1)

    def unpack(self, row: Tensor) -> State:
        """The state back from its row; leading axes before the row stay in front of each leaf."""
        lead = row.shape[: row.ndim - (2 if self.batched else 1)]
        items, start = [], 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            inner = shape[1:] if self.batched else shape
            width = inner.numel() * (2 if self.as_real and dtype.is_complex else 1)
            piece = row[..., start : start + width]
            if self.as_real and dtype.is_complex:
                items.append(torch.view_as_complex(piece.reshape(*lead, *shape, 2).contiguous()))
            else:
                items.append(piece.reshape(*lead, *shape))
            start += width
        return rebuild(self.tree, items)


def inside_transform() -> bool:
    """Whether a transform of torch.func (vmap, jvp, grad) is at work, under which a tensor has no number to read."""
    return torch._C._functorch.peek_interpreter_stack() is not None
