"""A picture as it lay in a file: its pixels, its alpha apart, and what stood beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from residyn.errors import InputError

LIMIT = 64_000_000
"""Pixels that are read without being asked: about 3 GB of memory to restore."""


@dataclass(frozen=True)
class Photo:
    """A picture of a file.

    Args:
        pixels: `(H, W)` or `(H, W, C)`, a volume `(D, H, W)` or `(D, H, W, C)`; unsigned integers or floats.
        alpha: `(H, W)` of the same type, which restoration leaves alone; `None` if there is none.
        form: `"png"`, `"jpeg"`, `"tiff"` or `"npy"`.
        icc: Colour profile.
        exif: EXIF block.
        dpi: Pixels an inch, along x and y.
        kept: What only this form of file can hold, for a file of the same form: chunks, tags, tables.
        notes: What was changed in reading, for the user.
        inks: Whether its four channels are amounts of ink (CMYK).
        turn: EXIF's number of how the file holds the picture, 1 … 8; `pixels` stand upright, as one sees it.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    form: str = "npy"
    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    kept: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    inks: bool = False
    turn: int = 1

    @property
    def span(self) -> float:
        """The greatest intensity: that of the type for integers, else the largest pixel, or 1 if that is less.

        >>> Photo(np.zeros((2, 2), np.uint8)).span
        255.0
        """
        if self.pixels.dtype.kind in "iu":
            return float(np.iinfo(self.pixels.dtype).max)
        return max(1.0, float(self.pixels.max()))


def upright(array: np.ndarray, turn: int) -> np.ndarray:
    """Pixels as one sees them, from those that a file holds turned or mirrored.

    Args:
        array: `(H, W, …)`.
        turn: EXIF's orientation, 1 … 8; 1 is upright.

    >>> upright(np.array([[1, 2, 3]]), 6).tolist()
    [[1], [2], [3]]
    """
    turned = array.swapaxes(0, 1) if turn in (5, 6, 7, 8) else array
    down = -1 if turn in (3, 4, 7, 8) else 1
    right = -1 if turn in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(turned[::down, ::right])


def as_held(array: np.ndarray, turn: int) -> np.ndarray:
    """The inverse of `upright`.

    >>> as_held(upright(np.array([[1, 2], [3, 4]]), 8), 8).tolist()
    [[1, 2], [3, 4]]
    """
    return upright(array, {6: 8, 8: 6}.get(turn, turn))


def turn_of(number: object) -> int:
    """An orientation as a file states it; 1 where it states none that exists.

    >>> [turn_of(6), turn_of(0), turn_of(None)]
    [6, 1, 1]
    """
    return number if isinstance(number, int) and 1 <= number <= 8 else 1


def check_size(path: str, shape: tuple[int, ...], limit: int) -> None:
    """Refuse what would not fit into memory, before it is unpacked.

    Raises:
        InputError: If there are more pixels than `limit`.
    """
    count = math.prod(shape)
    if count > limit:
        raise InputError(
            f"`{path}` must have at most {limit:,} pixels, got {' × '.join(map(str, shape))} = {count:,}; if it is what it "
            f"should be and memory allows, pass --max-pixels {count}"
        )
