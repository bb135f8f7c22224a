"""Write a picture in the form its name says; the file appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from residyn.errors import InputError
from residyn.inverse.files.array import npy_bytes
from residyn.inverse.files.jpeg import jpeg_bytes
from residyn.inverse.files.photo import Photo, as_held
from residyn.inverse.files.png import png_bytes
from residyn.inverse.files.tiff import tiff_bytes
from residyn.placing import put

_FORMS: dict[str, Callable[[np.ndarray, Photo], bytes]] = {
    ".png": png_bytes,
    ".jpg": jpeg_bytes,
    ".jpeg": jpeg_bytes,
    ".tif": tiff_bytes,
    ".tiff": tiff_bytes,
    ".npy": lambda pixels, like: npy_bytes(pixels),
}


def check_target(path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Refuse a file that could not be written, or that exists, before a long job rather than after it.

    Raises:
        InputError: If the ending is unknown, the file exists and `force` is not given, or its folder is missing or closed.

    >>> check_target("restored.gif")
    Traceback (most recent call last):
    ...
    residyn.errors.InputError: `-o` must end in one of .png .jpg .jpeg .tif .tiff .npy, got 'restored.gif'; choose one of them
    """
    target = Path(path)
    name = os.fspath(path)
    if target.suffix.lower() not in _FORMS:
        raise InputError(f"`-o` must end in one of {' '.join(_FORMS)}, got {name!r}; choose one of them")
    if target.is_dir():
        raise InputError(f"`-o` must be a file, got the folder {name!r}; add a file name")
    if target.exists() and not force:
        raise InputError(f"`-o` must not exist already, got {name!r}; pass --force to replace it, or choose another name")
    folder = Path(os.path.realpath(target)).parent
    if not folder.is_dir():
        raise InputError(f"`-o` must be in a folder that exists, got {name!r}; make it first: mkdir -p '{folder}'")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"`-o` must be in a folder you may write to, got {name!r}; choose another one")


def draft(pixels: np.ndarray, like: Photo, path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file of the form that the name's ending says, with the metadata of the picture it came from.

    Args:
        pixels: As in `Photo`.
        like: The picture it came from: alpha, colour profile, EXIF, resolution.
        path: The name.

    Raises:
        InputError: If that form cannot hold it.
    """
    ending = Path(path).suffix.lower()
    if like.turn != 1 and ending in (".png", ".jpg", ".jpeg"):  # its EXIF block goes along, and says how it is held
        alpha = None if like.alpha is None else as_held(like.alpha, like.turn)
        pixels, like = as_held(pixels, like.turn), replace(like, alpha=alpha)
    return _FORMS[ending](pixels, like)


def write(pixels: np.ndarray, like: Photo, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a picture beside its place and move it there, so that nobody ever sees half of it.

    Args:
        pixels: As in `Photo`.
        like: The picture it came from.
        path: Its ending says the form.
        force: Whether a file that exists may be replaced.

    Raises:
        InputError: If the form cannot hold it, or the file exists.
        ResidynError: If the disk refuses it.
    """
    check_target(path, force=force)
    put(path, draft(pixels, like, path))
