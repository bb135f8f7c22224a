"""The product of a sparse symmetric matrix with features, by whichever kernel is fastest, and its gradient by the same one."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from scipy import sparse
from torch import Tensor, nn
from torch.autograd import forward_ad

from residyn.state import inside_transform

_NARROW = 12
"""Below this many columns the vendor's sparse product beats sums of embeddings, whose cost is one row at a time (measured)."""
_KEPT = 8
"""Combinations a·I + b·A that are kept: the steps of a scheme ask for the same few again and again."""


class SymmetricMatrix(nn.Module):
    """A = Aᵀ as rows of entries (CSR), each with a place for its diagonal; products with a·I + b·A cost one pass over x.

    Moves with `.to()`; it is no part of a model's saved weights, as a graph is data.

    Args:
        rows: Where each row begins, `(n + 1,)`.
        columns: Column of each entry, increasing in a row, `(entries,)`.
        values: The entries.
        diagonal: Places of the diagonal entries, `(n,)`.
    """

    rows: Tensor
    columns: Tensor
    values: Tensor
    diagonal: Tensor

    def __init__(self, rows: Tensor, columns: Tensor, values: Tensor, diagonal: Tensor) -> None:
        super().__init__()
        small = torch.int32 if max(len(values), len(rows)) < 2**31 else torch.int64  # half the memory traffic of the index
        for name, tensor in (
            ("rows", rows.to(small)),
            ("columns", columns.to(small)),
            ("values", values),
            ("diagonal", diagonal),
        ):
            self.register_buffer(name, tensor, persistent=False)
        self._kept: dict[tuple[float, float, torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    @property
    def n(self) -> int:
        """Order of A."""
        return len(self.rows) - 1

    def combined(self, a: float, b: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """a·I + b·A: its entries, and torch's CSR tensor of them."""
        key = (a, b, dtype, self.values.device)
        if key not in self._kept:
            while len(self._kept) >= _KEPT:
                self._kept.pop(next(iter(self._kept)))
            entries = b * self.values
            entries[self.diagonal] += a
            entries = entries.to(dtype)
            self._kept[key] = (entries, as_csr(self.rows, self.columns, entries))
        return self._kept[key]

    def product(self, x: Tensor, a: float, b: float) -> Tensor:
        """(a·I + b·A)·x for x of shape `(n, …)`, differentiable in x."""
        if not x.requires_grad and not inside_transform() and forward_ad._current_level < 0:
            return multiply(self, x, float(a), float(b))
        image: Tensor = _Product.apply(x, self, float(a), float(b))  # type: ignore[no-untyped-call]
        return image

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}


def multiply(matrix: SymmetricMatrix, x: Tensor, a: float, b: float) -> Tensor:
    """(a·I + b·A)·x without gradient; x `(n, …)`."""
    flat = x.reshape(len(x), -1)
    entries, csr = matrix.combined(a, b, x.dtype)
    wide, half = flat.shape[1] >= _NARROW, x.dtype in (torch.float16, torch.bfloat16)
    if x.device.type == "cpu" and (half or (x.dtype == torch.float32 and wide)):
        # a row of the product is a weighted sum of rows of x: what a bag of embeddings is, and has a kernel of its own for
        y = torch.embedding_bag(flat.contiguous(), matrix.columns, matrix.rows, False, 0, False, entries, True)[0]
        return y.reshape(x.shape)
    if x.device.type == "cpu" and x.dtype == torch.float64 and wide:
        return torch.sparse.mm(csr, flat.contiguous(), "sum").reshape(x.shape)
    return (csr @ flat).reshape(x.shape)


def as_csr(rows: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """A square CSR tensor of torch, without its remarks that such tensors are new."""
    n = len(rows) - 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support")
        return torch.sparse_csr_tensor(rows, columns, values, (n, n), check_invariants=False)


def as_scipy(L: Tensor) -> sparse.csr_array:
    """A tensor of any layout in SciPy's form, float64."""
    if L.layout == torch.sparse_csr:
        parts = (L.values().cpu().double().numpy(), L.col_indices().cpu().numpy(), L.crow_indices().cpu().numpy())
        matrix = sparse.csr_array(parts, shape=tuple(L.shape))
    elif L.layout == torch.strided:
        return sparse.csr_array(L.cpu().double().numpy())
    else:
        coo = L.to_sparse_coo().coalesce().cpu()  # type: ignore[no-untyped-call]
        matrix = sparse.csr_array((coo.values().double().numpy(), tuple(coo.indices().numpy())), shape=tuple(L.shape))
    matrix.sum_duplicates()
    return matrix


class _Product(torch.autograd.Function):
    """y = (a·I + b·A)·x; as A = Aᵀ the gradient is the same product, and so is every derivative of it."""

    @staticmethod
    def forward(x: Tensor, matrix: SymmetricMatrix, a: float, b: float) -> Tensor:
        return multiply(matrix, x, a, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.matrix, ctx.a, ctx.b = inputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        return ctx.matrix.product(gradients[0], ctx.a, ctx.b), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        moved: Tensor = ctx.matrix.product(tangents[0], ctx.a, ctx.b)
        return moved

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, matrix: SymmetricMatrix, a: float, b: float) -> tuple[Tensor, int]:
        return matrix.product(x.movedim(in_dims[0], 1), a, b), 1
