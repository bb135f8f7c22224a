"""The boundary of domain adaptation: samples and class numbers, checked once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from residyn.errors import InputError


def samples(values: Any, name: str) -> Tensor:
    """Samples of a domain.

    Args:
        values: `(n, …)`, torch or NumPy, numbers.
        name: The domain, for the error text.

    Returns:
        The same, floating point, detached.

    Raises:
        InputError: If there are fewer than two, no features, or nan among them.
    """
    if not isinstance(values, (Tensor, np.ndarray)):
        raise InputError(f"`{name}` must be samples (n, …) as a tensor or array, got {type(values).__name__}")
    if isinstance(values, np.ndarray) and values.dtype.kind not in "fiub":
        raise InputError(f"`{name}` must hold numbers, got {values.dtype}; encode text as numbers first")
    x = torch.as_tensor(values).detach()
    if x.is_complex() or x.ndim < 2 or (x[:1].numel() == 0 and len(x)):
        raise InputError(
            f"`{name}` must be samples (n, …) with features of real numbers, got {x.dtype} of shape {tuple(x.shape)}"
        )
    if len(x) < 2:
        raise InputError(f"`{name}` must hold two samples at least, got {len(x)}; a domain cannot be empty")
    return _finite(x if x.is_floating_point() else x.float(), name)


def _finite(x: Tensor, name: str) -> Tensor:
    bad = ~torch.isfinite(x).reshape(len(x), -1).all(1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise InputError(
            f"`{name}` must be finite, got nan or inf in {int(bad.sum())} samples, first in row {row}; drop or fill them"
        )
    return x


def classes(values: Any, x: Tensor, count: int, name: str, *, least: int = 2) -> Tensor:
    """Class numbers of samples.

    Args:
        values: `(n,)`, whole numbers.
        x: The samples.
        count: Classes of the model.
        name: The domain, for the error text.
        least: The fewest classes there must be.

    Raises:
        InputError: If they do not fit.
    """
    if isinstance(values, (list, tuple)):
        values = np.asarray(values)
    if not isinstance(values, (Tensor, np.ndarray)) or (isinstance(values, np.ndarray) and values.dtype.kind not in "fiub"):
        form = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        raise InputError(f"labels of `{name}` must be class numbers, got {form}; number the classes from 0")
    y = torch.as_tensor(values).detach()
    if y.shape != (len(x),):
        raise InputError(f"labels of `{name}` must be ({len(x)},), one a sample, got {tuple(y.shape)}")
    if y.is_complex() or y.dtype == torch.bool or (y.is_floating_point() and not bool((y == y.round()).all())):
        raise InputError(f"labels of `{name}` must be whole class numbers, got {y.dtype}; number the classes from 0")
    y = y.to(x.device, torch.int64)
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= count:
        raise InputError(
            f"labels of `{name}` must lie in [0, {count - 1}], the model's classes, got {low if low < 0 else high}; a class "
            "that the model does not have cannot be adapted to"
        )
    if int(torch.bincount(y).count_nonzero()) < least:
        raise InputError(f"labels of `{name}` must hold {least} classes at least, got class {low} only; add samples of others")
    return y
