"""NumPy's own files, and tables of numbers."""

from __future__ import annotations

import io
import math

import numpy as np

from residyn.errors import InputError
from residyn.inverse.files.photo import Photo, check_size


def read_npy(path: str, limit: int) -> Photo:
    """Read an array; its header is checked before any of its data is."""
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        head = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = head(file)
    if dtype.hasobject or dtype.kind not in "uif":
        raise InputError(f"`{path}` must hold real intensities, got an array of {dtype}; convert it with .astype(float)")
    channels = shape[-1] if len(shape) > 2 and shape[-1] <= 4 else 1
    check_size(path, (*shape[: len(shape) - (channels > 1)],), limit)
    mapped = np.load(path, mmap_mode="r", allow_pickle=False) if math.prod(shape) else np.empty(shape)
    return Photo(np.array(mapped, dtype=dtype.newbyteorder("=")), form="npy")


def npy_bytes(pixels: np.ndarray) -> bytes:
    """An array as the bytes of its file."""
    page = io.BytesIO()
    np.save(page, pixels, allow_pickle=False)
    return page.getvalue()


def read_table(path: str) -> np.ndarray:
    """Numbers in rows, apart by commas, semicolons or blanks; `#` begins a remark.

    Raises:
        InputError: If it is no such table.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(10_000_000)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"`--psf` cannot be read from {path!r}: {getattr(error, 'strerror', None) or error}") from None
    lines = [line.partition("#")[0].replace(",", " ").replace(";", " ").split() for line in text.splitlines()]
    try:
        rows = [[float(word) for word in line] for line in lines if line]
    except ValueError as error:
        raise InputError(f"`--psf` must be a table of numbers, got {path!r} with {error}") from None
    if not rows or len({len(row) for row in rows}) != 1:
        raise InputError(f"`--psf` must be a table with rows of one length, got {path!r} with {len(rows)} rows")
    return np.array(rows)
