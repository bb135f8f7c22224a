"""The units a correction reckons in: columns of a table may be measured in milligrams and in tonnes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_APART = 10.0
"""The widest column over the usual one, from which on columns are taken for quantities of different units."""
_AWAY = 3.0
"""Means farther from zero than so many units are taken off first; nearer ones are left to the bias of the correction."""


@dataclass(frozen=True)
class Units:
    """Where zero is and how large one is, for each feature or for all together.

    Args:
        zero: `()` or the shape of a sample.
        one: The same; powers of ten, so that data near unit scale are left bit for bit.
    """

    zero: Tensor
    one: Tensor


def units(x: Tensor) -> Units:
    """The units that samples call for.

    The features of a table get a unit each if their spreads differ as those of different quantities do: the widest is more than
    ten times the median. Pictures, and tables of like columns, get one for all. A unit is the spread to the next power of ten.

    Args:
        x: Samples, `(n, …)`.

    >>> units(torch.tensor([[0.1, 1000.0, 5.0], [0.3, 3000.0, 7.0]])).one
    tensor([1.0000e-01, 1.0000e+03, 1.0000e+00])
    """
    rows = x.detach().double().flatten(1)
    spread, mean = rows.std(0, correction=0), rows.mean(0)
    wide = spread[spread > 0]
    if x.ndim == 2 and len(wide) and wide.max() > _APART * wide.median():
        one, away = _tens(torch.where(spread > 0, spread, mean.abs())), mean
    else:
        one, away = _tens(rows.std(correction=0)), rows.mean()
    zero = torch.where(away.abs() > _AWAY * one, away, 0.0)
    return Units(*(part.reshape(x.shape[1:] if part.ndim else ()).to(x) for part in (zero, one)))


def _tens(spread: Tensor) -> Tensor:
    """To the next power of ten; 1 where there is none."""
    return torch.where(spread > 0, 10.0 ** torch.where(spread > 0, spread, 1.0).log10().round(), 1.0)
