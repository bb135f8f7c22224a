"""The boundary of the package: pictures as users hold them, and the float64 planes that the mathematics wants."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from residyn.errors import InputError

I = TypeVar("I", Tensor, np.ndarray)  # noqa: E741

SMALLEST = 16
"""The least number of pixels on a side from which noise and spectrum can be told."""


def as_planes(image: Any) -> Tensor:
    """Check a picture and split it into its channels.

    Args:
        image: `(H, W)` or `(H, W, C)` with C up to 4, torch or NumPy, real numbers or integers.

    Returns:
        `(C, H, W)` float64.

    Raises:
        InputError: If it has another form, is too small, or holds nan or infinity.
    """
    pixels = torch.as_tensor(image).detach()
    if pixels.is_complex() or pixels.dtype == torch.bool:
        raise InputError(f"`image` must hold real intensities, got {pixels.dtype}; convert it with .astype(float)")
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] > 4):
        raise InputError(
            f"`image` must be (H, W) or (H, W, C) with C <= 4, got {tuple(pixels.shape)}; put the channels last, one "
            "picture a call"
        )
    if min(pixels.shape[:2]) < SMALLEST:
        raise InputError(f"`image` must have {SMALLEST} pixels or more on each side, got {tuple(pixels.shape[:2])}")
    planes = pixels.double()
    if not bool(torch.isfinite(planes).all()):
        bad = int((~torch.isfinite(planes)).sum())
        raise InputError(f"`image` must be finite, got {bad} pixels that are nan or infinite; fill them in first")
    return planes[None] if planes.ndim == 2 else planes.movedim(2, 0)


def like(planes: Tensor, image: I) -> I:
    """Give planes the type, shape and dtype of the picture they came from; integers are rounded and kept in range."""
    given: Any = image
    pixels = planes.movedim(0, 2) if given.ndim == 3 else planes[0]
    dtype = torch.as_tensor(given).dtype
    if not dtype.is_floating_point:
        span = torch.iinfo(dtype)
        pixels = pixels.round().clamp(span.min, span.max)
    pixels = pixels.to(dtype).contiguous()
    result: Any = pixels.numpy() if isinstance(given, np.ndarray) else pixels
    return result
