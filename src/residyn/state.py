"""States of any shape as one tensor: a tensor stays as it is, a tuple or dict of tensors is laid out in one row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType as _Kind
from torch.autograd import forward_ad

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


def _matched(like: State, tree: State, name: str) -> Iterator[Tensor]:
    """The tensors of what f returned, in the order of the state `like`."""
    if isinstance(like, Tensor):
        if not isinstance(tree, Tensor):
            raise InputError(f"`{name}` must be a tensor as in x, got {type(tree).__name__}; return dx/dt")
        yield tree
    elif isinstance(like, Mapping):
        if not isinstance(tree, Mapping) or tree.keys() != like.keys():
            got = f"those of {sorted(map(repr, tree))}" if isinstance(tree, Mapping) else type(tree).__name__
            raise InputError(f"`f` must return a dict with the keys of x, {sorted(map(repr, like))}, got {got}")
        for key, item in like.items():
            yield from _matched(item, tree[key], f"{name}[{key!r}]")
    else:
        if not isinstance(tree, (tuple, list)) or len(tree) != len(like):
            got = f"{len(tree)} of them" if isinstance(tree, (tuple, list)) else type(tree).__name__
            raise InputError(f"`f` must return a tuple of {len(like)} as in x, got {got}; return dx/dt for each")
        for i, (item, slope) in enumerate(zip(like, tree, strict=True)):
            yield from _matched(item, slope, f"{name}[{i}]")


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
        return self._row(leaves(tree))

    def pack_slope(self, tree: State) -> Tensor:
        """What f returned as one row; entries of a dict are found by their keys, in whatever order they come.

        Raises:
            InputError: If its structure, shapes or dtypes are not those of the state.
        """
        items = list(_matched(self.tree, tree, "f(t, x)"))
        shapes = tuple(item.shape for item in items)
        if shapes != self.shapes:
            want, got = [tuple(s) for s in self.shapes], [tuple(s) for s in shapes]
            raise InputError(f"`f` must return tensors of the shapes in x, {want}, got {got}; return dx/dt for each of them")
        dtypes = tuple(item.dtype for item in items)
        if dtypes != self.dtypes:
            expected, found = list(map(str, self.dtypes)), list(map(str, dtypes))
            raise InputError(
                f"`f` must return tensors of the dtypes in x, {expected}, got {found}; convert x0 or the parameters of f"
            )
        return self._row(items)

    def _row(self, items: list[Tensor]) -> Tensor:
        rows = []
        for item in items:
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
                items.append(torch.view_as_complex(piece.reshape((*lead, *shape, 2)).contiguous()))
            else:
                items.append(piece.reshape((*lead, *shape)))
            start += width
        return rebuild(self.tree, items)


def ordinary(tree: Any) -> Any:
    """A structure whose inference tensors, which no derivative may pass, are copied to ordinary ones; other things are kept.

    To be called where inference mode is off.
    """
    if isinstance(tree, Tensor):
        return tree.clone() if tree.is_inference() else tree
    if isinstance(tree, Mapping):
        return {key: ordinary(item) for key, item in tree.items()}
    if isinstance(tree, (tuple, list)):
        items = [ordinary(item) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return tree


def held(x: Tensor, name: str) -> Tensor:
    """x, if it holds numbers.

    Raises:
        InputError: If it lies on the meta device, which keeps shapes alone.
    """
    if x.device.type == "meta":
        raise InputError(
            f"`{name}` must hold numbers, got a tensor on the meta device, which has only shapes; make it on another device, "
            'a model by model.to_empty(device="cpu") and load_state_dict'
        )
    return x


def inside_transform() -> bool:
    """Whether a transform of torch.func (vmap, jvp, grad) or forward-mode differentiation is at work.

    There a tensor is more than its numbers, and only operations that know of that may touch it.
    """
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def differentiations() -> int:
    """How many differentiations, nested in each other, are at work around this call."""
    stack = torch._C._functorch.get_interpreter_stack() or []
    kinds = [level.key() for level in stack]
    count = sum(kind in (_Kind.Grad, _Kind.Jvp) for kind in kinds)
    # a dual level of torch.autograd.forward_ad that no jvp opened
    plain = forward_ad._current_level >= 0 and _Kind.Jvp not in kinds
    return count + int(plain)


def physical(x: Tensor) -> Tensor:
    """The numbers of a tensor, those of all lanes of `vmap` in one tensor; for looking at, not for computing on."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(x):
        x = functorch.get_unwrapped(x)
    with torch._C._DisableFuncTorch():  # an operation would be wrapped again
        return x.detach()
