"""The norm of a convolution as the linear map it is, borders and strides included: bounded from above by proof."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from residyn.analysis.definite import BandedGram, work
from residyn.analysis.lanczos import golub_kahan
from residyn.analysis.ring import embedded_norm, is_ring, ring_norm
from residyn.analysis.stencil import Stencil, taps_as_matrices
from residyn.results import Estimate

_WORK = 3e11
"""Floating-point operations that a proof may take: some 15 seconds of one core."""

_SMALL = 400
"""Up to this order of AᵀA singular values themselves are computed."""

_SLACKS = (1e-4, 3e-4, 8e-4, 2e-3, 1e-2, 5e-2)


class _Plan(NamedTuple):
    """Along which axis the matrix is banded; `None` for one dense block."""

    axis: int | None
    work: float


def convolution_norm(found: Stencil, *, rtol: float = 1e-3) -> Estimate:
    """‖A‖₂ from above. A circular one is exact; others are proved by Cholesky at a Lanczos value, or bounded on a ring.

    Args:
        found: The convolution.
        rtol: Slack to reach; `converged` says whether it was.

    Returns:
        An `Estimate` of kind `"certified"`.
    """
    if not bool(found.weight.any()):
        return Estimate(0.0, "certified")
    if all(k == 1 for k in found.taps) and not any(map(any, found.pads)):
        return Estimate(matrix_norm(found.weight.flatten(2)), "certified")
    if is_ring(found):
        return Estimate(ring_norm(found), "certified")
    rows, columns = found.weight.shape[1] * math.prod(found.output), found.weight.shape[2] * math.prod(found.shape)
    if min(rows, columns) <= _SMALL and rows * columns <= 4 * _SMALL**2:
        return Estimate(dense_norm(found), "certified")
    plan = _cheapest(found)
    if plan.work <= _WORK:
        proved = _proved(found, plan, rtol)
        if proved is not None:
            return proved
    ceiling = embedded_norm(found)
    lower, products = _lower(found, 1e-3)
    return Estimate(ceiling, "certified", products, ceiling <= lower * (1 + rtol))


def matrix_norm(matrices: Tensor) -> float:
    """The largest ‖·‖₂ of a batch of matrices, raised by the rounding of a computed singular value."""
    matrices = matrices.detach().double()
    if matrices.numel() == 0:
        return 0.0
    top = float(torch.linalg.svdvals(matrices)[..., 0].max())
    return top * (1 + 16 * max(matrices.shape[-2:]) * torch.finfo(torch.float64).eps)


def dense_norm(found: Stencil) -> float:
    """‖A‖₂ from A written out, raised by the rounding of singular values and of entries to which several taps add up."""
    axes = range(len(found.shape))
    size = replace(found, weight=found.weight.abs())
    total = taps_as_matrices(size, axes).norm() if found.mode != "zeros" else 0.0
    return matrix_norm(taps_as_matrices(found, axes)) + math.prod(found.taps) * torch.finfo(torch.float64).eps * float(total)


def _cheapest(found: Stencil) -> _Plan:
    """The axis along which factoring costs least, a block costing some thousand operations of its own besides."""
    outer = math.prod(found.taps)
    rows = found.weight.shape[1] * math.prod(found.output)
    columns = found.weight.shape[2] * math.prod(found.shape)
    plans = [_Plan(None, work(1, min(rows, columns), 0, found.groups, 1, max(rows, columns)))]
    for axis in range(len(found.shape)):
        seen = found.selection(axis)
        n, m, k = found.shape[axis], found.output[axis], found.taps[axis]
        r, c = rows // m, columns // n
        wide = n * c > m * r
        reach = torch.einsum("toi,tpi->op" if wide else "toi,toj->ij", seen.sum(0, keepdim=True), seen.sum(0, keepdim=True))
        pairs = reach.nonzero()
        band = int((pairs[:, 0] - pairs[:, 1]).abs().max()) if len(pairs) else 0
        size, count, other = (r, m, c) if wide else (c, n, r)
        plans.append(_Plan(axis, work(count, size, band, found.groups, k, other) + 4e5 * count * (1 + band) ** 2 + 1e5 * outer))
    return min(plans, key=lambda plan: plan.work)


def _proved(found: Stencil, plan: _Plan, rtol: float) -> Estimate | None:
    axes = [axis for axis in range(len(found.shape)) if axis != plan.axis]
    blocks = taps_as_matrices(found, axes)
    if plan.axis is None:
        gram = BandedGram(torch.ones(1, 1, 1, dtype=torch.float64), blocks.unsqueeze(0))
    else:
        gram = BandedGram(found.selection(plan.axis), blocks)
    lower, products = _lower(found, 1e-4)
    for attempt, slack in enumerate(_SLACKS):
        if gram.proves(lower * (1 + slack)):
            return Estimate(lower * (1 + slack) * (1 + 1e-15), "certified", products, slack <= rtol)
        if attempt == 1:
            better, more = _lower(found, 1e-7)
            lower, products = max(lower, better), products + more
    return None


def _lower(found: Stencil, rtol: float) -> tuple[float, int]:
    """A lower bound on ‖A‖₂ by Lanczos, and the products it took."""
    shape = (1, found.groups * found.weight.shape[2], *found.shape)
    out = (1, found.groups * found.weight.shape[1], *found.output)
    spent = 0

    def apply(v: Tensor) -> Tensor:
        nonlocal spent
        spent += 1
        return found.apply(v.reshape(shape)).reshape(1, -1)

    def adjoint(u: Tensor) -> Tensor:
        nonlocal spent
        spent += 1
        with torch.enable_grad():
            z = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
            (back,) = torch.autograd.grad(found.apply(z), z, u.reshape(out))
        return back.reshape(1, -1)

    size = math.prod(shape)
    start = torch.randn(1, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start = start / start.norm()
    result = golub_kahan(apply, adjoint, start, rtol=rtol, limit=2000, keep=max(20, min(200, 2**26 // size)))
    return float(result.value), spent
