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

_LEAST = 4


def as_planes(image: Any) -> Tensor:
    """Check a picture and split it into its channels.

    Args:
        image: `(H, W)` or `(H, W, C)` with C up to 4, torch or NumPy, real numbers or integers.

    Returns:
        `(C, H, W)` float64.

    Raises:
        InputError: If it has another form, is too small, or holds nan or infinity.
    """
    pixels = _tensor(image)
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
    if isinstance(given, np.ndarray):
        return _array(pixels, given)
    dtype = given.dtype
    if not dtype.is_floating_point:
        span = torch.iinfo(dtype)
        pixels = pixels.round().clamp(span.min, span.max)
    result: Any = pixels.to(dtype).contiguous()
    return result


def _tensor(image: Any) -> Tensor:
    """Pixels as a tensor: NumPy's types that torch does not calculate with become floats, and its views plain arrays."""
    if not isinstance(image, np.ndarray):
        return torch.as_tensor(image).detach()
    if image.dtype in (np.uint16, np.uint32, np.uint64, np.float16, np.longdouble):
        return torch.from_numpy(image.astype(np.float32 if image.dtype.itemsize == 2 else np.float64))
    plain = np.ascontiguousarray(image.astype(image.dtype.newbyteorder("="), copy=False))
    return torch.as_tensor(plain if plain.flags.writeable else plain.copy())


def as_field(image: Any, axes: int) -> Tensor:
    """Check a picture or volume and put its channels in front, in its own precision.

    Args:
        image: `(*shape)` or `(*shape, C)` with C up to 4 and `axes` sizes in shape; torch or NumPy, real or integer.
        axes: 2 for pictures, 3 for volumes.

    Returns:
        `(C, *shape)`, float32, or float64 where the picture is.

    Raises:
        InputError: If it has another form, is too small, or holds nan or infinity.
    """
    pixels = _tensor(image)
    if pixels.is_complex() or pixels.dtype == torch.bool:
        raise InputError(f"`image` must hold real intensities, got {pixels.dtype}; convert it with .astype(float)")
    shape = pixels.shape[:axes]
    if pixels.ndim not in (axes, axes + 1) or (pixels.ndim == axes + 1 and not 1 <= pixels.shape[-1] <= 4):
        raise InputError(
            f"`image` must have {axes} axes, as the PSF has, and channels (at most 4) last, got {tuple(pixels.shape)}; one "
            "picture a call"
        )
    if min(shape) < _LEAST:
        raise InputError(f"`image` must have {_LEAST} pixels or more on each side, got {tuple(shape)}")
    field = pixels if pixels.dtype == torch.float64 else pixels.to(torch.float32)
    if not bool(torch.isfinite(field).all()):
        bad = int((~torch.isfinite(field)).sum())
        raise InputError(f"`image` must be finite, got {bad} pixels that are nan or infinite; fill them in first")
    return field[None] if pixels.ndim == axes else field.movedim(-1, 0).contiguous()


def as_given(field: Tensor, image: I) -> I:
    """Give `(C, *shape)` the form, type and dtype of the picture it came from; integers are rounded and kept in range."""
    given: Any = image
    pixels = field.movedim(0, -1) if given.ndim == field.ndim else field[0]
    if isinstance(given, np.ndarray):
        return _array(pixels, given)
    if not given.dtype.is_floating_point:
        limits = torch.iinfo(given.dtype)
        pixels = pixels.round().clamp(limits.min, limits.max)
    tensor: Any = pixels.to(given.dtype).contiguous()
    return tensor


def _array(pixels: Tensor, given: np.ndarray) -> Any:
    """A NumPy array of the type that was given; integers are rounded and kept in range."""
    array = pixels.cpu().numpy()
    if given.dtype.kind in "iu":
        span = np.iinfo(given.dtype)
        array = np.clip(np.rint(array.astype(np.float64)), span.min, span.max)
    return np.ascontiguousarray(array.astype(given.dtype.newbyteorder("=")))
