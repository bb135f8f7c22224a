"""The linear algebra of implicit equations: Jacobians of batches, dense solves, and GMRES where a matrix would be too large."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from residyn.state import inside_transform, physical

DENSE_LIMIT = 256
"""Up to this many unknowns a sample, a Jacobian is written out."""


def rows_of(x: Tensor, coupled: bool) -> Tensor:
    """A state as independent systems, `(B, n)`; one system `(1, N)` if samples are coupled or there is no sample axis."""
    return x.reshape(1, -1) if coupled or x.ndim < 2 else x.reshape(len(x), -1)


def widened(x: Tensor) -> Tensor:
    """Half precision as single, in which alone LAPACK computes; all else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def own_precision(x: Tensor) -> contextlib.AbstractContextManager[None]:
    """Within, autocast changes no product: a solver is no layer, and would not get below the rounding of its products."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else contextlib.nullcontext()


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """a·b of batches of matrices, in their own precision."""
    with own_precision(a):
        return torch.bmm(a, b)


def is_coupled(image: Tensor, x: Tensor) -> bool:
    """Whether a sample of `image` depends on other samples of the leaf `x` it was computed from, `(B, …)`."""
    if x.ndim < 2 or len(x) < 2 or not image.requires_grad:
        return False

    def pull(weight: Tensor) -> Tensor | None:
        return torch.autograd.grad(image, x, weight, retain_graph=True, allow_unused=True)[0]

    return is_coupled_by(pull, image)


def is_coupled_by(pull: Callable[[Tensor], Tensor | None], like: Tensor) -> bool:
    """Whether samples depend on each other, from the pull-back of a map `(B, …)` → `(B, …)`.

    Found by pulling back random weights on half of the samples: what arrives at the other half is zero, but for an event of
    probability zero, exactly if they take no part. The halves are those of each binary digit of the sample's number, either
    way round, so that every ordered pair is apart in one of them: sample 1 may look at sample 0 and not be looked at.
    """
    if like.ndim < 2 or len(like) < 2:
        return False
    # of NumPy, for torch's own random numbers are refused inside vmap
    weight = torch.from_numpy(np.random.default_rng(0).standard_normal(tuple(like.shape))).to(like.device, like.dtype)
    number = torch.arange(len(like), device=like.device)
    for digit in range((len(like) - 1).bit_length()):
        for half in (True, False):
            inside = ((number >> digit) & 1).bool() == half
            pulled = pull(weight * inside.view(-1, *[1] * (like.ndim - 1)))
            if pulled is not None and bool((physical(pulled[~inside]) != 0).any()):
                return True
    return False


def jacobian(image: Tensor, x: Tensor, coupled: bool, *, create_graph: bool = False) -> Tensor:
    """∂image/∂x, `(B, n, n)`, of independent systems (`(1, N, N)` if coupled), from a graph that is kept.

    Args:
        image: Of the shape of x, computed from it.
        x: A leaf, or any tensor of the graph.
        coupled: Whether samples depend on each other.
        create_graph: Whether the Jacobian can be differentiated itself.
    """
    like = rows_of(x, coupled)
    batch, n = like.shape
    if not image.requires_grad:
        return like.new_zeros(batch, n, n)
    basis = torch.eye(n, dtype=x.dtype, device=x.device)[:, None, :].expand(n, batch, n).reshape(n, *x.shape)
    # one pass for all rows pays from about eight rows on; below, its set-up costs more than a pass a row
    if n > 8:
        (rows,) = torch.autograd.grad(
            image, x, basis, retain_graph=True, create_graph=create_graph, is_grads_batched=True, allow_unused=True
        )
        if rows is None:
            return like.new_zeros(batch, n, n)
    else:
        found = [
            torch.autograd.grad(image, x, row, retain_graph=True, create_graph=create_graph, allow_unused=True)[0]
            for row in basis
        ]
        if found[0] is None:
            return like.new_zeros(batch, n, n)
        rows = torch.stack(found)
    return rows.reshape(n, batch, n).transpose(0, 1)


class DenseSolver:
    """Solves M·d = r for many r, M `(B, n, n)`, shaped like the state."""

    def __init__(self, matrix: Tensor, coupled: bool) -> None:
        self.coupled = coupled
        self.small = matrix.shape[-1] <= 16 or inside_transform()
        matrix = widened(matrix)
        if self.small:  # an inverse applied is one product; a batched triangular solve is several, each slower
            self.inverse, info = torch.linalg.inv_ex(matrix)
        else:
            self.factors, self.pivots, info = torch.linalg.lu_factor_ex(matrix)
        self.singular = info != 0

    def __call__(self, r: Tensor) -> Tensor:
        """d, of the shape of r; nan where M is singular."""
        rows = widened(rows_of(r, self.coupled).unsqueeze(-1))
        d = bmm(self.inverse, rows) if self.small else torch.linalg.lu_solve(self.factors, self.pivots, rows)
        return d.reshape(r.shape).to(r.dtype)


def forward_product(image: Tensor, x: Tensor) -> Callable[[Tensor], Tensor]:
    """v → ∂image/∂x·v, by differentiating the pull-back on the graph of one evaluation.

    Works for every function that can be differentiated twice backwards; forward mode would evaluate it anew for each product.
    """
    with torch.enable_grad():
        weight = torch.zeros_like(image, requires_grad=True)
        pulled = None
        if image.requires_grad:
            (pulled,) = torch.autograd.grad(image, x, weight, create_graph=True, allow_unused=True)

    def product(v: Tensor) -> Tensor:
        if pulled is None or not pulled.requires_grad:
            return torch.zeros_like(v)
        (along,) = torch.autograd.grad(pulled, weight, v, retain_graph=True, allow_unused=True)
        return torch.zeros_like(v) if along is None else along

    return product


class Krylov(NamedTuple):
    """What GMRES found: the solution, its relative residual a system, and the products spent."""

    x: Tensor
    residual: Tensor
    products: int


def gmres(product: Callable[[Tensor], Tensor], b: Tensor, *, tol: float, max_products: int = 100, restart: int = 30) -> Krylov:
    """Solve A·x = b for independent systems at once by restarted GMRES.

    Args:
        product: v → A·v, both `(B, n)`.
        b: Right-hand sides, `(B, n)`.
        tol: Relative residual to reach on every system.
        max_products: Products with A before giving up.
        restart: Dimension of the Krylov space.

    Reference:
        Saad & Schultz (1986), doi:10.1137/0907058.
    """
    x = torch.zeros_like(b)
    size = torch.linalg.vector_norm(b, dim=1).clamp_min(torch.finfo(b.dtype).tiny)
    residual, r, spent = torch.ones_like(size), b, 0
    while spent < max_products:
        with own_precision(r):
            update, used = _arnoldi_cycle(product, r, min(restart, max_products - spent), tol * size)
        spent += used
        x = x + update
        r = b - product(x)
        spent += 1
        residual = torch.linalg.vector_norm(r, dim=1) / size
        if bool((residual <= tol).all()) or not bool(torch.isfinite(residual).all()):
            break
    return Krylov(x, residual, spent)


def _arnoldi_cycle(product: Callable[[Tensor], Tensor], r: Tensor, steps: int, goal: Tensor) -> tuple[Tensor, int]:
    """One cycle from the residual r: the update of x and the products used."""
    batch = len(r)
    beta = torch.linalg.vector_norm(r, dim=1)
    tiny = torch.finfo(r.dtype).tiny
    basis = [r / beta.clamp_min(tiny)[:, None]]
    hessenberg = widened(r.new_zeros(batch, steps + 1, steps))
    target = widened(r.new_zeros(batch, steps + 1))
    target[:, 0] = beta
    k, y = 0, target[:, :0]
    for k in range(1, steps + 1):
        w = product(basis[-1])
        stacked = torch.stack(basis, dim=1)  # (B, k, n)
        for _ in range(2):  # twice is enough to stay orthogonal to rounding
            along = (stacked @ w.unsqueeze(-1)).squeeze(-1)
            w = w - (along.unsqueeze(1) @ stacked).squeeze(1)
            hessenberg[:, :k, k - 1] += along
        height = torch.linalg.vector_norm(w, dim=1)
        hessenberg[:, k, k - 1] = height
        y = torch.linalg.lstsq(hessenberg[:, : k + 1, :k], target[:, : k + 1, None]).solution.squeeze(-1)
        left = torch.linalg.vector_norm(target[:, : k + 1] - (hessenberg[:, : k + 1, :k] @ y.unsqueeze(-1)).squeeze(-1), dim=1)
        if bool((left <= goal).all()) or k == steps or float(height.max()) <= 100 * math.sqrt(tiny):
            break
        basis.append(w / height.clamp_min(tiny)[:, None])
    return (y.to(r.dtype).unsqueeze(1) @ torch.stack(basis[:k], dim=1)).squeeze(1), k
