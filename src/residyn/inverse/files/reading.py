"""Read a picture or a point spread function from a file; nothing in the file is run or unpickled."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from residyn.errors import InputError
from residyn.inverse.files.array import read_npy, read_table
from residyn.inverse.files.jpeg import read_jpeg
from residyn.inverse.files.photo import LIMIT, Photo, upright
from residyn.inverse.files.png import read_png
from residyn.inverse.files.tiff import read_tiff

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")

_MAGIC: tuple[tuple[bytes, Callable[[str, int], Photo]], ...] = (
    (b"\x89PNG\r\n\x1a\n", read_png),
    (b"\xff\xd8\xff", read_jpeg),
    (b"II*\x00", read_tiff),
    (b"MM\x00*", read_tiff),
    (b"II+\x00", read_tiff),
    (b"MM\x00+", read_tiff),
    (b"\x93NUMPY", read_npy),
)


def read(path: str | os.PathLike[str], *, max_pixels: int = LIMIT) -> Photo:
    """Read a picture; what kind of file it is, its first bytes say and not its name.

    Args:
        path: PNG, JPEG, TIFF (one page, or a stack as a volume), or a NumPy array (`.npy`).
        max_pixels: Largest number of pixels that is unpacked.

    Returns:
        The picture, alpha apart, upright (as its EXIF block or tag says), with its metadata.

    Raises:
        InputError: If there is no such file, it is none of these, is broken, or has more pixels.
    """
    name = os.fspath(path)
    photo = _loaded(name, max_pixels)
    if not 2 <= photo.pixels.ndim <= 4:
        raise InputError(
            f"`{name}` must be a picture (H, W), a volume (D, H, W), or one of them with channels, got {photo.pixels.shape}"
        )
    return photo


def _loaded(name: str, max_pixels: int) -> Photo:
    """Whatever array a file holds, as a picture."""
    try:
        with open(name, "rb") as file:
            head = file.read(8)
    except IsADirectoryError:
        raise InputError(f"`{name}` must be a file, got a folder; name the pictures in it: {name.rstrip('/')}/*.png") from None
    except OSError as error:
        raise InputError(f"`{name}` cannot be read: {error.strerror}") from None
    reader = next((reader for magic, reader in _MAGIC if head.startswith(magic)), None)
    if reader is None:
        raise InputError(
            f"`{name}` must be a PNG, JPEG, TIFF or NumPy (.npy) file, got {_seen(head)}; convert it to one of them first"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what libraries think of odd metadata
            photo = reader(name, max_pixels)
    except (InputError, ImportError, MemoryError):
        raise
    except Exception as error:  # a broken file breaks its reader in any way it likes
        what = str(error).strip().splitlines()
        raise InputError(
            f"`{name}` is broken and cannot be read: {what[0][:160] if what else type(error).__name__}; get a whole copy of it"
        ) from error
    if photo.pixels.dtype.kind not in "uif" or photo.pixels.size == 0:
        raise InputError(f"`{name}` must hold real intensities, got {photo.pixels.dtype} {photo.pixels.shape}")
    if photo.turn == 1:
        return photo
    alpha = None if photo.alpha is None else upright(photo.alpha, photo.turn)
    return replace(photo, pixels=upright(photo.pixels, photo.turn), alpha=alpha)


def read_psf(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a point spread function: a grey picture, a volume, a NumPy array, or a table of numbers as text.

    Args:
        path: PNG, TIFF, `.npy`, `.csv` or `.txt`.

    Returns:
        Two or three axes, float64, as it is: not normalised.

    Raises:
        InputError: If it is none of these, or has colours.
    """
    name = os.fspath(path)
    values = read_table(name) if Path(name).suffix.lower() in (".csv", ".txt") else _loaded(name, LIMIT).pixels
    if values.ndim == 3 and values.shape[-1] in (3, 4) and Path(name).suffix.lower() != ".npy":
        if not bool((values[..., :3] == values[..., :1]).all()):
            raise InputError(f"`--psf` must be grey, got a picture with colours in {name!r}; give one kernel for all channels")
        values = values[..., 0]
    if values.ndim not in (2, 3):
        raise InputError(f"`--psf` must have two axes, or three for a volume, got {values.shape} in {name!r}")
    return values.astype(np.float64)


def _seen(head: bytes) -> str:
    if not head:
        return "an empty file"
    known = {
        b"GIF8": "a GIF", b"%PDF": "a PDF", b"RIFF": "a RIFF file (WebP?)", b"PK\x03\x04": "a zip archive (.npz?)",
        b"BM": "a BMP", b"\x80": "a Python pickle", b"\x1f\x8b": "a gzip file",
    }  # fmt: skip
    return next((what for magic, what in known.items() if head.startswith(magic)), f"a file that begins with {head[:4]!r}")
