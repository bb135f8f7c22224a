"""One explicit step in tensors, leaf by leaf: what the compiled loops repeat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from residyn.schemes.tableaus import Tableau

Leaves = list[Tensor]
LeafField = Callable[[Tensor, Leaves], Leaves]
"""f(t, x) leaf by leaf; t without axes, or one a sample `(B,)`."""


class Taken(NamedTuple):
    """A step: where it ended, its slopes, and the step size as the leaves multiply it."""

    x: Leaves
    slopes: list[Leaves]
    h: Tensor


def wide(t: Tensor, leaf: Tensor) -> Tensor:
    """Numbers of the samples, `(B,)`, as they broadcast to a leaf `(B, …)`; a shared number stays as it is."""
    return t.reshape(-1, *[1] * (leaf.ndim - 1)) if t.ndim and leaf.ndim > 1 else t


def combine(x: Leaves | None, h: Tensor, weights: Sequence[float], slopes: Sequence[Leaves]) -> Leaves:
    """x + h·Σ w_i·k_i; x = None stands for zero."""
    result = []
    for j in range(len(slopes[0])):
        terms = [k[j] * w for w, k in zip(weights, slopes, strict=False) if w != 0.0]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        total = total * h
        result.append(total if x is None else x[j] + total)
    return result


def take(f: LeafField, tableau: Tableau, t0: Tensor, t1: Tensor, x: Leaves, first: Leaves) -> Taken:
    """Take a step from t0 to t1, both in double precision; `first` is f(t0, x)."""
    span = t1 - t0
    h = wide(span.to(x[0].dtype), x[0])
    slopes = [first]
    for c, row in zip(tableau.c[1:], tableau.a[1:], strict=True):
        slopes.append(f(t1 if c == 1.0 else t0 + c * span, combine(x, h, row, slopes)))
    return Taken(combine(x, h, tableau.b, slopes), slopes, h)


def squares(leaves: Leaves, scales: Leaves) -> Tensor:
    """Σ over the leaves of (leaf/scale)², of the shape of one leaf."""
    total: Tensor | None = None
    for leaf, scale in zip(leaves, scales, strict=True):
        ratio = leaf / scale
        total = ratio * ratio if total is None else total + ratio * ratio
    assert total is not None
    return total


def scales(rtol: Tensor, atol: Leaves, *states: Leaves) -> Leaves:
    """atol + rtol·max |x|; where both are zero, an error of zero is none."""
    found = []
    for j, least in enumerate(atol):
        magnitude = states[0][j].abs()
        for state in states[1:]:
            magnitude = torch.maximum(magnitude, state[j].abs())
        found.append((magnitude * rtol.to(magnitude.dtype) + least).clamp_min(torch.finfo(magnitude.dtype).tiny))
    return found


def choose(which: Tensor, yes: Leaves, no: Leaves) -> Leaves:
    """Leaf by leaf, one or the other."""
    mask = wide(which, yes[0])
    return [torch.where(mask, a, b) for a, b in zip(yes, no, strict=True)]
