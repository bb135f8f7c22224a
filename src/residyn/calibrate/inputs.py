"""The boundary of the package: what users hand in, checked once and turned into float64 tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from residyn.errors import InputError

Scores = Tensor | np.ndarray
"""Logits or probabilities, `(N, C)`."""

Labels = Tensor | np.ndarray
"""Class numbers, `(N,)`."""

_SUM_TOLERANCE = 1e-3
"""How far a row of probabilities may be from summing to one; half precision rounds each entry by 5e-4 at most."""


def scores(values: Any, name: str) -> Tensor:
    """Check a table of scores.

    Args:
        values: The table, `(N, C)`, torch or NumPy, of any floating dtype.
        name: Its name, for the error text.

    Returns:
        The same in float64, detached.

    Raises:
        InputError: If it is not a finite floating table with a sample and two classes at least.
    """
    table = torch.as_tensor(values).detach()
    if not table.is_floating_point():
        raise InputError(f"`{name}` must be floating point, got {table.dtype}; convert it with .float()")
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] < 2:
        raise InputError(
            f"`{name}` must be (N, C) with N >= 1 samples and C >= 2 classes, got {tuple(table.shape)}; "
            "for a binary logit z pass the two columns (0, z)"
        )
    if not bool(torch.isfinite(table).all()):
        row = int((~torch.isfinite(table)).any(1).nonzero()[0])
        raise InputError(f"`{name}` must be finite, got {table[row].tolist()[:4]} in row {row}; drop or mend that row")
    return table.double()


def labels(values: Any, table: Tensor) -> Tensor:
    """Check class numbers against a table of scores.

    Args:
        values: Class numbers, `(N,)`, integers.
        table: The checked scores, `(N, C)`.

    Returns:
        The same in int64, on the table's device.

    Raises:
        InputError: If they are not N integers in [0, C).
    """
    numbers = torch.as_tensor(values).detach()
    if numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool:
        raise InputError(f"`labels` must be integer class numbers, got {numbers.dtype}; convert them with .long()")
    if numbers.shape != (len(table),):
        raise InputError(f"`labels` must be ({len(table)},), one a row of scores, got {tuple(numbers.shape)}")
    low, high, classes = int(numbers.min()), int(numbers.max()), table.shape[1]
    if low < 0 or high >= classes:
        raise InputError(f"`labels` must lie in [0, {classes - 1}], got {low if low < 0 else high}; count classes from 0")
    return numbers.to(table.device, torch.int64)


def is_probabilities(table: Tensor) -> bool:
    """Whether every row is non-negative and sums to one within 1e-3."""
    return bool((table >= 0).all()) and bool(((table.sum(1) - 1).abs() <= _SUM_TOLERANCE).all())


def probabilities(values: Any, name: str) -> Tensor:
    """Probabilities of a table that holds logits or probabilities; rows that sum to one are taken as they are.

    Args:
        values: The table, `(N, C)`.
        name: Its name, for the error text.

    Returns:
        Probabilities in float64, `(N, C)`.

    Raises:
        InputError: As `scores`.
    """
    table = scores(values, name)
    return table if is_probabilities(table) else torch.softmax(table, dim=1)
