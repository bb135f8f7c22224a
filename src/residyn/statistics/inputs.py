"""The boundary of the package: what users hand in, checked once and turned into tensors.

A table of scores is `(N, C)`; a vector `(N,)` is binary, one score a sample for class 1; with a table of labels `(N, C)`
of zeros and ones the same scores are multi-label: C events a sample, each with a probability of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from residyn.errors import InputError

Scores = Tensor | np.ndarray
"""Logits or probabilities, `(N, C)` or `(N,)`."""

Labels = Tensor | np.ndarray
"""Class numbers, `(N,)`; or zeros and ones, `(N, C)`, if a sample may bear several labels."""

Kind = Literal["auto", "logits", "probabilities"]

_SUM_TOLERANCE = 1e-3
"""How far a row of probabilities may be from summing to one; half precision rounds each entry by 5e-4 at most."""
_FEW = 1024


@dataclass(frozen=True)
class Events:
    """Statements with a probability: `p` said, `y` (0 or 1) happened; both `(M,)`."""

    p: Tensor
    y: Tensor


def scores(values: Any, name: str) -> Tensor:
    """Check a table of scores.

    Args:
        values: The table, `(N, C)`, or `(N,)` of binary scores, which become the columns (0, z); torch or NumPy.
        name: Its name, for the error text.

    Returns:
        The same in float64, detached.

    Raises:
        InputError: If it is not a finite floating table with a sample and two classes at least.
    """
    table = _finite(_floating(values, name), name)
    if table.ndim == 1:
        table = torch.stack([torch.zeros_like(table), table], 1)
    return _two_classes(table, name).double()


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
    numbers = _tensor(values, "labels")
    if numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool:
        raise InputError(f"`labels` must be integer class numbers, got {numbers.dtype}; convert them with .long()")
    if numbers.shape != (len(table),):
        raise InputError(f"`labels` must be ({len(table)},), one a row of scores, got {tuple(numbers.shape)}")
    low, high, classes = int(numbers.min()), int(numbers.max()), table.shape[1]
    if low < 0 or high >= classes:
        raise InputError(f"`labels` must lie in [0, {classes - 1}], got {low if low < 0 else high}; count classes from 0")
    return numbers.to(table.device, torch.int64)


def is_probabilities(table: Tensor) -> bool:
    """Whether every row is non-negative and sums to one within 1e-3; a few rows at a time, which stay in the cache."""
    return all(
        float(rows.min()) >= 0 and float((rows.sum(1) - 1).abs().max()) <= _SUM_TOLERANCE for rows in torch.split(table, _FEW)
    )


def table(values: Any, name: str, kind: Kind = "auto") -> tuple[Tensor, bool]:
    """A table of scores and what it holds.

    Args:
        values: The table, `(N, C)`, or `(N,)` of scores of class 1, which becomes two columns in float64.
        name: Its name, for the error text.
        kind: What it holds; `"auto"`: rows that are non-negative and sum to one are probabilities.

    Returns:
        The table, in its own precision, at least single; and whether it holds probabilities.

    Raises:
        InputError: As `scores`; or if the rows are neither logits nor probabilities.
    """
    _known(kind)
    given = _floating(values, name)
    if given.ndim == 1:
        given = _finite(given, name).double()
        said = _events_said(given, name, kind)
        return torch.stack([1 - given if said else torch.zeros_like(given), given], 1), said
    given = _two_classes(given, name)
    given = given if given.dtype == torch.float64 else given.float()
    return given, _rows_said(given, name, kind)


def probabilities(values: Any, name: str, kind: Kind = "auto") -> Tensor:
    """Probabilities of a table that holds logits or probabilities.

    Args:
        values: As in `table`.
        name: As in `table`.
        kind: As in `table`.

    Returns:
        Probabilities, `(N, C)`, float64.

    Raises:
        InputError: As `table`.
    """
    given, said = table(values, name, kind)
    return given.double() if said else torch.softmax(given.double(), 1)


def log_scores(values: Any, name: str, kind: Kind = "auto") -> Tensor:
    """Logits of a table that holds logits or probabilities; those of a probability are its logarithm.

    Args:
        values: The table, `(N, C)` or `(N,)`.
        name: Its name, for the error text.
        kind: What it holds, as in `probabilities`.

    Returns:
        Logits, float64, `(N, C)`; a probability of 0 becomes the logarithm of the least normal number, -708.

    Raises:
        InputError: As `probabilities`.
    """
    given, said = table(values, name, kind)
    return given.double().clamp(min=torch.finfo(torch.float64).tiny).log() if said else given.double()


def events(values: Any, labels_: Any, name: str, kind: Kind = "auto") -> Events | None:
    """The events of a multi-label problem, or `None` if the labels are class numbers.

    Args:
        values: Scores, `(N, C)`.
        labels_: Labels.
        name: Name of the scores, for the error text.
        kind: What the scores hold; `"auto"` takes a table in [0, 1] for probabilities.

    Returns:
        N·C events, or `None`.

    Raises:
        InputError: If scores and labels do not fit, or the labels are not zeros and ones.
    """
    marks = _tensor(labels_, "labels")
    if marks.ndim != 2:
        return None
    table = _finite(_floating(values, name), name)
    if table.shape != marks.shape:
        raise InputError(f"`labels` must be {tuple(table.shape)} as the scores are, got {tuple(marks.shape)}; one mark a class")
    if not bool(((marks == 0) | (marks == 1)).all()):
        raise InputError("`labels` of shape (N, C) must be zeros and ones, got other values; class numbers go in (N,)")
    _known(kind)
    table = table.double()
    p = table if _events_said(table, name, kind) else torch.sigmoid(table)
    return Events(p.reshape(-1), marks.reshape(-1).to(p))


def whole(value: Any, name: str, usual: int) -> int:
    """A whole number >= 1, checked."""
    if type(value) is not int or value < 1:
        raise InputError(f"`{name}` must be a whole number >= 1, got {value!r}; {usual} is usual")
    return value


def _tensor(values: Any, name: str) -> Tensor:
    try:
        return torch.as_tensor(values).detach()
    except (TypeError, ValueError, RuntimeError):
        got = f"an array of {values.dtype}" if isinstance(values, np.ndarray) else type(values).__name__
        raise InputError(f"`{name}` must be a tensor or an array of numbers, got {got}; convert it") from None


def _floating(values: Any, name: str) -> Tensor:
    table = _tensor(values, name)
    if not table.is_floating_point():
        raise InputError(f"`{name}` must be floating point, got {table.dtype}; convert it with .float()")
    if table.ndim not in (1, 2) or table.shape[0] < 1:
        raise InputError(
            f"`{name}` must be (N, C) with N >= 1 samples and C >= 2 classes, or (N,) of class 1's, got {tuple(table.shape)}"
        )
    return table


def _finite(table: Tensor, name: str) -> Tensor:
    if not bool(torch.isfinite(table.sum())) and not bool(torch.isfinite(table).all()):
        bad = ~torch.isfinite(table.reshape(len(table), -1))
        row = int(bad.any(1).nonzero()[0])
        got = table.reshape(len(table), -1)[row].tolist()[:4]
        raise InputError(f"`{name}` must be finite, got {got} in row {row}; drop or mend that row")
    return table


def _two_classes(table: Tensor, name: str) -> Tensor:
    if table.shape[1] < 2:
        raise InputError(
            f"`{name}` must be (N, C) with N >= 1 samples and C >= 2 classes, got {tuple(table.shape)}; "
            "for a binary problem pass the one column as (N,)"
        )
    return table


def _rows_said(table: Tensor, name: str, kind: Kind) -> bool:
    """Whether the rows of a table are probabilities; which then are finite, as is seen for all others."""
    if kind != "logits" and is_probabilities(table):
        return True
    _finite(table, name)
    if kind == "logits":
        return False
    if kind == "auto" and (not _inside(table) or not bool(table.any())):  # all zero: logits that know nothing
        return False
    total = table.sum(1)
    row = int(((total - 1).abs() + (table < 0).any(1)).argmax())
    if kind == "auto":
        raise InputError(
            f"`{name}` must be logits, or rows of non-negative probabilities that sum to 1; row {row} lies in [0, 1] and sums "
            f'to {float(total[row]):.4g}; pass kind="logits" if they are logits'
        )
    raise InputError(
        f"`{name}` must be rows of non-negative probabilities that sum to 1; row {row} sums to {float(total[row]):.4g}; "
        "divide each row by its sum"
    )


def _events_said(table: Tensor, name: str, kind: Kind) -> bool:
    """Whether scores of single events are probabilities: all in [0, 1]."""
    inside = _inside(table)
    if kind == "probabilities" and not inside:
        low, high = float(table.min()), float(table.max())
        raise InputError(f"`{name}` must lie in [0, 1] as probabilities do, got {low:.4g} to {high:.4g}; pass logits as such")
    return inside and kind != "logits"


def _inside(table: Tensor) -> bool:
    """Whether all entries lie in [0, 1]."""
    # Logits say so in their first rows: the rest need not be read.
    return not bool((table[:_FEW] < 0).any()) and float(table.min()) >= 0 and float(table.max()) <= 1


def _known(kind: str) -> None:
    if kind not in ("auto", "logits", "probabilities"):
        raise InputError(f'`kind` must be "auto", "logits" or "probabilities", got {kind!r}')
