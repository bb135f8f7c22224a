"""Pictures and masks from files; every rule about them is checked here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from residyn.arrays import read_npy
from residyn.errors import InputError, require
from residyn.nets.segmentation.scores import IGNORED

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy")
MAX_PIXELS = 178_956_970
"""Larger files are refused before they are decoded: a small file can ask for a lot of memory."""


@dataclass(frozen=True)
class Labelled:
    """Pictures with their masks.

    Args:
        names: Names of the pictures' files.
        pictures: `(C, H, W)` float32 each, in [0, 1].
        masks: `(H, W)` int64 each, classes numbered from 0; -1 counts nowhere.
        values: The values that the classes have in the mask files, by class number.
    """

    names: list[str]
    pictures: list[Tensor]
    masks: list[Tensor]
    values: list[int]


def read_picture(path: str | os.PathLike[str], channels: int | None = None) -> Tensor:
    """Read a picture: PNG, JPEG, TIFF, BMP or NumPy; 8 or 16 bits or floats; grey or colour, transparency left out.

    Args:
        path: The file.
        channels: 1 makes colours grey, 3 repeats grey; as the file has them if not given.

    Returns:
        `(C, H, W)` float32; whole numbers are divided by the largest of their type, floats left as they are.

    Raises:
        InputError: If the file is no picture or breaks a rule.
        MissingExtraError: If pillow is not installed.
    """
    values = _array(Path(path), colours=True)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 2, 3, 4):
        raise InputError(f"`path` must be a grey or colour picture, got {str(path)!r} of shape {values.shape}")
    values = values[..., : values.shape[2] - 1 + values.shape[2] % 2]  # 2 and 4 channels end with transparency
    if np.issubdtype(values.dtype, np.integer):
        values = values.astype(np.float32) / np.iinfo(values.dtype).max
    picture = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).movedim(-1, 0)
    if not bool(torch.isfinite(picture).all()):
        raise InputError(f"`path` must hold finite pixels, got nan or inf in {str(path)!r}; mend them first")
    if channels == 1 and len(picture) == 3:
        return (picture * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)
    if channels == 3 and len(picture) == 1:
        return picture.expand(3, -1, -1).contiguous()
    return picture.contiguous()


def read_mask(path: str | os.PathLike[str]) -> Tensor:
    """Read a mask: a file with one whole number a pixel.

    Args:
        path: The file.

    Returns:
        `(H, W)` int64, the values of the file.

    Raises:
        InputError: If the file has colours that differ, or no whole numbers.
    """
    values = _array(Path(path), colours=False)
    if values.ndim == 3:
        colours = values[..., : values.shape[2] - 1 + values.shape[2] % 2]
        if (colours != colours[..., :1]).any():
            raise InputError(
                f"`masks` must have one class number a pixel, got colours in {str(path)!r}; save it as grey or palette"
            )
        values = colours[..., 0]
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if values.ndim != 2 or (np.issubdtype(values.dtype, np.floating) and (values != np.round(values)).any()):
        raise InputError(f"`masks` must hold whole numbers (H, W), got {values.dtype} {values.shape} in {str(path)!r}")
    return torch.from_numpy(values.astype(np.int64))


def read_labelled(images: str, masks: str, *, ignore: int | None = None) -> Labelled:
    """Read a folder of pictures and a folder of masks with the same names (endings may differ); or two files.

    Args:
        images: Folder or file of pictures.
        masks: Folder or file of masks.
        ignore: A value in the masks that counts nowhere, such as 255.

    Returns:
        Pictures and masks, classes numbered from 0 in the order of their values; gaps in the values are closed.

    Raises:
        InputError: If a picture has no mask or one of another size, there are fewer than 2 classes, or a file is no picture.
    """
    pairs = _pairs(images, masks)
    pictures = [read_picture(picture) for picture, _ in pairs]
    channels = max(len(picture) for picture in pictures)
    if any(len(picture) != channels for picture in pictures):
        pictures = [read_picture(picture, channels) for picture, _ in pairs]
    raw = [read_mask(mask) for _, mask in pairs]
    for (file, mask), picture, labels in zip(pairs, pictures, raw, strict=True):
        if picture.shape[1:] != labels.shape:
            raise InputError(
                f"`masks` must have the size of their pictures, {tuple(picture.shape[1:])} for {file.name!r}, "
                f"got {tuple(labels.shape)} in {mask.name!r}"
            )
    values = sorted({int(v) for labels in raw for v in torch.unique(labels)} - {ignore})
    if len(values) < 2:
        raise InputError(f"`masks` must hold at least 2 classes, got the values {values}; background is a class too")
    if len(values) > 256:
        raise InputError(f"`masks` must hold at most 256 classes, got {len(values)} values; are they pictures?")
    return Labelled([file.name for file, _ in pairs], pictures, [numbered(labels, values) for labels in raw], values)


def numbered(labels: Tensor, values: list[int]) -> Tensor:
    """Values of a mask as class numbers; -1 for those that are no class."""
    known = torch.tensor(values)
    place = torch.searchsorted(known, labels).clamp(max=len(values) - 1)
    return torch.where(known[place] == labels, place, IGNORED)


def true_mask(masks: str, picture: str) -> Path:
    """The mask of a picture: in a folder the one with its name, or the one file."""
    where = Path(masks)
    if where.is_file():
        return where
    found = next((m for m in picture_files(masks) if m.stem == Path(picture).stem), None)
    if found is None:
        raise InputError(
            f"`masks` must have a mask for each picture, by name, got none for {Path(picture).name!r} in {masks!r}"
        )
    return found


def picture_files(path: str) -> list[Path]:
    """The pictures of a folder by name, or the one file."""
    where = Path(path)
    if where.is_file():
        return [where]
    if not where.is_dir():
        raise InputError(f"`path` must be a picture or a folder of pictures, got {path!r}; there is no such file")
    found = sorted(p for p in where.iterdir() if p.suffix.lower() in ENDINGS and not p.name.startswith("."))
    if not found:
        raise InputError(f"`path` must hold pictures ({' '.join(ENDINGS)}), got {path!r} with none")
    return found


def _pairs(images: str, masks: str) -> list[tuple[Path, Path]]:
    pictures, drawn = picture_files(images), picture_files(masks)
    if len(pictures) == len(drawn) == 1:
        return [(pictures[0], drawn[0])]
    by_name = {mask.stem: mask for mask in drawn}
    missing = [picture.name for picture in pictures if picture.stem not in by_name]
    if missing:
        raise InputError(
            f"`masks` must have a mask for each picture, by name, got none for {missing[0]!r}"
            + (f" and {len(missing) - 1} others" if len(missing) > 1 else "")
            + f"; name it {Path(missing[0]).stem}.png"
        )
    return [(picture, by_name[picture.stem]) for picture in pictures]


def _array(path: Path, *, colours: bool) -> np.ndarray:
    """What a file holds, as it is stored; of a palette its colours, or its numbers."""
    try:
        if path.suffix.lower() == ".npy":
            return read_npy(path)
        image = require("PIL.Image", "imaging")
        with image.open(path) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise InputError(f"`path` must have at most {MAX_PIXELS:,} pixels, got {opened.size}: {str(path)!r}; cut it up")
            if opened.mode == "1":
                return np.array(opened, dtype=np.uint8)
            convert = opened.mode == "CMYK" or (colours and opened.mode in ("P", "PA"))
            return _unsigned(np.array(opened.convert("RGB") if convert else opened))
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"`path` must be a file that exists, got {str(path)!r}") from None
    except Exception as error:  # pillow raises many kinds on broken files
        raise InputError(f"`path` must be a picture that can be read, got {str(path)!r} ({error})") from error


def _unsigned(values: np.ndarray) -> np.ndarray:
    """Pillow hands out 16 bits as signed 32: as what they are."""
    if values.dtype == np.int32 and values.size and int(values.min()) >= 0 and int(values.max()) < 65536:
        return values.astype(np.uint16)
    return values
